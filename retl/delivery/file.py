"""A file that takes calls, as NDJSON: one call on each line, as Segment would get it."""

import hashlib
import json
import os
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

import numpy as np
from filelock import FileLock

from retl.clock import Clock
from retl.delivery.batch import Batch
from retl.delivery.destination import Action, Attempt, Decision, Limits
from retl.delivery.rate_limit import RateLimiter
from retl.errors import StorageError

LONGEST_LINE = 64 * 1024
"""Bytes; twice the size of the largest call."""


class NdjsonFile:
    """A destination that appends calls to a file, and makes the file where there is none.

    Each batch is on disk before it counts as delivered. Lines of a batch that was cut off, by a full disk or
    a killed process, are taken back or completed, so that every line of the file is a whole call.
    """

    name = "the file"
    connections = 1
    limits = Limits(calls=10_000, bytes=4_000_000)

    def __init__(self, path: Path, clock: Clock) -> None:
        self._path = path
        self.rate_limiter = RateLimiter(0, clock)

    @property
    def id(self) -> str:
        """A hash of the file's path."""
        return hashlib.sha256(f"file\n{self._path}".encode()).hexdigest()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Nothing is left open."""

    def check(self) -> str | None:
        """See that the file can be written.

        Raises:
            StorageError: it cannot.
        """
        try:
            self._append(b"")
        except OSError as error:
            raise self._cannot_write(error) from error
        return None

    def send(self, batch: Batch, attempt: Attempt) -> Decision:
        """Append a batch; see `Destination.send`."""
        lines = np.frombuffer(batch.text, np.uint8).copy()
        lines[batch.ends[:-1]] = ord("\n")  # in place of the commas between calls
        try:
            self._append(lines.tobytes() + b"\n")
        except OSError as error:
            failed = self._cannot_write(error)
            return Decision(Action.STOP, failed.message, error=failed)
        return Decision(Action.DELIVERED, "written")

    def error(self, message: str, hint: str) -> StorageError:
        """An error of this file; see `Destination.error`."""
        return StorageError(message, where=str(self._path), hint=hint)

    def _append(self, lines: bytes) -> None:
        """Append lines, all of them or none.

        Raises:
            OSError: the file cannot be written.
        """
        with FileLock(f"{self._path}.lock", mode=0o600), open(self._path, "ab+", buffering=0) as file:
            size = file.seek(0, os.SEEK_END)
            end, missing = _end_of_whole_lines(file, size)
            try:
                file.truncate(end)
                if file.write(missing + lines) != len(missing) + len(lines):
                    raise OSError("the disk took only a part of it")
                os.fsync(file.fileno())
            except OSError:
                file.truncate(end)
                raise

    def _cannot_write(self, error: OSError) -> StorageError:
        reason = error.strerror or str(error)
        return self.error(f"the calls cannot be written here ({reason})", "the calls stay pending")


def _end_of_whole_lines(file: BinaryIO, size: int) -> tuple[int, bytes]:
    """Where the last whole call of a file ends, and the end of line that it lacks.

    A process that was killed while it wrote leaves a piece of a call, which comes again; a person who edited
    the file may leave a whole one without its end of line.
    """
    file.seek(max(0, size - LONGEST_LINE))
    tail = file.read(LONGEST_LINE)
    piece = tail[tail.rfind(b"\n") + 1 :]
    try:
        json.loads(piece or b"{}")
    except ValueError:
        return size - len(piece), b""
    return size, b"\n" if piece else b""
