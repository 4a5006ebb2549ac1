"""Worker: one thread's part of a round. It works off lane after lane, batch after batch."""

import threading
from collections.abc import Iterator
from dataclasses import replace

import duckdb
import numpy as np

from retl.delivery import outbox, receipts
from retl.delivery.batch import Batch, cut
from retl.delivery.blame import Step, Tries, asks_for_other, next_step
from retl.delivery.destination import Action, Attempt, Decision
from retl.delivery.held import Held
from retl.delivery.others import Others
from retl.delivery.round import Closed, Round, time_is_up
from retl.errors import RetlError

MOST_REFUSED = 20
"""Calls of a lane refused one by one, after which calls of other users are tried, and so many of these."""

MOST_HELD = 1_000
"""The same where there are no others, as calls of one user must not go out before each other."""

MOST_PASSED = 100
"""Calls of a lane that fail one by one, with no others to try, after which it is the destination."""

MOSTLY = 0.75
"""The part of its time that a worker waits for answers where one more could send batches meanwhile; where it
is less, it may be a processor that it waits for, and one more worker brings none."""


class Worker:
    """One thread's part of a round.

    Attributes:
        round: what is shared.
        db: a connection of its own.
        started: whether it has begun.
        began_at: when, on the monotonic clock.
        waited: seconds that it waited for answers.
        done: set at the end of its work. To join a thread would not do: up to Python 3.12 a join that a
            signal interrupts takes the thread for ended.
        reach: how many calls of the lane may leave soon after the batch at hand.
        others: calls that may go out before their turn.
    """

    def __init__(self, round_: Round, db: duckdb.DuckDBPyConnection) -> None:
        self.round = round_
        self.db = db
        self.started = False
        self.began_at = 0.0
        self.waited = 0.0
        self.done = threading.Event()
        self.reach = 0
        self.others = Others(db, 0, round_.unsure)

    def start(self) -> None:
        """Begin to work, in a thread of its own."""
        self.started = True
        threading.Thread(target=self.work, daemon=True).start()

    def work(self) -> None:
        """Take lane after lane, until none is left or the round is over."""
        self.began_at = self.round.clock.monotonic()
        try:
            while (lane := self.round.take_lane()) is not None:
                self._deliver_lane(lane)
        except Closed:
            pass
        except BaseException as error:
            self.round.bug = self.round.bug or error
            self.round.stop.set()
        finally:
            self.db.close()
            self.done.set()

    def _deliver_lane(self, lane: outbox.Lane) -> None:
        self.others = Others(self.db, lane.number, self.round.unsure)
        for batch in self._batches(lane):
            if not self._deliver(batch, Tries()):
                if not self.round.stop.is_set():
                    self._park(lane)
                return

    def _park(self, lane: outbox.Lane) -> None:
        """Leave a lane until a call is accepted; it is read again then, from its mark on."""
        round_ = self.round
        with round_.noting():
            round_.ledger.rest(lane.number)
            round_.ledger.write(self.db)
            round_.parked.append(lane)

    def _batches(self, lane: outbox.Lane) -> Iterator[Batch]:
        limits = self.round.destination.limits
        for read in outbox.pages(self.db, lane, lambda: self.round.page_bytes):
            page = self.others.without_done(read)
            if page is None:
                continue
            for start, stop in cut(page.ends, limits.bytes, limits.calls):
                while start < stop:
                    in_a_second = self.round.destination.rate_limiter.allowance or stop
                    calls = self.round.allow(min(stop - start, in_a_second))
                    if not calls:
                        return
                    self.reach = self._reach(page, calls)
                    yield page.part(start, start + calls)
                    start += calls

    def _reach(self, page: Batch, calls: int) -> int:
        """How many calls may leave within a second after so many, and no more than a page can have."""
        most = max(1, page.calls * outbox.PAGE_BYTES // max(1, len(page.text)))
        more = max(0, min(self.round.destination.rate_limiter.allowance or most, most) - calls)
        return more if self.round.left is None else min(more, self.round.left)

    def _deliver(self, whole: Batch, tries: Tries) -> bool:
        """Deliver a batch, however often it takes; False where the lane cannot go on."""
        batch = self.others.without_done(whole)
        self.round.give_back(whole.calls - (batch.calls if batch else 0))
        if batch is None:
            return True
        while self._wait_for_turn(batch):
            decision = self._attempt(batch, tries)
            tries = tries.after(decision)
            self._note_retry(decision)
            if asks_for_other(decision, tries, batch.calls):
                most = MOST_REFUSED if decision.action is Action.GIVE_UP else 1
                tries = tries.beside(self._other_is_taken(batch, most), self._is_behind(batch.lane))
            match next_step(decision, tries, batch.calls):
                case Step.DONE:
                    self._note_delivered(batch, tries.attempts, decision.status)
                    return True
                case Step.HALVE:
                    return self._deliver_halves(batch, tries)
                case Step.HOLD:
                    return self._hold(batch, decision)
                case Step.REJECT:
                    return self._reject(batch, decision)
                case Step.STOP:
                    self.round.end_by(decision)
                    return False
            if not self._wait_for_retry(batch.lane, decision):
                return False
        return False

    def _deliver_halves(self, batch: Batch, tries: Tries) -> bool:
        first, second = batch.halves()
        if self._deliver(first, tries.of_half()):
            return self._deliver(second, tries.of_half())
        self.round.give_back(second.calls)
        return False

    def _attempt(self, batch: Batch, tries: Tries, is_ahead: bool = False) -> Decision:
        """Send a batch once. That it goes out is noted before, and what is not known any more after."""
        round_, run_id = self.round, self.round.terms.run_id
        with round_.noting():
            attempted = round_.ledger.attempted(batch.lane)
            repeated = int(np.searchsorted(batch.seqs, attempted, side="right"))
            repeated += self.others.unsure_behind(batch, attempted)
            if not round_.ledger.may_leave(batch, self.reach) or repeated:
                with round_.ledger.writing(self.db):
                    if repeated:
                        receipts.keep(self.db, [receipts.again(batch, run_id, repeated, round_.now())])
            if not is_ahead:
                round_.ledger.leave(batch)
        decision = self._send(batch, tries)
        if repeated and decision.may_have_arrived:
            round_.count(unsure=repeated)
        elif repeated:
            with round_.noting():
                receipts.forget_repeat(self.db, batch, run_id)
        if is_ahead and decision.unsure:
            self.others.unsure.add(batch.first_seq)
            with round_.noting():
                receipts.keep(self.db, [receipts.again(batch, run_id, 0, round_.now())])
        elif not is_ahead and decision.action is not Action.DELIVERED:
            with round_.noting():
                round_.ledger.fail(batch, decision.unsure)
        return decision

    def _send(self, batch: Batch, tries: Tries) -> Decision:
        """Send a batch, and see from the wait for the answer whether one more worker has something to do."""
        clock, destination = self.round.clock, self.round.destination
        sent_at = clock.monotonic()
        run_id = self.round.terms.run_id
        decision = destination.send(batch, Attempt(tries.attempts, tries.retries, clock.now(), run_id))
        answered_at = clock.monotonic()
        self.waited += answered_at - sent_at
        if decision.for_all:
            destination.rate_limiter.slow_down(sent_at)
        if decision.action is Action.DELIVERED and self.waited > MOSTLY * (answered_at - self.began_at):
            self.round.bring_in()
        return decision

    def _other_is_taken(self, batch: Batch, most: int) -> bool | None:
        """Whether the destination takes one of so many other calls; None where there is none to try."""
        taken = None
        with self.round.noting():
            self.round.held.failed_alone.add(batch.first_seq)
            self.round.ledger.write(self.db)  # others are looked for from the lane's mark on
        for _ in range(most):
            other = self.others.behind(batch)
            if other is None or self.round.stop.is_set() or not self.round.allow(1):
                break
            taken = self._try_ahead(other)
            if taken:
                break
        return taken

    def _try_ahead(self, call: Batch) -> bool:
        """Send a call before its turn; whether it was taken."""
        round_ = self.round
        if not self._wait_for_turn(call):
            return False
        decision = self._attempt(call, Tries(), is_ahead=True)
        if decision.action is Action.DELIVERED:
            self._note_delivered_ahead(call, decision.status)
            return True
        round_.give_back(1)
        self._note_retry(decision)
        if decision.action in {Action.REFUSED, Action.STOP}:
            round_.end_by(decision)
        elif not decision.requested:
            with round_.noting():
                round_.held.failed_alone.add(call.first_seq)
        return False

    def _hold(self, batch: Batch, decision: Decision) -> bool:
        """Hold a call that failed alone; False where its lane cannot go on."""
        self.round.give_back(1)
        self._note_refused(batch, decision)
        if decision.action is Action.SPLIT:
            held = self._add_held(Held(batch, decision.reason))
            if held < MOST_REFUSED:
                return True
            taken = self._other_is_taken(batch, MOST_REFUSED)
            return held < MOST_HELD if taken is None else taken
        error = decision.error or self.round.not_taken(decision)
        if self._add_held(Held(batch, decision.reason, error, decision.may_pass)) < MOST_PASSED:
            return True
        self.round.end(error, decision.may_pass)
        return False

    def _note_refused(self, call: Batch, decision: Decision) -> None:
        """Note that a call was refused alone, before the next one of its lane goes out."""
        round_ = self.round
        receipt = receipts.refused(call, round_.terms.run_id, decision.status, round_.now())
        with round_.noting(), round_.ledger.writing(self.db):
            receipts.keep(self.db, [receipt])

    def _add_held(self, held: Held) -> int:
        """Hold a call; gives how many of its lane are held."""
        seq, lane = held.call.first_seq, held.call.lane
        with self.round.noting():
            unsure = seq <= self.round.ledger.attempted(lane) or seq in self.others.unsure
            return self.round.held.add(replace(held, unsure=unsure))

    def _is_behind(self, lane: int) -> bool:
        """Whether calls of a lane are held."""
        with self.round.noting():
            return self.round.held.of_lane(lane) > 0

    def _reject(self, batch: Batch, decision: Decision) -> bool:
        """Reject a call that is the cause of its failures."""
        self._add_held(Held(batch, decision.reason))
        with self.round.noting():
            with self.round.ledger.writing(self.db):
                self.round.write_held(self.db)
            self.round.forget_held()
        return True

    def _wait_for_turn(self, batch: Batch) -> bool:
        """Wait until no pause holds and the rate limit lets the calls go; False where the round is over.

        Time is reserved only when the pause is over: else all lanes would send together at its end.
        """
        round_, rate_limiter = self.round, self.round.destination.rate_limiter
        late = time_is_up()
        lane = batch.lane
        while self._wait(lane, round_.pause_left, late):
            if not self._wait(lane, rate_limiter.reserve(batch.calls), late):
                return False
            if round_.pause_left == 0:
                return True
        return False

    def _wait(self, lane: int, seconds: float, error: RetlError) -> bool:
        """Wait as `Round.wait` does; a lane that waits long has nothing unwritten meanwhile."""
        round_ = self.round
        with round_.noting():
            if round_.ledger.is_old(seconds):
                if seconds:
                    round_.ledger.rest(lane)
                round_.ledger.write(self.db)
        return round_.wait(seconds, error)

    def _note_retry(self, decision: Decision) -> None:
        """Count a retry that is to come; all lanes wait where the destination wants fewer calls."""
        if decision.action is Action.RETRY:
            self.round.count(retries=1)
            reason = decision.reason
            if decision.requested:
                reason = f"{self.round.destination.name} asks to wait ({reason})"
            self.round.observer.waiting(reason, decision.wait)
        if decision.for_all:
            self.round.pause(decision.wait)

    def _wait_for_retry(self, lane: int, decision: Decision) -> bool:
        """Wait before a retry; False where the round is over."""
        late = self.round.not_taken(decision, ", and the time for this run is up")
        return self._wait(lane, self.round.pause_left if decision.for_all else decision.wait, late)

    def _note_delivered(self, batch: Batch, attempts: int, status: int) -> None:
        round_ = self.round
        receipt = receipts.accepted(batch, round_.terms.run_id, attempts, status, round_.now())
        with round_.noting():
            round_.ledger.accept(batch, receipt)
            round_.accepted(batch)
            if round_.held.calls:
                with round_.ledger.writing(self.db):
                    round_.write_held(self.db)
                round_.forget_held()
            elif round_.ledger.is_old():
                round_.ledger.write(self.db)
            round_.unpark()
        round_.observer.delivered(batch.calls)

    def _note_delivered_ahead(self, call: Batch, status: int) -> None:
        round_ = self.round
        receipt = receipts.accepted(call, round_.terms.run_id, 1, status, round_.now())
        with round_.noting():
            with round_.ledger.writing(self.db):
                round_.write_held(self.db)
                outbox.note_delivered_ahead(self.db, call)
                receipts.keep(self.db, [receipt])
            round_.forget_held()
            round_.accepted(call)
            round_.unpark()
        self.others.done.add(call.first_seq)
        round_.observer.delivered(1)
