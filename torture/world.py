"""World: what a life takes place in: a warehouse, a sync file, a state file and a local Segment.

Commands are done in it as `retl` does them, but that a fuse may kill the process, or fill the disk.
"""

import copy
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from enum import StrEnum
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import duckdb

from retl.config.project import Project
from retl.delivery import history, outbox
from retl.delivery.settle import doubt
from retl.discard import discard_pending
from retl.errors import RetlError
from retl.job import Job, Options
from retl.pipeline import run
from retl.rehearsal import copy_production
from retl.retry import retry
from retl.run import Run
from retl.sandbox.failures import Reply
from retl.sandbox.server import Sandbox
from retl.session import Session
from retl.state import State
from torture.bad_day import ANSWERS, TakingTurns
from torture.cloud import Cloud, Machine
from torture.fault import CloudFault, Fault
from torture.fuse import BurningObserver, Fuse, Killed
from torture.promises import WRONG, Broken
from torture.record import Record
from torture.rows import History, Warehouse
from torture.shop import Shop
from torture.store import Store
from torture.syncs import ENVIRONMENT, LOCAL, load
from torture.turns import Turns

SECONDS_ASLEEP = 200.0
"""The time that a runner stands still while another one begins its run."""


class Command(StrEnum):
    """A command that a fault may end."""

    RUN = "a run"
    RETRY = "a retry"
    DISCARD = "a discard"
    REHEARSAL = "a rehearsal"


