"""World: what a life takes place in: a table, a sync file, a state file and a local Segment.

Commands are done in it as `retl` does them, but that a fuse may kill the process, or fill the disk.
"""

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from random import Random

from retl.config.project import Project
from retl.delivery import history, outbox
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
from torture.bad_day import ANSWERS, TakingTurns
from torture.fault import Fault
from torture.fuse import BurningObserver, Fuse, Killed
from torture.promises import WRONG, Broken
from torture.record import Record
from torture.rows import History, Warehouse
from torture.store import Store
from torture.syncs import ENVIRONMENT, load
from torture.turns import Turns


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
        record: takes what happens.
        trace: gets a sentence for each command.

    Attributes:
        folder: of the state as it is now; each kill leaves it in another one.
        edit: what the sync has besides.
        poisoned: users whose calls Segment refuses.
        answers: of Segment that were lined up so far, by name.
        steps: that a run takes, about.
    """

    def __init__(
        self,
        random: Random,
        folder: Path,
        kind: str,
        history: History,
        is_large: bool,
        record: Record,
        trace: Callable[[str], None],
    ) -> None:
        self.kind = kind
        self.history = history
        self.record = record
        self.trace = trace
        self.turns = Turns(random)
        self.folder = folder / "0"
        self.edit = ("", "")
        self.poisoned: set[str] = set()
        self.answers: list[str] = []
        self.steps = 60
        self.sandbox = Sandbox(now=self.turns.now, reject_if=lambda call: call.get("userId") in self.poisoned)
        self._batch_calls = 500 if is_large else random.randint(1, 3)
        self._batch_rows = 1_000 if is_large else random.randint(1, 4)
        self._connections = random.randint(1, 4)
        self._store = Store(self.turns)
        self._project = Project(folder, ENVIRONMENT)
        self.folder.mkdir()

    def __enter__(self) -> "World":
        self._store.__enter__()
        self.sandbox.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self.sandbox.__exit__()
        self._store.__exit__()

    @property
    def state(self) -> Path:
        """The state file."""
        return self.folder / "life.duckdb"

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
        with self._store.looked_at(self.state, "life") as db:
            found = db.execute(f"SELECT message_id FROM ({outbox.waiting(db)})").fetchall()
        return {message_id for (message_id,) in found}

    def told(self) -> list[str]:
        """The message ids of the history of calls."""
        with self._store.looked_at(self.state, "life") as db:
            found = db.execute(f"SELECT message_id FROM ({history.delivered(db)})").fetchall()
        return [message_id for (message_id,) in found]

    def look(self, *queries: str) -> list[list[tuple[object, ...]]]:
        """The results of queries of the state."""
        with self._store.looked_at(self.state, "life") as db:
            return [db.execute(query).fetchall() for query in queries]

    def _rehearsal(self) -> Session:
        return Session(self._project, load(self.kind, self.edit)[0], rehearsal=True, state_dir=self.folder)

    def _do(self, command: Command, fault: Fault, sandbox: Sandbox, state: Callable[[], Path]) -> Run | None:
        remains = self.folder.with_name(str(int(self.folder.name) + 1))
        fuse = Fuse(fault.steps, fault.is_full, lambda: _copy(self.folder, remains), command)
        sandbox.script(ANSWERS.get(name, Reply()) for name in fault.answers)
        self.record.counts["runs"] += 1
        result: Run | None = None
        try:
            with self._opened(fuse, fault, state()) as job, self._way(sandbox, fuse) as to:
                match command:
                    case Command.RETRY:
                        result = retry(job, to, stale=False).run
                    case Command.DISCARD:
                        discard_pending(job.state, job.clock.now())
                    case _:
                        result = run(job, to)
        except Killed:
            shutil.rmtree(self.folder)
            self.folder = remains
        except RetlError as error:
            self.trace(f"the state cannot be opened: {error.message}")
        except Exception as error:
            raise Broken(WRONG, f"a bug in {fuse.phase}: {error!r}") from error
        self._note(command, fault, fuse, result)
        return result

    @contextmanager
    def _opened(self, fuse: Fuse, fault: Fault, state: Path) -> Iterator[Job]:
        sync, model = load(self.kind, self.edit)
        with self._store.opened(state, sync.name, fuse) as opened:
            warehouse = Warehouse(self.history, self._batch_rows, fault.breaks_after, fault.is_empty)
            options = Options(limit=fault.limit, full=fault.full)
            yield Job(sync, model, opened, warehouse, options, self.turns, BurningObserver(fuse))

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
        error = None if result is None or result.error is None else result.error.message
        code = None if result is None else result.exit_code
        self.trace(f"{command}, {fault}: {fuse.blown} in {fuse.phase}, exit {code}, {error}")
        if code == 70:
            raise Broken(WRONG, f"a bug: {error}")


def _copy(folder: Path, to: Path) -> None:
    shutil.copytree(folder, to)
