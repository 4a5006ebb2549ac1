"""What the tests of delivery share: a clock that waits for nobody, a filled outbox, a shop to sync."""

import threading
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import Any

import duckdb
import pyarrow as pa

from retl.clock import Clock, SystemClock
from retl.config.project import Project, load_model, load_sync
from retl.delivery import outbox
from retl.delivery.batch import Batch
from retl.delivery.deliver import deliver
from retl.delivery.rate_limit import RateLimiter
from retl.delivery.response import RetryPolicy
from retl.delivery.round import Delivery, Terms
from retl.delivery.segment import Segment, Source
from retl.job import Job, Options
from retl.model import Model
from retl.observer import Observer, SilentObserver
from retl.pipeline import run
from retl.run import Run
from retl.state import State, open_state, peek_state
from retl.warehouse import Column

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
HURRIED = RetryPolicy(base=0.001, jitter=0.0)
KEY = "key"


class FakeClock:
    """Time passes only when everybody waits: then it jumps to the moment that is waited for first.

    Everybody are the threads that asked what time it is and are still alive; not the main one, which only
    waits for the others, nor DuckDB's own.

    Attributes:
        seconds: that have passed.
        threads: so many must have asked before time passes at all.
    """

    def __init__(self, threads: int = 0) -> None:
        self.seconds = 0.0
        self.threads = threads
        self._changed = threading.Condition()
        self._threads: set[threading.Thread] = set()
        self._targets: dict[threading.Thread, float] = {}

    def now(self) -> datetime:
        """Noon at first."""
        return NOON + timedelta(seconds=self.seconds)

    def monotonic(self) -> float:
        """Zero at first."""
        with self._changed:
            self._threads.add(threading.current_thread())
        return self.seconds

    def wait(self, seconds: float, stop: threading.Event) -> bool:
        """Wait for the others to wait, too."""
        me = threading.current_thread()
        with self._changed:
            self._targets[me] = target = self.seconds + seconds
            while self.seconds < target and not stop.is_set():
                if self._all_wait():
                    self.seconds = min(self._targets.values())
                    self._changed.notify_all()
                if self.seconds < target:
                    self._changed.wait(0.002)  # not for ever, to notice a thread that ended
            del self._targets[me]
        return stop.is_set()

    def pass_to(self, seconds: float) -> None:
        """Let time pass up to a moment, if that is to come."""
        self.seconds = max(self.seconds, seconds)

    def _all_wait(self) -> bool:
        working = [thread for thread in self._threads if type(thread) is threading.Thread]
        busy = [thread for thread in working if thread.is_alive() and thread not in self._targets]
        return not busy and len(working) >= self.threads


def memory_state(sync: str = "shop") -> State:
    """A new state in memory."""
    return peek_state(Path("no such file"), sync)


def fill(state: State, calls: int, *, users: int = 1, lanes: int = 1, pad: int = 0) -> None:
    """Put track calls into the outbox: number `n` from user `n % users`; users are spread over lanes."""
    state.db.execute(
        f"""
        INSERT INTO state.outbox
        SELECT
            row_number() OVER (ORDER BY lane, n), lane, 'run-0', 'k' || n, 'added', 'm' || n,
            body, strlen(body), user_id, 'Seen', TIMESTAMP '2026-03-01 12:00:00'
        FROM (
            SELECT
                n, n % {users} % {lanes} AS lane, 'u' || n % {users} AS user_id,
                '{{"type":"track","event":"Seen","userId":"u' || n % {users} || '","messageId":"m' || n
                    || '","properties":{{"n":' || n || ',"pad":"' || repeat('x', {pad}) || '"}}}}' AS body
            FROM range({calls}) AS t (n)
        )
        ORDER BY lane, n
        """
    )


def segment(
    url: str,
    clock: Clock | None = None,
    *,
    rate: int = 0,
    connections: int = 1,
    retry_policy: RetryPolicy = HURRIED,
    key: str = KEY,
) -> Segment:
    """A way to a sandbox."""
    return Segment(Source(url, key), RateLimiter(rate, clock or SystemClock()), retry_policy, connections)


def send(
    state: State,
    to: Segment,
    clock: Clock | None = None,
    *,
    limit: int | None = None,
    seconds: float = 600.0,
    grace: float = 5.0,
    observer: Observer | None = None,
    run_id: str = "run-1",
    until_undecided: bool = False,
) -> Delivery:
    """Deliver the outbox of a state."""
    clock = clock or SystemClock()
    terms = Terms(run_id, clock.monotonic() + seconds, limit, grace, until_undecided)
    return deliver(state, to, terms, clock, observer or SilentObserver())


