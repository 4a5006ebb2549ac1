"""The replaced rows: as they were before the changes whose calls may still wait in the outbox.

With them `retl discard --pending` lets the snapshot be as it was before those changes.
"""

from collections.abc import Mapping

import duckdb

from retl import sql
from retl.engine.canonical import converted
from retl.engine.mapping import SyncMapping


def keep(db: duckdb.DuckDBPyConnection, run_id: str) -> None:
    """Keep the rows before the changes whose calls leave.

    To be run in the run's transaction, before `promote`. `put_back` needs them as long as the calls may wait.
    """
    db.execute(
        """
        INSERT INTO state.replaced
        SELECT ?, key, before, stale, calls
        FROM change JOIN (SELECT key, count(*) AS calls FROM leaving GROUP BY key) USING (key)
        WHERE change IN ('changed', 'removed')
        """,
        [run_id],
    )


def any_kept(db: duckdb.DuckDBPyConnection) -> bool:
    """Whether rows before changes are kept, as calls may wait."""
    return db.execute("SELECT count(*) FROM state.replaced").fetchone() != (0,)


def forget(db: duckdb.DuckDBPyConnection) -> None:
    """Forget the rows before changes, as no call waits any more; to be run in a transaction."""
    db.execute("DELETE FROM state.replaced")


def spare_halves(db: duckdb.DuckDBPyConnection) -> None:
    """Take the calls out of the TEMP table `dropped` of whose change another call was delivered.

    No row could be put back to what that leaves: as where somebody left an audience, and nobody came yet.
    """
    db.execute(
        """
        DELETE FROM dropped
        WHERE (run_id, key) IN (
            SELECT (run_id, key)
            FROM state.replaced JOIN dropped USING (run_id, key)
            GROUP BY run_id, key, calls
            HAVING count(*) < calls
        )
        """
    )


def take_dropped(db: duckdb.DuckDBPyConnection) -> None:
    """Move the rows before dropped calls into TEMP tables; to be run in a transaction.

    Args:
        db: with the TEMP table `dropped` (seq, run_id, key, change) of the calls. From it are made
            `first_dropped` (key, change, run_id, is_stale), and `before_dropped` (key, row, stale) with the
            rows as they were before.
    """
    db.execute(_TAKE_DROPPED)


_TAKE_DROPPED = """
-- The first dropped call of each row of which it is known how the row was before.
CREATE OR REPLACE TEMP TABLE first_dropped AS
SELECT
    dropped.key,
    arg_min(dropped.change, seq) FILTER (dropped.change = 'added' OR replaced.key IS NOT NULL) AS change,
    arg_min(dropped.run_id, seq) FILTER (dropped.change = 'added' OR replaced.key IS NOT NULL) AS run_id,
    arg_min(dropped.change = 'changed' AND replaced.key IS NULL, seq) AS is_stale
FROM dropped LEFT JOIN state.replaced USING (key, run_id)
WHERE dropped.change <> 'unchanged'
GROUP BY dropped.key;

CREATE OR REPLACE TEMP TABLE before_dropped AS
SELECT key, row, stale OR is_stale AS stale
FROM state.replaced JOIN first_dropped USING (key, run_id)
WHERE change IN ('changed', 'removed');

DELETE FROM state.replaced WHERE (run_id, key) IN (SELECT (run_id, key) FROM dropped)
"""


def rebuild(db: duckdb.DuckDBPyConnection, kept: str, stale: str) -> None:
    """Give the rows another shape; to be run in the run's transaction.

    Args:
        db: the state's connection.
        kept: the members of a row in the new shape, taken from `old.row`.
        stale: the condition that a row is stale from now on.
    """
    db.execute(
        f"""
        CREATE OR REPLACE TABLE state.replaced AS
        SELECT old.run_id, old.key, struct_pack({kept}) AS row, {stale} AS stale, old.calls
        FROM state.replaced AS old
        """
    )


def read_anew(db: duckdb.DuckDBPyConnection, row: str) -> None:
    """Have the instants of the rows as those that are compared, whose timezone may have been edited.

    To be run in the run's transaction, before `keep`, whose rows are compared ones.

    Args:
        db: the state's connection.
        row: a row as it is compared, SQL with the name `row`.
    """
    if row != "row" and any_kept(db):
        rows = f"SELECT run_id, key, {row}, stale, calls FROM state.replaced"
        db.execute(f"CREATE OR REPLACE TABLE state.replaced AS {rows}")


def hold(db: duckdb.DuckDBPyConnection, held: str, old: SyncMapping, noted_types: Mapping[str, str]) -> None:
    """Give the rows the types of those that are compared; to be run in the run's transaction.

    Args:
        db: the state's connection.
        held: the table of the snapshot's rows that are compared.
        old: the mapping with the types of its rows.
        noted_types: those of the rows in the file so far.
    """
    if any_kept(db):
        members = (
            f"{sql.name(one)} := {converted(noted_types[one], old.types[one], f'row[{sql.text(one)}]')}"
            for one in old.columns
        )
        row = f"struct_pack({', '.join(members)}) AS row"
        rows = f"SELECT * REPLACE ({row}) FROM state.replaced"
    else:
        rows = f"SELECT NULL::VARCHAR AS run_id, key, row, stale, 0::BIGINT AS calls FROM {held} LIMIT 0"
    db.execute(f"CREATE OR REPLACE TABLE state.replaced AS {rows}")
