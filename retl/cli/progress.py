"""The progress of a run, for a person or a log; all of it goes to stderr."""

import logging
import time
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TaskID, TextColumn
from rich.progress import TimeRemainingColumn as TimeLeft
from rich.text import Text

from retl.cli.log import json_logs, log
from retl.observer import Observer, SilentObserver

LINE_EVERY_SECONDS = 10.0
"""The time between two lines of progress in a log."""


def observer_for(sync: str, quiet: bool, console: Console) -> Observer:
    """An observer that shows bars in a terminal, lines in a pipe or a log, and nothing with `quiet`."""
    if quiet:
        return SilentObserver()
    if console.is_terminal and log.getEffectiveLevel() <= logging.INFO and not json_logs():
        return Bars(sync, console)
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


class Bars:
    """Progress bars in a terminal; they leave no trace."""

    def __init__(self, sync: str, console: Console) -> None:
        self._sync = sync
        self._console = console
        self._bars = Progress(
            SpinnerColumn(),
            TextColumn("[bold]{task.fields[sync]}[/] {task.description}"),
            BarColumn(bar_width=30),
            TextColumn("{task.fields[so_far]}"),
            TimeLeft(),
            console=console,
            transient=True,
        )
        self._task: TaskID | None = None

    def _show(self, what: str, total: int | None) -> TaskID:
        if self._task is not None:
            self._bars.remove_task(self._task)
        self._bars.start()
        self._task = self._bars.add_task(what, total=total, sync=self._sync, so_far="")
        return self._task

    def _advance(self, task: TaskID, by: int, unit: str) -> None:
        self._bars.advance(task, by)
        (bar,) = self._bars.tasks
        total = f" of {bar.total:,.0f}" if bar.total else ""
        speed = f", {bar.speed:,.0f} a second" if bar.speed else ""
        self._bars.update(task, so_far=f"{bar.completed:,.0f}{total} {unit}{speed}")

    def rows_read(self, rows: int) -> None:
        """More rows came from the warehouse; `rows` is how many."""
        task = self._task if self._task is not None else self._show("reading rows", None)
        self._advance(task, rows, "rows")

    def diffed(self, added: int, changed: int, removed: int) -> None:
        """The diff is known: the bar for reading goes."""
        self._bars.stop()
        if self._task is not None:
            self._bars.remove_task(self._task)
            self._task = None

    def delivering(self, calls: int) -> None:
        """Delivery begins; `calls` are waiting."""
        self._show("delivering calls", calls)

    def delivered(self, calls: int) -> None:
        """The destination accepted `calls` more."""
        if self._task is not None:
            self._advance(self._task, calls, "calls")
            if self._bars.finished:
                self._bars.stop()

    def waiting(self, reason: str, seconds: float) -> None:
        """A batch waits before it is tried again."""
        self._console.print(Text(f"{self._sync}: {reason}; again in {seconds:.1f} s", "yellow"))

    def notice(self, sentence: str) -> None:
        """A sentence that the user should read."""
        self._console.print(Text(f"{self._sync}: {sentence}", "yellow"))

    def close(self) -> None:
        """Take the bars away."""
        self._bars.stop()
