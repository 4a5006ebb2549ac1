"""Trends: what the charts of a sync show of its runs, the oldest first."""

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum

from retl.report.condition import Tone
from retl.report.past import ReportedRun
from retl.report.words import counted, number, short_moment, took

MOST_BARS = 60
"""Bars in a chart; with more runs than that, each bar stands for several runs."""

MOST_REASONS = 5
"""Reasons that have a colour of their own; the rest share one."""


class Shape(StrEnum):
    """How the values of a trend are drawn."""

    BARS = "bars"  # one on top of the other
    AREA = "area"  # a line, and the area below it


@dataclass(frozen=True)
class Series:
    """One row of values, with a colour.

    Attributes:
        name: in the legend.
        color: the name of a colour of the page's style.
        values: one for each bar; None where nothing is known.
        summed: what the legend says of all of them; empty where that makes no sense.
    """

    name: str
    color: str
    values: tuple[float | None, ...]
    summed: str = ""


@dataclass(frozen=True)
class Trend:
    """A chart over the runs.

    Attributes:
        title: what it shows, with the unit.
        shape: how it is drawn.
        series: the values.
        labels: a label for each bar: when its first run began.
        says: a text for each bar, with all its values.
        headline: the figure that stands beside the title.
        nothing: the sentence in place of a chart that would be empty.
    """

    title: str
    shape: Shape
    series: tuple[Series, ...]
    labels: tuple[str, ...]
    says: tuple[str, ...]
    headline: str
    nothing: str

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to draw."""
        return not any(value for one in self.series for value in one.values)

    @property
    def has_legend(self) -> bool:
        """Whether its colours mean something that the title does not say."""
        return len(self.series) > 1 or self.series[0].color != "accent"


@dataclass(frozen=True)
class Bar:
    """The runs that one bar stands for, the oldest first."""

    runs: tuple[ReportedRun, ...]

    @property
    def label(self) -> str:
        """When they began."""
        return short_moment(self.runs[0].began)

    @property
    def says(self) -> str:
        """When they began, and how they ended."""
        if len(self.runs) == 1:
            return f"{self.label}: {self.runs[0].condition.words}"
        ends = Counter(run.condition.words for run in self.runs)
        told = ", ".join(f"{times} {words}" for words, times in ends.most_common())
        return (
            f"{self.label} to {short_moment(self.runs[-1].began)}, {counted(len(self.runs), 'run')}: {told}"
        )

    def total(self, of: Callable[[ReportedRun], float | None]) -> float | None:
        """The sum over the runs; None where no run knows it."""
        known = self._known(of)
        return sum(known) if known else None

    def most(self, of: Callable[[ReportedRun], float | None]) -> float | None:
        """The largest one of the runs; None where no run knows it."""
        return max(self._known(of), default=None)

    def _known(self, of: Callable[[ReportedRun], float | None]) -> list[float]:
        return [value for value in map(of, self.runs) if value is not None]


def bars_of(runs: Sequence[ReportedRun]) -> tuple[Bar, ...]:
    """The bars for runs that are given newest first."""
    oldest_first = tuple(reversed(runs))
    size = max(1, math.ceil(len(oldest_first) / MOST_BARS))
    return tuple(Bar(oldest_first[start : start + size]) for start in range(0, len(oldest_first), size))


def trends(runs: Sequence[ReportedRun]) -> tuple[Trend, ...]:
    """The charts of a sync's runs, which are given newest first."""
    bars = bars_of(runs)
    return (
        _rows_read(bars),
        _changes(bars),
        _rejections(bars),
        _durations(bars),
        _rates(bars),
        _answers(bars),
    )


def outcomes(runs: Sequence[ReportedRun]) -> Trend:
    """The row of outcomes: a bar for each run, as high as its end was bad."""
    bars = bars_of(runs)
    worst = [max(bar.runs, key=lambda run: run.condition.weight).condition for bar in bars]
    series = [
        Series(tone, f"tone-{tone}", tuple(one.weight if one.tone is tone else None for one in worst))
        for tone in (Tone.GOOD, Tone.WARN, Tone.BAD)
    ]
    said = tuple(bar.says for bar in bars)
    ends = Counter(run.condition.words for run in runs)
    told = ", ".join(f"{times:,} {words}" for words, times in ends.most_common())
    return Trend("How the runs ended", Shape.BARS, tuple(series), _labels(bars), said, told, "no runs")


def _rows_read(bars: Sequence[Bar]) -> Trend:
    values = tuple(bar.most(lambda run: run.rows_read) for bar in bars)
    series = [Series("rows read", "accent", values)]
    return _trend("Rows read", Shape.AREA, series, bars, _last(values), "No run read rows.")


def _changes(bars: Sequence[Bar]) -> Trend:
    """The changes that became calls; those of a first pass would hide all others."""
    series = [
        _summed("added", "added", bars, lambda run: run.added if _is_usual(run) else None),
        _summed("changed", "changed", bars, lambda run: run.changed if _is_usual(run) else None),
        _summed("removed", "removed", bars, lambda run: run.removed if _is_usual(run) else None),
    ]
    first = sum(run.added or 0 for bar in bars for run in bar.runs if run.is_first_pass)
    headline = f"first pass {number(first)}" if first else ""
    return _trend("Rows that changed", Shape.BARS, series, bars, headline, "No row changed.")


