"""The snapshot: the rows of a model as they were when they were last turned into calls.

A run first **stages** the model's rows in the TEMP table `stage` (key VARCHAR, row STRUCT, and the fault
of a row that the warehouse could not read), in canonical form and with their keys checked, and later
**promotes** what it turned into calls. What is compared with the stage is the TEMP view `known`: the
snapshot, its instants moved where the sync's timezone was edited.
"""

from collections.abc import Iterable, Iterator, Sequence
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
    local_instant,
    plain_text,
)
from retl.engine.mapping import Comparison, SyncMapping, moved_columns
from retl.errors import ModelError
from retl.reason import Reason
from retl.state import State
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
    """Passes batches on, and keeps the error that DuckDB would turn into one of its own."""

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


def recall(db: duckdb.DuckDBPyConnection, new: SyncMapping, old: SyncMapping | None) -> None:
    """Make the TEMP view `known` of the snapshot, with its instants moved where the timezone was edited.

    An instant that names no zone is kept as UTC, and means another moment in another zone: so that an edit
    of the zone is not a change of the rows, the snapshot's are read anew, as if it had always been the zone.
    """
    row = "row"
    if old is not None and moved_columns(new, old):
        members = (f"{sql.name(column)} := {_read_anew(column, new, old)}" for column in old.columns)
        row = f"struct_pack({', '.join(members)}) AS row"
    db.execute(f"CREATE OR REPLACE TEMP VIEW known AS SELECT key, {row}, stale FROM state.snapshot")


def _read_anew(column: str, new: SyncMapping, old: SyncMapping) -> str:
    value = f"row[{sql.text(column)}]"
    if column not in moved_columns(new, old):
        return value
    assert old.timezone is not None and new.timezone is not None
    return local_instant(f"({value} AT TIME ZONE 'UTC' AT TIME ZONE {sql.text(old.timezone)})", new.timezone)


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
    """One column is spelled as it is, several as a JSON list of texts; NULL if any is NULL."""
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


def promote(
    db: duckdb.DuckDBPyConnection, new: SyncMapping, old: SyncMapping | None, compared: Sequence[Comparison]
) -> SyncMapping:
    """Make the snapshot what the calls of this run say; to be run inside the run's transaction.

    With the mapping of the last run, only the rows that changed are touched: removed and changed rows go, and
    added and changed ones come as the model has them. Rows in `rejected` keep their old version, rows in
    `respelled` take their values' new spelling.

    With an edited mapping the rows have another shape, so the snapshot is written anew, from three parts:

    - Rows that became calls are taken from the model.
    - Unchanged rows take what is compared from the model, and keep the rest, which is of their last call.
    - Rejected rows keep their old version. A value is found under the column that fed the same field then.

    A column holds one value. Where an edit makes one column feed things that different columns fed before,
    the old version of a rejected row cannot hold both, and it cannot be told any more what of the row is new.
    Such a row becomes stale: it counts as changed as soon as it can be sent.

    Args:
        db: the state's connection, after the diff and after `rejected` was filled.
        new: the mapping of this run, with the types of the model's columns.
        old: the mapping with which the snapshot was built; None on a first pass.
        compared: what the diff compared.

    Returns:
        The mapping with which the snapshot is now built: types may be wider than the model's, so that
        no old value is changed.
    """
    if old is not None and old == new:
        if db.execute("SELECT count(*) FROM respelled").fetchone() != (0,):
            db.execute(_respell(_learnt(new, new, old)))
        db.execute(_FORGET)
        db.execute(_REMEMBER)
        return new
    shape = new if old is None else _with_room(db, new, old)
    after = ", ".join(_value(column, new.types[column], shape, "after", column) for column in new.columns)
    kept = ", ".join(_kept(column, shape, old) for column in new.columns)
    is_stale = old is not None and any(one.before != new.source_of(one.after, old) for one in compared)
    stale = "true" if is_stale else "old.stale"
    db.execute(_rebuild(after, _learnt(new, shape, old), kept, stale))
    return shape


