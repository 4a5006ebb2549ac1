"""The mapping of a sync: which columns of a row are read, compared and kept in the snapshot.

A **field** is one trait or property of a call, known by its dotted name. Fields are what is compared:
the state remembers which column each field came from, so that a renamed column, a new field and an
edited mapping are told apart from changed rows.
"""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from typing import Any

from retl.config.fields import option_values
from retl.config.sync import Audience, Change, Group, Identify, Sync, Track, Value
from retl.errors import ConfigError


class Part(StrEnum):
    """The part of a call, or of a sync, that a column is used for."""

    ID = "id"  # user id, anonymous id or group id
    FIELD = "field"  # a trait or property, by its dotted name
    CONTEXT = "context"  # a field of the call's context
    OPTION = "option"  # a part of the call's integrations object
    EVENT = "event"  # the name of the event
    COLUMN = "column"  # a column that `compare` lists


@dataclass(frozen=True)
class Use:
    """One use of a column.

    Attributes:
        part: the part that it is used for.
        name: of the id, the field or the column; empty for an event.
        change: the kind of change whose call alone has it; None for all calls.
    """

    part: Part
    name: str = ""
    change: Change | None = None

    @property
    def label(self) -> str:
        """The use in a few words, as plans and guards name it."""
        if self.part is Part.FIELD:
            return f"{self.change} {self.name}" if self.change else self.name
        return f"{self.part} {self.name}"


def field_use(name: str) -> Use:
    """The use as a trait or property of all calls."""
    return Use(Part.FIELD, name)


@dataclass(frozen=True)
class SyncMapping:
    """The part of a sync that decides what counts as a change.

    Attributes:
        kind: "identify", "track", "audience" or "group".
        primary_key: the key's columns.
        ids: Segment's name of an id ("user_id", "anonymous_id", "group_id") to its column.
        fields: each trait and property that comes from a column, to that column.
        carried: uses that are sent and never compared (events, context, options, fields of removed rows),
            to their columns.
        json_columns: columns that hold JSON wherever they are used, be they text or not.
        compared: uses that are compared, to their columns: ids and fields, or what `compare` lists.
        columns: all columns that a run reads, in a fixed order.
        types: canonical type of each column, as far as known.
        timezone: the zone in which instants without one were read; None where that is not known.
        zoneless: columns that are, or hold, such instants.
        placed: columns of the key, of ids, moments and message ids.
        uncompared: all that calls of current rows say and that is never compared, by a name for people, as
            hashes: constants, options of fields, context, integrations, the name of the event.
        hash_check: of the DuckDB that hashed the rows (`retl.engine.row_hash`).
    """

    kind: str
    primary_key: tuple[str, ...]
    ids: dict[str, str]
    fields: dict[Use, str]
    compared: dict[Use, str]
    columns: tuple[str, ...]
    types: dict[str, str]
    carried: dict[Use, str] = field(default_factory=dict)
    json_columns: tuple[str, ...] = ()
    timezone: str | None = None
    zoneless: tuple[str, ...] = ()
    placed: tuple[str, ...] = ()
    uncompared: dict[str, str] = field(default_factory=dict)
    hash_check: str = field(default="", compare=False)

    def as_json(self) -> dict[str, Any]:
        """The mapping as a JSON object, as the state keeps it (`mapping` in state.sql)."""
        return {
            name: [{**asdict(use), "column": column} for use, column in value.items()]
            if name in _USES
            else value
            for name, value in self.__dict__.items()
        }

    @classmethod
    def from_json(cls, written: dict[str, Any]) -> "SyncMapping":
        """The mapping that the state keeps; members that this version does not know are left out."""
        known: dict[str, Any] = {
            name: _uses(one) if name in _USES else tuple(one) if isinstance(one, list) else one
            for name, one in written.items()
            if name in cls.__dataclass_fields__
        }
        return cls(**known)

    @property
    def digest(self) -> str:
        """A hash of how the sync makes calls of columns, whatever the types of these."""
        said = replace(self, types={}, zoneless=(), hash_check="").as_json()
        return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:16]

    def is_alike(self, old: "SyncMapping") -> bool:
        """Whether it is the old mapping but for the types of columns, which the rows will tell."""
        return replace(self, types={}, zoneless=()) == replace(old, types={}, zoneless=())

    def type_of(self, column: str, now: str | None) -> str | None:
        """The canonical type of a column's values, of which it is known what type they have `now`.

        Of JSON that was only sent `as: json` the snapshot has the text. None where it lacks the column.
        """
        return "JSON" if now == "JSON" and column in self.json_columns else self.types.get(column)

    def column_of(self, use: Use, change: Change) -> str | None:
        """The column for a use in the call of one kind of change; None where there was none."""
        columns = {**self.fields, **self.carried}
        return columns.get(replace(use, change=change), columns.get(use))

    def source_of(self, column: str, old: "SyncMapping") -> str | None:
        """The column of the old mapping that fed what a column feeds now; None where nothing did."""
        served = ((self.compared, old.compared), (self.fields, old.fields), (self.carried, old.carried))
        for feeds, fed in served:
            for use, one in feeds.items():
                if one == column and fed.get(use) in old.types:
                    return fed[use]
        return column if column in old.types else None

    def last_known_of(self, column: str, old: "SyncMapping") -> str | None:
        """The column of the old mapping with what was last sent of all that a column feeds now.

        That is another one where it alone fed the same; a column that feeds more than this has its own value.
        None where the old mapping lacks it.
        """
        fed = {before for _, before in self._fed(column, old)}
        if len(fed) == 1 and column not in self.placed and fed.issubset(old.types):
            return fed.pop()
        return column if column in old.types else None

    def is_new_field(self, column: str, old: "SyncMapping") -> bool:
        """Whether a column feeds nothing but fields of current rows that the old mapping did not have."""
        fed = self._fed(column, old)
        fields = all(use in self.fields and before is None for use, before in fed)
        return bool(fed) and fields and column not in self.placed

    def _fed(self, column: str, old: "SyncMapping") -> list[tuple[Use, str | None]]:
        """The uses of a column in calls, each with the column that the old mapping had for it."""
        served = ((self.fields, old.fields), (self.carried, old.carried))
        return [(use, before.get(use)) for now, before in served for use, one in now.items() if one == column]


