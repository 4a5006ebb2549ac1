"""Marks: how far each lane of the outbox has got."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import duckdb

AHEAD = -1
"""The lane of calls that were delivered before their turn; all of it is delivered."""

ALL = "SELECT lane, attempted, delivered FROM state.mark"
"""The marks, as a SELECT."""


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


def start(db: duckdb.DuckDBPyConnection, first: Mapping[int, int]) -> None:
    """See that each of these lanes has a mark; to be run in a transaction.

    Args:
        db: the state's connection.
        first: the place of the first call of each lane.
    """
    db.execute(
        """
        INSERT INTO state.mark
        SELECT lane, seq - 1, seq - 1
        FROM (SELECT unnest(?::INTEGER[]) AS lane, unnest(?::BIGINT[]) AS seq)
        WHERE lane NOT IN (SELECT lane FROM state.mark)
        """,
        [list(first), list(first.values())],
    )


def note(db: duckdb.DuckDBPyConnection, marks: Sequence[Mark]) -> None:
    """Note how far lanes have got; to be run in a transaction. What was delivered stays delivered."""
    db.execute(
        """
        UPDATE state.mark SET attempted = new.attempted, delivered = greatest(mark.delivered, new.delivered)
        FROM (SELECT unnest(?, recursive := true)) AS new
        WHERE mark.lane = new.lane
        """,
        [[mark.__dict__ for mark in marks]],
    )


def go_on_behind(db: duckdb.DuckDBPyConnection, lane: int, seq: int) -> None:
    """Let a lane go on behind a place; to be run in a transaction."""
    db.execute("UPDATE state.mark SET delivered = greatest(delivered, ?) WHERE lane = ?", [seq, lane])


def note_ahead(db: duckdb.DuckDBPyConnection) -> None:
    """See that the lane of calls that were delivered before their turn counts as delivered."""
    if db.execute("SELECT 1 FROM state.mark WHERE lane = ?", [AHEAD]).fetchone() is None:
        db.execute("INSERT INTO state.mark VALUES (?, ?, ?)", [AHEAD, 2**62, 2**62])


def join(db: duckdb.DuckDBPyConnection, first: int) -> None:
    """Make one mark of all, for a lane 0 whose first call is at a place; to be run in a transaction."""
    (attempted,) = db.execute("SELECT max(attempted) FROM state.mark").fetchall()[0]
    forget(db)
    db.execute("INSERT INTO state.mark VALUES (0, greatest(?, ?), ?)", [attempted, first - 1, first - 1])


def settle(db: duckdb.DuckDBPyConnection, kept: int | None) -> None:
    """Forget the marks beyond which nothing went out; to be run in a transaction.

    Args:
        db: the state's connection.
        kept: a lane whose mark stays all the same.
    """
    db.execute("DELETE FROM state.mark WHERE attempted <= delivered AND lane IS DISTINCT FROM ?", [kept])


def forget(db: duckdb.DuckDBPyConnection) -> None:
    """Forget all marks."""
    db.execute("DELETE FROM state.mark")


def attempted(db: duckdb.DuckDBPyConnection, lane: int) -> int:
    """The place up to which calls of a lane went out; 0 without a mark."""
    row = db.execute("SELECT attempted FROM state.mark WHERE lane = ?", [lane]).fetchone()
    return int(row[0]) if row else 0


def delivered(db: duckdb.DuckDBPyConnection, lane: int) -> int:
    """The place up to which a lane was delivered; 0 without a mark."""
    row = db.execute("SELECT delivered FROM state.mark WHERE lane = ?", [lane]).fetchone()
    return int(row[0]) if row else 0


def delivered_by_lane(db: duckdb.DuckDBPyConnection) -> dict[int, int]:
    """The place up to which each lane that has a mark was delivered."""
    return dict(db.execute("SELECT lane, delivered FROM state.mark").fetchall())


def is_any_unsure(db: duckdb.DuckDBPyConnection) -> bool:
    """Whether calls of a lane went out, and no answer is known."""
    return db.execute("SELECT 1 FROM state.mark WHERE attempted > delivered LIMIT 1").fetchone() is not None
