"""The lock of a sync's state: one process at a time, and a note that says which."""

import json
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from filelock import FileLock, Timeout

from retl.errors import LockedError, StateError

LOCK_TIMEOUT_SECONDS = 1.0
"""How long a run waits for a command that only looks (`status`, `rejected`) to let go."""


TRY_LATER = "try again when it has ended"
"""The hint where another process holds a state, and the command has no option to wait."""

PROGRESS = ".progress"
"""Ending of the file in which a run says how far it has got; see `retl.progress_file`."""

FILES = (".lock", ".holder", ".new", PROGRESS, f"{PROGRESS}.new")
"""Endings of the files that retl writes beside a state file."""

ALERTS = ".alerts"
"""Ending of the file that says what each channel was told last; see `retl.notify`."""

SPILL, WAREHOUSE_SPILL = SPILLS = (".tmp", ".warehouse.tmp")
"""Endings of DuckDB's folders for rows that do not fit into memory: of the state, and of a warehouse."""

BESIDE = (*FILES, ".new.wal", ".wal", *SPILLS)
"""Endings of all that stands beside a state file: retl's own files, DuckDB's logs and folders."""


@dataclass(frozen=True)
class Holder:
    """The process that holds a sync's state."""

    pid: int
    host: str
    since: str

    def __str__(self) -> str:
        return f"pid {self.pid} on {self.host} since {self.since}"


def lock_path(path: Path) -> Path:
    """The lock of a state file, which stays beside it."""
    return path.with_name(f"{path.name}.lock")


@contextmanager
def hold(
    path: Path,
    now: datetime,
    timeout: float = LOCK_TIMEOUT_SECONDS,
    hint: str = TRY_LATER,
) -> Iterator[None]:
    """Hold a sync's state for this process alone; no file that is made meanwhile is for anybody else's eyes.

    The rights of new files are the whole process's, other threads included: DuckDB takes no others.

    Args:
        path: the state file; the lock stands beside it and outlives no process.
        now: the moment, for the message that another process gets.
        timeout: seconds to wait for the lock; -1 waits without end.
        hint: what to do where another process has it, as far as the command has options for that.

    Raises:
        LockedError: another process holds it; the message names that process.
        StateError: something else stands where the lock or another file of retl's belongs.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    _refuse_strangers(path)
    with _PRIVATE_FILES:
        _close_to_others(path)
        with _held(path, now, timeout, hint):
            yield


@contextmanager
def _held(path: Path, now: datetime, timeout: float, hint: str) -> Iterator[None]:
    lock = FileLock(lock_path(path), timeout=timeout, mode=0o600)
    try:
        lock.acquire(poll_interval=0.02)
    except Timeout as error:
        raise LockedError(
            f"another run holds this sync ({holder(path) or 'a process that is just starting'})",
            where=str(path),
            hint=hint,
        ) from error
    me = Holder(os.getpid(), socket.gethostname(), now.strftime("%Y-%m-%d %H:%M:%S UTC"))
    note = path.with_name(path.name + ".holder")
    try:
        _forget_progress(path)  # of a process that was killed
        write_anew(note, json.dumps(me.__dict__))
        yield
    finally:
        _forget_progress(path)
        with suppress(OSError):
            note.unlink(missing_ok=True)
        lock.release()


def _forget_progress(path: Path) -> None:
    """Remove what a run said of its progress: it means something only while that run holds the state."""
    for ending in (PROGRESS, f"{PROGRESS}.new"):
        with suppress(OSError):
            path.with_name(path.name + ending).unlink(missing_ok=True)


class _Umask:
    """The umask of the process, narrow for as long as any thread holds a state."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._users = 0
        self._before = 0

    def __enter__(self) -> None:
        with self._lock:
            if self._users == 0:
                self._before = os.umask(0o077)
            self._users += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._users -= 1
            if self._users == 0:
                os.umask(self._before)


_PRIVATE_FILES = _Umask()


def _close_to_others(path: Path) -> None:
    """Take from others the right to read a state that was copied, or brought back from a backup."""
    for ending in ("", *FILES, ".new.wal", ".wal"):
        beside = path.with_name(path.name + ending)
        with suppress(OSError):  # it is not there, or somebody else's
            if beside.stat().st_mode & 0o077:
                beside.chmod(0o600)


def _refuse_strangers(path: Path) -> None:
    """See that nothing beside a state file leads elsewhere: whoever writes to a link writes to its target.

    Raises:
        StateError: something does, or a folder stands where a file belongs, or a file for the folder.
    """
    for ending in BESIDE:
        beside = path.with_name(path.name + ending)
        found = None
        if beside.is_symlink():
            found = "link"
        elif ending in FILES and beside.is_dir():
            found = "folder"
        elif ending in SPILLS and beside.is_file():
            found = "file"
        if found is not None:
            raise StateError(
                f"this is a {found}, in a place that retl needs beside the state",
                where=str(beside),
                hint="remove it, then run it again; no state is in it",
            )


def write_anew(path: Path, text: str) -> None:
    """Write a file that is not there, in place of what a killed process left; never through a link."""
    path.unlink(missing_ok=True)
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        file.write(text)


def holder(path: Path) -> Holder | None:
    """The process that says it holds the state, where one does."""
    try:
        return Holder(**json.loads(path.with_name(path.name + ".holder").read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None
