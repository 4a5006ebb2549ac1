"""The storage of state files in a bucket: fetched before a command, saved after each commit that matters."""

import os
import shutil
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from datetime import datetime
from pathlib import Path
from secrets import token_hex

import duckdb

from retl import encryption
from retl.bucket.address import BucketAddress
from retl.bucket.lease import Lease
from retl.bucket.objects import Objects, settings_of
from retl.bucket.saved import ENDING, POINTER, SavedState, digest_of, log_of
from retl.bucket.working_folder import working_folder
from retl.clock import Clock, SystemClock
from retl.damage import own_errors
from retl.encryption import StateKey
from retl.errors import RetlError
from retl.lock import ALERTS, LOCK_TIMEOUT_SECONDS, PROGRESS, TRY_LATER, Holder, hold
from retl.storage import ALONE, Storage

LEASE = ".lock"
"""Ending of the lease, behind the state's name."""

SECONDS_BETWEEN_SAVES = 60.0
"""The time between two saves while calls leave, at least."""

SAVING_PART = 0.1
"""The part of that time, at most, that the saves take: where one takes long, they are further apart."""


class FileInBucket:
    """A state file that is kept in a bucket."""

    is_remote = True

    def __init__(
        self, objects: Objects, name: str, path: Path, key: StateKey | None, clock: Clock | None = None
    ) -> None:
        """Reach no server yet.

        Args:
            objects: those of the bucket.
            name: of the state, without `.duckdb`.
            path: the file as DuckDB opens it.
            key: of an encrypted state.
            clock: for the time that passes.
        """
        self.path = path
        self.was_cut_off = False
        self._objects = objects
        self._name = name
        self._key = key
        self._clock = clock or SystemClock()
        self._lease: Lease | None = None
        self._saved = SavedState(objects, name, self.holder)
        self._failed: RetlError | None = None
        self._saved_at = 0.0
        self._save_took = 0.0

    def __str__(self) -> str:
        return f"{self._objects.address}{self._name}"

    def exists(self) -> bool:
        """See `Storage`."""
        return self._saved.read().file is not None

    @contextmanager
    def hold(
        self, now: datetime, timeout: float = LOCK_TIMEOUT_SECONDS, hint: str = TRY_LATER
    ) -> Iterator[None]:
        """See `Storage`."""
        me = Holder(os.getpid(), socket.gethostname(), now.strftime("%Y-%m-%d %H:%M:%S UTC"))
        lease, stop = Lease(self._objects, self._name + LEASE, self._clock), threading.Event()
        try:
            is_taken_over = lease.take(me, timeout, hint)
            self._lease = lease
            self._saved.begin()
            threading.Thread(target=lease.keep, args=(stop, self._own_progress), daemon=True).start()
            if is_taken_over:
                self._saved.shut_out()
            self._saved.fetch(self.path)
            self.was_cut_off = self._saved.pointer.leaving
            self._saved_at = self._clock.monotonic()
            with self._shown(), hold(self.path, now, timeout, hint):
                try:
                    yield
                finally:
                    self._save_at_end()
        finally:
            stop.set()
            lease.give_back()
            self._lease, self.was_cut_off = None, False

    @contextmanager
    def look(
        self, now: datetime, timeout: float = LOCK_TIMEOUT_SECONDS, hint: str = TRY_LATER
    ) -> Iterator[None]:
        """See `Storage`: a copy, also while a run is under way, as that run last saved it."""
        if self._lease is not None:
            yield
            return
        self._saved.fetch(self.path)
        with self._shown():
            if not self.path.exists():
                yield
                return
            with hold(self.path, now, timeout, hint):
                yield

    def holder(self) -> Holder | None:
        """See `Storage`."""
        current = Lease(self._objects, self._name + LEASE, self._clock).current()
        return current.holder if current else None

    def progress(self) -> str | None:
        """See `Storage`."""
        current = Lease(self._objects, self._name + LEASE, self._clock).current()
        return current.progress if current else None

    def beside(self, ending: str) -> str | None:
        """See `Storage`."""
        found = self._objects.read(self._name + ending)
        return found[0].decode("utf-8", errors="replace") if found else None

    def write_beside(self, ending: str, text: str | None) -> None:
        """See `Storage`."""
        if text is None:
            self._objects.delete(self._name + ending)
        else:
            self._objects.overwrite(self._name + ending, text.encode())

    def check(self) -> None:
        """See `Storage`; tried on an object that is deleted again."""
        name = f"{self._name}.{token_hex(8)}"
        before = self._objects.create(name, b"1")
        try:
            self._objects.replace(name, b"2", before)
            self._objects.refuse_overwriting(name, before)
            self._objects.names(f"{self._name}/")
        finally:
            self._objects.delete(name)

    def save(
        self, db: duckdb.DuckDBPyConnection, leaving: bool, alone: AbstractContextManager[object] = ALONE
    ) -> None:
        """See `Storage`."""
        began = self._clock.monotonic()
        copy = self.path.with_name(f"{self.path.name}.copy")
        try:
            with alone:
                file = self._whole(db, copy, may_wait=alone is ALONE)
            self._saved.put(file if file == self.path else _folded(file, self._key), leaving)
            self._failed = None
        except RetlError as error:
            self._failed = error
            raise
        finally:
            for one in (copy, log_of(copy)):
                one.unlink(missing_ok=True)
        self._saved_at = self._clock.monotonic()
        self._save_took = self._saved_at - began

    def seconds_to_save(self) -> float:
        """See `Storage`."""
        between = max(SECONDS_BETWEEN_SAVES, self._save_took / SAVING_PART)
        return max(0.0, self._saved_at + between - self._clock.monotonic())

    def lost(self) -> RetlError | None:
        """See `Storage`."""
        return self._saved.refused or (self._lease.lost() if self._lease else None)

    def _whole(self, db: duckdb.DuckDBPyConnection, copy: Path, may_wait: bool) -> Path:
        """The file with all that was committed, or a copy of file and log that has it.

        Args:
            db: the connection.
            copy: the path of such a copy.
            may_wait: whether nobody writes to the file until it is uploaded.
        """
        # DuckDB folds its log into the file only while no other thread has begun to read.
        with suppress(duckdb.TransactionException):
            db.execute("CHECKPOINT state")
            if may_wait:
                return self.path
        for source, target in ((self.path, copy), (log_of(self.path), log_of(copy))):
            if source.exists():
                shutil.copyfile(source, target)
        return copy

    def _save_at_end(self) -> None:
        """Save what a command did, once it has closed the state.

        What could not be saved is forgotten here. It is an error, unless a save in the midst told it already.
        """
        is_saved = False
        try:
            self._save_closed()
            is_saved = True
        except RetlError as error:
            if self._failed is None or type(self._failed) is not type(error):
                raise
        finally:
            if not is_saved:
                self._saved.at_hand = None
            self._failed = None

    def _save_closed(self) -> None:
        """Save the file that nobody has open, where it is not as the bucket has it; or that it is deleted."""
        if not self.path.exists():
            if self._saved.pointer.file is not None:
                self._saved.delete()
                self.write_beside(ALERTS, None)
            return
        log = log_of(self.path)
        if log.exists() and log.stat().st_size:
            _folded(self.path, self._key)
        if digest_of(self.path) != self._saved.pointer.sha256:
            self._saved.put(self.path, leaving=False)

    def _own_progress(self) -> str | None:
        with suppress(OSError, ValueError):
            return self.path.with_name(self.path.name + PROGRESS).read_text(encoding="utf-8")
        return None

    @contextmanager
    def _shown(self) -> Iterator[None]:
        """Name the bucket in errors, and not the file that is gone when they are read."""
        try:
            yield
        except RetlError as error:
            if error.where is not None:
                error.where = error.where.replace(str(self.path), str(self))
            raise