_USES = ("fields", "compared", "carried")


def _uses(written: list[dict[str, Any]]) -> dict[Use, str]:
    return {
        Use(Part(one["part"]), one["name"], Change(one["change"]) if one["change"] else None): one["column"]
        for one in written
    }


OWN_COLUMNS = frozenset({"retl_seq", "retl_number", "retl_there"})
"""Columns that retl puts beside those of a model, where rows are read and compared."""


def read_mapping(sync: Sync) -> SyncMapping:
    """The mapping as a sync file has it, with no types yet.

    Raises:
        ConfigError: a column has a name that retl uses itself.
    """
    block = sync.block
    named = {"user_id": block.user_id, "anonymous_id": block.anonymous_id}
    if isinstance(block, Group):
        named["group_id"] = block.group_id
    ids = {name: column for name, column in named.items() if column is not None}
    values = dict(_fields(block))
    fields = {use: value.column for use, value in values.items() if value.column is not None}
    carried = dict(_carried(block))
    events = {column for use, column in carried.items() if use.part is Part.EVENT}
    compared = {**{Use(Part.ID, name): column for name, column in ids.items()}, **fields}
    if sync.compare is not None:
        compared = {Use(Part.COLUMN, column): column for column in sync.compare}
    elsewhere = [*sync.primary_key, *sorted(block.placed)]
    columns = [*elsewhere, *ids.values(), *fields.values(), *compared.values(), *carried.values()]
    for column in columns:
        if column.lower() in OWN_COLUMNS:
            raise ConfigError(
                f"the column `{column}` has a name that retl uses itself",
                where=sync.where_used(column),
                hint="give it another name in the model: … AS another_name",
            )
    as_json = [value.column for value in block.values if value.column and value.as_ == "json"]
    otherwise = {value.column for value in block.values if value.as_ != "json"}.union(elsewhere)
    return SyncMapping(
        kind=sync.kind,
        primary_key=sync.primary_key,
        ids=ids,
        fields=fields,
        compared=compared,
        columns=tuple(dict.fromkeys(columns)),
        types={},
        carried=carried,
        json_columns=tuple(dict.fromkeys(column for column in as_json if column not in otherwise)),
        timezone=sync.timezone,
        placed=tuple(sorted(block.placed.union(sync.primary_key).difference(events))),
        uncompared={name: _hash(said) for name, said in _uncompared(sync)},
    )


