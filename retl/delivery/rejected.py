"""Rejected rows, which are kept until they are fixed, and calls that were refused for good."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import duckdb

from retl import sql
from retl.delivery import outbox, rendered
from retl.delivery.rejection_list import ReasonCount, RejectedCall, RejectedRow, RejectedText
from retl.delivery.rendered import RefusedCall
from retl.reason import Reason

REASONS = {reason.value: reason.meaning for reason in Reason}
"""Every reason code, with its meaning."""


def record(db: duckdb.DuckDBPyConnection, run_id: str, now: datetime) -> int:
    """Keep this run's rejected rows, and the calls of rows that are gone; returns how many calls.

    Rejections of rows that are fixed, or gone, are ended. To be run in the run's transaction.
    """
    moment = now.replace(tzinfo=None)
    if db.execute(_IS_OR_WAS_ANY).fetchone() == (True,):  # in most runs there is none, and little to do
        db.execute(_ROWS, {"now": moment})
        if db.execute(f"SELECT 1 FROM ({_ENDED}) LIMIT 1").fetchone():
            db.execute(_END_ROWS, {"run_id": run_id, "now": moment})
        db.execute("DELETE FROM state.rejected_row")
        db.execute("INSERT INTO state.rejected_row BY NAME SELECT * FROM rejected_row_now")
    row = db.execute(_CALLS, {"run_id": run_id, "now": moment}).fetchone()
    assert row is not None
    return int(row[0])


_IS_OR_WAS_ANY = """
SELECT
    EXISTS (SELECT 1 FROM rejected)
    OR EXISTS (SELECT 1 FROM row_fault)
    OR EXISTS (SELECT 1 FROM state.rejected_row)
"""

_ROWS = """
CREATE OR REPLACE TEMP TABLE rejected_row_now AS
SELECT
    new.key, new.reason, new.rows,
    coalesce(old.first_seen, $now) AS first_seen,
    $now AS last_seen,
    coalesce(old.times, 0) + 1 AS times,
    of_user.user_id, fault.at_fault, fault.value
FROM (
    SELECT key, reason, rows FROM rejected
    UNION ALL
    SELECT key, reason, rows FROM row_fault WHERE key IS NULL
) AS new
LEFT JOIN state.rejected_row AS old
    ON new.key IS NOT DISTINCT FROM old.key
LEFT JOIN (
    SELECT key, any_value(user_id) AS user_id FROM call WHERE key IN (SELECT key FROM rejected) GROUP BY key
) AS of_user
    ON new.key = of_user.key
LEFT JOIN value_at_fault AS fault
    ON new.key IS NOT DISTINCT FROM fault.key
"""

_ENDED = """
SELECT * FROM state.rejected_row AS old
WHERE NOT EXISTS (SELECT 1 FROM rejected_row_now AS now WHERE now.key IS NOT DISTINCT FROM old.key)
"""

# A row that is neither staged nor in the snapshot is gone; one that is in both alike is not staged.
_END_ROWS = f"""
INSERT INTO state.ended_rejection BY NAME
SELECT
    * EXCLUDE rows, $now AS ended_at, $run_id AS ended_in,
    CASE
        WHEN key IN (SELECT key FROM leaving WHERE change <> 'removed') THEN 'sent'
        WHEN key IN (SELECT key FROM change WHERE change = 'removed') THEN 'gone'
        WHEN key IN (SELECT key FROM known) OR key IN (SELECT key FROM stage) THEN 'fixed'
        ELSE 'gone'
    END AS how
FROM ({_ENDED})
"""

_CALLS = """
INSERT INTO state.rejected_call BY NAME
SELECT
    $run_id AS run_id, key, change, message_id, body, reason, $now AS rejected_at, $run_id AS rejected_in,
    user_id, false AS overtaken, coalesce(event, type) AS event, moment