class FolderInBucket:
    """A folder of a bucket with state files."""

    def __init__(self, objects: Objects, key: StateKey | None) -> None:
        """Reach no server yet.

        Args:
            objects: those of the folder.
            key: of encrypted states.
        """
        self._objects = objects
        self._key = key
        self._known: dict[str, Storage] = {}
        self.path = working_folder(str(objects.address))

    def __str__(self) -> str:
        return str(self._objects.address)

    def storage(self, name: str) -> Storage:
        """See `retl.storage.Folder`."""
        if name not in self._known:
            self._known[name] = FileInBucket(
                self._objects, name.removesuffix(ENDING), self.path / name, self._key
            )
        return self._known[name]

    def used(self) -> list[Storage]:
        """See `retl.storage.Folder`."""
        names = [name for name in self._objects.names() if name.endswith(POINTER)]
        return [self.storage(name.removesuffix(POINTER) + ENDING) for name in names]


_opened: dict[tuple[object, ...], FolderInBucket] = {}


def folder_in_bucket(
    address: BucketAddress, environ: Mapping[str, str], key: StateKey | None
) -> FolderInBucket:
    """The folder of a bucket; one for the whole process and whoever asks, so that a state is fetched once."""
    known = (address, key, frozenset(settings_of(address, environ).items()))
    if known not in _opened:
        _opened[known] = FolderInBucket(Objects(address, environ), key)
    return _opened[known]


def _folded(path: Path, key: StateKey | None) -> Path:
    """A file that nobody has open, with its log folded into it."""
    with own_errors(path), duckdb.connect(":memory:") as db:
        if key:
            encryption.prepare(db)
        encryption.attach(db, path, "state", key)
        db.execute("CHECKPOINT state; DETACH state")
    return path
