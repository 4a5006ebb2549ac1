"""The values for which rows are rejected: as the state keeps them, or found by reading the model again."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import duckdb

from retl import sql
from retl.calls.fault import BLOCKED_IDS, MAX_GROUP_ID, SHOWN_VALUE
from retl.calls.template import Template, templates
from retl.config.sync import Sync, Value
from retl.delivery.rejection_list import RejectedRow
from retl.engine.base import Changes
from retl.engine.canonical import plain_text
from retl.engine.cast import unreadable
from retl.engine.landing import Purpose
from retl.engine.mapping import SyncMapping
from retl.job import Job
from retl.pipeline import find_changes, open_engine
from retl.reason import Reason

SAMPLE = 3
"""Rows without a key that are shown."""

TEXTS = frozenset({"VARCHAR", "JSON"})
"""Canonical types whose values are described by their length."""


@dataclass(frozen=True)
class FoundValue:
    """A column's value in a rejected row.

    Attributes:
        column: its name.
        type: its canonical type.
        value: as text; None where it is null, or could not be read.
    """

    column: str
    type: str
    value: str | None

    @property
    def shape(self) -> str:
        """The value without what it says: `text, 12 characters`, `null`, `bigint`."""
        if self.value is None:
            return "null"
        return _text_shape(len(self.value)) if self.type in TEXTS else self.type.lower()


@dataclass(frozen=True)
class FoundRow:
    """A rejected row as the model gives it now.

    Attributes:
        key: its primary key; None where a column of it is null.
        reason: for which it is rejected.
        user_id: its user id, else its anonymous id.
        values: those for which it is rejected; of a row without a key all of it.
        differs_in: of rows that share a key: the columns in which they differ.
    """

    key: str | None
    reason: str
    user_id: str | None
    values: tuple[FoundValue, ...] = ()
    differs_in: tuple[str, ...] = ()


def kept_shape(at_fault: str | None, value: str | None) -> str | None:
    """The shape of a value of which the state keeps the beginning; None where no column is at fault."""
    if at_fault is None:
        return None
    if value is None:
        return "null"
    more = " or more" if len(value) >= SHOWN_VALUE else ""
    return f"{_text_shape(len(value))}{more}"


def _text_shape(length: int) -> str:
    return "empty text" if length == 0 else f"text, {length:,} character{'s' if length > 1 else ''}"


def find_values(job: Job, rows: Sequence[RejectedRow]) -> list[FoundRow]:
    """Read the model, and find in these rows the values for which they are rejected.

    A row that is not there any more, or is right by now, has no value.

    Args:
        job: what a run would work with; its state file stays as it is.
        rows: as the state has them.

    Raises:
        RetlError: whatever would stop a run before its guards.
    """
    db = job.state.db
    changes = find_changes(job, open_engine(job, job.deadline, Purpose.LOOK_UP)).changes
    wanted = [{"key": row.key, "reason": row.reason} for row in rows if row.key is not None]
    db.execute("CREATE OR REPLACE TEMP TABLE wanted (key VARCHAR, reason VARCHAR)")
    if wanted:
        db.execute("INSERT INTO wanted BY NAME SELECT unnest(?, recursive := true)", [wanted])
    users = _users(db, changes.mapping)
    found = {key: FoundRow(key, reason, users.get(key)) for key, reason in _wanted(db)}
    for key, column, kind, value in _faulty(db, changes):
        values = (*found[key].values, FoundValue(column, kind, value))
        found[key] = replace(found[key], values=values)
    for key, columns in _differing(db, changes.mapping):
        found[key] = replace(found[key], differs_in=tuple(columns))
    without_key = _without_key(db, changes.mapping) if any(row.key is None for row in rows) else []
    return [*found.values(), *without_key]


def _wanted(db: duckdb.DuckDBPyConnection) -> list[tuple[str, str]]:
    return db.execute("SELECT key, reason FROM wanted").fetchall()


def _written(column: str) -> str:
    return f"row[{sql.text(column)}]"


def _user(mapping: SyncMapping) -> str:
    """The SQL of a row's user id, else its anonymous id."""
    ids = [column for name, column in mapping.ids.items() if name != "group_id"]
    return f"coalesce({', '.join(plain_text(mapping.types[one], _written(one)) for one in ids)}, NULL)"


def _users(db: duckdb.DuckDBPyConnection, mapping: SyncMapping) -> dict[str, str]:
    query = f"SELECT key, min({_user(mapping)}) FROM stage JOIN wanted USING (key) GROUP BY key"
    return dict(db.execute(query).fetchall())


def _faulty(db: duckdb.DuckDBPyConnection, changes: Changes) -> list[tuple[str, str, str, str | None]]:
    """The values at fault: key, column, type and text."""
    mapping = changes.mapping
    parts = [
        f"""
        SELECT key, {sql.text(column)} AS "column", {sql.text(mapping.types[column])} AS type,
            {_written(column)}::VARCHAR AS value
        FROM stage JOIN wanted USING (key)
        WHERE reason = {sql.text(reason)} AND coalesce({condition}, false)
        """
        for column, reason, condition in dict.fromkeys(_conditions(changes))
    ]
    query = f"SELECT DISTINCT * FROM ({' UNION ALL '.join(parts)}) ORDER BY ALL"
    return db.execute(query).fetchall() if parts else []


