"""The blocks of a sync file that say which calls the changes of a model become: one for each kind."""

import re
from collections.abc import Collection, Iterator
from enum import StrEnum
from typing import ClassVar, Literal, Self

from pydantic import Field, model_validator

from retl.config.fields import (
    EVERY,
    AllOrFields,
    Column,
    Columns,
    Event,
    Fields,
    Flag,
    Options,
    Text,
    Timestamp,
    Value,
    holds_column,
    option_values,
)
from retl.forms.dotted import path
from retl.forms.form import Frozen, lacking, refusal


class Change(StrEnum):
    """The change of a row since the last run."""

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
            raise lacking(
                "needs a `user_id` or an `anonymous_id`, so that Segment knows whom it is about", user_id="_"
            )
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
    integrations: Options = Field(
        default={},
        description="Call's integrations object: constants, sent as written; `{column: …}`, also inside "
        "an integration's options, takes the row's value.",
    )
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
    def removed_fields(self) -> Fields:
        """The fields that only the call of a removed row has."""
        return {}

    @property
    def options(self) -> Fields:
        """The parts of the integrations object by dotted name, where one of them is a column; else none."""
        return dict(option_values(self.integrations)) if holds_column(self.integrations) else {}

    @property
    def values(self) -> Iterator[Value]:
        """Everything that a call says: traits or properties, context, and options of integrations."""
        for fields in (self.fields, self.removed_fields, self.context, self.options):
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
        """True for `all`: the fields are all columns of the model, which are not known yet."""
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
    previous: Flag = Field(
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
        """The columns of the block and of each kind of change."""
        own = (column for call in self.calls.values() for column in (call.message_id, call.event.column))
        return super().placed.union(filter(None, own))

    @property
    def removed_fields(self) -> Fields:
        """The properties of `removed`."""
        return (self.removed and self.removed.properties) or {}

    @property
    def values(self) -> Iterator[Value]:
        """The values of the block and of each kind of change."""
        yield from super().values
        for change, call in self.calls.items():
            if change is not Change.REMOVED:
                yield from (call.properties or {}).values()

    @property
    def moments(self) -> tuple[Value, ...]:
        """The moments of the block and of each kind of change."""
        own = (call.timestamp for call in self.calls.values())
        return (*super().moments, *filter(None, own))

    @model_validator(mode="after")
    def _sends_something(self) -> Self:
        if not self.calls:
            raise lacking("needs at least one of `added`, `changed` and `removed`", added="_")
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
        refuse_reserved(self.properties, self.reserved, "properties")
        for change, call in self.calls.items():
            own = call.properties or {}
            refuse_overlap(own, self.properties, change, "properties")
            if call.previous:
                refuse_reserved(own, self.reserved, change, "properties")
        return self

    @model_validator(mode="after")
    def _removed_has_its_own_id(self) -> Self:
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
        if not isinstance(written, dict) or written.get("style") != "engage":
            return written
        if written.get("key") is not None:
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
        """The properties that name the audience."""
        return frozenset({"segment_name"} if self.key is None else {"audience_key", self.key})

    @model_validator(mode="after")
    def _names_are_free(self) -> Self:
        refuse_reserved(self.properties, self.reserved, "properties")
        return self


def refuse_reserved(fields: Fields, reserved: Collection[str], *location: str) -> None:
    """Refuse names that retl itself sends.

    Raises:
        PydanticCustomError: one is; it says which.
    """
    for name in fields:
        if path(name)[0] in reserved:
            raise refusal(f"retl sends `{path(name)[0]}` itself; use another name", *location, name)


def refuse_overlap(fields: Fields, others: Fields, *location: str) -> None:
    """Refuse names of which one, taken with the others, would be a value and hold another value as well.

    Raises:
        PydanticCustomError: one would; it says which.
    """
    for name in fields:
        for other in others:
            outer, inner = sorted((name, other), key=lambda one: len(path(one)))
            keys = path(outer)
            if len(keys) < len(path(inner)) and path(inner)[: len(keys)] == keys:
                raise refusal(f"`{outer}` is one value and cannot hold `{inner}` as well", *location, name)


class RemovedTraits(Frozen):
    """The traits to send for a row that is gone."""

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
    def removed_fields(self) -> Fields:
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
