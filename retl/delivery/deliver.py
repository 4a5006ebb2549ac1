"""Delivery: the outbox, lane by lane, to its destination.

Each lane is delivered by one thread, in order, batch after batch. An attempt is noted before it is made and
its answer after, so that a process that dies in between leaves a trace. The destination decides what follows
from an answer; here it is done.
"""

import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

import duckdb
import numpy as np

from retl.clock import Clock
from retl.delivery import outbox, rejected
from retl.delivery.batch import Batch, cut
from retl.delivery.destination import Action, Attempt, Decision, Destination
from retl.errors import DeadlineError, Interrupted, RetlError
from retl.observer import Observer
from retl.state import State, storage_error, transaction

MOST_REFUSED = 20
"""Calls refused one by one, with none accepted in between, from which on the calls are not to blame."""

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


def deliver(
    state: State, destination: Destination, terms: Terms, clock: Clock, observer: Observer
) -> Delivery:
    """Deliver what is in the outbox.

    Never raises for a failure of the destination or the network, nor for a signal: it is the result's
    `error`, and all calls that were not accepted stay in the outbox.
    """
    if outbox.is_empty(state.db):
        return Delivery()
    with state.transaction():
        outbox.settle(state.db)
        outbox.start_marks(state.db)
    lanes = outbox.lanes(state.db)
    if not lanes:
        return Delivery()
    observer.delivering(sum(lane.calls for lane in lanes))
    round_ = _Round(destination, terms, clock, observer, deque(lanes), terms.limit)
    workers: list[_Worker] = []
    try:
        for _ in range(min(destination.connections, len(lanes))):
            workers.append(_Worker(round_, state.db.cursor()))
            threading.Thread(target=workers[-1].work, daemon=True).start()
        for worker in workers:
            if not worker.done.wait(max(0.0, terms.deadline - clock.monotonic())):
                round_.end(DeadlineError(TIME_IS_UP, hint="run it again; nothing is lost"))
    except Interrupted as interrupted:
        round_.error = interrupted
    finally:
        round_.stop.set()
        give_up_at = clock.monotonic() + terms.grace
        for worker in workers:
            worker.done.wait(max(0.0, give_up_at - clock.monotonic()))
        with round_.lock:
            round_.closed = True
    if round_.bug is not None:
        full = storage_error(round_.bug)
        if full is None:
            raise round_.bug
        round_.end(full)
    if round_.refused_alone and round_.error is None:
        if outbox.accepts(state.db):
            with state.transaction():
                refused = round_.reject_refused(state.db)
            round_.tally = replace(round_.tally, rejected=round_.tally.rejected + refused)
        else:
            round_.error = round_.all_refused()
    try:
        with state.transaction():
            outbox.settle(state.db)
    except duckdb.Error as error:  # the next delivery settles
        round_.error = round_.error or storage_error(error)
        if round_.error is None:
            raise
    return replace(round_.tally, error=round_.error)


class _Closed(Exception):
    """The round went on without this thread, whose answer came too late."""


