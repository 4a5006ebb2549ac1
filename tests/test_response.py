import math

import pytest

from retl.delivery.response import Answer, Patience, Verdict, judge

PATIENCE = Patience(base=0.5, cap=60.0, jitter=0.1, retries=10)

DELIVERED = [
    Answer(200, '{"success": true}'),
    Answer(200, '{\n  "success": true\n}'),
    Answer(200, ""),
    Answer(200, "OK"),
    Answer(202, "{}"),
    Answer(204),
]

TRIED_AGAIN = [
    Answer(200, "<html>Sign in to the hotel's network</html>"),
    Answer(200, "\ufeff \n<!DOCTYPE html>"),
    Answer(200, '{"success": false, "message": "no"}'),
    Answer(200, '{"message": "a long answer that was cut off'),
    Answer(408),
    Answer(410),
    Answer(429),
    Answer(460),
    Answer(500),
    Answer(502),
    Answer(503),
    Answer(504),
    Answer(529),
    Answer(None, error="connection refused"),
    Answer(None, error="connection reset", unsure=True),
]

SPLIT = [Answer(400), Answer(413), Answer(400, retry_after=7)]

REFUSED = [Answer(401), Answer(403)]

STOPPED = [
    Answer(300),
    Answer(301),
    Answer(302),
    Answer(307),
    Answer(308),
    Answer(404),
    Answer(405),
    Answer(415),
    Answer(422),
    Answer(501),
    Answer(505),
    Answer(511),
]

TABLE = [
    *((answer, Verdict.DELIVERED) for answer in DELIVERED),
    *((answer, Verdict.RETRY) for answer in TRIED_AGAIN),
    *((answer, Verdict.SPLIT) for answer in SPLIT),
    *((answer, Verdict.REFUSED) for answer in REFUSED),
    *((answer, Verdict.STOP) for answer in STOPPED),
]


@pytest.mark.rule("L6")
@pytest.mark.parametrize(
    ("answer", "verdict"), TABLE, ids=[f"{answer.status} {answer.body[:12]!r}" for answer, _ in TABLE]
)
def test_each_answer_has_its_verdict(answer: Answer, verdict: Verdict) -> None:
    """What to do next follows from status and body as Segment and its clients have it."""
    assert verdict == judge(answer, 0, PATIENCE, 0.0).verdict


@pytest.mark.parametrize("answer", TRIED_AGAIN, ids=lambda answer: str(answer.status))
def test_counted_retries_run_out(answer: Answer) -> None:
    """A batch is tried again as often as patience allows, and then delivery stops; no call is given up."""
    verdicts = [judge(answer, retry, PATIENCE, 0.0).verdict for retry in range(12)]
    assert [Verdict.RETRY] * 10 + [Verdict.STOP] * 2 == verdicts


def test_waits_double_up_to_the_cap() -> None:
    """Each counted wait is twice the one before, until the cap."""
    waits = [judge(Answer(500), retry, PATIENCE, 0.0).wait for retry in range(10)]
    assert [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0, 60.0] == waits


def test_jitter_makes_a_wait_longer_never_shorter() -> None:
    """Chance adds at most its share to a wait, so that clients that failed together part."""
    waits = [judge(Answer(500), 3, PATIENCE, chance).wait for chance in (0.0, 0.5, math.nextafter(1, 0))]
    assert 4.0 == waits[0] < waits[1] < waits[2] <= 4.4


@pytest.mark.parametrize("status", [200, 408, 410, 429, 460, 500, 503, 529])
def test_retry_after_is_obeyed_on_every_retryable_answer(status: int) -> None:
    """A wait that the server asks for is taken as it is, is not counted, and holds for every lane."""
    answer = Answer(status, '{"success": false}', retry_after=3600)
    receipt = judge(answer, 10, PATIENCE, 0.9)
    assert (Verdict.RETRY, 3600.0, True) == (receipt.verdict, receipt.wait, receipt.directed)


def test_retry_after_of_zero_does_not_spin() -> None:
    """`Retry-After: 0` names no wait, so that the counted one is taken and retries run out."""
    first, last = (judge(Answer(429, retry_after=0), retry, PATIENCE, 0.0) for retry in (0, 10))
    assert (Verdict.RETRY, 0.5, False) == (first.verdict, first.wait, first.directed)
    assert Verdict.STOP == last.verdict


@pytest.mark.parametrize("answer", [*SPLIT, *REFUSED, *STOPPED], ids=lambda answer: str(answer.status))
def test_no_wait_where_no_retry_follows(answer: Answer) -> None:
    """A verdict that is not to retry asks for no wait, whatever the server says."""
    receipt = judge(answer, 0, PATIENCE, 0.5)
    assert (0.0, False) == (receipt.wait, receipt.directed)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (Answer(400, "  too\n large "), "400 too large"),
        (Answer(503), "503"),
        (Answer(302), "a redirect (302), which would lose the calls"),
        (Answer(200, "<html>"), "200 without success: <html>"),
        (Answer(None, error="connection refused"), "connection refused"),
        (Answer(None), "no answer"),
        (Answer(500, "x" * 500), "500 " + "x" * 120),
    ],
)
def test_reason_is_the_answer_in_a_few_words(answer: Answer, words: str) -> None:
    """The reason names status and body in one short line."""
    assert words == judge(answer, 0, PATIENCE, 0.0).reason


def test_giving_up_says_after_how_many_attempts() -> None:
    """When retries run out, the reason tells how often it was tried."""
    assert "503, 11 times" == judge(Answer(503), 10, PATIENCE, 0.0).reason
