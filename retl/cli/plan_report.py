"""A plan as text: rows, calls, samples, guards and costs, on one screen of a terminal."""

import json
import re
from collections.abc import Callable, Iterator, Mapping

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from retl.cli.console import SIGNS, Ragged, count, despite_rules, duration, undated_sentence, with_flags
from retl.cli.fold import fold_json, fold_words, shortened
from retl.cli.receivers import reason_meaning
from retl.engine.difference import Difference
from retl.engine.edits import unsent_sentence
from retl.engine.guard import Guard, Outcome
from retl.planning import KEYS, Plan, Sample

SHOWN_SIGNS = {"unchanged": SIGNS["unchanged"], **SIGNS, "rejected": ("!", "yellow")}
"""The sign and the colour of each fate of a row, in the order in which they are printed."""

OUTCOME_COLORS = {Outcome.STOPS: "red", Outcome.FORCED: "yellow"}


def plan_report(plan: Plan, width: int | None, flags: str = "") -> RenderableType:
    """A plan for people.

    Args:
        plan: the plan.
        width: columns at which lines are folded; None leaves them whole.
        flags: options that are repeated after each command that a line names.
    """
    lines: list[RenderableType] = [
        Text.assemble((plan.sync, "bold"), f": {count(plan.diff.rows_read, 'row')} read")
    ]
    if plan.pending:
        run = "--full, which the next run completes" if plan.resumed_full else "run"
        lines.append(Text(f"  first: {count(plan.pending, 'call')} of an earlier {run}", "yellow"))
    lines.append(Ragged(_rows_table(plan)))
    for text, style in _findings(plan, flags):
        lines += [Text(line, style) for line in fold_words(text, width)]
    for sample in plan.samples:
        lines += _sample_lines(sample, width)
    lines += _guard_lines(plan, width, flags)
    lines += [Text(line, "bold") for line in fold_words(cost_sentence(plan), width)]
    return Group(*lines)


def _rows_table(plan: Plan) -> Table:
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 1))
    for fate, rows, outcome in fates(plan):
        sign, color = SHOWN_SIGNS[fate]
        shown = f"→ {outcome}" if outcome else ""
        table.add_row("", Text(sign, color), Text(f"{rows:,}", color, justify="right"), fate, shown)
    if not table.row_count:
        table.add_row("", "no changes")
    return table


def fates(plan: Plan) -> Iterator[tuple[str, int, str]]:
    """The fates of rows: what became of them, of how many, and which calls they make; no others."""
    diff = plan.diff
    rows = {
        "unchanged": diff.unchanged,
        "added": diff.added,
        "changed": diff.changed,
        "removed": diff.removed,
        "rejected": diff.rejected,
    }
    for fate, number in rows.items():
        if fate == "rejected":
            outcome = "not sent"
        elif fate == "unchanged" and not diff.resent:
            outcome = ""
        elif not plan.sends:
            outcome = "a silent baseline: remembered, not sent"
        else:
            outcome = named_calls(plan, fate) or "no call"
        if number:
            yield fate, number, outcome


def named_calls(plan: Plan, fate: str, spell: Callable[[str], str] = str, most: int = 6) -> str:
    """The calls of rows of one fate by their names, most calls first: `12 Order Placed, 3 Order Paid`.

    Args:
        plan: the plan.
        fate: of the rows.
        spell: gives the name of a call as it is printed.
        most: names beyond which the others are only counted; a column of names may have thousands.
    """
    calls = {name: calls for (change, name), calls in plan.calls.items() if change == fate}
    order = sorted(calls.items(), key=lambda item: -item[1])
    named = ", ".join(f"{calls:,} {spell(name)}" for name, calls in order[:most])
    rest = sum(calls for _, calls in order[most:])
    return f"{named}, and {rest:,} of {count(len(order) - most, 'other name')}" if rest else named


def _findings(plan: Plan, flags: str) -> Iterator[tuple[str, str]]:
    """The sentences about what was found, each with its style."""
    if plan.changed_by:
        yield f"differing in: {ranked(plan.changed_by)}", ""
    if plan.rejected_changed_by:
        yield f"differing in rejected rows: {ranked(plan.rejected_changed_by)}", "yellow"
    for reason, rows in plan.diff.rejected_by.items():
        keys = ", ".join(map(shortened, plan.rejected_keys.get(reason, ())))
        of_keys = f": {keys}{', …' if rows > KEYS else ''}" if keys else ""
        yield f"{count(rows, 'row')} rejected: {reason_meaning(reason)} ({reason}){of_keys}", "yellow"
    for sentence in edit_sentences(plan):
        yield with_flags(sentence, flags), "yellow"
    if plan.volume.undated:
        yield undated_sentence(plan.volume.undated), "yellow"
    if plan.volume.violations:
        yield f"to be sent, {despite_rules(plan.volume.violations)}", "yellow"


