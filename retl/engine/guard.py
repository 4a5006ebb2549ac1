"""Guards: limits on a diff that stop a run before its first call."""

import math
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from retl.config.sync import Limit, Sync
from retl.engine.advice import Advice, advise
from retl.engine.base import Changes
from retl.engine.diff import SMALL_SNAPSHOT, Diff
from retl.errors import GuardError
from retl.reason import Reason

NAMES = ("min_rows", "rejected", "removed", "changed", "added")

DEFAULT_LIMITS = {
    "rejected": Limit(percent=20),
    "removed": Limit(percent=20),
    "changed": Limit(percent=50),
    "added": Limit(percent=100),
}

MANY_ROWS = 1_000
"""The rows above which default percentages apply to any snapshot, however small."""

KEY_FAULTS = {Reason.NULL_KEY, Reason.DUPLICATE_KEY}
"""Reasons for which rows are rejected that a wrong primary key gives to all of them."""


class Outcome(StrEnum):
    """The outcome of a guard: whether it lets the run go on, and why."""

    OK = "ok"  # within the limit
    STOPS = "stops"  # the limit is broken
    FORCED = "forced"  # the limit is broken, and the user lets it pass
    OFF = "off"  # there is no limit
    WAIVED = "waived"  # broken, but it is a percentage of a snapshot that is small, or not there yet


@dataclass(frozen=True)
class Guard:
    """A guard and what it found.

    Attributes:
        name: as in the sync file and for `--force`.
        limit: as it is written: "20%", "500000" or "off".
        value: the rows that it counted.
        tripped: whether the limit is broken.
        forced: whether the user let it pass.
        waived: whether the limit is broken, but does not hold for this diff.
        whole: the rows that a percentage is of; None where it is of none.
    """

    name: str
    limit: str
    value: int
    tripped: bool
    forced: bool
    waived: bool = False
    whole: int | None = None

    @property
    def outcome(self) -> Outcome:
        """Whether it lets the run go on, and why."""
        if self.tripped:
            return Outcome.FORCED if self.forced else Outcome.STOPS
        if self.limit == "off":
            return Outcome.OFF
        return Outcome.WAIVED if self.waived else Outcome.OK

    def as_json(self) -> dict[str, Any]:
        """The object that stands for it in the record of a run."""
        names = ("name", "limit", "value", "tripped", "forced")
        return {name: getattr(self, name) for name in names}


def check(
    sync: Sync, diff: Diff, first_pass: bool, sends: bool, forced: Collection[str]
) -> tuple[Guard, ...]:
    """Hold a diff against the sync's guards.

    Args:
        sync: gives the limits.
        diff: gives the counts; percentages are of the snapshot's rows, for `rejected` of the rows read.
        first_pass: whether there is no snapshot yet; then only counts apply, and only if it sends, but for
            `min_rows` and `rejected`: what a broken model leaves out of a snapshot is sent once it is whole.
        sends: whether this run's changes become calls.
        forced: names of the guards that the user lets pass.
    """
    found = [
        Guard(
            "min_rows",
            str(sync.guards.min_rows),
            diff.rows_matched,
            diff.rows_matched < sync.guards.min_rows,
            "min_rows" in forced,
        )
    ]
    for name in NAMES[1:]:
        written: Limit | None = getattr(sync.guards, name)
        limit = written or DEFAULT_LIMITS[name]
        value: int = getattr(diff, name)
        whole = _whole(name, diff)
        if first_pass and name != "rejected":
            applies = sends and limit.count is not None
        else:
            applies = written is not None or whole >= SMALL_SNAPSHOT or value > MANY_ROWS
        broken = _broken(limit, value, whole)
        tripped, waived = applies and broken, broken and not applies
        found.append(Guard(name, str(limit), value, tripped, name in forced, waived, whole or None))
    return tuple(found)


def _whole(name: str, diff: Diff) -> int:
    """The rows that a guard's percentage is of."""
    return diff.rows_read if name == "rejected" else diff.rows_before


def _broken(limit: Limit, value: int, whole: int) -> bool:
    if limit.off:
        return False
    if limit.count is not None:
        return value > limit.count
    assert limit.percent is not None
    return value * 100 > limit.percent * whole


def stop_if_tripped(sync: Sync, changes: Changes, guards: Iterable[Guard]) -> None:
    """Stop where a guard tripped that was not forced.

    Args:
        sync: as its file has it, with `all` for all columns.
        changes: what the guards were held against.
        guards: what they found.

    Raises:
        GuardError: says what was found, and the two lines of which one lets it pass.
    """
    tripped = [guard for guard in guards if guard.outcome is Outcome.STOPS]
    if not tripped:
        return
    advice = advise(sync, changes)
    cause = "primary_key" if _has_wrong_key(changes.diff, tripped) else None
    raise GuardError(
        "; ".join(_sentence(guard, changes.diff, advice) for guard in tripped) + "; nothing was sent",
        where=sync.where(cause) if cause else sync.where("guards", tripped[0].name),
        hint="; ".join([f"look with retl plan {sync.path}", *_ways_on(sync, changes, tripped, advice)]),
    )


