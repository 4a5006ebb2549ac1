"""The rows of the snapshot that a run with `engine: warehouse` looks at, in the TEMP table `held`.

They are those that were read from the snapshot table, and those that stand in the state file.
"""

from collections.abc import Mapping
from dataclasses import replace

import duckdb

from retl import sql
from retl.engine import replaced, snapshot
from retl.engine.canonical import common_type, converted, json_text
from retl.engine.mapping import SyncMapping
from retl.engine.row_hash import row_hash
from retl.reason import Reason
from retl.state import State

TABLE = "held"


def noted_types(state: State) -> Mapping[str, str]:
    """The types of the rows that stand in the state file."""
    noted = state.metadata.mapping
    return SyncMapping.from_json(noted).types if noted else {}


def is_overridden(db: duckdb.DuckDBPyConnection) -> bool:
    """Whether rows of the snapshot table do not count as the table has them."""
    return db.execute(f"SELECT count(*) FROM ({snapshot.OVERRIDDEN})").fetchone() != (0,)


def hold_nothing(db: duckdb.DuckDBPyConnection) -> None:
    """Hold no row, on a first pass."""
    db.execute(
        f"CREATE OR REPLACE TEMP TABLE held AS SELECT *, NULL::BIGINT AS number FROM ({snapshot.IN_FILE})"
    )


def hold_file(db: duckdb.DuckDBPyConnection) -> None:
    """Hold the rows in the state file, where all of the snapshot is in it."""
    hold_nothing(db)


def hold_shipped(db: duckdb.DuckDBPyConnection, old: SyncMapping, shipped: SyncMapping) -> SyncMapping:
    """Hold the rows in the TEMP table `shipped`, and those in the state file.

    Args:
        db: the state's connection.
        old: the mapping with the types of the rows in the file.
        shipped: the mapping with the types of the rows that were read.

    Returns:
        The mapping with the types in which both are held.
    """
    ((in_file,),) = db.execute(f"SELECT count(*) FROM ({snapshot.IN_FILE})").fetchall()
    if not (in_file or is_overridden(db) or replaced.any_kept(db) or _share_keys(db)):
        db.execute(_TAKE_SHIPPED)
        return shipped
    ((read,),) = db.execute("SELECT count(*) FROM shipped").fetchall()
    types = dict(shipped.types)
    if (in_file or replaced.any_kept(db)) and old.types:
        types = {
            one: common_type(old.types[one], shipped.types[one]) if read else old.types[one]
            for one in old.columns
        }
    shape = replace(shipped, types=types)
    hashed = row_hash(shape, "row")
    parts = [
        f"""\
SELECT key, {_row(shipped.types, types)} AS row, coalesce(overridden.stale, false) AS stale, seq AS number,
    true AS is_hashed
FROM shipped LEFT JOIN ({snapshot.OVERRIDDEN}) AS overridden USING (key)
WHERE coalesce(overridden.stale, true)
QUALIFY row_number() OVER (PARTITION BY key ORDER BY seq) = 1"""
    ]
    if in_file:
        # Rows that were put back have no hash until the next promote.
        own = f"SELECT key, {_row(old.types, types)}, stale, NULL::BIGINT, hash IS NOT NULL FROM"
        parts.append(f"{own} ({snapshot.IN_FILE})")
    union = "\nUNION ALL\n".join(parts)
    db.execute(
        f"""
        CREATE OR REPLACE TEMP TABLE held AS
        SELECT key, row, stale, CASE WHEN is_hashed THEN {hashed} END AS hash, number FROM ({union})
        """
    )
    return shape


# The table itself, as a copy of it would take its room once more.
_TAKE_SHIPPED = """
DROP TABLE IF EXISTS held;
ALTER TABLE shipped RENAME TO held;
ALTER TABLE held RENAME COLUMN seq TO number;
ALTER TABLE held DROP COLUMN fault;
ALTER TABLE held ADD COLUMN stale BOOL DEFAULT false
"""


