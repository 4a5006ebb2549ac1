"""Lives: one after another, and some at a time, until time is up or a promise is broken."""

import multiprocessing
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from pathlib import Path

from torture.life import Life
from torture.process import ProcessLife
from torture.promises import Broken
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
        return life.record


def _memory() -> Path | None:
    """A folder in memory, where files need no disk; None where there is none with room."""
    if MEMORY.is_dir() and os.access(MEMORY, os.W_OK) and shutil.disk_usage(MEMORY).free > ROOM:
        return MEMORY
    return None


def live_on(seed: int, seconds: float, faults: int, jobs: int) -> Record:
    """Live the lives of a seed and those after it.

    Args:
        seed: the first.
        seconds: after which no further life begins; 0 is no limit.
        faults: after which none begins; 0 is no limit.
        jobs: how many lives are lived at a time.
    """
    total, began = Record(), time.monotonic()
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, mp_context=spawn) as pool:
        under_way: set[Future[Record]] = set()
        while True:
            is_over = bool(total.broken) or bool(seconds and time.monotonic() - began > seconds)
            is_over = is_over or bool(faults and total.faults.total() >= faults)
            while not is_over and len(under_way) < 2 * jobs:
                under_way.add(pool.submit(live, seed))
                seed += 1
            if not under_way:
                break
            done, under_way = wait(under_way, return_when=FIRST_COMPLETED)
            for one in done:
                total.add(one.result())
    total.seconds = time.monotonic() - began
    return total
