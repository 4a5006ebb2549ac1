"""Round: one pass over the outbox, shared by the threads that work it off."""

import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import duckdb

from retl.clock import Clock
from retl.delivery import outbox, rejected
from retl.delivery.batch import Batch
from retl.delivery.destination import Destination
from retl.errors import RetlError
from retl.observer import Observer

GRACE_SECONDS = 5.0
"""How long a delivery waits for the answers of batches in flight, after a signal or at its deadline."""

TIME_IS_UP = "the time for this run is up"
"""The message of a `DeadlineError`."""


@dataclass(frozen=True)
class Delivery:
    """The result of a delivery.

    Attributes:
        delivered: calls that the destination accepted.
        rejected: calls that it refused for good.
        unsure: of the delivered ones, calls that had gone out before without an answer, also in an
            earlier run, so that the destination may have got them twice.
        batches: accepted.
        bytes: of the accepted calls.
        retries: attempts that were not the first.
        error: what ended it before the outbox was empty; None where nothing did.
    """

    delivered: int = 0
    rejected: int = 0
    unsure: int = 0
    batches: int = 0
    bytes: int = 0
    retries: int = 0
    error: RetlError | None = None


@dataclass(frozen=True)
class Terms:
    """The limits of a delivery.

    Attributes:
        run_id: the run, for the receipts.
        deadline: on the monotonic clock; no wait goes beyond it.
        limit: how many calls may leave; None is all.
        grace: seconds that answers of batches in flight are waited for, after the deadline or a signal.
    """

    run_id: str
    deadline: float
    limit: int | None = None
    grace: float = GRACE_SECONDS

    def after(self, delivery: Delivery) -> "Terms":
        """The terms for the rest of a run, in which so many calls left already."""
        if self.limit is None:
            return self
        return replace(self, limit=max(0, self.limit - delivery.delivered - delivery.rejected))


class Closed(Exception):
    """The round went on without this thread, whose answer came too late."""


@dataclass
class Round:
    """One pass over the outbox: what its threads share.

    Attributes:
        lanes: still to be taken up.
        left: how many calls may still leave; None is all.
        stop: set when no further batch may go out.
        closed: whether the outbox is no longer to be touched.
        refused_alone: calls that were refused each alone, with the answer. They are rejected once the
            destination has accepted another call: only then is it certain that it takes calls at all.
        paused_until: on the monotonic clock; before that, the destination wants no calls.
        lock: for all that the threads write, here and in the outbox.
    """

    destination: Destination
    terms: Terms
    clock: Clock
    observer: Observer
    lanes: deque[outbox.Lane]
    left: int | None
    stop: threading.Event = field(default_factory=threading.Event)
    closed: bool = False
    refused_alone: list[tuple[Batch, str]] = field(default_factory=list)
    paused_until: float = 0.0
    tally: Delivery = field(default_factory=Delivery)
    error: RetlError | None = None
    bug: BaseException | None = None
    lock: threading.RLock = field(default_factory=threading.RLock)

    @contextmanager
    def noting(self) -> Iterator[Delivery]:
        """Alone with the outbox and the tally, which it gives.

        Raises:
            Closed: the outbox is no longer to be touched.
        """
        with self.lock:
            if self.closed:
                raise Closed
            yield self.tally

    def take_lane(self) -> outbox.Lane | None:
        """The next lane; None where there is none, or the round is over."""
        with self.lock:
            return self.lanes.popleft() if self.lanes and not self.stop.is_set() else None

    def allow(self, calls: int) -> int:
        """Of so many calls, how many may still leave."""
        with self.lock:
            if self.left is None:
                return calls
            allowed = min(calls, self.left)
            self.left -= allowed
            return allowed

    def end(self, error: RetlError) -> None:
        """End the round; the first error is the one that counts."""
        with self.lock:
            self.error = self.error or error
            self.stop.set()

    def reject_refused(self, db: duckdb.DuckDBPyConnection) -> int:
        """Reject the calls that were refused alone; returns how many. To be run in a transaction."""
        for batch, reason in self.refused_alone:
            call = outbox.refuse(db, batch)
            rejected.keep_call(db, call, reason, self.terms.run_id, self.clock.now())
        return len(self.refused_alone)

    def all_refused(self) -> RetlError:
        """The error where calls are refused and none is accepted: the calls are not to blame."""
        reason = self.refused_alone[-1][1]
        return self.destination.error(
            f"{len(self.refused_alone)} calls were refused one by one and none was accepted since ({reason})",
            "check the endpoint; the calls stay pending, and go out with the next run",
        )

    def pause(self, seconds: float) -> None:
        """Keep every lane from sending for a while."""
        with self.lock:
            self.paused_until = max(self.paused_until, self.clock.monotonic() + seconds)

    @property
    def pause_left(self) -> float:
        """Seconds until calls may go out again."""
        return max(0.0, self.paused_until - self.clock.monotonic())

    def wait(self, seconds: float, error: RetlError) -> bool:
        """Wait; False where the round is over, which it is at once, with that error, if time is too short."""
        if self.clock.monotonic() + seconds > self.terms.deadline:
            self.end(error)
        return not self.clock.wait(seconds, self.stop)
