"""A life: one sync, from its first run through changes, edits and faults, to a run that finds nothing to do.

All chances come of one seed, so that the same seed lives the same life.
"""

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from retl.config.project import Project, load_model, load_sync
from retl.delivery.batch import Batch
from retl.delivery.destination import Attempt, Decision, Limits
from retl.delivery.rate_limit import RateLimiter
from retl.delivery.response import RetryPolicy
from retl.delivery.segment import MAX_BATCH_BYTES, Segment, Source
from retl.job import Job, Options
from retl.observer import SilentObserver
from retl.pipeline import run
from retl.retry import retry
from retl.run import Run
from retl.sandbox.failures import Reply
from retl.sandbox.server import Sandbox
from retl.state import State, open_state
from torture.fuse import Connection, Fuse, Killed
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
from torture.turns import Turns

TRACK = """\
sql: SELECT * FROM users
primary_key: id
track:
  user_id: owner
  added: {{event: Added}}
  changed: {{event: Changed, previous: true}}
  removed: {{event: Removed}}
  properties: {{id: id, version: version{more}}}
initial: send
guards: {{removed: off, changed: off, added: off, rejected: off}}
"""

IDENTIFY = """\
sql: SELECT * FROM users
primary_key: id
identify:
  user_id: id
  traits: {{version: version{more}}}
  removed: {{traits: {{version: {{value: gone}}}}}}
guards: {{removed: off, changed: off, added: off}}
"""

AUDIENCE = """\
sql: SELECT * FROM users
primary_key: id
audience:
  user_id: id
  name: Members
  properties: {{version: version{more}}}
initial: send
guards: {{removed: off, changed: off, added: off, rejected: off}}
"""

SYNCS = {"track": TRACK, "identify": IDENTIFY, "audience": AUDIENCE}

EDITS = ("", ", note: note", ", n: {column: note, nulls: omit}")
"""Further properties that edits of the sync add and take away."""

KEY = "a write key"

ANSWERS = {
    "answer lost": Reply(lost=True),
    "connection reset": Reply(refused=True),
    "500": Reply(500),
    "503": Reply(503),
    "429 with Retry-After": Reply(429, retry_after=7),
    "429": Reply(429),
    "401": Reply(401),
    "redirect": Reply(302, location="http://127.0.0.1:9/"),
    "200 with HTML": Reply(200, body="<html>Sign in</html>", content_type="text/html"),
    "404": Reply(404),
}
"""Answers of a Segment that has a bad day."""

MOST_RUNS_TO_END = 25
"""Runs without a fault of their own after which a life has to be at its end."""


class TakingTurns(Segment):
    """Segment with small batches, whose requests are steps, before and after which other threads work."""

    def __init__(self, url: str, turns: Turns, fuse: Fuse, connections: int, batch_calls: int) -> None:
        retry_policy = RetryPolicy(jitter=0.0, retries=2)
        super().__init__(Source(url, KEY), RateLimiter(0, turns), retry_policy, connections)
        self._turns = turns
        self._fuse = fuse
        self._batch_calls = batch_calls

    @property
    def limits(self) -> Limits:
        """Few calls in a batch, so that there are many."""
        return Limits(self._batch_calls, MAX_BATCH_BYTES)

    def send(self, batch: Batch, attempt: Attempt) -> Decision:
        """Send a batch in the thread's turn."""
        self._turns.pause()
        self._fuse.burn("before a request")
        decision = super().send(batch, attempt)
        self._fuse.burn("after an answer")
        self._turns.pause()
        return decision


@dataclass(frozen=True)
class Fault:
    """The faults of one run.

    Attributes:
        steps: after which the process is killed, or the disk is full; None is never.
        is_full: whether the disk gets full.
        answers: of Segment, by their names in `ANSWERS`.
        breaks_after: batches after which the read breaks off.
        is_empty: whether the model has no rows this time.
        limit: calls that may leave.
        full: whether every row is sent again.
    """

    steps: int | None = None
    is_full: bool = False
    answers: tuple[str, ...] = ()
    breaks_after: int | None = None
    is_empty: bool = False
    limit: int | None = None
    full: bool = False


