"""The outbox: calls that Segment has not accepted yet, durable and in order.

A call enters it in the transaction that moves the snapshot, and is from then on only read. How far each
lane got is noted as a mark (`retl.delivery.marks`); `settle` takes out what lies below it. A call waits as
finished text (`retl.delivery.rendered`), or as a row of the snapshot with the statement that makes its text
(`retl.delivery.unrendered`); whoever reads the outbox need not know which.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import duckdb

from retl import sql
from retl.delivery import history, marks, receipts, rendered, unrendered
from retl.delivery.batch import Batch
from retl.delivery.marks import AHEAD, Mark
from retl.delivery.rendered import RefusedCall
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
        call_bytes: the size of a call, about, where its calls are yet to be made, of rows that stand in the
            order of their places; None is always safe, and slower.
    """

    number: int
    calls: int
    attempted: int
    last: int
    call_bytes: int | None = None


def lane_count(calls: int, connections: int) -> int:
    """Over how many lanes to spread so many calls: few calls make few, and so full, batches."""
    return max(1, min(connections, calls // CALLS_WORTH_A_LANE))


def render_waiting(db: duckdb.DuckDBPyConnection) -> None:
    """Make the text of all calls that wait, since the rows that it is made of may change.

    To be run in a transaction, before the snapshot is touched.
    """
    later = unrendered.lanes(db)
    for one in later:
        rendered.insert(db, _unrendered(db, one))
    _end(db, later)


def _end(db: duckdb.DuckDBPyConnection, later: Sequence[UnrenderedLane]) -> None:
    """Let the calls of these lanes be unrendered no more."""
    for one in later:
        history.end_lane(db, one.lane, max(one.first_seq - 1, marks.delivered(db, one.lane)))
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
        # No mark may be left that says something of other calls.
        marks.forget(db)
    else:
        join_lanes(db)
    if statement is None:
        return rendered.enter(db, run_id, is_first)
    if is_first:
        entered = unrendered.enter(db, run_id, statement, lanes)
        history.begin_first_pass(db)
        return entered
    return rendered.append(db, run_id, statement)


def _unrendered(db: duckdb.DuckDBPyConnection, one: UnrenderedLane) -> str:
    """The SELECT of the calls of a lane that wait without a text, with the columns of `waiting`."""
    calls = one.select(marks.delivered(db, one.lane), rendered.ahead(db))
    lane = f"{one.lane} AS lane, {sql.text(one.run_id)} AS run_id"
    return f"SELECT seq, {lane}, key, change, message_id, user_id, event, moment, body FROM ({calls})"


def _count_unrendered(db: duckdb.DuckDBPyConnection, later: Sequence[UnrenderedLane]) -> dict[int, int]:
    """How many calls of these lanes wait without a text, by lane."""
    return unrendered.count(db, later, marks.delivered_by_lane(db), rendered.ahead(db)) if later else {}


def waiting(db: duckdb.DuckDBPyConnection) -> str:
    """The SELECT of the calls that wait.

    Its columns are seq, lane, run_id, key, change, message_id, user_id, event, moment and body.
    """
    return "\nUNION ALL\n".join([rendered.WAITING, *(_unrendered(db, one) for one in unrendered.lanes(db))])


def enqueue_again(db: duckdb.DuckDBPyConnection) -> None:
    """Put the calls of the TEMP table `again` behind those that wait; to be run in a transaction."""
    render_waiting(db)
    if is_empty(db):
        marks.forget(db)
    else:
        join_lanes(db)
    rendered.enter_again(db)


def list_waiting(db: duckdb.DuckDBPyConnection) -> None:
    """Make the TEMP table `dropped` (seq, run_id, key, change) of all calls that wait; after `settle`."""
    db.execute(
        f"CREATE OR REPLACE TEMP TABLE dropped AS SELECT seq, run_id, key, change FROM ({waiting(db)})"
    )


def drop(db: duckdb.DuckDBPyConnection) -> int:
    """Take out the calls of the TEMP table `dropped`; gives how many. To be run in a transaction."""
    texts, later = rendered.drop(db), unrendered.lanes(db)
    calls = sum(_count_unrendered(db, later).values())
    if later:
        # No change of theirs has another call, so that all of them are in `dropped`.
        _end(db, later)
    return texts + calls


def dropped_by_run(db: duckdb.DuckDBPyConnection) -> dict[str, int]:
    """How many calls of the TEMP table `dropped` each run made."""
    found = db.execute("SELECT run_id, count(*) FROM dropped GROUP BY run_id ORDER BY run_id")
    return dict(found.fetchall())


def delivered_behind(db: duckdb.DuckDBPyConnection, refused: str) -> str:
    """The SELECT of the refused calls behind which a call of their user was delivered, by message id.

    To be asked before `settle`, which takes out the calls that were delivered. Each of these is newer than
    a refused call that has left the outbox before. One that was refused counts, too, where it had gone out
    before and no answer had come.

    Args:
        db: the state's connection.
        refused: a SELECT of run_id, key, change, message_id, user_id and unsure of all refused calls.
    """
    found = [rendered.DELIVERED_BEHIND]
    for one in unrendered.lanes(db):
        found.append(
            _DELIVERED_UNRENDERED.format(
                run=sql.text(one.run_id), calls=one.up_to(marks.delivered(db, one.lane))
            )
        )
    surely = "SELECT * FROM refused WHERE NOT coalesce(unsure, false)"
    return f"WITH refused AS ({refused}), surely_refused AS ({surely})\n" + "\nUNION ALL\n".join(found)


# No user has two calls in such lanes, so that none of them is newer than another.
_DELIVERED_UNRENDERED = """
SELECT message_id
FROM refused
WHERE run_id <> {run}
    AND user_id IN (SELECT user_id FROM ({calls}) SEMI JOIN refused USING (user_id))
    AND user_id NOT IN (SELECT user_id FROM surely_refused WHERE run_id = {run} AND user_id IS NOT NULL)
"""


def join_lanes(db: duckdb.DuckDBPyConnection) -> None:
    """Let all calls that wait share a lane; to be run in a transaction, after `settle`.

    Calls that come behind them may be spread otherwise, and each user must find its calls in one lane.
    """
    marks.join(db, min(rendered.first_places(db).values()))
    rendered.share_a_lane(db)


def next_place(db: duckdb.DuckDBPyConnection) -> int:
    """The place of the next call that enters."""
    return int(db.execute(f"SELECT {rendered.LAST_PLACE} + 1").fetchall()[0][0])


def is_empty(db: duckdb.DuckDBPyConnection) -> bool:
    """Whether there is nothing to deliver or to settle; a mark left over counts only beside calls."""
    return not rendered.is_there_any(db) and not unrendered.lanes(db)


def settle(db: duckdb.DuckDBPyConnection) -> None:
    """Take out what was delivered, and keep it as history; to be run in a transaction.

    A mark stays where calls beyond it went out and their answer is not known.
    """
    # Calls without a text stay where they are, and so the note that some were delivered ahead.
    delivered = marks.delivered_by_lane(db)
    kept = AHEAD if unrendered.settle(db, delivered, partial(rendered.ahead, db)) else None
    if rendered.is_there_any(db):
        rendered.settle(db, kept)
    marks.settle(db, kept)


def delivered_in(db: duckdb.DuckDBPyConnection, run_id: str) -> dict[str, int]:
    """How many calls a run delivered, by event; of an identify or group call, by its type.

    Those of a run that was cut off are in the outbox still, and count as well.
    """
    unsettled = receipts.with_answers(rendered.DELIVERED.format(kept="NULL"))
    found = db.execute(
        f"""
        SELECT event, count(*)
        FROM (
            SELECT event, delivered_in FROM ({history.delivered(db)})
            UNION ALL
            SELECT event, delivered_in FROM ({unsettled})
        )
        WHERE delivered_in = ?
        GROUP BY event
        ORDER BY event
        """,
        [run_id],
    )
    return dict(found.fetchall())


def start_marks(db: duckdb.DuckDBPyConnection) -> None:
    """See that each lane that holds calls has a mark; to be run in a transaction, after `settle`."""
    later = {one.lane: one.first_seq for one in unrendered.lanes(db)}
    marks.start(db, rendered.first_places(db) | later)


def lanes(db: duckdb.DuckDBPyConnection) -> tuple[Lane, ...]:
    """The lanes that hold calls; to be asked after `start_marks`."""
    found = [Lane(*texts) for texts in rendered.lanes(db)]
    later = unrendered.lanes(db)
    calls, call_bytes = _count_unrendered(db, later), unrendered.call_bytes(db, later)
    for one in later:
        attempted = marks.attempted(db, one.lane)
        found.append(Lane(one.lane, calls[one.lane], attempted, one.last_seq, call_bytes))
    return tuple(found)


def doubt(db: duckdb.DuckDBPyConnection) -> None:
    """Take out what was delivered, and note of all calls that wait that they may have gone out.

    To be run in a transaction.
    """
    settle(db)
    start_marks(db)
    if found := lanes(db):
        marks.note(db, [Mark(lane.number, lane.last, 0) for lane in found])


def pending(db: duckdb.DuckDBPyConnection) -> int:
    """How many calls wait."""
    return rendered.count(db) + sum(_count_unrendered(db, unrendered.lanes(db)).values())


def run_ids(db: duckdb.DuckDBPyConnection) -> list[str]:
    """The runs whose calls wait."""
    return sorted({*rendered.run_ids(db), *(one.run_id for one in unrendered.lanes(db))})


def pages(
    db: duckdb.DuckDBPyConnection, lane: Lane, page_bytes: Callable[[], int] = lambda: PAGE_BYTES
) -> Iterator[Batch]:
    """All calls of a lane in order, a page at a time, each as one large batch.

    Args:
        db: the state's connection, or a cursor of it.
        lane: one that `lanes` gave in this round.
        page_bytes: the size of the next page, about, of calls whose text is made; of others twice as much,
            and no more than `PAGE_BYTES`.
    """
    number = lane.number
    for one in unrendered.lanes(db):
        if one.lane == number:
            behind, ahead = marks.delivered(db, number), rendered.ahead(db)
            yield from one.pages(db, behind, ahead, page_bytes, lane.call_bytes)
    yield from rendered.pages(db, number, min(PAGE_BYTES, 2 * page_bytes()))


def note_delivered_ahead(db: duckdb.DuckDBPyConnection, batch: Batch) -> None:
    """Note that Segment accepted a call before the others of its lane; to be run in a transaction."""
    later = next((one for one in unrendered.lanes(db) if one.lane == batch.lane), None)
    if later is None:
        rendered.move_ahead(db, batch.lane, batch.first_seq)
    else:
        calls = f"SELECT * REPLACE ({AHEAD} AS lane) FROM ({_unrendered(db, later)})"
        rendered.insert(db, f"{calls} WHERE seq = {batch.first_seq}")
    marks.note_ahead(db)


def refuse(db: duckdb.DuckDBPyConnection, batch: Batch) -> RefusedCall:
    """Let the lane of a refused call go on behind it; gives the call. To be run in a transaction.

    Args:
        batch: holds this call alone.
    """
    call = rendered.one_call(db, batch.lane, batch.first_seq)
    if call is None:
        row = unrendered.one_call(db, batch.lane, batch.first_seq)
        assert row is not None, "a call that was sent is in the outbox"
        call = RefusedCall(*row)
    marks.go_on_behind(db, batch.lane, batch.last_seq)
    return call


def may_have_arrived(db: duckdb.DuckDBPyConnection) -> bool:
    """Whether a call of this outbox was accepted, or went out without an answer."""
    return marks.is_any_unsure(db) or receipts.is_there_any(db)
