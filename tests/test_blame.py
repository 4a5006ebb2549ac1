import pytest

from retl.delivery.blame import (
    CONTRARY_ANSWERS,
    RETRIES_BEFORE_HALVING,
    WAITS_BEFORE_HALVING,
    Step,
    Tries,
    asks_for_other,
    next_step,
)
from retl.delivery.destination import Action, Decision

FAILS = Decision(Action.RETRY, "500", status=500, may_pass=True)
WILL_NOT_PASS = Decision(Action.RETRY, "200 <html>", status=200)
NO_ANSWER = Decision(Action.RETRY, "reset", unsure=True, may_pass=True)
NOT_REACHED = Decision(Action.RETRY, "connection refused")
PUT_OFF = Decision(Action.RETRY, "429", requested=True, status=429)
GIVEN_UP = Decision(Action.GIVE_UP, "500, 11 times", status=500)
OFTEN = Tries(retries=RETRIES_BEFORE_HALVING + 1)
WAITED = Tries(waits=WAITS_BEFORE_HALVING)

STEPS = [
    (Decision(Action.DELIVERED, "200", status=200), Tries(), 9, Step.DONE),
    (Decision(Action.REFUSED, "401", status=401), OFTEN, 9, Step.STOP),
    (Decision(Action.STOP, "302", status=302), OFTEN, 1, Step.STOP),
    (Decision(Action.SPLIT, "400", status=400), Tries(), 9, Step.HALVE),
    (Decision(Action.SPLIT, "400", status=400), Tries(), 1, Step.HOLD),
    (FAILS, Tries(retries=RETRIES_BEFORE_HALVING), 9, Step.WAIT),
    (FAILS, OFTEN, 9, Step.HALVE),
    (NO_ANSWER, OFTEN, 9, Step.HALVE),
    (FAILS, Tries(is_part=True), 2, Step.HALVE),
    (NOT_REACHED, OFTEN, 9, Step.WAIT),
    (NOT_REACHED, Tries(is_part=True), 9, Step.WAIT),
    (PUT_OFF, Tries(waits=WAITS_BEFORE_HALVING - 1), 9, Step.WAIT),
    (PUT_OFF, WAITED, 9, Step.HALVE),
    (FAILS, OFTEN, 1, Step.WAIT),
    (FAILS, Tries(contrary=CONTRARY_ANSWERS - 1), 1, Step.WAIT),
    (FAILS, Tries(contrary=CONTRARY_ANSWERS), 1, Step.REJECT),
    (GIVEN_UP, Tries(), 9, Step.HALVE),
    (GIVEN_UP, Tries(), 1, Step.STOP),
    (GIVEN_UP, Tries(contrary=1), 1, Step.REJECT),
    (GIVEN_UP, Tries(is_alone=True), 1, Step.HOLD),
    (FAILS, Tries(retries=RETRIES_BEFORE_HALVING + 1, is_alone=True), 1, Step.WAIT),
    (FAILS, Tries(retries=RETRIES_BEFORE_HALVING + 1, is_alone=True, is_behind=True), 1, Step.HOLD),
    (FAILS, Tries(retries=RETRIES_BEFORE_HALVING, is_alone=True, is_behind=True), 1, Step.WAIT),
    (WILL_NOT_PASS, Tries(is_part=True, is_alone=True, is_behind=True), 1, Step.HOLD),
    (WILL_NOT_PASS, Tries(is_part=True, is_alone=True), 1, Step.WAIT),
]


@pytest.mark.rule("L5")
@pytest.mark.parametrize(("decision", "tries", "calls", "step"), STEPS)
def test_what_follows_from_several_answers(decision: Decision, tries: Tries, calls: int, step: Step) -> None:
    """A batch that fails often is halved, and a call alone is the cause only where another one was taken."""
    assert step == next_step(decision, tries, calls)


@pytest.mark.parametrize(
    ("decision", "tries", "calls", "asks"),
    [
        (FAILS, Tries(), 1, False),
        (FAILS, OFTEN, 1, True),
        (FAILS, OFTEN, 2, False),
        (FAILS, Tries(is_part=True), 1, True),
        (PUT_OFF, Tries(waits=1), 1, False),
        (PUT_OFF, WAITED, 1, True),
        (NOT_REACHED, OFTEN, 1, False),
        (GIVEN_UP, Tries(), 1, True),
        (Decision(Action.SPLIT, "400", status=400), OFTEN, 1, False),
    ],
)
def test_another_call_is_tried_where_a_call_alone_fails_often(
    decision: Decision, tries: Tries, calls: int, asks: bool
) -> None:
    """No other call goes out before its turn while the batch may still get through, or was not reached."""
    assert asks == asks_for_other(decision, tries, calls)


def test_a_half_begins_anew() -> None:
    """A half of a batch has its own attempts, retries, waits and contrary answers to come."""
    tries = Tries(waits=2, contrary=1).after(FAILS).after(PUT_OFF).after(FAILS)
    assert Tries(attempts=3, retries=2, waits=3, contrary=1) == tries
    assert Tries(is_part=True) == tries.of_half()
