"""The outbox: calls that Segment has not accepted yet, durable and in order.

A call enters it in the transaction that moves the snapshot, and is from then on only read. How far each
lane got is noted as a mark (`retl.delivery.marks`); `settle` takes out what lies below it. A call waits as
finished text, or as a row of the snapshot with the statement that makes its text
(`retl.delivery.unrendered`); whoever reads the outbox need not know which.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial

import duckdb

from retl import sql
from retl.delivery import history, marks, receipts, unrendered
from retl.delivery.batch import Batch, joined
from retl.delivery.marks import AHEAD, Mark
from retl.delivery.unrendered import UnrenderedLane
from retl.memory import allowed

PAGE_BYTES = 4_000_000
"""How much of a lane is read from the outbox at a time, and one call more."""

SORTED_SHARE = 0.25
"""The part of DuckDB's memory that texts may take which are sorted at once; with them come keys and ids."""

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
        db.execute(_INSERT.format(calls=_unrendered(db, one)))
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
        return _enter(db, run_id, is_first)
    if is_first:
        entered = unrendered.enter(db, run_id, statement, lanes)
        history.begin_first_pass(db)
        return entered
    row = db.execute(_APPEND.format(calls=statement), {"run_id": run_id}).fetchone()
    assert row is not None
    return int(row[0])


