"""The calls that wait to be posted to a webhook, in order for each user."""

import heapq
from collections import deque
from itertools import count
from typing import NamedTuple


class WaitingCall(NamedTuple):
    """A call on its way to a webhook; a tuple, since there are many.

    Attributes:
        seq: its place in the order of arrival.
        user: its user id, else its anonymous id.
        body: its JSON.
        attempts: how many there were.
        first_at: when the first attempt was, on a monotonic clock.
    """

    seq: int
    user: str
    body: bytes
    attempts: int = 0
    first_at: float = 0.0


class ForwardQueue:
    """Hands out calls in order of arrival, of each user one at a time; whoever shares it must lock it.

    A call that has to wait holds back the later calls of its user alone.
    """

    def __init__(self) -> None:
        self._calls: dict[str, deque[WaitingCall]] = {}  # by user, the one that is under way included
        self._ready: deque[str] = deque()
        self._later: list[tuple[float, int, str]] = []
        self._order = count()
        self._held = 0

    def __len__(self) -> int:
        return self._held

    def add(self, call: WaitingCall) -> None:
        """Add a call behind those of its user."""
        self._held += 1
        calls = self._calls.get(call.user)
        if calls is None:
            self._calls[call.user] = deque([call])
            self._ready.append(call.user)
        else:
            calls.append(call)

    def take(self, now: float) -> WaitingCall | None:
        """The next call that may be posted; it is under way then. None where each has to wait."""
        while self._later and self._later[0][0] <= now:
            self._ready.append(heapq.heappop(self._later)[2])
        return self._calls[self._ready.popleft()][0] if self._ready else None

    def finish(self, call: WaitingCall) -> None:
        """Let go of a call that was under way, so that the next one of its user may go."""
        self._held -= 1
        calls = self._calls[call.user]
        calls.popleft()
        if calls:
            self._ready.append(call.user)
        else:
            del self._calls[call.user]

    def postpone(self, call: WaitingCall, until: float) -> None:
        """Have a call that was under way wait; it is the first of its user still."""
        self._calls[call.user][0] = call
        heapq.heappush(self._later, (until, next(self._order), call.user))

    def seconds_to_next(self, now: float) -> float | None:
        """Seconds until a call that waits may go; None where none does."""
        return max(0.0, self._later[0][0] - now) if self._later else None