@dataclass
class _Round:
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
            _Closed: the outbox is no longer to be touched.
        """
        with self.lock:
            if self.closed:
                raise _Closed
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


class _Worker:
    """One thread's part of a round: it works off lane after lane.

    Attributes:
        round: what is shared.
        db: a connection of its own.
        done: set at the end of its work. To join a thread would not do: up to Python 3.12 a join that a
            signal interrupts takes the thread for ended.
        attempted: the place in the lane up to which calls went out without a known answer.
    """

    def __init__(self, round_: _Round, db: duckdb.DuckDBPyConnection) -> None:
        self.round = round_
        self.db = db
        self.done = threading.Event()
        self.attempted = 0

    def work(self) -> None:
        """Take lane after lane, until none is left or the round is over."""
        try:
            while (lane := self.round.take_lane()) is not None:
                self.attempted = lane.attempted
                for batch in self._batches(lane):
                    if not self._deliver(batch):
                        break
        except _Closed:
            pass
        except BaseException as error:
            self.round.bug = self.round.bug or error
            self.round.stop.set()
        finally:
            self.done.set()

    def _batches(self, lane: outbox.Lane) -> Iterator[Batch]:
        limits = self.round.destination.limits
        for page in outbox.pages(self.db, lane.number):
            for start, stop in cut(page.ends, limits.bytes, limits.calls):
                calls = self.round.allow(stop - start)
                if calls:
                    yield page.part(start, start + calls)
                if calls < stop - start:
                    return

    def _deliver(self, batch: Batch) -> bool:
        """Deliver a batch, however often it takes; False where the round is over."""
        round_ = self.round
        attempts = retries = 0
        while self._wait_for_turn(batch):
            self._note_attempted(batch, max(self.attempted, batch.last_seq))
            decision = round_.destination.send(batch, Attempt(attempts, retries, round_.clock.now()))
            attempts += 1
            if decision.action is Action.DELIVERED:
                self._note_delivered(batch, attempts, decision.status)
                return True
            if decision.unsure:
                self.attempted = max(self.attempted, batch.last_seq)
            else:
                self._note_attempted(batch, self.attempted)
            if decision.action is Action.SPLIT:
                return self._split(batch, decision)
            if decision.action is not Action.RETRY:
                assert decision.error is not None, "a decision to stop has an error"
                round_.end(decision.error)
                return False
            retries += not decision.requested
            if not self._wait_for_retry(decision):
                return False
        return False

    def _wait_for_turn(self, batch: Batch) -> bool:
        """Wait until no pause holds and the rate limit lets the calls go; False where the round is over.

        Time is reserved only when the pause is over: else all lanes would send together at its end.
        """
        round_, rate_limiter = self.round, self.round.destination.rate_limiter
        late = DeadlineError(TIME_IS_UP, hint="run it again; nothing is lost")
        while round_.wait(round_.pause_left, late) and round_.wait(rate_limiter.reserve(batch.calls), late):
            if round_.pause_left == 0:
                return True
        return False

    def _wait_for_retry(self, decision: Decision) -> bool:
        """Wait before a retry, with all lanes where Segment asked for it; False where the round is over."""
        with self.round.noting() as tally:
            self.round.tally = replace(tally, retries=tally.retries + 1)
        self.round.observer.waiting(decision.reason, decision.wait)
        if decision.requested:
            self.round.pause(decision.wait)
        destination = self.round.destination
        late = destination.error(
            f"{destination.name} does not take the calls ({decision.reason}), "
            "and the time for this run is up",
            "run it again; nothing is lost",
        )
        return self.round.wait(decision.wait, late)

    def _split(self, batch: Batch, decision: Decision) -> bool:
        """Deliver a refused batch in halves; a call that is refused alone is kept aside."""
        if batch.calls > 1:
            return all(self._deliver(half) for half in batch.halves())
        with self.round.noting():
            self.round.refused_alone.append((batch, decision.reason))
            if len(self.round.refused_alone) < MOST_REFUSED:
                return True
        self.round.end(self.round.all_refused())
        return False

    def _note_attempted(self, batch: Batch, seq: int) -> None:
        with self.round.noting():
            outbox.note_attempted(self.db, batch.lane, seq)

    def _note_delivered(self, batch: Batch, attempts: int, status: int) -> None:
        with self.round.noting() as tally:
            now = self.round.clock.now().replace(tzinfo=None)
            with transaction(self.db):
                refused = self.round.reject_refused(self.db)
                outbox.note_delivered(self.db, batch, self.round.terms.run_id, attempts, status, now)
            self.round.refused_alone.clear()
            self.round.tally = replace(
                tally,
                rejected=tally.rejected + refused,
                delivered=tally.delivered + batch.calls,
                unsure=tally.unsure + int(np.searchsorted(batch.seqs, self.attempted, side="right")),
                batches=tally.batches + 1,
                bytes=tally.bytes + len(batch.text),
            )
        self.round.observer.delivered(batch.calls)
