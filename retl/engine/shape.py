"""The shape of the snapshot's rows: SQL that gives rows of one mapping the columns and types of another."""

from collections.abc import Mapping
from dataclasses import replace

from retl import sql
from retl.engine.canonical import bare_json, common_type, converted, json_text, local_instant
from retl.engine.mapping import SyncMapping, moved_columns


def as_compared(new: SyncMapping, old: SyncMapping | None) -> str:
    """SQL for a row of the snapshot, as it is compared."""
    if old is None or not moved_columns(new, old):
        return "row"
    members = (f"{sql.name(column)} := {_read_anew(column, new, old)}" for column in old.columns)
    return f"struct_pack({', '.join(members)}) AS row"


def with_room(new: SyncMapping, old: SyncMapping, is_any_kept: bool) -> SyncMapping:
    """The mapping with types that also hold the values which rows keep from the old snapshot.

    Args:
        new: the mapping of this run.
        old: the mapping with which the snapshot was built.
        is_any_kept: whether whole rows keep their old version.
    """
    types = dict(new.types)
    for column in new.columns:
        sources = [] if column in new.compared.values() else [new.last_known_of(column, old)]
        sources += [new.source_of(column, old)] if is_any_kept else []
        for source in filter(None, sources):
            if column in new.json_columns:
                types[column] = "VARCHAR"  # the text of JSON, which a value of any type has
            else:
                types[column] = common_type(types[column], old.types[source])
    return replace(new, types=types)


def learnt_members(
    new: SyncMapping, shape: SyncMapping, old: SyncMapping | None, send_new_fields: bool
) -> str:
    """The members of an unchanged row: what is compared, as the model has it; the rest as it was.

    A new field that is to be sent, and under `compare` is not yet, was nothing.
    """
    members = []
    for column in new.columns:
        source = new.last_known_of(column, old) if old else None
        if old is None or column in new.compared.values():
            members.append(_value(column, new.types[column], shape, "new.row", column))
        elif send_new_fields and new.is_new_field(column, old):
            members.append(f"{sql.name(column)} := NULL::{shape.types[column]}")
        elif source is None:
            members.append(_value(column, new.types[column], shape, "new.row", column))
        else:
            members.append(_value_before(column, source, shape, old))
    return ", ".join(members)


def kept_members(shape: SyncMapping, old: SyncMapping | None) -> str:
    """The members of a row that keeps its old version, which is `old.row`."""
    return ", ".join(_kept(column, shape, old) for column in shape.columns)


def taken_members(types: Mapping[str, str], shape: SyncMapping, row: str) -> str:
    """The members of a row that is taken from another with the same columns, of these types."""
    return ", ".join(_value(column, types[column], shape, row, column) for column in shape.columns)


def _kept(column: str, shape: SyncMapping, old: SyncMapping | None) -> str:
    """A column of an old row: what fed the same field then."""
    source = shape.source_of(column, old) if old else None
    if old is None or source is None:
        return _value(column, "NULL", shape, "old.row", column)
    return _value_before(column, source, shape, old)


def _value_before(column: str, source: str, shape: SyncMapping, old: SyncMapping) -> str:
    """A member of a snapshot's row, taken from a column of an old row."""
    if shape.types[column] == "JSON" and source in old.json_columns:
        text = f"old.row[{sql.text(source)}]"
        return f"{sql.name(column)} := coalesce(try_cast({text} AS JSON), to_json({text}))"
    if column in shape.json_columns and source not in old.json_columns and old.types[source] == "VARCHAR":
        return f"{sql.name(column)} := {bare_json(f'old.row[{sql.text(source)}]')}"
    return _value(column, old.types[source], shape, "old.row", source)


def _value(column: str, kind: str, shape: SyncMapping, row: str, source: str) -> str:
    """A member of a snapshot's row, taken from a column of another row."""
    if kind not in ("VARCHAR", "NULL") and column in shape.json_columns:
        return f"{sql.name(column)} := {json_text(kind, f'{row}[{sql.text(source)}]')}"
    return f"{sql.name(column)} := {converted(kind, shape.types[column], f'{row}[{sql.text(source)}]')}"


def _read_anew(column: str, new: SyncMapping, old: SyncMapping) -> str:
    value = f"row[{sql.text(column)}]"
    if column not in moved_columns(new, old):
        return value
    assert old.timezone is not None and new.timezone is not None
    return local_instant(f"({value} AT TIME ZONE 'UTC' AT TIME ZONE {sql.text(old.timezone)})", new.timezone)
