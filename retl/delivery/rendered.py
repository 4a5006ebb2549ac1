"""Rendered calls of the outbox: those that wait as finished text, in the table `outbox` of the state."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

import duckdb

from retl.delivery import history, marks, receipts
from retl.delivery.batch import Batch, joined
from retl.delivery.marks import AHEAD
from retl.memory import allowed

SORTED_SHARE = 0.25
"""The part of DuckDB's memory that texts may take which are sorted at once; with them come keys and ids."""

MESSAGE_IDS = "SELECT message_id FROM state.outbox"
"""The SELECT of their message ids, also of calls that were delivered and are yet to be settled."""

_WAITING = f"state.outbox LEFT JOIN ({marks.ALL}) USING (lane) WHERE seq > coalesce(delivered, 0)"

WAITING = f"""
SELECT seq, lane, run_id, key, change, message_id, user_id, event, moment, body
FROM {_WAITING}
"""
"""The SELECT of those that wait."""

DELIVERED = f"""
SELECT seq, run_id, key, change, message_id, user_id, event, moment
FROM state.outbox JOIN ({marks.ALL}) USING (lane)
WHERE seq <= delivered AND lane IS DISTINCT FROM {{kept}}
    AND (lane <> {AHEAD} OR {history.not_of_first_pass("seq")})
"""
"""The SELECT of those that were delivered and are yet to be settled, but for a lane that stays as it is."""

LAST_PLACE = (
    "(SELECT greatest("
    f"(SELECT coalesce(max(seq), 0) FROM state.outbox), {receipts.LAST_PLACE}, {history.LAST_PLACE}))"
)
"""The last place that was given to a call; a receipt tells by it for which calls it is."""


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


def is_there_any(db: duckdb.DuckDBPyConnection) -> bool:
    """Whether there is one, be it only one that was delivered and is yet to be settled."""
    return db.execute("SELECT 1 FROM state.outbox LIMIT 1").fetchone() is not None


def count(db: duckdb.DuckDBPyConnection) -> int:
    """How many wait."""
    return int(db.execute(f"SELECT count(*) FROM {_WAITING}").fetchall()[0][0])


def run_ids(db: duckdb.DuckDBPyConnection) -> list[str]:
    """The runs that made those that wait."""
    found = db.execute(f"SELECT DISTINCT run_id FROM {_WAITING}").fetchall()
    return [run_id for (run_id,) in found]


def lanes(db: duckdb.DuckDBPyConnection) -> list[tuple[int, int, int, int]]:
    """The lanes that have a mark: number, calls, the place up to which calls went out, the last place."""
    return db.execute(
        f"""
        SELECT lane, count(*), any_value(attempted), max(seq)
        FROM state.outbox JOIN ({marks.ALL}) USING (lane)
        WHERE lane <> ?
        GROUP BY lane
        ORDER BY lane
        """,
        [AHEAD],
    ).fetchall()


def first_places(db: duckdb.DuckDBPyConnection) -> dict[int, int]:
    """The place of the first call of each lane."""
    return dict(db.execute("SELECT lane, min(seq) FROM state.outbox GROUP BY lane").fetchall())


def ahead(db: duckdb.DuckDBPyConnection) -> list[int]:
    """The places of calls that were delivered ahead of their turn."""
    return [seq for (seq,) in db.execute("SELECT seq FROM state.outbox WHERE lane = ?", [AHEAD]).fetchall()]


