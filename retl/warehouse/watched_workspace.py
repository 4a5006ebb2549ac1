"""A workspace whose statements end with the run's deadline or with a signal; it is opened when it is used."""

from collections.abc import Callable, Sequence
from concurrent.futures import wait
from functools import partial
from typing import Any, TypeVar

from retl.clock import Clock
from retl.model import Model
from retl.warehouse.watched import GRACE_SECONDS, ReadingThread, awaited
from retl.warehouse.workspace import StoredColumn, Workspace

T = TypeVar("T")


class WatchedWorkspace(Workspace):
    """Executes statements of another workspace in a thread, while whoever wants them looks at the clock.

    Attributes:
        deadline: on the clock's monotonic time, in seconds.
    """

    def __init__(self, opening: Callable[[], Workspace], schema: str, clock: Clock, deadline: float) -> None:
        self._opening = opening
        self._open: Workspace | None = None
        self._thread: ReadingThread | None = None
        self._clock = clock
        self.deadline = deadline
        self.schema = schema

    @property
    def dialect(self) -> str:  # type: ignore[override]
        """The name of the warehouse's SQL."""
        return self._opened().dialect

    @property
    def longest_name(self) -> int:  # type: ignore[override]
        """Characters that a table's name may have."""
        return self._opened().longest_name

    def prepare(self) -> None:
        """Make the schema where there is none."""
        self._watched(self._opened().prepare)

    def tables(self, prefix: str) -> list[str]:
        """The tables whose names begin so."""
        return self._watched(self._opened().tables, prefix)

    def columns(self, table: str) -> tuple[StoredColumn, ...]:
        """The columns of a table."""
        return self._watched(self._opened().columns, table)

    def query_of(self, model: Model) -> str:
        """The model's SQL in brackets."""
        return self._watched(self._opened().query_of, model)

    def spelled(self, statement: str) -> str:
        """A statement as the warehouse takes it."""
        return self._opened().spelled(statement)

    def execute(self, statement: str, model: Model | None = None) -> int | None:
        """Execute a statement that gives no rows."""
        return self._watched(self._opened().execute, statement, model)

    def analyze(self, table: str, columns: Sequence[str]) -> None:
        """Let the database know how a new table is joined."""
        self._watched(self._opened().analyze, table, columns)

    def number(self, query: str) -> int:
        """The one number that a query gives."""
        return self._watched(self._opened().number, query)

    def drop(self, tables: Sequence[str]) -> None:
        """Drop tables."""
        self._watched(self._opened().drop, tables)

    def missing_grants(self) -> list[str]:
        """The statements that let the user do what is needed."""
        return self._watched(self._opened().missing_grants)

    def cancel(self) -> None:
        """Stop what is executed."""
        if self._open is not None:
            self._open.cancel()

    def close(self) -> None:
        """Let go of the database, which the next statement would open again."""
        if self._open is not None and self._thread is not None:
            closed = self._thread.start(self._open.close)
            self._thread.end()
            wait([closed], GRACE_SECONDS)
        self._open, self._thread = None, None

    def _opened(self) -> Workspace:
        if self._open is None:
            self._thread = ReadingThread()
            self._open = self._watched(self._opening)
        return self._open

    def _watched(self, work: Callable[..., T], *arguments: Any) -> T:
        assert self._thread is not None, "a workspace is opened before it is used"
        future = self._thread.start(partial(work, *arguments))
        try:
            return awaited(future, self._clock, self.deadline)
        except BaseException:
            if not future.done():
                self.cancel()
            raise
