"""Results as a notebook shows them: frames of pandas, and small pieces of HTML."""

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

from retl.errors import ConfigError
from retl.lazy import lazy_module

if TYPE_CHECKING:
    import pandas as pd  # an extra: only notebooks need it
else:
    pd = lazy_module("pandas")

GOOD, DOUBTFUL, BAD = "#2da44e", "#bf8700", "#e5534b"
"""Colours that can be seen on a light ground and on a dark one."""


def frame(records: Sequence[Mapping[str, Any]], times: Sequence[str] = ()) -> "pd.DataFrame":
    """A frame with a line for each record and a column for each field; `calls.delivered` is one of a field.

    Args:
        records: mappings, which may hold others.
        times: columns of moments, or of ISO 8601 text, that become moments in UTC.

    Raises:
        ConfigError: pandas is not installed.
    """
    refuse_missing_pandas()
    made = pd.DataFrame([dict(_flat(record)) for record in records])
    for name in times:
        if name in made:
            made[name] = pd.to_datetime(made[name], utc=True)
    return made


def refuse_missing_pandas() -> None:
    """See that there is pandas.

    Raises:
        ConfigError: there is none.
    """
    try:
        _ = pd.DataFrame
    except ConfigError as error:
        raise ConfigError("pandas is not installed", hint="pip install pandas") from error


def _flat(record: Mapping[str, Any], outer: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in record.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{outer}{key}.")
        else:
            yield f"{outer}{key}", value


def counted(number: int, noun: str) -> str:
    """A number and its noun: `1 call`, `2,000 calls`."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def html(
    title: str, note: str, color: str, rows: Sequence[Sequence[object]], lines: Sequence[str] = ()
) -> str:
    """A heading, a table and lines below it, in the fonts and colours of the page. All text is escaped.

    Args:
        title: what it is about, such as a sync's name.
        note: the outcome in a few words, beside the title.
        color: of the stripe at the left.
        rows: of the table; numbers stand at the right of their cells, and None leaves one empty.
        lines: further sentences.
    """
    body = "".join(f"<tr>{''.join(map(_cell, row))}</tr>" for row in rows)
    table = (
        f'<table style="border-collapse:collapse;margin:.4em 0"><tbody>{body}</tbody></table>' if rows else ""
    )
    below = "".join(f'<div style="opacity:.8">{escape(line)}</div>' for line in lines)
    head = f'<div><b>{escape(title)}</b> <span style="opacity:.8">{escape(note)}</span></div>'
    style = f"border-left:.25em solid {color};padding:.1em 0 .1em .8em;max-width:60em;overflow-x:auto"
    return f'<div style="{style}">{head}{table}{below}</div>'


def _cell(value: object) -> str:
    is_number = isinstance(value, int | float)
    text = "" if value is None else f"{value:,}" if is_number else str(value)
    side = "right" if is_number else "left"
    style = f"text-align:{side};padding:.1em 1.2em .1em 0;border:0;background:none;vertical-align:top"
    return f'<td style="{style}">{escape(text)}</td>'
