"""Segment on a bad day: what it answers, and a destination whose requests are steps of a run."""

from retl.delivery.batch import Batch
from retl.delivery.destination import Attempt, Decision, Limits
from retl.delivery.rate_limit import RateLimiter
from retl.delivery.response import RetryPolicy
from retl.delivery.segment import MAX_BATCH_BYTES, Segment, Source
from retl.sandbox.failures import Reply
from torture.fuse import Fuse
from torture.turns import Turns

KEY = "a write key"

ANSWERS = {
    "answer lost": Reply(lost=True),
    "connection reset": Reply(refused=True),
    "500": Reply(500),
    "503": Reply(503),
    "429 with Retry-After": Reply(429, retry_after=7),
    "429": Reply(429),
    "401": Reply(401),
    "redirect": Reply(302, location="http://127.0.0.1:9/"),
    "200 with HTML": Reply(200, body="<html>Sign in</html>", content_type="text/html"),
    "404": Reply(404),
}
"""Its answers, each for one request."""


class TakingTurns(Segment):
    """Segment with small batches, whose requests are steps, before and after which other threads work."""

    def __init__(self, url: str, turns: Turns, fuse: Fuse, connections: int, batch_calls: int) -> None:
        retry_policy = RetryPolicy(jitter=0.0, retries=2)
        super().__init__(Source(url, KEY), RateLimiter(0, turns), retry_policy, connections)
        self._turns = turns
        self._fuse = fuse
        self._batch_calls = batch_calls

    @property
    def limits(self) -> Limits:
        """Few calls in a batch, so that there are many."""
        return Limits(self._batch_calls, MAX_BATCH_BYTES)

    def send(self, batch: Batch, attempt: Attempt) -> Decision:
        """Send a batch in the thread's turn."""
        self._turns.pause()
        self._fuse.burn("before a request")
        decision = super().send(batch, attempt)
        self._fuse.burn("after an answer")
        self._turns.pause()
        return decision
