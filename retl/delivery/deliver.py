"""Delivery: the outbox, lane by lane, to its destination.

Each lane is delivered by one thread, in order, batch after batch. Attempts are noted before they are made and
their answers after, so that a process that dies in between leaves a trace: see `ledger`. The destination
decides what follows from an answer, `blame` what follows from several; `worker` does it. A round that ends by
a failure that may pass by itself, as an outage, is followed by another one, up to the deadline.
"""

import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial

import duckdb

from retl.clock import Clock
from retl.damage import storage_error
from retl.delivery import held, outbox, receipts
from retl.delivery.destination import Destination
from retl.delivery.ledger import Ledger
from retl.delivery.round import Delivery, Round, Terms, pages_within, time_is_up, workers_within
from retl.delivery.settle import settle
from retl.delivery.stoppable import Stoppable
from retl.delivery.worker import MOST_REFUSED, Worker
from retl.errors import Interrupted, LockedError, StorageError
from retl.memory import allowed
from retl.observer import Observer
from retl.state import State

WORKERS_AT_FIRST = 4
"""Workers from the beginning; further ones start where answers take long, up to the connections."""

SECONDS_BETWEEN_ROUNDS = 60.0
"""The wait for an outage to pass, after a round that ended as the destination took no call."""

MOST_UNDECIDED = 1_000
"""Calls that wait, up to which repeated failures of each one alone may be due to the calls."""


def deliver(
    state: State, destination: Destination, terms: Terms, clock: Clock, observer: Observer
) -> Delivery:
    """Deliver what is in the outbox.

    Never raises for a failure of the destination or the network, nor for a signal: it is the result's
    `error`, and all calls that were not accepted stay in the outbox.
    """
    delivery = _round(state, destination, terms, clock, observer)
    while delivery.may_pass and not (delivery.undecided and terms.until_undecided):
        assert delivery.error is not None, "a failure that may pass is an error"
        if clock.monotonic() + SECONDS_BETWEEN_ROUNDS > terms.deadline:
            late = f"{delivery.error.message}, and the time for this run is up"
            return replace(delivery, error=destination.error(late, "run it again; nothing is lost"))
        observer.waiting(delivery.error.message, SECONDS_BETWEEN_ROUNDS)
        try:
            clock.wait(SECONDS_BETWEEN_ROUNDS, threading.Event())
        except Interrupted as interrupted:
            return replace(delivery, error=interrupted)
        delivery = delivery.then(_round(state, destination, terms.after(delivery), clock, observer))
    return delivery


def _round(
    state: State, destination: Destination, terms: Terms, clock: Clock, observer: Observer
) -> Delivery:
    """One round over the outbox."""
    if outbox.is_empty(state.db):
        return Delivery()
    with state.transaction():
        settle(state.db)
        outbox.start_marks(state.db)
        passed = held.reject_passed(state.db, terms.run_id, clock.now())
    lanes = outbox.lanes(state.db)
    if not lanes:
        return Delivery(rejected=passed)
    state.save(leaving=True)
    observer.delivering(sum(lane.calls for lane in lanes))
    if state.is_remote:
        destination = Stoppable(destination, state.lost)
    ledger, memory = Ledger(lanes, clock), allowed(state.db)
    pages, most = pages_within(memory), workers_within(memory, destination.connections)
    round_ = Round(destination, terms, clock, observer, deque(lanes), terms.limit, ledger, pages)
    round_.unsure = receipts.unsure_places(state.db)
    round_.count(rejected=passed)
    workers = [Worker(round_, state.db.cursor()) for _ in lanes[:most]]
    _work_off(round_, workers, partial(_save, state, round_))
    if round_.bug is not None:
        full = storage_error(round_.bug, state.path)
        if full is None:
            with suppress(duckdb.Error), round_.ledger.writing(state.db):
                round_.reject(state.db, round_.passed)
            raise round_.bug
        round_.end(full)
    return _settle(state, round_)