def _enter(db: duckdb.DuckDBPyConnection, run_id: str, is_first: bool) -> int:
    """Put the calls of the view `leaving` into the outbox, in their order; returns how many.

    Texts that are more than a part of DuckDB's memory are not sorted at once, which takes the more memory
    the more they are. Their places are found first, and then one part after the other is sorted by them.
    """
    ((calls, size, first, last),) = db.execute(_SIZE).fetchall()
    parts = 1 + size // int(allowed(db) * SORTED_SHARE)
    given = {"run_id": run_id, "is_first": is_first}
    if parts == 1:
        db.execute(_ENQUEUE, given)
        return int(calls)
    ((before,),) = db.execute(f"SELECT {_LAST}").fetchall()
    db.execute(_PLACED)
    for part in range(parts):
        begins, ends = (first + (last + 1 - first) * one // parts for one in (part, part + 1))
        db.execute(_ENQUEUE_PART, {**given, "before": before, "begins": begins, "ends": ends})
    db.execute("DROP TABLE placed")
    return int(calls)


_LAST = (
    "(SELECT greatest("
    f"(SELECT coalesce(max(seq), 0) FROM state.outbox), {receipts.LAST_PLACE}, {history.LAST_PLACE}))"
)
"""The last place that was given to a call; a receipt tells by it for which calls it is."""

_INSERT = """
INSERT INTO state.outbox BY NAME
SELECT seq, lane, run_id, key, change, message_id, body, strlen(body) AS bytes, user_id, event, moment
FROM ({calls})
"""

_SIZE = "SELECT count(*), coalesce(sum(bytes), 0)::BIGINT, min(number), max(number) FROM leaving"

_ENTERING = """
CASE WHEN $is_first THEN lane ELSE 0 END AS lane, $run_id AS run_id, key, change, message_id, body, bytes,
    user_id, coalesce(event, type) AS event, moment
"""

_ENQUEUE = f"""
INSERT INTO state.outbox
-- In the order of the rows below: texts are sorted once, and not for their numbers as well.
SELECT {_LAST} + row_number() OVER () AS seq, {_ENTERING}
FROM (SELECT * FROM leaving ORDER BY lane, ordered_by, rank, key)
"""

_PLACED = """
CREATE OR REPLACE TEMP TABLE placed AS
SELECT number, row_number() OVER () AS place
FROM (SELECT number FROM leaving ORDER BY lane, ordered_by, rank, key)
"""

_ENQUEUE_PART = f"""
INSERT INTO state.outbox
SELECT $before + place AS seq, {_ENTERING}
FROM leaving JOIN placed USING (number)
WHERE number >= $begins AND number < $ends
ORDER BY place
"""

_APPEND = _INSERT.format(
    calls=f"""
    SELECT * REPLACE ({_LAST} + row_number() OVER (ORDER BY seq) AS seq), 0 AS lane, $run_id AS run_id
    FROM ({{calls}})
    """
)


def _unrendered(db: duckdb.DuckDBPyConnection, one: UnrenderedLane) -> str:
    """The SELECT of the calls of a lane that wait without a text, with the columns of `waiting`."""
    calls = one.select(marks.delivered(db, one.lane), _ahead(db))
    lane = f"{one.lane} AS lane, {sql.text(one.run_id)} AS run_id"
    return f"SELECT seq, {lane}, key, change, message_id, user_id, event, moment, body FROM ({calls})"


def _count_unrendered(db: duckdb.DuckDBPyConnection, later: Sequence[UnrenderedLane]) -> dict[int, int]:
    """How many calls of these lanes wait without a text, by lane."""
    return unrendered.count(db, later, marks.delivered_by_lane(db), _ahead(db)) if later else {}


def _ahead(db: duckdb.DuckDBPyConnection) -> list[int]:
    """The places of calls that were delivered ahead of their turn."""
    return [seq for (seq,) in db.execute("SELECT seq FROM state.outbox WHERE lane = ?", [AHEAD]).fetchall()]


def waiting(db: duckdb.DuckDBPyConnection) -> str:
    """The SELECT of the calls that wait.

    Its columns are seq, lane, run_id, key, change, message_id, user_id, event, moment and body.
    """
    return "\nUNION ALL\n".join([_TEXTS, *(_unrendered(db, one) for one in unrendered.lanes(db))])


HELD_IDS = "SELECT message_id FROM state.outbox"
"""The SELECT of the message ids of the calls whose text is held."""

_WAITING = f"state.outbox LEFT JOIN ({marks.ALL}) USING (lane) WHERE seq > coalesce(delivered, 0)"

_TEXTS = f"""
SELECT seq, lane, run_id, key, change, message_id, user_id, event, moment, body
FROM {_WAITING}
"""


def enqueue_again(db: duckdb.DuckDBPyConnection) -> None:
    """Put the calls of the TEMP table `again` behind those that wait; to be run in a transaction."""
    render_waiting(db)
    if is_empty(db):
        marks.forget(db)
    else:
        join_lanes(db)
    calls = f"SELECT *, {_LAST} + row_number() OVER (ORDER BY place) AS seq, 0 AS lane FROM again"
    db.execute(_INSERT.format(calls=calls))
    receipts.note_unsure(db, _UNSURE)


_UNSURE = """
SELECT rejected_in AS run_id, seq, rejected_at AS answered_at
FROM again JOIN state.outbox USING (run_id, key, change, message_id)
WHERE unsure
"""


def list_waiting(db: duckdb.DuckDBPyConnection) -> None:
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
    calls = sum(_count_unrendered(db, later).values())
    if later:
        # No change of theirs has another call, so that all of them are in `dropped`.
        _end(db, later)
    return int(row[0]) + calls


def dropped_by_run(db: duckdb.DuckDBPyConnection) -> dict[str, int]:
    """How many calls of the TEMP table `dropped` each run made."""
    found = db.execute("SELECT run_id, count(*) FROM dropped GROUP BY run_id ORDER BY run_id")
    return dict(found.fetchall())


def drop_again(db: duckdb.DuckDBPyConnection) -> None:
    """Take those calls of the TEMP table `again` out that still wait, into the TEMP table `failed_again`.

    To be run in a transaction, after `settle`.
    """
    db.execute(
        f"""
        CREATE OR REPLACE TEMP TABLE failed_again AS
        SELECT again.* REPLACE (coalesce(unsure, false) OR seq <= coalesce(attempted, 0) AS unsure), seq
        FROM again
        JOIN state.outbox USING (run_id, key, change, message_id)
        LEFT JOIN ({marks.ALL}) USING (lane)
        """
    )
    db.execute("DELETE FROM state.outbox WHERE seq IN (SELECT seq FROM failed_again)")


def delivered_behind(db: duckdb.DuckDBPyConnection, refused: str) -> str:
    """The SELECT of the refused calls behind which a call of their user was delivered, by message id.

    To be asked before `settle`, which takes out the calls that were delivered. Each of these is newer than
    a refused call that has left the outbox before. One that was refused counts, too, where it had gone out
    before and no answer had come.

    Args:
        db: the state's connection.
        refused: a SELECT of run_id, key, change, message_id, user_id and unsure of all refused calls.
    """
    found = [_DELIVERED_BEHIND]
    for one in unrendered.lanes(db):
        found.append(
            _DELIVERED_UNRENDERED.format(
                run=sql.text(one.run_id), calls=one.up_to(marks.delivered(db, one.lane))
            )
        )
    surely = "SELECT * FROM refused WHERE NOT coalesce(unsure, false)"
    return f"WITH refused AS ({refused}), surely_refused AS ({surely})\n" + "\nUNION ALL\n".join(found)


_DELIVERED_BEHIND = f"""
SELECT refused.message_id
FROM refused
JOIN (
    SELECT user_id, max(seq) AS seq
    FROM state.outbox JOIN ({marks.ALL}) USING (lane)
    WHERE seq <= delivered AND user_id IN (SELECT user_id FROM refused)
        AND (run_id, key, change, message_id)
            NOT IN (SELECT (run_id, key, change, message_id) FROM surely_refused)
    GROUP BY user_id
) AS later USING (user_id)
LEFT JOIN state.outbox AS own USING (run_id, key, change, message_id)
WHERE later.seq > coalesce(own.seq, 0)
"""

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
    ((first,),) = db.execute("SELECT min(seq) FROM state.outbox").fetchall()
    marks.join(db, first)
    db.execute("UPDATE state.outbox SET lane = 0 WHERE lane <> 0")


def next_place(db: duckdb.DuckDBPyConnection) -> int:
    """The place of the next call that enters."""
    return int(db.execute(f"SELECT {_LAST} + 1").fetchall()[0][0])


def is_empty(db: duckdb.DuckDBPyConnection) -> bool:
    """Whether there is nothing to deliver or to settle; a mark left over counts only beside calls."""
    is_there_text = db.execute("SELECT 1 FROM state.outbox LIMIT 1").fetchone() is not None
    return not is_there_text and not unrendered.lanes(db)


def settle(db: duckdb.DuckDBPyConnection) -> None:
    """Take out what was delivered, and keep it as history; to be run in a transaction.

    A mark stays where calls beyond it went out and their answer is not known.
    """
    # Calls without a text stay where they are, and so the note that some were delivered ahead.
    kept = AHEAD if unrendered.settle(db, marks.delivered_by_lane(db), partial(_ahead, db)) else None
    if db.execute("SELECT 1 FROM state.outbox LIMIT 1").fetchone():
        history.keep(db, _SETTLED.format(kept="NULL" if kept is None else kept))
        db.execute(
            f"""
            DELETE FROM state.outbox
            USING ({marks.ALL}) AS mark
            WHERE outbox.lane = mark.lane AND outbox.seq <= mark.delivered AND outbox.lane IS DISTINCT FROM ?
            """,
            [kept],
        )
    marks.settle(db, kept)


_SETTLED = f"""
SELECT seq, run_id, key, change, message_id, user_id, event, moment
FROM state.outbox JOIN ({marks.ALL}) USING (lane)
WHERE seq <= delivered AND lane IS DISTINCT FROM {{kept}}
    AND (lane <> {AHEAD} OR {history.not_of_first_pass("seq")})
"""


def delivered_in(db: duckdb.DuckDBPyConnection, run_id: str) -> dict[str, int]:
    """How many calls a run delivered, by event; of an identify or group call, by its type.

    Those of a run that was cut off are in the outbox still, and count as well.
    """
    unsettled = receipts.with_answers(_SETTLED.format(kept="NULL"))
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
    first = dict(db.execute("SELECT lane, min(seq) FROM state.outbox GROUP BY lane").fetchall())
    marks.start(db, first | {one.lane: one.first_seq for one in unrendered.lanes(db)})


def lanes(db: duckdb.DuckDBPyConnection) -> tuple[Lane, ...]:
    """The lanes that hold calls; to be asked after `start_marks`."""
    rows = db.execute(
        f"""
        SELECT lane, count(*), any_value(attempted), max(seq)
        FROM state.outbox JOIN ({marks.ALL}) USING (lane)
        WHERE lane <> ?
        GROUP BY lane
        ORDER BY lane
        """,
        [AHEAD],
    ).fetchall()
    found = [Lane(*row) for row in rows]
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
    row = db.execute(f"SELECT count(*) FROM {_WAITING}").fetchone()
    assert row is not None
    return int(row[0]) + sum(_count_unrendered(db, unrendered.lanes(db)).values())


def run_ids(db: duckdb.DuckDBPyConnection) -> list[str]:
    """The runs whose calls wait."""
    found = db.execute(f"SELECT DISTINCT run_id FROM {_WAITING}").fetchall()
    later = {one.run_id for one in unrendered.lanes(db)}
    return sorted(later.union(run_id for (run_id,) in found))


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
            yield from one.pages(db, marks.delivered(db, number), _ahead(db), page_bytes, lane.call_bytes)
    size = min(PAGE_BYTES, 2 * page_bytes())
    for first, last in db.execute(_PAGES, [size, number, number]).fetchall():
        yield joined(number, db.sql(_PAGE.format(lane=number, first=first, last=last)).to_arrow_table())


_PAGES = f"""
SELECT min(seq), max(seq)
FROM (
    SELECT seq, sum(bytes) OVER (ORDER BY seq) // ? AS page
    FROM state.outbox
    WHERE lane = ? AND seq > coalesce((SELECT delivered FROM ({marks.ALL}) WHERE lane = ?), 0)
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


def note_delivered_ahead(db: duckdb.DuckDBPyConnection, batch: Batch) -> None:
    """Note that Segment accepted a call before the others of its lane; to be run in a transaction."""
    later = next((one for one in unrendered.lanes(db) if one.lane == batch.lane), None)
    if later is None:
        moved = "UPDATE state.outbox SET lane = ? WHERE lane = ? AND seq = ?"
        db.execute(moved, [AHEAD, batch.lane, batch.first_seq])
    else:
        calls = f"SELECT * REPLACE ({AHEAD} AS lane) FROM ({_unrendered(db, later)}) WHERE seq = ?"
        db.execute(_INSERT.format(calls=calls), [batch.first_seq])
    marks.note_ahead(db)


@dataclass(frozen=True)
class RefusedCall:
    """A call of the outbox that the destination refuses for good, as the outbox holds it."""

    run_id: str
    key: str
    change: str
    message_id: str
    user_id: str | None
    event: str | None
    moment: datetime | None
    body: str


def refuse(db: duckdb.DuckDBPyConnection, batch: Batch) -> RefusedCall:
    """Let the lane of a refused call go on behind it; gives the call. To be run in a transaction.

    Args:
        batch: holds this call alone.
    """
    row = db.execute(
        """
        SELECT run_id, key, change, message_id, user_id, event, moment, body
        FROM state.outbox
        WHERE lane = ? AND seq = ?
        """,
        [batch.lane, batch.first_seq],
    ).fetchone()
    if row is None:
        row = unrendered.one_call(db, batch.lane, batch.first_seq)
    assert row is not None, "a call that was sent is in the outbox"
    marks.go_on_behind(db, batch.lane, batch.last_seq)
    return RefusedCall(*row)


def take_passed(db: duckdb.DuckDBPyConnection, places: list[int]) -> dict[int, RefusedCall]:
    """Take those calls at these places out behind which one of their user went out; gives them by place.

    To be run in a transaction, after `settle`. Of calls that wait without a text no user has two.
    """
    found = db.execute(_PASSED, [places]).fetchall()
    db.execute("DELETE FROM state.outbox WHERE list_contains(?, seq)", [[place for place, *_ in found]])
    return {place: RefusedCall(*call) for place, *call in found}


_PASSED = f"""
SELECT seq, run_id, key, change, message_id, user_id, event, moment, body
FROM state.outbox AS call JOIN ({marks.ALL}) USING (lane)
WHERE list_contains(?, seq) AND seq > delivered AND EXISTS (
    SELECT 1 FROM state.outbox AS later
    WHERE later.lane = call.lane AND later.user_id = call.user_id AND later.seq > call.seq
        AND later.seq <= attempted
)
ORDER BY seq
"""


def may_have_arrived(db: duckdb.DuckDBPyConnection) -> bool:
    """Whether a call of this outbox was accepted, or went out without an answer."""
    return marks.is_any_unsure(db) or receipts.is_there_any(db)
