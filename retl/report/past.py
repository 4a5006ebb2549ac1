"""A past run, as the report shows it; it is read from its kept record and its receipts."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from retl.delivery.receipts import Answers
from retl.report.condition import Condition, condition_of


@dataclass(frozen=True)
class Failure:
    """The error that ended a run: its code, the sentence, and what to do; None where that says it all."""

    code: str
    message: str
    hint: str | None


@dataclass(frozen=True)
class GuardReading:
    """A guard in a run.

    Attributes:
        name: as in the sync file.
        limit: as it is written there: "20%", "500000" or "off".
        value: the rows that it counted.
        tripped: whether the limit was broken.
        forced: whether `--force` let it pass.
        whole: the rows that a percentage is of, as far as the record tells; None where it does not.
    """

    name: str
    limit: str
    value: int
    tripped: bool
    forced: bool
    whole: int | None

    @property
    def share(self) -> float | None:
        """The part of the limit that is used, 1.0 at the limit; None where there is no such thing."""
        limit = self._rows_allowed
        if limit is None or self.name == "min_rows":
            return None
        if limit == 0:
            return 1.0 if self.value else 0.0
        return self.value / limit

    @property
    def percent(self) -> float | None:
        """The rows in percent, where the limit is a percentage."""
        if not self.limit.endswith("%") or not self.whole:
            return None
        return 100 * self.value / self.whole

    @property
    def _rows_allowed(self) -> float | None:
        if self.limit.endswith("%"):
            return float(self.limit[:-1]) * self.whole / 100 if self.whole else None
        return float(self.limit) if self.limit.isdecimal() else None


@dataclass(frozen=True)
class ReportedRun:
    """A past run; counts are None where it did not get so far.

    Attributes:
        began: in UTC.
        answers: what its batches were answered; None where none was accepted or repeated.
    """

    run_id: str
    began: datetime
    condition: Condition
    seconds: float
    rows_read: int | None
    unchanged: int | None
    added: int | None
    changed: int | None
    removed: int | None
    rejected_rows: int | None
    rejected_calls: int | None
    rejected_by: Mapping[str, int]
    delivered: int | None
    pending: int | None
    unsure: int | None
    retries: int | None
    bytes: int | None
    baseline: bool
    full: bool
    guards: tuple[GuardReading, ...]
    failure: Failure | None
    answers: Answers | None

    @property
    def rejected(self) -> int | None:
        """Rejected rows and calls."""
        counts = [one for one in (self.rejected_rows, self.rejected_calls) if one is not None]
        return sum(counts) if counts else None

    @property
    def is_first_pass(self) -> bool:
        """Whether every row that it read was new."""
        return bool(self.added) and not (self.unchanged or self.changed or self.removed)

    @property
    def tags(self) -> tuple[str, ...]:
        """The particulars of the run, a few words each."""
        forced = [f"{guard.name} let pass" for guard in self.guards if guard.tripped and guard.forced]
        silent = ["silent baseline"] if self.baseline else []
        unsure = [f"{self.unsure:,} unsure"] if self.unsure else []
        return (*silent, *(["all rows again"] if self.full else []), *unsure, *forced)


def reported_run(record: Mapping[str, Any], answers: Answers | None) -> ReportedRun:
    """A run by its record, of which an older retl may have written fewer members."""
    calls = record.get("calls") or {}
    error = record.get("error")
    return ReportedRun(
        run_id=record["run_id"],
        began=datetime.strptime(record["started_at"], "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC),
        condition=condition_of(record["status"]),
        seconds=record.get("seconds") or 0.0,
        rows_read=record.get("rows_read"),
        unchanged=record.get("unchanged"),
        added=record.get("added"),
        changed=record.get("changed"),
        removed=record.get("removed"),
        rejected_rows=record.get("rejected_rows"),
        rejected_calls=calls.get("rejected"),
        rejected_by=record.get("rejected_by") or {},
        delivered=calls.get("delivered"),
        pending=calls.get("pending"),
        unsure=calls.get("unsure"),
        retries=record.get("retries"),
        bytes=record.get("bytes"),
        baseline=bool(record.get("baseline")),
        full=bool(record.get("full")),
        guards=tuple(_reading(guard, record) for guard in record.get("guards") or ()),
        failure=Failure(error["code"], error["message"], error.get("hint")) if error else None,
        answers=answers,
    )


def _reading(guard: Mapping[str, Any], record: Mapping[str, Any]) -> GuardReading:
    return GuardReading(
        guard["name"],
        guard["limit"],
        guard["value"],
        guard["tripped"],
        guard["forced"],
        _whole(guard["name"], record),
    )


def _whole(name: str, record: Mapping[str, Any]) -> int | None:
    """The rows that a guard's percentage is of.

    The record has no count of the snapshot's rows. All of them but those of rejected rows were unchanged,
    changed or removed.
    """
    if name == "rejected":
        return record.get("rows_read")
    known = [record.get("unchanged"), record.get("changed"), record.get("removed")]
    return None if None in known else sum(number for number in known if number is not None)
