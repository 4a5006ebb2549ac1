"""Storage: where a state file is kept between runs.

A folder of this machine keeps the very file that DuckDB opens: what is committed is kept. A bucket
(`retl.bucket`) keeps a copy, which is fetched before and saved after: `Storage` is all that the rest of retl
knows of the two.
"""

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from datetime import datetime
from pathlib import Path
from typing import Protocol

import duckdb

from retl.damage import state_exists
from retl.errors import RetlError
from retl.lock import LOCK_TIMEOUT_SECONDS, PROGRESS, TRY_LATER, Holder, hold, holder, lock_path

ALONE: AbstractContextManager[None] = nullcontext()
"""For a save while no other thread works with the state."""


class Storage(Protocol):
    """The storage of one state file.

    Attributes:
        path: the file as DuckDB opens it.
        is_remote: whether it is somewhere else than at that path between runs.
        was_cut_off: while it is held, whether calls may have left of which the state does not know.
    """

    path: Path
    is_remote: bool
    was_cut_off: bool

    def __str__(self) -> str:
        """The place, as messages show it."""

    def exists(self) -> bool:
        """Whether there is a state.

        Raises:
            StateError: there was one and it is missing.
        """

    def hold(
        self, now: datetime, timeout: float = LOCK_TIMEOUT_SECONDS, hint: str = TRY_LATER
    ) -> AbstractContextManager[None]:
        """Have the state at its path, and keep other processes from it; see `retl.lock.hold`.

        What was committed meanwhile is kept when this ends.

        Raises:
            LockedError: another process holds it after `timeout` seconds; -1 waits without end.
        """

    def look(
        self, now: datetime, timeout: float = LOCK_TIMEOUT_SECONDS, hint: str = TRY_LATER
    ) -> AbstractContextManager[None]:
        """Have the state at its path for looking only; the arguments are those of `hold`.

        Raises:
            LockedError: another process holds it, and lets nobody look.
        """

    def holder(self) -> Holder | None:
        """The process that holds the state, where one does and says so."""

    def progress(self) -> str | None:
        """The progress of the run that holds the state, as it last told it; see `retl.progress_file`."""

    def beside(self, ending: str) -> str | None:
        """The text of a small file beside the state, which lasts as long; None where there is none."""

    def write_beside(self, ending: str, text: str | None) -> None:
        """Write such a file anew, or delete it by None; nobody needs to hold the state.

        Raises:
            OSError: it cannot be written.
            RetlError: the bucket cannot be reached.
        """

    def check(self) -> None:
        """See that a state can be kept there, without a look at it.

        Raises:
            ConfigError: the bucket is missing, refuses access, or makes writes that it should refuse.
        """

    def save(
        self, db: duckdb.DuckDBPyConnection, leaving: bool, alone: AbstractContextManager[object] = ALONE
    ) -> None:
        """See that all that was committed outlasts this machine; for whoever holds the state.

        Args:
            db: its connection, in no transaction.
            leaving: whether calls leave from now on; until the next save nobody knows which did.
            alone: keeps other threads from the state, as long as that is needed.

        Raises:
            LockedError: another process has taken the state over.
            StorageError: it cannot be reached.
        """

    def seconds_to_save(self) -> float:
        """In how many seconds a save is due, where calls leave meanwhile."""

    def lost(self) -> RetlError | None:
        """The error of a run that must not go on, as another may hold the state by now; None else."""


class Folder(Protocol):
    """The place where the states of a project are kept.

    Attributes:
        path: the folder in which DuckDB finds those that are at hand.
    """

    path: Path

    def __str__(self) -> str:
        """The place, as messages show it."""

    def storage(self, name: str) -> Storage:
        """The storage of the state file of that name, which ends in `.duckdb`."""

    def used(self) -> list[Storage]:
        """All states that retl has used there, by name."""


class FileOnDisk:
    """A state file in a folder of this machine."""

    is_remote = False
    was_cut_off = False

    def __init__(self, path: Path) -> None:
        """Look at nothing yet."""
        # The lock and DuckDB's log stand beside the file itself, by whatever link somebody comes.
        self.path = path.resolve() if path.is_symlink() and path.exists() else path

    def __str__(self) -> str:
        return str(self.path)

    def exists(self) -> bool:
        """See `Storage`."""
        return state_exists(self.path)

    def hold(
        self, now: datetime, timeout: float = LOCK_TIMEOUT_SECONDS, hint: str = TRY_LATER
    ) -> AbstractContextManager[None]:
        """See `Storage`."""
        return hold(self.path, now, timeout, hint)

    @contextmanager
    def look(
        self, now: datetime, timeout: float = LOCK_TIMEOUT_SECONDS, hint: str = TRY_LATER
    ) -> Iterator[None]:
        """See `Storage`; nothing is made where there is no state."""
        if not self.exists():
            yield
            return
        with self.hold(now, timeout, hint):
            yield

    def holder(self) -> Holder | None:
        """See `Storage`."""
        return holder(self.path)

    def progress(self) -> str | None:
        """See `Storage`."""
        return self.beside(PROGRESS)

    def beside(self, ending: str) -> str | None:
        """See `Storage`."""
        with suppress(OSError, ValueError):
            return self.path.with_name(self.path.name + ending).read_text(encoding="utf-8")
        return None

    def write_beside(self, ending: str, text: str | None) -> None:
        """See `Storage`; whoever reads it meanwhile reads the one before."""
        path = self.path.with_name(self.path.name + ending)
        if text is None:
            path.unlink(missing_ok=True)
            return
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        unfinished = path.with_name(f"{path.name}.{os.getpid()}")
        try:
            unfinished.write_text(text, encoding="utf-8")
            unfinished.chmod(0o600)
            unfinished.replace(path)
        finally:
            unfinished.unlink(missing_ok=True)

    def check(self) -> None:
        """Nothing to see: a run says what is wrong with its folder."""

    def save(
        self, db: duckdb.DuckDBPyConnection, leaving: bool, alone: AbstractContextManager[object] = ALONE
    ) -> None:
        """Nothing to do: what is committed is on the disk."""

    def seconds_to_save(self) -> float:
        """Never."""
        return float("inf")

    def lost(self) -> RetlError | None:
        """No other process can hold it meanwhile."""
        return None


class FolderOnDisk:
    """A folder of this machine with state files."""

    def __init__(self, path: Path) -> None:
        """Look at nothing yet; `path` is absolute."""
        self.path = path

    def __str__(self) -> str:
        return str(self.path)

    def storage(self, name: str) -> Storage:
        """See `Folder`."""
        return FileOnDisk(self.path / name)

    def used(self) -> list[Storage]:
        """The files with a lock beside them: one without was never used by retl."""
        paths = [path for path in sorted(self.path.glob("*.duckdb")) if lock_path(path).exists()]
        return [FileOnDisk(path) for path in paths]
