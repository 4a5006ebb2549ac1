"""The snapshot's rows that did not arrive as they were, in the TEMP view `unmatched`.

Where rows that the snapshot has just so are left out of `stage` (`retl.engine.landing`), they are left out of
the snapshot's side, too, before the two are compared.
"""

import duckdb

from retl import sql
from retl.engine.canonical import as_json
from retl.engine.json_form import find_forms, form
from retl.engine.mapping import SyncMapping, nested_columns
from retl.reason import Reason


def all_unmatched(db: duckdb.DuckDBPyConnection, new: SyncMapping, old: SyncMapping | None) -> None:
    """Make the view of all rows of the snapshot, as `stage` holds every row.

    Where the timezone was edited, nested values are read anew, in the view `known` as well. It is not known
    where in their JSON a moment stands. So `stage` has them as they would be in the zone of before, too, and
    a value that is the same in that one is the same in the other.

    Args:
        db: the state's connection, with `numbered`, `stage` and `row_fault`.
        new: the mapping of this run, with the types of the model's columns.
        old: the mapping with which the snapshot was built; None on a first pass.
    """
    rows = "SELECT * FROM numbered"
    if old is not None and nested_columns(new, old):
        _read_anew(db, new, old)
        row = "coalesce(read_anew.row, numbered.row) AS row"
        rows = f"SELECT numbered.* REPLACE ({row}) FROM numbered LEFT JOIN read_anew USING (number)"
        db.execute(f"CREATE OR REPLACE TEMP VIEW known AS SELECT key, row, stale, hash FROM ({rows})")
    db.execute(f"CREATE OR REPLACE TEMP VIEW unmatched AS {rows}")


def _read_anew(db: duckdb.DuckDBPyConnection, new: SyncMapping, old: SyncMapping) -> None:
    """Make the TEMP table `read_anew` (number, row) of the snapshot's rows with JSON as it is read today.

    Where several rows share a key, a value is read anew that is the same in any of them.
    """
    pairs = _texts_of_before(new, old)
    find_forms(db, "numbered JOIN stage USING (key) WHERE true", list(pairs.values()))
    of_one, of_several = [], []
    for column in old.columns:
        was = f"numbered.row[{sql.text(column)}]"
        one, several = was, f"any_value({was})"
        for now in (now for now, source in nested_columns(new, old).items() if source == column):
            text = as_json(new.types[now], f"stage.row[{sql.text(now)}]", now in new.json_columns)
            anew = f"({text})::{old.types[column]}"
            is_same = " IS NOT DISTINCT FROM ".join(map(form, pairs[now]))
            one = f"CASE WHEN {is_same} THEN {anew} ELSE {one} END"
            several = f"coalesce(any_value({anew}) FILTER ({is_same}), {several})"
        of_one.append(f"{sql.name(column)} := {one}")
        of_several.append(f"{sql.name(column)} := {several}")
    faults = "SELECT key FROM row_fault WHERE key IS NOT NULL"
    db.execute(
        f"""
        CREATE OR REPLACE TEMP TABLE read_anew AS
        SELECT number, struct_pack({", ".join(of_one)}) AS row
        FROM numbered JOIN stage USING (key)
        WHERE key NOT IN ({faults})
        UNION ALL
        SELECT number, struct_pack({", ".join(of_several)})
        FROM numbered JOIN stage USING (key)
        WHERE key IN ({faults})
        GROUP BY number
        """
    )


def _texts_of_before(new: SyncMapping, old: SyncMapping) -> dict[str, tuple[str, str]]:
    """SQL of the JSON of the snapshot, and of the model as it was read before, by the model's column."""
    return {
        column: (f"numbered.row[{sql.text(source)}]::VARCHAR", f"stage.as_before[{sql.text(column)}]")
        for column, source in nested_columns(new, old).items()
    }


def find_unmatched(db: duckdb.DuckDBPyConnection, turn: int) -> None:
    """Make the view of the rows that are in the TEMP table `arrived` as missing after a turn.

    Keys that came more than once, of which a row was left out of `stage`, are added to `row_fault`.
    """
    db.execute(_NOT_MET.format(turn=turn))
    row = db.execute(_COUNT).fetchone()
    assert row is not None
    left_out, matched, met_again = row
    if left_out > matched or met_again:
        db.execute(_SHARED_KEYS)


_NOT_MET = """
CREATE OR REPLACE TEMP TABLE not_met AS
SELECT *
FROM numbered
WHERE number IN (
    SELECT number FROM arrived WHERE missing_after = {turn}
    UNION ALL
    SELECT number FROM numbered WHERE stale OR hash IS NULL
);

CREATE OR REPLACE TEMP VIEW unmatched AS SELECT * FROM not_met
"""

_COUNT = """
SELECT
    (SELECT count(*) FROM arrived WHERE image IS NULL AND missing_after IS NULL) AS left_out,
    (SELECT count(*) FROM known) - (SELECT count(*) FROM unmatched) AS matched,
    (
        SELECT count(*) FROM known
        WHERE hash(key) IN (SELECT hash(key) FROM stage WHERE key NOT IN (SELECT key FROM unmatched))
    ) AS met_again
"""

_SHARED_KEYS = f"""
CREATE OR REPLACE TEMP TABLE shared_key AS
SELECT key, count(*) AS rows
FROM (
    SELECT numbered.key
    FROM arrived JOIN numbered USING (number)
    WHERE missing_after IS NULL
    UNION ALL
    SELECT key FROM stage WHERE key IN (SELECT key FROM known) AND key NOT IN (SELECT key FROM unmatched)
)
GROUP BY key
HAVING count(*) > 1;

DELETE FROM row_fault WHERE key IN (SELECT key FROM shared_key);

INSERT INTO row_fault SELECT key, {sql.text(Reason.DUPLICATE_KEY)}, rows FROM shared_key
"""
