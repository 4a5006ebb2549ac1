"""The outbox: calls that Segment has not accepted yet, durable and in order.

A call enters it in the transaction that moves the snapshot, and is from then on only read. How far each
lane got is noted as a mark; `settle` takes out what lies below it.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import duckdb
import numpy as np
import pyarrow as pa

from retl.delivery import receipts
from retl.delivery.batch import Batch

PAGE_BYTES = 4_000_000
"""How much of a lane is read from the outbox at a time, and one call more."""

CALLS_WORTH_A_LANE = 2_000
"""About two full batches."""


@dataclass(frozen=True)
class Lane:
    """A lane and its calls.

    Attributes:
        number: of the lane.
        calls: how many.
        attempted: the place up to which calls went out earlier without a known answer.
    """

    number: int
    calls: int
    attempted: int


def lane_count(calls: int, connections: int) -> int:
    """Over how many lanes to spread so many calls: few calls make few, and so full, batches."""
    return max(1, min(connections, calls // CALLS_WORTH_A_LANE))


def enqueue(db: duckdb.DuckDBPyConnection, run_id: str) -> int:
    """Put the calls of the TEMP view `leaving` into the outbox, behind those that wait; returns how many.

    Within a lane they stand by timestamp (in an audience sync all by the moment of detection), then
    removed before added before changed, then key.
    """
    is_first = is_empty(db)
    if is_first:
        # Places start anew, and no mark may be left to take a new call for a delivered one.
        db.execute("DELETE FROM state.mark")
    else:
        join_lanes(db)
    row = db.execute(_ENQUEUE, {"is_first": is_first, "run_id": run_id}).fetchone()
    assert row is not None
    return int(row[0])


_ENQUEUE = """
INSERT INTO state.outbox
SELECT
    (SELECT coalesce(max(seq), 0) FROM state.outbox)
        + row_number() OVER (ORDER BY lane, place, rank, key) AS seq,
    CASE WHEN $is_first THEN lane ELSE 0 END AS lane, $run_id AS run_id, key, change, message_id, body, bytes