FROM call
WHERE reason IS NOT NULL AND rank = 0 AND (change = 'removed' OR key NOT IN (SELECT key FROM rejected))
"""


def keep_call(
    db: duckdb.DuckDBPyConnection,
    call: RefusedCall,
    answer: str,
    run_id: str,
    now: datetime,
    unsure: bool = False,
) -> None:
    """Keep a call that the destination refused, with its answer; to be run in a transaction.

    Args:
        db: the state's connection.
        call: as the outbox held it.
        answer: of the destination, in a few words.
        run_id: the run that got the answer.
        now: UTC.
        unsure: whether the call had gone out before, and no answer had come.
    """
    db.execute(
        f"""
        INSERT INTO state.rejected_call BY NAME
        SELECT
            $made_in AS run_id, $key AS key, $change AS change, $message_id AS message_id, $body AS body,
            $reason AS reason, $answer AS answer, $now AS rejected_at, $run_id AS rejected_in,
            $user_id AS user_id, $event AS event, $moment AS moment, $unsure AS unsure,
            EXISTS (
                SELECT 1 FROM state.ended_rejection
                WHERE how = {sql.text(_SENT_STALE)} AND message_id = $message_id
            ) AS overtaken
        """,
        {
            "made_in": call.run_id,
            "key": call.key,
            "change": call.change,
            "message_id": call.message_id,
            "body": call.body,
            "user_id": call.user_id,
            "event": call.event,
            "moment": call.moment,
            "unsure": unsure,
            "reason": Reason.REFUSED.value,
            "answer": answer,
            "now": now.replace(tzinfo=None),
            "run_id": run_id,
        },
    )
    _reopen(db, sql.text(call.message_id))


def note_overtaken(db: duckdb.DuckDBPyConnection) -> None:
    """Note of which refused calls a later one of their user was delivered; to be run before `settle`."""
    waits = "reason = ? AND NOT overtaken"
    any_waits = f"SELECT 1 FROM state.rejected_call WHERE {waits} LIMIT 1"
    if db.execute(any_waits, [Reason.REFUSED.value]).fetchone():
        later = outbox.delivered_behind(db, "SELECT * FROM state.rejected_call")
        overtake = (
            f"UPDATE state.rejected_call SET overtaken = true WHERE {waits} AND message_id IN ({later})"
        )
        db.execute(overtake, [Reason.REFUSED.value])


def _is_overtaken(db: duckdb.DuckDBPyConnection) -> str:
    """The condition that a refused call is older than one of its user that was delivered, or waits."""
    waiting = f"SELECT user_id FROM ({outbox.waiting(db)}) SEMI JOIN state.rejected_call USING (user_id)"
    return f"(overtaken OR coalesce(user_id IN ({waiting}), false))"


def take_again(db: duckdb.DuckDBPyConnection, stale: bool, run_id: str, now: datetime) -> int:
    """Move the refused calls to the TEMP table `again`; gives how many. To be run in a transaction.

    Their rejections are over, until they are refused once more. Calls that retl's own check rejected stay:
    Segment would drop them.

    Args:
        db: the state's connection.
        stale: whether calls go, too, of whose user a newer one was delivered, or waits.
        run_id: the run that sends them; calls that it was refused just now stay.
        now: UTC.
    """
    chosen = f"reason = $refused AND rejected_in <> $run_id AND ($stale OR NOT {_is_overtaken(db)})"
    values = {"refused": Reason.REFUSED.value, "stale": stale, "run_id": run_id}
    db.execute(
        f"""
        CREATE OR REPLACE TEMP TABLE again AS
        SELECT
            * REPLACE ({_is_overtaken(db)} AS overtaken),
            row_number() OVER (ORDER BY rowid) AS place  -- of a user, as they were made
        FROM state.rejected_call
        WHERE {chosen}
        """,
        values,
    )
    taken = db.execute(f"DELETE FROM state.rejected_call WHERE {chosen}", values).fetchone()
    assert taken is not None
    how = f"CASE WHEN overtaken THEN {sql.text(_SENT_STALE)} ELSE {sql.text(_SENT)} END"
    ended = {"now": now.replace(tzinfo=None), "run_id": run_id}
    db.execute(_END_CALLS.format(calls="again", how=how), ended)
    return int(taken[0])


_END_CALLS = """
INSERT INTO state.ended_rejection BY NAME
SELECT
    key, change, message_id, user_id, event, moment, reason, answer, run_id,
    rejected_at AS first_seen, rejected_at AS last_seen, 1 AS times,
    $now AS ended_at, $run_id AS ended_in, {how} AS how
FROM {calls}
"""


_SENT, _SENT_STALE = "sent", "sent stale"

_IS_SENT = f"how IN ({sql.text(_SENT)}, {sql.text(_SENT_STALE)})"


def _reopen(db: duckdb.DuckDBPyConnection, calls: str) -> None:
    """Take back that the rejections of these calls, a SELECT of message ids, were ended by a retry."""
    db.execute(f"DELETE FROM state.ended_rejection WHERE {_IS_SENT} AND message_id IN ({calls})")


_SENT_AND_WAITING = f"""
CREATE OR REPLACE TEMP TABLE again AS
SELECT
    call.run_id, call.key, call.change, call.message_id, call.body, sent.reason, sent.answer,
    sent.first_seen AS rejected_at, sent.ended_in AS rejected_in, call.user_id,
    sent.how = {sql.text(_SENT_STALE)} AS overtaken, call.event, call.moment, NULL::BOOLEAN AS unsure,
    0 AS place
