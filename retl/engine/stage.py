"""The stage: a model's rows in canonical form, with their keys checked, in the TEMP table `stage`."""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import groupby

import duckdb
import pyarrow as pa

from retl import sql
from retl.config.sync import Sync
from retl.engine.canonical import (
    NOTHING,
    Canonical,
    as_json_text,
    canonical,
    common_type,
    converted,
    plain_text,
)
from retl.engine.mapping import SyncMapping
from retl.errors import ModelError
from retl.reason import Reason
from retl.warehouse import FAULT


def stage(
    db: duckdb.DuckDBPyConnection, sync: Sync, mapping: SyncMapping, batches: Iterable[pa.RecordBatch]
) -> tuple[SyncMapping, int]:
    """Stage a model's rows, and note in the TEMP table `row_fault` those that cannot be compared.

    Args:
        db: the state's connection.
        sync: for the timezone, and for saying where an error is.
        mapping: tells which columns make the key and which make the row.
        batches: the model's rows; their schema may change from one batch to the next.

    Returns:
        The mapping, with the canonical type of each column and the columns whose instants name no zone, and
        the number of rows.

    Raises:
        ModelError: a column's type cannot be sent.
    """
    types: dict[str, str] = {}
    zoneless: set[str] = set()
    unreadable = False
    rows = 0
    stream = _Stream(batches)
    for schema, group in groupby(stream, key=lambda batch: batch.schema):
        columns = _canonical_columns(db, sync, mapping, schema)
        if not types:
            types = {column: value.type for column, value in columns.items()}
            row_type = _struct_type(types, mapping)
            db.execute(f"CREATE OR REPLACE TEMP TABLE stage (key VARCHAR, row {row_type}, fault VARCHAR)")
        types = _widen(db, mapping, types, {column: value.type for column, value in columns.items()})
        zoneless |= {column for column, value in columns.items() if value.zoneless}
        incoming = pa.RecordBatchReader.from_batches(schema, group)
        db.register("incoming", incoming)
        try:
            key, row = _key(columns, mapping), _row(columns, mapping, types)
            unreadable |= FAULT in schema.names
            fault = sql.name(FAULT) if FAULT in schema.names else "NULL"
            inserted = db.execute(f"INSERT INTO stage SELECT {key}, {row}, {fault} FROM incoming").fetchone()
            rows += inserted[0] if inserted else 0
        except duckdb.Error:
            if stream.error is not None:
                raise stream.error from None
            raise
        finally:
            db.unregister("incoming")
    db.execute(_ROW_FAULTS if unreadable else _KEY_FAULTS)
    stored = {column: _stored(kind) for column, kind in types.items()}
    return replace(mapping, types=stored, zoneless=tuple(sorted(zoneless))), rows


class _Stream:
    """Batches on their way into DuckDB; keeps the error that DuckDB would turn into one of its own."""

    def __init__(self, batches: Iterable[pa.RecordBatch]) -> None:
        self._batches = batches
        self.error: BaseException | None = None

    def __iter__(self) -> Iterator[pa.RecordBatch]:
        try:
            yield from self._batches
        except BaseException as error:
            self.error = error
            raise


_KEY_FAULTS = f"""
CREATE OR REPLACE TEMP TABLE row_fault AS
SELECT key, {sql.text(Reason.DUPLICATE_KEY)} AS reason, count(*) AS rows
FROM stage
WHERE key IS NOT NULL
GROUP BY key
HAVING count(*) > 1
UNION ALL
SELECT NULL, {sql.text(Reason.NULL_KEY)}, count(*)
FROM stage
WHERE key IS NULL
HAVING count(*) > 0
"""

_ROW_FAULTS = f"""
{_KEY_FAULTS}
UNION ALL
SELECT key, min(fault), 1
FROM stage
WHERE key IS NOT NULL
GROUP BY key
HAVING count(*) = 1 AND count(fault) = 1
"""


def _canonical_columns(
    db: duckdb.DuckDBPyConnection, sync: Sync, mapping: SyncMapping, schema: pa.Schema
) -> dict[str, Canonical]:
    relation = db.from_arrow(pa.RecordBatchReader.from_batches(schema, []))
    sources = dict(zip(relation.columns, relation.types, strict=True))
    found = {}
    for column in mapping.columns:
        # DuckDB 1.4 takes a column of Arrow's type null for one of integers.
        is_null = pa.types.is_null(schema.field(column).type)
        value = NOTHING if is_null else canonical(sources[column], sql.name(column), sync.timezone)
        if value is None:
            raise ModelError(
                f"the column `{column}` has the type {sources[column]}, which has no JSON spelling",
                where=sync.where_used(column),
                hint="cast it in the model, or leave it out of the mapping",
            )
        found[column] = as_json_text(value) if column in mapping.json_columns else value
    return found


def _key(columns: dict[str, Canonical], mapping: SyncMapping) -> str:
    """The SQL of a row's key: the text of one column, or a JSON list of several; NULL if any is NULL."""
    values = [columns[column] for column in mapping.primary_key]
    texts = [value.exact or plain_text(value.type, value.expression) for value in values]
    if len(texts) == 1:
        return texts[0]
    members = " || ',' || ".join(f"to_json({text})::VARCHAR" for text in texts)
    return f"'[' || {members} || ']'"


def _row(columns: dict[str, Canonical], mapping: SyncMapping, types: dict[str, str]) -> str:
    members = [
        f"{sql.name(column)} := {converted(columns[column].type, types[column], columns[column].expression)}"
        for column in mapping.columns
    ]
    return f"struct_pack({', '.join(members)})"


def _struct_type(types: dict[str, str], mapping: SyncMapping) -> str:
    members = (f"{sql.name(column)} {_stored(types[column])}" for column in mapping.columns)
    return f"STRUCT({', '.join(members)})"


def _stored(kind: str) -> str:
    """The type as which a canonical type is stored."""
    return "VARCHAR" if kind == "NULL" else kind


def _widen(
    db: duckdb.DuckDBPyConnection, mapping: SyncMapping, types: dict[str, str], incoming: dict[str, str]
) -> dict[str, str]:
    """Make room in `stage` for values of other types, without changing how the staged ones are spelled."""
    wider = {column: common_type(types[column], incoming[column]) for column in mapping.columns}
    if wider != types:
        members = [
            f"{sql.name(column)} := {converted(types[column], wider[column], f'row[{sql.text(column)}]')}"
            for column in mapping.columns
        ]
        row = f"struct_pack({', '.join(members)})"
        db.execute(f"CREATE OR REPLACE TEMP TABLE stage AS SELECT key, {row} AS row, fault FROM stage")
    return wider
