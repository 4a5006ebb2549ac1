"""The pace at which calls may leave for one destination."""

import threading

from retl.clock import Clock


class Pace:
    """Spreads calls so that no more than so many a second leave; shared by all that send to one place.

    Segment counts a workspace's calls a second (Segment docs, "Rate limits"), so whoever wants to send
    first books a place in time.
    """

    def __init__(self, calls_per_second: int, clock: Clock) -> None:
        """`calls_per_second`: 0 is without limit."""
        self.calls_per_second = calls_per_second
        self._clock = clock
        self._lock = threading.Lock()
        self._free_at = float("-inf")

    def book(self, calls: int) -> float:
        """Book a place for so many calls; returns the seconds to wait until they may leave."""
        if self.calls_per_second == 0:
            return 0.0
        with self._lock:
            now = self._clock.monotonic()
            starts_at = max(now, self._free_at)
            self._free_at = starts_at + calls / self.calls_per_second
            return starts_at - now
