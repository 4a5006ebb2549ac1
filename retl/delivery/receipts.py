"""Receipts: what Segment answered to each batch, and which calls went out once more without an answer."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import duckdb

from retl.delivery.batch import Batch


@dataclass(frozen=True)
class Receipt:
    """The row in `state.receipt` of a batch that was accepted, or that goes out once more; see state.sql."""

    run_id: str
    lane: int
    first_seq: int
    last_seq: int
    calls: int
    bytes: int
    repeated: int
    attempts: int
    status: int
    answered_at: datetime


def accepted(batch: Batch, run_id: str, attempts: int, status: int, answered_at: datetime) -> Receipt:
    """The receipt of a batch that was accepted, after so many attempts."""
    size = len(batch.text)
    places = (batch.lane, batch.first_seq, batch.last_seq)
    return Receipt(run_id, *places, batch.calls, size, 0, attempts, status, answered_at)


def again(batch: Batch, run_id: str, repeated: int, attempted_at: datetime) -> Receipt:
    """The receipt of so many calls of a batch that are about to go out once more, as no answer had come.

    With 0: of one that went out before its turn, or was refused later, and no answer came.
    """
    places = (batch.lane, batch.first_seq, batch.last_seq)
    return Receipt(run_id, *places, 0, 0, repeated, 0, 0, attempted_at)


def refused(batch: Batch, run_id: str, status: int, answered_at: datetime) -> Receipt:
    """The receipt of a call that was refused alone, and is not rejected yet while its lane goes on."""
    places = (batch.lane, batch.first_seq, batch.last_seq)
    return Receipt(run_id, *places, 0, 0, 0, 1, status, answered_at)


LAST_PLACE = "(SELECT coalesce(max(last_seq), 0) FROM state.receipt)"
"""The last place that a receipt names, else 0; SQL."""


def with_answers(calls: str) -> str:
    """The SELECT of those of these calls that were delivered, with `delivered_in`, `status`, `answered_at`.

    A call that went ahead of its turn has a receipt of its own, and may stand between the first and the last
    place of a batch.

    Args:
        calls: a SELECT with the place `seq` and other columns.
    """
    answer = ", ".join(
        f"coalesce(alone.{column}, batch.{column}) AS {name}"
        for column, name in (("run_id", "delivered_in"), ("status", "status"), ("answered_at", "answered_at"))
    )
    return f"""\
SELECT call.* EXCLUDE seq, {answer}
FROM ({calls}) AS call
LEFT JOIN (SELECT * FROM state.receipt WHERE calls > 0 AND first_seq = last_seq) AS alone
    ON call.seq = alone.first_seq
ASOF LEFT JOIN (SELECT * FROM state.receipt WHERE calls > 0 AND first_seq < last_seq) AS batch
    ON call.seq >= batch.first_seq
