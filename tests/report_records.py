"""Records of runs for the tests of the report, as `retl run` keeps them."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from retl.delivery.receipts import Answers
from retl.delivery.rejected import REASONS
from retl.delivery.rejection_list import ReasonCount, RejectedCall, RejectedRow, RejectedText
from retl.engine.guard import Guard
from retl.errors import GuardError, RetlError, SegmentError
from retl.report.facts import Facts
from retl.report.page import Report
from retl.report.section import Section, section_of
from retl.run import Calls, Run

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)

OUTAGE = SegmentError("Segment does not answer", hint="run it again; nothing is lost")


def past_run(number: int, **known: Any) -> Run:
    """The run with that number, an hour after the one before: ten rows changed, and their calls left."""
    run = Run(
        "users",
        f"{NOON + timedelta(hours=number):%Y%m%dT%H%M%S}-{number:06x}",
        NOON + timedelta(hours=number),
        seconds=2.5,
        rows_read=1_000,
        unchanged=980,
        added=5,
        changed=10,
        removed=5,
        rejected_rows=5,
        rejected_by={"no_id": 5},
        calls=Calls(20, 20, 0, 0, 0, 0),
        batches=2,
        bytes=9_000,
        retries=1,
        guards=(Guard("min_rows", "1", 1_000, False, False), Guard("removed", "20%", 5, False, False)),
        exit_code=1,
    )
    return run.evolve(**known)


def stopped_run(number: int, error: RetlError = OUTAGE, **known: Any) -> Run:
    """A run that an error ended."""
    return past_run(number, error=error, exit_code=error.exit_code, **known)


def guarded_run(number: int) -> Run:
    """A run in which 600 rows were gone."""
    error = GuardError("600 of 1,000 rows are gone", hint="if this is right: --force removed")
    return stopped_run(number, error, removed=600, guards=(Guard("removed", "20%", 600, True, False),))


def facts(runs: Sequence[Run], **known: Any) -> Facts:
    """The state of a sync after some runs, which are given oldest first."""
    answers = {run.run_id: Answers({200: 2}, 0, 10, 0.5) for run in runs if run.batches}
    counts = {"rows": 1_000, "pending": 0}
    return Facts([run.as_json() for run in reversed(runs)], answers, **(counts | known))


def section(facts: Facts, name: str = "users", show_values: bool = False) -> Section:
    """The section of a sync."""
    return section_of(name, facts, lambda reason: REASONS.get(reason, reason), show_values)


def report(*sections: Section, orphans: Sequence[Section] = (), show_values: bool = False) -> Report:
    """A report that was made a month after noon."""
    return Report("shop", NOON + timedelta(days=30), 30, show_values, False, sections, orphans)


HOSTILE = "<img src=x onerror=alert(1)>\"'&amp; 東京"
"""A name, key or message that would be something else in HTML."""


def rejected(key: str) -> dict[str, Any]:
    """Rejected rows and calls with a key that is personal data."""
    at = NOON.replace(tzinfo=None)
    return {
        "reasons": [ReasonCount("no_id", 1, 0, NOON, NOON), ReasonCount("refused", 0, 1, NOON, NOON)],
        "rejected_rows": [RejectedRow(key, "no_id", 1, at, at, 3)],
        "rejected_calls": [RejectedCall(key, "changed", "refused", "m1", "400 bad call", at)],
        "texts": [RejectedText(f"user {key}", f'{{"email": "{key}"}}')],
    }
