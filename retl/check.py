"""Checking a sync by the rules of receivers and of a tracking plan, before a call is sent.

The sync file is checked first, then the calls that the model's rows make now: each row as if it were new
and, where a sync has an event of its own for it, as if it had changed and as if it were gone.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import duckdb

from retl import notebook
from retl.checks.call_check import CheckedCall, find_violations
from retl.checks.static_check import Finding, check_file, receivers_reached
from retl.checks.tracking_plan import CHECKER as PLAN
from retl.checks.tracking_plan import TrackingPlan
from retl.clock import SystemClock
from retl.config.sync import Sync
from retl.delivery.rejected import REASONS
from retl.engine.landing import Purpose
from retl.job import Job, Options
from retl.observer import SilentObserver
from retl.pipeline import find_changes, open_engine
from retl.receivers.checker import Checker, ReceiverChecker
from retl.receivers.compiled_check import Violation
from retl.receivers.data_file import Effect
from retl.receivers.settings import Settings, read_settings
from retl.session import Session
from retl.state import State
from retl.what_if import fill_changes, render_what_if, telling_kinds

if TYPE_CHECKING:
    import pandas as pd  # an extra: only notebooks need it


@dataclass(frozen=True)
class CheckReport:
    """The result of a check of one sync.

    Attributes:
        sync: its name.
        rows_read: rows of the model; None where only the file was looked at.
        rows: how many of them were looked at.
        calls: how many calls they make.
        outcome: how many of the calls are refused, and how many doubtful.
        findings: the violations, the worst first.
        checkers: names of the receivers that were asked, and of the tracking plan.
        columns: how many columns the sync needs of its model; None where no database was asked for them.
    """

    sync: str
    rows_read: int | None
    rows: int | None
    calls: int
    outcome: Mapping[Effect, int]
    findings: Sequence[Finding]
    checkers: Sequence[str]
    columns: int | None = None

    def to_pandas(self) -> "pd.DataFrame":
        """One line for each finding, with a column for each field of it, as `retl check --json` has them.

        Raises:
            ConfigError: pandas is not installed.
        """
        return notebook.frame([one.as_json() for one in self.findings])

    def _repr_html_(self) -> str:
        """The report as a notebook shows it."""
        rows = [
            (
                one.violation.effect,
                one.violation.rule,
                one.call,
                one.rows,
                one.violation.says,
                one.violation.do,
            )
            for one in self.findings
        ]
        asked = (
            f"checked by the rules of {', '.join(self.checkers)}" if self.checkers else "the files are right"
        )
        columns = f", {self.columns} columns" if self.columns is not None else ""
        color = notebook.GOOD if self.is_clean else notebook.BAD
        return notebook.html(self.sync, asked + columns, color, rows)

    def as_json(self) -> dict[str, Any]:
        """The object that `retl check --json` prints."""
        return {
            "sync": self.sync,
            "rows_read": self.rows_read,
            "rows": self.rows,
            "calls": self.calls,
            **{effect.value: self.outcome.get(effect, 0) for effect in Effect if effect.is_breach},
            "clean": self.is_clean,
            "findings": [one.as_json() for one in self.findings],
        }

    @property
    def is_clean(self) -> bool:
        """Whether no call would be refused, as far as the receivers' documents go."""
        return not any(finding.violation.effect.is_breach for finding in self.findings)


def looking_job(session: Session, state: State) -> Job:
    """The job of a command that only looks: the options of a plain run, and no progress."""
    clock, observer = SystemClock(), SilentObserver()
    return Job(
        session.sync,
        session.model,
        state,
        session.warehouse,
        Options(),
        clock,
        observer,
        workspace=session.open_workspace,
    )


def receiver_settings(session: Session, names: Sequence[str]) -> dict[str, Settings]:
    """The settings of receivers by their names: those of the sync, else the defaults."""
    return {name: session.sync.receivers.get(name) or read_settings(name, {}) for name in names}