WHERE alone.run_id IS NOT NULL OR call.seq <= batch.last_seq"""


def keep(db: duckdb.DuckDBPyConnection, kept: Sequence[Receipt]) -> None:
    """Keep receipts."""
    rows = [receipt.__dict__ for receipt in kept]
    db.execute("INSERT INTO state.receipt BY NAME SELECT unnest(?, recursive := true)", [rows])


def last_answered(db: duckdb.DuckDBPyConnection, run_id: str) -> datetime | None:
    """When the last batch of a run was answered, in UTC and without a time zone; None where none was."""
    row = db.execute("SELECT max(answered_at) FROM state.receipt WHERE run_id = ?", [run_id]).fetchone()
    return row[0] if row else None


def note_unsure(db: duckdb.DuckDBPyConnection, calls: str) -> None:
    """Note of calls that wait that they went out before, and no answer came.

    Args:
        db: the state's connection, in a transaction.
        calls: a SELECT with their places `seq`, and with run_id and answered_at of the receipts.
    """
    db.execute(
        f"""
        INSERT INTO state.receipt BY NAME
        SELECT
            run_id, 0 AS lane, seq AS first_seq, seq AS last_seq, 0 AS calls, 0 AS bytes, 0 AS repeated,
            0 AS attempts, 0 AS status, answered_at
        FROM ({calls})
        """
    )


def unsure_places(db: duckdb.DuckDBPyConnection) -> set[int]:
    """The places of single calls that went out, and no answer came; other ones a mark tells."""
    found = db.execute("SELECT first_seq FROM state.receipt WHERE attempts = 0 AND repeated = 0").fetchall()
    return {seq for (seq,) in found}


_REFUSED = "calls = 0 AND attempts > 0"


def refused_places(db: duckdb.DuckDBPyConnection) -> dict[int, int]:
    """The places of calls that were refused alone and are not rejected yet, each with the status it got."""
    found = db.execute(f"SELECT first_seq, status FROM state.receipt WHERE {_REFUSED}")
    return dict(found.fetchall())


def forget_refused(db: duckdb.DuckDBPyConnection, places: Sequence[int]) -> None:
    """Forget that the calls at these places were refused alone."""
    if places:
        forgotten = f"DELETE FROM state.receipt WHERE {_REFUSED} AND list_contains(?, first_seq)"
        db.execute(forgotten, [list(places)])


def forget_repeat(db: duckdb.DuckDBPyConnection, batch: Batch, run_id: str) -> None:
    """Forget the last receipt of `again`: the destination answered that it has not taken the batch."""
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


def in_sum(kept: Sequence[Receipt]) -> Sent:
    """The sum of these receipts."""
    return Sent(
        calls=sum(receipt.calls for receipt in kept),
        batches=sum(receipt.calls > 0 for receipt in kept),
        bytes=sum(receipt.bytes for receipt in kept),
        repeated=sum(receipt.repeated for receipt in kept),
    )


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


@dataclass(frozen=True)
class Answers:
    """The answers to the batches of a run.

    Attributes:
        by_status: batches that were accepted, by the HTTP status of the answer.
        without_answer: attempts that repeated others and got no answer.
        calls_after_first: calls that were accepted after the first accepted batch.
        seconds: from the first accepted batch to the last one; 0 with one batch.
    """

    by_status: dict[int, int]
    without_answer: int
    calls_after_first: int
    seconds: float


def answers(db: duckdb.DuckDBPyConnection) -> dict[str, Answers]:
    """The answers to the batches of each run that has receipts, by the run's id."""
    found = db.execute(
        """
        SELECT
            run_id,
            histogram(status) FILTER (calls > 0),
            count(*) FILTER (calls = 0 AND repeated > 0),
            coalesce(
                sum(calls) FILTER (calls > 0) - arg_min(calls, answered_at) FILTER (calls > 0), 0
            )::BIGINT,
            coalesce(
                epoch(max(answered_at) FILTER (calls > 0) - min(answered_at) FILTER (calls > 0)), 0
            )::DOUBLE
        FROM state.receipt
        GROUP BY run_id
        """
    )
    return {run_id: Answers(by_status or {}, *rest) for run_id, by_status, *rest in found.fetchall()}


def forget(db: duckdb.DuckDBPyConnection, run_ids: list[str], up_to: int = 0) -> None:
    """Forget the receipts of these runs, but for those of calls up to a place."""
    db.execute("DELETE FROM state.receipt WHERE list_contains(?, run_id) AND last_seq > ?", [run_ids, up_to])


def forget_before(db: duckdb.DuckDBPyConnection, moment: datetime, run_ids: list[str]) -> None:
    """Forget receipts of before a moment that are of none of these runs."""
    db.execute(
        "DELETE FROM state.receipt WHERE answered_at < ? AND NOT list_contains(?, run_id)",
        [moment.replace(tzinfo=None), run_ids],
    )


def is_there_older(db: duckdb.DuckDBPyConnection, moment: datetime, seq: int) -> bool:
    """Whether there is a receipt of before a moment for calls up to a place."""
    old = "SELECT 1 FROM state.receipt WHERE answered_at < ? AND calls > 0 AND first_seq <= ? LIMIT 1"
    return db.execute(old, [moment.replace(tzinfo=None), seq]).fetchone() is not None


def is_there_any_up_to(db: duckdb.DuckDBPyConnection, seq: int) -> bool:
    """Whether there is a receipt of calls up to a place."""
    found = db.execute("SELECT 1 FROM state.receipt WHERE calls > 0 AND first_seq <= ? LIMIT 1", [seq])
    return found.fetchone() is not None


def last_runs(db: duckdb.DuckDBPyConnection) -> list[str]:
    """The run of the last receipt, and that of the last accepted batch: they tell that calls ever arrived."""
    found = db.execute(
        f"""
        SELECT DISTINCT run_id FROM state.receipt
        WHERE rowid = (SELECT max(rowid) FROM state.receipt WHERE NOT ({_REFUSED}))
            OR rowid = (SELECT max(rowid) FROM state.receipt WHERE calls > 0)
        """
    )
    return [run_id for (run_id,) in found.fetchall()]


def is_there_any(db: duckdb.DuckDBPyConnection) -> bool:
    """Whether a batch from this outbox ever arrived, or may have."""
    found = db.execute(f"SELECT 1 FROM state.receipt WHERE NOT ({_REFUSED}) LIMIT 1")
    return found.fetchone() is not None


def accepts(db: duckdb.DuckDBPyConnection) -> bool:
    """Whether Segment ever accepted a batch from this outbox."""
    return db.execute("SELECT 1 FROM state.receipt WHERE calls > 0 LIMIT 1").fetchone() is not None
