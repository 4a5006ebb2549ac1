"""The progress of a run, for a person or a log; all of it goes to stderr."""

import logging
import time
from typing import TYPE_CHECKING, Any

from rich.console import Console

from retl.cli.log import json_logs, log
from retl.lazy import lazy_module
from retl.observer import Observer, SilentObserver

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


class Lines:
    """A line of log at each turn of a run."""

    def __init__(self, sync: str) -> None:
        self._sync = sync
        self._read = self._delivered = self._total = 0
        self._said_at = time.monotonic()

    def _say(self, level: int, action: str, sentence: str, **numbers: Any) -> None:
        log.log(
            level,
            "%s: %s",
            self._sync,
            sentence,
            extra={"fields": {"action": action, "sync": self._sync, **numbers}},
        )

    def _now_and_then(self, action: str, sentence: str, **numbers: Any) -> None:
        if time.monotonic() - self._said_at >= LINE_EVERY_SECONDS:
            self._said_at = time.monotonic()
            self._say(logging.INFO, action, sentence, **numbers)

    def rows_read(self, rows: int) -> None:
        """More rows came from the warehouse; `rows` is how many."""
        self._read += rows
        self._now_and_then("rows_read", f"{self._read:,} rows read", rows=self._read)

    def diffed(self, added: int, changed: int, removed: int) -> None:
        """The diff is known."""
        sentence = f"{added:,} added, {changed:,} changed, {removed:,} removed"
        self._say(logging.DEBUG, "diffed", sentence, added=added, changed=changed, removed=removed)

    def delivering(self, calls: int) -> None:
        """Delivery begins; `calls` are waiting."""
        self._delivered, self._total = 0, calls
        self._say(logging.DEBUG, "delivering", f"{calls:,} calls to deliver", calls=calls)

    def delivered(self, calls: int) -> None:
        """The destination accepted `calls` more."""
        self._delivered += calls
        sentence = f"{self._delivered:,} of {self._total:,} calls delivered"
        self._now_and_then("delivered", sentence, delivered=self._delivered)

    def waiting(self, reason: str, seconds: float) -> None:
        """A batch waits before it is tried again."""
        log.warning(
            "%s: %s; again in %.1f s",
            self._sync,
            reason,
            seconds,
            extra={"fields": {"action": "waiting", "sync": self._sync, "reason": reason, "seconds": seconds}},
        )

    def notice(self, sentence: str) -> None:
        """A sentence that the user should read."""
        log.warning(
            "%s: %s", self._sync, sentence, extra={"fields": {"action": "notice", "sync": self._sync}}
        )

    def close(self) -> None:
        """Print nothing; the command prints the result of the run."""
