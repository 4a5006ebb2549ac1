"""Counts of what arrived at the sandbox, which go on when the calls themselves have made room."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from retl.sandbox.received import CallOutcome, ReceivedCall

MOST_RUNS = 1_000
"""Runs that are counted apart, the newest."""

NAMES = {
    CallOutcome.ACCEPTED: "accepted",
    CallOutcome.DISCARDED: "discarded",
    CallOutcome.DUPLICATE: "duplicates",
}
"""Names of the counts."""


@dataclass
class _RunCounts:
    first_at: datetime
    last_at: datetime
    outcomes: Counter[CallOutcome] = field(default_factory=Counter)


class Counts:
    """Counts of requests and of calls, by outcome, and by the run that sent them where it told."""

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """Begin anew."""
        self.requests = 0
        self._outcomes: Counter[CallOutcome] = Counter()
        self._codes: Counter[str] = Counter()
        self._runs: dict[tuple[str | None, str], _RunCounts] = {}

    def add(self, received: Sequence[ReceivedCall]) -> None:
        """Count the calls of one request."""
        outcomes = Counter(one.outcome for one in received)
        self._outcomes.update(outcomes)
        self._codes.update(one.reason for one in received if one.reason is not None)
        first = received[0]
        if first.run_id is not None:
            key = (first.sync, first.run_id)
            run = self._runs.pop(key, None) or _RunCounts(first.received_at, first.received_at)
            self._runs[key] = run  # the newest stands last
            run.last_at = first.received_at
            run.outcomes.update(outcomes)
            if len(self._runs) > MOST_RUNS:
                del self._runs[next(iter(self._runs))]

    def summary(self) -> dict[str, Any]:
        """Count so far: `requests`, `accepted`, `duplicates`, and `discarded` by code."""
        return {
            "requests": self.requests,
            "accepted": self._outcomes[CallOutcome.ACCEPTED],
            "duplicates": self._outcomes[CallOutcome.DUPLICATE],
            "discarded": dict(self._codes),
        }

    def of_runs(self) -> list[dict[str, Any]]:
        """The counts of each run that told its name, the one that sent last at the end."""
        return [
            {
                "sync": sync,
                "run_id": run_id,
                "first_at": run.first_at,
                "last_at": run.last_at,
                **{name: run.outcomes[outcome] for outcome, name in NAMES.items()},
            }
            for (sync, run_id), run in self._runs.items()
        ]
