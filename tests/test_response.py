import math
from functools import partial

import pytest

from retl.delivery import response
from retl.delivery.destination import Decision
from retl.delivery.response import Action, Response, RetryPolicy

POLICY = RetryPolicy(base=0.5, cap=60.0, jitter=0.1, retries=10)


def decide(answer: Response, retry: int = 0, chance: float = 0.0) -> Decision:
    """The decision after an answer to a batch that was retried so often, each time counted."""
    return response.decide(answer, retry, POLICY, chance)


LASTING = [
    Response(200, "<html>"),
    Response(200, '{"success": false}'),
    Response(None, error="no such host", lasting=True),
    Response(None, error="no TLS", lasting=True, unsure=True),
]

PASSING = [
    Response(408),
    Response(429),
    Response(500),
    Response(529),
    Response(None, error="connection refused"),
    Response(None, error="connection reset", unsure=True),
]


@pytest.mark.parametrize("answer", LASTING + PASSING, ids=str)
def test_counted_retries_run_out(answer: Response) -> None:
    """After as many retries as the policy allows a call may be the cause, if it left; else the way there.

    A server that is not reached and may be soon is tried again without end.
    """
    left = answer.status is not None or answer.unsure
    end = Action.GIVE_UP if left else Action.STOP if answer.lasting else Action.RETRY
    assert [Action.RETRY] * 10 + [end] * 2 == [decide(answer, retry).action for retry in range(12)]
    assert {answer in PASSING} == {decide(answer, retry).may_pass for retry in (0, 9, 10, 11)}


def test_waits_double_up_to_the_cap() -> None:
    """Each counted wait is twice the one before, until the cap."""
    unreached = partial(decide, Response(None, error="connection refused"))
    waits = [unreached(retry).wait for retry in (*range(10), 1_000_000)]
    assert [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0, 60.0, 60.0] == waits


def test_jitter_makes_a_wait_longer_never_shorter() -> None:
    """Chance adds at most its share to a wait, so that clients that failed together part."""
    waits = [decide(Response(500), 3, chance).wait for chance in (0.0, 0.5, math.nextafter(1, 0))]
    assert 4.0 == waits[0] < waits[1] < waits[2] <= 4.4


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
    assert words == decide(answer).reason


def test_giving_up_says_after_how_many_attempts() -> None:
    """When retries run out, the reason tells how often it was tried."""
    assert "503, 11 times" == decide(Response(503), 10).reason
