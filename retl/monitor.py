"""Conditions on the status of a sync, for monitors: `retl status --fail-if`."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from retl.status import NEVER, RUNNING, SyncStatus

FAILED = frozenset({"failed", "guarded", "interrupted"})
"""The statuses of a run that did not go through."""


@dataclass(frozen=True)
class FailCondition:
    """One condition that a monitor looks for.

    Attributes:
        name: such as "older-than".
        seconds: of its duration; None where it has none.
        written: as the user has it.
    """

    name: str
    seconds: float | None
    written: str


def age(seconds: float) -> str:
    """A time that has passed, in its largest unit: `45 s`, `20 min`, `3 h`, `5 days`."""
    for size, most, unit in ((1, 120, "s"), (60, 7_200, "min"), (3_600, 172_800, "h")):
        if seconds < most:
            return f"{int(seconds // size)} {unit}"
    return f"{int(seconds // 86_400)} days"


def since(moment: str, now: datetime) -> float:
    """Seconds from a moment, as a status has it, to now; 0 where the clock was put back."""
    begun = datetime.strptime(moment[:19].replace(" ", "T"), "%Y-%m-%dT%H:%M:%S").replace(tzinfo=UTC)
    return max(0.0, (now - begun).total_seconds())


def read_conditions(written: str) -> tuple[FailCondition, ...]:
    """Read `failed,rejected,older-than=2h`.

    Raises:
        ValueError: a condition is unknown, lacks its duration, or has one that it does not take.
    """
    return tuple(_read(part.strip()) for part in written.split(",") if part.strip())


def _read(part: str) -> FailCondition:
    name, _, duration = part.partition("=")
    if name not in CONDITIONS:
        raise ValueError(f"there is no condition `{name}`; there are {', '.join(CONDITIONS)}")
    takes_time = name in TIMED
    match = re.fullmatch(r"([0-9]{1,9})([smhd])", duration)
    if takes_time and match is None:
        raise ValueError(f"`{name}` needs a duration, such as {name}=2h; the units are s, m, h and d")
    if not takes_time and duration:
        raise ValueError(f"`{name}` takes no duration")
    if match is None:
        return FailCondition(name, None, part)
    return FailCondition(name, float(match[1]) * {"s": 1, "m": 60, "h": 3_600, "d": 86_400}[match[2]], part)


def reasons(status: SyncStatus, conditions: Sequence[FailCondition], now: datetime) -> dict[str, str]:
    """The conditions that hold for a sync, as they are written, each with a sentence.

    Args:
        status: of the sync.
        conditions: to look for.
        now: UTC.
    """
    found = {}
    for condition in conditions:
        sentence = CONDITIONS[condition.name](status, condition.seconds or 0.0, now)
        if sentence is not None:
            found[condition.written] = sentence
    return found


def _failed(status: SyncStatus, _seconds: float, _now: datetime) -> str | None:
    before = (status.running.before or {}) if status.running else {}
    ended = before.get("status") if status.status == RUNNING else status.status
    if ended not in FAILED:
        return None
    why = f": {' '.join(str(status.error['message']).split())}" if status.error else ""
    when = before.get("last_run") if status.running else status.last_run
    return f"the last run that ended, of {when}, {_ENDED[ended]}{why}"


_ENDED = {
    "failed": "failed",
    "guarded": "was stopped by a guard",
    "interrupted": "was cut off or stopped by a signal",
}


def _rejected(status: SyncStatus, _seconds: float, _now: datetime) -> str | None:
    if not status.rejected:
        return None
    rows, calls = status.rejected_rows or 0, status.rejected_calls or 0
    return f"rejected rows: {rows:,}, rejected calls: {calls:,}"


def _pending(status: SyncStatus, _seconds: float, _now: datetime) -> str | None:
    if status.status == RUNNING or not status.pending:
        return None  # a run that is under way delivers them
    return f"calls that wait: {status.pending:,}, and no run is under way"


def _pending_longer(status: SyncStatus, seconds: float, now: datetime) -> str | None:
    if not status.pending or status.pending_since is None or since(status.pending_since, now) <= seconds:
        return None
    return f"calls that wait: {status.pending:,}, the oldest since {status.pending_since}"


def _older(status: SyncStatus, seconds: float, now: datetime) -> str | None:
    if status.status not in {NEVER, RUNNING, *FAILED, "succeeded", "partial"}:
        return None  # an orphan is not meant to run
    if status.status == RUNNING and status.running is None:
        return None  # a command that only looks holds it, for a moment
    if status.last_success is None:
        is_first = status.running is not None and since(status.running.since, now) <= seconds
        return None if is_first else "no run has gone through yet"
    passed = since(status.last_success, now)
    if passed <= seconds:
        return None
    return f"the last run that went through began {age(passed)} ago, at {status.last_success}"


def _running_longer(status: SyncStatus, seconds: float, now: datetime) -> str | None:
    if status.status != RUNNING or status.last_run is None:
        return None
    passed = since(status.last_run, now)
    return f"a run is under way for {age(passed)}, since {status.last_run}" if passed > seconds else None


CONDITIONS: dict[str, Callable[[SyncStatus, float, datetime], str | None]] = {
    "failed": _failed,
    "rejected": _rejected,
    "pending": _pending,
    "pending-longer-than": _pending_longer,
    "older-than": _older,
    "running-longer-than": _running_longer,
}
"""The conditions by name: each gives a sentence where it holds."""

TIMED = frozenset({"pending-longer-than", "older-than", "running-longer-than"})
"""The conditions that take a duration."""
