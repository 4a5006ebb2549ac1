"""A webhook by itself: its signature, the meaning of its answers, waits, and the order of its calls."""

from random import Random

import pytest

from retl.sandbox.forward_queue import ForwardQueue, WaitingCall
from retl.sandbox.webhook import LONGEST_WAIT, ForwardStep, Webhook, is_meant, next_step, wait_before


def test_the_signature_is_that_of_segments_code() -> None:
    """For a body that Segment's code of the destination signed, the signature is the same."""
    body = (
        b'{"type":"identify","userId":"97980cfea0067","traits":{"name":"Peter Gibbons"},'
        b'"timestamp":"2026-01-05T10:12:00.000Z"}'
    )

    headers = Webhook("http://127.0.0.1/", secret="s").headers_for(body)

    assert "432b88613fc88d9593246771715f155547892b66" == headers["X-Signature"]


@pytest.mark.parametrize(
    ("attempts", "asked", "least", "most"),
    [(1, 0, 0.5, 1), (2, 0, 1, 2), (5, 0, 8, 16), (40, 0, 150, 300), (1, 7, 7, 7), (1, 9_999, 300, 300)],
)
def test_waits_grow(attempts: int, asked: float, least: float, most: float) -> None:
    """A wait doubles with each attempt, half of it by chance; the webhook may ask for a longer one."""
    random = Random(1)

    waits = [wait_before(attempts, asked, 1.0, random) for _ in range(50)]

    assert least <= min(waits) <= max(waits) <= most <= LONGEST_WAIT
    assert len(set(waits)) == 1 or not asked


@pytest.mark.parametrize(
    ("status", "step"),
    [
        (None, ForwardStep.RETRY),
        (200, ForwardStep.DELIVERED),
        (204, ForwardStep.DELIVERED),
        (302, ForwardStep.GIVE_UP),
        (404, ForwardStep.GIVE_UP),
        (429, ForwardStep.RETRY),
        (501, ForwardStep.GIVE_UP),
        (503, ForwardStep.RETRY),
    ],
)
def test_next_steps(status: int | None, step: ForwardStep) -> None:
    """The next step follows from the status alone; no answer is as a busy one."""
    assert step is next_step(status)


@pytest.mark.parametrize(
    ("integrations", "meant"),
    [
        (None, True),
        ({}, True),
        ({"All": True}, True),
        ({"All": False}, False),
        ({"All": False, "Webhooks (Actions)": True}, True),
        ({"All": False, "Webhooks": {"url": "x"}}, True),
        ({"Webhooks": False}, False),
        ({"All": False, "Insider Cloud Mode (Actions)": True}, False),
        ("text", True),
    ],
)
def test_integrations(integrations: object, meant: bool) -> None:
    """A call goes to webhooks unless its `integrations` switch them off, or all."""
    assert meant is is_meant(integrations)


def test_a_queue_hands_out_one_call_of_a_user_at_a_time() -> None:
    """While a call is under way, or waits, the later ones of its user stay; others go."""
    queue = ForwardQueue()
    first, second, other = (WaitingCall(seq, user, b"") for seq, user in ((1, "u1"), (2, "u1"), (3, "u2")))
    for one in (first, second, other):
        queue.add(one)

    assert (first, other, None) == (queue.take(0.0), queue.take(0.0), queue.take(0.0))
    queue.postpone(first, until=5.0)
    assert (None, 1.0) == (queue.take(4.0), queue.seconds_to_next(4.0))
    assert first == queue.take(5.0)
    queue.finish(first)
    queue.finish(other)
    assert second == queue.take(5.0)
    queue.finish(second)
    assert (0, None, None) == (len(queue), queue.take(9.0), queue.seconds_to_next(9.0))
