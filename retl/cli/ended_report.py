"""The rejections that are over, as `retl rejected --ended` shows them."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from retl.cli.console import Ragged, count
from retl.cli.receivers import reason_meaning
from retl.cli.rejected_report import minute, said, table_of
from retl.delivery.ended import EndedRejection
from retl.rejected_values import kept_shape


@dataclass(frozen=True)
class Ended:
    """All that is shown of the rejections of a sync that are over.

    Attributes:
        sync: its name.
        total: how many are kept.
        rejections: those that are shown, the last ended first.
        shows_values: whether values may be shown.
    """

    sync: str
    total: int
    rejections: Sequence[EndedRejection]
    shows_values: bool

    def user(self, one: EndedRejection) -> str | None:
        """Whom a rejection is about; None also where that is the value at fault, and may not be shown."""
        return one.user_id if self.shows_values or one.user_id != one.value else None

    def as_json(self) -> dict[str, Any]:
        """The object that `--ended --json` prints."""
        return {"sync": self.sync, "ended": [self._one_json(one) for one in self.rejections]}

    def _one_json(self, one: EndedRejection) -> dict[str, Any]:
        told = {
            name: str(value) if isinstance(value, datetime) else value
            for name, value in asdict(one).items()
            if self.shows_values or name != "value"
        }
        return told | {"user_id": self.user(one), "shape": kept_shape(one.at_fault, one.value)}


def ended_report(ended: Ended) -> RenderableType:
    """A table for each reason, those first of which a rejection ended last."""
    if not ended.rejections:
        return Text(f"{ended.sync}: no rejection that is over is kept")
    is_are = "is" if ended.total == 1 else "are"
    parts: list[RenderableType] = [
        Text.assemble((ended.sync, "bold"), f": {count(ended.total, 'rejection')} {is_are} over")
    ]
    for reason in dict.fromkeys(one.reason for one in ended.rejections):
        parts += [Text(""), Text.assemble((reason, "bold yellow"), f": {reason_meaning(reason)}")]
        parts.append(_table(ended, [one for one in ended.rejections if one.reason == reason]))
    if len(ended.rejections) < ended.total:
        more = f"{ended.total - len(ended.rejections):,} more: --limit or --reason"
        parts += [Text(""), Text(more, "dim")]
    return Group(*parts)


def _table(ended: Ended, rejections: Sequence[EndedRejection]) -> RenderableType:
    """Rows and calls of one reason; a column that would be empty is left out."""
    value = "value" if ended.shows_values else "column"
    lines = [
        {
            "  row": f"  {'(no key)' if one.key is None else one.key}{' (call)' if one.change else ''}",
            "user": (ended.user(one) or "") if ended.user(one) != one.key else "",
            "since": minute(one.first_seen),
            "until": minute(one.ended_at),
            "how": one.how,
            value: _value(one, ended.shows_values),
        }
        for one in rejections
    ]
    titles = [title for title in lines[0] if any(line[title] for line in lines)]
    table = table_of(titles)
    for line in lines:
        table.add_row(*(line[title] for title in titles))
    return Ragged(table)


def _value(one: EndedRejection, shows_values: bool) -> str:
    """The column at fault, and its value where that may be shown."""
    shape = kept_shape(one.at_fault, one.value)
    if shape is None:
        return one.value or "" if shows_values else ""
    return said(one.at_fault, shape, one.value, True) if shows_values else one.at_fault or ""
