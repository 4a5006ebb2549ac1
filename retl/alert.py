"""Alerts: which change in how a sync fares is worth a message, and what the message says.

A sync is told of when its condition changes, and not on every run: when it begins to fail, when it fails for
another reason, and when all is well again. Each channel has its own view, as each has its own `on` and limit.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from retl.config.settings import Notify
from retl.run import Run, Status


class AlertEvent(StrEnum):
    """A change that a channel may ask for, as in `on`."""

    FAILED = "failed"  # files, the outside world, or a bug ended a run
    GUARDED = "guarded"  # a guard stopped a run
    REJECTED = "rejected"  # more rows and calls were rejected than the channel's limit
    RECOVERED = "recovered"  # none of these any more


FINE = "fine"
"""The condition of a sync of which nothing needs to be told."""


@dataclass(frozen=True)
class Told:
    """The last that a channel was told of a sync.

    Attributes:
        condition: `FINE`, or an event and what it is about: `failed: warehouse`.
        since: the moment in UTC, as text, at which the run began that brought it; None for `FINE`.
    """

    condition: str = FINE
    since: str | None = None


@dataclass(frozen=True)
class Alert:
    """A message about a sync.

    Attributes:
        event: what happened.
        run: the run that brought it.
        before: the condition until now.
    """

    event: AlertEvent
    run: Run
    before: Told

    def text(self, flags: str = "") -> str:
        """The message for people: what happened, numbers, what to do next, and the command.

        Args:
            flags: options that a command must repeat to mean the same state.
        """
        return "\n".join(_lines(self, flags))

    def as_json(self) -> dict[str, Any]:
        """The message for machines: the record of the run, and why it is told."""
        was = {"condition": self.before.condition, "since": self.before.since}
        return {"event": self.event.value, "before": was, **self.run.as_json()}


def next_told(channel: Notify, before: Told, run: Run) -> tuple[Alert | None, Told]:
    """The alert that a run is worth to a channel, if any, and what it has been told then."""
    now = _condition(channel, run)
    if now is None or now == before.condition:
        return None, before
    if now == FINE:
        is_wanted = AlertEvent.RECOVERED in channel.on
        return Alert(AlertEvent.RECOVERED, run, before) if is_wanted else None, Told()
    event = AlertEvent(now.partition(":")[0])
    return Alert(event, run, before), Told(now, _moment(run))


def _condition(channel: Notify, run: Run) -> str | None:
    """The condition that a run shows, as far as the channel asks for it; None where it shows nothing.

    A run that was interrupted, or that found the sync held by another, says nothing about the sync.
    """
    if run.status in (Status.INTERRUPTED, Status.LOCKED):
        return None
    if run.status is Status.GUARDED:
        tripped = [guard.name for guard in run.guards if guard.tripped and not guard.forced]
        found = f"{AlertEvent.GUARDED}: {', '.join(tripped)}"
    elif run.status is Status.FAILED:
        found = f"{AlertEvent.FAILED}: {run.error.code if run.error else ''}"
    elif _rejects_too_many(channel, run):
        found = AlertEvent.REJECTED.value
    else:
        return FINE
    return found if found.partition(":")[0] in channel.on else FINE


def _rejects_too_many(channel: Notify, run: Run) -> bool:
    limit, rejected = channel.rejected, (run.rejected_rows or 0) + (run.calls.rejected or 0)
    if limit.off:
        return False
    if limit.count is not None:
        return rejected > limit.count
    return rejected * 100 > (limit.percent or 0) * (run.rows_read or 0)


def _moment(run: Run) -> str:
    return run.started_at.strftime("%Y-%m-%dT%H:%M:%SZ")


def _lines(alert: Alert, flags: str) -> Iterator[str]:
    run, error = alert.run, alert.run.error
    match alert.event:
        case AlertEvent.FAILED:
            yield f"retl: {run.sync} failed: {error or 'no reason is known'}"
        case AlertEvent.GUARDED:
            yield f"retl: a guard stopped {run.sync} before its first call: {error}"
        case AlertEvent.REJECTED:
            reasons = ", ".join(f"{reason} {rows:,}" for reason, rows in run.rejected_by.items())
            yield f"retl: {run.sync} rejects rows or calls" + (f": {reasons}" if reasons else "")
        case AlertEvent.RECOVERED:
            was = f"it was `{alert.before.condition}` since {alert.before.since}"
            yield f"retl: {run.sync} is fine again; {was}"
    yield f"{', '.join(_numbers(run)) or 'nothing was read'} (run {run.run_id}, exit code {run.exit_code})"
    if error is not None and error.hint:
        yield f"→ {error.hint}"
    command = _NEXT.get(alert.event)
    if command is not None:
        yield f"→ {command.format(sync=run.sync)}{flags}"


_NEXT = {
    AlertEvent.FAILED: "where it stands: retl status {sync}",
    AlertEvent.GUARDED: "look at what it would send: retl plan {sync}",
    AlertEvent.REJECTED: "which, and why: retl rejected {sync}",
}
"""The step after each event, by its command."""


def _numbers(run: Run) -> Iterator[str]:
    """The counts of a run that are worth a word."""
    if run.rows_read is not None:
        yield f"{_counted(run.rows_read, 'row')} read"
    rows = (
        (run.added, "added"),
        (run.changed, "changed"),
        (run.removed, "removed"),
        (run.rejected_rows, "rejected"),
    )
    yield from (f"{number:,} {word}" for number, word in rows if number)
    calls = (
        (run.calls.delivered, "delivered"),
        (run.calls.rejected, "rejected"),
        (run.calls.pending, "pending"),
    )
    yield from (f"{_counted(number, 'call')} {word}" for number, word in calls if number)


def _counted(number: int, noun: str) -> str:
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"
