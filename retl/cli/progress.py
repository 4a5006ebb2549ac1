"""The progress of a run, for a person or a log; all of it goes to stderr."""

import logging
import time
from typing import TYPE_CHECKING, Any

from rich.console import Console

from retl.cli.log import LogAction, json_logs, log, say
from retl.lazy import lazy_module
from retl.observer import Observer, Observers, SilentObserver

if TYPE_CHECKING:
    from retl.cli import bars
else:
    bars = lazy_module("retl.cli.bars")

LINE_EVERY_SECONDS = 10.0
"""The time between two lines of progress in a log."""


def observer_for(sync: str, quiet: bool, console: Console) -> Observer:
    """An observer that shows bars in a terminal, lines in a pipe or a log, and nothing with `quiet`."""
    if quiet:
        return SilentObserver()
    if console.is_terminal and log.getEffectiveLevel() <= logging.INFO and not json_logs():
        return bars.Bars(sync, console)
    return Lines(sync)


class PlanObserver(Observers):
    """Shows how far a plan has got, as `observer_for` does; its notices are in the plan itself."""

    def __init__(self, sync: str, console: Console) -> None:
        super().__init__([observer_for(sync, False, console)])

    def notice(self, sentence: str) -> None:
        """Nothing."""


class Lines:
    """A line of log at each turn of a run.

    People are spared the turns of a run that takes a few seconds; machines get all of them.
    """

    def __init__(self, sync: str) -> None:
        self._sync = sync
        self._read = self._delivered = self._total = 0
        self._began_at = self._said_at = time.monotonic()
        self._paused_until = 0.0

    def _turn(self, action: LogAction, sentence: str, **numbers: Any) -> None:
        """Say that the run has come to its next turn."""
        now = time.monotonic()
        is_long = now - self._began_at >= LINE_EVERY_SECONDS
        self._said_at = now if is_long else self._said_at
        say(
            logging.INFO if is_long or json_logs() else logging.DEBUG, action, sentence, self._sync, **numbers
        )

    def _now_and_then(self, action: LogAction, sentence: str, **numbers: Any) -> None:
        if time.monotonic() - self._said_at >= LINE_EVERY_SECONDS:
            self._said_at = time.monotonic()
            say(logging.INFO, action, sentence, self._sync, **numbers)

    def reading(self) -> None:
        """The warehouse is asked for the model's rows."""
        self._turn(LogAction.READING, "the warehouse is asked for rows")

    def rows_read(self, rows: int) -> None:
        """More rows came from the warehouse; `rows` is how many."""
        self._read += rows
        self._now_and_then(LogAction.ROWS_READ, f"{self._read:,} rows read", rows=self._read)

    def comparing(self) -> None:
        """All rows are read."""
        sentence = f"all {self._read:,} rows are read, and compared with the last run"
        self._turn(LogAction.COMPARING, sentence, rows=self._read)

    def diffed(self, added: int, changed: int, removed: int) -> None:
        """The diff is known."""
        sentence = f"{added:,} added, {changed:,} changed, {removed:,} removed"
        self._turn(LogAction.DIFFED, sentence, added=added, changed=changed, removed=removed)

    def enqueuing(self) -> None:
        """The changes become calls."""
        self._turn(LogAction.ENQUEUING, "the changes become calls")

    def delivering(self, calls: int) -> None:
        """Delivery begins; `calls` are waiting."""
        self._delivered, self._total = 0, calls
        self._turn(LogAction.DELIVERING, f"{calls:,} calls to deliver", calls=calls)

    def delivered(self, calls: int) -> None:
        """The destination accepted `calls` more."""
        self._delivered += calls
        sentence = f"{self._delivered:,} of {self._total:,} calls delivered"
        self._now_and_then(LogAction.DELIVERED, sentence, delivered=self._delivered, calls=self._total)

    def waiting(self, reason: str, seconds: float) -> None:
        """A batch waits before it is tried again; of several that wait for the same time, one is told."""
        until = time.monotonic() + seconds
        if until <= self._paused_until:
            return
        self._paused_until = until
        sentence = f"{reason}; again in {seconds:.1f} s"
        say(logging.WARNING, LogAction.WAITING, sentence, self._sync, reason=reason, seconds=seconds)

    def notice(self, sentence: str) -> None:
        """A sentence that the user should read."""
        say(logging.WARNING, LogAction.NOTICE, sentence, self._sync)

    def close(self) -> None:
        """Print nothing; the command prints the result of the run."""