def _save(state: State, round_: Round) -> float:
    """Save the state in the midst of a round where that is due; gives the seconds to the next save."""
    if state.seconds_to_save() <= 0:
        try:
            state.save(leaving=True, alone=round_.writing(state.db))
        except StorageError as error:
            round_.observer.notice(f"{error.message}; delivery goes on, and is noted later")
        except LockedError as error:
            round_.end(error)
    return max(1.0, state.seconds_to_save())


def _work_off(round_: Round, workers: list[Worker], save: Callable[[], float]) -> None:
    """Let workers work, each in a thread of its own, until all are done, or time or a signal ends it.

    Args:
        round_: what they share.
        workers: not started yet.
        save: saves the state where that is due, and gives the seconds to the next time.
    """
    clock, terms = round_.clock, round_.terms
    try:
        round_.workers = len(workers)
        round_.idle.extend(worker.start for worker in workers[WORKERS_AT_FIRST:])
        for worker in workers[:WORKERS_AT_FIRST]:
            worker.start()
        for worker in workers:
            if not worker.started:
                break  # only the ones before it could start it, and they are done
            _wait_for(worker, round_, save)
    except Interrupted as interrupted:
        round_.error = interrupted
    finally:
        with round_.lock:
            round_.stop.set()
            round_.idle.clear()
        try:
            give_up_at = clock.monotonic() + terms.grace
            for worker in workers:
                if not worker.started:
                    worker.db.close()
                    continue
                worker.done.wait(max(0.0, give_up_at - clock.monotonic()))
        except Interrupted as interrupted:
            round_.error = interrupted
        finally:
            with round_.lock:
                round_.closed = True
                round_.ledger.close()


def _wait_for(worker: Worker, round_: Round, save: Callable[[], float]) -> None:
    """Wait for a worker up to the deadline, and save the state meanwhile."""
    is_done = False
    while not is_done:
        next_save = save()
        left = round_.terms.deadline - round_.clock.monotonic()
        is_done = worker.done.wait(max(0.0, min(left, next_save)))
        if not is_done and left <= next_save:
            round_.end(time_is_up())
            return


def _settle(state: State, round_: Round) -> Delivery:
    """Write and tell the result of a round whose threads are done."""
    db, calls = state.db, round_.held.calls
    try:
        with round_.ledger.writing(db):
            are_the_cause = round_.error is None and _calls_are_the_cause(round_, db)
            rejects = calls[:] if are_the_cause else round_.passed
            round_.reject(db, rejects)
            first = [one.call.first_seq for one in calls if not round_.ledger.is_out_behind(one.call)]
            receipts.forget_refused(db, first)
            settle(db)
        round_.tally = round_.tally.plus(rejected=len(rejects))
        places = {one.call.first_seq for one in rejects}
        calls[:] = [one for one in calls if one.call.first_seq not in places]
    except duckdb.Error as error:  # the next delivery settles
        lost = round_.ledger.unwritten
        round_.tally = round_.tally.plus(delivered=-lost.calls, batches=-lost.batches, bytes=-lost.bytes)
        round_.error = round_.error or storage_error(error, state.path)
        if round_.error is None:
            raise
    if calls and round_.error is None:
        doubt = round_.held.error(round_.destination)
        tally = replace(round_.tally, error=doubt, undecided=True)
        return replace(tally, refused=round_.held.are_refused, may_pass=round_.held.may_pass)
    waiting = outbox.pending(db) if round_.gave_up else 0
    undecided = 0 < waiting <= MOST_UNDECIDED and len(round_.held.failed_alone) >= min(waiting, MOST_REFUSED)
    return replace(round_.tally, error=round_.error, undecided=undecided, may_pass=round_.may_pass)


def _calls_are_the_cause(round_: Round, db: duckdb.DuckDBPyConnection) -> bool:
    """Whether the calls that are held at the end are rejected, though no call was accepted after them.

    They are where they were refused, are few, and calls were accepted just before; and a single call is where
    the destination took all others up to now.
    """
    found = round_.held
    if round_.parked or len(found.calls) >= MOST_REFUSED or not found.are_refused:
        return False
    return round_.tally.delivered > 0 or (len(found.failed_alone) == 1 and receipts.accepts(db))