def _is_usual(run: ReportedRun) -> bool:
    """Whether a run is neither a first pass nor was stopped by a guard."""
    return not run.is_first_pass and not any(one.tripped and not one.forced for one in run.guards)


def _rejections(bars: Sequence[Bar]) -> Trend:
    totals: Counter[str] = Counter()
    for bar in bars:
        for run in bar.runs:
            totals.update(run.rejected_by)
    named = [reason for reason, _ in totals.most_common(MOST_REASONS)]
    series = [
        Series(reason, f"reason-{place}", tuple(bar.total(_by_reason([reason])) for bar in bars))
        for place, reason in enumerate(named, start=1)
    ]
    rest = [reason for reason in totals if reason not in named]
    if rest:
        series.append(Series("others", "rest", tuple(bar.total(_by_reason(rest)) for bar in bars)))
    series.append(_summed("calls refused", "removed", bars, lambda run: run.rejected_calls))
    kept = [one for one in series if any(one.values)]
    return _trend("Rejected in each run", Shape.BARS, kept, bars, "", "Nothing was rejected.")


def _by_reason(reasons: Iterable[str]) -> Callable[[ReportedRun], float | None]:
    return lambda run: sum(run.rejected_by.get(reason, 0) for reason in reasons)


def _durations(bars: Sequence[Bar]) -> Trend:
    longest = [max(bar.runs, key=lambda run: run.seconds) for bar in bars]
    most = max((run.seconds for run in longest), default=0.0)
    unit, length = next((one for one in _UNITS if most >= 2 * one[1]), _UNITS[-1])
    series = [
        Series(name, color, tuple(_duration(run, is_bad, length) for run in longest))
        for name, color, is_bad in (("finished", "accent", False), ("failed or stopped", "tone-bad", True))
    ]
    says = [took(run.seconds) for run in longest]
    headline = f"last {says[-1]}" if says else ""
    kept = [one for one in series if any(one.values)]
    return _trend(f"Duration ({unit})", Shape.BARS, kept, bars, headline, "No run took any time.", says)


def _duration(run: ReportedRun, is_bad: bool, length: float) -> float | None:
    """The duration of a run that ended badly, or of one that did not; None of any other."""
    return run.seconds / length if (run.condition.tone is Tone.BAD) is is_bad else None


_UNITS = (("hours", 3_600.0), ("minutes", 60.0), ("seconds", 1.0))


def _rates(bars: Sequence[Bar]) -> Trend:
    values = tuple(_rate(bar) for bar in bars)
    series = [Series("calls per second", "accent", values)]
    nothing = "No run sent more than one batch, so no rate is known."
    return _trend("Send rate (calls per second)", Shape.BARS, series, bars, _last(values), nothing)


def _rate(bar: Bar) -> float | None:
    """Calls for each second between the first and the last answer."""
    known = [run.answers for run in bar.runs if run.answers and run.answers.seconds > 0]
    if not known:
        return None
    return sum(one.calls_after_first for one in known) / sum(one.seconds for one in known)


def _answers(bars: Sequence[Bar]) -> Trend:
    answered = [run.answers for bar in bars for run in bar.runs if run.answers]
    statuses = sorted({status for one in answered for status in one.by_status})
    colors = ["tone-good", "accent", *["rest"] * len(statuses)]
    series = [
        _summed(_accepted_name(status), colors[place], bars, _with_status(status))
        for place, status in enumerate(statuses)
    ]
    series.append(_summed("tried again", "tone-warn", bars, lambda run: run.retries))
    series.append(_summed("no answer", "tone-bad", bars, _without_answer))
    kept = [one for one in series if any(one.values)]
    return _trend("Answers to batches", Shape.BARS, kept, bars, "", "No batch was sent.")


def _accepted_name(status: int) -> str:
    return f"accepted ({status})" if status else "accepted"


def _with_status(status: int) -> Callable[[ReportedRun], float | None]:
    return lambda run: run.answers.by_status.get(status, 0) if run.answers else None


def _without_answer(run: ReportedRun) -> float | None:
    return run.answers.without_answer if run.answers else None


def _summed(name: str, color: str, bars: Sequence[Bar], of: Callable[[ReportedRun], float | None]) -> Series:
    values = tuple(bar.total(of) for bar in bars)
    return Series(name, color, values, number(sum(value or 0 for value in values)))


def _last(values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None]
    return f"last {number(known[-1])}" if known else ""


def _labels(bars: Sequence[Bar]) -> tuple[str, ...]:
    """The day of each bar, or the time of day where all of them are of about one day."""
    moments = [bar.runs[0].began for bar in bars]
    one_day = bool(moments) and max(moments) - min(moments) < timedelta(hours=36)
    return tuple(f"{at:%H:%M}" if one_day else f"{at.day} {at:%b}" for at in moments)


def _trend(
    title: str,
    shape: Shape,
    series: Sequence[Series],
    bars: Sequence[Bar],
    headline: str,
    nothing: str,
    says: Sequence[str] | None = None,
) -> Trend:
    """A trend whose bars say all their values, or what `says` has for each."""
    told = says or [
        ", ".join(
            f"{one.name} {number(one.values[place])}" for one in series if one.values[place] is not None
        )
        for place in range(len(bars))
    ]
    lines = tuple(f"{bar.says}{f' · {text}' if text else ''}" for bar, text in zip(bars, told, strict=True))
    return Trend(title, shape, tuple(series), _labels(bars), lines, headline, nothing)
