"""Fuse: the point at which a run is killed, or the disk becomes full.

A killed run leaves the files as they are at that moment, copied to another folder, and does nothing more.
"""

import re
from collections.abc import Callable
from typing import Any

import duckdb

from retl.observer import SilentObserver
from torture.turns import Turns


class Killed(BaseException):
    """The process is no more."""


class Fuse:
    """Burns down with the steps of a run; at one of them the fault happens.

    Attributes:
        end: the step at which it happens; None never does.
        is_full: whether the disk becomes full, in place of a kill.
        within: the words with which the steps begin that are counted for the end.
        bury: copies the files as they are.
        sleeps_at: the step at which the process stands still; None never does.
        sleep: what happens meanwhile.
        phase: of the command, as the report has it.
        burnt: steps up to now.
        blown: the step at which it happened; None where it did not.
    """

    def __init__(
        self,
        end: int | None,
        is_full: bool = False,
        bury: Callable[[], None] = lambda: None,
        phase: str = "",
        sleeps_at: int | None = None,
        sleep: Callable[[str], None] = lambda _: None,
        within: str = "",
    ) -> None:
        self.end = end
        self.sleeps_at = sleeps_at
        self.sleep = sleep
        self.phase = phase
        self.is_full = is_full
        self.bury = bury
        self.within = within
        self.burnt = 0
        self._counted = 0
        self.blown: str | None = None

    @property
    def is_dead(self) -> bool:
        """Whether the process was killed."""
        return self.blown is not None and not self.is_full

    def burn(self, step: str) -> None:
        """Take a step.

        Raises:
            Killed: the process is killed now, or was.
        """
        self.refuse_dead()
        self.burnt += 1
        if self.burnt == self.sleeps_at:
            self.sleep(step)
        self._counted += step.startswith(self.within)
        if self.end is None or self.blown is not None:
            return
        if self._counted >= self.end:
            self.blown = step
            if not self.is_full:
                self.bury()
                raise Killed

    def refuse_dead(self) -> None:
        """See that the process is alive.

        Raises:
            Killed: it was killed.
        """
        if self.is_dead:
            raise Killed


class BurningObserver(SilentObserver):
    """Takes each batch of rows, as it is handed over to DuckDB, for a step."""

    def __init__(self, fuse: Fuse) -> None:
        self._fuse = fuse

    def rows_read(self, rows: int) -> None:
        """Take a step; the warehouse is read ahead, in a thread whose moments no seed decides."""
        self._fuse.burn("while reading")


_WRITES = re.compile(
    r"""
    \s*(BEGIN|COMMIT|ATTACH|DETACH
    |(?:INSERT\s+INTO|UPDATE|DELETE\s+FROM|ALTER\s+TABLE|CREATE\s+(?:OR\s+REPLACE\s+)?TABLE
        |DROP\s+TABLE(?:\s+IF\s+EXISTS)?)
    \s+state\.(\w+))
    """,
    re.VERBOSE,
)


class Connection:
    """A connection to the state on which each statement that writes is a step."""

    def __init__(
        self,
        db: duckdb.DuckDBPyConnection,
        fuse: Fuse,
        turns: Turns,
        opened: list[duckdb.DuckDBPyConnection],
        is_worker: bool = False,
    ) -> None:
        """Take a connection; `opened` lists all that are opened on the way."""
        self._db = db
        self._fuse = fuse
        self._turns = turns
        self._opened = opened
        self._is_worker = is_worker
        self._is_of_worker = is_worker
        opened.append(db)

    def execute(self, query: str, parameters: Any = None) -> duckdb.DuckDBPyConnection:
        """Execute a statement, unless the process is dead or the disk full."""
        self._fuse.refuse_dead()  # not even a rollback is done after death
        found = _WRITES.match(query)
        if found is None:
            return self._db.execute(query, parameters)
        step = f"writing {found[2]}" if found[2] else f"at {found[1]}"
        if self._fuse.is_full and (found[2] or found[1] == "COMMIT"):
            self._fuse.burn(step)
            if self._fuse.blown is not None:
                raise duckdb.IOException('Could not write file "state": No space left on device')
        done = self._db.execute(query, parameters)
        if not self._fuse.is_full:
            self._fuse.burn(step)
        return done

    def cursor(self) -> "Connection":
        """A connection for a worker; or one more for the same, where this is a worker's."""
        is_worker = not self._is_of_worker
        if is_worker:
            self._turns.expect()
        cursor = Connection(self._db.cursor(), self._fuse, self._turns, self._opened, is_worker)
        cursor._is_of_worker = True
        return cursor

    def close(self) -> None:
        """Close it; a worker is done then."""
        self._db.close()
        if self._is_worker:
            self._turns.leave()

    def __enter__(self) -> "Connection":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._db, name)
