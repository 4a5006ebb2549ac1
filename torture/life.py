"""A life: one sync, from its first run through changes, edits and faults, to a run that finds nothing to do.

All chances come of one seed, so that the same seed lives the same life.
"""

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

from retl.config.project import Project, load_model, load_sync
from retl.config.sync import Sync
from retl.errors import RetlError
from retl.job import Job, Options
from retl.model import Model
from retl.pipeline import run
from retl.retry import retry
from retl.run import Run
from retl.sandbox.failures import Reply
from retl.sandbox.server import Sandbox
from torture.bad_day import ANSWERS, KEY, TakingTurns
from torture.fault import Fault, draw_fault
from torture.fuse import BurningObserver, Fuse, Killed
from torture.promises import (
    FLOOD,
    LOST,
    WRONG,
    Broken,
    check_members,
    check_order,
    check_profiles,
    check_ways,
)
from torture.record import Record
from torture.rows import History, Warehouse
from torture.store import Store
from torture.syncs import EDITS, SYNCS
from torture.turns import Turns

MOST_RUNS_TO_END = 25
"""Runs without a fault of their own after which a life has to be at its end."""

STEPS_AT_FIRST = 60
"""Steps of a run, as long as none has told how many there are."""

MOST_ANSWERS = 20
"""Answers that are lined up at a time, so that the end of a life does not have to work off many."""