def enter(db: duckdb.DuckDBPyConnection, run_id: str, is_first: bool) -> int:
    """Put the calls of the view `leaving` into the outbox, in their order; returns how many.

    Texts that are more than a part of DuckDB's memory are not sorted at once, which takes the more memory
    the more they are. Their places are found first, and then one part after the other is sorted by them.

    Args:
        db: the state's connection.
        run_id: the run that makes the calls.
        is_first: whether none waits, so that they keep the lanes that they were given.
    """
    ((calls, size, first, last),) = db.execute(_SIZE).fetchall()
    parts = 1 + size // int(allowed(db) * SORTED_SHARE)
    given = {"run_id": run_id, "is_first": is_first}
    if parts == 1:
        db.execute(_ENTER, given)
        return int(calls)
    ((before,),) = db.execute(f"SELECT {LAST_PLACE}").fetchall()
    db.execute(_PLACED)
    for part in range(parts):
        begins, ends = (first + (last + 1 - first) * one // parts for one in (part, part + 1))
        db.execute(_ENTER_PART, {**given, "before": before, "begins": begins, "ends": ends})
    db.execute("DROP TABLE placed")
    return int(calls)


_SIZE = "SELECT count(*), coalesce(sum(bytes), 0)::BIGINT, min(number), max(number) FROM leaving"

_ENTERING = """
CASE WHEN $is_first THEN lane ELSE 0 END AS lane, $run_id AS run_id, key, change, message_id, body, bytes,
    user_id, coalesce(event, type) AS event, moment
"""

_ENTER = f"""
INSERT INTO state.outbox
-- In the order of the rows below: texts are sorted once, and not for their numbers as well.
SELECT {LAST_PLACE} + row_number() OVER () AS seq, {_ENTERING}
FROM (SELECT * FROM leaving ORDER BY lane, ordered_by, rank, key)
"""

_PLACED = """
CREATE OR REPLACE TEMP TABLE placed AS
SELECT number, row_number() OVER () AS place
FROM (SELECT number FROM leaving ORDER BY lane, ordered_by, rank, key)
"""

_ENTER_PART = f"""
INSERT INTO state.outbox
SELECT $before + place AS seq, {_ENTERING}
FROM leaving JOIN placed USING (number)
WHERE number >= $begins AND number < $ends
ORDER BY place
"""


def append(db: duckdb.DuckDBPyConnection, run_id: str, calls: str) -> int:
    """Put the calls of a SELECT behind those that wait, in the order of its `seq`; returns how many."""
    placed = f"""
    SELECT * REPLACE ({LAST_PLACE} + row_number() OVER (ORDER BY seq) AS seq), 0 AS lane, $run_id AS run_id
    FROM ({calls})
    """
    return int(db.execute(_INSERT.format(calls=placed), {"run_id": run_id}).fetchall()[0][0])


def insert(db: duckdb.DuckDBPyConnection, calls: str) -> None:
    """Put the calls of a SELECT at the places and into the lanes that they have."""
    db.execute(_INSERT.format(calls=calls))


def enter_again(db: duckdb.DuckDBPyConnection) -> None:
    """Put the calls of the TEMP table `again` behind those that wait."""
    insert(db, f"SELECT *, {LAST_PLACE} + row_number() OVER (ORDER BY place) AS seq, 0 AS lane FROM again")
    receipts.note_unsure(db, _UNSURE)


_INSERT = """
INSERT INTO state.outbox BY NAME
SELECT seq, lane, run_id, key, change, message_id, body, strlen(body) AS bytes, user_id, event, moment
FROM ({calls})
"""

_UNSURE = """
SELECT rejected_in AS run_id, seq, rejected_at AS answered_at
FROM again JOIN state.outbox USING (run_id, key, change, message_id)
WHERE unsure
"""


def share_a_lane(db: duckdb.DuckDBPyConnection) -> None:
    """Put all into the lane 0."""
    db.execute("UPDATE state.outbox SET lane = 0 WHERE lane <> 0")


def move_ahead(db: duckdb.DuckDBPyConnection, lane: int, seq: int) -> None:
    """Take a call out of its lane, since it was delivered ahead of its turn."""
    db.execute("UPDATE state.outbox SET lane = ? WHERE lane = ? AND seq = ?", [AHEAD, lane, seq])


def pages(db: duckdb.DuckDBPyConnection, lane: int, size: int) -> Iterator[Batch]:
    """The calls of a lane that wait, in order, a page of about so many bytes at a time."""
    for first, last in db.execute(_PAGES, [size, lane, lane]).fetchall():
        yield joined(lane, db.sql(_PAGE.format(lane=lane, first=first, last=last)).to_arrow_table())


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


def one_call(db: duckdb.DuckDBPyConnection, lane: int, seq: int) -> RefusedCall | None:
    """The call at a place."""
    row = db.execute(
        """
        SELECT run_id, key, change, message_id, user_id, event, moment, body
        FROM state.outbox
        WHERE lane = ? AND seq = ?
        """,
        [lane, seq],
    ).fetchone()
    return RefusedCall(*row) if row else None


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


def drop(db: duckdb.DuckDBPyConnection) -> int:
    """Take out the calls of the TEMP table `dropped`; gives how many."""
    texts = "DELETE FROM state.outbox WHERE lane <> ? AND seq IN (SELECT seq FROM dropped)"
    return int(db.execute(texts, [AHEAD]).fetchall()[0][0])


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


DELIVERED_BEHIND = f"""
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
"""The SELECT of the calls of `refused` behind which one of their user was delivered, by message id."""


def settle(db: duckdb.DuckDBPyConnection, kept: int | None) -> None:
    """Take out what was delivered, and keep it as history.

    Args:
        db: the state's connection.
        kept: the lane that stays as it is, if any.
    """
    history.keep(db, DELIVERED.format(kept="NULL" if kept is None else kept))
    db.execute(
        f"""
        DELETE FROM state.outbox
        USING ({marks.ALL}) AS mark
        WHERE outbox.lane = mark.lane AND outbox.seq <= mark.delivered AND outbox.lane IS DISTINCT FROM ?
        """,
        [kept],
    )
