"""Condition: how a sync or a run stands, in words, with a tone for its colour and an icon."""

from dataclasses import dataclass
from enum import StrEnum


class Tone(StrEnum):
    """How good it is; the page has a colour for each."""

    GOOD = "good"  # nothing to do
    WARN = "warn"  # finished, and something is left to look at
    BAD = "bad"  # not finished
    BUSY = "busy"  # under way
    NONE = "none"  # nothing is known


@dataclass(frozen=True)
class Condition:
    """How a sync or a run stands.

    Attributes:
        words: in a few words, which begin with a small letter.
        tone: how good it is.
        icon: the name of the icon, so that nobody needs the colour.
        weight: a share of 1; the height of its bar in the row of outcomes.
    """

    words: str
    tone: Tone
    icon: str
    weight: float = 1.0


NEVER = Condition("has not run yet", Tone.NONE, "dash")
RUNNING = Condition("running now", Tone.BUSY, "play")
UNREADABLE = Condition("cannot be read", Tone.BAD, "cross")
ORPHANED = Condition("no sync file leads to it", Tone.WARN, "alert")

_BY_STATUS = {
    "succeeded": Condition("succeeded", Tone.GOOD, "check", 0.4),
    "partial": Condition("finished with rejections", Tone.WARN, "alert", 0.7),
    "failed": Condition("failed", Tone.BAD, "cross"),
    "guarded": Condition("stopped by a guard", Tone.BAD, "shield"),
    "locked": Condition("did not start: another run held the state", Tone.WARN, "pause", 0.7),
    "interrupted": Condition("interrupted", Tone.WARN, "pause", 0.7),
}


def condition_of(status: str) -> Condition:
    """The condition of a run that ended so; `status` is a value of `retl.run.Status`."""
    return _BY_STATUS.get(status) or Condition(status, Tone.NONE, "dash")
