"""The record of a run: what it did, and how it ended."""

import secrets
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from retl import notebook
from retl.delivery.round import Delivery
from retl.engine.diff import Diff
from retl.engine.guard import Guard
from retl.errors import RetlError

if TYPE_CHECKING:
    import pandas as pd  # an extra: only notebooks need it


class Status(StrEnum):
    """How a run ended."""

    SUCCEEDED = "succeeded"  # all is delivered, or there was nothing to do
    PARTIAL = "partial"  # finished, but rows or calls were rejected
    FAILED = "failed"  # files, the outside world, or a bug
    GUARDED = "guarded"  # a guard stopped it
    LOCKED = "locked"  # another process holds the sync
    INTERRUPTED = "interrupted"  # a signal, or a sudden end; the next run goes on


_STATUS_BY_EXIT_CODE = {0: Status.SUCCEEDED, 1: Status.PARTIAL, 4: Status.GUARDED, 5: Status.LOCKED}


@dataclass(frozen=True)
class Calls:
    """The calls of a run; None where the run did not get so far.

    Attributes:
        enqueued: put into the outbox by this run.
        delivered: accepted by Segment in this run, also ones that an earlier run left over.
        rejected: refused for good, by Segment or, for rows that are gone, by retl's own check.
        pending: in the outbox when the run ended.
        unsure: went out once without an answer, and then again.
        undated: enqueued with the moment of detection, as the column of their timestamp is null.
    """

    enqueued: int | None = None
    delivered: int | None = None
    rejected: int | None = None
    pending: int | None = None
    unsure: int | None = None
    undated: int | None = None


