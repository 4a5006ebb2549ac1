"""A sync: which model is compared by which key, and which calls its changes become."""

import re
from collections.abc import Iterator, Sequence
from enum import StrEnum
from pathlib import PurePath
from typing import ClassVar, Literal, Self

from pydantic import Field, PrivateAttr, ValidationError, ValidationInfo, model_validator

from retl.document import Document, Location
from retl.fields import (
    Column,
    Columns,
    Constants,
    Fields,
    Ids,
    ModelName,
    Name,
    Nulls,
    Text,
    Timestamp,
    Value,
    Zone,
)
from retl.rules import Frozen, explain, refusal
from retl.settings import Guards, Limit, SegmentSettings

__all__ = [
    "Audience",
    "Change",
    "Fields",
    "Group",
    "Guards",
    "Identify",
    "Limit",
    "Nulls",
    "RemovedTraits",
    "SegmentSettings",
    "Sync",
    "Track",
    "TrackCall",
    "Value",
    "parse",
]

KINDS = ("track", "audience", "identify", "group")


class Change(StrEnum):
    """What happened to a row since the last run."""

    ADDED = "added"
    CHANGED = "changed"
    REMOVED = "removed"


class _Ids(Frozen):
    user_id: Column | None = Field(
        default=None, description="Column of the user id; this or `anonymous_id` is needed."
    )
    anonymous_id: Column | None = Field(
        default=None, description="Column of the anonymous id; this or `user_id` is needed."
    )

    @model_validator(mode="after")
    def _some_id(self) -> Self:
        if self.user_id is None and self.anonymous_id is None:
            raise refusal("needs a `user_id` or an `anonymous_id`, so that Segment knows whom it is about")
        return self


class _Envelope(_Ids):
    timestamp: Timestamp | None = Field(
        default=None, description="Column of the call's moment; else the moment the change was found."
    )
    message_id: Column | None = Field(
        default=None, description="Column of the call's message id; not written: retl makes one."
    )
    context: Fields = Field(
        default={}, description="Call's context: name to column or constant, like properties."
    )
    integrations: Constants = Field(default={}, description="Call's integrations object, sent as written.")


class TrackCall(Frozen):
    """The call for one kind of change; a bare text is the event's name."""

    event: Text = Field(description="Name of the event.")
    timestamp: Timestamp | None = Field(
        default=None, description="Column of the call's moment; else the moment the change was found."
    )
    message_id: Column | None = Field(
        default=None, description="Column of the call's message id; not written: retl makes one."
    )
    properties: Fields | None = Field(
        default=None,
        description="Properties of this call, over those of the block where the name is the same.",
    )
    previous: bool = Field(
        default=False, description="Only for `changed`: also send the values before the change."
    )

    @model_validator(mode="before")
    @classmethod
    def _event_in_short(cls, written: object) -> object:
        if isinstance(written, str):
            return {"event": written}
        if isinstance(written, dict | TrackCall):
            return written
        raise refusal("must be an event's name, or a mapping")


class Track(_Envelope):
    """A track call for each change of a row."""

    added: TrackCall | None = Field(
        default=None, description="Call for a new row; a bare text is the event's name."
    )
    changed: TrackCall | None = Field(
        default=None, description="Call for a row with other values; as `added`."
    )
    removed: TrackCall | None = Field(default=None, description="Call for a row that is gone; as `added`.")
    properties: Fields = Field(
        default={}, description="Properties of every call: name to column or constant."
    )
    timestamp: Timestamp | None = Field(
        default=None, description="The `timestamp` of `added`, if that has none."
    )
    message_id: Column | None = Field(
        default=None, description="The `message_id` of `added`, if that has none."
    )

    @model_validator(mode="after")
    def _sends_something(self) -> Self:
        if not (self.added or self.changed or self.removed):
            raise refusal("needs at least one of `added`, `changed` and `removed`")
        for kind, call in (("added", self.added), ("removed", self.removed)):
            if call and call.previous:
                raise refusal("`previous` is for `changed` only", kind, "previous")
        for name, value in (("timestamp", self.timestamp), ("message_id", self.message_id)):
            if value and not self.added:
                raise refusal(
                    f"`{name}` here is for `added`, which is not there; write it below the change", name
                )
        return self

    @model_validator(mode="after")
    def _names_fit(self) -> Self:
        for kind, call in (("added", self.added), ("changed", self.changed), ("removed", self.removed)):
            own = (call and call.properties) or {}
            _refuse_overlap(own, self.properties, kind, "properties")
            if call and call.previous:
                _refuse_reserved(own, ("previous", "changed"), kind, "properties")
                _refuse_reserved(self.properties, ("previous", "changed"), "properties")
        return self

    @model_validator(mode="after")
    def _farewell_has_its_own_id(self) -> Self:
        column = self.removed and self.removed.message_id
        others = (self, self.added, self.changed)
        if column and any(call.message_id == column for call in others if call):
            raise refusal(
                f"`{column}` is the message id of an earlier call for the row, and Segment drops the second "
                "call with an id; take another column, or none",
                "removed",
                "message_id",
            )
        return self


