"""Calls of the outbox whose text is made when they leave: of rows of the snapshot, by the SELECT of enqueue.

The table `state.unrendered` has a row for each lane: its first and last place, and the statement that yields
the calls at these places (`seq`, `key`, `change`, `message_id`, `user_id`, `event`, `moment`, `body`). The
rows that it reads have to stay as they are until the calls have left; before they are touched, the text of
all calls is made.
"""

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import duckdb

from retl import sql
from retl.damage import is_out_of_memory
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
        call_bytes: int | None,
    ) -> Iterator[Batch]:
        """Its calls in order, each page as one large batch of about so many bytes.

        Args:
            db: the state's connection, or a cursor of it.
            behind: as of `select`.
            ahead: as of `select`.
            page_bytes: gives the size of the next page.
            call_bytes: the size of a call, about; None where the statement does not yield calls in order.
        """
        waiting = replace(self, first_seq=max(self.first_seq, behind + 1))
        if call_bytes is None:
            yield from waiting._one_by_one(db, ahead, page_bytes)
        else:
            yield from waiting._in_stretches(db, ahead, page_bytes, call_bytes)

    def _in_stretches(
        self,
        db: duckdb.DuckDBPyConnection,
        ahead: Sequence[int],
        page_bytes: Callable[[], int],
        call_bytes: int,
    ) -> Iterator[Batch]:
        """Pages of calls whose rows stand in their order: a query makes many calls, or a few large ones.

        Where DuckDB has no memory for it, others have it that make calls as well, and are done with it soon.
        """
        seq, size, tries = self.first_seq, call_bytes, 0
        with db.cursor() as cursor:  # the other one writes meanwhile
            while seq <= self.last_seq:
                were_large = _are_large(size)
                places = AT_ONCE_BYTES // size if were_large else STRETCH
                until = min(seq + places - 1, self.last_seq)
                stretch = replace(self, first_seq=seq, last_seq=until)
                at_once = max(1, min(AT_ONCE, page_bytes() // (4 * size)))
                opening = partial(sql.stream, cursor, stretch._texts(ahead), at_once)
                try:
                    for calls in (_made_alone if were_large else _made_while_read)(opening, page_bytes):
                        size, tries = _size_of(calls), 0
                        page = joined(self.lane, calls)
                        seq = page.last_seq + 1
                        yield page
                    if were_large or not _are_large(size):  # else large ones have ended the query
                        seq = until + 1
                except (duckdb.Error, OSError) as error:
                    if tries == MOST_TRIES or not is_out_of_memory(error):
                        raise
                    size, tries = max(size, LARGEST), tries + 1
                    threading.Event().wait(SECONDS_BETWEEN_TRIES)

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


def _made_while_read(
    opening: "Callable[[], pa.RecordBatchReader]", page_bytes: Callable[[], int]
) -> "Iterator[pa.Table]":
    """Calls in tables, up to the first table of large ones, with which the query ends."""
    with opening() as batches:
        for calls in _tables(batches, page_bytes):
            if _are_large(_size_of(calls)):
                break
            yield calls
        else:
            return
    yield calls


def _made_alone(
    opening: "Callable[[], pa.RecordBatchReader]", page_bytes: Callable[[], int]
) -> "Iterator[pa.Table]":
    """Calls in tables, all of them made before the first is handed over."""
    with _LARGE, opening() as batches:
        tables = list(_tables(batches, page_bytes))
    yield from tables


def _size_of(calls: "pa.Table") -> int:
    """The size of a call of a table, on average."""
    return max(1, int(calls.nbytes) // len(calls))


def _are_large(size: int) -> bool:
    """Whether calls of that size are too large to be made of all rows that DuckDB takes at once."""
    return size * VECTOR_ROWS > AT_ONCE_BYTES


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

VECTOR_ROWS = 2_048
"""The rows that DuckDB reads at once, and makes calls of, unless a query has fewer."""

AT_ONCE_BYTES = 8_000_000
"""The size of the calls that are made at once. They are in memory several times over until Arrow has them,
and so are the rows that DuckDB reads for them, however few it makes calls of."""

LARGEST = 32_768
"""The size of a call where it is not known why there is no memory."""

FIRST_CALLS = 64
"""The calls of which one tells the size of the others, before the first is made."""

MOST_TRIES = 200
SECONDS_BETWEEN_TRIES = 0.05
"""Tries to make calls where others, which are being made, have all the memory."""

_LARGE = threading.Lock()
"""Held while large calls are made, so that their rows are in memory once."""

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


def call_bytes(db: duckdb.DuckDBPyConnection, found: Sequence[UnrenderedLane]) -> int | None:
    """The size of a call of these lanes, which have one statement, by the largest of the first few.

    None where rows do not stand in the order of their calls' places. DuckDB yields rows as they stand, and
    they do not move while calls wait.
    """
    if not found:
        return None
    first, last = min(one.first_seq for one in found), max(one.last_seq for one in found)
    calls = replace(found[0], first_seq=first, last_seq=last)
    if db.execute(_OUT_OF_ORDER.format(calls=calls.select(0, ()))).fetchall():
        return None
    few = replace(calls, last_seq=min(last, first + FIRST_CALLS - 1)).select(0, ())
    ((size,),) = db.execute(f"SELECT max(strlen(body)) FROM ({few})").fetchall()
    return size or 1


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
