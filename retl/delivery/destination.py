"""Destination: the seam below the outbox, and all that delivery knows of where calls go.

A destination takes batches and says of each what to do next. Its words, limits and status codes are its
own: `retl.delivery.segment` speaks to Twilio Segment, `retl.delivery.file` writes to a file. A new one is a
class with these members, and a line in the contract tests (tests/test_destination.py).
"""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from types import TracebackType
from typing import Protocol, Self

from retl.delivery.batch import Batch
from retl.delivery.rate_limit import RateLimiter
from retl.errors import RetlError


class Action(StrEnum):
    """The next step for a batch."""

    DELIVERED = "delivered"  # the destination has it
    RETRY = "retry"  # wait, then send the same batch again
    SPLIT = "split"  # a call in it is refused: halve the batch until that call is alone
    GIVE_UP = "give up"  # no retry of this batch can help, because of a call in it or of the destination
    REFUSED = "refused"  # the sender is refused: stop, a person must act
    STOP = "stop"  # no call can arrive: stop, and keep all calls pending


@dataclass(frozen=True)
class Decision:
    """The destination's decision about one attempt.

    Attributes:
        action: the next step.
        reason: the answer in a few words.
        wait: with RETRY, seconds before the next attempt.
        requested: with RETRY, whether the destination asked for the wait; such a retry is not counted.
        for_all: with RETRY, whether the wait holds for every lane, as the destination wants fewer calls.
        may_pass: whether the failure may pass by itself, so that it is waited for up to the deadline.
        status: HTTP status, for the receipt; 0 where there is none.
        unsure: whether the calls may have arrived although there was no answer.
        error: with GIVE_UP, REFUSED and STOP, the error to report.
    """

    action: Action
    reason: str
    wait: float = 0.0
    requested: bool = False
    for_all: bool = False
    may_pass: bool = False
    status: int = 0
    unsure: bool = False
    error: RetlError | None = None

    @property
    def reached(self) -> bool:
        """Whether the calls left: a destination that was not reached cannot dislike them."""
        return self.unsure or self.status != 0

    @property
    def may_have_arrived(self) -> bool:
        """Whether the destination has the calls, or may have them."""
        return self.unsure or self.action is Action.DELIVERED


@dataclass(frozen=True)
class Attempt:
    """One attempt to send a batch.

    Attributes:
        number: how many attempts came before it.
        retries: how many of these were counted retries.
        sent_at: its time, UTC.
        run_id: the run that makes it.
    """

    number: int
    retries: int
    sent_at: datetime
    run_id: str = ""


@dataclass(frozen=True)
class Limits:
    """The size of a batch.

    Attributes:
        calls: most calls in a batch.
        bytes: most bytes of the calls' JSON, joined by commas.
    """

    calls: int
    bytes: int


class Destination(Protocol):
    """A place that takes calls. It is a context manager: leaving it closes its connections.

    Attributes:
        name: the word for it in messages, such as "Segment".
        id: the value by which a state recognises it; no secret can be read from it.
        limits: of a batch.
        connections: how many batches may be on their way at a time.
        rate_limiter: for the calls that leave.
    """

    name: str
    connections: int
    rate_limiter: RateLimiter

    @property
    def id(self) -> str:
        """See the attributes of the class."""

    @property
    def limits(self) -> Limits:
        """See the attributes of the class."""

    def check(self) -> str | None:
        """See whether it will take calls, before the first one; gives a doubt in words, where one is left.

        Raises:
            SetupError: it will not.
        """

    def send(self, batch: Batch, attempt: Attempt) -> Decision:
        """Send a batch once. Never raises for what the destination or the network does."""

    def error(self, message: str, hint: str) -> RetlError:
        """An error of this destination, with its address."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...
