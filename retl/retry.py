"""Retry: calls that Segment refused go out again, under the message ids that they had."""

from dataclasses import dataclass, replace

from retl import signals
from retl.damage import storage_error
from retl.delivery import outbox, rejected, rendered
from retl.delivery.deliver import deliver
from retl.delivery.destination import Destination
from retl.delivery.round import Delivery, Terms
from retl.delivery.settle import settle
from retl.job import Job
from retl.pipeline import finish, refuse_other_destination
from retl.records import open_run
from retl.run import Run, begin_run


@dataclass(frozen=True)
class Retry:
    """The result of a retry.

    Attributes:
        run: the record of the delivery; its `enqueued` calls are those that went out again.
        waited: calls that had waited, and were delivered first.
        left: the rejected calls that could not go again just so.
    """

    run: Run
    waited: int
    left: rejected.Left


def retry(job: Job, destination: Destination, stale: bool) -> Retry:
    """Send the refused calls of a sync again, behind those that wait; nothing is read.

    A call stays where a newer one of its user was delivered, or waits, so that a late call does not undo it.

    Args:
        job: the sync and its state.
        destination: where the calls go.
        stale: whether such calls go, too.
    """
    state, clock = job.state, job.clock
    began = clock.monotonic()
    record = begin_run(job.sync.name, clock.now(), marked=job.sync.segment.marks).evolve(retry=True)
    waited = 0
    try:
        with state.transaction():
            open_run(state.db, record)
        refuse_other_destination(job, destination)
        with state.transaction():
            state.rekey(destination.id, job.address)
        terms = Terms(record.run_id, began + job.options.deadline_seconds, until_undecided=True)
        left_over = deliver(state, destination, terms, clock, job.observer)
        record, waited = record.with_delivery(left_over), left_over.delivered
        if left_over.undecided or (left_over.error is None and outbox.pending(state.db) == 0):
            with state.transaction():
                settle(state.db)
                again = rejected.take_again(state.db, stale, record.run_id, clock.now())
                if again:
                    outbox.enqueue_again(state.db)
            record = record.with_calls(again, undated=0, refused=0)
            if again:
                delivery = deliver(state, destination, terms, clock, job.observer)
                record = record.with_delivery(_put_back(job, delivery, record.run_id))
    except Exception as error:
        record = record.evolve(error=storage_error(error, state.path) or signals.told(error))
    left = rejected.left(state.db)
    return Retry(finish(job, record, clock.monotonic() - began), waited, left)


def _put_back(job: Job, delivery: Delivery, run_id: str) -> Delivery:
    """Keep the calls rejected that did not arrive: the outbox is for changes that were never answered."""
    db = job.state.db
    with job.state.transaction():
        rendered.drop_again(db)
        refused = rejected.put_again_back(db, run_id)
    is_over = delivery.refused and outbox.pending(db) == 0
    error = None if is_over else delivery.error
    return replace(delivery, rejected=delivery.rejected + refused, error=error)
