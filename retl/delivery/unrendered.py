"""Calls of the outbox whose text is made when they leave: of rows of the snapshot, by the SELECT of enqueue.

The table `state.unrendered` has a row for each lane: its first and last place, and the statement that yields
the calls at these places (`seq`, `key`, `change`, `message_id`, `user_id`, `body`). The rows that it reads
have to stay as they are until the calls have left; before they are touched, the text of all calls is made.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import duckdb

from retl import sql
from retl.delivery.batch import Batch, joined


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

    def count(self, db: duckdb.DuckDBPyConnection, behind: int, ahead: Sequence[int]) -> int:
        """How many of its calls wait; the arguments are those of `select`."""
        row = db.execute(f"SELECT count(*) FROM ({self.select(behind, ahead)})").fetchone()
        assert row is not None
        return int(row[0])

    def is_there_any(self, db: duckdb.DuckDBPyConnection, behind: int, ahead: Sequence[int]) -> bool:
        """Whether any of its calls waits; the arguments are those of `select`."""
        if behind >= self.last_seq:
            return False
        return db.execute(f"SELECT seq FROM ({self.select(behind, ahead)}) LIMIT 1").fetchone() is not None

    def pages(
        self,
        db: duckdb.DuckDBPyConnection,
        behind: int,
        ahead: Sequence[int],
        page_bytes: Callable[[], int],
    ) -> Iterator[Batch]:
        """Its calls in order, each page as one large batch of about so many bytes.

        A larger page costs memory, a smaller one looks through the same rows more often.
        """
        seq, places = max(self.first_seq, behind + 1), FIRST_PAGE
        while seq <= self.last_seq:
            until = min(seq + places - 1, self.last_seq)
            part = replace(self, first_seq=seq, last_seq=until).select(behind, ahead)
            # In the order of the rows, which is nearly that of the places: to sort texts costs too much.
            calls = sql.stream(db, f"SELECT seq, body || ',' AS text FROM ({part})", places).read_all()
            if len(calls):
                page = joined(self.lane, calls)
                yield page
                places = max(1, min(8 * places, places * page_bytes() // len(page.text)))
            seq = until + 1


FIRST_PAGE = 1_000
"""Calls in the first page of a lane; the next ones are as large as its bytes suggest."""


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


def one_call(db: duckdb.DuckDBPyConnection, lane: int, seq: int) -> tuple[str, str, str, str, str] | None:
    """The call of a lane at a place: run_id, key, change, message_id and body; None where there is none."""
    for one in lanes(db):
        if one.lane == lane:
            query = f"SELECT key, change, message_id, body FROM ({one.statement}) WHERE seq = ?"
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
    others = ahead()
    done = [one.lane for one in found if not one.is_there_any(db, delivered.get(one.lane, 0), others)]
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
