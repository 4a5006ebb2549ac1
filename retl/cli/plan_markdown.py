"""A plan as Markdown, for a comment on a pull request; values of rows are hidden unless asked for."""

import re
from collections.abc import Iterable, Iterator, Sequence

from retl.cli.console import count, despite_rules, undated_sentence, with_flags
from retl.cli.fold import fold_json
from retl.cli.plan_report import (
    cost_sentence,
    difference_sentence,
    edit_sentences,
    fates,
    guard_value,
    named_calls,
)
from retl.cli.receivers import reason_meaning
from retl.engine.guard import Outcome
from retl.errors import RetlError
from retl.planning import Plan, Sample

WIDTH = 100
"""Columns of a sample call; GitHub shows about so many without a bar to scroll."""

_MARKS = {Outcome.STOPS: "❌ stops", Outcome.FORCED: "⚠️ forced", Outcome.OFF: "off"}


def plan_markdown(plan: Plan, show_values: bool, flags: str = "") -> str:
    """A plan for a comment; the first line is a mark by which a bot finds the comment again.

    Args:
        plan: the plan.
        show_values: whether samples have keys and values.
        flags: options that are repeated after each command that a line names.
    """
    lines = [
        *_head(plan.sync),
        *(["❌ **A guard stops this run.**", ""] if plan.is_stopped else []),
        f"{count(plan.diff.rows_read, 'row')} read; {_escaped(cost_sentence(plan))}.",
        "",
        *_rows(plan),
    ]
    if plan.pending:
        lines += [f"First: {count(plan.pending, 'call')} of an earlier run.", ""]
    notes = [with_flags(sentence, flags) for sentence in edit_sentences(plan)]
    if plan.volume.undated:
        notes.append(undated_sentence(plan.volume.undated))
    if plan.volume.violations:
        notes.append(f"to be sent, {despite_rules(plan.volume.violations)}")
    lines += [*(f"- {_escaped(note)}" for note in notes), *([""] if notes else [])]
    lines += [*_differences(plan), *_rejected(plan), *_guards(plan, flags), *_samples(plan, show_values)]
    return "\n".join(lines)


def error_markdown(sync: str, error: RetlError) -> str:
    """The error that kept a sync from being planned, for the same comment."""
    hint = f"\n\n→ {_escaped(error.hint)}" if error.hint else ""
    return "\n".join([*_head(sync), f"❌ {_escaped(str(error))}{hint}", ""])


def _head(sync: str) -> list[str]:
    return [f"<!-- retl plan {sync} -->", f"### retl plan: {code(sync)}", ""]


def _rows(plan: Plan) -> Iterator[str]:
    cells = []
    for fate, rows, outcome in fates(plan):
        cells.append((fate, f"{rows:,}", named_calls(plan, fate, code) or outcome))
    yield from _table(("", "rows", "calls"), ("---", "---:", "---"), cells)


def _differences(plan: Plan) -> Iterator[str]:
    rejected = plan.rejected_changed_by
    names = sorted({**plan.changed_by, **rejected}, key=lambda name: -plan.changed_by.get(name, 0))
    cells = [
        (code(name), f"{plan.changed_by.get(name, 0):,}", f"{rejected.get(name, 0):,}") for name in names
    ]
    yield from _table(("differs", "in rows", "in rejected rows"), ("---", "---:", "---:"), cells)


def _rejected(plan: Plan) -> Iterator[str]:
    cells = [
        (code(reason), f"{rows:,}", _escaped(reason_meaning(reason)))
        for reason, rows in plan.diff.rejected_by.items()
    ]
    yield from _table(("rejected for", "rows", "meaning"), ("---", "---:", "---"), cells)


def _guards(plan: Plan, flags: str) -> Iterator[str]:
    cells = [
        (code(guard.name), guard_value(guard), _MARKS.get(guard.outcome, "✅ ok")) for guard in plan.guards
    ]
    yield from _table(("guard", "rows", ""), ("---", "---", "---"), cells)
    ways = [f"- {_escaped(with_flags(way, flags))}" for way in plan.ways_on]
    yield from [*ways, ""] if ways else []


def _samples(plan: Plan, show_values: bool) -> Iterator[str]:
    if not plan.samples:
        return
    hidden = "" if show_values else " (values are hidden; <code>--show-values</code> shows them)"
    yield from ("<details>", f"<summary>Sample calls{hidden}</summary>", "")
    for sample in plan.samples:
        key = f" {code(sample.key)}" if show_values else ""
        yield from (f"**{sample.change}**{key} → {code(sample.name)}", "")
        told = list(_sample_differences(sample, show_values))
        yield from [*told, ""] if told else []
        call = sample.call if show_values else without_values(sample.call)
        lines = fold_json(call, WIDTH, "")
        fence = "`" * max(3, 1 + _longest_run("\n".join(lines)))
        yield from (f"{fence}json", *lines, fence, "")
    yield from ("</details>", "")


def _sample_differences(sample: Sample, show_values: bool) -> Iterator[str]:
    for one in sample.differences:
        yield f"- {code(difference_sentence(one) if show_values else one.name)}"


def _table(head: Sequence[str], rule: Sequence[str], cells: Iterable[Sequence[str]]) -> Iterator[str]:
    """A table of GitHub's Markdown, with an empty line behind it; nothing where it has no rows."""
    rows = list(cells)
    if rows:
        escaped = [[re.sub(r"(?<!\\)\|", r"\|", cell) for cell in row] for row in rows]
        yield from (f"| {' | '.join(one)} |" for one in (head, rule, *escaped))
        yield ""


def code(text: str) -> str:
    """A text in a code span, in which neither Markdown, HTML nor a mention means anything."""
    text = " ".join(text.split()) or " "
    ticks = "`" * (1 + _longest_run(text))
    space = " " if "`" in text else ""
    return f"{ticks}{space}{text}{space}{ticks}"


def _longest_run(text: str) -> int:
    """The length of the longest run of backticks."""
    return max(map(len, re.findall("`+", text)), default=0)


def _escaped(sentence: str) -> str:
    """A sentence of retl's own, in which names stand between backticks, as Markdown."""
    parts = " ".join(sentence.split()).split("`")
    marks = re.compile(r"([\\*\[\]<>|~])")
    return "`".join(marks.sub(r"\\\1", part) if place % 2 == 0 else part for place, part in enumerate(parts))


_TOKENS = re.compile(r'("(?:[^"\\]|\\.)*")(\s*:)?|-?\d[\d.eE+-]*|\b(?:true|false|null)\b')

_SAID_BY_THE_SYNC = re.compile(r'^\{"type":"[a-z]+"')


def without_values(call: str) -> str:
    """A call's text with an ellipsis in place of each value; its type and the names of members stay."""
    head = _SAID_BY_THE_SYNC.match(call)
    begin = head[0] if head else ""
    rest = call[len(begin) :]
    return begin + _TOKENS.sub(lambda token: token[0] if token[2] else '"…"', rest)
