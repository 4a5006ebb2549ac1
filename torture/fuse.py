"""Fuse: the point at which a run is killed, or the disk becomes full.

A killed run leaves the files as they are at that moment, copied to another folder, and does nothing more.
"""

import re
from collections.abc import Callable
from typing import Any

import duckdb

from torture.turns import Turns


class Killed(BaseException):
    """The process is no more."""


class Fuse:
    """Burns down by one with each step of a run; at its end the fault happens.

    Attributes:
        left: steps until then; None never burns down.
        is_full: whether the disk becomes full, in place of a kill.
        bury: copies the files as they are.
        blown: the step at which it happened; None where it did not.
    """

    def __init__(self, left: int | None, is_full: bool, bury: Callable[[], None]) -> None:
        self.left = left
        self.is_full = is_full
        self.bury = bury
        self.blown: str | None = None

    @property
    def is_dead(self) -> bool:
        """Whether the process was killed."""
        return self.blown is not None and not self.is_full

    def burn(self, step: str) -> None:
        """Burn down by one.

        Raises:
            Killed: the process is killed now, or was.
        """
        if self.is_dead:
            raise Killed
        if self.left is None or self.blown is not None:
            return
        self.left -= 1
        if self.left <= 0:
            self.blown = step
            if not self.is_full:
                self.bury()
                raise Killed


_WRITES = re.compile(
    r"\s*(BEGIN|COMMIT|(?:INSERT|UPDATE|DELETE|CREATE|ALTER|DROP)\b.*?\bstate\.(\w+))", re.DOTALL
)


class Connection:
    """A connection to the state on which each statement that writes is a step."""

    def __init__(
        self, db: duckdb.DuckDBPyConnection, fuse: Fuse, turns: Turns, is_worker: bool = False
    ) -> None:
        self._db = db
        self._fuse = fuse
        self._turns = turns
        self._is_worker = is_worker

    def execute(self, query: str, parameters: Any = None) -> duckdb.DuckDBPyConnection:
        """Execute a statement, unless the process is dead or the disk full."""
        if self._fuse.is_dead:
            raise Killed  # nothing is done after death, not even a rollback
        found = _WRITES.match(query)
        if found is None:
            return self._db.execute(query, parameters)
        step = f"writing {found[2]}" if found[2] else f"at {found[1]}"
        if self._fuse.is_full and found[1] != "BEGIN":
            self._fuse.burn(step)
            if self._fuse.blown is not None:
                raise duckdb.IOException('Could not write file "state": No space left on device')
        done = self._db.execute(query, parameters)
        if not self._fuse.is_full:
            self._fuse.burn(step)
        return done

    def cursor(self) -> "Connection":
        """A connection for a worker."""
        self._turns.expect()
        return Connection(self._db.cursor(), self._fuse, self._turns, is_worker=True)

    def close(self) -> None:
        """Close it; a worker is done then."""
        self._db.close()
        if self._is_worker:
            self._turns.leave()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._db, name)
