"""Rejection: which rows and calls of a run cannot be sent.

A row is rejected as a whole: where one of its calls has a reason against it, none of them leaves. The call
of a row that is gone stands for itself.
"""

from dataclasses import dataclass

import duckdb

from retl import sql
from retl.calls.render import MAX_CALL_BYTES
from retl.reason import Reason


def collect(db: duckdb.DuckDBPyConnection) -> None:
    """Gather the rows of this run that cannot be sent in the TEMP table `rejected` (key, reason, rows).

    The calls that can be sent are then the TEMP view `leaving`. The TEMP table `value_at_fault` (key,
    at_fault, value) is made, empty.
    """
    # Asked first, as DuckDB would make the values of all calls before it looks at this.
    long_ones = f"SELECT 1 FROM call WHERE most_bytes > {MAX_CALL_BYTES} LIMIT 1"
    is_any_long = db.execute(long_ones).fetchone() is not None
    db.execute(_REJECTED.format(first=_FIRST_REASON, too_large=_TOO_LARGE if is_any_long else ""))
    db.execute(_LEAVING)


_REJECTED = """
CREATE OR REPLACE TEMP TABLE rejected AS
SELECT key, reason, rows FROM row_fault WHERE key IS NOT NULL
UNION ALL
SELECT key, {first}, 1
FROM (
    SELECT key, reason FROM call WHERE reason IS NOT NULL AND change <> 'removed' AND rank > 0
{too_large}
)
GROUP BY key;

CREATE OR REPLACE TEMP TABLE value_at_fault (key VARCHAR, at_fault VARCHAR, value VARCHAR)
"""

_ORDER = ", ".join(map(sql.text, Reason))

_FIRST_REASON = f"""
min(struct_pack(
    place := coalesce(list_position([{_ORDER}], reason), {len(Reason)}),
    reason := reason
)).reason AS reason"""
"""The first of several reasons: retl's own in their order, and before those of receivers."""

_TOO_LARGE = f"""
    UNION ALL
    -- Calls without a text yet: it is made where a row is long.
    SELECT key, {sql.text(Reason.TOO_LARGE)}
    FROM call
    WHERE most_bytes > {MAX_CALL_BYTES} AND bytes > {MAX_CALL_BYTES}
"""

_LEAVES = "reason IS NULL AND (change = 'removed' OR key NOT IN (SELECT key FROM rejected))"

_LEAVING = f"CREATE OR REPLACE TEMP VIEW leaving AS SELECT * FROM call WHERE {_LEAVES}"


def count_violations(db: duckdb.DuckDBPyConnection) -> dict[str, int]:
    """How many calls leave though they break a rule, by the rule's code; after `collect`.

    Args:
        db: with the TEMP table `violation` (call, code), whose `call` is the number of a call.
    """
    found = db.execute(
        f"""
        SELECT code, count(*)
        FROM violation JOIN call ON call.number = violation.call
        WHERE {_LEAVES}
        GROUP BY code
        ORDER BY code
        """
    )
    return dict(found.fetchall())


@dataclass(frozen=True)
class Tally:
    """The counts of a run's rejected rows, and of one kind of call that leaves.

    Attributes:
        by_reason: rejected rows by reason.
        by_change: rejected rows by the kind of change that they would have been.
        undated: calls that leave with the moment of detection, as the column of their timestamp is null.
    """

    by_reason: dict[str, int]
    by_change: dict[str, int]
    undated: int


def tally(db: duckdb.DuckDBPyConnection) -> Tally:
    """Count what `collect` gathered."""
    by_reason = db.execute(
        """
        SELECT reason, sum(rows)::BIGINT
        FROM (
            SELECT reason, rows FROM rejected
            UNION ALL
            SELECT reason, rows FROM row_fault WHERE key IS NULL
        )
        GROUP BY reason
        ORDER BY reason
        """
    ).fetchall()
    is_rejected = "key IN (SELECT key FROM rejected)"
    by_change = (
        db.execute(f"SELECT change, count(*) FROM change WHERE {is_rejected} GROUP BY change").fetchall()
        if by_reason
        else []
    )
    ((undated,),) = db.execute("SELECT count(*) FROM leaving WHERE undated").fetchall()
    return Tally(dict(by_reason), dict(by_change), undated)