def pages(state: State, lane: int = 0) -> Iterator[Batch]:
    """The calls of a lane, a page at a time."""
    return outbox.pages(state.db, outbox.Lane(lane, calls=0, attempted=0, last=0))


def numbers(calls: Sequence[Mapping[str, Any]], user: str | None = None) -> list[int]:
    """The `n` of the calls that `fill` made, of one user or of all."""
    return [call["properties"]["n"] for call in calls if user in (None, call["userId"])]


def waiting(state: State) -> list[int]:
    """The `n` of the calls that `fill` made and that still wait, in order."""
    assert outbox.pending(state.db) == len(rows(state, "SELECT 1 FROM state.outbox"))
    return [int(key[1:]) for (key,) in rows(state, "SELECT key FROM state.outbox ORDER BY seq")]


def rows(state: State, query: str) -> list[tuple[Any, ...]]:
    """What a query of the state finds."""
    return state.db.execute(query).fetchall()


class Counted:
    """A state's connection that notes each statement, on all its cursors together."""

    def __init__(self, db: duckdb.DuckDBPyConnection, statements: list[str]) -> None:
        self._db = db
        self._statements = statements

    def execute(self, query: str, parameters: object = None) -> duckdb.DuckDBPyConnection:
        """Note and execute."""
        self._statements.append(query)
        return self._db.execute(query, parameters)

    def cursor(self) -> "Counted":
        """A further connection that notes, too."""
        return Counted(self._db.cursor(), self._statements)

    def __enter__(self) -> "Counted":
        return self

    def __exit__(self, *_: object) -> None:
        self._db.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._db, name)


class Table:
    """A warehouse whose models all give the same rows, handed in as columns."""

    def __init__(self, columns: Mapping[str, Sequence[Any]]) -> None:
        self.table = pa.table({name: list(values) for name, values in columns.items()})

    def columns(self, model: Model) -> tuple[Column, ...]:
        """The columns as they were handed in."""
        return tuple(Column(column.name, str(column.type)) for column in self.table.schema)

    def read(
        self, model: Model, columns: Collection[str] | None = None, batch_rows: int = 1_000
    ) -> Iterator[pa.RecordBatch]:
        """The rows as they were handed in."""
        picked = self.table.select(self.table.column_names if columns is None else list(columns))
        yield from picked.to_batches(batch_rows) or [pa.RecordBatch.from_pylist([], schema=picked.schema)]

    def cancel(self) -> None:
        """Nothing: the rows are there."""

    def close(self) -> None:
        """Nothing."""

    def __enter__(self) -> "Table":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


IDENTIFY = """\
sql: SELECT * FROM users
primary_key: id
identify:
  user_id: id
  traits: {name: name, plan: plan}
guards: {removed: off, changed: off, added: off, min_rows: 0}
"""

TRACK = """\
sql: SELECT * FROM users
primary_key: id
track:
  user_id: owner
  added: {event: Added}
  changed: {event: Changed}
  removed: {event: Removed}
  properties: {id: id, value: value}
initial: send
guards: {removed: off, changed: off, added: off, min_rows: 0}
"""


@dataclass
class Shop:
    """A sync and its state; each run reads other rows.

    Attributes:
        folder: where the sync file and the state file are.
        url: of the sandbox.
        text: the sync file.
    """

    folder: Path
    url: str
    text: str
    clock: Clock = field(default_factory=SystemClock)
    observer: Observer = field(default_factory=SilentObserver)

    def __post_init__(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / "shop.yml"
        path.write_text(self.text, encoding="utf-8")
        project = Project(self.folder, {"SEGMENT_WRITE_KEY": KEY, "RETL_WAREHOUSE_URL": "duckdb://"})
        self.sync = load_sync(path, project)
        self.model = load_model(self.sync, project)

    @property
    def state_path(self) -> Path:
        """The state file."""
        return self.folder / "shop.duckdb"

    def run(
        self,
        warehouse: Table,
        options: Options | None = None,
        *,
        connections: int = 2,
        retry_policy: RetryPolicy = HURRIED,
    ) -> Run:
        """One run, from opening the state file to closing it."""
        with ExitStack() as stack:
            state = stack.enter_context(open_state(self.state_path, self.sync.name))
            to = stack.enter_context(
                segment(self.url, self.clock, connections=connections, retry_policy=retry_policy)
            )
            return self.run_with(state, warehouse, to, options)

    def run_with(self, state: State, warehouse: Table, to: Segment, options: Options | None = None) -> Run:
        """One run with a state that is open."""
        job = Job(self.sync, self.model, state, warehouse, options or Options(), self.clock, self.observer)
        return run(job, to)
