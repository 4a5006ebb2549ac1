"""The bars of a throughput as the page draws them: where each is, and what it says."""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta

from retl.sandbox.page.throughput import Interval, Throughput
from retl.sandbox.page.words import moment, stretch

FEWEST_PLACES = 45
"""Places for bars; where there are fewer bars, places at the left stay empty."""

PLACE = 10
"""The width of a place, in units of the picture."""

HEIGHT = 60
"""The height of the picture."""

ROOM = 56
"""The height of the highest bar."""

LOWEST_TOP = 4
"""Calls that the whole height stands for, at least: a single call is no peak."""

LEAST = 2.0
"""The height of the smallest part, so that one discarded call among thousands is seen."""


@dataclass(frozen=True)
class BarPart:
    """The calls of one outcome in a bar."""

    outcome: str
    y: float
    height: float


@dataclass(frozen=True)
class DrawnBar:
    """A bar.

    Attributes:
        x: of its place.
        parts: from the bottom up.
        before: where the list of calls begins, to have the newest call of the bar as its first.
        says: its values, a line each.
    """

    x: int
    parts: tuple[BarPart, ...]
    before: int
    says: str


@dataclass(frozen=True)
class Chart:
    """A picture of a throughput.

    Attributes:
        begins: the moment at its left end; None where there are no bars.
    """

    width: int
    bars: tuple[DrawnBar, ...]
    begins: datetime | None


def chart(flow: Throughput) -> Chart:
    """The picture of a throughput; a bar without calls is left out."""
    places = max(len(flow.bars), FEWEST_PLACES)
    empty = places - len(flow.bars)
    scale = ROOM / max(flow.highest, LOWEST_TOP)
    bars = tuple(
        DrawnBar((empty + place) * PLACE, tuple(_parts(one, scale)), one.newest + 1, _says(one, flow.seconds))
        for place, one in enumerate(flow.bars)
        if one.newest is not None
    )
    begins = flow.bars[0].begins - empty * timedelta(seconds=flow.seconds) if flow.bars else None
    return Chart(places * PLACE, bars, begins)


def _parts(interval: Interval, scale: float) -> Iterator[BarPart]:
    y = HEIGHT - 1.0
    for outcome, calls in _counts(interval):
        height = max(calls * scale, LEAST)
        y -= height
        yield BarPart(outcome, round(y, 2), round(height, 2))


def _says(interval: Interval, seconds: int) -> str:
    lines = [f"{calls:,} {outcome}" for outcome, calls in _counts(interval)]
    return "\n".join([f"{moment(interval.begins, seconds)}, {stretch(seconds)}", *lines])


def _counts(interval: Interval) -> list[tuple[str, int]]:
    counts = (
        ("accepted", interval.accepted),
        ("duplicate", interval.duplicates),
        ("discarded", interval.discarded),
    )
    return [(outcome, calls) for outcome, calls in counts if calls]
