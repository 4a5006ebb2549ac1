"""A sync: which model is compared by which key, and which calls its changes become."""

import re
from collections.abc import Collection, Iterator, Sequence
from enum import StrEnum
from pathlib import PurePath
from typing import ClassVar, Literal, Self

from pydantic import Field, PrivateAttr, ValidationError, ValidationInfo, model_validator
from pydantic_core import PydanticCustomError

from retl.document import Document, Location
from retl.errors import ConfigError
from retl.fields import (
    EVERY,
    AllOrFields,
    Column,
    Columns,
    Constants,
    Event,
    Fields,
    Ids,
    ModelName,
    Name,
    Nulls,
    Text,
    Timestamp,
    Value,
    Zone,
    literal_name,
    path,
)
from retl.rules import Frozen, explain, nearest, refusal
from retl.settings import Guards, Limit, SegmentSettings

__all__ = [
    "Audience",
    "Change",
    "Event",
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
    "with_columns",
]

KINDS = ("track", "audience", "identify", "group")


class Change(StrEnum):
    """What happened to a row since the last run."""

    ADDED = "added"
    CHANGED = "changed"
    REMOVED = "removed"
    UNCHANGED = "unchanged"  # and yet sent again


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
    except_: Columns | None = Field(
        default=None,
        validation_alias="except",
        description="With `all`: columns of the model that are not sent.",
    )

    fields_key: ClassVar[str]
    """Segment's word for what a call says: `traits` or `properties`."""

    @property
    def fields(self) -> Fields:
        """The traits or properties of every call."""
        fields: Fields = getattr(self, self.fields_key)
        return fields

    @property
    def farewell(self) -> Fields:
        """Those that only the call for a row that is gone has."""
        return {}

    @property
    def values(self) -> Iterator[Value]:
        """Everything that a call says: traits or properties, and context."""
        for fields in (self.fields, self.farewell, self.context):
            yield from fields.values()

    @property
    def moments(self) -> tuple[Value, ...]:
        """The columns of calls' moments."""
        return (self.timestamp,) if self.timestamp else ()

    @property
    def reserved(self) -> frozenset[str]:
        """Keys among them that retl itself sends."""
        return frozenset()

    @property
    def sends_all(self) -> bool:
        """Whether they are all columns of the model, which are yet to be found out."""
        return EVERY in self.fields

    @property
    def placed(self) -> frozenset[str]:
        """Columns that have a place of their own in a call: ids, moment, message id, event."""
        moments = (moment.column for moment in self.moments)
        return frozenset(filter(None, (self.user_id, self.anonymous_id, self.message_id, *moments)))

    @model_validator(mode="after")
    def _except_goes_with_all(self) -> Self:
        if self.except_ is not None and not self.sends_all:
            raise refusal("`except` goes with `all` only", "except")
        return self