def check_sync(
    job: Job, settings: Mapping[str, Settings], plan: TrackingPlan | None, sample: int | None
) -> CheckReport:
    """Check a sync and the calls of its rows by the rules of receivers and of a tracking plan.

    Args:
        job: what a run would work with; its state must be empty, and stays so.
        settings: the customer's settings of each receiver, by its name.
        plan: a tracking plan; None is none.
        sample: rows to look at, picked by a hash of their keys; 0 checks the file alone, None all rows.

    Raises:
        RetlError: whatever would stop a run before its guards.
    """
    asked = [*settings, *([PLAN] if plan else [])]
    if sample == 0:
        findings = _ranked(_file_findings(job.sync, settings, plan))
        return CheckReport(job.sync.name, None, None, 0, {}, findings, asked)
    job = job.asking(command="check")
    changes = find_changes(job, open_engine(job, job.deadline, Purpose.LOOK_UP)).changes
    tally = _Tally()
    checkers: list[Checker] = [
        ReceiverChecker(receivers_reached(job.sync, settings)),
        *([plan] if plan else []),
    ]
    tally.add_faults(job.state.db, _ROW_FAULTS)
    rows = calls = 0
    for kind in telling_kinds(changes.sync):
        rows = fill_changes(job, changes, kind, sample=sample)
        calls += render_what_if(job, changes)
        tally.add_faults(job.state.db, _CALL_FAULTS)
        for checker in checkers:
            for checked in find_violations(job.state.db, checker):
                tally.add(checked)
        tally.close_kind()
    findings = _ranked(tally.findings(_file_findings(changes.sync, settings, plan)))
    return CheckReport(job.sync.name, changes.diff.rows_read, rows, calls, tally.outcome, findings, asked)


def _file_findings(sync: Sync, settings: Mapping[str, Settings], plan: TrackingPlan | None) -> list[Finding]:
    """The findings of the sync file alone."""
    return check_file(sync, settings) + (plan.check_file(sync) if plan else [])


class _Tally:
    """The violations that were found, counted by violation and call.

    Attributes:
        outcome: how many calls are refused, and how many doubtful, at worst.
    """

    def __init__(self) -> None:
        self.outcome: Counter[Effect] = Counter()
        self._of_kind: dict[tuple[Violation, str], list[Any]] = {}  # rows, and the least of their keys
        self._found: dict[tuple[Violation, str], tuple[int, str]] = {}

    def close_kind(self) -> None:
        """Add what was found of one kind of change to the rest; a row has one call of each kind."""
        for found, (rows, key) in self._of_kind.items():
            known, example = self._found.get(found, (0, key))
            self._found[found] = max(known, rows), min(example, key)
        self._of_kind = {}

    def add(self, checked: CheckedCall) -> None:
        """Add a call that breaks rules."""
        worst = None
        for violation in checked.violations:
            self._count(violation, checked.call, 1, checked.key)
            if violation.effect is Effect.REFUSED or (violation.effect is Effect.DOUBTFUL and worst is None):
                worst = violation.effect
        if worst is not None:
            self.outcome[worst] += 1

    def add_faults(self, db: duckdb.DuckDBPyConnection, query: str) -> None:
        """Add what retl itself would reject: reason, call, rows, and a key."""
        for reason, call, rows, key in db.execute(query).fetchall():
            does = "fix the rows, or the mapping"
            self._count(Violation("retl", reason, Effect.REFUSED, REASONS[reason], does), call, rows, key)
            self.outcome[Effect.REFUSED] += rows

    def _count(self, violation: Violation, call: str, rows: int, key: str) -> None:
        found = self._of_kind.setdefault((violation, call), [0, key])
        found[0] += rows
        found[1] = min(found[1], key)

    def findings(self, of_file: Sequence[Finding]) -> Iterator[Finding]:
        """All findings: those of the file with the rows that have them, then those of calls alone."""
        for finding in of_file:
            rows, key = self._found.pop((finding.violation, finding.call), (None, None))
            yield replace(finding, rows=rows, example=key)
        for (violation, call), (rows, key) in self._found.items():
            yield Finding(violation, call, rows, key)


_ROW_FAULTS = (
    "SELECT reason, 'row', sum(rows)::BIGINT, min(coalesce(key, '(no key)')) FROM row_fault GROUP BY reason"
)

_CALL_FAULTS = """
SELECT reason, coalesce(event, type), count(*), min(key)
FROM call
WHERE reason IS NOT NULL
GROUP BY ALL
"""


def _ranked(findings: Iterable[Finding]) -> list[Finding]:
    """The worst first, each receiver's in the order of its rules."""
    order = list(Effect)
    return sorted(findings, key=lambda one: (order.index(one.violation.effect), -(one.rows or 0)))
