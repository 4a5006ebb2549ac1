"""Delivery: the outbox, lane by lane, to its destination.

Each lane is delivered by one thread, in order, batch after batch. An attempt is noted before it is made and
its answer after, so that a process that dies in between leaves a trace. The destination decides what follows
from an answer; here it is done.
"""

import threading
from collections import deque
from dataclasses import replace

import duckdb

from retl.clock import Clock
from retl.delivery import outbox
from retl.delivery.destination import Destination
from retl.delivery.round import TIME_IS_UP, Delivery, Round, Terms
from retl.delivery.worker import Worker
from retl.errors import DeadlineError, Interrupted
from retl.observer import Observer
from retl.state import State, storage_error


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
    round_ = Round(destination, terms, clock, observer, deque(lanes), terms.limit)
    workers: list[Worker] = []
    try:
        for _ in range(min(destination.connections, len(lanes))):
            workers.append(Worker(round_, state.db.cursor()))
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
