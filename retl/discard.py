"""Discard: calls that are not to be sent any more are forgotten."""

from dataclasses import dataclass

from retl.delivery import outbox, receipts, rejected
from retl.delivery.deliver import settle
from retl.engine import snapshot
from retl.state import State


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


def discard_rejected(state: State) -> int:
    """Forget the rejected calls; gives how many."""
    with state.transaction():
        return rejected.discard(state.db)


def discard_pending(state: State) -> int:
    """Drop the calls that wait, and let their rows be as they were when they were last delivered.

    So the next run finds these changes anew, and makes calls of them by the files as they are then, under
    other message ids. A row with two calls, of which one was delivered, makes both of them again. Where
    nothing was ever delivered the next run is a first pass.

    Returns:
        How many calls were dropped.
    """
    with state.transaction():
        settle(state.db)
        dropped = outbox.drop(state.db)
        snapshot.put_back(state.db)
        if snapshot.row_count(state.db) == 0 and not receipts.accepts(state.db):
            snapshot.forget(state)
    return dropped