def _fields(block: Track | Audience | Identify | Group) -> Iterator[tuple[Use, Value]]:
    """The fields that are compared; fields of a removed row's own call are kept, and never compared."""
    if not isinstance(block, Track):
        yield from ((field_use(name), value) for name, value in block.fields.items())
        return
    own = {change: call.properties or {} for change, call in block.calls.items()}
    for name, value in block.fields.items():
        if any(name not in properties for properties in own.values()):
            yield field_use(name), value
    for change, properties in own.items():
        if change is not Change.REMOVED:
            yield from ((Use(Part.FIELD, name, change), value) for name, value in properties.items())


def _carried(block: Track | Audience | Identify | Group) -> Iterator[tuple[Use, str]]:
    """The uses that are sent and never compared, with their columns."""
    for change, call in block.calls.items() if isinstance(block, Track) else ():
        if call.event.column is not None:
            yield Use(Part.EVENT, change=change), call.event.column
    others = {Use(Part.CONTEXT, name): value for name, value in block.context.items()}
    others |= {Use(Part.OPTION, name): value for name, value in block.options.items()}
    others |= {Use(Part.FIELD, name, Change.REMOVED): one for name, one in block.removed_fields.items()}
    yield from ((use, value.column) for use, value in others.items() if value.column is not None)


def _uncompared(sync: Sync) -> Iterator[tuple[str, dict[str, object]]]:
    """The parts of calls of current rows besides columns that are compared, by a name for people."""
    block = sync.block
    yield from ((name, _without_column(value)) for name, value in block.fields.items())
    for name, value in block.context.items():
        yield f"context {name}", {**_without_column(value), "column": value.column}
    options = dict(option_values(block.integrations))
    for name, value in options.items():
        yield f"integrations {name}", {**_without_column(value), "column": value.column}
    if isinstance(block, Track) and block.added:
        yield "event of added", {"name": block.added.event.name, "column": block.added.event.column}
        for name, value in (block.added.properties or {}).items():
            yield f"added {name}", _without_column(value)
    if isinstance(block, Audience):
        yield "name of the audience", {"name": block.name, "key": block.key, "style": block.style}
    yield "nulls of the sync", {"nulls": sync.nulls} if sync.nulls else {}


def _hash(said: dict[str, object]) -> str:
    """A hash, since a constant may be what the state is not to keep."""
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:16]


NOTHING_SAID = _hash({})
"""The entry in `SyncMapping.uncompared` of a field that is sent as its column has it."""


def _without_column(value: Value) -> dict[str, object]:
    """A field's constant, or the options of its column."""
    if value.is_constant:
        return {"value": value.constant}
    options = {"as": value.as_, "unit": value.unit, "nulls": value.nulls}
    return {name: option for name, option in options.items() if option is not None}


def refuse_other_identity(sync: Sync, new: SyncMapping, old: SyncMapping) -> None:
    """Refuse a mapping under which the snapshot's rows would mean something else.

    Raises:
        ConfigError: the kind of call, the ids or the primary key are not those of the snapshot.
    """
    differences = (
        ("the kind of call", sync.kind, old.kind, new.kind),
        ("the primary key", "primary_key", ", ".join(old.primary_key), ", ".join(new.primary_key)),
        ("the id mapping", sync.kind, _spelled(old.ids), _spelled(new.ids)),
    )
    for what, key, before, after in differences:
        if before != after:
            raise ConfigError(
                f"{what} was `{before}` when the snapshot was taken and is `{after}` now",
                where=sync.where(key),
                hint=f"to start anew: retl reset {sync.name}; to keep the old state, give the sync another "
                f"`name`; either way the next run is a first pass, {first_pass_sentence(sync)}",
            )


