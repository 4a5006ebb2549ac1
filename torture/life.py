"""A life: one sync, from its first run through changes, edits and faults, to a run that finds nothing to do.

All chances come of one seed, so that the same seed lives the same life.
"""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

from torture.bad_day import ANSWERS
from torture.cloud import has_buckets
from torture.fault import Fault, aimed, draw_cloud_fault, draw_fault
from torture.older import SCHEMAS, older_state
from torture.promises import (
    FLOOD,
    LEFT,
    LOST,
    WRONG,
    Broken,
    check_members,
    check_order,
    check_profiles,
    check_ways,
)
from torture.record import Record
from torture.rows import History
from torture.syncs import EDITS, ENGINES
from torture.turns import NOON
from torture.world import Command, World

MOST_RUNS_TO_END = 25
"""Runs without a fault of their own after which a life has to be at its end."""

FIRST_WITH_REPLACED = 4
"""The first schema that has rows as they were before the changes whose calls wait."""

MOST_ANSWERS = 20
"""Answers that are lined up at a time, so that the end of a life does not have to work off many."""


class Life:
    """One life.

    Args:
        seed: of all chances.
        folder: for its files.
        trace: gets a sentence for each thing that happens.
        runs: how many runs meet faults; drawn, from 2 to 64, where none is given.
        schema: of the state that it begins with; drawn where none is given, and mostly it begins with none.
    """

    def __init__(
        self,
        seed: int,
        folder: Path,
        trace: Callable[[str], None] = lambda _: None,
        runs: int | None = None,
        schema: int | None = None,
    ) -> None:
        self.record = Record()
        self._trace = trace
        self._random = random = Random(seed)
        self._kind = random.choice(["track", "track", "track", "identify", "identify", "audience"])
        is_large = random.random() < 0.03
        drawn = random.choice(SCHEMAS) if random.random() < 0.2 else None
        if schema is None and self._kind == "track" and not is_large:
            schema = drawn
        keys = [f"k{number}" for number in range(4_500 if is_large else random.randint(2, 24))]
        owners = [f"u{number}" for number in range(300 if is_large else 4)]
        self._runs = runs or (random.randint(3, 8) if is_large else int(2 ** random.uniform(1.5, 6)))
        # What makes the reader of the calls less strict happens in some lives only.
        self._may_go_back, self._may_be_edited = random.random() < 0.3, random.random() < 0.6
        self._may_be_full, self._may_discard = random.random() < 0.3, random.random() < 0.4
        self._may_refuse = random.random() < 0.3
        has_shop = random.random() < 0.35
        self._may_switch = random.random() < 0.5
        in_cloud = random.random() < 0.25 and schema is None and has_buckets()
        self._before: list[dict[str, Any]] = []
        self._forgotten: set[str] = set()
        self._fulls = 0
        self._repeats = self._was_retried = self._went_back = self._has_rehearsed = False
        history = History(keys, owners)
        if schema is not None:
            older = older_state(schema)
            self._kind, history, self._before = "track", older.history, older.accepted
            # Before, a state did not have the rows as they were, and a discard takes them for changed.
            self._may_discard = self._may_discard and schema >= FIRST_WITH_REPLACED
        self._world = World(
            random, folder, self._kind, history, is_large, has_shop, in_cloud, self.record, trace
        )
        if in_cloud:
            trace("the state is in a bucket")
            self.record.counts["in buckets"] += 1
        if has_shop:
            self._world.engine = random.choice(ENGINES)
            trace(f"the engine is {self._world.engine}")
            self.record.counts["engines"] += 1
        if schema is not None:
            trace(f"the state is one of schema {schema}")
            self._world.state.write_bytes(older.content)
            self._world.turns.seconds = (older.left_at - NOON).total_seconds() + 60
            self.record.counts["older"] += 1

    def live(self) -> None:
        """Live it.

        Raises:
            Broken: a promise is broken.
        """
        world = self._world
        with world:
            for _ in range(self._runs):
                self._something_happens()
                self._do(Command.RUN)
            self._end()
        counts = world.sandbox.summary()
        given = world.answers[: counts["requests"]]
        self.record.faults.update(f"answer: {name}" for name in given if name in ANSWERS)
        self.record.counts.update(lives=1, requests=counts["requests"])

    def _something_happens(self) -> None:
        random, world = self._random, self._world
        history = world.history
        if not history.current or random.random() < 0.85:
            history.change(random, max(3, len(history.keys) // random.choice([1, 3, 30])))
            self._trace(f"rows change; there are {len(history.current)}")
        if self._may_be_edited and random.random() < 0.2:
            world.edit = random.choice(EDITS)
            self._repeats = True  # as profiles get a new trait
            self.record.counts["edits"] += 1
            self._trace(f"the sync is edited: {world.edit}")
        if world.shop is not None and self._may_switch and random.random() < 0.2:
            world.engine = random.choice(ENGINES)
            self.record.counts["switches"] += 1
            self._trace(f"the engine becomes {world.engine}")
        if random.random() < 0.1:
            back = self._may_go_back and random.random() < 0.5
            self._went_back = self._went_back or back
            world.turns.seconds += -3_600 if back else 86_400
            self.record.faults["clock: an hour back"] += back
        if self._kind == "track" and self._may_refuse and random.random() < 0.2:
            world.poisoned = set() if world.poisoned else {random.choice(history.owners)}
            self._trace(f"calls of these users are refused: {world.poisoned}")
        if self._kind == "track" and self._may_refuse and not world.poisoned and random.random() < 0.2:
            self._do(Command.RETRY)
        if self._may_discard and random.random() < 0.2:
            self._discard()
        if random.random() < 0.025:
            self._rehearse()

    def _fault(self, command: Command) -> Fault:
        world = self._world
        fault = draw_fault(self._random, world.steps, self._may_be_full, world.shop is not None)
        places = ["in the warehouse"] * (world.shop is not None) + ["in the bucket"] * (
            world.cloud is not None
        )
        if places and self._random.random() < 0.3:
            fault = aimed(self._random, fault, self._random.choice(places))
        if world.cloud is not None:
            in_cloud = draw_cloud_fault(self._random, world.steps, command is Command.RUN)
            fault = replace(fault, in_cloud=in_cloud)
        return replace(fault, answers=fault.answers[: max(0, MOST_ANSWERS - world.lined_up)])

    def _do(self, command: Command) -> None:
        """Do a command under faults."""
        fault = self._fault(command)
        self._was_retried = self._was_retried or command is Command.RETRY
        self._repeats = self._repeats or fault.full
        self._fulls += fault.full
        result = self._world.do(command, fault)
        # Where the run slept, another one has loaded the rows into the shop again.
        is_empty = fault.is_empty and (self._world.shop is None or fault.in_cloud.sleeps_at is None)
        is_flood = result is not None and is_empty and bool(result.calls.enqueued)
        if command is Command.RUN and is_flood:
            raise Broken(FLOOD, "calls were made of a model without rows")

    def _discard(self) -> None:
        """Discard the calls that wait; of one that went out without an answer nobody knows any more."""
        world = self._world
        if not world.has_state:
            return
        before = world.waiting()
        world.do(Command.DISCARD, replace(self._fault(Command.DISCARD), answers=()))
        dropped = before - world.waiting() - set(self._refused())  # those of a killed retry are kept again
        arrived = {call["messageId"] for call in self._accepted()}
        self._forgotten |= dropped & arrived
        self._trace(f"{len(dropped)} calls are discarded, {len(dropped & arrived)} of which had arrived")

    def _rehearse(self) -> None:
        """Rehearse; what is real stays as it is, and the rehearsal goes on from there."""
        world = self._world
        if not world.has_state:
            return
        self._has_rehearsed = True
        before = world.kept()
        fault = replace(
            self._fault(Command.REHEARSAL), limit=None, full=False, is_empty=False, breaks_after=None
        )
        result, rehearsed = world.rehearse(fault)
        if world.kept() != before:
            raise Broken(WRONG, "a rehearsal changed the state or sent calls")
        if result is not None and result.exit_code == 0 and self._kind == "track":
            self._check(rehearsed)

    def _end(self) -> None:
        """Runs without faults deliver all, and the last of them finds nothing to do."""
        world = self._world
        world.poisoned = set()
        self._end_with_an_engine()
        for _ in range(MOST_RUNS_TO_END):
            result = world.do(Command.RUN, Fault())
            if result is not None and result.exit_code == 0:
                break
        else:
            raise Broken(LOST, f"{MOST_RUNS_TO_END} runs did not deliver all")
        for _ in range(MOST_RUNS_TO_END):  # answers that were lined up may stop a few, or refuse a call again
            if not self._refused():
                break
            self._was_retried = True
            world.do(Command.RETRY, Fault())
        self._count()
        self._check([])
        idle = world.do(Command.RUN, Fault())
        assert idle is not None
        if idle.exit_code != 0 or idle.calls.enqueued or idle.calls.delivered:
            raise Broken(FLOOD, f"a run without changes made calls: {idle.calls}")
        if world.shop is not None:
            self._check_tables()

    def _end_with_an_engine(self) -> None:
        """Choose the last engine, with the schema in which the snapshot is: another one would be refused."""
        world = self._world
        if world.shop is None or not world.has_state:
            return
        [[(schema,)]] = world.look("SELECT snapshot_table ->> 'schema' FROM state.metadata")
        engine, other = self._random.choice(ENGINES)
        world.engine = (engine, str(schema or other))
        self._trace(f"in the end the engine is {world.engine}")

    def _check_tables(self) -> None:
        """See that no table is left in the warehouse that no state needs."""
        world = self._world
        if self._has_rehearsed:
            world.rehearse(Fault())  # the tables of a rehearsal that was killed go with the next one
        found, needed = world.tables()
        left = found - needed
        if world.cloud is not None and world.engine[0] == "warehouse":
            left = set(sorted(left)[1:])  # the one of before stays until the next run
        if left or needed - found:
            raise Broken(LEFT, f"in the warehouse are {sorted(found)}, and the states need {sorted(needed)}")

    def _accepted(self) -> list[dict[str, Any]]:
        return [*self._before, *self._world.accepted()]

    def _count(self) -> None:
        """Count the calls that arrived, and those that came again, and see that none is left."""
        sandbox, accepted = self._world.sandbox, self._accepted()
        [(waiting,)], [(noted,)] = self._world.look(
            "SELECT count(*) FROM state.outbox", "SELECT coalesce(sum(repeated), 0) FROM state.receipt"
        )
        if waiting:
            raise Broken(LOST, f"after a run with exit code 0, {waiting} calls wait")
        if sandbox.discarded:
            raise Broken(LOST, f"Segment threw calls away: {sandbox.discarded[:3]}")
        calls = len({call["messageId"] for call in accepted})
        repeats = len(sandbox.duplicates) + len(accepted) - calls
        self.record.counts.update(calls=calls, repeats=repeats, unnoted=max(0, repeats - int(str(noted))))

    def _check(self, more: list[dict[str, Any]]) -> None:
        """See that all calls that arrived, with some more, tell what became of the rows."""
        # Segment knows a message id again for 24 hours; after that it is up to others.
        arrived = [call for call in [*self._accepted(), *more] if call["messageId"] not in self._forgotten]
        accepted = list({call["messageId"]: call for call in reversed(arrived)}.values())[::-1]
        known = {call["messageId"] for call in accepted}
        kept = self._refused()
        refused = [call for message_id, call in kept.items() if message_id not in known]
        if not more:
            self._check_history(known - set(kept))
        history = self._world.history
        match self._kind:
            case "track":
                check_ways(history, accepted, refused, self._fulls)
            case "identify":
                check_profiles(history, accepted, self._ever_refused(), self._repeats)
            case "audience":
                waiting = {call["userId"] for call in kept.values()}
                check_members(history, accepted, self._ever_refused(), waiting, self._fulls > 0)
        if not self._went_back and not self._was_retried:
            check_order(accepted)

    def _check_history(self, delivered: set[str]) -> None:
        """The history tells each call that was delivered, once, and no call that never arrived."""
        told = self._world.told()
        never = set(told) - {call["messageId"] for call in self._accepted()}
        lacking = set() if self._before else delivered - set(told)
        if len(told) > len(set(told)) or never or lacking:
            raise Broken(
                WRONG, f"of {len(told)} calls in the history {len(never)} never arrived; {len(lacking)} lack"
            )

    def _refused(self) -> dict[str, dict[str, Any]]:
        """The calls that are kept as refused, by message id."""
        [found] = self._world.look("SELECT message_id, body FROM state.rejected_call")
        return {str(message_id): json.loads(str(body)) for message_id, body in found}

    def _ever_refused(self) -> set[str]:
        """The users of whom a call was kept as refused, and not sent again: another may have overtaken it."""
        [found] = self._world.look(
            "SELECT user_id FROM state.rejected_call UNION "
            "SELECT user_id FROM state.ended_rejection WHERE message_id IS NOT NULL AND how <> 'sent'"
        )
        return {str(user) for (user,) in found}