FROM ({{waiting}}) AS call JOIN state.ended_rejection AS sent USING (run_id, key, change, message_id)
WHERE {_IS_SENT} AND sent.reason = {sql.text(Reason.REFUSED.value)}
QUALIFY row_number() OVER (PARTITION BY message_id ORDER BY sent.ended_at DESC) = 1
"""


def take_back_sent(db: duckdb.DuckDBPyConnection) -> int:
    """Keep the calls as rejected again that wait because a retry was killed; gives how many.

    To be run in a transaction, after `settle`.
    """
    db.execute(_SENT_AND_WAITING.format(waiting=outbox.waiting(db)))
    rendered.drop_again(db)
    return put_again_back(db, None)


def put_again_back(db: duckdb.DuckDBPyConnection, run_id: str | None) -> int:
    """Keep the calls of the TEMP table `failed_again` as rejected in this run; gives how many.

    None is the run that sent each of them again.
    """
    _reopen(db, "SELECT message_id FROM failed_again")
    row = db.execute(
        """
        INSERT INTO state.rejected_call BY NAME
        SELECT * EXCLUDE (place, seq) REPLACE (coalesce($run_id, rejected_in) AS rejected_in)
        FROM failed_again
        ORDER BY seq
        """,
        {"run_id": run_id},
    ).fetchone()
    assert row is not None
    return int(row[0])


def overtake_all(db: duckdb.DuckDBPyConnection) -> None:
    """Let all rejected calls be sent again only where that is asked for; to be run in a transaction."""
    db.execute("UPDATE state.rejected_call SET overtaken = true")


@dataclass(frozen=True)
class Left:
    """The rejected calls that `retl retry` does not send.

    Attributes:
        overtaken: calls of users of whom a newer call was delivered, or waits.
        unfit: calls that retl's own check rejected.
    """

    overtaken: int
    unfit: int


def left(db: duckdb.DuckDBPyConnection) -> Left:
    """Count the rejected calls that cannot go again just so."""
    row = db.execute(
        f"""
        SELECT
            count(*) FILTER (reason = $refused AND {_is_overtaken(db)}),
            count(*) FILTER (reason <> $refused)
        FROM state.rejected_call
        """,
        {"refused": Reason.REFUSED.value},
    ).fetchone()
    assert row is not None
    return Left(*row)


def discard(db: duckdb.DuckDBPyConnection, now: datetime) -> int:
    """End the rejections of all rejected calls, which are sent no more; gives how many.

    To be run in a transaction; `now` is UTC.
    """
    ended = {"now": now.replace(tzinfo=None), "run_id": None}
    db.execute(_END_CALLS.format(calls="state.rejected_call", how="'discarded'"), ended)
    row = db.execute("DELETE FROM state.rejected_call").fetchone()
    assert row is not None
    return int(row[0])


def forget_before(db: duckdb.DuckDBPyConnection, moment: datetime, run_id: str) -> int:
    """Forget rows and calls that were rejected before a moment; gives how many calls.

    Args:
        db: the state's connection, in a transaction.
        moment: UTC.
        run_id: the run that is under way; calls that it rejected stay, though they were rejected before.
    """
    before = moment.replace(tzinfo=None)
    db.execute("DELETE FROM state.rejected_row WHERE last_seen < ?", [before])
    calls = "DELETE FROM state.rejected_call WHERE rejected_at < ? AND rejected_in <> ?"
    row = db.execute(calls, [before, run_id]).fetchone()
    assert row is not None
    return int(row[0])


def forget_ended_before(db: duckdb.DuckDBPyConnection, moment: datetime) -> None:
    """Forget the rejections that ended before a moment, which is UTC; to be run in a transaction.

    Those of calls that wait to be sent again are needed where the calls are discarded.
    """
    db.execute(
        f"""
        DELETE FROM state.ended_rejection
        WHERE ended_at < ? AND (message_id IS NULL OR message_id NOT IN ({rendered.MESSAGE_IDS}))
        """,
        [moment.replace(tzinfo=None)],
    )


def rejected_in(db: duckdb.DuckDBPyConnection, run_id: str) -> int:
    """How many calls were rejected in a run."""
    row = db.execute("SELECT count(*) FROM state.rejected_call WHERE rejected_in = ?", [run_id]).fetchone()
    assert row is not None
    return int(row[0])


def rejected_rows(
    db: duckdb.DuckDBPyConnection, limit: int, reasons: Sequence[str] = ()
) -> list[RejectedRow]:
    """The rows that cannot be sent, newest first: `limit` at most, of these reasons where any is given."""
    found = db.execute(
        """
        SELECT key, reason, rows, first_seen, last_seen, times, user_id, at_fault, value
        FROM state.rejected_row
        WHERE len($reasons) = 0 OR list_contains($reasons, reason)
        ORDER BY first_seen DESC, key
        LIMIT $limit
        """,
        {"reasons": list(reasons), "limit": limit},
    )
    return [RejectedRow(*row) for row in found.fetchall()]


def rejected_calls(
    db: duckdb.DuckDBPyConnection, limit: int, reasons: Sequence[str] = ()
) -> list[RejectedCall]:
    """The calls that were refused for good; newest first, `limit` and `reasons` as for `rejected_rows`."""
    found = db.execute(
        """
        SELECT key, change, reason, message_id, answer, rejected_at, user_id, body
        FROM state.rejected_call
        WHERE len($reasons) = 0 OR list_contains($reasons, reason)
        ORDER BY rejected_at DESC, key
        LIMIT $limit
        """,
        {"reasons": list(reasons), "limit": limit},
    )
    return [RejectedCall(*call) for call in found.fetchall()]


def rejected_texts(db: duckdb.DuckDBPyConnection, limit: int) -> list[RejectedText]:
    """The values of the calls that `rejected_calls` lists, in the same order."""
    found = db.execute(
        "SELECT user_id, body FROM state.rejected_call ORDER BY rejected_at DESC, key LIMIT ?", [limit]
    )
    return [RejectedText(*texts) for texts in found.fetchall()]


def counts_by_reason(db: duckdb.DuckDBPyConnection, reasons: Sequence[str] = ()) -> list[ReasonCount]:
    """The reasons of rejected rows and calls, the most frequent first; only these where any is given."""
    found = db.execute(
        """
        SELECT reason, sum(rows)::BIGINT, sum(calls)::BIGINT, min(first_seen), max(last_seen)
        FROM (
            SELECT reason, rows, 0 AS calls, first_seen, last_seen FROM state.rejected_row
            UNION ALL
            SELECT reason, 0, 1, rejected_at, rejected_at FROM state.rejected_call
        )
        WHERE len($reasons) = 0 OR list_contains($reasons, reason)
        GROUP BY reason
        ORDER BY sum(rows) + sum(calls) DESC, reason
        """,
        {"reasons": list(reasons)},
    )
    return [ReasonCount(*one) for one in found.fetchall()]


def counts(db: duckdb.DuckDBPyConnection) -> tuple[int, int]:
    """Rejected rows and rejected calls that are kept."""
    row = db.execute(
        """
        SELECT
            (SELECT coalesce(sum(rows), 0) FROM state.rejected_row),
            (SELECT count(*) FROM state.rejected_call)
        """
    ).fetchone()
    assert row is not None
    return int(row[0]), int(row[1])


CALLS = """
SELECT
    message_id, key, change, user_id, event, moment, 'rejected' AS state, run_id, rejected_in AS answered_in,
    rejected_at AS answered_at, reason, answer
FROM state.rejected_call
UNION ALL
SELECT
    message_id, key, change, user_id, event, moment, 'discarded', run_id, NULL, last_seen, reason, answer
FROM state.ended_rejection
WHERE how = 'discarded'
"""
"""The SELECT of the calls that are kept as rejected, and of those that were discarded."""

REJECTIONS = """
SELECT
    key, change, message_id, user_id, event, moment, reason, answer, at_fault, value, run_id,
    first_seen, last_seen, times, ended_at, ended_in, how
FROM state.ended_rejection
UNION ALL BY NAME
SELECT * EXCLUDE rows FROM state.rejected_row
UNION ALL BY NAME
SELECT
    key, change, message_id, user_id, event, moment, reason, answer, run_id, rejected_at AS first_seen,
    rejected_at AS last_seen, 1 AS times
FROM state.rejected_call
"""
"""The SELECT of all rejections, of rows and of calls; `how` is NULL for those that are open."""
