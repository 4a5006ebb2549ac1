"""Discard: calls that are not to be sent any more are forgotten."""

from dataclasses import dataclass
from datetime import datetime

from retl.delivery import outbox, receipts, rejected
from retl.delivery.settle import settle
from retl.engine import replaced, snapshot
from retl.records import complete_records, keeps_all_runs, note_discarded
from retl.state import FirstPass, State


@dataclass(frozen=True)
class Waiting:
    """The calls of a state that can be discarded.

    Attributes:
        pending: in the outbox.
        rejected: kept as rejected.
    """

    pending: int
    rejected: int


def waiting(state: State) -> Waiting:
    """Count the calls of a state that can be discarded."""
    return Waiting(outbox.pending(state.db), rejected.counts(state.db)[1])


def discard_rejected(state: State, now: datetime) -> int:
    """Forget the rejected calls, but for a line in the history; gives how many. `now` is UTC."""
    with state.transaction():
        complete_records(state.db)  # which counts them
        return rejected.discard(state.db, now)


def discard_pending(state: State, now: datetime) -> int:
    """Drop the calls that wait, and let their rows be as they were when they were last delivered.

    So the next run finds these changes anew, and makes calls of them by the files as they are then, under
    other message ids. A call stays where another one of its change was delivered. Where nothing was ever
    delivered the next run is a first pass. Calls that a killed retry left are rejected as before: their rows
    went on without them. The records of the runs that made the calls say how many were
    dropped, at the moment `now` (UTC).

    Returns:
        How many calls were dropped.
    """
    db = state.db
    with state.transaction():
        settle(db)
        rejected.take_back_sent(db)
        outbox.list_waiting(db)
        replaced.spare_halves(db)
        complete_records(db)
        note_discarded(db, outbox.dropped_by_run(db), now)
        dropped = outbox.drop(db)
        snapshot.put_back(db)
        if outbox.is_empty(db) and snapshot.row_count(db) == 0 and _never_delivered(state):
            snapshot.forget(state)
    return dropped


def _never_delivered(state: State) -> bool:
    was_sent = state.metadata.first_pass is FirstPass.SENT
    return was_sent and keeps_all_runs(state.db) and not receipts.accepts(state.db)
