"""Accepted calls on their way to a webhook, in threads of their own."""

import json
import threading
import time
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from random import Random
from typing import Any

from retl.delivery.address import is_local
from retl.delivery.http import Http, NoAnswer
from retl.sandbox.forward_queue import ForwardQueue, WaitingCall
from retl.sandbox.store import Store
from retl.sandbox.webhook import (
    ANSWER_SECONDS,
    FIRST_WAIT,
    RETRY_SECONDS,
    ForwardStep,
    Webhook,
    is_meant,
    next_step,
    wait_before,
)

CONNECTIONS = 4
"""Requests at a time."""

LOOK_SECONDS = 0.05
"""How long a wait for calls lasts before it is seen whether all is to end."""


@dataclass(frozen=True)
class ForwardLimits:
    """How long a call is tried, and how many are held for it.

    Attributes:
        answer_seconds: that an answer may take.
        first_wait: seconds before the second attempt, at most; doubled from then on.
        give_up_seconds: after which a call is given up.
        held: calls that are held to be posted; the others stay in the store until there is room.
    """

    answer_seconds: float = ANSWER_SECONDS
    first_wait: float = FIRST_WAIT
    give_up_seconds: float = RETRY_SECONDS
    held: int = 2_000


class Forwarding:
    """Posts the accepted calls of a store to a webhook, for as long as it is entered.

    Calls of one user keep their order; those of others do not wait for them.

    Args:
        webhook: takes the calls.
        store: has them.
        limits: of attempts, and of what is held.
    """

    def __init__(self, webhook: Webhook, store: Store, limits: ForwardLimits | None = None) -> None:
        self._webhook = webhook
        self._store = store
        self._limits = limits or ForwardLimits()
        self._random = Random(0)
        self._queue = ForwardQueue()
        self._changed = threading.Condition()
        self._closing = threading.Event()
        self._read_to = 0
        self._counts = Counter(delivered=0, retried=0, given_up=0, switched_off=0, missed=0)
        self._last_error: dict[str, Any] | None = None
        self._http = Http(
            webhook.url,
            CONNECTIONS,
            most_seconds=self._limits.answer_seconds,
            direct=is_local(webhook.url),
        )
        work = [self._read, *[self._post] * CONNECTIONS]
        self._threads = [threading.Thread(target=one, name="webhook", daemon=True) for one in work]

    def __enter__(self) -> "Forwarding":
        """Start with the oldest call of the store."""
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """End at once; a request under way is broken off, and calls that wait are not posted."""
        self._closing.set()
        with self._changed:
            self._changed.notify_all()
        self._http.close()
        for thread in self._threads:
            thread.join()

    def wait_until_done(self, seconds: float) -> bool:
        """Wait until all calls that came are delivered or given up, at most so long; whether they are."""
        last = self._store.holdings()["last"]
        with self._changed:
            return self._changed.wait_for(lambda: self._read_to >= last and not self._queue, seconds)

    def summary(self) -> dict[str, Any]:
        """Count the calls that are `delivered`, `given_up`, or `waiting` of those that were read.

        `retried` counts attempts, `switched_off` the calls whose `integrations` keep them from webhooks, and
        `missed` those of any outcome that the store had let go before they were read. `last_error` says when
        and how an attempt failed last; None where none did.
        """
        with self._changed:
            return {
                "webhook": self._webhook.shown,
                **self._counts,
                "waiting": len(self._queue),
                "last_error": self._last_error,
            }

    def _read(self) -> None:
        """Bring calls of the store into the queue, as many as there is room for."""
        while not self._closing.is_set():
            with self._changed:
                room = self._limits.held - len(self._queue)
                if room < self._limits.held // 2:
                    self._changed.wait(LOOK_SECONDS)
                    continue
            if self._store.wait(self._read_to, LOOK_SECONDS):
                self._take_in(room)

    def _take_in(self, room: int) -> None:
        last = self._store.holdings()["last"]
        rows = self._store.read(_NEXT, [self._read_to, self._read_to, room])
        with self._changed:
            for row in rows:
                if is_meant(json.loads(row["integrations"] or "null")):
                    self._queue.add(WaitingCall(row["seq"], row["user"], row["body"].encode()))
                else:
                    self._counts["switched_off"] += 1
            oldest = rows[0]["oldest"] if rows else None
            if oldest is not None and oldest > self._read_to + 1:
                self._counts["missed"] += oldest - self._read_to - 1
            read_to = rows[-1]["seq"] if rows else self._read_to
            # Where there are fewer than there is room for, no accepted call is left up to the last one.
            self._read_to = read_to if len(rows) == room else max(read_to, last)
            self._changed.notify_all()

    def _post(self) -> None:
        """Post calls, one after the other."""
        while not self._closing.is_set():
            with self._changed:
                call = None if self._closing.is_set() else self._queue.take(time.monotonic())
                if self._closing.is_set():
                    return
                if call is None:
                    self._changed.wait(self._queue.seconds_to_next(time.monotonic()))
                    continue
            first_at = call.first_at or time.monotonic()
            status, headers, error = self._attempt(call)
            if self._closing.is_set():
                return
            self._decide(call._replace(attempts=call.attempts + 1, first_at=first_at), status, headers, error)

    def _attempt(self, call: WaitingCall) -> tuple[int | None, Mapping[str, str], str]:
        """Post a call: the status and headers of the answer, or why there is none."""
        try:
            headers = self._webhook.headers_for(call.body)
            status, answered, _ = self._http.request("POST", self._webhook.url, headers, call.body)
        except NoAnswer as error:
            # Its text may name the URL, and with it a key.
            return None, {}, str(error).replace(self._webhook.url, self._webhook.shown)
        return status, answered, f"answered {status}"

    def _decide(self, call: WaitingCall, status: int | None, headers: Mapping[str, str], error: str) -> None:
        """Take the next step for a call after an attempt."""
        step = next_step(status)
        now = time.monotonic()
        with self._changed:
            until = now + wait_before(call.attempts, _asked(headers), self._limits.first_wait, self._random)
            if step is ForwardStep.RETRY and until - call.first_at > self._limits.give_up_seconds:
                step = ForwardStep.GIVE_UP
            if step is ForwardStep.DELIVERED:
                self._counts["delivered"] += 1
                self._queue.finish(call)
            else:
                self._last_error = {"at": datetime.now(UTC).isoformat(timespec="seconds"), "error": error}
                if step is ForwardStep.RETRY:
                    self._counts["retried"] += 1
                    self._queue.postpone(call, until)
                else:
                    self._counts["given_up"] += 1
                    self._queue.finish(call)
            self._changed.notify_all()


def _asked(headers: Mapping[str, str]) -> float:
    """Seconds that a webhook asks to wait; 0 where it does not, or says a date."""
    with suppress(ValueError):
        return max(0.0, float(headers.get("Retry-After", 0)))
    return 0.0


_NEXT = """
SELECT
    seq,
    coalesce(user_id, anonymous_id, message_id) AS "user",
    body,
    body -> '$.integrations' AS integrations,
    (SELECT min(seq) FROM call WHERE seq > ?) AS oldest
FROM call
WHERE seq > ? AND outcome = 'accepted'
ORDER BY seq
LIMIT ?
"""
