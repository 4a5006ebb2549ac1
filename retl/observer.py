"""The observer of a run: progress, waits and notices, as they happen."""

from typing import Protocol


class Observer(Protocol):
    """Receives each turn of a run. Its methods must be quick, and are called from several threads."""

    def rows_read(self, rows: int) -> None:
        """More rows came from the warehouse; `rows` is how many."""

    def diffed(self, added: int, changed: int, removed: int) -> None:
        """The diff is known."""

    def delivering(self, calls: int) -> None:
        """Delivery begins; `calls` are waiting."""

    def delivered(self, calls: int) -> None:
        """The destination accepted `calls` more."""

    def waiting(self, reason: str, seconds: float) -> None:
        """A batch waits before it is tried again."""

    def notice(self, sentence: str) -> None:
        """A sentence that the user should read."""

    def close(self) -> None:
        """The run is over."""


class SilentObserver:
    """Ignores everything."""

    def rows_read(self, rows: int) -> None:
        """Nothing."""

    def diffed(self, added: int, changed: int, removed: int) -> None:
        """Nothing."""

    def delivering(self, calls: int) -> None:
        """Nothing."""

    def delivered(self, calls: int) -> None:
        """Nothing."""

    def waiting(self, reason: str, seconds: float) -> None:
        """Nothing."""

    def notice(self, sentence: str) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""
