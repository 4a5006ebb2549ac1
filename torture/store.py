"""Store: opens the state of a life again and again, with steps at which a run may be killed.

To start a DuckDB takes longer than most runs of a life. So it is started once, and the file is attached anew
for each run, as `retl` attaches it to a new one.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import duckdb

from retl.state import State, open_state
from torture.fuse import Connection, Fuse
from torture.turns import Turns


class Store:
    """A DuckDB, for as long as it is entered, to which one state file at a time is attached.

    It has no threads of its own, which would work while a killed run's files are copied.
    """

    def __init__(self, turns: Turns) -> None:
        self._db = duckdb.connect(":memory:", config={"threads": 1})
        self._turns = turns

    def __enter__(self) -> "Store":
        return self

    def __exit__(self, *_: object) -> None:
        self._db.close()

    @contextmanager
    def opened(self, path: Path, sync: str, fuse: Fuse) -> Iterator[State]:
        """The state in a file, made where there is none; what a run does in it burns the fuse down."""
        connections: list[duckdb.DuckDBPyConnection] = []

        def connect() -> Any:
            return Connection(self._db.cursor(), fuse, self._turns, connections)

        command, fuse.phase = fuse.phase, "opening" if path.exists() else "making a state"
        try:
            with open_state(path, sync, connect=connect) as state:
                fuse.phase = command
                yield state
        finally:
            # A file that is in use still must not be attached again.
            self._turns.wait_for_all()
            for connection in connections:
                connection.close()
            self._db.execute("DETACH DATABASE IF EXISTS state")

    @contextmanager
    def looked_at(self, path: Path, sync: str) -> Iterator[duckdb.DuckDBPyConnection]:
        """A connection to the state, which burns nothing."""
        with self.opened(path, sync, Fuse(None)) as state:
            yield state.db
