"""Worker: one thread's part of a round. It works off lane after lane, batch after batch."""

import threading
from collections.abc import Iterator
from dataclasses import replace

import duckdb
import numpy as np

from retl.delivery import outbox
from retl.delivery.batch import Batch, cut
from retl.delivery.destination import Action, Attempt, Decision
from retl.delivery.round import TIME_IS_UP, Closed, Round
from retl.errors import DeadlineError
from retl.state import transaction

MOST_REFUSED = 20
"""Calls refused one by one, with none accepted in between, from which on the calls are not to blame."""


class Worker:
    """One thread's part of a round: it works off lane after lane.

    Attributes:
        round: what is shared.
        db: a connection of its own.
        done: set at the end of its work. To join a thread would not do: up to Python 3.12 a join that a
            signal interrupts takes the thread for ended.
        attempted: the place in the lane up to which calls went out without a known answer.
    """

    def __init__(self, round_: Round, db: duckdb.DuckDBPyConnection) -> None:
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
        except Closed:
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
