"""Calls of the outbox whose text is made when they leave: of rows of the snapshot, by the SELECT of enqueue.

The table `state.unrendered` has a row for each lane: its first and last place, and the statement that yields
the calls at these places (`seq`, `key`, `change`, `message_id`, `user_id`, `event`, `moment`, `body`). The
rows that it reads have to stay as they are until the calls have left; before they are touched, the text of
all calls is made.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import duckdb

from retl import sql
from retl.delivery.batch import Batch, joined
from retl.lazy import lazy_module

if TYPE_CHECKING:
    import pyarrow as pa
else:
    pa = lazy_module("pyarrow")


@dataclass(frozen=True)
class UnrenderedLane:
    """The calls of one lane.

    Attributes:
        lane: its number.
        run_id: the run that made the calls.
        first_seq: the place of the first.
        last_seq: the place of the last.
        statement: the SELECT that yields the calls, of other lanes as well.
    """

    lane: int
    run_id: str
    first_seq: int
    last_seq: int
    statement: str

    def select(self, behind: int, ahead: Sequence[int]) -> str:
        """The SELECT of its calls behind a place, but for those that were delivered ahead of their turn."""
        others = f" AND seq NOT IN ({', '.join(map(str, ahead))})" if ahead else ""
        first = max(self.first_seq, behind + 1)
        return f"SELECT * FROM ({self.statement}) WHERE seq BETWEEN {first} AND {self.last_seq}{others}"

    def up_to(self, seq: int) -> str:
        """The SELECT of its calls up to a place."""
        return f"SELECT * FROM ({self.statement}) WHERE seq BETWEEN {self.first_seq} AND {seq}"

    def pages(
        self,
        db: duckdb.DuckDBPyConnection,
        behind: int,
        ahead: Sequence[int],
        page_bytes: Callable[[], int],
        in_order: bool,
    ) -> Iterator[Batch]:
        """Its calls in order, each page as one large batch of about so many bytes.

        Args:
            db: the state's connection, or a cursor of it.
            behind: as of `select`.
            ahead: as of `select`.
            page_bytes: gives the size of the next page.
            in_order: whether the statement yields the calls in order; see `are_in_order`.
        """
        waiting = replace(self, first_seq=max(self.first_seq, behind + 1))
        make = waiting._in_stretches if in_order else waiting._one_by_one
        yield from make(db, ahead, page_bytes)

    def _in_stretches(
        self, db: duckdb.DuckDBPyConnection, ahead: Sequence[int], page_bytes: Callable[[], int]
    ) -> Iterator[Batch]:
        """Pages of calls whose rows stand in their order: a query makes those of many.

        It is begun anew where calls are so large that too many of them are made at once.
        """
        seq, at_once = self.first_seq, AT_ONCE
        with db.cursor() as cursor:  # the other one writes meanwhile
            while seq <= self.last_seq:
                until = min(seq + STRETCH - 1, self.last_seq)
                stretch = replace(self, first_seq=seq, last_seq=until)
                seq = until + 1
                with sql.stream(cursor, stretch._texts(ahead), at_once) as batches:
                    for calls in _tables(batches, page_bytes):
                        page = joined(self.lane, calls)
                        yield page
                        fitting = max(1, min(AT_ONCE, page.calls * page_bytes() // len(page.text) // 4))
                        if at_once > 4 * fitting:
                            seq, at_once = page.last_seq + 1, fitting
                            break

    def _one_by_one(
        self, db: duckdb.DuckDBPyConnection, ahead: Sequence[int], page_bytes: Callable[[], int]
    ) -> Iterator[Batch]:
        """Pages of calls whose rows may be in another order, as an older retl left them: each has its query.

        A larger page costs memory, a smaller one looks through the same rows more often.
        """
        seq, places = self.first_seq, FIRST_PAGE
        while seq <= self.last_seq:
            until = min(seq + places - 1, self.last_seq)
            part = replace(self, first_seq=seq, last_seq=until)
            calls = sql.stream(db, part._texts(ahead), places).read_all()
            if len(calls):
                page = joined(self.lane, calls)
                yield page
                places = max(1, min(8 * places, places * page_bytes() // len(page.text)))
            seq = until + 1

    def _texts(self, ahead: Sequence[int]) -> str:
        """The SELECT of its calls as `joined` takes them, in the order of the rows: a sort costs too much."""
        return f"SELECT seq, body || ',' AS text FROM ({self.select(0, ahead)})"


def _tables(batches: "Iterable[pa.RecordBatch]", page_bytes: Callable[[], int]) -> "Iterator[pa.Table]":
    """Batches in tables of so many bytes at most, but for a batch that has more by itself."""
    read: list[pa.RecordBatch] = []
    size = 0
    for batch in batches:
        if not batch.num_rows:
            continue
        more = batch.nbytes
        if read and size + more > page_bytes():
            yield pa.Table.from_batches(read)
            read, size = [], 0
        read.append(batch)
        size += more
    if read:
        yield pa.Table.from_batches(read)


STRETCH = 1 << 18
"""Places whose calls one query makes. To begin a query takes some milliseconds; and while one is under way
DuckDB keeps what others replace."""

AT_ONCE = 250
"""Calls that Arrow gets in a piece, of which pages are put together: the fewer, the fuller is a page."""

FIRST_PAGE = 1_000
"""Calls of the first page where each page has a query; the others are as large as its bytes suggest."""


def enter(db: duckdb.DuckDBPyConnection, run_id: str, statement: str, lane_count: int) -> int:
    """Let the calls of a statement wait, spread over so many lanes; returns how many there are."""
    row = db.execute(f"SELECT count(*), min(seq), max(seq) FROM ({statement})").fetchone()
    assert row is not None
    calls, first, last = row
    if calls:
        places = last - first + 1
        bounds = [first + places * number // lane_count for number in range(lane_count + 1)]
        db.executemany(
            "INSERT INTO state.unrendered VALUES (?, ?, ?, ?, ?)",
            [[lane, run_id, bounds[lane], bounds[lane + 1] - 1, statement] for lane in range(lane_count)],
        )
    return int(calls)


def lanes(db: duckdb.DuckDBPyConnection) -> tuple[UnrenderedLane, ...]:
    """The lanes that hold such calls."""
    found = db.execute(
        "SELECT lane, run_id, first_seq, last_seq, statement FROM state.unrendered ORDER BY first_seq"
    )
    return tuple(UnrenderedLane(*row) for row in found.fetchall())


def count(
    db: duckdb.DuckDBPyConnection,
    found: Sequence[UnrenderedLane],
    delivered: Mapping[int, int],
    ahead: Sequence[int],
) -> dict[int, int]:
    """How many calls of each lane wait. One query counts all: to plan it takes longer than to count.

    Args:
        db: the state's connection.
        found: the lanes; all have one statement.
        delivered: the place up to which a lane was delivered, by lane.
        ahead: the places of calls that were delivered ahead of their turn.
    """
    behind = {one.lane: max(one.first_seq - 1, delivered.get(one.lane, 0)) for one in found}
    left = [one for one in found if behind[one.lane] < one.last_seq]
    if not left:
        return dict.fromkeys(behind, 0)
    # Lanes do not overlap: what waits in one lies behind one of these bounds, and up to the next.
    bounds = sorted({place for one in left for place in (behind[one.lane], one.last_seq)})
    calls = replace(left[0], first_seq=bounds[0] + 1, last_seq=bounds[-1]).select(0, ahead)
    ((bins,),) = db.execute(f"SELECT histogram(seq, ?::BIGINT[]) FROM ({calls})", [bounds]).fetchall()
    counts = {one.lane: (bins or {}).get(one.last_seq, 0) for one in left}
    return dict.fromkeys(behind, 0) | counts


def are_in_order(db: duckdb.DuckDBPyConnection, found: Sequence[UnrenderedLane]) -> bool:
    """Whether the rows of lanes, which have one statement, all stand in the order of their calls' places.

    DuckDB yields rows as they stand, and they do not move while calls wait.
    """
    if not found:
        return True
    first, last = min(one.first_seq for one in found), max(one.last_seq for one in found)
    calls = replace(found[0], first_seq=first, last_seq=last).select(0, ())
    return not db.execute(_OUT_OF_ORDER.format(calls=calls)).fetchall()


_OUT_OF_ORDER = """
SELECT 1
FROM (SELECT seq, lag(seq) OVER () AS before FROM ({calls}))
WHERE seq <= before
LIMIT 1
"""


def one_call(db: duckdb.DuckDBPyConnection, lane: int, seq: int) -> tuple[Any, ...] | None:
    """The call of a lane at a place: its run's id, and the columns of the statement from `key` on.

    None where there is none.
    """
    for one in lanes(db):
        if one.lane == lane:
            query = f"SELECT * EXCLUDE seq FROM ({one.statement}) WHERE seq = ?"
            found = db.execute(query, [seq]).fetchone()
            return (one.run_id, *found) if found else None
    return None


def settle(
    db: duckdb.DuckDBPyConnection, delivered: Mapping[int, int], ahead: Callable[[], Sequence[int]]
) -> bool:
    """Let each lane begin behind what was delivered; to be run in a transaction.

    Args:
        db: the state's connection.
        delivered: the place up to which a lane was delivered, by lane.
        ahead: gives the places of calls that were delivered ahead of their turn.

    Returns:
        Whether calls are left.
    """
    found = lanes(db)
    if not found:
        return False
    # The last places of a lane may have no call, or one that was delivered ahead.
    done = [lane for lane, calls in count(db, found, delivered, ahead()).items() if calls == 0]
    for one in found:
        if one.first_seq <= delivered.get(one.lane, 0) < one.last_seq:
            begin = "UPDATE state.unrendered SET first_seq = ? WHERE lane = ?"
            db.execute(begin, [delivered[one.lane] + 1, one.lane])
    if done:
        forget(db, done)
    return len(done) < len(found)


def forget(db: duckdb.DuckDBPyConnection, lanes: Sequence[int]) -> None:
    """Forget the calls of these lanes."""
    db.execute("DELETE FROM state.unrendered WHERE list_contains(?, lane)", [list(lanes)])
