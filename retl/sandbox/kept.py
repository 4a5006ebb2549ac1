"""The newest things that arrived, as many as there is room for."""

from collections import deque
from collections.abc import Iterable
from typing import Generic, TypeVar

KEPT_BYTES = 50_000_000
"""Most bytes, as they arrived, of the things of one kind."""

T = TypeVar("T")


class Kept(Generic[T]):
    """Holds the newest things within two limits; the oldest ones make room.

    Args:
        most: how many there may be.
        most_bytes: how large they may be together.
    """

    def __init__(self, most: int, most_bytes: int = KEPT_BYTES) -> None:
        self._most = most
        self._most_bytes = most_bytes
        self._held: deque[tuple[T, int, int]] = deque()
        self._count = self._bytes = 0

    def append(self, thing: T, size: int, counts: int = 1) -> None:
        """Add a thing of so many bytes that counts as so many."""
        self._held.append((thing, size, counts))
        self._count += counts
        self._bytes += size
        while self._held and (self._count > self._most or self._bytes > self._most_bytes):
            _, gone, counted = self._held.popleft()
            self._count -= counted
            self._bytes -= gone

    def extend(self, things: Iterable[T], size: int) -> None:
        """Add things of so many bytes each."""
        if self._most:
            for thing in things:
                self.append(thing, size)

    def clear(self) -> None:
        """Let go of everything."""
        self._held.clear()
        self._count = self._bytes = 0

    def all(self) -> list[T]:
        """All that is held, the newest last."""
        return [thing for thing, _, _ in self._held]
