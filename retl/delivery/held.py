"""Held calls: calls that failed alone, until it is known whether they or their destination are the cause."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime

import duckdb

from retl.delivery import outbox, receipts, rejected, rendered
from retl.delivery.batch import Batch
from retl.delivery.destination import Destination
from retl.errors import RetlError


@dataclass(frozen=True)
class Held:
    """A call that failed alone.

    Attributes:
        call: as a batch.
        answer: of the destination, in a few words.
        error: to report if no other call is accepted; None where the destination refused this very call.
        may_pass: whether the failure may pass by itself.
        unsure: whether it went out before, and no answer came.
    """

    call: Batch
    answer: str
    error: RetlError | None = None
    may_pass: bool = False
    unsure: bool = False


@dataclass
class HeldCalls:
    """The held calls of a round; for one thread at a time.

    Attributes:
        calls: the calls. They are rejected once the destination has accepted another call: only then is it
            certain that it takes calls at all.
        failed_alone: places of the calls that failed alone since a call was accepted, refused or not.
    """

    calls: list[Held] = field(default_factory=list)
    failed_alone: set[int] = field(default_factory=set)

    def add(self, held: Held) -> int:
        """Hold a call; gives how many of its lane are held."""
        self.calls.append(held)
        self.failed_alone.add(held.call.first_seq)
        return self.of_lane(held.call.lane)

    def of_lane(self, lane: int) -> int:
        """How many calls of a lane are held."""
        return sum(held.call.lane == lane for held in self.calls)

    @property
    def are_refused(self) -> bool:
        """Whether the destination refused each of them itself."""
        return all(held.error is None for held in self.calls)

    @property
    def may_pass(self) -> bool:
        """Whether the failure of one of them may pass by itself."""
        return any(held.may_pass for held in self.calls)

    def error(self, destination: Destination) -> RetlError:
        """The error where calls are held and none is accepted: it may be the destination."""
        last = self.calls[-1]
        return last.error or destination.error(
            f"{len(self.failed_alone)} calls were refused one by one and none was accepted since "
            f"({last.answer})",
            "check the endpoint; the next run tries them again beside newer calls; retl discard SYNC "
            "--pending takes them back",
        )


def reject(db: duckdb.DuckDBPyConnection, calls: Sequence[Held], run_id: str, now: datetime) -> None:
    """Write that calls are rejected; to be run in a transaction."""
    for held in calls:
        call = outbox.refuse(db, held.call)
        rejected.keep_call(db, call, held.answer, run_id, now, held.unsure)
    receipts.forget_refused(db, [held.call.first_seq for held in calls])


def reject_passed(db: duckdb.DuckDBPyConnection, run_id: str, now: datetime) -> int:
    """Reject calls that were held when a run was killed, where a later one of their user may have arrived.

    To send one of them now would undo that one. To be run in a transaction; gives how many they are.
    """
    refused = receipts.refused_places(db)
    if not refused:
        return 0
    passed = rendered.take_passed(db, list(refused))
    for place, call in passed.items():
        answer = f"answered {refused[place]}" if refused[place] else "no answer"
        rejected.keep_call(db, call, answer, run_id, now)
    receipts.forget_refused(db, list(refused))
    return len(passed)
