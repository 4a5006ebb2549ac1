"""The snapshot: the rows of a model as they were when they were last turned into calls.

It is compared through the TEMP view `known`: its rows, with instants moved where the sync's timezone was
edited. A run **promotes** it to what it turned into calls.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import duckdb

from retl.engine import replaced
from retl.engine.mapping import Comparison, SyncMapping
from retl.engine.row_hash import hash_check, row_hash
from retl.engine.shape import as_compared, kept_members, learnt_members, taken_members, with_room
from retl.state import ALL_IN_FILE, ROWS_ELSEWHERE, State


def make_known(
    db: duckdb.DuckDBPyConnection, new: SyncMapping, old: SyncMapping | None, held: str = "state.snapshot"
) -> None:
    """Make the TEMP view `known` of the snapshot, with its instants moved where the timezone was edited.

    The view `numbered` is the same with the place of each row in the file, by which rows are found quickly.

    An instant that names no zone is kept as UTC, and means another moment in another zone: so that an edit
    of the zone is not a change of the rows, the snapshot's are read anew, as if it had always been the zone.

    Args:
        db: the state's connection.
        new: the mapping of this run.
        old: the mapping with which the snapshot was built; None on a first pass.
        held: the table of the snapshot's rows that are compared, with key, row, stale and hash.
    """
    row = as_compared(new, old)
    is_hashed = old is not None and old.hash_check == hash_check(db) and row == "row"
    hashed = "hash" if is_hashed or old is None else f"{row_hash(old, 'row')} AS hash"
    db.execute(
        f"""
        CREATE OR REPLACE TEMP VIEW numbered AS
        SELECT number, key, row, stale, {hashed}
        FROM (SELECT rowid AS number, key, {row}, stale, hash FROM {held});

        CREATE OR REPLACE TEMP VIEW known AS SELECT key, row, stale, hash FROM numbered
        """
    )


def promote(
    db: duckdb.DuckDBPyConnection,
    new: SyncMapping,
    old: SyncMapping | None,
    compared: Sequence[Comparison],
    send_new_fields: bool,
) -> SyncMapping:
    """Make the snapshot what the calls of this run say; to be run inside the run's transaction.

    With the mapping of the last run, only the rows that changed are touched: removed and changed rows go, and
    added and changed ones come as the model has them. Rows in `rejected` keep their old version, rows in
    `respelled` take their values' new spelling.

    With an edited mapping the rows have another shape, so the snapshot is written anew, from three parts:

    - Rows that became calls are taken from the model.
    - Unchanged rows take what is compared from the model, and keep the rest, which is of their last call, by
      the name of the column that feeds the same now. What was never known is taken from the model.
    - Rejected rows keep their old version. A value is found under the column that fed the same field then.

    A column holds one value. Where an edit makes one column feed things that different columns fed before,
    the old version of a rejected row cannot hold both, and it cannot be told any more what of the row is new.
    Such a row becomes stale: it counts as changed as soon as it can be sent.

    Args:
        db: the state's connection, after the diff and after `rejected` was filled.
        new: the mapping of this run, with the types of the model's columns.
        old: the mapping with which the snapshot was built; None on a first pass.
        compared: what the diff compared.
        send_new_fields: whether a field that is new in the mapping is to be sent, or only remembered.

    Returns:
        The mapping with which the snapshot is now built: types may be wider than the model's, so that
        no old value is changed.
    """
    if old is not None and old == new:
        if db.execute("SELECT count(*) FROM respelled").fetchone() != (0,):
            db.execute(_respell(learnt_members(new, new, old, send_new_fields)))
        _forget_rows(db)
        db.execute(_REMEMBER)
        db.execute(_hash_rest(new) if old.hash_check == new.hash_check else _hash_anew(new))
        return new
    shape = new if old is None else with_room(new, old, _any_kept(db))
    kept = kept_members(shape, old)
    is_stale = old is not None and any(one.before != new.source_of(one.after, old) for one in compared)
    stale = "true" if is_stale else "old.stale"
    left_out = taken_members(old.types, shape, "old.row") if old is not None and new.is_alike(old) else None
    after, learnt = taken_members(new.types, shape, "after"), learnt_members(new, shape, old, send_new_fields)
    rows = _rebuilt(after, learnt, kept, stale, left_out)
    db.execute(
        f"""
        CREATE OR REPLACE TABLE state.snapshot AS
        SELECT key, row, stale, {row_hash(shape, "row")} AS hash, NULL::BIGINT AS seq FROM ({rows})
        """
    )
    replaced.rebuild(db, kept, stale)
    return shape


def read_replaced_anew(db: duckdb.DuckDBPyConnection, new: SyncMapping, old: SyncMapping | None) -> None:
    """Read rows before changes whose calls wait as `known` is read; to be run in the run's transaction."""
    replaced.read_anew(db, as_compared(new, old))


