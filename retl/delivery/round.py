"""Round: one pass over the outbox, shared by the threads that work it off."""

import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime

import duckdb

from retl.clock import Clock
from retl.delivery import held, outbox
from retl.delivery.batch import Batch
from retl.delivery.destination import Action, Decision, Destination
from retl.delivery.held import Held, HeldCalls
from retl.delivery.ledger import Ledger
from retl.errors import DeadlineError, RetlError
from retl.observer import Observer

PAGES_BYTES = 32_000_000
"""The size of the pages of calls that all workers hold together, at most."""

MEMORY_OF_PAGES = 24
"""DuckDB's memory is so many times the size of these pages, where it is small: a page takes several times its
own size until it has left."""

MOST_PAGE_BYTES = 8_000_000
"""The size of the page that one of them holds, at most."""

MEMORY_OF_A_WORKER = 45_000_000
"""Bytes of DuckDB's memory for which there is one worker: the query that makes the text of its calls holds 25
to 35 MB until its lane has left, most of which DuckDB does not count."""

FEWEST_WORKERS = 4
"""Workers that there are however little memory there is."""

GRACE_SECONDS = 5.0
"""How long a delivery waits for the answers of batches in flight, after a signal or at its deadline."""


@dataclass(frozen=True)
class Delivery:
    """The result of a delivery.

    Attributes:
        delivered: calls that the destination accepted.
        rejected: calls that it refused for good.
        unsure: calls that went out once more after they had gone out without an answer, also in an earlier
            run, so that the destination may have got them twice; each time counts.
        batches: accepted.
        bytes: of the accepted calls.
        retries: attempts that were not the first.
        error: what ended it before the outbox was empty; None where nothing did.
        undecided: whether it ended as calls failed alone and no other was accepted, so that only newer calls
            can tell if they are the cause or the destination.
        refused: whether the destination refused each of these calls.
        may_pass: whether what ended it may pass by itself.
    """

    delivered: int = 0
    rejected: int = 0
    unsure: int = 0
    batches: int = 0
    bytes: int = 0
    retries: int = 0
    error: RetlError | None = None
    undecided: bool = False
    refused: bool = False
    may_pass: bool = False

    def then(self, later: "Delivery") -> "Delivery":
        """The delivery with one that went on from it."""
        counts = ("delivered", "rejected", "unsure", "batches", "bytes", "retries")
        return replace(later, **{name: getattr(self, name) + getattr(later, name) for name in counts})

    def plus(self, **more: int) -> "Delivery":
        """The delivery with so many more of what is named."""
        return replace(self, **{name: getattr(self, name) + number for name, number in more.items()})


@dataclass(frozen=True)
class Terms:
    """The limits of a delivery.

    Attributes:
        run_id: the run, for the receipts.
        deadline: on the monotonic clock; no wait goes beyond it.
        limit: how many calls may leave; None is all.
        grace: seconds that answers of batches in flight are waited for, after the deadline or a signal.
        until_undecided: whether delivery ends where only newer calls can tell if the calls that wait are the
            cause, or the destination; else it goes on up to the deadline.
    """

    run_id: str
    deadline: float
    limit: int | None = None
    grace: float = GRACE_SECONDS
    until_undecided: bool = False

    def after(self, delivery: Delivery) -> "Terms":
        """The terms for the rest of a run, in which so many calls left already."""
        if self.limit is None:
            return self
        return replace(self, limit=max(0, self.limit - delivery.delivered))


def time_is_up() -> DeadlineError:
    """The error of a run whose time is up."""
    return DeadlineError("the time for this run is up", hint="run it again; nothing is lost")


