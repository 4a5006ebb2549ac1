"""The stage: a model's rows in canonical form, with their keys checked, in the TEMP view `stage`."""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from itertools import groupby

import duckdb
import numpy as np
import pyarrow as pa

from retl import sql
from retl.config.sync import Sync
from retl.engine.canonical import NOTHING, Canonical, as_json, as_json_text, canonical, plain_text
from retl.engine.landing import SEQ, Landing, Staged, Table, fits, stored
from retl.engine.mapping import SyncMapping, nested_columns
from retl.engine.row_hash import hash_check
from retl.errors import ModelError
from retl.memory import allowed
from retl.reason import Reason
from retl.warehouse import FAULT


def stage(
    db: duckdb.DuckDBPyConnection,
    sync: Sync,
    mapping: SyncMapping,
    batches: Iterable[pa.RecordBatch],
    landing: Landing = Landing.ASIDE,
    old: SyncMapping | None = None,
) -> Staged:
    """Stage a model's rows, and note in the TEMP table `row_fault` those that cannot be compared.

    Args:
        db: the state's connection; `UNLESS_KNOWN` needs the view `numbered`.
        sync: for the timezone, and for saying where an error is.
        mapping: tells which columns make the key and which make the row.
        batches: the model's rows; their schema may change from one batch to the next. `IN_STATE` wants them
            numbered.
        landing: the table that takes the rows; `ASIDE` in place of `UNLESS_KNOWN`, where the model's types
            are not those of the snapshot.
        old: the mapping with which the snapshot was built; None on a first pass.

    Raises:
        ModelError: a column's type cannot be sent.
    """
    table: Table | None = None
    zoneless: set[str] = set()
    stream = _Stream(batches)
    db.execute(_AS_READ if landing is Landing.IN_STATE and _has_room(db) else _AS_WRITTEN)
    try:
        for schema, group in groupby(stream, key=lambda batch: batch.schema):
            columns = _canonical_columns(db, sync, mapping, schema, sync.timezone)
            types = {column: value.type for column, value in columns.items()}
            if table is None:
                table = _table(landing, mapping, columns, old)
                table.create(db)
            table = table.widened(db, types)
            zoneless |= {column for column, value in columns.items() if value.zoneless}
            fault = sql.name(FAULT) if FAULT in schema.names else "NULL::VARCHAR"
            as_before = _as_before(db, sync, mapping, schema, old) if table.read_twice and old else {}
            statement, table = table.insert(columns, _key(columns, mapping), fault, as_before)
            stream.insert(db, statement, pa.RecordBatchReader.from_batches(schema, group))
    finally:
        db.execute(_AS_USUAL)
    assert table is not None, "a warehouse gives at least one batch"
    table.show(db)
    db.execute(_ROW_FAULTS)
    types = {column: stored(kind) for column, kind in table.types.items()}
    mapping = replace(mapping, types=types, zoneless=tuple(sorted(zoneless)), hash_check=hash_check(db))
    return Staged(mapping, stream.rows, table.landing, table.turn)


# The rows of a first pass stand in the state in the order in which they are read, so that the calls that are
# made of them later come in the order of their places.
_AS_READ = """
SET preserve_insertion_order = true;
SET disabled_optimizers = 'build_side_probe_side'
"""

# Threads share the work where the order does not count. The rows that arrive are never those of which a hash
# table is made, although DuckDB cannot know how many there are.
_AS_WRITTEN = """
SET preserve_insertion_order = false;
SET disabled_optimizers = 'build_side_probe_side'
"""

_AS_USUAL = """
SET preserve_insertion_order = true;
SET disabled_optimizers = ''
"""


ROOM_FOR_ORDER = 500 << 20
"""Bytes of DuckDB's limit from which on rows are kept in order, for which threads wait with rows in hand."""


def _has_room(db: duckdb.DuckDBPyConnection) -> bool:
    """Whether DuckDB may take enough memory to keep rows in the order in which they are read."""
    return allowed(db) >= ROOM_FOR_ORDER


def _table(
    landing: Landing, mapping: SyncMapping, columns: dict[str, Canonical], old: SyncMapping | None
) -> Table:
    """The table that takes the rows, by the types of the first batch."""
    if landing is Landing.UNLESS_KNOWN:
        if old is not None and fits(columns, old.types):
            return Table(landing, mapping, {column: old.types[column] for column in columns}, compares=True)
        landing = Landing.ASIDE
    types = {column: value.type for column, value in columns.items()}
    return Table(landing, mapping, types, read_twice=tuple(nested_columns(mapping, old)) if old else ())


