"""The rate limit of a local Segment."""

import math
from datetime import datetime


class Throttle:
    """A limit on calls a second, as a bucket that is filled at that rate and holds the calls of one second.

    A request is taken while the bucket is not empty, however many calls it has; they are owed then. How
    Segment counts is not documented, so that this is our choice.
    """

    def __init__(self, calls_per_second: float) -> None:
        self._rate = calls_per_second
        self._level = calls_per_second
        self._at: datetime | None = None

    def seconds_to_wait(self, calls: int, now: datetime) -> int:
        """Take the calls of a request, and give 0; else the seconds after which the next ones are taken."""
        passed = (now - (self._at or now)).total_seconds()
        self._at = now
        self._level = min(self._rate, self._level + self._rate * max(0.0, passed))
        if self._level <= 0:
            return max(1, math.ceil(-self._level / self._rate))
        self._level -= calls
        return 0
