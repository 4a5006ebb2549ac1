"""Guards: limits on a diff that stop a run before its first call."""

import json
import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from retl.config.sync import Limit, Sync
from retl.engine.diff import SMALL_SNAPSHOT, Diff
from retl.errors import GuardError
from retl.reason import Reason

NAMES = ("min_rows", "removed", "changed", "added")

DEFAULT_LIMITS = {
    "removed": Limit(percent=20),
    "changed": Limit(percent=50),
    "added": Limit(percent=100),
}

KEY_FAULTS = {Reason.NULL_KEY, Reason.DUPLICATE_KEY}
"""Reasons for which rows are rejected that a wrong primary key gives to all of them."""


@dataclass(frozen=True)
class Guard:
    """A guard and what it found.

    Attributes:
        name: as in the sync file and for `--force`.
        limit: as it is written: "20%", "500000" or "off".
        value: the rows that it counted.
        tripped: whether the limit is broken.
        forced: whether the user let it pass.
    """

    name: str
    limit: str
    value: int
    tripped: bool
    forced: bool


def check(
    sync: Sync, diff: Diff, first_pass: bool, sends: bool, forced: Collection[str]
) -> tuple[Guard, ...]:
    """Hold a diff against the sync's guards.

    Args:
        sync: gives the limits.
        diff: gives the counts; percentages are of the snapshot's rows.
        first_pass: whether there is no snapshot yet; then only counts apply, and only if it sends.
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
    for name in ("removed", "changed", "added"):
        written: Limit | None = getattr(sync.guards, name)
        limit = written or DEFAULT_LIMITS[name]
        value: int = getattr(diff, name)
        if first_pass:
            applies = sends and limit.count is not None
        else:
            applies = written is not None or diff.rows_before >= SMALL_SNAPSHOT
        found.append(Guard(name, str(limit), value, applies and _broken(limit, value, diff), name in forced))
    return tuple(found)


def _broken(limit: Limit, value: int, diff: Diff) -> bool:
    if limit.off:
        return False
    if limit.count is not None:
        return value > limit.count
    assert limit.percent is not None
    return value * 100 > limit.percent * diff.rows_before


def stop_if_tripped(sync: Sync, diff: Diff, guards: Iterable[Guard]) -> None:
    """Stop where a guard tripped that was not forced.

    Raises:
        GuardError: says what was found, and the two lines of which one lets it pass.
    """
    tripped = [guard for guard in guards if guard.tripped and not guard.forced]
    if not tripped:
        return
    force = " ".join(f"--force {guard.name}" for guard in tripped)
    if diff.rejected_by.keys() & KEY_FAULTS and tripped[0].name == "min_rows":
        raise GuardError(
            f"{_sentence(tripped[0], diff)}; nothing was sent",
            where=sync.where("primary_key"),
            hint="name columns that tell rows apart, or fix the keys in the model",
        )
    hint = (
        f"if this is right: retl run {sync.path} {force}, once; "
        f"or for good, in {sync.path}: guards: {{{', '.join(_allowing(guard) for guard in tripped)}}}"
    )
    if any(guard.name == "changed" for guard in tripped) and compare_instead(diff):
        hint += f"; or leave out what differs everywhere: {compare_instead(diff)}"
    raise GuardError(
        "; ".join(_sentence(guard, diff) for guard in tripped) + "; nothing was sent",
        where=sync.where("guards", tripped[0].name),
        hint=hint,
    )


def compare_instead(diff: Diff) -> str | None:
    """The line of a sync file by which only what does not differ in nearly every row counts as a change.

    None where nothing differs so, or everything does.
    """
    suspicious_columns = {diff.columns[name] for name in diff.suspicious_columns}
    others = dict.fromkeys(column for column in diff.columns.values() if column not in suspicious_columns)
    return f"compare: [{', '.join(map(_as_yaml, others))}]" if suspicious_columns and others else None


def _as_yaml(column: str) -> str:
    """A column's name as YAML takes it for text in a list."""
    is_plain = re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", column)
    is_word = column.lower() in {"true", "false", "null"}
    return column if is_plain and not is_word else json.dumps(column, ensure_ascii=False)


def suspicious_sentence(diff: Diff) -> str:
    """The columns that differ in nearly every row, as a sentence; empty where there are none."""
    named = [f"`{name}` differs in {share:.1%} of rows" for name, share in diff.suspicious_columns.items()]
    return ", ".join(named) + ("; leave it out with `compare`" if named else "")


def _sentence(guard: Guard, diff: Diff) -> str:
    if guard.name == "min_rows":
        rows = f"{diff.rows_read:,} rows"
        if diff.rejected_by.keys() & KEY_FAULTS:
            rows += f", of which {diff.rejected:,} have a key that is null or shared with others"
        elif diff.rejected:
            reasons = ", ".join(f"{reason} {rows:,}" for reason, rows in diff.rejected_by.items())
            rows += f", of which {diff.rejected:,} are rejected ({reasons})"
        return f"the model gave {rows}, and the limit is {guard.limit} or more"
    share = f" ({guard.value / diff.rows_before:.1%})" if diff.rows_before else ""
    whole = {
        "added": f"rows are new beside {diff.rows_before:,} known ones",
        "changed": f"of {diff.rows_before:,} rows changed",
        "removed": f"of {diff.rows_before:,} rows are gone",
    }[guard.name]
    sentence = f"{guard.value:,} {whole}{share}, and the limit is {guard.limit}"
    if guard.name == "changed" and diff.suspicious_columns:
        sentence += f" ({suspicious_sentence(diff)})"
    elif guard.name == "changed" and diff.by_column:
        column, count = max(diff.by_column.items(), key=lambda item: item[1])
        sentence += f" (`{column}` differs in {count:,} of them)"
    return sentence


def _allowing(guard: Guard) -> str:
    return f"min_rows: {guard.value}" if guard.name == "min_rows" else f"{guard.name}: off"