def ways_on(sync: Sync, changes: Changes, guards: Iterable[Guard]) -> tuple[str, ...]:
    """The ways on where guards stop a run, each as a sentence without an end; empty where none does.

    The arguments are those of `stop_if_tripped`.
    """
    tripped = [guard for guard in guards if guard.outcome is Outcome.STOPS]
    return tuple(_ways_on(sync, changes, tripped, advise(sync, changes))) if tripped else ()


def _has_wrong_key(diff: Diff, tripped: Sequence[Guard]) -> bool:
    """Whether the primary key may be the cause."""
    by_key = any(guard.name in ("min_rows", "rejected") for guard in tripped)
    return by_key and not KEY_FAULTS.isdisjoint(diff.rejected_by)


def _ways_on(sync: Sync, changes: Changes, tripped: Sequence[Guard], advice: Advice) -> Iterator[str]:
    names = [guard.name for guard in tripped]
    if _has_wrong_key(changes.diff, tripped):
        yield "name columns that tell rows apart, or fix the keys in the model"
        if not changes.diff.rows_matched:
            return  # there is no row that could be let pass
    elif "rejected" in names:
        yield "fix the values in the model"
    force = " ".join(f"--force {name}" for name in names)
    yield f"if this is right: retl run {sync.path} {force}, once{_consequence(names, changes)}"
    allowed = ", ".join(f"{guard.name}: {_allowing(guard, changes.diff)}" for guard in tripped)
    unnoticed = " (an empty result then passes unnoticed)" if "min_rows: 0" in allowed else ""
    yield f"or for good, in {sync.path}: guards: {{{allowed}}}{unnoticed}"
    if "changed" in names and advice.instead:
        yield f"or, {advice.instead}"


def _consequence(names: Sequence[str], changes: Changes) -> str:
    """The words that warn of what follows from letting guards pass, where their names do not say it."""
    is_first = changes.old_mapping is None
    if "rejected" in names or ("min_rows" in names and is_first):
        return " (rows that are left out now count as new once they are there)"
    if "min_rows" in names and "removed" not in names:
        removed = changes.diff.removed
        return f" ({removed:,} {'row then counts' if removed == 1 else 'rows then count'} as removed)"
    return ""


def _sentence(guard: Guard, diff: Diff, advice: Advice) -> str:
    if guard.name == "min_rows":
        rows = f"{diff.rows_read:,} rows"
        if diff.rejected_by.keys() & KEY_FAULTS:
            rows += f", of which {diff.rejected:,} have a key that is null or shared with others"
        elif diff.rejected:
            rows += f", of which {diff.rejected:,} are rejected ({_reasons(diff)})"
        return f"the model gave {rows}, and the limit is {guard.limit} or more"
    whole = _whole(guard.name, diff)
    notes = [f"{guard.value / whole:.1%}"] if whole else []
    if guard.name == "rejected":
        notes.append(_reasons(diff))
    what = {
        "rejected": f"of {whole:,} rows cannot be compared",
        "added": f"rows are new beside {whole:,} known ones",
        "changed": f"of {whole:,} rows changed",
        "removed": f"of {whole:,} rows are gone",
    }[guard.name]
    share = f" ({'; '.join(notes)})" if notes else ""
    sentence = f"{guard.value:,} {what}{share}, and the limit is {guard.limit}"
    causes = _causes(diff, advice) if guard.name == "changed" else ""
    return f"{sentence} ({causes})" if causes else sentence


def _causes(diff: Diff, advice: Advice) -> str:
    """The things that make rows changed: what the advice names, and what differs most."""
    column, count = max(diff.by_column.items(), key=lambda item: item[1], default=("", 0))
    most = f"`{column}` differs in {count:,} of them" if column and f"`{column}`" not in advice.found else ""
    return ", ".join(filter(None, (advice.found, most)))


def _reasons(diff: Diff) -> str:
    return ", ".join(f"{reason} {rows:,}" for reason, rows in diff.rejected_by.items())


def _allowing(guard: Guard, diff: Diff) -> str:
    """The limit that would let this diff pass, and none that is much larger."""
    whole = _whole(guard.name, diff)
    if guard.name == "min_rows" or not guard.limit.endswith("%") or not whole:
        return str(guard.value)
    return f"{math.ceil(guard.value / whole * 10) * 10}%"
