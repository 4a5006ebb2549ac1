"""What receivers and a tracking plan have against the calls of a sync, before one is sent.

First what the sync's file tells, then the calls that the model's rows make now: each row as if it were new
and, where a sync has an event of its own for it, as if it had changed and as if it were gone.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import duckdb

from retl.checks.call_check import Heard, hear
from retl.checks.static_check import Finding, foresee, reached
from retl.checks.tracking_plan import JUDGE as PLAN
from retl.checks.tracking_plan import TrackingPlan
from retl.config.sync import Sync
from retl.delivery.rejected import REASONS
from retl.pipeline import Job, find_changes
from retl.receivers.checker import Judge, Objection, ReceiverJudge
from retl.receivers.data_file import Effect, Settings
from retl.what_if import render_supposed, suppose, telling_kinds


@dataclass(frozen=True)
class Verdict:
    """What was found of a sync.

    Attributes:
        sync: its name.
        rows_read: rows of the model; None where only the file was looked at.
        rows: how many of them were looked at.
        calls: how many calls they make.
        outcome: how many of the calls are refused, and how many doubtful.
        findings: what there is against them, what is worst first.
        judges: who was asked: receivers, by name, and the tracking plan.
    """

    sync: str
    rows_read: int | None
    rows: int | None
    calls: int
    outcome: Mapping[Effect, int]
    findings: Sequence[Finding]
    judges: Sequence[str]

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
        return not any(finding.objection.effect.is_breach for finding in self.findings)


def check_calls(
    job: Job, settings: Mapping[str, Settings], plan: TrackingPlan | None, sample: int | None
) -> Verdict:
    """Hold a sync and the calls of its rows against receivers and a tracking plan.

    Args:
        job: what a run would work with; its state must be empty, and stays so.
        settings: the receivers by name, with what the customer set there.
        plan: a tracking plan; None is none.
        sample: how many rows to look at, ones that a hash picks; 0 is the file alone, None all.

    Raises:
        RetlError: whatever would stop a run before its guards.
    """
    asked = [*settings, *([PLAN] if plan else [])]
    if sample == 0:
        findings = _ranked(_foreseen(job.sync, settings, plan))
        return Verdict(job.sync.name, None, None, 0, {}, findings, asked)
    changes = find_changes(job, job.clock.monotonic() + job.options.deadline_seconds)
    docket = _Docket()
    judges: list[Judge] = [ReceiverJudge(reached(job.sync, settings)), *([plan] if plan else [])]
    docket.add_faults(job.state.db, _ROW_FAULTS)
    rows = calls = 0
    for kind in telling_kinds(changes.sync):
        rows = suppose(job, changes, kind, sample=sample)
        calls += render_supposed(job, changes)
        docket.add_faults(job.state.db, _CALL_FAULTS)
        for judge in judges:
            for heard in hear(job.state.db, judge):
                docket.add(heard)
        docket.close_kind()
    findings = _ranked(docket.findings(_foreseen(changes.sync, settings, plan)))
    return Verdict(job.sync.name, changes.diff.rows_read, rows, calls, docket.outcome, findings, asked)


def _foreseen(sync: Sync, settings: Mapping[str, Settings], plan: TrackingPlan | None) -> list[Finding]:
    """What the file of a sync tells."""
    return foresee(sync, settings) + (plan.foresee(sync) if plan else [])


class _Docket:
    """What was found, counted by objection and call.

    Attributes:
        outcome: how many calls are refused, and how many doubtful, at worst.
    """

    def __init__(self) -> None:
        self.outcome: Counter[Effect] = Counter()
        self._of_kind: dict[tuple[Objection, str], list[Any]] = {}  # rows, and the least of their keys
        self._found: dict[tuple[Objection, str], tuple[int, str]] = {}

    def close_kind(self) -> None:
        """Take what was found of one kind of change to the rest; a row has one call of a kind."""
        for found, (rows, key) in self._of_kind.items():
            known, example = self._found.get(found, (0, key))
            self._found[found] = max(known, rows), min(example, key)
        self._of_kind = {}

    def add(self, heard: Heard) -> None:
        """Add a call to which there are objections."""
        worst = None
        for objection in heard.objections:
            self._count(objection, heard.call, 1, heard.key)
            if objection.effect is Effect.REFUSED or (objection.effect is Effect.DOUBTFUL and worst is None):
                worst = objection.effect
        if worst is not None:
            self.outcome[worst] += 1

    def add_faults(self, db: duckdb.DuckDBPyConnection, query: str) -> None:
        """Add what retl itself would reject: reason, call, rows, and a key."""
        for reason, call, rows, key in db.execute(query).fetchall():
            does = "mend the rows, or the mapping"
            self._count(Objection("retl", reason, Effect.REFUSED, REASONS[reason], does), call, rows, key)
            self.outcome[Effect.REFUSED] += rows

    def _count(self, objection: Objection, call: str, rows: int, key: str) -> None:
        tally = self._of_kind.setdefault((objection, call), [0, key])
        tally[0] += rows
        if key < tally[1]:
            tally[1] = key

    def findings(self, foreseen: Sequence[Finding]) -> Iterator[Finding]:
        """What was found, and what the file told, with the rows that have it."""
        for finding in foreseen:
            rows, key = self._found.pop((finding.objection, finding.call), (None, None))
            yield replace(finding, rows=rows, example=key)
        for (objection, call), (rows, key) in self._found.items():
            yield Finding(objection, call, rows, key)


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
    return sorted(findings, key=lambda one: (order.index(one.objection.effect), -(one.rows or 0)))
