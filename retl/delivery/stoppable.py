"""A destination that is sent nothing more once a run must not go on: another may have its state by then."""

from collections.abc import Callable
from types import TracebackType
from typing import Self

from retl.delivery.batch import Batch
from retl.delivery.destination import Action, Attempt, Decision, Destination, Limits
from retl.errors import RetlError


class Stoppable:
    """A destination as it is, but for the look before each batch; see `Destination`."""

    def __init__(self, destination: Destination, lost: Callable[[], RetlError | None]) -> None:
        """Pass on what the destination says of itself.

        Args:
            destination: takes the calls.
            lost: gives the error of a run that must not go on; None while it may.
        """
        self.name = destination.name
        self.connections = destination.connections
        self.rate_limiter = destination.rate_limiter
        self._destination = destination
        self._lost = lost

    @property
    def id(self) -> str:
        """See `Destination`."""
        return self._destination.id

    @property
    def limits(self) -> Limits:
        """See `Destination`."""
        return self._destination.limits

    def check(self) -> str | None:
        """See `Destination`."""
        return self._destination.check()

    def send(self, batch: Batch, attempt: Attempt) -> Decision:
        """Send a batch once, unless the run must not go on."""
        lost = self._lost()
        if lost is not None:
            return Decision(Action.STOP, lost.message, error=lost)
        return self._destination.send(batch, attempt)

    def error(self, message: str, hint: str) -> RetlError:
        """See `Destination`."""
        return self._destination.error(message, hint)

    def __enter__(self) -> Self:
        self._destination.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._destination.__exit__(kind, error, trace)
