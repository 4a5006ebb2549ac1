"""Bars that show the progress of a run in a terminal.

    users: 20,000 rows read: 19,000 added, 1,000 changed, 0 removed
      ━━━━━━━━━━━━━━────────── 12,000 of 20,000 calls, 500 a second, 16 s left
      waiting 27 s: Segment asks to wait (429)

A turn of a run notes numbers; what is shown is made of them a few times a second.
"""

import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from threading import Lock

from rich.console import Console
from rich.live import Live
from rich.text import Text

from retl.cli.console import count, duration

FRAMES_A_SECOND = 3
"""How often the terminal is written to."""

RATE_SECONDS = 15.0
"""The time back from now over which a rate is measured."""

NAME_WIDTH = 24
"""Columns of a sync's name, at most."""

BAR_WIDTH = 24
"""Columns of a bar."""


@dataclass
class Growth:
    """A number that grows, and how fast it does.

    Attributes:
        total: the number.
        began_at: when it was zero.
    """

    began_at: float
    total: int = 0
    _marks: deque[tuple[float, int]] = field(default_factory=deque)

    def grow(self, by: int, now: float) -> None:
        """Add to the number."""
        self.total += by
        self._marks.append((now, self.total))
        while self._marks[0][0] < now - RATE_SECONDS:
            self._marks.popleft()

    def rate(self, now: float) -> float:
        """How much is added in a second, of late."""
        if not self._marks:
            return 0.0
        before, since = 0, self.began_at
        if since < now - RATE_SECONDS:
            since, before = self._marks[0]
        return (self.total - before) / max(now - since, 0.001)


class Bars:
    """The progress of a run in a terminal; it leaves no trace there."""

    def __init__(self, sync: str, console: Console, now: Callable[[], float] = time.monotonic) -> None:
        """Show nothing yet.

        Args:
            sync: its name.
            console: of the terminal.
            now: seconds that only ever grow.
        """
        self._sync = sync if len(sync) <= NAME_WIDTH else f"{sync[: NAME_WIDTH - 1]}…"
        self._console = console
        self._now = now
        self._lock = Lock()
        self._doing = ""
        self._since = 0.0
        self._read: Growth | None = None
        self._rows = "no rows"
        self._found = ""
        self._sent: Growth | None = None
        self._calls = 0
        self._reason, self._until = "", 0.0
        self._live = Live(
            console=console,
            get_renderable=self.view,
            refresh_per_second=FRAMES_A_SECOND,
            transient=True,
        )

    def view(self) -> Text:
        """The lines that the terminal shows now; they are no wider than it."""
        with self._lock:
            lines = list(self._lines(self._now()))
        for line in lines:
            line.truncate(self._console.width, overflow="ellipsis")
        return Text("\n", no_wrap=True).join(lines)

    def _lines(self, now: float) -> Iterator[Text]:
        name = (f"{self._sync}: ", "bold")
        if self._doing:
            yield Text.assemble(
                name, self._doing, self._so_far(now), (f", {_whole(now - self._since)}", "dim")
            )
        elif self._found:
            yield Text.assemble(name, self._found)
        if self._sent is not None:
            begin = "  " if self._found else name
            yield Text.assemble(begin, *_bar(self._sent.total, self._calls), *self._how_far(self._sent, now))
        if self._until > now:
            yield Text(f"  waiting {_whole(self._until - now)}: {self._reason}", "yellow")

    def _so_far(self, now: float) -> str:
        if self._read is None or not self._read.total:
            return ""
        return f", {self._read.total:,} so far, {self._read.rate(now):,.0f} a second"

    def _how_far(self, sent: Growth, now: float) -> Iterator[str | tuple[str, str]]:
        """How far delivery is, how fast it goes, and how long it takes yet."""
        yield f" {sent.total:,} of {count(self._calls, 'call')}"
        rate = sent.rate(now)
        if rate >= 1 and self._until <= now:
            yield f", {rate:,.0f} a second, "
            yield f"{_whole((self._calls - sent.total) / rate)} left", "cyan"

    def _begin(self, doing: str) -> None:
        with self._lock:
            self._doing, self._since, self._sent = doing, self._now(), None
        self._live.start()

    def reading(self) -> None:
        """The warehouse is asked for the model's rows."""
        self._begin("reading rows")
        self._read = Growth(self._now())

    def rows_read(self, rows: int) -> None:
        """More rows came from the warehouse; `rows` is how many."""
        if self._read is None:
            self.reading()
        with self._lock:
            if self._read is not None:
                self._read.grow(rows, self._now())

    def comparing(self) -> None:
        """All rows are read."""
        with self._lock:
            self._rows = count(self._read.total if self._read is not None else 0, "row")
            self._read = None
        self._begin(f"comparing {self._rows} with the last run")

    def diffed(self, added: int, changed: int, removed: int) -> None:
        """The diff is known."""
        with self._lock:
            self._doing, self._read = "", None
            self._found = f"{self._rows} read: {added:,} added, {changed:,} changed, {removed:,} removed"

    def enqueuing(self) -> None:
        """The changes become calls."""
        self._begin("making calls of the changes")

    def delivering(self, calls: int) -> None:
        """Delivery begins; `calls` are waiting."""
        with self._lock:
            self._doing, self._calls, self._sent = "", calls, Growth(self._now())
        self._live.start()

    def delivered(self, calls: int) -> None:
        """The destination accepted `calls` more."""
        with self._lock:
            if self._sent is not None:
                self._sent.grow(calls, self._now())

    def waiting(self, reason: str, seconds: float) -> None:
        """A batch waits before it is tried again; of several, the longest wait is shown."""
        with self._lock:
            until = self._now() + seconds
            if until > self._until:
                self._reason, self._until = reason, until

    def notice(self, sentence: str) -> None:
        """A sentence that the user should read; it stays."""
        self._console.print(Text(f"{self._sync}: {sentence}", "yellow"))

    def close(self) -> None:
        """Take the bars away."""
        self._live.stop()


def _whole(seconds: float) -> str:
    """Seconds in words, without parts of one."""
    return f"{seconds:.0f} s" if seconds < 59.5 else duration(seconds)


def _bar(done: int, of: int) -> tuple[tuple[str, str], tuple[str, str]]:
    full = BAR_WIDTH * done // max(of, 1)
    return ("━" * full, "green"), ("─" * (BAR_WIDTH - full), "dim")
