"""The rate at which calls may leave for one destination: halved where it wants fewer, and raised in steps.

A pause that it asks for holds for all that send to it, too.
"""

import threading

from retl.clock import Clock

STEP = 1 / 400
"""The part of the full rate that a second of sending adds to a lower one: half of it in 200 seconds."""

LOWEST = 1 / 64
"""The part of the full rate below which it is not lowered."""


class RateLimiter:
    """A limit on calls a second, shared by all that send to one destination.

    Segment counts the calls of a whole workspace (Segment docs, "Rate limits"). A sender first reserves a
    time for its calls, and then waits for that time.

    Attributes:
        calls_per_second: the full rate; 0 is without limit.
        paused_until: on the monotonic clock; before that, the destination wants no calls.
    """

    def __init__(self, calls_per_second: int, clock: Clock) -> None:
        """`calls_per_second`: the full rate; 0 is without limit."""
        self.calls_per_second = calls_per_second
        self._clock = clock
        self._lock = threading.Lock()
        self._rate = float(calls_per_second)
        self._free_at = self._lowered_at = self.paused_until = float("-inf")

    @property
    def allowance(self) -> int | None:
        """The calls that may leave in a second at the present rate, one at least; None is without limit."""
        return max(1, int(self._rate)) if self.calls_per_second else None

    def reserve(self, calls: int) -> float:
        """Reserve time for a number of calls; returns the seconds to wait until they may leave."""
        if self.calls_per_second == 0:
            return 0.0
        with self._lock:
            now = self._clock.monotonic()
            starts_at = max(now, self._free_at)
            self._free_at = starts_at + calls / self._rate
            self._rate = raised(self._rate, self.calls_per_second, calls)
            return starts_at - now

    def pause_until(self, moment: float) -> None:
        """Let no calls leave before a moment on the monotonic clock; a longer pause goes on."""
        with self._lock:
            self.paused_until = max(self.paused_until, moment)

    def slow_down(self, sent_at: float) -> None:
        """Lower the rate, as the destination wants fewer calls than it got.

        Args:
            sent_at: when that attempt was made, on the monotonic clock. Of several that were under way
                together one counts: the others say the same.
        """
        with self._lock:
            if sent_at > self._lowered_at:
                self._rate = lowered(self._rate, self.calls_per_second)
                self._lowered_at = self._clock.monotonic()


def lowered(rate: float, full: int) -> float:
    """The rate after the destination wanted fewer calls: half of it."""
    return max(rate / 2, full * LOWEST)


def raised(rate: float, full: int, calls: int) -> float:
    """The rate after so many calls left at it: a step more for each second that they took."""
    return min(float(full), rate + full * STEP * calls / rate)
