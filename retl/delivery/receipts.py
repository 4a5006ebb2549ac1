"""Receipts: what Segment answered to each batch, and which calls went out once more without an answer."""

from dataclasses import dataclass
from datetime import datetime

import duckdb

from retl.delivery.batch import Batch


def note(
    db: duckdb.DuckDBPyConnection,
    batch: Batch,
    run_id: str,
    attempts: int,
    status: int,
    answered_at: datetime,
) -> None:
    """Note that Segment accepted a batch, after so many attempts; to be run in a transaction."""
    row = [batch.calls, len(batch.text), 0, attempts, status, answered_at]
    db.execute(_NOTE, [run_id, batch.lane, batch.first_seq, batch.last_seq, *row])


def note_repeat(
    db: duckdb.DuckDBPyConnection, batch: Batch, run_id: str, repeated: int, attempted_at: datetime
) -> None:
    """Note that so many calls of a batch are about to go out once more, as no answer had come.

    With 0: that it went out before its turn, and no answer came.
    """
    row = [0, 0, repeated, 0, 0, attempted_at]
    db.execute(_NOTE, [run_id, batch.lane, batch.first_seq, batch.last_seq, *row])


_NOTE = """
INSERT INTO state.receipt (
    run_id, lane, first_seq, last_seq, calls, bytes, repeated, attempts, status, answered_at
)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
"""


def forget_repeat(db: duckdb.DuckDBPyConnection, batch: Batch, run_id: str) -> None:
    """Take back the last `note_repeat`: the destination answered that it has not taken the batch."""
    db.execute(
        """
        DELETE FROM state.receipt
        WHERE rowid = (
            SELECT max(rowid) FROM state.receipt
            WHERE run_id = ? AND lane = ? AND first_seq = ? AND last_seq = ? AND attempts = 0
        )
        """,
        [run_id, batch.lane, batch.first_seq, batch.last_seq],
    )


@dataclass(frozen=True)
class Sent:
    """The receipts of a run in sum.

    Attributes:
        calls: accepted.
        batches: accepted.
        bytes: of the accepted calls.
        repeated: calls that went out once more after they had gone out without an answer.
    """

    calls: int
    batches: int
    bytes: int
    repeated: int


def sent(db: duckdb.DuckDBPyConnection, run_id: str) -> Sent:
    """The sum of a run's receipts."""
    row = db.execute(
        """
        SELECT
            coalesce(sum(calls), 0)::BIGINT, count(*) FILTER (calls > 0),
            coalesce(sum(bytes), 0)::BIGINT, coalesce(sum(repeated), 0)::BIGINT
        FROM state.receipt
        WHERE run_id = ?
        """,
        [run_id],
    ).fetchone()
    assert row is not None
    return Sent(*row)


def forget(db: duckdb.DuckDBPyConnection, run_ids: list[str]) -> None:
    """Forget the receipts of these runs."""
    db.execute("DELETE FROM state.receipt WHERE list_contains(?, run_id)", [run_ids])


def is_there_any(db: duckdb.DuckDBPyConnection) -> bool:
    """Whether a batch from this outbox ever arrived, or may have."""
    return db.execute("SELECT 1 FROM state.receipt LIMIT 1").fetchone() is not None


def accepts(db: duckdb.DuckDBPyConnection) -> bool:
    """Whether Segment ever accepted a batch from this outbox."""
    return db.execute("SELECT 1 FROM state.receipt WHERE calls > 0 LIMIT 1").fetchone() is not None
