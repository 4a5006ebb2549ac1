"""A file that takes calls, as NDJSON: one call on each line, as Segment would get it."""

import hashlib
import json
import os
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

import numpy as np
from filelock import FileLock, Timeout

from retl.clock import Clock
from retl.delivery.batch import Batch
from retl.delivery.destination import Action, Attempt, Decision, Limits
from retl.delivery.rate_limit import RateLimiter
from retl.errors import StorageError

FIRST_BYTES = b'{"type":"'
"""The beginning of each line; a file that begins otherwise is not a file of calls, and is left alone."""

LONGEST_LINE = 64 * 1024
"""Bytes; twice the size of the largest call."""

LOCK_SECONDS = 10.0
"""How long a batch waits for another process that writes to the same file."""


class NdjsonFile:
    """A destination that appends calls to a file, and makes the file where there is none.

    A batch is on disk before it counts as delivered. The batch that a full disk or a killed process cut off
    is sent again with the next run: a half-written last line is taken away first, so that every line is a
    whole call, and calls that were written may stand there twice, under one message id.

    Attributes:
        path: the file; several syncs may share it.
        written: its path as the sync has it, by which the state knows the file wherever the project lies.
    """

    name = "the file"
    connections = 1
    limits = Limits(calls=10_000, bytes=4_000_000)

    def __init__(self, path: Path, written: str, clock: Clock) -> None:
        # One lock for all names of a file: a link and the file that it leads to share it.
        self.path = path.resolve()
        self.written = written
        self.rate_limiter = RateLimiter(0, clock)

    @property
    def id(self) -> str:
        """A hash of the path as it is written."""
        return hashlib.sha256(f"file\n{self.written}".encode()).hexdigest()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Nothing is left open."""

    def check(self) -> str | None:
        """See that calls can be written here; nothing is written yet.

        Raises:
            StorageError: the folder is missing, or the file cannot be written or is not a file of calls.
        """
        if not self.path.parent.is_dir():
            raise self.error(f"there is no folder {self.path.parent}", "make it, or correct the path")
        try:
            if self.path.exists():
                with open(self.path, "rb+") as file:
                    self._whole_lines(file)
            elif not os.access(self.path.parent, os.W_OK):
                raise PermissionError(0, "the folder cannot be written")
        except OSError as error:
            raise self._cannot_write(error) from error
        return None

    def send(self, batch: Batch, attempt: Attempt) -> Decision:
        """Append a batch; see `Destination.send`."""
        lines = np.frombuffer(batch.text, np.uint8).copy()
        lines[(lines == ord("\n")) | (lines == ord("\r"))] = ord(" ")  # white space of a JSON column
        lines[batch.ends[:-1]] = ord("\n")  # in place of the commas between calls
        try:
            self.check()
            self._append(lines.tobytes() + b"\n")
        except StorageError as error:
            return Decision(Action.STOP, error.message, error=error)
        except (OSError, Timeout) as error:
            failed = self._cannot_write(error)
            return Decision(Action.STOP, failed.message, error=failed)
        return Decision(Action.DELIVERED, "written")

    def error(self, message: str, hint: str) -> StorageError:
        """An error of this file; see `Destination.error`."""
        return StorageError(message, where=str(self.path), hint=hint)

    def _append(self, lines: bytes) -> None:
        """Append lines, all of them or none.

        Raises:
            OSError: the file cannot be written.
            Timeout: another process writes to it for too long.
        """
        lock = FileLock(f"{self.path}.lock", timeout=LOCK_SECONDS, mode=0o600)
        with lock, open(self.path, "ab+", buffering=0, opener=_private) as file:
            size = file.seek(0, os.SEEK_END)
            end, missing = self._whole_lines(file)
            if end < size:
                file.truncate(end)
            try:
                if file.write(missing + lines) != len(missing) + len(lines):
                    raise OSError(0, "the disk is full")
                os.fsync(file.fileno())
            except OSError:
                file.truncate(end)
                raise

    def _whole_lines(self, file: BinaryIO) -> tuple[int, bytes]:
        """Where the last whole call of the file ends, and the end of line that it lacks.

        A process that was killed while it wrote leaves a piece of a call; a person who edited the file may
        leave a whole call without its end of line.

        Raises:
            StorageError: the file holds something else than calls.
        """
        size = file.seek(0, os.SEEK_END)
        file.seek(0)
        is_ours = size == 0 or FIRST_BYTES.startswith(file.read(len(FIRST_BYTES))[:size])
        file.seek(max(0, size - LONGEST_LINE))
        tail = file.read(LONGEST_LINE)
        piece = tail[tail.rfind(b"\n") + 1 :]
        if not is_ours or len(piece) == LONGEST_LINE or not FIRST_BYTES.startswith(piece[: len(FIRST_BYTES)]):
            raise self.error("this is not a file of calls", "name a file of its own for the calls")
        return (size, b"\n" if piece else b"") if _is_json(piece or b"{}") else (size - len(piece), b"")

    def _cannot_write(self, error: OSError | Timeout) -> StorageError:
        reason = getattr(error, "strerror", None) or str(error)
        if isinstance(error, Timeout):
            reason = "another process has been writing to it for too long"
        return self.error(
            f"the calls cannot be written here ({reason})",
            "make room or correct the rights, then run it again; nothing is lost",
        )


def _private(path: str, flags: int) -> int:
    """Open a file that is the owner's alone where it is made; one that is there keeps its rights."""
    return os.open(path, flags, 0o600)


def _is_json(text: bytes) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True