@dataclass(frozen=True)
class Run:
    """The record of a run, as `retl run --json` prints it; counts are None where it did not get so far.

    `rows_read = unchanged + added + changed + rejected_rows` holds in each.

    Attributes:
        sync: name of the sync.
        run_id: its id, which sorts by time.
        started_at: when it began, in UTC.
        seconds: how long it took.
        baseline: whether it was a silent baseline, which remembers all rows and sends nothing.
        full: whether every current row was sent again.
        resumed_full: whether the rest of an earlier such pass was delivered in its place.
        rows_read: rows of the model.
        unchanged: rows that are as they were.
        added: rows whose key is new.
        changed: rows that differ in what is compared.
        removed: rows that are gone.
        rejected_rows: rows that cannot be sent.
        rejected_by: the same by reason.
        calls: numbers of calls.
        batches: HTTP requests that were accepted.
        bytes: of these batches, before compression.
        retries: attempts beyond the first of each batch.
        guards: the guards and what they found.
        violations: how many calls break a rule of a receiver, by the rule's code.
        marked: whether the calls carry the run's id.
        retry: whether it was a `retl retry`, which reads nothing.
        error: what stopped it; None where it came to its end.
        exit_code: as the command line has it: 0 for success, 1 where rows or calls were rejected; None while
            it is under way.
    """

    sync: str
    run_id: str
    started_at: datetime
    seconds: float = 0.0
    baseline: bool = False
    full: bool = False
    resumed_full: bool = False
    rows_read: int | None = None
    unchanged: int | None = None
    added: int | None = None
    changed: int | None = None
    removed: int | None = None
    rejected_rows: int | None = None
    rejected_by: dict[str, int] = field(default_factory=dict)
    calls: Calls = field(default_factory=Calls)
    batches: int | None = None
    bytes: int | None = None
    retries: int | None = None
    guards: Sequence[Guard] = ()
    violations: dict[str, int] = field(default_factory=dict)
    marked: bool = False
    retry: bool = False
    error: RetlError | None = None
    exit_code: int | None = None

    @property
    def status(self) -> Status:
        """The status of the run; a run without an end was cut off."""
        if self.exit_code is None or self.exit_code >= 128:
            return Status.INTERRUPTED
        return _STATUS_BY_EXIT_CODE.get(self.exit_code, Status.FAILED)

    @property
    def rejected_anything(self) -> bool:
        """Whether rows or calls could not be sent."""
        return bool(self.rejected_rows or self.calls.rejected)

    @property
    def did_anything(self) -> bool:
        """True where the run read rows or delivered calls."""
        return self.rows_read is not None or bool(self.calls.delivered or self.calls.rejected)

    def evolve(self, **changes: Any) -> "Run":
        """The same run with something more known."""
        return replace(self, **changes)

    def with_diff(self, diff: Diff, guards: Sequence[Guard], baseline: bool) -> "Run":
        """The run once its changes are known."""
        return self.evolve(
            baseline=baseline,
            rows_read=diff.rows_read,
            unchanged=diff.unchanged,
            added=diff.added,
            changed=diff.changed,
            removed=diff.removed,
            rejected_rows=diff.rejected,
            rejected_by=diff.rejected_by,
            guards=guards,
        )

    def with_calls(self, enqueued: int, undated: int, refused: int) -> "Run":
        """The run once its calls are in the outbox; `refused` ones of retl's own are not."""
        calls = replace(
            self.calls,
            enqueued=enqueued,
            undated=undated,
            rejected=(self.calls.rejected or 0) + refused,
        )
        return self.evolve(calls=calls)

    def with_delivery(self, delivery: Delivery) -> "Run":
        """The run after one more delivery, which began with what the one before left over."""
        return self.evolve(
            calls=replace(
                self.calls,
                delivered=(self.calls.delivered or 0) + delivery.delivered,
                rejected=(self.calls.rejected or 0) + delivery.rejected,
                unsure=(self.calls.unsure or 0) + delivery.unsure,
            ),
            batches=(self.batches or 0) + delivery.batches,
            bytes=(self.bytes or 0) + delivery.bytes,
            retries=(self.retries or 0) + delivery.retries,
            error=delivery.error,
        )

    def failed(self, error: RetlError) -> "Run":
        """The run that ended before it began."""
        return self.evolve(error=error).finished(0.0, None, rejected_fails=True)

    def finished(self, seconds: float, pending: int | None, rejected_fails: bool) -> "Run":
        """The run at its end; `rejected_fails` says whether rejected rows and calls make it partial."""
        code = self.error.exit_code if self.error else int(rejected_fails and self.rejected_anything)
        return self.evolve(seconds=seconds, exit_code=code, calls=replace(self.calls, pending=pending))

    def to_pandas(self) -> "pd.DataFrame":
        """One line with a column for each field of `as_json`, such as `calls.delivered`; `started_at` is UTC.

        Raises:
            ConfigError: pandas is not installed.
        """
        return notebook.frame([self.as_json()], times=["started_at"])

    def _repr_html_(self) -> str:
        """The run as a notebook shows it."""
        colors = {Status.SUCCEEDED: notebook.GOOD, Status.PARTIAL: notebook.DOUBTFUL}
        rows = [
            ("rows read", self.rows_read, "calls delivered", self.calls.delivered),
            ("added", self.added, "rejected", self.calls.rejected),
            ("changed", self.changed, "pending", self.calls.pending),
            ("removed", self.removed, "batches", self.batches),
            ("rejected", self.rejected_rows, "retries", self.retries),
        ]
        reasons = [
            f"{notebook.counted(number, 'row')} rejected: {reason}"
            for reason, number in self.rejected_by.items()
        ]
        error = [str(self.error), *([self.error.hint] if self.error.hint else [])] if self.error else []
        note = f"{self.status}, {self.started_at:%Y-%m-%d %H:%M} UTC, {self.seconds:.1f} s"
        if self.baseline:
            note += ", a silent baseline: nothing is sent"
        return notebook.html(self.sync, note, colors.get(self.status, notebook.BAD), rows, [*reasons, *error])

    def as_json(self) -> dict[str, Any]:
        """The object that `--json` prints."""
        error = self.error
        return {
            "sync": self.sync,
            "run_id": self.run_id,
            "status": self.status.value,
            "exit_code": self.exit_code,
            "started_at": self.started_at.strftime("%Y-%m-%dT%H:%M:%SZ"),
            "seconds": round(self.seconds, 3),
            "baseline": self.baseline,
            "full": self.full,
            "resumed_full": self.resumed_full,
            "rows_read": self.rows_read,
            "unchanged": self.unchanged,
            "added": self.added,
            "changed": self.changed,
            "removed": self.removed,
            "rejected_rows": self.rejected_rows,
            "rejected_by": self.rejected_by,
            "calls": dict(self.calls.__dict__),
            "batches": self.batches,
            "bytes": self.bytes,
            "retries": self.retries,
            "guards": [guard.as_json() for guard in self.guards],
            "violations": self.violations,
            "marked": self.marked,
            "retry": self.retry,
            "error": {"code": error.code, "message": str(error), "hint": error.hint} if error else None,
        }


def begin_run(sync: str, now: datetime, full: bool = False, marked: bool = False) -> Run:
    """A run that begins now; its id sorts by time."""
    return Run(sync, f"{now:%Y%m%dT%H%M%S}-{secrets.token_hex(3)}", now, full=full, marked=marked)
