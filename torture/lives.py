"""Lives: one after another, and some at a time, until time is up or a promise is broken."""

import multiprocessing
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from contextlib import contextmanager
from pathlib import Path

from retl.errors import RetlError
from torture.life import Life
from torture.process import ProcessLife
from torture.promises import WRONG, Broken
from torture.record import Record

PROCESSES_EACH = 50
"""Of so many lives one is of real processes."""

MEMORY = Path("/dev/shm")
"""The folder of files in memory on Linux."""

ROOM = 500_000_000
"""Bytes that lives may take there."""


def live(
    seed: int,
    trace: Callable[[str], None] = lambda _: None,
    runs: int | None = None,
    schema: int | None = None,
) -> Record:
    """Live the life of a seed; a broken promise is in its record. The arguments are those of `Life`."""
    of_processes = seed % PROCESSES_EACH == 0
    with tempfile.TemporaryDirectory(prefix="torture-", dir=None if of_processes else _memory()) as name:
        folder = Path(name)
        life = ProcessLife(seed, folder, trace) if of_processes else Life(seed, folder, trace, runs, schema)
        try:
            life.live()
        except Broken as broken:
            life.record.broken.append((seed, broken.kind, str(broken)))
        except RetlError as error:  # of a look at the state between two commands, which has to succeed
            life.record.broken.append((seed, WRONG, f"the state cannot be looked at: {error}"))
        return life.record


def _memory() -> Path | None:
    """A folder in memory, where files need no disk; None where there is none with room."""
    if MEMORY.is_dir() and os.access(MEMORY, os.W_OK) and shutil.disk_usage(MEMORY).free > ROOM:
        return MEMORY
    return None


class Stop:
    """A signal to stop: lives that are under way are broken off, and nothing is known of them.

    Attributes:
        signal: its number; None until it comes.
    """

    signal: int | None = None

    @contextmanager
    def heeded(self) -> Iterator[None]:
        """Heed SIGINT and SIGTERM; a second one ends the torture at once."""
        before = {number: signal.signal(number, self._note) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _note(self, number: int, _frame: object) -> None:
        self.signal = number
        signal.signal(number, signal.SIG_DFL)


def live_on(
    seed: int, seconds: float, faults: int, jobs: int, stop: Stop, tell: Callable[[Record], None]
) -> Record:
    """Live the lives of a seed and those after it.

    Args:
        seed: the first.
        seconds: after which no further life begins; 0 is no limit.
        faults: after which none begins; 0 is no limit.
        jobs: how many lives are lived at a time.
        stop: ends them before their time.
        tell: is given what came of all lives so far, after each.
    """
    total, began = Record(), time.monotonic()
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, mp_context=spawn, initializer=_leave_signals) as pool:
        under_way: set[Future[Record]] = set()
        while True:
            is_over = bool(total.broken) or bool(seconds and time.monotonic() - began > seconds)
            is_over = is_over or bool(faults and total.faults.total() >= faults)
            while not is_over and len(under_way) < 2 * jobs:
                under_way.add(pool.submit(live, seed))
                seed += 1
            if not under_way:
                break
            if stop.signal is not None:
                pool.shutdown(wait=False, cancel_futures=True)
                for process in multiprocessing.active_children():
                    process.terminate()
                break
            done, under_way = wait(under_way, timeout=0.5, return_when=FIRST_COMPLETED)
            for one in done:
                total.add(one.result())
                total.seconds = time.monotonic() - began
                tell(total)
    total.stopped_by = stop.signal
    return total


def _leave_signals() -> None:
    """Leave Ctrl-C, which reaches each process of a terminal, to the one that began the lives."""
    # Handlers, and not SIG_IGN, which the commands that a life starts would inherit.
    signal.signal(signal.SIGINT, lambda *_: None)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())  # so that a life puts away its files
