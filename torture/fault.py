"""Fault: what goes wrong in one run, drawn by chance."""

import math
from dataclasses import dataclass
from random import Random

from torture.bad_day import ANSWERS

ENDS_A_RUN = {"401", "404", "redirect"}
"""Answers after which a run sends no more, so that the answers behind them wait for the next one."""

TAKEN = "taken"
"""The answer of a good day."""


@dataclass(frozen=True)
class Fault:
    """The faults of one run.

    Attributes:
        steps: after which the process is killed, or the disk is full; None is never.
        is_full: whether the disk gets full.
        answers: of Segment, by their names in `ANSWERS`.
        breaks_after: batches after which the read breaks off.
        is_empty: whether the model has no rows this time.
        limit: calls that may leave.
        full: whether every row is sent again.
    """

    steps: int | None = None
    is_full: bool = False
    answers: tuple[str, ...] = ()
    breaks_after: int | None = None
    is_empty: bool = False
    limit: int | None = None
    full: bool = False


def draw_fault(random: Random, most: int, may_be_full: bool) -> Fault:
    """Draw the faults of a run.

    Args:
        random: all chances.
        most: steps that a run takes, about.
        may_be_full: whether the run may send every row again.
    """
    answers = _draw_answers(random) if random.random() < 0.7 else ()
    breaks_after = random.randint(0, 3) if random.random() < 0.08 else None
    is_empty = breaks_after is None and random.random() < 0.05
    limit = random.randint(0, 5) if random.random() < 0.1 else None
    full = may_be_full and random.random() < 0.1
    steps = None
    if random.random() < 0.9:
        # Half of all early in the run, half anywhere in it.
        early = int(2 ** random.uniform(0, math.log2(most)))
        steps = early if random.random() < 0.5 else random.randint(1, most)
    is_full = steps is not None and random.random() < 0.2
    return Fault(steps, is_full, answers, breaks_after, is_empty, limit, full)


def _draw_answers(random: Random) -> tuple[str, ...]:
    names = list(ANSWERS)
    weights = [1 if name in ENDS_A_RUN else 3 for name in names]
    return tuple(random.choices([*names, TAKEN], [*weights, sum(weights) // 4], k=random.randint(1, 12)))
