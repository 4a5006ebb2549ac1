"""The cases in tests/cases/*.yml: what a sync sends for which rows, through the whole pipeline.

A file of cases has `about`, the theme in a sentence; `sync`, what the syncs of its cases have in common;
and `cases`. A case has a `name` that says what must hold, the `rules` of docs/promises that it shows, a
`sync` (its keys replace the file's; null takes a key away), and `runs`. Run 1 is at 2026-03-01T12:00:00Z,
each further one an hour later. A run has

    rows           what the model yields: a list of mappings, or a SELECT where types of the database matter
    sync           keys of the sync file that are edited from this run on
    backfill       true for --initial-backfill
    full           true for --full
    limit          a number for --limit
    force          guards named with --force

and what must come of it. What is not written is not looked at, but for the lines with a star.

    sends          the calls that Segment accepts, in order and whole; message id, moment and retl's own
                   context are compared only where they are written; a message id `retl-*` is one of retl's
    contains       pieces of text that must be in the requests as they are, for digits and spelling
    counts         of the run record: rows_read, unchanged, added, changed, removed, baseline, and its calls
    rejected    *  rejected rows by reason
    gone        *  rejected calls by reason: those of rows that are gone
    kept           rejected rows as state keeps them: [key, reason, times]
    tripped     *  guards that tripped
    error       *  a piece of the error message
    hint           a piece of what to do about it
    not_hinted     a piece that must not be in it
    exit_code   *  1 where something is rejected, else 0
    duplicates  *  calls that Segment drops for an id that it knows

Beyond what is written, each run must account for every row, leave nothing pending (but for `counts: {pending:
N}`), and send nothing that Segment would discard.
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from harness import Bench, Outcome, Rows, read_yaml

from retl.job import Options

FOLDER = Path(__file__).parent / "cases"

MOMENTS = {"timestamp", "originalTimestamp", "sentAt", "receivedAt"}


@dataclass(frozen=True)
class Step:
    """A run of a case, as its file has it."""

    rows: Rows
    sync: dict[str, Any] = field(default_factory=dict)
    backfill: bool = False
    full: bool = False
    limit: int | None = None
    force: tuple[str, ...] = ()
    sends: list[dict[str, Any]] | None = None
    contains: tuple[str, ...] = ()
    counts: dict[str, int] = field(default_factory=dict)
    rejected: dict[str, int] = field(default_factory=dict)
    gone: dict[str, int] = field(default_factory=dict)
    kept: list[list[Any]] | None = None
    tripped: list[str] = field(default_factory=list)
    error: str | None = None
    hint: str = ""
    not_hinted: str | None = None
    exit_code: int | None = None
    duplicates: int = 0


@dataclass(frozen=True)
class Case:
    """A case, as its file has it."""

    name: str
    rules: list[str]
    runs: list[dict[str, Any]]
    sync: dict[str, Any] = field(default_factory=dict)


def cases() -> list[Any]:
    """All cases, named by their file and what must hold; thorough are those that no rule needs."""
    found = []
    for path in sorted(FOLDER.glob("*.yml")):
        theme = read_yaml(path)
        found += [(theme.get("sync", {}), path.stem, Case(**written)) for written in theme["cases"]]
    quick = quick_ones([case for _, _, case in found])
    return [
        pytest.param(
            sync,
            case,
            id=f"{theme}: {case.name}",
            marks=[] if any(case is one for one in quick) else [pytest.mark.thorough],
        )
        for sync, theme, case in found
    ]


def quick_ones(cases: Sequence[Case]) -> list[Case]:
    """Cases that show all rules of all, in few runs: those first that show most rules in each of theirs."""
    chosen = []
    left = {rule for case in cases for rule in case.rules}
    while left:
        best = max(cases, key=lambda case: len(left.intersection(case.rules)) / len(case.runs))
        chosen.append(best)
        left -= set(best.rules)
    return chosen


@pytest.mark.parametrize(("common", "case"), cases())
def test_case(bench: Bench, common: Mapping[str, Any], case: Case) -> None:
    """The runs of a case send, count and reject what its file says."""
    sync = {**common, **case.sync}
    for number, written in enumerate(case.runs, start=1):
        step = Step(**written)
        sync = {key: value for key, value in {**sync, **step.sync}.items() if value is not None}
        duplicates = len(bench.sandbox.duplicates)
        options = Options(step.backfill, frozenset(step.force), step.limit, step.full)
        outcome = bench.run(sync, step.rows, options)
        check(step, bench, outcome, f"run {number}")
        assert step.duplicates == len(bench.sandbox.duplicates) - duplicates, f"run {number}"
        bench.clock.move(3600)


def check(step: Step, bench: Bench, outcome: Outcome, run: str) -> None:
    """Hold what a run did against what its file says."""
    record = outcome.run.as_json()
    if step.error is None:
        assert record["error"] is None or step.tripped, run
    else:
        assert record["error"] is not None, f"{run}: an error that says {step.error!r}"
        assert step.error in record["error"]["message"], run
    hint = (record["error"] or {}).get("hint") or ""
    assert step.hint in hint, run
    assert step.not_hinted is None or step.not_hinted not in hint, run
    if step.sends is not None:
        sent = [shown(call, step.sends, place) for place, call in enumerate(outcome.calls)]
        assert [spelled(call) for call in step.sends] == [spelled(call) for call in sent], run
    for text in step.contains:
        assert text in b"\n".join(request.body for request in outcome.requests).decode(), run
    assert step.counts == {name: {**record, **record["calls"]}[name] for name in step.counts}, run
    assert step.rejected == record["rejected_by"], run
    assert step.gone == Counter(call.reason for call in outcome.rejected_calls), run
    if step.kept is not None:
        kept = [[row.key, row.reason, row.times] for row in outcome.rejected_rows]
        assert sorted(step.kept, key=str) == sorted(kept, key=str), run
    assert step.tripped == [guard["name"] for guard in record["guards"] if guard["tripped"]], run
    usual = 1 if step.rejected or step.gone else 0
    assert (usual if step.exit_code is None else step.exit_code) == record["exit_code"], run

    assert record["calls"]["pending"] == step.counts.get("pending", 0), run
    assert bench.sandbox.discarded == [], run
    if record["rows_read"] is not None:
        of_each = [record[name] for name in ("unchanged", "added", "changed", "rejected_rows")]
        assert record["rows_read"] == sum(of_each), run


def shown(call: Mapping[str, Any], expected: list[dict[str, Any]], place: int) -> dict[str, Any]:
    """A call as its case writes it: what no case cares for is left out, unless the case has it."""
    asked = expected[place] if place < len(expected) else {}
    left = {key: value for key, value in call.items() if key not in MOMENTS}
    if "timestamp" in asked:
        left["timestamp"] = call["originalTimestamp"]
    if "messageId" not in asked:
        del left["messageId"]
    elif asked["messageId"] == "retl-*" and left["messageId"].startswith("retl-"):
        left["messageId"] = "retl-*"
    left["context"] = {key: value for key, value in left["context"].items() if key != "library"}
    if not left["context"]:
        del left["context"]
    return left


def spelled(call: Mapping[str, Any]) -> str:
    """A call as text, in which 1, 1.0 and true differ and the order of keys does not show."""
    return json.dumps(call, sort_keys=True, ensure_ascii=False)
