"""The progress of a run, in a file beside its state: another process cannot look into a state that is in use.

The file is there for as long as the run holds the state, and whoever holds the state next removes what a
killed process left (`retl.lock`). It is replaced as a whole, so that it is never read half written.
"""

import json
import os
import socket
import threading
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from retl.clock import Clock
from retl.lock import PROGRESS, write_anew
from retl.observer import Observer

SECONDS_BETWEEN = 1.0
"""The time between two writes of the file, but for a new phase, which is written at once."""


@dataclass(frozen=True)
class RunProgress:
    """How far a run has got.

    Attributes:
        phase: "starting", "reading", "comparing", "enqueuing", "delivering", or "waiting" before batches
            are tried again.
        since: when the run began, as ISO 8601 text in UTC.
        updated_at: when this was written, likewise.
        rows_read: rows that came from the warehouse.
        delivered: calls that the destination took, of the delivery that is under way.
        calls: calls that this delivery began with; None before there is one.
        waiting_for: why batches wait; None where they do not.
        pid: of the process.
        host: on which it runs.
        before: the status of the sync before this run, as `retl status --json` has it.
    """

    phase: str
    since: str
    updated_at: str
    rows_read: int = 0
    delivered: int = 0
    calls: int | None = None
    waiting_for: str | None = None
    pid: int = 0
    host: str = ""
    before: dict[str, Any] | None = None


def progress_path(state_path: Path) -> Path:
    """The file beside a state file."""
    return state_path.with_name(state_path.name + PROGRESS)


def read_progress(text: str | None) -> RunProgress | None:
    """The progress of the run that holds a state, by the text of its file; None where it says nothing."""
    try:
        return RunProgress(**json.loads(text or ""))
    except (ValueError, TypeError):
        return None


class ProgressFile:
    """An observer that keeps the file, and passes on to another observer what it hears."""

    def __init__(
        self, state_path: Path, observer: Observer, clock: Clock, before: dict[str, Any] | None = None
    ) -> None:
        """Write the file; the state is held before.

        Args:
            state_path: the state file.
            observer: hears all that this one hears.
            clock: for the moments in it.
            before: the status of the sync before this run.
        """
        self._path = progress_path(state_path)
        self._observer = observer
        self._clock = clock
        self._lock = threading.Lock()
        self._written_at = 0.0
        now = self._now()
        self._progress = RunProgress("starting", now, now, pid=os.getpid(), host=socket.gethostname())
        self._progress = replace(self._progress, before=before)
        self._write()

    def _now(self) -> str:
        return self._clock.now().strftime("%Y-%m-%dT%H:%M:%SZ")

    def _note(self, phase: str, **known: Any) -> None:
        """Note what is known now; `more_` in front of a name adds to a count."""
        with self._lock:
            is_new = phase != self._progress.phase
            for name in [name for name in known if name.startswith("more_")]:
                count = name.removeprefix("more_")
                known[count] = getattr(self._progress, count) + known.pop(name)
            self._progress = replace(self._progress, phase=phase, **known)
            if is_new or self._clock.monotonic() - self._written_at >= SECONDS_BETWEEN:
                self._write()

    def _write(self) -> None:
        """Replace the file. No disk that is full stops a run for it."""
        self._written_at = self._clock.monotonic()
        new = self._path.with_name(f"{self._path.name}.new")
        with suppress(OSError):
            write_anew(new, json.dumps(asdict(replace(self._progress, updated_at=self._now()))))
            new.replace(self._path)

    def reading(self) -> None:
        """The warehouse is asked for the model's rows."""
        self._note("reading")
        self._observer.reading()

    def rows_read(self, rows: int) -> None:
        """More rows came from the warehouse; `rows` is how many."""
        self._note("reading", more_rows_read=rows)
        self._observer.rows_read(rows)

    def comparing(self) -> None:
        """All rows are read."""
        self._note("comparing")
        self._observer.comparing()

    def diffed(self, added: int, changed: int, removed: int) -> None:
        """The diff is known."""
        self._note("comparing")
        self._observer.diffed(added, changed, removed)

    def enqueuing(self) -> None:
        """The changes become calls."""
        self._note("enqueuing")
        self._observer.enqueuing()

    def delivering(self, calls: int) -> None:
        """Delivery begins; `calls` are waiting."""
        self._note("delivering", calls=calls, delivered=0, waiting_for=None)
        self._observer.delivering(calls)

    def delivered(self, calls: int) -> None:
        """The destination accepted `calls` more."""
        self._note("delivering", more_delivered=calls, waiting_for=None)
        self._observer.delivered(calls)

    def waiting(self, reason: str, seconds: float) -> None:
        """A batch waits before it is tried again."""
        self._note("waiting", waiting_for=reason)
        self._observer.waiting(reason, seconds)

    def notice(self, sentence: str) -> None:
        """A sentence that the user should read."""
        self._observer.notice(sentence)

    def close(self) -> None:
        """The run is over; its lock takes the file away."""
        self._observer.close()
