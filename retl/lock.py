"""The lock of a sync's state: one process at a time, and a note that says which."""

import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from filelock import FileLock, Timeout

from retl.errors import LockedError

LOCK_TIMEOUT_SECONDS = 1.0
"""How long a run waits for a command that only looks (`status`, `rejected`) to let go."""


@dataclass(frozen=True)
class Holder:
    """The process that holds a sync's state."""

    pid: int
    host: str
    since: str

    def __str__(self) -> str:
        return f"pid {self.pid} on {self.host} since {self.since}"


@contextmanager
def hold(path: Path, now: datetime, timeout: float = LOCK_TIMEOUT_SECONDS) -> Iterator[None]:
    """Hold a sync's state for this process alone.

    Args:
        path: the state file; the lock stands beside it and outlives no process.
        now: the moment, for the message that another process gets.
        timeout: seconds to wait for the lock; -1 waits without end.

    Raises:
        LockedError: another process holds it; the message names that process.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    lock = FileLock(f"{path}.lock", timeout=timeout, mode=0o600)
    try:
        lock.acquire(poll_interval=0.02)
    except Timeout as error:
        raise LockedError(
            f"another run holds this sync ({holder(path) or 'a process that is just starting'})",
            where=str(path),
            hint="wait for it, or use --wait or --skip-if-running",
        ) from error
    me = Holder(os.getpid(), socket.gethostname(), now.strftime("%Y-%m-%d %H:%M:%S UTC"))
    note = path.with_name(path.name + ".holder")
    try:
        note.write_text(json.dumps(me.__dict__), encoding="utf-8")
        yield
    finally:
        note.unlink(missing_ok=True)
        lock.release()


def holder(path: Path) -> Holder | None:
    """The process that says it holds the state, where one does."""
    try:
        return Holder(**json.loads(path.with_name(path.name + ".holder").read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None