FROM leaving
ORDER BY seq
"""


def enqueue_again(db: duckdb.DuckDBPyConnection) -> None:
    """Put the calls of the TEMP table `again` behind those that wait; to be run in a transaction."""
    if not is_empty(db):
        join_lanes(db)
    else:
        db.execute("DELETE FROM state.mark")
    db.execute(
        """
        INSERT INTO state.outbox
        SELECT
            (SELECT coalesce(max(seq), 0) FROM state.outbox) + row_number() OVER (ORDER BY place) AS seq,
            0 AS lane, run_id, key, change, message_id, body, strlen(body) AS bytes
        FROM again
        """
    )


def list_waiting(db: duckdb.DuckDBPyConnection) -> None:
    """Make the TEMP table `dropped` (seq, run_id, key, change) of all calls that wait; after `settle`."""
    db.execute(
        """
        CREATE OR REPLACE TEMP TABLE dropped AS
        SELECT seq, run_id, key, change FROM state.outbox
        """
    )


def drop(db: duckdb.DuckDBPyConnection) -> int:
    """Take out the calls of the TEMP table `dropped`; gives how many. To be run in a transaction."""
    row = db.execute("DELETE FROM state.outbox WHERE seq IN (SELECT seq FROM dropped)").fetchone()
    assert row is not None
    return int(row[0])


def drop_again(db: duckdb.DuckDBPyConnection) -> None:
    """Take those calls of the TEMP table `again` out that still wait, into the TEMP table `failed_again`.

    To be run in a transaction, after `settle`.
    """
    db.execute(
        """
        CREATE OR REPLACE TEMP TABLE failed_again AS
        SELECT again.*, seq
        FROM again JOIN state.outbox USING (run_id, key, change, message_id)
        """
    )
    db.execute("DELETE FROM state.outbox WHERE seq IN (SELECT seq FROM failed_again)")


def overtaken(db: duckdb.DuckDBPyConnection, message_ids: list[str]) -> list[str]:
    """The calls among these that have a later call of their user in the outbox, delivered or not.

    To be asked before `settle`.
    """
    there = db.execute("SELECT 1 FROM state.outbox WHERE list_contains(?, message_id) LIMIT 1", [message_ids])
    if there.fetchone() is None:
        return []
    found = db.execute(
        f"""
        SELECT DISTINCT call.message_id
        FROM (SELECT *, {_USER} AS user_id FROM state.outbox WHERE list_contains($ids, message_id)) AS call
        JOIN (SELECT seq, {_USER} AS user_id FROM state.outbox) AS later
            ON later.user_id = call.user_id AND later.seq > call.seq
        """,
        {"ids": message_ids},
    )
    return [message_id for (message_id,) in found.fetchall()]


_USER = "coalesce(body ->> '$.userId', body ->> '$.anonymousId')"


def join_lanes(db: duckdb.DuckDBPyConnection) -> None:
    """Let all calls that wait share a lane; to be run in a transaction, after `settle`.

    Calls that come behind them may be spread otherwise, and each user must find its calls in one lane.
    """
    (attempted, first) = db.execute(
        "SELECT (SELECT max(attempted) FROM state.mark), (SELECT min(seq) FROM state.outbox)"
    ).fetchall()[0]
    db.execute("DELETE FROM state.mark")
    db.execute("INSERT INTO state.mark VALUES (0, greatest(?, ?), ?)", [attempted, first - 1, first - 1])
    db.execute("UPDATE state.outbox SET lane = 0 WHERE lane <> 0")


def is_empty(db: duckdb.DuckDBPyConnection) -> bool:
    """Whether there is nothing to deliver or to settle; a mark left over counts only beside calls."""
    return db.execute("SELECT 1 FROM state.outbox LIMIT 1").fetchone() is None


def settle(db: duckdb.DuckDBPyConnection) -> None:
    """Take out what was delivered; to be run in a transaction.

    A mark stays where calls beyond it went out and their answer is not known.
    """
    db.execute(
        """
        DELETE FROM state.outbox
        USING state.mark
        WHERE outbox.lane = mark.lane AND outbox.seq <= mark.delivered
        """
    )
    db.execute("DELETE FROM state.mark WHERE attempted <= delivered")


def start_marks(db: duckdb.DuckDBPyConnection) -> None:
    """See that each lane that holds calls has a mark; to be run in a transaction, after `settle`."""
    db.execute(
        """
        INSERT INTO state.mark
        SELECT lane, min(seq) - 1 AS attempted, min(seq) - 1 AS delivered
        FROM state.outbox
        WHERE lane NOT IN (SELECT lane FROM state.mark)
        GROUP BY lane
        """
    )


def lanes(db: duckdb.DuckDBPyConnection) -> tuple[Lane, ...]:
    """The lanes that hold calls; to be asked after `start_marks`."""
    rows = db.execute(
        """
        SELECT lane, count(*), any_value(attempted)
        FROM state.outbox JOIN state.mark USING (lane)
        GROUP BY lane
        ORDER BY lane
        """
    ).fetchall()
    return tuple(Lane(*row) for row in rows)


def pending(db: duckdb.DuckDBPyConnection) -> int:
    """How many calls wait."""
    row = db.execute(
        """
        SELECT count(*)
        FROM state.outbox LEFT JOIN state.mark USING (lane)
        WHERE seq > coalesce(delivered, 0)
        """
    ).fetchone()
    assert row is not None
    return int(row[0])


def run_ids(db: duckdb.DuckDBPyConnection) -> list[str]:
    """The runs whose calls wait."""
    found = db.execute(
        """
        SELECT DISTINCT run_id
        FROM state.outbox LEFT JOIN state.mark USING (lane)
        WHERE seq > coalesce(delivered, 0)
        """
    )
    return [run_id for (run_id,) in found.fetchall()]


def pages(db: duckdb.DuckDBPyConnection, lane: int) -> Iterator[Batch]:
    """All calls of a lane in order, a few megabytes at a time, each page as one large batch."""
    for first, last in db.execute(_PAGES, [lane, lane]).fetchall():
        yield _joined(lane, db.sql(_PAGE.format(lane=lane, first=first, last=last)).to_arrow_table())


_PAGES = f"""
SELECT min(seq), max(seq)
FROM (
    SELECT seq, sum(bytes) OVER (ORDER BY seq) // {PAGE_BYTES} AS page
    FROM state.outbox
    WHERE lane = ? AND seq > coalesce((SELECT delivered FROM state.mark WHERE lane = ?), 0)
)
GROUP BY page
ORDER BY page
"""

_PAGE = """
SELECT seq, body || ',' AS text
FROM state.outbox
WHERE lane = {lane} AND seq BETWEEN {first} AND {last}
ORDER BY seq
"""


def _joined(lane: int, calls: pa.Table) -> Batch:
    """The calls as one batch, whose text is the very memory in which Arrow has them side by side."""
    text = calls.column("text").combine_chunks()
    _, offsets, characters = text.buffers()
    starts = np.frombuffer(offsets, np.int32, count=len(text) + 1, offset=4 * text.offset).astype(np.int64)
    first, last = int(starts[0]), int(starts[-1])
    return Batch(
        lane,
        calls.column("seq").combine_chunks().to_numpy(),
        starts[1:] - first - 1,
        memoryview(characters)[first : last - 1],
    )


def note_attempted(db: duckdb.DuckDBPyConnection, lane: int, seq: int) -> None:
    """Note up to which place calls went out whose answer is not known."""
    db.execute("UPDATE state.mark SET attempted = ? WHERE lane = ?", [seq, lane])


def note_delivered(db: duckdb.DuckDBPyConnection, batch: Batch) -> None:
    """Note that Segment accepted a batch; to be run in a transaction."""
    db.execute("UPDATE state.mark SET delivered = ? WHERE lane = ?", [batch.last_seq, batch.lane])


def note_delivered_ahead(db: duckdb.DuckDBPyConnection, batch: Batch) -> None:
    """Note that Segment accepted a call before the others of its lane; to be run in a transaction."""
    db.execute(
        "UPDATE state.outbox SET lane = ? WHERE lane = ? AND seq = ?", [AHEAD, batch.lane, batch.first_seq]
    )
    if db.execute("SELECT 1 FROM state.mark WHERE lane = ?", [AHEAD]).fetchone() is None:
        db.execute("INSERT INTO state.mark VALUES (?, ?, ?)", [AHEAD, 2**62, 2**62])


AHEAD = -1
"""The lane of calls that were delivered before their turn; all of it is delivered."""


LOOKED_AT = 100_000
"""Calls of a lane among which others are looked for; bounds the time and the memory that this takes."""


def first_of_others(db: duckdb.DuckDBPyConnection, lane: int, seq: int, most: int) -> list[Batch]:
    """Calls behind a place in a lane that may go out before it: each is the first one of its user that waits.

    At most so many, each as a batch; last the newest run's, as an older one's were tried before.
    """
    found = db.execute(_FIRST_OF_OTHERS, {"lane": lane, "seq": seq, "most": most, "looked_at": LOOKED_AT})
    return [_alone(*call) for call in reversed(found.fetchall())]


_FIRST_OF_OTHERS = f"""
WITH first_of_user AS (
    SELECT min(seq) AS seq
    FROM state.outbox JOIN state.mark USING (lane)
    WHERE lane = $lane AND seq > delivered AND seq <= $seq + $looked_at
    GROUP BY {_USER}
)
SELECT lane, seq, body
FROM state.outbox JOIN first_of_user USING (seq)
WHERE lane = $lane AND seq > $seq
ORDER BY run_id DESC, hash(seq)
LIMIT $most
"""


def _alone(lane: int, seq: int, body: str) -> Batch:
    text = body.encode()
    return Batch(lane, np.array([seq]), np.array([len(text)]), memoryview(text))


@dataclass(frozen=True)
class RefusedCall:
    """A call of the outbox that the destination refuses for good, as the outbox holds it."""

    run_id: str
    key: str
    change: str
    message_id: str
    body: str


def refuse(db: duckdb.DuckDBPyConnection, batch: Batch) -> RefusedCall:
    """Let the lane of a refused call go on behind it; gives the call. To be run in a transaction.

    Args:
        batch: holds this call alone.
    """
    row = db.execute(
        "SELECT run_id, key, change, message_id, body FROM state.outbox WHERE lane = ? AND seq = ?",
        [batch.lane, batch.first_seq],
    ).fetchone()
    assert row is not None, "a call that was sent is in the outbox"
    db.execute(
        "UPDATE state.mark SET delivered = greatest(delivered, ?) WHERE lane = ?",
        [batch.last_seq, batch.lane],
    )
    return RefusedCall(*row)


def may_have_arrived(db: duckdb.DuckDBPyConnection) -> bool:
    """Whether a call of this outbox was accepted, or went out without an answer."""
    unsure = db.execute("SELECT 1 FROM state.mark WHERE attempted > delivered LIMIT 1").fetchone()
    return unsure is not None or receipts.is_there_any(db)
