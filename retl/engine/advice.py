"""Advice on a diff in which nearly every row changed: what makes it so, and which line leaves it out.

Whoever follows it to the letter loses nothing but the changes of what it names. So it never leaves out

- an id: who moves from one user to another has to be noticed;
- what the sync has lately begun to compare: that is to be sent, and a `compare` would only remember it;
- a column of which another use differs seldom, or is remembered in this very run;
- a column whose type changed in the model: its values may be as they were, and are still to be compared;
- the last thing that can change: no row would ever be sent again.
"""

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from retl.config.sync import Sync
from retl.engine.base import Changes
from retl.engine.mapping import Comparison, Part

MOST_NAMES = 6
"""Names in a sentence, beyond which the others are only counted."""

_TYPES = {"VARCHAR": "text", "BIGINT": "integer", "HUGEINT": "integer"}
"""Types as a sentence names them; others as DuckDB does."""


@dataclass(frozen=True)
class Advice:
    """Advice on one diff.

    Attributes:
        found: what makes rows changed: by an edit of sync or model, by another type of a column, or in nearly
            every row; as a sentence without an end, empty where there is nothing of the kind.
        instead: what to write in sync file or model so that it sends nothing; None where nothing is safe.
        by_edit: whether an edit of sync or model makes rows changed.
    """

    found: str
    instead: str | None
    by_edit: bool = False


def advise(sync: Sync, changes: Changes) -> Advice:
    """The advice on a diff.

    Args:
        sync: as its file has it, with `all` for all columns.
        changes: the diff, and what was compared in it.
    """
    by_label, everywhere = changes.diff.by_column, changes.diff.suspicious_columns
    new = [one for one in changes.compared if _is_new(one, changes) and one.use.label in by_label]
    retyped = [one for one in changes.compared if one not in new and _is_retyped(one, changes)]
    named = {one.use.label for one in (*new, *retyped)}
    stamps = [label for label in everywhere if label not in named]
    found = [_told(one, changes, by_label[one.use.label]) for one in new]
    found += [f"`{name}` is gone" for name in _gone(changes)] if new else []
    found += [_told_type(one, changes, by_label[one.use.label]) for one in retyped]
    found += [f"`{label}` differs in {everywhere[label]:.1%} of rows" for label in stamps]
    more = [f"and {len(found) - MOST_NAMES} more"] if len(found) > MOST_NAMES else []
    sentence = ", ".join(found[:MOST_NAMES] + more)
    return Advice(sentence, _instead(sync, changes, new, retyped), by_edit=bool(new))


def _is_new(one: Comparison, changes: Changes) -> bool:
    """Whether an edit made this thing compared, or gave it another column."""
    old = changes.old_mapping
    return old is not None and old.compared.get(one.use) != one.after


def _is_retyped(one: Comparison, changes: Changes) -> bool:
    """Whether rows differ in this thing because its column has a type of another kind than before.

    Numbers are equal whatever their type, and so are ids, and mostly what a field casts; these differ in
    nearly every row if the type is the cause.
    """
    rows, (before, after) = changes.diff.by_column.get(one.use.label, 0), _types(one, changes)
    if not rows or None in (before, after) or _kind(before) == _kind(after):
        return False
    is_blind = one.is_id or one.cast is not None
    return not is_blind or one.use.label in changes.diff.suspicious_columns


def _types(one: Comparison, changes: Changes) -> tuple[str | None, str | None]:
    """The canonical types of a column before and now; None where it had no values, or is not known."""
    old, now = changes.old_mapping, changes.mapping.types[one.after]
    before = old.type_of(one.before, now) if old and one.before else None
    return (None if before == "NULL" else before), (None if now == "NULL" else now)


def _kind(kind: str | None) -> str | None:
    is_number = kind is not None and kind.startswith(("BIGINT", "HUGEINT", "DECIMAL", "DOUBLE"))
    return "number" if is_number else kind


def _differs_in(rows: int) -> str:
    return f"differs in {rows:,} {'row' if rows == 1 else 'rows'}"


def _told_type(one: Comparison, changes: Changes, rows: int) -> str:
    before, after = (_TYPES.get(kind or "", kind) for kind in _types(one, changes))
    return f"`{one.use.label}` was {before} and is {after} now, another type, and {_differs_in(rows)}"


def _told(one: Comparison, changes: Changes, rows: int) -> str:
    old = changes.old_mapping
    assert old is not None, "without a snapshot nothing is new"
    differs = _differs_in(rows)
    if one.use in old.compared:
        return f"`{one.use.label}` takes its value from `{one.after}` now and {differs}"
    if one.use in old.fields or one.use.part is not Part.FIELD:
        return f"`{one.use.label}` is compared anew and {differs}"
    return f"`{one.use.label}` is new and {differs}"


def _gone(changes: Changes) -> Iterator[str]:
    """The fields that the mapping had and has no longer."""
    old = changes.old_mapping
    yield from (use.label for use in (old.fields if old else ()) if use not in changes.mapping.fields)


def _instead(sync: Sync, changes: Changes, new: list[Comparison], retyped: list[Comparison]) -> str | None:
    """The line of the sync file, or of the model, by which what differs nearly everywhere no longer sends."""
    mapping = changes.mapping
    if retyped and not new:
        casts = dict.fromkeys(f"`{one.after}` to {_types(one, changes)[0]}" for one in retyped)
        return f"if the values mean the same: cast in the model {', '.join(casts)}, as it was"
    if sync.block.sends_all and sync.compare is None:
        names = dict.fromkeys(one.after for one in new) or _stamps(changes)
        if not names or not set(mapping.fields.values()).difference(names):
            return None
        left_out = dict.fromkeys([*(sync.block.except_ or ()), *names])
        return f"to leave {_named(names)} out of all calls, below `{sync.kind}`: except: {_list(left_out)}"
    names = {} if new else _stamps(changes)
    others = dict.fromkeys(column for column in mapping.compared.values() if column not in names)
    if not names or not set(others).difference(mapping.ids.values(), mapping.primary_key):
        return None
    return f"if a change of {_named(names)} alone is never to be sent: compare: {_list(others)}"


def _stamps(changes: Changes) -> dict[str, None]:
    """The columns of which every use differs in nearly every row, and none is an id."""
    everywhere, mapping = changes.diff.suspicious_columns, changes.mapping
    uses = {one.use for one in changes.compared if one.use.label in everywhere}
    seldom = {column for use, column in mapping.compared.items() if use not in uses}
    kept = seldom.union(mapping.ids.values(), mapping.primary_key)
    return dict.fromkeys(column for column in mapping.compared.values() if column not in kept)


def _named(columns: Iterable[str]) -> str:
    return ", ".join(f"`{column}`" for column in columns)


def _list(columns: Iterable[str]) -> str:
    """Names of columns as YAML takes them for a list of texts."""
    return f"[{', '.join(map(_as_yaml, columns))}]"


def _as_yaml(column: str) -> str:
    is_plain = re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", column)
    is_word = column.lower() in {"true", "false", "null"}
    return column if is_plain and not is_word else json.dumps(column, ensure_ascii=False)