class _Stream:
    """Batches on their way into DuckDB, with their own error where DuckDB would make one of its own of it.

    Attributes:
        rows: that went in.
    """

    def __init__(self, batches: Iterable[pa.RecordBatch]) -> None:
        self._batches = batches
        self._error: BaseException | None = None
        self.rows = 0

    def __iter__(self) -> Iterator[pa.RecordBatch]:
        try:
            for batch in self._batches:
                self.rows += batch.num_rows
                yield batch
        except BaseException as error:
            self._error = error
            raise

    def insert(self, db: duckdb.DuckDBPyConnection, statement: str, incoming: pa.RecordBatchReader) -> None:
        """Run a statement that takes the next batches, as `incoming`."""
        db.register("incoming", incoming)
        try:
            db.execute(statement)
        except duckdb.Error:
            if self._error is not None:
                raise self._error from None
            raise
        finally:
            db.unregister("incoming")


def numbered(batches: Iterable[pa.RecordBatch], first: int) -> Iterator[pa.RecordBatch]:
    """Batches with the column `SEQ`, whose rows are numbered from `first` on."""
    seq = first
    for batch in batches:
        # pa.array() of a NumPy array would load pandas, where it is installed.
        places = pa.py_buffer(np.arange(seq, seq + batch.num_rows))
        yield batch.append_column(SEQ, pa.Array.from_buffers(pa.int64(), batch.num_rows, [None, places]))
        seq += batch.num_rows


_ROW_FAULTS = f"""
CREATE OR REPLACE TEMP TABLE row_fault AS
SELECT key, {sql.text(Reason.DUPLICATE_KEY)} AS reason, count(*) AS rows
FROM stage
-- Hashes first: numbers take less room than keys.
WHERE hash(key) IN (
    SELECT hash(key) FROM stage WHERE key IS NOT NULL GROUP BY hash(key) HAVING count(*) > 1
)
GROUP BY key
HAVING count(*) > 1
UNION ALL
SELECT NULL, {sql.text(Reason.NULL_KEY)}, count(*)
FROM stage
WHERE key IS NULL
HAVING count(*) > 0
UNION ALL
SELECT key, min(fault), 1
FROM stage
WHERE key IN (SELECT key FROM stage WHERE fault IS NOT NULL)
GROUP BY key
HAVING count(*) = 1
"""


def _canonical_columns(
    db: duckdb.DuckDBPyConnection, sync: Sync, mapping: SyncMapping, schema: pa.Schema, timezone: str
) -> dict[str, Canonical]:
    relation = db.from_arrow(pa.RecordBatchReader.from_batches(schema, []))
    sources = dict(zip(relation.columns, relation.types, strict=True))
    found = {}
    for column in mapping.columns:
        # DuckDB 1.4 takes a column of Arrow's type null for one of integers.
        is_null = pa.types.is_null(schema.field(column).type)
        value = NOTHING if is_null else canonical(sources[column], sql.name(column), timezone)
        if value is None:
            raise ModelError(
                f"the column `{column}` has the type {sources[column]}, which has no JSON spelling",
                where=sync.where_used(column),
                hint="cast it in the model, or leave it out of the mapping",
            )
        found[column] = as_json_text(value) if column in mapping.json_columns else value
    return found


def _as_before(
    db: duckdb.DuckDBPyConnection, sync: Sync, mapping: SyncMapping, schema: pa.Schema, old: SyncMapping
) -> dict[str, str]:
    """SQL of the JSON of columns that are read twice, as it would be in the timezone of before."""
    assert old.timezone is not None, "a timezone was edited that is known"
    columns = _canonical_columns(db, sync, mapping, schema, old.timezone)
    return {
        column: as_json(columns[column].type, columns[column].expression, column in mapping.json_columns)
        for column in nested_columns(mapping, old)
    }


def _key(columns: dict[str, Canonical], mapping: SyncMapping) -> str:
    """The SQL of a row's key: the text of one column, or a JSON list of several; NULL if any is NULL."""
    values = [columns[column] for column in mapping.primary_key]
    texts = [value.exact or plain_text(value.type, value.expression) for value in values]
    if len(texts) == 1:
        return texts[0]
    members = " || ',' || ".join(f"to_json({text})::VARCHAR" for text in texts)
    return f"'[' || {members} || ']'"
