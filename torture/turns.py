"""Turns: the threads of a run work one at a time, in an order that a seed decides; time is virtual.

A thread keeps its turn until it pauses, which it does before and after each request and in each wait. Time
passes only when all threads wait for it. So a run with several lanes goes the same way each time.
"""

import re
import threading
from datetime import UTC, datetime, timedelta
from random import Random

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)

MOST_SECONDS = 120.0
"""Real time for the last work of the threads of a run."""


class Turns:
    """The turns of the threads that deliver, and the clock of all. The main thread only waits for these.

    Attributes:
        seconds: that have passed, from noon on.
    """

    def __init__(self, random: Random) -> None:
        self.seconds = 0.0
        self._random = random
        self._changed = threading.Condition()
        self._expected = 0
        self._began_at = 0.0
        self._running: threading.Thread | None = None
        self._waiting: dict[threading.Thread, float] = {}

    def now(self) -> datetime:
        """The moment, in UTC."""
        return NOON + timedelta(seconds=self.seconds)

    def monotonic(self) -> float:
        """Seconds since noon; a thread that asks for the first time waits for its first turn.

        For the main thread time stands still while others work: its waits for these take real time.
        """
        me = threading.current_thread()
        if not _is_worker(me):
            return self._began_at if self._expected else self.seconds
        if me is not self._running:
            self.pause()
        return self.seconds

    def wait(self, seconds: float, stop: threading.Event) -> bool:
        """Wait; True where `stop` was set before or meanwhile."""
        if not _is_worker(threading.current_thread()):
            self.seconds += seconds  # nobody works meanwhile
        elif not stop.is_set():
            self.pause(seconds)
        return stop.is_set()

    def pause(self, seconds: float = 0.0) -> None:
        """Give the turn away, and wait for the next one after so many seconds."""
        me = threading.current_thread()
        with self._changed:
            self._waiting[me] = self.seconds + seconds
            if self._running is me:
                self._running = None
            self._next()
            while self._running is not me:
                self._changed.wait()

    def expect(self) -> None:
        """One more thread is to come."""
        with self._changed:
            if not self._expected:
                self._began_at = self.seconds
            self._expected += 1

    def leave(self) -> None:
        """The thread is done, or never came."""
        with self._changed:
            self._expected -= 1
            if self._running is threading.current_thread():
                self._running = None
            self._changed.notify_all()
            self._next()

    def wait_for_all(self) -> None:
        """Wait until all threads are done: a run may go on without one whose answer comes too late."""
        with self._changed:
            if not self._changed.wait_for(lambda: not self._expected, timeout=MOST_SECONDS):
                raise RuntimeError(f"{self._expected} threads are not done after {MOST_SECONDS} seconds")

    def _next(self) -> None:
        """Give the turn to one of those that wait, once all do."""
        if self._running is not None or not self._waiting or len(self._waiting) < self._expected:
            return
        self.seconds = max(self.seconds, min(self._waiting.values()))
        ready = [one for one, until in self._waiting.items() if until <= self.seconds]
        self._running = self._random.choice(sorted(ready, key=_number))
        del self._waiting[self._running]
        self._changed.notify_all()


def _is_worker(thread: threading.Thread) -> bool:
    """Whether a thread delivers; others read the warehouse, some of them DuckDB's own."""
    return thread.name.endswith("(work)")


def _number(thread: threading.Thread) -> int:
    """The number of a thread, which grows in the order in which threads are made."""
    found = re.search(r"\d+", thread.name)
    return int(found[0]) if found else 0
