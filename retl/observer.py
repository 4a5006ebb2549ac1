"""The observer of a run: progress, waits and notices, as they happen."""

from collections.abc import Sequence
from typing import Protocol


class Observer(Protocol):
    """Receives each turn of a run. Its methods must be quick, and are called from several threads."""

    def reading(self) -> None:
        """The warehouse is asked for the model's rows."""

    def rows_read(self, rows: int) -> None:
        """More rows came from the warehouse; `rows` is how many."""

    def comparing(self) -> None:
        """All rows are read; they are compared with the snapshot."""

    def diffed(self, added: int, changed: int, removed: int) -> None:
        """The diff is known."""

    def enqueuing(self) -> None:
        """No guard stops the run: the changes become calls, for the outbox or, of a plan, to be shown."""

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

    def reading(self) -> None:
        """Nothing."""

    def rows_read(self, rows: int) -> None:
        """Nothing."""

    def comparing(self) -> None:
        """Nothing."""

    def diffed(self, added: int, changed: int, removed: int) -> None:
        """Nothing."""

    def enqueuing(self) -> None:
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


class Observers:
    """Passes each turn on to several observers, one after the other."""

    def __init__(self, observers: Sequence[Observer]) -> None:
        self._observers = observers

    def reading(self) -> None:
        """Pass it on."""
        for one in self._observers:
            one.reading()

    def rows_read(self, rows: int) -> None:
        """Pass it on."""
        for one in self._observers:
            one.rows_read(rows)

    def comparing(self) -> None:
        """Pass it on."""
        for one in self._observers:
            one.comparing()

    def diffed(self, added: int, changed: int, removed: int) -> None:
        """Pass it on."""
        for one in self._observers:
            one.diffed(added, changed, removed)

    def enqueuing(self) -> None:
        """Pass it on."""
        for one in self._observers:
            one.enqueuing()

    def delivering(self, calls: int) -> None:
        """Pass it on."""
        for one in self._observers:
            one.delivering(calls)

    def delivered(self, calls: int) -> None:
        """Pass it on."""
        for one in self._observers:
            one.delivered(calls)

    def waiting(self, reason: str, seconds: float) -> None:
        """Pass it on."""
        for one in self._observers:
            one.waiting(reason, seconds)

    def notice(self, sentence: str) -> None:
        """Pass it on."""
        for one in self._observers:
            one.notice(sentence)

    def close(self) -> None:
        """Pass it on."""
        for one in self._observers:
            one.close()
