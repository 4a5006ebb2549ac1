"""Throughput: how many calls arrived when, as bars."""

import math
from dataclasses import dataclass
from datetime import UTC, datetime

from retl.sandbox.page.filter import Filter
from retl.sandbox.store import Store

MOST_BARS = 90
"""Bars of the chart, at most."""

_WIDTHS = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1_800, 3_600, 7_200, 21_600, 43_200, 86_400)
"""Seconds that a bar may stand for."""

SECONDS_A_DAY = 86_400


@dataclass(frozen=True)
class Interval:
    """The calls of one stretch of time.

    Attributes:
        begins: when it begins.
        newest: the number of its newest call; None where it has none.
    """

    begins: datetime
    accepted: int
    duplicates: int
    discarded: int
    newest: int | None

    @property
    def calls(self) -> int:
        """All of them."""
        return self.accepted + self.duplicates + self.discarded


@dataclass(frozen=True)
class Throughput:
    """The bars, the oldest first.

    Attributes:
        seconds: that each bar stands for.
        busiest: the most calls of any second.
    """

    bars: tuple[Interval, ...]
    seconds: int
    busiest: int

    @property
    def highest(self) -> int:
        """The calls of the highest bar."""
        return max((bar.calls for bar in self.bars), default=0)


def throughput(store: Store, filter_: Filter) -> Throughput:
    """The calls that pass a filter, over the time in which they arrived."""
    condition, values = filter_.sql()
    rows = store.read(
        f"""
        SELECT CAST(floor(epoch("received_at")) AS BIGINT) AS "second",
               count(*) FILTER ("outcome" = 'accepted') AS "accepted",
               count(*) FILTER ("outcome" = 'duplicate') AS "duplicates",
               count(*) FILTER ("outcome" = 'discarded') AS "discarded", max("seq") AS "newest"
        FROM "call" WHERE {condition} GROUP BY "second" ORDER BY "second"
        """,
        values,
    )
    if not rows:
        return Throughput((), 1, 0)
    span = rows[-1]["second"] - rows[0]["second"] + 1
    days = SECONDS_A_DAY * math.ceil(span / (MOST_BARS - 1) / SECONDS_A_DAY)
    width = next((one for one in _WIDTHS if span / one <= MOST_BARS - 1), days)
    summed: dict[int, list[int]] = {}
    for second, *counts, newest in map(dict.values, rows):
        bar = summed.setdefault(second // width, [0, 0, 0, 0])
        for place, count in enumerate(counts):
            bar[place] += count
        bar[3] = max(bar[3], newest)
    first, last = min(summed), max(summed)
    bars = tuple(_interval(place * width, summed.get(place)) for place in range(first, last + 1))
    return Throughput(
        bars, width, max(row["accepted"] + row["duplicates"] + row["discarded"] for row in rows)
    )


def _interval(begins: int, counts: list[int] | None) -> Interval:
    at = datetime.fromtimestamp(begins, UTC)
    return Interval(at, *counts) if counts else Interval(at, 0, 0, 0, None)
