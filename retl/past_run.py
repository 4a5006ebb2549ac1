"""Past runs, by the records that a state keeps of them."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import duckdb

from retl.delivery import outbox
from retl.records import KEPT_RUNS, newest_records
from retl.run import Status


@dataclass(frozen=True)
class PastRun:
    """The parts of a kept record that `retl status` shows.

    Attributes:
        run_id: of the run.
        started_at: when the run began, as ISO 8601 text in UTC.
        seconds: how long it took; 0 where it was cut off.
        status: how it ended, a value of `Status`.
        exit_code: its exit code; None where it was cut off.
        delivered: calls that were delivered in it; None where it did not get so far.
        error: what ended it, as `code`, `message` and `hint`; None where nothing did.
        rejected_by: rows that it could not compare or send, by reason.
    """

    run_id: str
    started_at: str
    seconds: float
    status: str
    exit_code: int | None
    delivered: int | None
    error: dict[str, str | None] | None
    rejected_by: dict[str, int]


def last_run(db: duckdb.DuckDBPyConnection) -> PastRun | None:
    """The run whose record was written last, no retry; None where there is none."""
    for kept in _runs(db):
        return PastRun(
            kept["run_id"],
            kept["started_at"],
            kept.get("seconds", 0.0),
            kept["status"],
            kept["exit_code"],
            kept["calls"]["delivered"],
            kept.get("error"),
            kept.get("rejected_by") or {},
        )
    return None


def last_success(db: duckdb.DuckDBPyConnection) -> str | None:
    """When the last run began that went through, with or without rejected rows; as text, as `started_at`."""
    succeeded = (kept for kept in _runs(db) if kept["status"] in {Status.SUCCEEDED, Status.PARTIAL})
    return next((str(kept["started_at"]) for kept in succeeded), None)


def _runs(db: duckdb.DuckDBPyConnection) -> Iterator[dict[str, Any]]:
    """The records of runs, the newest first; a retry reads nothing, and says nothing of the model."""
    for most in (1, KEPT_RUNS):
        for kept in newest_records(db, most=most)[most > 1 :]:
            if not kept.get("retry"):
                yield kept


def pending_since(db: duckdb.DuckDBPyConnection) -> str | None:
    """When the oldest run began of which calls wait, as text, as `started_at`; None where none waits."""
    run_ids = outbox.run_ids(db)
    moments = [kept["started_at"] for kept in newest_records(db, run_ids)] if run_ids else []
    return min(moments, default=None)


def sent_record(db: duckdb.DuckDBPyConnection, run_id: str | None) -> dict[str, Any] | None:
    """The record of a run, or of the last one that delivered calls; None where there is none.

    Args:
        db: the state's connection.
        run_id: of the run; None is the last one.
    """
    records = newest_records(db, None if run_id is None else [run_id])
    return next((one for one in records if run_id is not None or one["calls"]["delivered"]), None)
