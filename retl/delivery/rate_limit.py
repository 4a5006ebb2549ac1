"""The rate at which calls may leave for one destination."""

import threading

from retl.clock import Clock


class RateLimiter:
    """A limit on calls a second, shared by all that send to one destination.

    Segment counts the calls of a whole workspace (Segment docs, "Rate limits"). A sender first reserves a
    time for its calls, and then waits for that time.
    """

    def __init__(self, calls_per_second: int, clock: Clock) -> None:
        """`calls_per_second`: 0 is without limit."""
        self.calls_per_second = calls_per_second
        self._clock = clock
        self._lock = threading.Lock()
        self._free_at = float("-inf")

    def reserve(self, calls: int) -> float:
        """Reserve time for a number of calls; returns the seconds to wait until they may leave."""
        if self.calls_per_second == 0:
            return 0.0
        with self._lock:
            now = self._clock.monotonic()
            starts_at = max(now, self._free_at)
            self._free_at = starts_at + calls / self.calls_per_second
            return starts_at - now
