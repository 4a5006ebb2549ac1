"""A local Segment: what it answers to a request, and what it keeps of the calls."""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from http import HTTPStatus
from operator import itemgetter
from random import Random
from typing import Any

from retl.sandbox.body import (
    RefusalError,
    exceeds,
    failure,
    read_calls,
    read_envelope,
    read_write_key,
    told_run,
    unpacked,
)
from retl.sandbox.counts import Counts
from retl.sandbox.failures import Failures, Reply
from retl.sandbox.ingestion import CALL_LIMIT
from retl.sandbox.intake import outcomes
from retl.sandbox.kept import Kept
from retl.sandbox.known_ids import KnownIds
from retl.sandbox.received import CallOutcome, ReceivedCall
from retl.sandbox.request import Request
from retl.sandbox.store import Store
from retl.sandbox.throttle import Throttle


class LocalSegment:
    """Segment as requests find it, whatever brings them: its rules, its failures, and what it has taken.

    Args:
        failures: what goes wrong by chance.
        now: the clock that stamps arrivals; must tell its zone.
        unknown_keys: write keys that Segment does not know. The settings question answers 404 for them;
            calls sent with one of them, or with none, are discarded under a 200.
        keep: how many calls of each outcome are held for Python, the newest, and no more than `KEPT_BYTES`
            of each; counts go on beyond.
        store: takes all calls; None where the first page that is asked for is to open one.
        reject_if: any request that holds such a call is answered 400.
        reply_if: gives a call the reply that any request which holds it gets; None is the plain one.
        seed: of the chances of `failures`.

    Attributes:
        asked_at: when the last request came, of calls or for a page, on the monotonic clock.
    """

    def __init__(
        self,
        *,
        failures: Failures | None = None,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        unknown_keys: Iterable[str] = (),
        keep: int = 100_000,
        store: Store | None = None,
        reject_if: Callable[[dict[str, Any]], bool] | None = None,
        reply_if: Callable[[dict[str, Any]], Reply | None] | None = None,
        seed: int = 0,
    ) -> None:
        self.url = ""  # where it can be reached, once it can
        self.failures = failures or Failures()
        self.started_at = datetime.now(UTC)
        self.asked_at = time.monotonic()
        self.unknown_keys = frozenset(unknown_keys)
        self.reject_if = reject_if
        self.reply_if = reply_if
        self.closing = threading.Event()
        self._now = now
        self._random = Random(seed)
        self._throttle = Throttle(self.failures.calls_per_second)
        self._lock = threading.Lock()
        self._reading = threading.Lock()
        self._script: deque[Reply] = deque()
        self._known_ids = KnownIds()
        self._requests: Kept[Request] = Kept(keep)
        self._calls: dict[CallOutcome, Kept[ReceivedCall]] = {outcome: Kept(keep) for outcome in CallOutcome}
        self._store = store
        self._last = 0
        self._counts = Counts()

    def script(self, answers: Iterable[Reply]) -> None:
        """Line up answers, one for each POST to come; chance waits until they are used up."""
        with self._lock:
            self._script.extend(answers)

    @property
    def accepted(self) -> list[dict[str, Any]]:
        """The calls that Segment would pass on, as it would, in order of arrival."""
        return [one.call for one in self._held(CallOutcome.ACCEPTED)]

    @property
    def discarded(self) -> list[tuple[str, Any]]:
        """The calls thrown away under a 200, each after its discard code, in order of arrival."""
        return [(one.reason or "", one.call) for one in self._held(CallOutcome.DISCARDED)]

    @property
    def duplicates(self) -> list[str]:
        """The message ids that came again, in order of arrival."""
        return [one.call["messageId"] for one in self._held(CallOutcome.DUPLICATE)]

    def _held(self, outcome: CallOutcome) -> list[ReceivedCall]:
        with self._lock:
            return self._calls[outcome].all()

    @property
    def store(self) -> Store:
        """The tables of the calls; the first time, of those that are held."""
        with self._lock:
            if self._store is None:
                self._store = Store()
                held = (one for kept in self._calls.values() for one in kept.all())
                self._store.add(sorted(held, key=itemgetter(0)), 0)
            return self._store

    @property
    def requests(self) -> list[Request]:
        """The newest requests, as many as hold `keep` calls together; those for the listing are left out."""
        with self._lock:
            return self._requests.all()

    def summary(self) -> dict[str, Any]:
        """Count so far: `requests`, `accepted`, `duplicates`, and `discarded` by code."""
        with self._lock:
            return self._counts.summary()

    def runs(self) -> list[dict[str, Any]]:
        """Count by run; see `Counts.of_runs`."""
        with self._lock:
            return self._counts.of_runs()

    def fail(self, failures: Failures) -> None:
        """Go wrong in another way from now on."""
        with self._lock:
            self.failures = failures
            self._throttle = Throttle(failures.calls_per_second)

    def clear(self) -> None:
        """Forget all calls, requests, counts and message ids, as if none had arrived."""
        with self._lock:
            self._counts.clear()
            self._known_ids.clear()
            self._requests.clear()
            for kept in self._calls.values():
                kept.clear()
            if self._store is not None:
                self._store.clear()

    def close(self) -> None:
        """Let go of the tables."""
        with self._lock:
            if self._store is not None:
                self._store.close()
                self._store = None

    def next_reply(self) -> Reply:
        """Take what the script, or else chance, has for the next POST."""
        with self._lock:
            return self._script.popleft() if self._script else self.failures.draw(self._random)

    def receive(self, path: str, headers: Mapping[str, str], body: bytes, reply: Reply) -> Reply:
        """Check a POST, take its calls where `reply` lets it, and note it; returns the reply to send."""
        with self._reading:  # threads that read at once slow each other down, and Python lets one work
            reply = self._receive(path, headers, body, reply)
        store = self._store
        if store is not None:
            store.settle()
        return reply

    def _receive(self, path: str, headers: Mapping[str, str], body: bytes, reply: Reply) -> Reply:
        calls: list[Any] = []
        word = reply.word
        try:
            body = unpacked(body, headers)
            envelope = read_envelope(path, headers, body)
            calls = read_calls(path, envelope)
            self._check(calls)
        except RefusalError as refusal:
            if reply.takes_calls:
                reply = replace(reply, status=refusal.status, body=failure(str(refusal)))
        if reply.takes_calls and (seconds := self._seconds_to_wait(len(calls))):
            reply, word = Reply(HTTPStatus.TOO_MANY_REQUESTS, retry_after=seconds), "rate"
        if reply.takes_calls and self.reply_if:
            reply = next(filter(None, map(self.reply_if, calls)), reply)
            word = reply.word
        if reply.takes_calls and not (reply.lost and self.reply_if):
            self._take(calls, envelope, headers, len(body))
        self.note(Request("POST", path, headers, body, len(calls), reply.seen_status, failure=word))
        return reply

    def _seconds_to_wait(self, calls: int) -> int:
        if not self.failures.calls_per_second:
            return 0
        with self._lock:
            return self._throttle.seconds_to_wait(calls, self._now())

    def note(self, request: Request) -> None:
        """Remember a request."""
        with self._lock:
            self._counts.requests += 1
            size = len(request.body) + sum(len(one) for header in request.headers.items() for one in header)
            self._requests.append(request, size, max(request.calls, 1))
            if self._store is not None:
                self._store.note(request)

    def _check(self, calls: list[Any]) -> None:
        for call in calls:
            if exceeds(call, CALL_LIMIT):
                raise RefusalError(400, f"a call exceeds {CALL_LIMIT} bytes")
            if self.reject_if and isinstance(call, dict) and self.reject_if(call):
                raise RefusalError(400, "a call is rejected")

    def _take(
        self, calls: list[Any], envelope: dict[str, Any], headers: Mapping[str, str], size: int
    ) -> None:
        """Take the calls of a request of so many bytes."""
        write_key = read_write_key(headers, envelope)
        is_known = write_key is not None and write_key not in self.unknown_keys
        sync, run_id = told_run(headers)
        shared = size // max(len(calls), 1)
        with self._lock:
            arrival = self._now().astimezone(UTC)
            first = self._last + 1
            decided = outcomes(calls, envelope, arrival, is_known, self._known_ids)
            received = [
                ReceivedCall(seq, arrival, outcome, reason, call, sync, run_id)
                for seq, (outcome, reason, call) in enumerate(decided, first)
            ]
            self._last += len(received)
            for outcome, kept in self._calls.items():
                kept.extend((one for one in received if one.outcome is outcome), shared)
            self._counts.add(received)
            if self._store is not None:
                self._store.add(received, size)
