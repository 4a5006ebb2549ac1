"""A call as the sandbox took it, or threw it away."""

from datetime import datetime
from enum import StrEnum
from typing import Any, NamedTuple


class CallOutcome(StrEnum):
    """The three things that become of a call that arrives."""

    ACCEPTED = "accepted"
    DISCARDED = "discarded"
    DUPLICATE = "duplicate"


class ReceivedCall(NamedTuple):
    """A call that arrived, and what became of it; a tuple, since there are many.

    Attributes:
        seq: its place in the order of arrival, from 1.
        received_at: when it arrived.
        outcome: what became of it.
        reason: the discard code; None where it was not discarded.
        call: as Segment would pass it on; as it came, where it was discarded.
        sync: the sync that sent it, where a run told.
        run_id: the run that sent it, where a run told.
    """

    seq: int
    received_at: datetime
    outcome: CallOutcome
    reason: str | None
    call: Any
    sync: str | None
    run_id: str | None