class Life:
    """One life.

    Args:
        seed: of all chances.
        folder: for its files.
        trace: gets a sentence for each thing that happens.
        runs: how many runs meet faults; drawn, from 2 to 64, where none is given.
    """

    def __init__(
        self,
        seed: int,
        folder: Path,
        trace: Callable[[str], None] = lambda _: None,
        runs: int | None = None,
    ) -> None:
        self.seed = seed
        self.record = Record()
        self._trace = trace
        self._random = random = Random(seed)
        self._turns = Turns(random)
        self._project = Project(folder, {"SEGMENT_WRITE_KEY": KEY, "RETL_WAREHOUSE_URL": "duckdb://"})
        self._folder = folder / "0"
        self._kind = random.choice(["track", "track", "track", "identify", "identify", "audience"])
        is_large = random.random() < 0.03
        keys = [f"k{number}" for number in range(4_500 if is_large else random.randint(2, 24))]
        owners = [f"u{number}" for number in range(300 if is_large else 4)]
        self._runs = runs or (random.randint(3, 8) if is_large else int(2 ** random.uniform(1.5, 6)))
        self._batch_calls = 500 if is_large else random.randint(1, 3)
        self._batch_rows = 1_000 if is_large else random.randint(1, 4)
        self._connections = random.randint(1, 4)
        self._history = History(keys, owners)
        self._store = Store(self._turns)
        # What makes the reader of the calls less strict happens in some lives only.
        self._may_go_back, self._may_be_edited = random.random() < 0.3, random.random() < 0.6
        self._may_refuse = self._kind == "track" and random.random() < 0.3
        self._edit = ""
        self._files: dict[str, tuple[Sync, Model]] = {}
        self._steps = STEPS_AT_FIRST
        self._answers: list[str] = []
        self._noted = 0
        self._poisoned: set[str] = set()
        self._repeats = self._was_retried = self._went_back = False
        self._folder.mkdir()
        self._sandbox = Sandbox(
            now=self._turns.now, reject_if=lambda call: call.get("userId") in self._poisoned
        )

    def live(self) -> None:
        """Live it.

        Raises:
            Broken: a promise is broken.
        """
        with self._store, self._sandbox:
            for _ in range(self._runs):
                self._something_happens()
                self._run(self._fault())
            self._end()
        counts = self._sandbox.summary()
        given = self._answers[: counts["requests"]]
        self.record.faults.update(f"answer: {name}" for name in given if name in ANSWERS)
        self.record.counts.update(lives=1, requests=counts["requests"])

    def _something_happens(self) -> None:
        random = self._random
        if not self._history.current or random.random() < 0.85:
            self._history.change(random, max(3, len(self._history.keys) // random.choice([1, 3, 30])))
            self._trace(f"rows change; there are {len(self._history.current)}")
        if self._may_be_edited and random.random() < 0.2:
            self._edit = random.choice(EDITS)
            self._repeats = True  # as profiles get a new trait
            self._trace(f"the sync is edited: {self._edit or 'nothing more'}")
        if random.random() < 0.1:
            back = self._may_go_back and random.random() < 0.5
            self._went_back = self._went_back or back
            self._turns.seconds += -3_600 if back else 86_400
            self.record.faults["clock: an hour back"] += back
        if self._may_refuse and random.random() < 0.2:
            self._poisoned = set() if self._poisoned else {random.choice(self._history.owners)}
            self._trace(f"calls of these users are refused: {self._poisoned}")
        if self._may_refuse and not self._poisoned and random.random() < 0.2:
            self._run(self._fault(), again=True)

    def _fault(self) -> Fault:
        fault = draw_fault(self._random, self._steps, may_be_full=self._kind == "identify")
        lined_up = len(self._answers) - self._sandbox.summary()["requests"]
        return replace(fault, answers=fault.answers[: max(0, MOST_ANSWERS - lined_up)])

    def _run(self, fault: Fault, again: bool = False) -> Run | None:
        """A run, or a retry of refused calls; None where it was killed, or could not begin."""
        self._was_retried = self._was_retried or again
        remains = self._folder.with_name(str(int(self._folder.name) + 1))
        fuse = Fuse(fault.steps, fault.is_full, lambda: _copy(self._folder, remains))
        self._repeats = self._repeats or fault.full
        self._answers += fault.answers
        self._sandbox.script(ANSWERS.get(name, Reply()) for name in fault.answers)
        self.record.counts["runs"] += 1
        result: Run | None = None
        try:
            with self._opened(fuse, fault) as job, self._segment(fuse) as to:
                result = retry(job, to, stale=False).run if again else run(job, to)
        except Killed:
            shutil.rmtree(self._folder)
            self._folder = remains
        except RetlError as error:
            self._trace(f"the state cannot be opened: {error}")
        self._note(fault, fuse, result)
        if fault.is_empty and result is not None and result.calls.enqueued and not again:
            raise Broken(FLOOD, f"{result.calls.enqueued} calls were made of a model without rows")
        return result

    @contextmanager
    def _opened(self, fuse: Fuse, fault: Fault) -> Iterator[Job]:
        sync, model = self._load()
        with self._store.opened(self._state, sync.name, fuse) as state:
            warehouse = Warehouse(self._history, self._batch_rows, fault.breaks_after, fault.is_empty)
            options = Options(limit=fault.limit, full=fault.full)
            yield Job(sync, model, state, warehouse, options, self._turns, BurningObserver(fuse))

    def _load(self) -> tuple[Sync, Model]:
        """The sync as it is written now, and its model."""
        if self._edit not in self._files:
            path = self._project.root / "life.yml"
            path.write_text(SYNCS[self._kind].format(more=self._edit), encoding="utf-8")
            sync = load_sync(path, self._project)
            self._files[self._edit] = sync, load_model(sync, self._project)
        return self._files[self._edit]

    @property
    def _state(self) -> Path:
        return self._folder / "life.duckdb"

    def _segment(self, fuse: Fuse) -> TakingTurns:
        return TakingTurns(self._sandbox.url, self._turns, fuse, self._connections, self._batch_calls)

    def _note(self, fault: Fault, fuse: Fuse, result: Run | None) -> None:
        faults = self.record.faults
        if fuse.blown is None:
            self._steps = max(10, (self._steps + fuse.burnt) // 2)
        else:
            faults[f"disk full: {fuse.blown}" if fault.is_full else f"killed: {fuse.blown}"] += 1
        faults["read: the connection breaks"] += fault.breaks_after is not None
        faults["read: no rows"] += fault.is_empty
        error = None if result is None or result.error is None else result.error.message
        code = None if result is None else result.exit_code
        self._trace(f"run {fault}: blown {fuse.blown}, exit {code}, {error}")
        if code == 70:
            raise Broken(WRONG, f"a bug: {error}")

    def _end(self) -> None:
        """Runs without faults deliver all, and the last of them finds nothing to do."""
        self._poisoned = set()
        for _ in range(MOST_RUNS_TO_END):
            result = self._run(Fault())
            if result is not None and result.exit_code == 0:
                break
        else:
            raise Broken(LOST, f"{MOST_RUNS_TO_END} runs did not deliver all")
        for _ in range(MOST_RUNS_TO_END):  # answers that were lined up may stop a few
            again = self._run(Fault(), again=True) if self._refused() else None
            if again is None or again.error is None:
                break
        self._check()
        idle = self._run(Fault())
        assert idle is not None
        if idle.exit_code != 0 or idle.calls.enqueued or idle.calls.delivered:
            raise Broken(FLOOD, f"a run without changes made calls: {idle.calls}")

    def _check(self) -> None:
        # Segment knows a message id again for 24 hours; after that it is up to others.
        accepted = list({call["messageId"]: call for call in reversed(self._sandbox.accepted)}.values())[::-1]
        if self._sandbox.discarded:
            raise Broken(LOST, f"Segment threw calls away: {self._sandbox.discarded[:3]}")
        refused = self._refused()
        repeats = len(self._sandbox.duplicates) + len(self._sandbox.accepted) - len(accepted)
        self.record.counts.update(calls=len(accepted), repeats=repeats)
        self.record.counts["unnoted"] += max(0, repeats - self._noted)
        arrived = {call["messageId"] for call in accepted}
        refused = {one: call for one, call in refused.items() if one not in arrived}
        match self._kind:
            case "track":
                check_ways(self._history, accepted, list(refused.values()))
            case "identify":
                check_profiles(self._history, accepted, self._repeats)
            case "audience":
                check_members(self._history, accepted, {call["userId"] for call in refused.values()})
        if not self._went_back and not self._was_retried:
            check_order(accepted)

    def _refused(self) -> dict[str, dict[str, Any]]:
        """The calls that are kept as refused, by message id; none may wait any more."""
        with self._store.looked_at(self._state, "life") as db:
            found = db.execute("SELECT message_id, body FROM state.rejected_call").fetchall()
            waiting = db.execute("SELECT count(*) FROM state.outbox").fetchall()
            noted = db.execute("SELECT coalesce(sum(repeated), 0) FROM state.receipt").fetchall()
        self._noted = int(noted[0][0])
        if waiting != [(0,)]:
            raise Broken(LOST, f"after a run with exit code 0, {waiting} calls wait")
        return {message_id: json.loads(body) for message_id, body in found}


def _copy(folder: Path, to: Path) -> None:
    shutil.copytree(folder, to)