def pages_within(memory: int) -> int:
    """The size of the pages that all workers hold together, where DuckDB may take so many bytes."""
    return max(MOST_PAGE_BYTES, min(PAGES_BYTES, memory // MEMORY_OF_PAGES))


def workers_within(memory: int, connections: int) -> int:
    """How many workers there are for so many connections, where DuckDB may take so many bytes."""
    return min(connections, max(FEWEST_WORKERS, memory // MEMORY_OF_A_WORKER))


class Closed(Exception):
    """The round went on without this thread, whose answer came too late."""


@dataclass
class Round:
    """One pass over the outbox: what its threads share.

    Attributes:
        lanes: still to be taken up.
        left: how many calls may still leave; None is all.
        ledger: the marks and receipts.
        pages_bytes: the size of the pages of calls that all workers hold together.
        workers: how many there are.
        idle: starts each a worker that may not be needed.
        stop: set when no further batch may go out.
        closed: whether the outbox is no longer to be touched.
        unsure: places of calls that went out alone, before their turn or before they were refused, and no
            answer came, also in earlier runs.
        held: calls that failed each alone.
        parked: lanes in which calls are refused and none is accepted; taken up again once a call is.
        gave_up: whether it ended as no retry could help a call, which may be the cause, or the destination.
        may_pass: whether what ended it may pass by itself.
        lock: for all that the threads write, here and in the outbox.
    """

    destination: Destination
    terms: Terms
    clock: Clock
    observer: Observer
    lanes: deque[outbox.Lane]
    left: int | None
    ledger: Ledger
    pages_bytes: int = PAGES_BYTES
    workers: int = 1
    idle: deque[Callable[[], None]] = field(default_factory=deque)
    stop: threading.Event = field(default_factory=threading.Event)
    closed: bool = False
    unsure: set[int] = field(default_factory=set)
    held: HeldCalls = field(default_factory=HeldCalls)
    parked: list[outbox.Lane] = field(default_factory=list)
    gave_up: bool = False
    may_pass: bool = False
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

    @contextmanager
    def writing(self, db: duckdb.DuckDBPyConnection) -> Iterator[None]:
        """Alone with the outbox, in which all is written that is known."""
        with self.lock:
            self.ledger.write(db)
            yield

    @property
    def page_bytes(self) -> int:
        """The size of a page of calls; it is cut into full batches, with a little room as calls differ.

        All workers count, also those that have not begun: while a large page is made, its worker waits
        for no answers, and brings no other one in.
        """
        most = min(MOST_PAGE_BYTES, self.pages_bytes // self.workers)
        batch = self.destination.limits.bytes * 31 // 32
        return most // batch * batch or most

    def take_lane(self) -> outbox.Lane | None:
        """The next lane; None where there is none, or the round is over."""
        with self.lock:
            return self.lanes.popleft() if self.lanes and not self.stop.is_set() else None

    def bring_in(self) -> None:
        """Start one more worker, where there is one, and lanes are left."""
        with self.lock:
            if self.lanes and self.idle and not self.stop.is_set():
                self.idle.popleft()()

    def allow(self, calls: int) -> int:
        """Of so many calls, how many may still leave."""
        with self.lock:
            if self.left is None:
                return calls
            allowed = min(calls, self.left)
            self.left -= allowed
            return allowed

    def end(self, error: RetlError, may_pass: bool = False) -> None:
        """End the round by an error, which may pass by itself; the first one is the one that counts."""
        with self.lock:
            if self.error is None:
                self.error, self.may_pass = error, may_pass
            self.stop.set()

    def end_by(self, decision: Decision) -> None:
        """End the round by a decision to stop."""
        assert decision.error is not None, "a decision to stop has an error"
        with self.lock:
            self.gave_up = self.error is None and decision.action is Action.GIVE_UP
            self.end(decision.error, decision.may_pass)

    def give_back(self, calls: int) -> None:
        """Let other calls leave in place of so many that were allowed to."""
        with self.lock:
            if self.left is not None:
                self.left += calls

    def write_held(self, db: duckdb.DuckDBPyConnection) -> None:
        """Write that the calls that are held are rejected; to be run in a transaction."""
        self.reject(db, self.held.calls)

    def reject(self, db: duckdb.DuckDBPyConnection, calls: Sequence[Held]) -> None:
        """Write that some of the calls that are held are rejected; to be run in a transaction."""
        held.reject(db, calls, self.terms.run_id, self.clock.now())

    @property
    def passed(self) -> list[Held]:
        """The held calls behind which one of their lane was accepted, which could not be written."""
        ledger = self.ledger
        return [one for one in self.held.calls if ledger.delivered(one.call.lane) >= one.call.first_seq]

    def forget_held(self) -> None:
        """Count the calls that were held as rejected, once that is written."""
        self.count(rejected=len(self.held.calls))
        self.held.calls.clear()

    def accepted(self, batch: Batch) -> None:
        """Count an accepted batch."""
        self.held.failed_alone.clear()
        self.count(delivered=batch.calls, batches=1, bytes=len(batch.text))

    def unpark(self) -> None:
        """Take lanes up again, once it is written which calls of them are rejected."""
        self.lanes.extend(self.parked)
        self.parked.clear()

    def count(self, **more: int) -> None:
        """Add to the tally."""
        with self.noting() as tally:
            self.tally = tally.plus(**more)

    def now(self) -> datetime:
        """The moment, in UTC and without a time zone, as the state has it."""
        return self.clock.now().replace(tzinfo=None)

    def not_taken(self, decision: Decision, but: str = "") -> RetlError:
        """The error where the destination does not take the calls."""
        name = self.destination.name
        message = f"{name} does not take the calls ({decision.reason}){but}"
        return self.destination.error(message, "run it again; nothing is lost")

    def pause(self, seconds: float) -> None:
        """Keep all that send to the destination from it for a while, also later runs of this process."""
        self.destination.rate_limiter.pause_until(self.clock.monotonic() + seconds)

    @property
    def pause_left(self) -> float:
        """Seconds until calls may go out again."""
        return max(0.0, self.destination.rate_limiter.paused_until - self.clock.monotonic())

    def wait(self, seconds: float, error: RetlError) -> bool:
        """Wait; False where the round is over, which it is at once, with that error, if time is too short."""
        if self.clock.monotonic() + seconds > self.terms.deadline:
            self.end(error)
        return not self.clock.wait(seconds, self.stop)