class Audience(_Envelope):
    """Calls for who entered an audience and who left it."""

    name: Text = Field(description="Name of the audience, sent as a property.")
    key: Text | None = Field(
        default=None,
        description="For `style: engage`, the audience's key; not written: the name in snake_case.",
    )
    style: Literal["hightouch", "engage"] = Field(
        default="hightouch",
        description="`hightouch`: Segment Entered and Segment Exited; "
        "`engage`: Audience Entered and Audience Exited, with the audience's key.",
    )
    properties: Fields = Field(
        default={}, description="Properties of both calls: name to column or constant."
    )

    @model_validator(mode="before")
    @classmethod
    def _key_from_name(cls, written: object) -> object:
        if not isinstance(written, dict) or written.get("style") != "engage" or written.get("key"):
            return written
        name = written.get("name")
        key = re.sub(r"\W+", "_", name).strip("_").lower() if isinstance(name, str) else ""
        return {**written, "key": key or None}

    @model_validator(mode="after")
    def _key_for_engage(self) -> Self:
        if self.key is None and self.style == "engage":
            raise refusal("`key` is needed, as `name` has no letter or digit to make one from", "key")
        if self.key is not None and self.style != "engage":
            raise refusal("`key` goes with `style: engage` only", "key")
        return self

    @model_validator(mode="after")
    def _names_are_free(self) -> Self:
        key = (self.key or "").split(".")[0]
        own = ("audience_key", key) if self.style == "engage" else ("segment_name",)
        _refuse_reserved(self.properties, own, "properties")
        return self


def _refuse_reserved(fields: Fields, reserved: Sequence[str], *location: str) -> None:
    for name in fields:
        if name.split(".")[0] in reserved:
            raise refusal(f"retl sends `{name.split('.')[0]}` itself; use another name", *location, name)


def _refuse_overlap(fields: Fields, others: Fields, *location: str) -> None:
    """Refuse names of which one, taken with the others, would be a value and hold another value as well."""
    for name in fields:
        for other in others:
            outer, inner = sorted((name, other), key=len)
            if inner.startswith(outer + "."):
                raise refusal(f"`{outer}` is one value and cannot hold `{inner}` as well", *location, name)


class RemovedTraits(Frozen):
    """What to say of a row that is gone."""

    traits: Fields = Field(description="Traits to send: name to column (last known value) or constant.")


class _Traits(_Envelope):
    traits: Fields = Field(default={}, description="Traits to send: name to column or constant.")
    removed: RemovedTraits | None = Field(
        default=None, description="Traits to send for a row that is gone; not written: nothing is sent."
    )


class Identify(_Traits):
    """An identify call for each row that is new or changed."""


class Group(_Traits):
    """A group call for each row that is new or changed."""

    group_id: Column = Field(description="Column of the group's id.")