def edit_sentences(plan: Plan) -> Iterator[str]:
    """The sentences about a silent baseline, an edit of the sync, and what differs in nearly every row."""
    if not plan.sends and plan.diff.added:
        yield "the first run of a track or audience sync remembers the rows; later ones send what changed"
        yield f"→ to send the rows of today, too: retl run {plan.path} --initial-backfill"
    if plan.advice.found:
        yield ("the sync was edited; sent for it: " if plan.advice.by_edit else "") + plan.advice.found
    if plan.advice.instead:
        yield f"→ {plan.advice.instead}"
    if plan.unsent:
        yield unsent_sentence(plan.unsent)
        yield f"→ to send it to every row now: retl run {plan.path} --full"


def ranked(by_column: Mapping[str, int], most: int = 6) -> str:
    """The columns in which most rows differ, with the number of rows: `plan 20, address.city 11`."""
    order = sorted(by_column.items(), key=lambda item: -item[1])
    named = ", ".join(f"{name} {rows:,}" for name, rows in order[:most])
    return named if len(order) <= most else f"{named}, and {len(order) - most} more"


def _sample_lines(sample: Sample, width: int | None) -> Iterator[Text]:
    sign, color = SIGNS[sample.change]
    yield Text.assemble("  ", (sign, color), " ", (sample.key, "bold"), f"  {sample.name}")
    for one in sample.differences:
        for line in fold_words(difference_sentence(one), width, "      "):
            yield Text(line, color)
    for line in fold_json(sample.call, width, "    "):
        yield Text(line, "dim" if sample.differences else "")


def difference_sentence(one: Difference) -> str:
    """A difference in a few words: `plan: free → pro`."""
    return f"{one.name}: {_plain(one.before)} → {_plain(one.after)}"


def _plain(value: str) -> str:
    """A JSON text without quotes where these tell nothing."""
    if not value.startswith('"'):
        return shortened(value)
    text = json.loads(value)
    is_ambiguous = text != text.strip() or not text or re.fullmatch(r"null|true|false|[-+.\d].*", text)
    # A number, date or code in quotes is one for all that matters here; what is blank is not.
    return shortened(value if is_ambiguous and not re.search(r"[-:/+]", text[1:]) else text)


def _guard_lines(plan: Plan, width: int | None, flags: str) -> Iterator[Text]:
    """The guards: in a sentence where none is broken, else each on its line, with the ways on."""
    if not any(guard.tripped for guard in plan.guards):
        told = ", ".join(f"{guard.name} {guard_value(guard)}" for guard in plan.guards)
        yield from (Text(line, "dim") for line in fold_words(f"guards ok: {told}", width))
        return
    longest = max(len(guard.name) for guard in plan.guards)
    for guard in plan.guards:
        sentence = f"guard {guard.name:<{longest}} {guard.outcome}: {guard_value(guard)}"
        yield from (Text(line, OUTCOME_COLORS.get(guard.outcome, "")) for line in fold_words(sentence, width))
    for way in plan.ways_on:
        yield from (Text(line) for line in fold_words(f"→ {with_flags(way, flags)}", width))


def guard_value(guard: Guard) -> str:
    """A guard's rows and limit in a few words: `12 of 100 (limit 20%)`."""
    whole = f" of {guard.whole:,}" if guard.whole else ""
    limit = f"{guard.limit} or more" if guard.name == "min_rows" else f"limit {guard.limit}"
    if guard.outcome is Outcome.WAIVED:
        limit += ", not for so few rows" if guard.whole else ", not on a first pass"
    return f"{guard.value:,}{whole} ({limit})"


def cost_sentence(plan: Plan) -> str:
    """The sentence about calls, users, bytes, requests and time."""
    if not plan.total_calls:
        return "nothing would be sent"
    size = size_of(plan.volume.bytes)
    users = count(plan.volume.users, "user")
    if plan.file is not None:
        return f"{count(plan.total_calls, 'call')} of {users}, {size}, to {plan.file}"
    cost = f"{count(plan.total_calls, 'API call')} of {users}, {size} in {count(plan.requests, 'request')}"
    if not plan.calls_per_second:
        return f"{cost}, without a rate limit"
    time = "under a second" if plan.seconds < 1 else duration(plan.seconds)
    return f"{cost}, {time} at {plan.calls_per_second:,} calls/s"


def size_of(size: int) -> str:
    """Bytes in words: `812 bytes`, `2.4 kB`, `1.3 MB`."""
    for unit, most in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if size >= most:
            return f"{size / most:,.1f} {unit}"
    return f"{size} bytes"