def moving(db: duckdb.DuckDBPyConnection, new: SyncMapping, old: SyncMapping) -> str | None:
    """The SELECT of the places of first calls whose rows `promote` is about to alter or remove; None is all.

    A row that is altered has the place of no call any more. To be run in the run's transaction.
    """
    if new != old or new.hash_check != old.hash_check:
        return None
    # A table, so that DuckDB knows how few they are.
    db.execute(f"CREATE OR REPLACE TEMP TABLE moving AS {_MOVING}")
    return "SELECT seq FROM moving"


def promote_arriving(db: duckdb.DuckDBPyConnection, mapping: SyncMapping) -> None:
    """Make the snapshot of a first pass of the rows in `state.arriving`; to be run in the run's transaction.

    Rows in `rejected` are left out, and those without a key.
    """
    db.execute(_BECOME_SNAPSHOT)
    db.execute(_LEAVE_OUT)  # last, as DuckDB 1.4 alters no table whose rows the transaction deleted
    replaced.rebuild(db, kept_members(mapping, None), "old.stale")


PROMOTED = "SELECT 'added' AS change, key, row AS after, hash, seq FROM state.snapshot WHERE seq IS NOT NULL"
"""The changes of a first pass, with their places, in the snapshot that `promote_arriving` makes; a SELECT."""

_BECOME_SNAPSHOT = """
ALTER TABLE state.arriving DROP COLUMN fault;
DROP TABLE state.snapshot;
ALTER TABLE state.arriving RENAME TO snapshot
"""

_LEAVE_OUT = """
DELETE FROM state.snapshot WHERE key IS NULL OR key IN (SELECT key FROM rejected)
"""


def drop_arriving(db: duckdb.DuckDBPyConnection) -> None:
    """Drop rows of a first pass that did not become the snapshot."""
    db.execute("DROP VIEW IF EXISTS stage; DROP TABLE IF EXISTS state.arriving")


def _hash_rest(mapping: SyncMapping) -> str:
    """The statement that gives rows a hash that have none, as those that `put_back` puts back."""
    return f"UPDATE state.snapshot SET hash = {row_hash(mapping, 'row')} WHERE hash IS NULL"


def _hash_anew(mapping: SyncMapping) -> str:
    """The statement that gives all rows the hash that today's DuckDB makes."""
    return f"""\
CREATE OR REPLACE TABLE state.snapshot AS
SELECT * REPLACE ({row_hash(mapping, "row")} AS hash) FROM state.snapshot"""


def _any_kept(db: duckdb.DuckDBPyConnection) -> bool:
    """Whether rows keep their old version: rejected ones, or ones before changes."""
    rejected = db.execute("SELECT count(*) FROM state.snapshot WHERE key IN (SELECT key FROM rejected)")
    return rejected.fetchone() != (0,) or replaced.any_kept(db)


def _respell(learnt: str) -> str:
    """The statement that gives respelled rows the spelling that their values have now."""
    return f"""\
UPDATE state.snapshot
SET row = learnt.row, hash = learnt.hash, seq = NULL
FROM (
    SELECT old.key, struct_pack({learnt}) AS row, new.hash
    FROM stage AS new
    JOIN known AS old ON new.key = old.key
    WHERE old.key IN (SELECT key FROM respelled)
) AS learnt
WHERE snapshot.key = learnt.key"""


_FORGOTTEN = """
SELECT key FROM change
WHERE change = 'removed' OR (change <> 'added' AND key NOT IN (SELECT key FROM rejected))
"""

_NUMBERS = "SELECT number FROM unmatched WHERE key IN ({keys})"

# By their numbers, so that no key and no row is looked at but those that are wanted.
_MOVING = f"""
SELECT seq FROM state.snapshot
WHERE seq IS NOT NULL
    AND rowid IN ({_NUMBERS.format(keys=f"{_FORGOTTEN} UNION ALL SELECT key FROM respelled")})
"""

_FORGET = f"DELETE FROM state.snapshot WHERE rowid IN ({_NUMBERS.format(keys=_FORGOTTEN)})"


def _forget_rows(db: duckdb.DuckDBPyConnection) -> None:
    """Remove the rows that changed or are gone.

    Their numbers hold, as nothing was committed to the state file since they were compared.
    """
    wanted = db.execute(f"SELECT count(*) FROM ({_FORGOTTEN})").fetchone()
    assert wanted == db.execute(_FORGET).fetchone(), "rows of the snapshot moved while they were compared"


_REMEMBER = """
INSERT INTO state.snapshot
SELECT key, after, false, hash, NULL FROM change
WHERE change <> 'removed' AND key NOT IN (SELECT key FROM rejected)
"""


