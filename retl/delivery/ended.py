"""Rejections that are over: of rows that were fixed or are gone, of calls that were sent or discarded."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import duckdb

from retl.delivery.rejected import REJECTIONS


@dataclass(frozen=True)
class EndedRejection:
    """A rejection of a row or of a call that is over; moments are UTC, without a time zone.

    Attributes:
        key: the primary key as text; None for the rows without one.
        change: of a call: the change of the row that made it; None of a row, as `message_id` and `answer`.
        message_id: Segment's `messageId`.
        user_id: whom it is about, where that is known.
        reason: the reason code.
        answer: of Segment.
        at_fault: the column whose value was the reason; None where no single one was.
        value: the beginning of that value; of rows without a key, of one of them, whole.
        first_seen: since when it was rejected.
        last_seen: when a run last met it.
        times: how many runs met it, one after another.
        ended_at: until when it was rejected.
        ended_in: the run that ended it; None where none did.
        how: "sent"; "sent stale", where a newer call of its user had overtaken it; "fixed" without a call;
            "gone" from the model; or "discarded".
    """

    key: str | None
    change: str | None
    message_id: str | None
    user_id: str | None
    reason: str
    answer: str | None
    at_fault: str | None
    value: str | None
    first_seen: datetime
    last_seen: datetime
    times: int
    ended_at: datetime
    ended_in: str | None
    how: str


_ENDED = (
    f"FROM ({REJECTIONS}) WHERE how IS NOT NULL AND (len($reasons) = 0 OR list_contains($reasons, reason))"
)


def ended_rejections(
    db: duckdb.DuckDBPyConnection, limit: int, reasons: Sequence[str] = ()
) -> list[EndedRejection]:
    """The rejections that ended last: `limit` at most, of these reasons where any is given."""
    found = db.execute(
        f"""
        SELECT
            key, change, message_id, user_id, reason, answer, at_fault, value, first_seen, last_seen, times,
            ended_at, ended_in, how
        {_ENDED}
        ORDER BY ended_at DESC, first_seen DESC, key
        LIMIT $limit
        """,
        {"reasons": list(reasons), "limit": limit},
    )
    return [EndedRejection(*one) for one in found.fetchall()]


def count_ended(db: duckdb.DuckDBPyConnection, reasons: Sequence[str] = ()) -> int:
    """How many rejections that are over are kept, of these reasons where any is given."""
    row = db.execute(f"SELECT count(*) {_ENDED}", {"reasons": list(reasons)}).fetchone()
    assert row is not None
    return int(row[0])
