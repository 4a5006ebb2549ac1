"""Fault: what goes wrong in one run, drawn by chance."""

import math
from dataclasses import dataclass, replace
from random import Random

from torture.bad_day import ANSWERS
from torture.cloud import ANSWERS as BUCKET_ANSWERS

ENDS_A_RUN = {"401", "404", "redirect"}
"""Answers after which a run sends no more, so that the answers behind them wait for the next one."""

TAKEN = "taken"
"""The answer of a good day."""


@dataclass(frozen=True)
class CloudFault:
    """The faults of one run whose state is in a bucket.

    Attributes:
        answers: of the bucket, by their names in `cloud.ANSWERS`; an empty one is good.
        lease_ends: whether the lease of a killed run has run out by then.
        waits: whether it waits for a lease without end.
        is_elsewhere: whether it runs on another machine than the command before.
        sleeps_at: the step at which it stands still while another one runs.
        is_taken_for_dead: whether its lease runs out meanwhile.
        other_steps: after which the other one is killed; None is never.
        clock_stands: whether its own clock stands still, too, as that of a machine that sleeps.
    """

    answers: tuple[str, ...] = ()
    lease_ends: bool = True
    waits: bool = False
    is_elsewhere: bool = False
    sleeps_at: int | None = None
    is_taken_for_dead: bool = True
    other_steps: int | None = None
    clock_stands: bool = False


@dataclass(frozen=True)
class Fault:
    """The faults of one run.

    Attributes:
        steps: after which the process is killed, or the disk is full; None is never.
        within: the words with which those steps begin; mostly none, and then all steps count.
        is_full: whether the disk gets full.
        answers: of Segment, by their names in `ANSWERS`.
        breaks_after: batches after which the read breaks off.
        statements: of `engine: warehouse`, after which the connection breaks.
        is_empty: whether the model has no rows this time.
        limit: calls that may leave.
        full: whether every row is sent again.
        in_cloud: of a state in a bucket.
    """

    steps: int | None = None
    within: str = ""
    is_full: bool = False
    answers: tuple[str, ...] = ()
    breaks_after: int | None = None
    statements: int | None = None
    is_empty: bool = False
    limit: int | None = None
    full: bool = False
    in_cloud: CloudFault = CloudFault()


def draw_fault(random: Random, most: int, may_be_full: bool, has_shop: bool) -> Fault:
    """Draw the faults of a run.

    Args:
        random: all chances.
        most: steps that a run takes, about.
        may_be_full: whether the run may send every row again.
        has_shop: whether its warehouse may have a schema of retl's.
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
    statements = random.randint(1, 16) if has_shop and random.random() < 0.1 else None
    return Fault(steps, "", is_full, answers, breaks_after, statements, is_empty, limit, full)


def aimed(random: Random, fault: Fault, within: str) -> Fault:
    """A fault at a step of one kind in place of any; Segment answers well, so that the run gets that far."""
    return replace(fault, steps=random.randint(1, 20), within=within, is_full=False, answers=())


def _draw_answers(random: Random) -> tuple[str, ...]:
    names = list(ANSWERS)
    weights = [1 if name in ENDS_A_RUN else 3 for name in names]
    return tuple(random.choices([*names, TAKEN], [*weights, sum(weights) // 4], k=random.randint(1, 12)))


def draw_cloud_fault(random: Random, most: int, may_sleep: bool) -> CloudFault:
    """Draw the faults of a run whose state is in a bucket.

    Args:
        random: all chances.
        most: steps that a run takes, about.
        may_sleep: whether another one may run in the midst of it.
    """
    answers = [""] * random.randint(0, 25)
    for _ in range(random.choice([0, 0, 0, 1, 1, 2])):
        answers.insert(random.randint(0, len(answers)), random.choice(BUCKET_ANSWERS))
    sleeps_at = random.randint(1, most) if may_sleep and random.random() < 0.2 else None
    return CloudFault(
        tuple(answers),
        lease_ends=random.random() < 0.8,
        waits=random.random() < 0.2,
        is_elsewhere=random.random() < 0.5,
        sleeps_at=sleeps_at,
        is_taken_for_dead=random.random() < 0.8,
        other_steps=random.randint(1, most) if random.random() < 0.3 else None,
        clock_stands=random.random() < 0.5,
    )