def _rebuilt(after: str, learnt: str, kept: str, stale: str, left_out: str | None) -> str:
    """The SELECT of the snapshot's rows in another shape.

    Args:
        after: the members of a row that was turned into calls.
        learnt: the members of an unchanged row.
        kept: the members of a rejected row, which keeps its old version.
        stale: the condition that such a row is stale from now on.
        left_out: the members of an unchanged row that is not in `stage`; None where all rows are.
    """
    rows = f"""\
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
    if left_out is None:
        return rows
    return f"""\
{rows}
UNION ALL
SELECT old.key, struct_pack({left_out}), old.stale
FROM known AS old
WHERE NOT EXISTS (SELECT 1 FROM stage AS new WHERE new.key = old.key)
    AND old.key NOT IN (SELECT key FROM change) AND old.key NOT IN (SELECT key FROM rejected)"""


def put_back(db: duckdb.DuckDBPyConnection) -> None:
    """Let the rows of dropped calls be as they were before the first of these; to be run in a transaction.

    Args:
        db: with the TEMP table `dropped` (seq, run_id, key, change) of the calls. Where the row before a
            change is not known, as after a migration, the row counts as changed in the next run.
    """
    replaced.take_dropped(db)
    db.execute(_PUT_BACK)


_PUT_BACK = f"""
-- What a table in the warehouse has of these rows does not count any more.
INSERT INTO state.overridden
SELECT DISTINCT key, change IS NULL
FROM first_dropped
WHERE (change IN ('added', 'changed') OR is_stale)
    AND NOT {ALL_IN_FILE}
    AND key NOT IN (SELECT key FROM state.snapshot WHERE seq IS NULL);

DELETE FROM state.snapshot WHERE key IN (SELECT key FROM first_dropped WHERE change = 'added');

UPDATE state.snapshot SET stale = true WHERE key IN (SELECT key FROM first_dropped WHERE is_stale);

DELETE FROM state.snapshot WHERE key IN (SELECT key FROM before_dropped);

INSERT INTO state.snapshot SELECT key, row, stale, NULL, NULL FROM before_dropped
"""


ROWS = "SELECT key, row FROM state.snapshot"
"""The rows of the snapshot that are in the state file; a SELECT."""

IN_FILE = f"""
SELECT key, row, stale, hash FROM state.snapshot
WHERE seq IS NULL OR {ALL_IN_FILE}
"""
"""The rows of the snapshot that no table in the warehouse has; a SELECT. One that has a place is in both."""

OVERRIDDEN = "SELECT key, stale FROM state.overridden"
"""The keys of rows that are in a table in the warehouse and do not count, or are stale; a SELECT."""


def row_count(db: duckdb.DuckDBPyConnection) -> int:
    """How many rows the snapshot holds."""
    row = db.execute(
        f"""
        SELECT
            (SELECT count(*) FROM ({IN_FILE}))
            + {ROWS_ELSEWHERE}
            - (SELECT count(*) FROM ({OVERRIDDEN}) WHERE NOT stale)
        """
    ).fetchone()
    assert row is not None
    return int(row[0])


def hold(
    db: duckdb.DuckDBPyConnection,
    held: str,
    old: SyncMapping,
    noted_types: Mapping[str, str],
    but: str = "SELECT NULL WHERE false",
) -> None:
    """Let the snapshot in the file have these rows and no other; to be run in the run's transaction.

    Args:
        db: the state's connection.
        held: the table with key, row, stale and hash of the rows.
        old: the mapping with the types of the rows.
        noted_types: those of the rows in the file so far.
        but: a SELECT of the keys of rows that it is not to have.
    """
    db.execute(
        f"""
        CREATE OR REPLACE TABLE state.snapshot AS
        SELECT key, row, stale, hash, NULL::BIGINT AS seq FROM {held} WHERE key NOT IN ({but});

        -- `promote` wants the numbers of rows as they are in the file from now on.
        CREATE OR REPLACE TEMP VIEW unmatched AS
        SELECT rowid AS number, key, row, stale, hash FROM state.snapshot;

        DELETE FROM state.overridden
        """
    )
    replaced.hold(db, held, old, noted_types)


def left_out(db: duckdb.DuckDBPyConnection, before: int) -> dict[int, bool]:
    """The rows of a first pass that `promote_arriving` leaves out, by their places behind `before`."""
    found = db.execute(
        "SELECT seq - ? FROM state.arriving WHERE key IS NULL OR key IN (SELECT key FROM rejected)", [before]
    )
    return {number: False for (number,) in found.fetchall()}


def move_out(db: duckdb.DuckDBPyConnection, keys: str) -> None:
    """Remove rows from the file that a table in the warehouse has from now on; `keys` is a SELECT."""
    db.execute(f"DELETE FROM state.snapshot WHERE key IN ({keys})")


def forget(state: State, with_destination: bool = False) -> None:
    """Empty the snapshot, so that the next run is a first pass; to be run in a transaction.

    Args:
        state: the state.
        with_destination: whether the sync may go to another destination from then on.
    """
    state.db.execute("DELETE FROM state.snapshot; DELETE FROM state.overridden")
    state.note_snapshot_table(None)
    replaced.forget(state.db)
    metadata = state.metadata
    state.note(replace(metadata, first_pass=None, mapping=None, generation=metadata.generation + 1))
    if with_destination:
        state.rekey(None)
