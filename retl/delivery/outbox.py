"""The outbox: calls that Segment has not accepted yet, durable and in order.

A call enters it in the transaction that moves the snapshot, and is from then on only read. How far each
lane got is noted as a mark; `settle` takes out what lies below it. A call waits as finished text, or as a row
of the snapshot with the statement that makes its text (`retl.delivery.unrendered`); whoever reads the outbox
need not know which.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import duckdb

from retl import sql
from retl.delivery import receipts, unrendered
from retl.delivery.batch import Batch, joined
from retl.delivery.unrendered import UnrenderedLane

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
        last: the place of its last call.
    """

    number: int
    calls: int
    attempted: int
    last: int


@dataclass(frozen=True)
class Mark:
    """How far a lane has got.

    Attributes:
        lane: the lane.
        attempted: the place up to which calls may have gone out without a known answer.
        delivered: the place up to which calls were accepted.
    """

    lane: int
    attempted: int
    delivered: int


def lane_count(calls: int, connections: int) -> int:
    """Over how many lanes to spread so many calls: few calls make few, and so full, batches."""
    return max(1, min(connections, calls // CALLS_WORTH_A_LANE))


def renderwaiting(db: duckdb.DuckDBPyConnection) -> None:
    """Make the text of all calls that wait, since the rows that it is made of may change.

    To be run in a transaction, before the snapshot is touched.
    """
    later = unrendered.lanes(db)
    for one in later:
        db.execute(
            f"""
            INSERT INTO state.outbox BY NAME
            SELECT
                seq, ?::INTEGER AS lane, ?::VARCHAR AS run_id, key, change, message_id, body,
                strlen(body) AS bytes
            FROM ({_select(db, one)})
            """,
            [one.lane, one.run_id],
        )
    if later:
        unrendered.forget(db, [one.lane for one in later])
        settle(db)


def enqueue(db: duckdb.DuckDBPyConnection, run_id: str, lanes: int = 1, statement: str | None = None) -> int:
    """Put calls into the outbox, behind those that wait; returns how many.

    Within a lane they stand by timestamp (in an audience sync all by the moment of detection), then
    removed before added before changed, then key.

    Args:
        db: the state's connection, after `render_waiting`.
        run_id: the run that makes the calls.
        lanes: over how many lanes they are spread, where none waits.
        statement: the SELECT of the calls, whose text is made when they leave; no user has two of them. None
            where the calls are in the TEMP view `leaving`, as text.
    """
    is_first = is_empty(db)
    if is_first:
        # Places start anew, and no mark may be left to take a new call for a delivered one.
        db.execute("DELETE FROM state.mark")
    else:
        join_lanes(db)
    if statement is None:
        row = db.execute(_ENQUEUE, {"is_first": is_first, "run_id": run_id}).fetchone()
    elif is_first:
        return unrendered.enter(db, run_id, statement, lanes)
    else:
        row = db.execute(_APPEND.format(statement=statement), {"run_id": run_id}).fetchone()
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


_APPEND = """
INSERT INTO state.outbox BY NAME
SELECT
    (SELECT max(seq) FROM state.outbox) + row_number() OVER (ORDER BY seq) AS seq,
    0 AS lane, $run_id AS run_id, key, change, message_id, body, strlen(body) AS bytes
FROM ({statement})
"""


def _select(db: duckdb.DuckDBPyConnection, one: UnrenderedLane) -> str:
    """The SELECT of the calls of a lane that wait without a text."""
    return one.select(_delivered(db, one.lane), _ahead(db))


def _delivered(db: duckdb.DuckDBPyConnection, lane: int) -> int:
    """The place up to which a lane was delivered; 0 without a mark."""
    row = db.execute("SELECT delivered FROM state.mark WHERE lane = ?", [lane]).fetchone()
    return int(row[0]) if row else 0


def _ahead(db: duckdb.DuckDBPyConnection) -> list[int]:
    """The places of calls that were delivered ahead of their turn."""
    return [seq for (seq,) in db.execute("SELECT seq FROM state.outbox WHERE lane = ?", [AHEAD]).fetchall()]


def waiting(db: duckdb.DuckDBPyConnection) -> str:
    """The SELECT of the calls that wait: seq, lane, run_id, key, change, message_id, user_id and body."""
    parts = [_TEXTS]
    for one in unrendered.lanes(db):
        lane = f"{one.lane} AS lane, {sql.text(one.run_id)} AS run_id"
        parts.append(f"SELECT seq, {lane}, key, change, message_id, user_id, body FROM ({_select(db, one)})")
    return "\nUNION ALL\n".join(parts)


_TEXTS = """
SELECT
    seq, lane, run_id, key, change, message_id,
    coalesce(body ->> '$.userId', body ->> '$.anonymousId') AS user_id, body
FROM state.outbox LEFT JOIN state.mark USING (lane)
WHERE seq > coalesce(delivered, 0)
"""


def enqueue_again(db: duckdb.DuckDBPyConnection) -> None:
    """Put the calls of the TEMP table `again` behind those that wait; to be run in a transaction."""
    renderwaiting(db)
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


def listwaiting(db: duckdb.DuckDBPyConnection) -> None:
    """Make the TEMP table `dropped` (seq, run_id, key, change) of all calls that wait; after `settle`."""
    db.execute(
        f"CREATE OR REPLACE TEMP TABLE dropped AS SELECT seq, run_id, key, change FROM ({waiting(db)})"
    )


def drop(db: duckdb.DuckDBPyConnection) -> int:
    """Take out the calls of the TEMP table `dropped`; gives how many. To be run in a transaction."""
    texts = "DELETE FROM state.outbox WHERE lane <> ? AND seq IN (SELECT seq FROM dropped)"
    row = db.execute(texts, [AHEAD]).fetchone()
    assert row is not None
    later = unrendered.lanes(db)
    calls = sum(one.count(db, _delivered(db, one.lane), _ahead(db)) for one in later)
    if later:
        # No change of theirs has another call, so that all of them are in `dropped`.
        unrendered.forget(db, [one.lane for one in later])
        settle(db)
    return int(row[0]) + calls


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
    is_there_text = db.execute("SELECT 1 FROM state.outbox LIMIT 1").fetchone() is not None
    return not is_there_text and not unrendered.lanes(db)


def settle(db: duckdb.DuckDBPyConnection) -> None:
    """Take out what was delivered; to be run in a transaction.

    A mark stays where calls beyond it went out and their answer is not known.
    """
    marks = dict(db.execute("SELECT lane, delivered FROM state.mark").fetchall())
    # Calls without a text stay where they are, and so the note that some were delivered ahead.
    kept = AHEAD if unrendered.settle(db, marks) else None
    db.execute(
        """
        DELETE FROM state.outbox
        USING state.mark
        WHERE outbox.lane = mark.lane AND outbox.seq <= mark.delivered AND outbox.lane IS DISTINCT FROM ?
        """,
        [kept],
    )
    db.execute("DELETE FROM state.mark WHERE attempted <= delivered AND lane IS DISTINCT FROM ?", [kept])


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
    for one in unrendered.lanes(db):
        db.execute(
            """
            INSERT INTO state.mark
            SELECT $lane, $before, $before WHERE $lane NOT IN (SELECT lane FROM state.mark)
            """,
            {"lane": one.lane, "before": one.first_seq - 1},
        )


def lanes(db: duckdb.DuckDBPyConnection) -> tuple[Lane, ...]:
    """The lanes that hold calls; to be asked after `start_marks`."""
    rows = db.execute(
        """
        SELECT lane, count(*), any_value(attempted), max(seq)
        FROM state.outbox JOIN state.mark USING (lane)
        WHERE lane <> ?
        GROUP BY lane
        ORDER BY lane
        """,
        [AHEAD],
    ).fetchall()
    for one in unrendered.lanes(db):
        query = "SELECT attempted, delivered FROM state.mark WHERE lane = ?"
        ((attempted, delivered),) = db.execute(query, [one.lane]).fetchall()
        rows.append((one.lane, one.count(db, delivered, _ahead(db)), attempted, one.last_seq))
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
    later = unrendered.lanes(db)
    return int(row[0]) + sum(one.count(db, _delivered(db, one.lane), _ahead(db)) for one in later)


def run_ids(db: duckdb.DuckDBPyConnection) -> list[str]:
    """The runs whose calls wait."""
    found = db.execute(
        """
        SELECT DISTINCT run_id
        FROM state.outbox LEFT JOIN state.mark USING (lane)
        WHERE seq > coalesce(delivered, 0)
        """
    ).fetchall()
    later = {one.run_id for one in unrendered.lanes(db)}
    return sorted(later.union(run_id for (run_id,) in found))


def pages(
    db: duckdb.DuckDBPyConnection, lane: int, page_bytes: Callable[[], int] = lambda: PAGE_BYTES
) -> Iterator[Batch]:
    """All calls of a lane in order, a page at a time, each as one large batch.

    Args:
        db: the state's connection, or a cursor of it.
        lane: the lane.
        page_bytes: the size of the next page, about; asked for calls whose text is made. Texts come in pages
            of `PAGE_BYTES`.
    """
    for one in unrendered.lanes(db):
        if one.lane == lane:
            yield from one.pages(db, _delivered(db, lane), _ahead(db), page_bytes)
    for first, last in db.execute(_PAGES, [lane, lane]).fetchall():
        yield joined(lane, db.sql(_PAGE.format(lane=lane, first=first, last=last)).to_arrow_table())


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


def note_marks(db: duckdb.DuckDBPyConnection, marks: list[Mark]) -> None:
    """Note how far lanes have got; to be run in a transaction. What was delivered stays delivered."""
    db.execute(
        """
        UPDATE state.mark SET attempted = new.attempted, delivered = greatest(mark.delivered, new.delivered)
        FROM (SELECT unnest(?, recursive := true)) AS new
        WHERE mark.lane = new.lane
        """,
        [[mark.__dict__ for mark in marks]],
    )


def note_delivered_ahead(db: duckdb.DuckDBPyConnection, batch: Batch) -> None:
    """Note that Segment accepted a call before the others of its lane; to be run in a transaction."""
    later = next((one for one in unrendered.lanes(db) if one.lane == batch.lane), None)
    if later is None:
        moved = "UPDATE state.outbox SET lane = ? WHERE lane = ? AND seq = ?"
        db.execute(moved, [AHEAD, batch.lane, batch.first_seq])
    else:
        db.execute(
            f"""
            INSERT INTO state.outbox BY NAME
            SELECT
                seq, ?::INTEGER AS lane, ?::VARCHAR AS run_id, key, change, message_id, body,
                strlen(body) AS bytes
            FROM ({_select(db, later)})
            WHERE seq = ?
            """,
            [AHEAD, later.run_id, batch.first_seq],
        )
    if db.execute("SELECT 1 FROM state.mark WHERE lane = ?", [AHEAD]).fetchone() is None:
        db.execute("INSERT INTO state.mark VALUES (?, ?, ?)", [AHEAD, 2**62, 2**62])


AHEAD = -1
"""The lane of calls that were delivered before their turn; all of it is delivered."""


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
    if row is None:
        row = unrendered.one_call(db, batch.lane, batch.first_seq)
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
