"""Blame: whether a batch that does not get through is the cause itself, or its destination; all pure.

A call that a destination cannot take looks like a destination that is down. Two things tell them apart. A
batch that fails is halved, so that the good calls before the bad one get through. And where a call fails
alone, another user's call is tried: if it is taken, the first call is the cause, and is rejected; if none is
taken, it is the destination, and all calls stay pending. Where there is no other to try, the call is held,
and its lane goes on behind it: if a later call is taken, it was the cause.
"""

from dataclasses import dataclass, replace
from enum import StrEnum

from retl.delivery.destination import Action, Decision

RETRIES_BEFORE_HALVING = 3
"""Retries after which a batch of several calls is halved."""

WAITS_BEFORE_HALVING = 10
"""Waits that the destination asked for, after which it is, too: a lone call may be what it does not like."""

CONTRARY_ANSWERS = 4
"""Failures of a call alone, after each of which another call was taken, that show it to be the cause.

Where every second answer is a 500 by chance, a call in a thousand is rejected by mistake, and can be retried.
"""


class Step(StrEnum):
    """The next step for a batch."""

    DONE = "done"  # the destination has it
    WAIT = "wait"  # then send it again
    HALVE = "halve"  # deliver each half on its own
    HOLD = "hold"  # a call failed alone: go on behind it, and reject it as soon as another one is taken
    REJECT = "reject"  # a call alone is the cause
    STOP = "stop"  # it is the destination: keep all calls pending


@dataclass(frozen=True)
class Tries:
    """The attempts to deliver one batch.

    Attributes:
        attempts: with this very batch.
        retries: counted ones.
        waits: that the destination asked for.
        contrary: failures after each of which another call was taken.
        is_part: whether it is a part of a batch that failed.
        is_alone: whether there was no other call to try.
        is_behind: whether calls before it in its lane are held.
    """

    attempts: int = 0
    retries: int = 0
    waits: int = 0
    contrary: int = 0
    is_part: bool = False
    is_alone: bool = False
    is_behind: bool = False

    def after(self, decision: Decision) -> "Tries":
        """The tries after one more attempt."""
        is_retry = decision.action is Action.RETRY
        return replace(
            self,
            attempts=self.attempts + 1,
            retries=self.retries + (is_retry and not decision.requested),
            waits=self.waits + (is_retry and decision.requested),
        )

    def beside(self, other_is_taken: bool | None, is_behind: bool) -> "Tries":
        """The tries after another call was tried, or after there was none to try."""
        contrary = self.contrary + bool(other_is_taken)
        return replace(self, contrary=contrary, is_alone=other_is_taken is None, is_behind=is_behind)

    def of_half(self) -> "Tries":
        """The tries of a half: its own are all to come."""
        return Tries(is_part=True)

    @property
    def failed_often(self) -> bool:
        """Whether the batch itself may be the cause."""
        return self.is_part or self.retries > RETRIES_BEFORE_HALVING or self.waits >= WAITS_BEFORE_HALVING


def asks_for_other(decision: Decision, tries: Tries, calls: int) -> bool:
    """Whether another call is to be tried now, to see if the destination takes that one."""
    if calls > 1 or not decision.reached or decision.action not in {Action.RETRY, Action.GIVE_UP}:
        return False
    return decision.action is Action.GIVE_UP or tries.failed_often


def next_step(decision: Decision, tries: Tries, calls: int) -> Step:
    """The step after an attempt with so many calls, and after another call was tried where that was asked."""
    match decision.action:
        case Action.DELIVERED:
            return Step.DONE
        case Action.REFUSED | Action.STOP:
            return Step.STOP
        case Action.SPLIT:
            return Step.HALVE if calls > 1 else Step.HOLD
        case Action.GIVE_UP:
            if calls > 1:
                return Step.HALVE
            if tries.contrary:
                return Step.REJECT
            return Step.HOLD if tries.is_alone else Step.STOP
        case Action.RETRY:
            if not decision.reached:
                return Step.WAIT
            if calls > 1:
                return Step.HALVE if tries.failed_often else Step.WAIT
            if tries.contrary >= CONTRARY_ANSWERS:
                return Step.REJECT
            # What one call was given all its retries for, the next ones behind it need not wait for again.
            is_enough = tries.retries > RETRIES_BEFORE_HALVING or not decision.may_pass
            passes = tries.is_alone and tries.is_behind and is_enough
            return Step.HOLD if passes else Step.WAIT