class World:
    """What a life takes place in, for as long as it is entered.

    Args:
        random: all chances.
        folder: for its files.
        kind: of the sync.
        history: the rows.
        is_large: whether the rows are many.
        has_shop: whether the warehouse may have a schema of retl's.
        in_cloud: whether the state is in a bucket.
        record: takes what happens.
        trace: gets a sentence for each command.

    Attributes:
        folder: of the state.
        cloud: the bucket with the state; None where that is in the folder.
        shop: the warehouse, where it may have a schema of retl's; else rows come from nowhere.
        edit: what the sync has besides.
        engine: of the sync, and its schema.
        poisoned: users whose calls Segment refuses.
        answers: of Segment that were lined up so far, by name.
        steps: that a run takes, about.
        woken: of each run that was taken for dead, how many calls were accepted when it fell asleep, when it
            woke up, and when it ended.
    """

    def __init__(
        self,
        random: Random,
        folder: Path,
        kind: str,
        history: History,
        is_large: bool,
        has_shop: bool,
        in_cloud: bool,
        record: Record,
        trace: Callable[[str], None],
    ) -> None:
        self.kind = kind
        self.history = history
        self.record = record
        self.trace = trace
        self.turns = Turns(random)
        self.folder = folder / "0"
        self.cloud = Cloud(folder, self.turns) if in_cloud else None
        self.shop = Shop(folder) if has_shop else None
        self.edit = ("", "")
        self.engine = LOCAL
        self.poisoned: set[str] = set()
        self.answers: list[str] = []
        self.steps = 60
        self.woken: list[tuple[int, int, int]] = []
        self.sandbox = Sandbox(now=self.turns.now, reject_if=lambda call: call.get("userId") in self.poisoned)
        self._batch_calls = 500 if is_large else random.randint(1, 3)
        self._batch_rows = 1_000 if is_large else random.randint(1, 4)
        self._connections = random.randint(1, 4)
        self._store = Store(self.turns)
        self._machine: Machine | None = None
        self._random = random
        self._another_ended_at = 0.0
        self._awake_since: tuple[int, int] | None = None
        self._project = Project(folder, ENVIRONMENT)
        self.folder.mkdir()

    def __enter__(self) -> "World":
        self._store.__enter__()
        self.sandbox.__enter__()
        if self.cloud is not None:
            self.cloud.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self.sandbox.__exit__()
        self._store.__exit__()
        if self.shop is not None:
            self.shop.__exit__()
        if self.cloud is not None:
            self.cloud.__exit__()

    @property
    def state(self) -> Path:
        """The state file, where it is in the folder."""
        return self.folder / "life.duckdb"

    @property
    def has_state(self) -> bool:
        """Whether there is a state."""
        return self.state.exists() if self.cloud is None else self.cloud.has_state()

    def kept(self) -> tuple[object, ...]:
        """All that is kept of the state, as it is, and how much Segment was asked."""
        found = [
            path for path in (self.state, self.state.with_name(f"{self.state.name}.wal")) if path.exists()
        ]
        objects = None if self.cloud is None else self.cloud.content()
        return [path.read_bytes() for path in found], objects, self.sandbox.summary()["requests"]

    @property
    def lined_up(self) -> int:
        """How many answers wait for a request."""
        return len(self.answers) - int(self.sandbox.summary()["requests"])

    def do(self, command: Command, fault: Fault) -> Run | None:
        """Do a command under a fault; None where it is killed, cannot begin, or is no run.

        Raises:
            Broken: it ends by a bug.
        """
        self.answers += fault.answers
        return self._do(command, fault, self.sandbox, lambda: self.state)

    def rehearse(self, fault: Fault) -> tuple[Run | None, list[dict[str, object]]]:
        """Rehearse from production; gives the run, and the calls that the rehearsal's own Segment got.

        Raises:
            Broken: it ends by a bug.
        """
        copy_production(self._rehearsal(), self.turns)
        with Sandbox(now=self.turns.now) as sandbox:
            result = self._do(Command.REHEARSAL, fault, sandbox, lambda: self._rehearsal().state_path)
            return result, sandbox.accepted

    def waiting(self) -> set[str]:
        """The message ids of the calls that wait."""
        with self._looked_at() as db:
            found = db.execute(f"SELECT message_id FROM ({outbox.waiting(db)})").fetchall()
        return {message_id for (message_id,) in found}

    def accepted(self) -> list[dict[str, Any]]:
        """The calls that Segment accepted.

        Batches that were about to leave when their runner fell asleep, one of each connection, stand where
        they would have arrived then: nothing can call them back.
        """
        calls = list(self.sandbox.accepted)
        for asleep, awake, ended in self.woken:
            late = calls[awake:ended]
            if len(late) <= self._batch_calls * self._connections:
                calls[awake:ended] = []
                calls[asleep:asleep] = late
        return calls

    def told(self) -> list[str]:
        """The message ids of the history of calls."""
        with self._looked_at() as db:
            found = db.execute(f"SELECT message_id FROM ({history.delivered(db)})").fetchall()
        return [message_id for (message_id,) in found]

    def look(self, *queries: str) -> list[list[tuple[object, ...]]]:
        """The results of queries of the state."""
        with self._looked_at() as db:
            return [db.execute(query).fetchall() for query in queries]

    def tables(self) -> tuple[set[tuple[str, str]], set[tuple[str, str]]]:
        """The tables of retl's in the warehouse, and those of them that a state points to."""
        assert self.shop is not None
        query = "SELECT snapshot_table ->> 'schema', snapshot_table ->> 'name' FROM state.metadata"
        pointed = {(str(schema), str(name)) for schema, name in self.look(query)[0]}
        rehearsal = self._rehearsal().state_path
        if rehearsal.exists():
            with self._store.looked_at(rehearsal, "life") as db:
                pointed |= set(db.execute(query).fetchall())
        return self.shop.tables(), pointed - {(None, None), ("None", "None")}

    def _rehearsal(self) -> Session:
        sync, _ = load(self.kind, self.edit, self.engine)
        bucket = None if self.cloud is None else self._here()
        return Session(self._project, sync, rehearsal=True, state_dir=self.folder, bucket=bucket)

    def _here(self) -> Machine:
        """The machine that the next command runs on."""
        assert self.cloud is not None
        if self._machine is None:
            self._machine = self.cloud.machine(self.turns)
        return self._machine

    def _leave(self) -> None:
        """Have the next command run on another machine."""
        if self._machine is not None:
            self._machine.discard()
            self._machine = None

    @contextmanager
    def _looked_at(self) -> Iterator[duckdb.DuckDBPyConnection]:
        """A connection to the state as it is kept, which burns nothing."""
        if self.cloud is None:
            with self._store.looked_at(self.state, "life") as db:
                yield db
            return
        machine = self.cloud.machine(self.turns)
        storage = machine.storage("life.duckdb")
        with storage.look(self.turns.now()), self._store.looked_at(storage.path, "life") as db:
            yield db
        machine.discard()

    def _do(self, command: Command, fault: Fault, sandbox: Sandbox, state: Callable[[], Path]) -> Run | None:
        remains, is_in_cloud = self.folder.with_name("remains"), self._is_in_cloud(command)
        bury = (lambda: None) if is_in_cloud else lambda: _copy(self.folder, remains)
        sleeps_at, another = fault.in_cloud.sleeps_at, partial(self._another_runs, fault.in_cloud)
        fuse = Fuse(fault.steps, fault.is_full, bury, command, sleeps_at, another, fault.within)
        sandbox.script(ANSWERS.get(name, Reply()) for name in fault.answers)
        self.record.counts["runs"] += 1
        result: Run | None = None
        try:
            with self._opened(command, fuse, fault, state) as job, self._way(sandbox, fuse) as to:
                match command:
                    case Command.RETRY:
                        result = retry(job, to, stale=False).run
                    case Command.DISCARD:
                        discard_pending(job.state, job.clock.now())
                    case _:
                        result = run(job, to)
        except Killed:
            if is_in_cloud:
                self._leave()
            else:
                _put_back(remains, self.folder)
        except RetlError as error:
            self.trace(f"the state cannot be opened or saved: {error.message}")
        except Broken:
            raise
        except Exception as error:
            raise Broken(WRONG, f"a bug in {fuse.phase}: {error!r}") from error
        if self._awake_since is not None:
            self.woken.append((*self._awake_since, len(self.sandbox.accepted)))
            self._awake_since = None
        self.turns.seconds = max(self.turns.seconds, self._another_ended_at)
        self._note(command, fault, fuse, result)
        return result

    def _is_in_cloud(self, command: Command) -> bool:
        """Whether the state of a command is in a bucket; that of a rehearsal never is."""
        return self.cloud is not None and command is not Command.REHEARSAL

    def _another_runs(self, fault: CloudFault, step: str) -> None:
        """Stand still at a step, while another runner does a whole run on its own machine."""
        assert self.cloud is not None
        self.record.faults[f"asleep while another runs: {step}"] += 1
        asleep = len(self.sandbox.accepted)
        if self._random.random() < 0.5:
            self.history.change(self._random, max(3, len(self.history.keys) // 10))
        other = copy.copy(self)
        other.turns = Turns(self._random)
        other.turns.seconds = self.turns.seconds + SECONDS_ASLEEP
        other._machine = None
        answers, self.cloud.answers, self.cloud.turns = self.cloud.answers, [], other.turns
        lease = CloudFault(lease_ends=fault.is_taken_for_dead)
        with Store(other.turns) as other._store, ThreadPoolExecutor(1, "another runner") as thread:
            self.trace(f"asleep at {step}, while another runs:")
            thread.submit(other.do, Command.RUN, Fault(fault.other_steps, in_cloud=lease)).result()
        other._leave()
        self._another_ended_at = other.turns.seconds
        if not fault.clock_stands:
            self.turns.seconds = other.turns.seconds
        self.cloud.answers, self.cloud.turns = answers, self.turns
        if fault.is_taken_for_dead:
            self._awake_since = asleep, len(self.sandbox.accepted)
        self.trace("awake again")

    @contextmanager
    def _opened_state(
        self, command: Command, fuse: Fuse, fault: Fault, state: Callable[[], Path]
    ) -> Iterator[State]:
        """The state, held by this command alone where it is in a bucket."""
        if self.cloud is None or command is Command.REHEARSAL:
            with self._store.opened(state(), "life", fuse) as opened:
                yield opened
            return
        how = fault.in_cloud
        if self.cloud.is_leased():
            self.record.faults[f"lease: {'run out' if how.lease_ends else 'not run out yet'}"] += 1
        if how.lease_ends:
            self.cloud.end_lease()
        if how.is_elsewhere:
            self._leave()
        self.cloud.answers = list(how.answers)
        before = len(self.cloud.given)
        try:
            with (
                self._here().held(fuse, how.waits) as storage,
                self._store.opened(storage.path, "life", fuse) as opened,
            ):
                opened.storage = storage
                if storage.was_cut_off:
                    with opened.transaction():
                        doubt(opened.db)
                yield opened
        finally:
            self.record.faults.update(f"bucket: {answer}" for answer in self.cloud.given[before:])
            self.cloud.answers = []

    @contextmanager
    def _opened(self, command: Command, fuse: Fuse, fault: Fault, state: Callable[[], Path]) -> Iterator[Job]:
        sync, model = load(self.kind, self.edit, self.engine)
        with self._opened_state(command, fuse, fault, state) as opened:
            options, observer = Options(limit=fault.limit, full=fault.full), BurningObserver(fuse)
            if self.shop is None:
                rows = Warehouse(self.history, self._batch_rows, fault.breaks_after, fault.is_empty)
                yield Job(sync, model, opened, rows, options, self.turns, observer)
                return
            self.shop.load(self.history, fault.is_empty)
            workspace = partial(self.shop.workspace, fuse=fuse, breaks_after=fault.statements)
            with self.shop.reader(self._batch_rows, fault.breaks_after) as reader:
                yield Job(sync, model, opened, reader, options, self.turns, observer, None, workspace)

    def _way(self, sandbox: Sandbox, fuse: Fuse) -> TakingTurns:
        return TakingTurns(sandbox.url, self.turns, fuse, self._connections, self._batch_calls)

    def _note(self, command: Command, fault: Fault, fuse: Fuse, result: Run | None) -> None:
        faults = self.record.faults
        if fuse.blown is not None:
            faults[f"{'disk full' if fault.is_full else 'killed'} in {fuse.phase}: {fuse.blown}"] += 1
        elif command is Command.RUN:
            self.steps = max(10, (self.steps + fuse.burnt) // 2)
        faults["read: the connection breaks"] += fault.breaks_after is not None
        faults["read: no rows"] += fault.is_empty
        faults["warehouse: the connection breaks at a statement"] += fault.statements is not None
        error = None if result is None or result.error is None else result.error.message
        code = None if result is None else result.exit_code
        self.trace(f"{command}, {fault}: {fuse.blown} in {fuse.phase}, exit {code}, {error}")
        if code == 70:
            raise Broken(WRONG, f"a bug: {error}")


def _copy(folder: Path, to: Path) -> None:
    shutil.copytree(folder, to)


def _put_back(remains: Path, folder: Path) -> None:
    """Let a folder be as a copy of it, which is deleted; each file stays the same one, with its number."""
    for path in sorted(folder.rglob("*"), reverse=True):
        if not remains.joinpath(path.relative_to(folder)).exists():
            path.rmdir() if path.is_dir() else path.unlink()
    for path in sorted(remains.rglob("*")):
        target = folder / path.relative_to(remains)
        if path.is_dir():
            target.mkdir(exist_ok=True)
        else:
            target.write_bytes(path.read_bytes())
    shutil.rmtree(remains)