def _share_keys(db: duckdb.DuckDBPyConnection) -> bool:
    """Whether several of the rows that were staged last have one key."""
    shared = f"SELECT 1 FROM row_fault WHERE reason = {sql.text(Reason.DUPLICATE_KEY)} LIMIT 1"
    return db.execute(shared).fetchone() is not None


def _row(types: dict[str, str], wider: dict[str, str]) -> str:
    """A row with values of other types, each spelled as it was."""
    if types == wider:
        return "row"
    members = (
        f"{sql.name(column)} := {converted(types[column], kind, f'row[{sql.text(column)}]')}"
        for column, kind in wider.items()
    )
    return f"struct_pack({', '.join(members)})"


def find_moved(db: duckdb.DuckDBPyConnection, is_any: bool) -> None:
    """Note in the TEMP table `moved` the keys of changed rows that need not stand in the state file.

    They are those that can be sent, where rows have the same columns in the next snapshot table: it has
    them as the model has them, or has them no more. Most changes are such.

    Args:
        db: the state's connection, after `rejected` was filled.
        is_any: whether there are such rows.
    """
    which = "key NOT IN (SELECT key FROM rejected WHERE key IS NOT NULL)" if is_any else "false"
    db.execute(f"CREATE OR REPLACE TEMP TABLE moved AS SELECT key FROM change WHERE {which}")


MOVED = "SELECT key FROM moved"
"""The keys of the rows that `find_moved` found; a SELECT."""


def settle(
    db: duckdb.DuckDBPyConnection, shape: SyncMapping, new: SyncMapping, old: SyncMapping | None
) -> dict[int, bool]:
    """Leave only those rows in the state file that the next snapshot table cannot hold.

    To be run in the run's transaction, after `find_moved` and the promote.

    Args:
        db: the state's connection.
        shape: the mapping with the types of the rows in the file.
        new: the mapping with the types of the rows in `stage`.
        old: that of the rows in `held`; None where their table does not have the columns of the next one.

    Returns:
        The numbers of candidates whose new row does not become part of the next table, and whether their old
        one does.
    """
    is_old = "false" if old is None else f"held.number IS NOT NULL AND {_same(shape, old, 'held')}"
    db.execute(
        f"""
        CREATE OR REPLACE TEMP TABLE settled AS
        SELECT key, shipped.seq AS new_number, held.number AS old_number,
            shipped.seq IS NOT NULL AND {_same(shape, new, "shipped")} AS is_new,
            {is_old} AS is_old
        FROM ({snapshot.IN_FILE}) AS snapshot
        LEFT JOIN (
            SELECT * FROM shipped WHERE key NOT IN (SELECT key FROM row_fault WHERE key IS NOT NULL)
        ) AS shipped USING (key)
        LEFT JOIN held USING (key)
        WHERE NOT snapshot.stale
        """
    )
    left_out = db.execute(
        f"""
        SELECT seq FROM shipped
        WHERE seq NOT IN (SELECT new_number FROM settled WHERE is_new)
            AND (key IS NULL OR key NOT IN ({MOVED}))
        """
    ).fetchall()
    stays = db.execute("SELECT old_number FROM settled WHERE is_old AND NOT is_new").fetchall()
    snapshot.move_out(db, "SELECT key FROM settled WHERE is_new OR is_old")
    return {number: False for (number,) in left_out} | {number: True for (number,) in stays}


def _same(shape: SyncMapping, other: SyncMapping, table: str) -> str:
    """The condition that a row of the file and one of another table say the same."""
    if list(shape.types.items()) == list(other.types.items()):
        return f"snapshot.row IS NOT DISTINCT FROM {table}.row"
    pairs = (
        (
            json_text(shape.types[one], f"snapshot.row[{sql.text(one)}]"),
            json_text(other.types[one], f"{table}.row[{sql.text(one)}]"),
        )
        for one in shape.columns
    )
    return "(" + " AND ".join(f"{mine} IS NOT DISTINCT FROM {others}" for mine, others in pairs) + ")"
