"""The snapshot's rows that did not arrive as they were, in the TEMP view `unmatched`.

Where rows that the snapshot has just so are left out of `stage` (`retl.engine.landing`), they are left out of
the snapshot's side, too, before the two are compared.
"""

import duckdb

from retl import sql
from retl.reason import Reason


def all_unmatched(db: duckdb.DuckDBPyConnection) -> None:
    """Make the view of all rows of the snapshot, as `stage` holds every row."""
    db.execute("CREATE OR REPLACE TEMP VIEW unmatched AS SELECT * FROM known")


def find_unmatched(db: duckdb.DuckDBPyConnection) -> None:
    """Make the view of the rows whose hashes are not among those in the TEMP table `arrived`.

    Keys that came more than once, of which a row was left out of `stage`, are added to `row_fault`.
    """
    left_out, known = (db.execute(sums).fetchone() for sums in (_LEFT_OUT_IN_SUM, _KNOWN_IN_SUM))
    db.execute(_NOT_MET.format(rows=_NONE if left_out == known else _NOT_LEFT_OUT))
    row = db.execute(_COUNT).fetchone()
    assert row is not None
    left_out, matched, met_again = row
    if left_out > matched or met_again:
        db.execute(_SHARED_KEYS)


# The rows that were left out are rows of the snapshot. Where they are as many as these, and their hashes give
# the same sums, they are the same rows; to look for each of them takes far longer.
_LEFT_OUT_IN_SUM = """
SELECT count(*), sum(key_hash), sum(hash), bit_xor(hash(key_hash, hash)) FROM arrived WHERE image IS NULL
"""

_KNOWN_IN_SUM = "SELECT count(*), sum(hash(key)), sum(hash), bit_xor(hash(hash(key), hash)) FROM known"

_NOT_MET = """
CREATE OR REPLACE TEMP TABLE not_met AS SELECT * FROM known WHERE {rows};
CREATE OR REPLACE TEMP VIEW unmatched AS SELECT * FROM not_met
"""

_NONE = "false"

_NOT_LEFT_OUT = """
    stale OR hash IS NULL
    OR (hash(key), hash) NOT IN (SELECT (key_hash, hash) FROM arrived WHERE image IS NULL)
"""

_COUNT = """
SELECT
    (SELECT count(*) FROM arrived WHERE image IS NULL) AS left_out,
    (SELECT count(*) FROM known) - (SELECT count(*) FROM unmatched) AS matched,
    (
        SELECT count(*) FROM known
        WHERE key IN (SELECT key FROM stage) AND key NOT IN (SELECT key FROM unmatched)
    ) AS met_again
"""

_SHARED_KEYS = f"""
CREATE OR REPLACE TEMP TABLE shared_key AS
SELECT key, count(*) AS rows
FROM (
    SELECT known.key
    FROM arrived JOIN known ON arrived.key_hash = hash(known.key) AND arrived.hash = known.hash
    WHERE image IS NULL AND NOT stale
    UNION ALL
    SELECT key FROM stage WHERE key IN (SELECT key FROM known) AND key NOT IN (SELECT key FROM unmatched)
)
GROUP BY key
HAVING count(*) > 1;

DELETE FROM row_fault WHERE key IN (SELECT key FROM shared_key);

INSERT INTO row_fault SELECT key, {sql.text(Reason.DUPLICATE_KEY)}, rows FROM shared_key
"""
