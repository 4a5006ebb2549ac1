import math

import pytest

from retl.delivery.response import Action, Response, RetryPolicy, decide

POLICY = RetryPolicy(base=0.5, cap=60.0, jitter=0.1, retries=10)

DELIVERED = [
    Response(200, '{"success": true}'),
    Response(200, '{\n  "success": true\n}'),
    Response(200, ""),
    Response(200, "OK"),
    Response(202, "{}"),
    Response(204),
    Response(200, '{"ok": true, "errors": [], "error": null, "status": "ok"}'),
    Response(200, '["taken"]'),
]

TRIED_AGAIN = [
    Response(200, "<html>Sign in to the hotel's network</html>"),
    Response(200, "\ufeff \n<!DOCTYPE html>"),
    Response(200, '{"success": false, "message": "no"}'),
    Response(200, '{"success": "False"}'),
    Response(200, '{"ok": false, "errors": ["Message ID: m1"], "receivedEvents": 1, "okEvents": 0}'),
    Response(200, '{"errors": ["unknown source"]}'),
    Response(200, '{"error": "unknown source"}'),
    Response(200, '{"status": "error"}'),
    Response(200, '{"message": "a long answer that was cut off'),
    Response(200, "[" * 10_000),
    Response(200, '{"a":' * 10_000),
    Response(408),
    Response(410),
    Response(429),
    Response(460),
    Response(500),
    Response(502),
    Response(503),
    Response(504),
    Response(529),
    Response(None, error="connection refused"),
    Response(None, error="connection reset", unsure=True),
]

SPLIT = [
    Response(400),
    Response(413),
    Response(400, retry_after=7),
    Response(415),
    Response(422),
    Response(499),
]

REFUSED = [Response(401), Response(403)]

GIVEN_UP = [Response(404), Response(405), Response(501), Response(505)]

STOPPED = [
    Response(300),
    Response(301),
    Response(302),
    Response(307),
    Response(308),
    Response(407),
    Response(511),
    Response(999),
]

TABLE = [
    *((answer, Action.DELIVERED) for answer in DELIVERED),
    *((answer, Action.RETRY) for answer in TRIED_AGAIN),
    *((answer, Action.SPLIT) for answer in SPLIT),
    *((answer, Action.REFUSED) for answer in REFUSED),
    *((answer, Action.GIVE_UP) for answer in GIVEN_UP),
    *((answer, Action.STOP) for answer in STOPPED),
]


@pytest.mark.rule("L6")
@pytest.mark.parametrize(
    ("answer", "action"), TABLE, ids=[f"{answer.status} {answer.body[:12]!r}" for answer, _ in TABLE]
)
def test_each_answer_leads_to_its_action(answer: Response, action: Action) -> None:
    """What to do next follows from status and body as Segment and its clients have it."""
    assert action == decide(answer, 0, POLICY, 0.0).action


@pytest.mark.parametrize("answer", TRIED_AGAIN, ids=lambda answer: str(answer.status))
def test_counted_retries_run_out(answer: Response) -> None:
    """After as many retries as the policy allows a call in it may be the cause, if it left."""
    actions = [decide(answer, retry, POLICY, 0.0).action for retry in range(12)]
    left = answer.status is not None or answer.unsure
    assert [Action.RETRY] * 10 + [Action.GIVE_UP if left else Action.STOP] * 2 == actions


def test_waits_double_up_to_the_cap() -> None:
    """Each counted wait is twice the one before, until the cap."""
    waits = [decide(Response(500), retry, POLICY, 0.0).wait for retry in range(10)]
    assert [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0, 60.0] == waits


def test_jitter_makes_a_wait_longer_never_shorter() -> None:
    """Chance adds at most its share to a wait, so that clients that failed together part."""
    waits = [decide(Response(500), 3, POLICY, chance).wait for chance in (0.0, 0.5, math.nextafter(1, 0))]
    assert 4.0 == waits[0] < waits[1] < waits[2] <= 4.4


@pytest.mark.parametrize("status", [200, 408, 410, 429, 460, 500, 503, 529])
def test_retry_after_is_obeyed_on_every_retryable_answer(status: int) -> None:
    """A wait that the server asks for is taken as it is, is not counted, and holds for every lane."""
    answer = Response(status, '{"success": false}', retry_after=3600)
    decision = decide(answer, 10, POLICY, 0.9)
    assert (Action.RETRY, 3600.0, True) == (decision.action, decision.wait, decision.requested)


def test_retry_after_of_zero_does_not_spin() -> None:
    """`Retry-After: 0` names no wait, so that the counted one is taken and retries run out."""
    first, last = (decide(Response(429, retry_after=0), retry, POLICY, 0.0) for retry in (0, 10))
    assert (Action.RETRY, 0.5, False) == (first.action, first.wait, first.requested)
    assert Action.GIVE_UP == last.action


@pytest.mark.parametrize("answer", [*SPLIT, *REFUSED, *STOPPED], ids=lambda answer: str(answer.status))
def test_no_wait_where_no_retry_follows(answer: Response) -> None:
    """An action that is not to retry asks for no wait, whatever the server says."""
    decision = decide(answer, 0, POLICY, 0.5)
    assert (0.0, False) == (decision.wait, decision.requested)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (Response(400, "  too\n large "), "400 too large"),
        (Response(503), "503"),
        (Response(302), "a redirect (302), which would lose the calls"),
        (Response(200, "<html>"), "200 without success: <html>"),
        (Response(None, error="connection refused"), "connection refused"),
        (Response(None), "no answer"),
        (Response(500, "x" * 500), "500 " + "x" * 120),
    ],
)
def test_reason_is_the_answer_in_a_few_words(answer: Response, words: str) -> None:
    """The reason names status and body in one short line."""
    assert words == decide(answer, 0, POLICY, 0.0).reason


def test_giving_up_says_after_how_many_attempts() -> None:
    """When retries run out, the reason tells how often it was tried."""
    assert "503, 11 times" == decide(Response(503), 10, POLICY, 0.0).reason
