"""Moments, numbers and values as the page writes them. All moments are in UTC, without a zone."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

from retl.sandbox.page.difference import fields_of, read_call, value_text

NONE = "\N{EN DASH}"
"""In place of a value that is not there."""

LONGEST_SHOWN = 200
"""Characters of an id or a name that a list shows."""

GLIMPSED = 4
"""Fields of a call that its line in a list shows."""


def clock(at: datetime | None) -> str:
    """The time of day, to the second."""
    return NONE if at is None else f"{at:%H:%M:%S}"


def moment(at: datetime | None, seconds: int) -> str:
    """A moment beside a chart whose bars stand for so many seconds: with the date where they are long."""
    if at is None or seconds < 600:
        return clock(at)
    return f"{at.day} {at:%b %H:%M}"


def milliseconds(at: datetime | None) -> str:
    """The part of a second that `clock` leaves out."""
    return "" if at is None else f".{at.microsecond // 1000:03}"


def iso(at: datetime | None) -> str:
    """A moment as Segment writes it."""
    return NONE if at is None else f"{at:%Y-%m-%dT%H:%M:%S}{milliseconds(at)}Z"


def day(at: datetime | None) -> str:
    """The date of a moment."""
    return NONE if at is None else f"{at.day} {at:%B %Y}"


def today() -> str:
    """The date of this moment, of which a list says nothing."""
    return day(datetime.now(UTC))


def number(value: int) -> str:
    """A number with commas."""
    return f"{value:,}"


def counted(value: int, noun: str) -> str:
    """A number and its noun: `1 call`, `2,000 calls`."""
    return f"{value:,} {noun}" if value == 1 else f"{value:,} {noun}s"


def stretch(seconds: int) -> str:
    """A stretch of time in the largest unit that fits: `10 seconds`, `2 minutes`, `1 day`."""
    for unit, length in (("day", 86_400), ("hour", 3_600), ("minute", 60)):
        if seconds >= length and seconds % length == 0:
            return counted(seconds // length, unit)
    return counted(seconds, "second")


def lag(length: timedelta) -> str:
    """A short or long time, its sign included: `+4 ms`, `-3.2 s`, `+2 days`."""
    sign, seconds = ("-" if length < timedelta(0) else "+"), abs(length).total_seconds()
    if seconds < 1:
        return f"{sign}{round(seconds * 1000)} ms"
    if seconds < 120:
        return f"{sign}{seconds:.1f} s"
    for unit, size in (("day", 86_400), ("hour", 3_600), ("minute", 60)):
        if seconds >= 2 * size:
            return f"{sign}{seconds / size:.1f} {unit}s"
    return f"{sign}{seconds:.0f} s"


def moment_of(text: str | None) -> datetime | None:
    """The moment that a text of a call has; None where it has none."""
    try:
        moment = datetime.fromisoformat(text or "")
        return moment.astimezone(UTC).replace(tzinfo=None) if moment.tzinfo else moment
    except (ValueError, OverflowError):
        return None


def short(text: str) -> str:
    """A text, cut where a list has no place for all of it."""
    return text if len(text) <= LONGEST_SHOWN else f"{text[:LONGEST_SHOWN]}\N{HORIZONTAL ELLIPSIS}"


def glimpse(body: str) -> str:
    """A few traits or properties of a call, in one line."""
    fields = fields_of(read_call(body))
    return "  ".join(_glimpsed(fields))


def _glimpsed(fields: dict[str, Any]) -> Iterator[str]:
    for place, (name, value) in enumerate(fields.items()):
        if place == GLIMPSED:
            return
        yield f"{name} {value_text(value)[:60]}"


def arrives(arrival: Any) -> str:
    """The events that a receiver makes of a call, in a line, or else some attributes of the user."""
    names = [str(one.get("event_name", one.get("type", "event"))) for one in arrival.events]
    told = dict.fromkeys(names)
    return ", ".join(told) if told else "  ".join(_glimpsed(_flat_user(arrival.user)))


def _flat_user(user: Any) -> dict[str, Any]:
    return {name: one for group in user.values() if isinstance(group, dict) for name, one in group.items()}