def _learnt(new: SyncMapping, shape: SyncMapping, old: SyncMapping | None) -> str:
    """The members of an unchanged row: what is compared, as the model has it; the rest as it was."""
    return ", ".join(
        _value(column, new.types[column], shape, "new.row", column)
        if old is None or column in new.compared.values() or column not in old.types
        else _kept(column, shape, old)
        for column in new.columns
    )


def _with_room(db: duckdb.DuckDBPyConnection, new: SyncMapping, old: SyncMapping) -> SyncMapping:
    """The mapping with types that also hold the values which rows keep from the old snapshot."""
    kept = db.execute(
        "SELECT count(*) FROM state.snapshot WHERE key IN (SELECT key FROM rejected)"
    ).fetchone()
    types = dict(new.types)
    for column in new.columns:
        source = new.source_of(column, old)
        if source is not None and (kept != (0,) or column not in new.compared.values()):
            types[column] = common_type(new.types[column], old.types[source])
    return replace(new, types=types)


def _respell(learnt: str) -> str:
    """The statement that gives respelled rows the spelling that their values have now."""
    return f"""\
UPDATE state.snapshot
SET row = learnt.row
FROM (
    SELECT old.key, struct_pack({learnt}) AS row
    FROM stage AS new
    JOIN known AS old ON new.key = old.key
    WHERE old.key IN (SELECT key FROM respelled)
) AS learnt
WHERE snapshot.key = learnt.key"""


_FORGET = """
DELETE FROM state.snapshot
WHERE key IN (
    SELECT key FROM change
    WHERE change = 'removed' OR (change <> 'added' AND key NOT IN (SELECT key FROM rejected))
)
"""

_REMEMBER = """
INSERT INTO state.snapshot
SELECT key, after, false FROM change
WHERE change <> 'removed' AND key NOT IN (SELECT key FROM rejected)
"""


def _rebuild(after: str, learnt: str, kept: str, stale: str) -> str:
    """The statement that writes the snapshot anew, with rows of another shape.

    Args:
        after: the members of a row that was turned into calls.
        learnt: the members of an unchanged row.
        kept: the members of a rejected row, which keeps its old version.
        stale: the condition that such a row is stale from now on.
    """
    return f"""\
CREATE OR REPLACE TABLE state.snapshot AS
SELECT key, struct_pack({after}) AS row, false AS stale FROM change
WHERE change <> 'removed' AND key NOT IN (SELECT key FROM rejected)
UNION ALL
SELECT old.key, struct_pack({learnt}), old.stale
FROM stage AS new
JOIN known AS old ON new.key = old.key
WHERE old.key NOT IN (SELECT key FROM change) AND old.key NOT IN (SELECT key FROM rejected)
UNION ALL
SELECT old.key, struct_pack({kept}), {stale}
FROM known AS old
WHERE old.key IN (SELECT key FROM rejected)"""


def _kept(column: str, shape: SyncMapping, old: SyncMapping | None) -> str:
    """A column of an old row: what fed the same field then."""
    source = shape.source_of(column, old) if old else None
    kind = old.types[source] if old and source else "NULL"
    return _value(column, kind, shape, "old.row", source or column)


def _value(column: str, kind: str, shape: SyncMapping, row: str, source: str) -> str:
    """A member of a snapshot's row, taken from a column of another row."""
    return f"{sql.name(column)} := {converted(kind, shape.types[column], f'{row}[{sql.text(source)}]')}"


def row_count(db: duckdb.DuckDBPyConnection) -> int:
    """How many rows the snapshot holds."""
    row = db.execute("SELECT count(*) FROM state.snapshot").fetchone()
    assert row is not None
    return int(row[0])


def forget(state: State) -> None:
    """Empty the snapshot, so that the next run is a first pass; to be run in a transaction."""
    state.db.execute("DELETE FROM state.snapshot")
    metadata = state.metadata
    state.note(replace(metadata, first_pass=None, mapping=None, generation=metadata.generation + 1))
