"""Cloud: the state of a life in a bucket, on machines that come and go.

The bucket is moto's S3 behind a real server on this machine. Each write is a step at which a run may be
killed; the lease of a killed run stays, and runs out when the life says so. The server's answers may be
errors, get lost or take long.
"""

import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from retl.bucket.address import BucketAddress
from retl.bucket.lease import SECONDS
from retl.bucket.objects import Objects, Version
from retl.bucket.pointer import read_pointer
from retl.bucket.storage import FileInBucket
from retl.lazy import lazy_module
from retl.lock import LOCK_TIMEOUT_SECONDS
from retl.storage import Storage
from torture.fuse import Fuse
from torture.turns import Turns

if TYPE_CHECKING:
    from torture import bucket
else:
    bucket = lazy_module("torture.bucket")

ANSWERS = ("500", "503", "412", "409", "403", "answer lost", "connection reset", "slow")
"""The answers of a bucket on a bad day, each for one request."""

SLOW_SECONDS = 100.0
"""The time that a slow answer takes, by the clock of the life: longer than a runner counts on its lease."""

LEASE, POINTER = "retl/life.lock", "retl/life.json"

T = TypeVar("T")


class Cloud:
    """A bucket with the state of a life, for as long as it is entered.

    Args:
        folder: for the machines' files.
        turns: the clock of the machine that works first.

    Attributes:
        answers: of the next requests; an empty one is good, as those behind them are.
        turns: the clock that a slow answer takes time of.
        given: the answers that were given so far, by name.
    """

    def __init__(self, folder: Path, turns: Turns) -> None:
        self.turns = turns
        self.given: list[str] = []
        self._folder = folder
        self._server: Any = bucket.Bucket()
        self.answers: list[str] = []
        self._machines = 0

    def __enter__(self) -> "Cloud":
        self._server.__enter__()
        self._server.fault = self._fault
        return self

    def __exit__(self, *_: object) -> None:
        self._server.__exit__()

    @property
    def settings(self) -> dict[str, str]:
        """The variables with which a process reaches it."""
        settings: dict[str, str] = self._server.settings
        return settings

    def has_state(self) -> bool:
        """Whether there is a state; a pointer to none is left where a lease was taken over before a save."""
        found = self._server.objects.get(POINTER)
        return found is not None and read_pointer(found, POINTER).file is not None

    def content(self) -> dict[str, bytes]:
        """The objects, but for the lease."""
        return {name: content for name, content in self._server.objects.items() if name != LEASE}

    def is_leased(self) -> bool:
        """Whether somebody has the lease, who may be dead."""
        return b'"holder": {' in self._server.objects.get(LEASE, b"")

    def end_lease(self) -> None:
        """Let the lease, if somebody has it, be so old that it has run out."""
        if self.is_leased():
            self._server.age(LEASE, SECONDS + 20)

    def machine(self, turns: Turns) -> "Machine":
        """A machine that never worked with the state."""
        self._machines += 1
        folder = self._folder / f"machine-{self._machines}"
        folder.mkdir()
        return Machine(self._server.settings, folder, turns)

    def _fault(self, method: str, key: str) -> str | None:
        answer = self.answers.pop(0) if self.answers else ""
        if not answer:
            return None
        self.given.append(answer)
        if answer == "slow":
            self.turns.seconds += SLOW_SECONDS
            return None
        return {"answer lost": "lost", "connection reset": "dropped"}.get(answer, answer)


class Machine:
    """A machine with its copy of the state, from one command to the next, until it is gone.

    Attributes:
        path: the folder of its files; that of states as they are opened.
    """

    def __init__(self, settings: dict[str, str], folder: Path, turns: Turns) -> None:
        self.path = folder
        self._objects = _BurningObjects(settings)
        self._file = FileInBucket(self._objects, "life", folder / "life.duckdb", None, _Clock(turns))
        self._turns = turns

    def __str__(self) -> str:
        return str(self._objects.address)

    @contextmanager
    def held(self, fuse: Fuse, waits: bool) -> Iterator[FileInBucket]:
        """The state, fetched and kept from others; all writes of the bucket burn a fuse down meanwhile."""
        self._objects.fuse = fuse
        try:
            with self._file.hold(self._turns.now(), -1 if waits else LOCK_TIMEOUT_SECONDS):
                yield self._file
        finally:
            self._objects.fuse = Fuse(None)

    def storage(self, name: str) -> Storage:
        """The storage of the state, for whoever copies it."""
        return self._file

    def used(self) -> list[Storage]:
        """The one state."""
        return [self._file]

    def discard(self) -> None:
        """Throw the machine's disk away."""
        shutil.rmtree(self.path)


class _Clock:
    """The clock of a life for the lease: what keeps it in the background waits for its end."""

    def __init__(self, turns: Turns) -> None:
        self._turns = turns

    def now(self) -> datetime:
        """The moment."""
        return self._turns.now()

    def monotonic(self) -> float:
        """Seconds that only grow."""
        return self._turns.monotonic()

    def wait(self, seconds: float, stop: threading.Event) -> bool:
        """Wait; a background thread, whose moments no seed decides, until it is stopped."""
        if threading.current_thread().name.endswith("(keep)"):
            return stop.wait()
        return self._turns.wait(seconds, stop)


class _BurningObjects(Objects):
    """Objects whose writes are steps.

    Attributes:
        fuse: burns down with them.
    """

    def __init__(self, settings: dict[str, str]) -> None:
        super().__init__(BucketAddress("s3", bucket.BUCKET, "retl"), settings, retry_seconds=0)
        self.fuse = Fuse(None)

    def _write(self, name: str, content: bytes, mode: Any) -> Version:
        with self._step(name):
            return super()._write(name, content, mode)

    def overwrite(self, name: str, content: bytes) -> None:
        """Write an object."""
        with self._step(name):
            super().overwrite(name, content)

    def upload(self, path: Path, name: str) -> None:
        """Write a file as an object."""
        with self._step(name):
            super().upload(path, name)

    def delete(self, name: str) -> None:
        """Delete an object."""
        with self._step(name):
            super().delete(name)

    @contextmanager
    def _step(self, name: str) -> Iterator[None]:
        self.fuse.burn(f"in the bucket, before writing {_what(name)}")
        yield
        self.fuse.burn(f"in the bucket, after writing {_what(name)}")


def _what(name: str) -> str:
    """The kind of an object."""
    if name.endswith(".lock"):
        return "the lease"
    if name.endswith(".json"):
        return "the pointer"
    return "a state file" if name.endswith(".duckdb") else "to ask for the time"


def has_buckets() -> bool:
    """Whether the packages are installed that a bucket needs, and whoever works with one."""
    return all(find_spec(name) is not None for name in ("moto", "flask", "obstore"))
