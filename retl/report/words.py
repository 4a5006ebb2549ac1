"""Numbers, moments and durations as the report writes them."""

from datetime import datetime, timedelta

NONE = "\N{EN DASH}"
"""In place of a number that is not known."""


def number(value: float | None) -> str:
    """A number with commas, with one decimal below ten where it has any; a dash where there is none."""
    if value is None:
        return NONE
    if value != int(value) and abs(value) < 10:
        return f"{value:.1f}"
    return f"{round(value):,}"


def counted(value: int, noun: str) -> str:
    """A number and its noun: `1 call`, `2,000 calls`."""
    return f"{value:,} {noun}" if value == 1 else f"{value:,} {noun}s"


def moment(at: datetime) -> str:
    """A moment in UTC, to the minute."""
    return f"{at:%Y-%m-%d %H:%M}"


def short_moment(at: datetime) -> str:
    """A moment of the last months, in UTC: `3 Nov 04:05`."""
    return f"{at.day} {at:%b %H:%M}"


def took(seconds: float) -> str:
    """A duration: `0.4 s`, `3 min 20 s`, `2 h 5 min`."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def ago(since: timedelta) -> str:
    """How long ago something was, in the largest unit that fits."""
    seconds = max(0, round(since.total_seconds()))
    for unit, length in (("day", 86_400), ("hour", 3_600), ("minute", 60)):
        if seconds >= length:
            return f"{counted(seconds // length, unit)} ago"
    return "just now"
