"""Conditions on the status of a sync, for monitors."""

from datetime import UTC, datetime, timedelta

import pytest
from harness import NOON

from retl.monitor import read_conditions, reasons
from retl.progress_file import RunProgress
from retl.status import SyncStatus


def at(hours: float) -> str:
    """A moment so many hours before noon."""
    return (NOON - timedelta(hours=hours)).astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


FINE = SyncStatus("s", "succeeded", at(1), last_success=at(1), pending=0, rejected=0)
UNDER_WAY = RunProgress("reading", at(3), at(0))
BUSY = SyncStatus("s", "running", at(3), last_success=at(30), running=UNDER_WAY)


@pytest.mark.parametrize(
    ("status", "condition", "holds"),
    [
        (FINE, "failed", False),
        (FINE, "older-than=30m", True),
        (FINE, "older-than=1h", False),
        (FINE, "running-longer-than=1s", False),
        (SyncStatus("s", "guarded", at(1), last_success=at(1)), "failed", True),
        (SyncStatus("s", "never"), "older-than=1d", True),
        (SyncStatus("s", "orphaned", pending=0), "older-than=1d", False),
        (SyncStatus("s", "orphaned", pending=2), "pending", True),
        (SyncStatus("s", "partial", at(1), pending=2, pending_since=at(5)), "pending-longer-than=4h", True),
        (SyncStatus("s", "partial", at(1), pending=2, pending_since=at(5)), "pending-longer-than=5h", False),
        (BUSY, "running-longer-than=2h", True),
        (BUSY, "running-longer-than=3h", False),
        (BUSY, "older-than=1d", True),
        (BUSY, "pending", False),
        (BUSY, "failed", False),
        (SyncStatus("s", "running", at(3), running=UNDER_WAY), "older-than=4h", False),
        (SyncStatus("s", "running"), "older-than=1s", False),
    ],
)
def test_conditions(status: SyncStatus, condition: str, holds: bool) -> None:
    """Each condition holds for what its name says; a first run has the time that a monitor allows."""
    assert holds == bool(reasons(status, read_conditions(condition), NOON))


def test_a_failure_before_the_run_that_is_under_way() -> None:
    """While a run is under way, the one before it is still what failed."""
    told = RunProgress("reading", at(0), at(0), before={"status": "failed", "last_run": at(2)})
    now = datetime(2026, 3, 1, 12, tzinfo=UTC)

    found = reasons(SyncStatus("s", "running", at(0), running=told), read_conditions("failed"), now)

    assert {"failed": f"the last run that ended, of {at(2)}, failed"} == found