class TrackCall(Frozen):
    """The call for one kind of change; a bare text is the event's name."""

    event: Event = Field(description="Name of the event, or `{column: …}` for a name from the row.")
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

    fields_key = "properties"

    added: TrackCall | None = Field(
        default=None, description="Call for a new row; a bare text is the event's name."
    )
    changed: TrackCall | None = Field(
        default=None, description="Call for a row with other values; as `added`."
    )
    removed: TrackCall | None = Field(default=None, description="Call for a row that is gone; as `added`.")
    properties: AllOrFields = Field(
        default={}, description="Properties of every call: name to column or constant; or `all`."
    )
    timestamp: Timestamp | None = Field(
        default=None, description="The `timestamp` of `added`, if that has none."
    )
    message_id: Column | None = Field(
        default=None, description="The `message_id` of `added`, if that has none."
    )

    @property
    def calls(self) -> dict[Change, TrackCall]:
        """The calls that are made, by the change that they answer."""
        calls = {Change.ADDED: self.added, Change.CHANGED: self.changed, Change.REMOVED: self.removed}
        return {change: call for change, call in calls.items() if call is not None}

    @property
    def reserved(self) -> frozenset[str]:
        """`previous` and `changed`, where the values before the change are sent."""
        return frozenset({"previous", "changed"} if self.changed and self.changed.previous else ())

    @property
    def placed(self) -> frozenset[str]:
        """Those of each kind of change as well."""
        own = (column for call in self.calls.values() for column in (call.message_id, call.event.column))
        return super().placed.union(filter(None, own))

    @property
    def farewell(self) -> Fields:
        """The properties of `removed`."""
        return (self.removed and self.removed.properties) or {}

    @property
    def values(self) -> Iterator[Value]:
        """Those of each kind of change as well."""
        yield from super().values
        for change, call in self.calls.items():
            if change is not Change.REMOVED:
                yield from (call.properties or {}).values()

    @property
    def moments(self) -> tuple[Value, ...]:
        """Those of each kind of change as well."""
        own = (call.timestamp for call in self.calls.values())
        return (*super().moments, *filter(None, own))

    @model_validator(mode="after")
    def _sends_something(self) -> Self:
        if not self.calls:
            raise refusal("needs at least one of `added`, `changed` and `removed`")
        for change, call in self.calls.items():
            if call.previous and change is not Change.CHANGED:
                raise refusal("`previous` is for `changed` only", change, "previous")
        for name, value in (("timestamp", self.timestamp), ("message_id", self.message_id)):
            if value and not self.added:
                raise refusal(
                    f"`{name}` here is for `added`, which is not there; write it below the change", name
                )
        return self

    @model_validator(mode="after")
    def _names_fit(self) -> Self:
        _refuse_reserved(self.properties, self.reserved, "properties")
        for change, call in self.calls.items():
            own = call.properties or {}
            _refuse_overlap(own, self.properties, change, "properties")
            if call.previous:
                _refuse_reserved(own, self.reserved, change, "properties")
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

    fields_key = "properties"

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
    properties: AllOrFields = Field(
        default={}, description="Properties of both calls: name to column or constant; or `all`."
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

    @property
    def reserved(self) -> frozenset[str]:
        """Those that name the audience."""
        return frozenset({"segment_name"} if self.key is None else {"audience_key", self.key})

    @model_validator(mode="after")
    def _names_are_free(self) -> Self:
        _refuse_reserved(self.properties, self.reserved, "properties")
        return self


def _refuse_reserved(fields: Fields, reserved: Collection[str], *location: str) -> None:
    for name in fields:
        if path(name)[0] in reserved:
            raise refusal(f"retl sends `{path(name)[0]}` itself; use another name", *location, name)


def _refuse_overlap(fields: Fields, others: Fields, *location: str) -> None:
    """Refuse names of which one, taken with the others, would be a value and hold another value as well."""
    for name in fields:
        for other in others:
            outer, inner = sorted((name, other), key=lambda one: len(path(one)))
            keys = path(outer)
            if len(keys) < len(path(inner)) and path(inner)[: len(keys)] == keys:
                raise refusal(f"`{outer}` is one value and cannot hold `{inner}` as well", *location, name)


class RemovedTraits(Frozen):
    """What to say of a row that is gone."""

    traits: Fields = Field(description="Traits to send: name to column (last known value) or constant.")


class _Traits(_Envelope):
    fields_key = "traits"

    traits: AllOrFields = Field(
        default={}, description="Traits to send: name to column or constant; or `all`."
    )
    removed: RemovedTraits | None = Field(
        default=None, description="Traits to send for a row that is gone; not written: nothing is sent."
    )

    @property
    def farewell(self) -> Fields:
        """The traits of `removed`."""
        return self.removed.traits if self.removed else {}


class Identify(_Traits):
    """An identify call for each row that is new or changed."""


class Group(_Traits):
    """A group call for each row that is new or changed."""

    group_id: Column = Field(description="Column of the group's id.")

    @property
    def placed(self) -> frozenset[str]:
        """The group's id as well."""
        return super().placed | {self.group_id}


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


_NO_COLUMN = {"value", "name", "key", "style", "integrations", "as", "unit", "nulls"}
"""Keys whose texts are no columns."""


def _naming(written: object, column: str, location: Location) -> Iterator[Location]:
    """The places at or below a key where a column is named."""
    if written == column and location[-1] != "event":
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


def with_columns(sync: Sync, columns: Sequence[str]) -> Sync:
    """The sync in which `all` is spelled out as the model's columns; any other as it is.

    Raises:
        ConfigError: `except` names a column that the model lacks, or a column has no name, or that of a
            field with a meaning of its own.
    """
    block = sync.block
    if not block.sends_all:
        return sync
    for column in block.except_ or ():
        if column not in columns:
            raise ConfigError(
                f"the model has no column `{column}` to leave out{nearest(column, list(columns))}",
                where=sync.where(sync.kind, "except"),
            )
    left_out = block.placed.union(block.except_ or ())
    if "" in columns and "" not in left_out:
        raise ConfigError(
            "a column of the model has no name",
            where=sync.where(sync.kind, block.fields_key),
            hint="give it one: SELECT … AS name",
        )
    fields = {literal_name(column): Value(column=column) for column in columns if column not in left_out}
    try:
        _refuse_reserved(fields, block.reserved)
        for call in block.calls.values() if isinstance(block, Track) else ():
            _refuse_overlap(call.properties or {}, fields)
    except PydanticCustomError as error:
        raise ConfigError(
            str(error),
            where=sync.where(sync.kind, block.fields_key),
            hint="give the column another name in the model, or list it below `except`",
        ) from None
    spelled_out = block.model_copy(update={block.fields_key: fields})
    return sync.model_copy(update={sync.kind: spelled_out})


def _on_line(key: str, info: ValidationInfo) -> str:
    return f" (line {info.context.line((key,))})" if isinstance(info.context, Document) else ""