class Life:
    """One life.

    Args:
        seed: of all chances.
        folder: for its files.
        trace: gets a sentence for each thing that happens.
    """

    def __init__(self, seed: int, folder: Path, trace: Callable[[str], None] = lambda _: None) -> None:
        self.seed = seed
        self.record = Record()
        self._trace = trace
        self._random = random = Random(seed)
        self._turns = Turns(random)
        self._folder = folder / "0"
        self._kind = random.choice(["track", "track", "track", "identify", "identify", "audience"])
        is_large = random.random() < 0.04
        keys = [f"k{number}" for number in range(4_500 if is_large else random.randint(2, 12))]
        owners = [f"u{number}" for number in range(300 if is_large else 4)]
        self._batch_calls = 500 if is_large else random.randint(1, 4)
        self._batch_rows = 1_000 if is_large else random.randint(1, 4)
        self._connections = random.randint(1, 4)
        self._history = History(keys, owners)
        self._edit = ""
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
        with self._sandbox:
            for _ in range(self._random.randint(2, 8)):
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
        if random.random() < 0.15:
            self._edit = random.choice(EDITS)
            self._repeats = True  # as profiles get a new trait
            self._trace(f"the sync is edited: {self._edit or 'nothing more'}")
        if random.random() < 0.1:
            back = random.random() < 0.3
            self._went_back = self._went_back or back
            self._turns.seconds += -3_600 if back else 86_400
            self.record.faults["clock: an hour back"] += back
        if self._kind == "track" and random.random() < 0.15:
            self._poisoned = set() if self._poisoned else {random.choice(self._history.owners)}
            self._trace(f"calls of these users are refused: {self._poisoned}")
        if not self._poisoned and random.random() < 0.1:
            self._run(self._fault(), again=True)

    def _fault(self) -> Fault:
        random = self._random
        draw = random.random()
        answers: tuple[str, ...] = ()
        if random.random() < 0.5:
            names = [*ANSWERS, "taken", "taken", "taken"]
            answers = tuple(random.choice(names) for _ in range(random.randint(1, 6)))
        limit = random.randint(0, 5) if random.random() < 0.1 else None
        full = self._kind == "identify" and random.random() < 0.1
        fault = Fault(answers=answers, limit=limit, full=full)
        if draw < 0.6:
            steps = int(2 ** random.uniform(0, 6.5))
            return Fault(steps, random.random() < 0.25, answers, limit=limit, full=full)
        if draw < 0.68:
            return Fault(breaks_after=random.randint(0, 3))
        if draw < 0.73:
            return Fault(is_empty=True)
        return fault

    def _run(self, fault: Fault, again: bool = False) -> Run | None:
        """A run, or a retry of refused calls; None where it was killed."""
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
        self._note(fault, fuse, result)
        if fault.is_empty and result is not None and result.calls.enqueued:
            raise Broken(FLOOD, f"{result.calls.enqueued} calls were made of a model without rows")
        return result

    @contextmanager
    def _opened(self, fuse: Fuse, fault: Fault) -> Iterator[Job]:
        path = self._folder / "life.yml"
        path.write_text(SYNCS[self._kind].format(more=self._edit), encoding="utf-8")
        project = Project(self._folder, {"SEGMENT_WRITE_KEY": KEY, "RETL_WAREHOUSE_URL": "duckdb://"})
        sync = load_sync(path, project)
        with open_state(self._folder / "life.duckdb", sync.name) as opened:
            state = State(Connection(opened.db, fuse, self._turns), opened.path)  # type: ignore[arg-type]
            warehouse = Warehouse(self._history, fuse, self._batch_rows, fault.breaks_after, fault.is_empty)
            options = Options(limit=fault.limit, full=fault.full)
            model = load_model(sync, project)
            yield Job(sync, model, state, warehouse, options, self._turns, SilentObserver())

    def _segment(self, fuse: Fuse) -> TakingTurns:
        return TakingTurns(self._sandbox.url, self._turns, fuse, self._connections, self._batch_calls)

    def _note(self, fault: Fault, fuse: Fuse, result: Run | None) -> None:
        faults = self.record.faults
        if fuse.blown is not None:
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
        with open_state(self._folder / "life.duckdb", "life") as state:
            found = state.db.execute("SELECT message_id, body FROM state.rejected_call").fetchall()
            waiting = state.db.execute("SELECT count(*) FROM state.outbox").fetchall()
            noted = state.db.execute("SELECT coalesce(sum(repeated), 0) FROM state.receipt").fetchall()
        self._noted = int(noted[0][0])
        if waiting != [(0,)]:
            raise Broken(LOST, f"after a run with exit code 0, {waiting} calls wait")
        return {message_id: json.loads(body) for message_id, body in found}


def _copy(folder: Path, to: Path) -> None:
    shutil.copytree(folder, to)
