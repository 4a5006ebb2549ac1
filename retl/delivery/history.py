"""History: calls that were delivered, without their text, for as long as `keep` says.

A rendered call comes here when it leaves the outbox. The calls of an unrendered first pass stay where they
are: what the statement yields of a row of the snapshot is the history of the row's first call, as long as the
row is as it was. Which of them were delivered, when and by which run, the receipts tell. Before such a row
changes or goes, its first call is written down; no other is.
"""

from collections.abc import Sequence
from datetime import datetime

import duckdb

from retl.delivery import receipts, unrendered
from retl.delivery.unrendered import UnrenderedLane

LAST_PLACE = "(SELECT coalesce(max(last_seq), 0) FROM state.first_pass)"
"""The last place of a first pass whose history is kept, else 0; SQL."""

WITH_PLACE = "WHERE seq IS NOT NULL"
"""The condition on the rows that a statement reads; the last one in it, as a value may be spelled alike."""


def keep(db: duckdb.DuckDBPyConnection, calls: str) -> None:
    """Keep those of these calls that were delivered; to be run in a transaction.

    Args:
        db: the state's connection.
        calls: a SELECT with seq, run_id, key, change, message_id, user_id, event and moment.
    """
    db.execute(_KEEP.format(calls=receipts.with_answers(calls)))


# `id` takes half the room of a message id, which is most of what a call takes.
_KEEP = """
INSERT INTO state.delivered_call BY NAME
SELECT
    CASE WHEN id IS NULL THEN message_id END AS message_id, id, key, change, nullif(user_id, key) AS user_id,
    event, moment, run_id, delivered_in, status, answered_at
FROM (
    SELECT
        *, CASE WHEN regexp_full_match(message_id, 'retl-[0-9a-f]{{32}}') THEN message_id[6:]::UUID END AS id
    FROM ({calls})
)
"""


def begin_first_pass(db: duckdb.DuckDBPyConnection) -> None:
    """Let the calls that wait unrendered be the first pass; to be run in a transaction.

    The history of another one was ended before, as its rows are gone.
    """
    db.execute("DELETE FROM state.first_pass")
    for one in unrendered.lanes(db):
        lane = [one.lane, one.run_id, one.first_seq, one.last_seq, one.statement]
        db.execute("INSERT INTO state.first_pass VALUES (?, ?, ?, ?, ?)", lane)


def end_lane(db: duckdb.DuckDBPyConnection, lane: int, seq: int) -> None:
    """Note that the calls of a lane behind a place are no longer unrendered; to be run in a transaction."""
    db.execute(
        "UPDATE state.first_pass SET last_seq = greatest(?, first_seq - 1) WHERE lane = ? AND last_seq > ?",
        [seq, lane, seq],
    )


def keep_first_calls(db: duckdb.DuckDBPyConnection, places: str | None) -> None:
    """Write down the first calls of rows that are about to change or to go; to be run in a transaction.

    Args:
        db: the state's connection, before the snapshot is touched, and after `render_waiting`.
        places: a SELECT of the places of the calls; None is all.
    """
    calls = first_calls(db, places)
    if calls is None or (places is not None and not db.execute(f"{places} LIMIT 1").fetchone()):
        return
    keep(db, calls)
    if places is None:
        forget_first_calls(db)


def forget_first_calls(db: duckdb.DuckDBPyConnection) -> None:
    """Forget the calls that only rows of the snapshot tell; to be run in a transaction."""
    db.execute("DELETE FROM state.first_pass")


def first_calls(db: duckdb.DuckDBPyConnection, places: str | None = None) -> str | None:
    """The SELECT of the calls of the first pass whose rows are as they were; None where there is none.

    Its columns are those that `keep` wants. They were delivered, refused, or wait: the receipts tell.

    Args:
        db: the state's connection.
        places: a SELECT of the places of calls that count; None is all.
    """
    lanes = _lanes(db)
    if not lanes:
        return None
    before, condition, after = lanes[0].statement.rpartition(WITH_PLACE)
    statement = lanes[0].statement
    if places is not None:
        # The rows are looked for before anything is made of them.
        statement = f"{before}{condition} AND seq IN ({places}){after}" if condition else statement
    in_lanes = " OR ".join(f"seq BETWEEN {one.first_seq} AND {one.last_seq}" for one in lanes)
    which = "" if places is None or condition else f" AND seq IN ({places})"
    return f"""\
SELECT seq, '{lanes[0].run_id}' AS run_id, key, change, message_id, user_id, event, moment
FROM ({statement})
WHERE ({in_lanes}){which}"""


def _lanes(db: duckdb.DuckDBPyConnection) -> Sequence[UnrenderedLane]:
    """The lanes of the first pass, as they entered the outbox; all have one run and one statement."""
    found = db.execute(
        """
        SELECT lane, run_id, first_seq, last_seq, statement
        FROM state.first_pass
        WHERE first_seq <= last_seq
        ORDER BY first_seq
        """
    )
    return [UnrenderedLane(*row) for row in found.fetchall()]


def not_of_first_pass(seq: str) -> str:
    """The condition that the call at a place is not one of the first pass."""
    return f"NOT EXISTS (SELECT 1 FROM state.first_pass AS first WHERE {seq} BETWEEN first_seq AND last_seq)"


def last_place(db: duckdb.DuckDBPyConnection) -> int:
    """The last place of a first pass whose history is kept; 0 where there is none."""
    return int(db.execute(f"SELECT {LAST_PLACE}").fetchall()[0][0])


def are_receipts_older(db: duckdb.DuckDBPyConnection, moment: datetime) -> bool:
    """Whether calls of the first pass were delivered before a moment, which is UTC."""
    last = last_place(db)
    return last > 0 and receipts.is_there_older(db, moment, last)


def forget_before(db: duckdb.DuckDBPyConnection, moment: datetime) -> None:
    """Forget the calls that were delivered before a moment; to be run in a transaction.

    Args:
        db: the state's connection; the receipts of before were forgotten.
        moment: UTC.
    """
    db.execute("DELETE FROM state.delivered_call WHERE answered_at < ?", [moment.replace(tzinfo=None)])


def forget_first_pass(db: duckdb.DuckDBPyConnection) -> None:
    """Forget the first pass, where no receipt tells of it any more; to be run in a transaction."""
    if not unrendered.lanes(db) and not receipts.is_there_any_up_to(db, last_place(db)):
        forget_first_calls(db)


def delivered(db: duckdb.DuckDBPyConnection) -> str:
    """The SELECT of the delivered calls.

    Its columns are message_id, key, change, user_id, event, moment, run_id, delivered_in, status and
    answered_at.
    """
    columns = "key, change, user_id, event, moment, run_id, delivered_in, status, answered_at"
    calls = first_calls(db)
    kept = """\
SELECT
    coalesce(message_id, 'retl-' || replace(id::VARCHAR, '-', '')) AS message_id,
    * EXCLUDE (message_id, id) REPLACE (coalesce(user_id, key) AS user_id)
FROM state.delivered_call"""
    if calls is None:
        return kept
    return f"{kept}\nUNION ALL\nSELECT message_id, {columns} FROM ({receipts.with_answers(calls)})"