class Sync(Frozen):
    """One sync file."""

    later: ClassVar[frozenset[str]] = frozenset({"receivers", "schedule", "notify", "keep"})

    name: Name = Field(description="Name of the sync's state and part of its message ids; the file's name.")
    model: ModelName | None = Field(
        default=None, description="Model in the folder `models`, without `.sql`; or write `sql`."
    )
    sql: Text | None = Field(default=None, description="One SELECT, in place of `model`.")
    primary_key: Columns = Field(description="Column or columns that tell rows apart: unique and never null.")
    track: Track | None = Field(default=None, description="Send track calls; see the block.")
    audience: Audience | None = Field(
        default=None, description="Send who entered and who left; see the block."
    )
    identify: Identify | None = Field(default=None, description="Send identify calls; see the block.")
    group: Group | None = Field(default=None, description="Send group calls; see the block.")
    initial: Literal["skip", "send"] | None = Field(
        default=None,
        description="For track and audience, the first run: only remember the rows (default), or send them.",
    )
    guards: Guards = Field(default=Guards(), description="Limits that stop a run; see the block.")
    nulls: Nulls | None = Field(
        default=None,
        description="What is sent for nulls: `clear` (null where a value was sent before), `send`, or "
        "`omit`; not written: `clear` for identify and group, `omit` for track and audience.",
    )
    timezone: Zone = Field(default="UTC", description="Zone of moments that name none.")
    compare: Columns | None = Field(
        default=None,
        description="Columns that make a row count as changed; not written: those that are sent.",
    )
    on_new_column: Literal["send", "baseline"] | None = Field(
        default=None,
        description="For a new trait or property: `send` its values, or only remember them (`baseline`); not "
        "written: `send` for identify and group, `baseline` for track and audience.",
    )
    on_rejected: Literal["fail", "warn"] = Field(
        default="fail", description="Exit code when rows or calls were rejected: 1 (`fail`) or 0 (`warn`)."
    )
    allow_ids: Ids = Field(
        default=(), description="Ids to send though they look like a mistake, such as `0`."
    )
    warehouse: Text = Field(
        default="${RETL_WAREHOUSE_URL}", repr=False, description="SQLAlchemy URL of the warehouse."
    )
    segment: SegmentSettings = Field(default=SegmentSettings(), description="Where calls go; see the block.")

    _documents: tuple[Document, ...] = PrivateAttr(default=())

    @property
    def kind(self) -> Literal["track", "audience", "identify", "group"]:
        """Which kind of call the sync sends."""
        if self.track:
            return "track"
        if self.audience:
            return "audience"
        return "identify" if self.identify else "group"

    @property
    def block(self) -> Track | Audience | Identify | Group:
        """What the file says below its kind."""
        block = self.track or self.audience or self.identify or self.group
        assert block, "a sync has one kind"
        return block

    @property
    def path(self) -> str:
        """The sync's file, as error messages show it; its name, where it was not read from a file."""
        return self._documents[0].shown if self._documents else self.name

    @property
    def sql_line(self) -> int:
        """The line of the file on which `sql` starts; 1-based."""
        return self._documents[0].text_line(("sql",)) if self._documents else 1

    def where(self, *location: str | int) -> str:
        """The place of a key for an error message, such as `syncs/users.yml:12 identify.traits.email`.

        It is in retl.yml where only that has the key.
        """
        for document in self._documents:
            if document.holds(location):
                return document.where(location)
        if self._documents:
            return self._documents[0].where(location)
        return f"{self.path} {'.'.join(map(str, location))}".rstrip()

    def where_used(self, column: str) -> str:
        """The place where a column is first named, for an error message."""
        for document in self._documents[:1]:
            for key in ("primary_key", self.kind, "compare"):
                for location in _naming(document.data.get(key), column, (key,)):
                    return document.where(location)
        return self.path

    @model_validator(mode="after")
    def _one_kind(self, info: ValidationInfo) -> Self:
        given = [kind for kind in KINDS if getattr(self, kind) is not None]
        if len(given) > 1:
            found = " and ".join(kind + _on_line(kind, info) for kind in given)
            count, rest = str(len(given)), "put the others in files of their own"
            if len(given) == 2:
                count, rest = "two", "put the other in a file of its own"
            raise refusal(f"{count} kinds in one file: {found}; keep one and {rest}", given[1])
        if not given:
            for kind in self.model_fields_set.intersection(KINDS):
                raise refusal("has no value", kind)
            raise refusal("none of `track`, `audience`, `identify` and `group` is there; write one of them")
        return self

    @model_validator(mode="after")
    def _one_query(self) -> Self:
        if self.model is not None and self.sql is not None:
            raise refusal("both `model` and `sql` are there; keep one", "sql")
        if self.model is None and self.sql is None:
            raise refusal("neither `model` (a file in models/) nor `sql` is there; write one of them")
        return self

    @model_validator(mode="after")
    def _initial_where_it_counts(self) -> Self:
        if self.initial is not None and self.kind in ("identify", "group"):
            raise refusal(
                f"`initial` is for track and audience; the first run of {self.kind} always sends", "initial"
            )
        return self


_NO_COLUMN = {"value", "event", "name", "key", "style", "integrations", "as", "unit", "nulls"}
"""Keys whose texts are no columns."""


def _naming(written: object, column: str, location: Location) -> Iterator[Location]:
    """The places at or below a key where a column is named."""
    if written == column:
        yield location
    elif isinstance(written, dict):
        for key, inner in written.items():
            if key not in _NO_COLUMN:
                yield from _naming(inner, column, (*location, key))
    elif isinstance(written, list) and column in written:
        yield location


def parse(document: Document, defaults: Document | None = None) -> Sync:
    """Make a sync of its file.

    Args:
        defaults: retl.yml, which `check_defaults` found right.

    Raises:
        ConfigError: all that is wrong with the file: the first as the message, the others as lines below it.
    """
    data: dict[str, object] = {"name": PurePath(document.shown).stem, **document.data}
    for key, default in (defaults.data if defaults else {}).items():
        own = data.get(key, default)
        if isinstance(own, dict) and isinstance(default, dict):
            own = {**default, **own}
        if default is not None:
            data[key] = own
    try:
        sync = Sync.model_validate(data, by_alias=True, by_name=False, context=document)
    except ValidationError as error:
        raise explain(error, Sync, document) from None
    sync._documents = (document, defaults) if defaults else (document,)
    return sync


def _on_line(key: str, info: ValidationInfo) -> str:
    return f" (line {info.context.line((key,))})" if isinstance(info.context, Document) else ""