def first_pass_sentence(sync: Sync) -> str:
    """The end of a sentence about a first pass that follows an earlier state: what it sends, and what not."""
    if sync.sends_first_pass:
        return "which sends every row"
    left = "who has left is not told of" if sync.kind == "audience" else "what changed until then is not sent"
    return f"which only remembers the rows; {left}"


def _spelled(ids: dict[str, str]) -> str:
    return ", ".join(f"{name}: {column}" for name, column in ids.items())


@dataclass(frozen=True)
class Comparison:
    """One thing compared between the snapshot's row and the model's.

    Attributes:
        use: the id, the field or the column.
        before: the snapshot's column; None where the snapshot cannot have it, so that NULL stands in.
        after: the model's column.
        is_id: whether it is sent as text whatever its type, so that 1 and '1' are equal.
        is_json_text: whether text in it holds JSON.
        is_json: whether it may hold JSON on either side, where key order and spaces do not count.
        cast: the field, where it asks for another type than the column's.
        is_json_anew: whether it begins, or ceases, to be read as JSON. On the one side a JSON null is NULL
            then, and a text has no blanks around it; on the other they are as they came.
    """

    use: Use
    before: str | None
    after: str
    is_id: bool
    is_json_text: bool
    is_json: bool
    cast: Value | None = None
    is_json_anew: bool = False


def comparisons(
    sync: Sync, new: SyncMapping, old: SyncMapping | None, send_new_fields: bool
) -> tuple[Comparison, ...]:
    """The pairs of columns that a diff compares, one for each thing that the sync compares.

    The mapping may have been edited since the snapshot was built, so each thing is looked up in the old
    mapping. The first of these that applies decides:

    1. On a first pass there is nothing before; the column stands for itself.
    2. The old mapping compared the same thing: its old column is compared, so a renamed column is no change.
    3. A field was not compared, and new fields are sent: it is compared with the column that fed it while it
       was only sent, or with NULL if there was none, so that every row with a value is changed.
    4. The column is known otherwise, as an id or as something else that was compared, or new fields are sent
       and the snapshot has it: it is compared with itself.
    5. Else it is learnt: the snapshot takes its values, and no row changes by them.

    Args:
        sync: gives the casts that fields ask for.
        new: the mapping, with the types of the model's columns.
        old: the mapping with which the snapshot was built; None on a first pass.
        send_new_fields: whether a field that the snapshot did not compare makes rows changed.
    """
    found = []
    values = dict(_fields(sync.block))
    for use, after in new.compared.items():
        if old is None:
            before: str | None = after
        elif use in old.compared:
            before = old.compared[use]
        elif use in new.fields and send_new_fields:
            before = old.fields.get(use)
        elif (
            use.part is Part.ID
            or after in old.compared.values()
            or (send_new_fields and after in old.columns)
        ):
            before = after
        else:
            continue
        is_json_text = after in new.json_columns
        types = {new.types.get(after), old.types.get(before) if old and before else None}
        is_json = is_json_text or "JSON" in types
        value = values.get(use)
        cast = value if value and value.as_ not in (None, "json") else None
        is_anew = old is not None and before is not None and is_json_text != (before in old.json_columns)
        is_id = use.part is Part.ID
        found.append(Comparison(use, before, after, is_id, is_json_text, is_json, cast, is_anew))
    return tuple(found)


def moved_columns(new: SyncMapping, old: SyncMapping) -> set[str]:
    """The snapshot's columns of instants without a zone, where the zone in which they are read was edited."""
    if not _is_moved(new, old):
        return set()
    return {column for column in old.zoneless if old.types[column] == "TIMESTAMP"}


def nested_columns(new: SyncMapping, old: SyncMapping) -> dict[str, str]:
    """Columns whose JSON holds instants without a zone, where the zone in which they are read was edited.

    Each has the snapshot's column that fed the same, in whose JSON they are.
    """
    if not _is_moved(new, old):
        return {}
    found = {column: new.source_of(column, old) for column in new.columns}
    nested = {column for column in old.zoneless if old.types[column] != "TIMESTAMP"}
    return {column: source for column, source in found.items() if source is not None and source in nested}


def _is_moved(new: SyncMapping, old: SyncMapping) -> bool:
    return old.timezone is not None and new.timezone != old.timezone
