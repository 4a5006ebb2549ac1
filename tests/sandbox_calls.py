"""A sandbox whose calls tests of its page look at."""

from collections.abc import Iterable
from datetime import timedelta
from typing import Any

from posts import NOON

from retl.sandbox.ingestion import Stamps
from retl.sandbox.received import CallOutcome, ReceivedCall
from retl.sandbox.store import Store


def identify(user: str, **traits: Any) -> dict[str, Any]:
    """An identify call."""
    return {"type": "identify", "userId": user, "traits": traits}


def track(user: str, event: str, **properties: Any) -> dict[str, Any]:
    """A track call."""
    return {"type": "track", "userId": user, "event": event, "properties": properties}


def arrived(
    seq: int,
    call: dict[str, Any],
    outcome: CallOutcome = CallOutcome.ACCEPTED,
    reason: str | None = None,
    sync: str | None = "users",
    seconds: float | None = None,
) -> ReceivedCall:
    """A call that arrived so many seconds after noon; those of its number where nothing is said."""
    at = NOON + timedelta(seconds=seq if seconds is None else seconds)
    call = {"messageId": f"m{seq}", **call}
    whole = call if outcome is CallOutcome.DISCARDED else Stamps(None, at).on(call)
    return ReceivedCall(seq, at, outcome, reason, whole, sync, f"run-of-{sync}" if sync else None)


def store_of(calls: Iterable[dict[str, Any] | ReceivedCall]) -> Store:
    """A store with calls; one that is no `ReceivedCall` was accepted."""
    store = Store()
    received = [
        one if isinstance(one, ReceivedCall) else arrived(seq, one) for seq, one in enumerate(calls, 1)
    ]
    store.add(received, 0)
    return store


def some_calls() -> Store:
    """A store with calls of three users: two duplicates, and one that was discarded."""
    return store_of(
        [
            identify("ada", email="ada@example.com", plan="free"),
            identify("grace", email="grace@example.com", plan="free"),
            arrived(3, track("ada", "Order Completed", total=10), sync="orders"),
            arrived(4, track("ada", "Segment Entered", segment_name="VIP customers"), sync="vip"),
            identify("ada", email="ada@example.com", plan="pro"),
            arrived(6, {**identify("ada", plan="pro"), "messageId": "m5"}, CallOutcome.DUPLICATE),
            arrived(7, {"type": "track", "userId": "linus"}, CallOutcome.DISCARDED, "event_not_defined"),
            arrived(8, {**identify("ada", plan="pro"), "messageId": "m5"}, CallOutcome.DUPLICATE),
            arrived(9, {"type": "track", "event": "Visit", "anonymousId": "anon-1"}, sync=None),
        ]
    )