def _conditions(changes: Changes) -> Iterator[tuple[str, str, str]]:
    """Each column that can be at fault, the reason, and the condition under which it is."""
    sync, mapping = changes.sync, changes.mapping
    texts = {column: plain_text(kind, _written(column)) for column, kind in mapping.types.items()}
    blocked = [one for one in ("", *BLOCKED_IDS) if one not in {id_.lower() for id_ in sync.allow_ids}]
    for name, column in mapping.ids.items():
        yield column, Reason.NO_ID, "true"
        among = f"IN ({', '.join(map(sql.text, blocked))})"
        yield column, Reason.BLOCKED_ID, f"lower(trim({texts[column]})) {among}"
        if name == "group_id":
            yield column, Reason.NO_GROUP_ID, "true"
            yield column, Reason.GROUP_ID_TOO_LONG, f"length({texts[column]}) > {MAX_GROUP_ID}"
    for template in templates(sync):
        if template.event is not None and template.event.column is not None:
            yield template.event.column, Reason.NO_EVENT_NAME, "true"
        if template.message_id is not None:
            for reason in (Reason.MESSAGE_ID_TOO_LONG, Reason.DUPLICATE_MESSAGE_ID):
                yield template.message_id, reason, "true"
        for value in _values(sync, template):
            kind = mapping.types.get(value.column or "")
            fault = unreadable(value, kind, _written(value.column or ""), sync.timezone) if kind else None
            if fault is not None:
                yield value.column or "", fault[1], fault[0]
    for column, kind in mapping.types.items():
        # The warehouse gave a value that cannot be read, and null in its place.
        for reason, kinds in _UNREAD.items():
            if kind in kinds:
                yield column, reason, f"fault IS NOT NULL AND {_written(column)} IS NULL"
        if kind in TEXTS:
            yield column, Reason.TOO_LARGE, f"strlen({texts[column]}) > 4096"


_UNREAD = {
    Reason.BAD_TEXT: {"VARCHAR"},
    Reason.BAD_TIMESTAMP: {"DATE", "TIMESTAMP"},
    Reason.BAD_JSON: {"JSON"},
}
"""The types of columns that can hold what a warehouse gives and retl cannot read."""


def _values(sync: Sync, template: Template) -> Iterator[Value]:
    """All that a call takes from columns, less ids and names."""
    fields = (template.fields, sync.block.context, sync.block.options)
    yield from (value for one in fields for value in one.values() if not value.is_constant)
    yield from [template.timestamp.model_copy(update={"as_": "timestamp"})] if template.timestamp else []


def _differing(db: duckdb.DuckDBPyConnection, mapping: SyncMapping) -> list[tuple[str, list[str]]]:
    """The columns in which rows differ that share a key."""
    differ = ", ".join(
        f"CASE WHEN count(DISTINCT coalesce({_written(column)}::VARCHAR, chr(0))) > 1 "
        f"THEN {sql.text(column)} END"
        for column in mapping.columns
    )
    return db.execute(
        f"""
        SELECT key, [one FOR one IN [{differ}] IF one IS NOT NULL]
        FROM stage JOIN wanted USING (key)
        WHERE reason = {sql.text(Reason.DUPLICATE_KEY)}
        GROUP BY key
        """
    ).fetchall()


def _without_key(db: duckdb.DuckDBPyConnection, mapping: SyncMapping) -> list[FoundRow]:
    """A few of the rows without a key, whole."""
    columns = ", ".join(f"{_written(column)}::VARCHAR" for column in mapping.columns)
    rows: list[tuple[Any, ...]] = db.execute(
        f"SELECT {_user(mapping)}, {columns} FROM stage WHERE key IS NULL ORDER BY ALL LIMIT {SAMPLE}"
    ).fetchall()
    return [
        FoundRow(
            None,
            Reason.NULL_KEY,
            user_id,
            tuple(
                FoundValue(column, mapping.types[column], value)
                for column, value in zip(mapping.columns, values, strict=True)
            ),
        )
        for user_id, *values in rows
    ]


def possible_columns(sync: Sync, reason: str) -> list[str]:
    """The columns that can be at fault as far as the sync file tells; none where it does not."""
    block = sync.block
    casts: dict[str, str] = {
        Reason.BAD_JSON: "json",
        Reason.BAD_NUMBER: "number",
        Reason.BAD_BOOLEAN: "boolean",
    }
    ids = [block.user_id, block.anonymous_id]
    found: list[str | None] = []
    if reason in {Reason.NULL_KEY, Reason.DUPLICATE_KEY}:
        found = list(sync.primary_key)
    elif reason in {Reason.NO_ID, Reason.BLOCKED_ID}:
        found = ids
    elif reason in casts:
        found = [value.column for value in block.values if value.as_ == casts[reason]]
    elif reason == Reason.BAD_TIMESTAMP:
        moments = (*block.moments, *(value for value in block.values if value.as_ == "timestamp"))
        found = [value.column for value in moments]
    elif reason == Reason.NO_EVENT_NAME:
        found = [one.event.column for one in templates(sync) if one.event]
    elif reason in {Reason.MESSAGE_ID_TOO_LONG, Reason.DUPLICATE_MESSAGE_ID}:
        found = [one.message_id for one in templates(sync)]
    return list(dict.fromkeys(filter(None, found)))
