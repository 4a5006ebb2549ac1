"""The rows and calls that could not be sent, as `retl rejected` shows them: on a screen, as JSON, by line."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from textwrap import fill
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from retl.cli.console import Ragged, count
from retl.cli.fold import fold_words
from retl.cli.receivers import reason_meaning
from retl.config.sync import Sync
from retl.delivery.rejected import REASONS
from retl.delivery.rejection_list import ReasonCount, RejectedCall, RejectedRow
from retl.planning import shown
from retl.reason import Reason
from retl.rejected_values import FoundRow, FoundValue, kept_shape, possible_columns

WIDE = 110
"""Columns from which on the values of rows stand beside the moment at which they were last seen."""

LONG = 60
"""Characters of a key that are shown; `--json` and `--out` have all."""

DETAIL = 40
"""Characters of a value that are shown in a table; `--json` has all that is known."""

TEXTS = ("kind", "key", "user_id", "reason", "change", "message_id", "answer", "columns", "value")
"""The columns of a file of `--out` that hold text."""

_EMPTY: dict[str, Any] = dict.fromkeys((*TEXTS, "rows", "runs", "first_seen", "last_seen"))


@dataclass(frozen=True)
class Rejected:
    """All that is shown of a sync.

    Attributes:
        sync: the sync.
        counts: by reason.
        rows: that cannot be sent.
        calls: that were refused for good.
        shows_values: whether values may be shown.
        ended: how many rejections that are over are kept, of the same reasons.
        values: of rows with a key, as the model has them now, by key; None where it was not read.
        samples: of rows without a key.
        reasons: the only ones that were asked for; none are all.
        stopped: where a guard stopped the last run, the rows that it rejected and did not keep, by reason.
    """

    sync: Sync
    counts: Sequence[ReasonCount]
    rows: Sequence[RejectedRow]
    calls: Sequence[RejectedCall]
    shows_values: bool
    ended: int = 0
    values: Mapping[str, FoundRow] | None = None
    samples: Sequence[FoundRow] = ()
    reasons: Sequence[str] = ()
    stopped: Mapping[str, int] = field(default_factory=dict)

    def with_values(self, found: Sequence[FoundRow]) -> "Rejected":
        """The same with what was found in the model."""
        by_key = {one.key: one for one in found if one.key is not None}
        return replace(self, values=by_key, samples=[one for one in found if one.key is None])

    def found(self, row: RejectedRow) -> FoundRow | None:
        """The row as the model has it; None where it was not read, or has no key."""
        return self.values.get(row.key) if self.values is not None and row.key is not None else None

    def user(self, row: RejectedRow) -> str | None:
        """The user of a row; None also where it is the value at fault, and values may not be shown."""
        found = self.found(row)
        user = found.user_id if found else row.user_id
        at_fault = [row.value] if found is None else [value.value for value in found.values]
        return user if self.shows_values or user not in at_fault else None

    def value(self, row: RejectedRow) -> str:
        """The values for which a row is rejected: those of the model where it was read, else the kept one."""
        if self.values is not None:
            return "" if row.key is None else _described(self.found(row), self.shows_values)
        shape = kept_shape(row.at_fault, row.value)
        return "" if shape is None else said(row.at_fault, shape, row.value, self.shows_values)

    def value_json(self, value: FoundValue) -> dict[str, Any]:
        """A value for JSON, with what it says only where that may be shown."""
        known = {"column": value.column, "shape": value.shape}
        return {**known, "value": value.value} if self.shows_values else known

    def as_json(self) -> dict[str, Any]:
        """The object that `--json` prints."""
        return {
            "sync": self.sync.name,
            "reasons": [
                {
                    "reason": one.reason,
                    "meaning": reason_meaning(one.reason),
                    "next_step": next_step(one.reason, self.sync.name),
                    "rows": one.rows,
                    "calls": one.calls,
                    "first_seen": str(one.first_seen),
                    "last_seen": str(one.last_seen),
                }
                for one in self.counts
            ],
            "rows": [self._row_json(row) for row in self.rows],
            "calls": [
                {**call.as_json(), **({"call": call.body} if self.shows_values else {})}
                for call in self.calls
            ],
            "stopped": dict(self.stopped),
        }

    def _row_json(self, row: RejectedRow) -> dict[str, Any]:
        kept = {**row.as_json(), "user_id": self.user(row), "shape": kept_shape(row.at_fault, row.value)}
        if self.shows_values:
            kept["value"] = row.value
        if self.values is None:
            return kept
        if row.key is None:
            samples = [[self.value_json(value) for value in one.values] for one in self.samples]
            return {**kept, "samples": samples}
        found = self.found(row)
        return {
            **kept,
            "values": [self.value_json(value) for value in found.values] if found else [],
            "differs_in": list(found.differs_in) if found else [],
        }

    def records(self) -> list[dict[str, Any]]:
        """One line for each row and call, for a file."""
        lines = []
        for row in self.rows:
            found = self.found(row)
            told = {
                "user_id": self.user(row),
                "columns": ", ".join(value.column for value in found.values) if found else row.at_fault,
                "value": self.value(row) or (row.value if self.shows_values and row.key is None else None),
            }
            seen = {"first_seen": row.first_seen, "last_seen": row.last_seen}
            key = {"key": row.key, "reason": row.reason}
            lines.append(
                {**_EMPTY, "kind": "row", **key, "rows": row.rows, "runs": row.times, **seen, **told}
            )
        for call in self.calls:
            seen = {"first_seen": call.rejected_at, "last_seen": call.rejected_at}
            told = {"user_id": call.user_id, "message_id": call.message_id, "answer": call.answer}
            body = call.body if self.shows_values else None
            key = {"key": call.key, "reason": call.reason, "change": call.change}
            lines.append({**_EMPTY, "kind": "call", **key, **seen, **told, "value": body})
        return lines


def next_step(reason: str, sync: str, flags: str = "") -> str:
    """How rows or calls with a reason can be sent after all."""
    if reason not in REASONS:
        return f"see what it is of a row: retl explain {sync}{flags} KEY --receiver all"
    step = Reason[reason.upper()].next_step
    for command in ("retl retry", "retl discard"):
        step = step.replace(f"`{command}`", f"`{command} {sync}{flags}`")
    return step


def short(key: str) -> str:
    """A key, or the beginning of a long one."""
    return key if len(key) <= LONG else f"{key[:LONG]}… ({len(key):,} characters)"


def rejected_report(found: Rejected, flags: str, width: int) -> RenderableType:
    """The counts of each reason, then its rows and calls with what can be done about them.

    Args:
        found: all that is shown.
        flags: options that are repeated after each command that a line names.
        width: of the terminal, in columns.
    """
    sync = found.sync
    over = f"{count(found.ended, 'rejection')} over: retl rejected {sync.name}{flags} --ended"
    hints: list[RenderableType] = [Text(over, "dim")] if found.ended else []
    hints += [Text(line, "yellow") for line in _stopped_lines(found, flags, width)]
    if not found.counts:
        of_reasons = f" for {' or '.join(found.reasons)}" if found.reasons else ""
        return Group(Text(f"{sync.name}: nothing is rejected{of_reasons}"), *hints)
    rows, calls = (sum(getattr(one, kind) for one in found.counts) for kind in ("rows", "calls"))
    kinds = [count(rows, "row")] * bool(rows) + [count(calls, "call")] * bool(calls)
    parts: list[RenderableType] = [
        Text.assemble((sync.name, "bold"), f": {' and '.join(kinds)} rejected"),
        Text(""),
        _reasons_table(found.counts),
    ]
    for one in found.counts:
        parts += [Text(""), *_of_reason(found, one.reason, flags, width)]
    shown_ones = sum(row.rows for row in found.rows) + len(found.calls)
    if shown_ones < rows + calls:
        parts += [Text(""), Text(f"{rows + calls - shown_ones:,} more: --limit, --reason or --out", "dim")]
    if found.values is None and any(row.reason in REASONS for row in found.rows):
        hint = f"the rows as they are now (reads the model): retl rejected {sync.name}{flags} --inspect"
        hints[:0] = [Text(line, "dim") for line in fold_words(hint, width, "")]
    return Group(*parts, *([Text("")] if hints else []), *hints)


def _stopped_lines(found: Rejected, flags: str, width: int) -> list[str]:
    """The sentence about a last run that kept none of the rows which it rejected."""
    if not found.stopped:
        return []
    reasons = ", ".join(f"{reason} {rows:,}" for reason, rows in found.stopped.items())
    sentence = (
        f"a guard stopped the last run, which left all as it was: rows that it rejected ({reasons}) are not "
        f"listed here; see: retl plan {found.sync.name}{flags}"
    )
    return fold_words(sentence, width, "")


def _reasons_table(counts: Sequence[ReasonCount]) -> RenderableType:
    titles = ["reason", "rows", "calls", "since", "last seen (UTC)"]
    table = table_of(titles, ("rows", "calls"))
    for one in counts:
        numbers = (f"{number:,}" if number else "" for number in (one.rows, one.calls))
        table.add_row(Text(one.reason, "yellow"), *numbers, minute(one.first_seen), minute(one.last_seen))
    return Ragged(table)


def table_of(titles: Sequence[str], numbers: Sequence[str] = ()) -> Table:
    """An empty table with these columns; `numbers` are those on the right."""
    table = Table(box=None, pad_edge=False, padding=(0, 1), header_style="dim")
    for title in titles:
        right = title.strip() in numbers
        fixed = right or title in {"since", "last seen", "until", "how"}
        table.add_column(title, justify="right" if right else "left", overflow="fold", no_wrap=fixed)
    return table


def minute(moment: datetime) -> str:
    """A moment for a table, to the minute."""
    return f"{moment:%Y-%m-%d %H:%M}"


def _of_reason(found: Rejected, reason: str, flags: str, width: int) -> Iterator[RenderableType]:
    """The meaning of a reason, its way out, and its rows and calls."""
    first, *others = fold_words(f"{reason}: {reason_meaning(reason)}", width, "")
    yield Text.assemble((first[: len(reason)], "bold yellow"), first[len(reason) :])
    yield from map(Text, others)
    step = next_step(reason, found.sync.name, flags)
    yield from (Text(line, "green") for line in fold_words(f"→ {step}", width))
    rows = [row for row in found.rows if row.reason == reason]
    is_open = found.values is None and any(row.at_fault is None for row in rows)
    columns = possible_columns(found.sync, reason) if is_open else []
    if columns:
        yield Text(f"  column{'s' if len(columns) > 1 else ''}: {', '.join(columns)}", "dim")
    calls = [call for call in found.calls if call.reason == reason]
    if rows:
        yield _rows_table(found, rows, width)
    if reason == Reason.NULL_KEY:
        for number, sample in enumerate(found.samples, start=1):
            line = f"  sample {number}: {_described(sample, found.shows_values)}"
            yield Text(fill(line, width, subsequent_indent=" " * 12, break_long_words=False))
        for row in rows if found.values is None and found.shows_values else ():
            if row.value is not None:
                line = f"  one of them, its beginning: {row.value}"
                yield Text(fill(line, width, subsequent_indent=" " * 4, break_long_words=False))
    for call in calls:
        yield from _call_lines(call, found.shows_values)


def _rows_table(found: Rejected, rows: Sequence[RejectedRow], width: int) -> RenderableType:
    users = {row.key: found.user(row) for row in rows}
    values = {row.key: found.value(row) for row in rows}
    titles = ["  row", "user", "since", "last seen", "runs", "value"]
    if all(user in {None, key} for key, user in users.items()):
        titles.remove("user")
    if not any(values.values()):
        titles.remove("value")
    elif width < WIDE:
        titles.remove("last seen")
    table = table_of(titles, ("runs",))
    for row in rows:
        several = f" ({row.rows:,} rows)" if row.rows > 1 else ""
        cells = {
            "  row": f"  {'(no key)' if row.key is None else short(row.key)}{several}",
            "user": users[row.key] or "",
            "since": minute(row.first_seen),
            "last seen": minute(row.last_seen),
            "runs": f"{row.times:,}",
            "value": values[row.key],
        }
        table.add_row(*(cells[title] for title in titles))
    return Ragged(table)


def _described(found: FoundRow | None, shows_values: bool) -> str:
    """The values for which a row is rejected: their form, or what they say."""
    if found is None:
        return ""
    if found.differs_in:
        return f"the rows differ in {', '.join(found.differs_in)}"
    if found.reason == Reason.DUPLICATE_KEY:
        return "the rows are alike in all mapped columns"
    described = [said(one.column, one.shape, one.value, shows_values) for one in found.values]
    return ", ".join(described) or "gone or right by now, or not told by the model"


def said(column: str | None, shape: str, value: str | None, shows_values: bool) -> str:
    """A column with its value's form, or with the beginning of what it says."""
    says = shape
    if shows_values and value is not None:
        says = repr(value[:DETAIL]) + ("…" if len(value) > DETAIL else "")
    return f"{column}: {says}"


def _call_lines(call: RejectedCall, shows_values: bool) -> Iterator[RenderableType]:
    """A refused call: whose, when, under which id, and what the destination said."""
    user = "" if call.user_id in {None, call.key} else f" (user {call.user_id})"
    when = f", {call.change}, {minute(call.rejected_at)}"
    yield Text.assemble("  ", (short(call.key), "bold"), user, when, (f"  {call.message_id or ''}", "dim"))
    if call.answer:
        yield Text(f"    answer: {call.answer}")
    if shows_values and call.body is not None:
        yield Text(f"    {shown(call.body)}")
