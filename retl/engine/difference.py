"""The differences of changed rows: how many rows differ in each thing compared, and the values of a few."""

from collections.abc import Collection
from dataclasses import dataclass

import duckdb

from retl import sql
from retl.engine.base import Changes
from retl.engine.canonical import json_text, plain_text
from retl.engine.diff import differs
from retl.engine.mapping import Comparison


@dataclass(frozen=True)
class Difference:
    """One thing in which a row differs from the snapshot.

    Attributes:
        name: of the field, or of the id or column with its part: `plan`, `id user_id`.
        before: the value as JSON text, as it was sent; "null" where there was none.
        after: likewise, as the model has it now.
    """

    name: str
    before: str
    after: str


def count_differences(db: duckdb.DuckDBPyConnection, changes: Changes, which: str) -> dict[str, int]:
    """How many of the changed rows differ in each thing compared; things in which none does are left out.

    Args:
        db: the state's connection, with the view `change`.
        changes: the changes, and what was compared.
        which: an SQL condition on the rows of `change`.
    """
    if not changes.diff.changed:
        return {}
    counts = ", ".join(f"count(*) FILTER ({_differs(one, changes)})" for one in changes.compared)
    rows = db.execute(f"SELECT {counts} FROM change WHERE change = 'changed' AND {which}").fetchone()
    assert rows is not None
    names = [one.use.label for one in changes.compared]
    return {name: count for name, count in zip(names, rows, strict=True) if count}


def list_differences(
    db: duckdb.DuckDBPyConnection, changes: Changes, keys: Collection[str]
) -> dict[str, tuple[Difference, ...]]:
    """The differences of a few changed rows, by key.

    Args:
        db: the state's connection, with the view `change`.
        changes: the changes, and what was compared.
        keys: of the rows; others than changed ones are left out.
    """
    if not keys or not changes.compared:
        return {}
    columns = ", ".join(
        f"[({_differs(one, changes)})::VARCHAR, {', '.join(_values(one, changes))}]"
        for one in changes.compared
    )
    found = db.execute(
        f"SELECT key, [{columns}] FROM change WHERE change = 'changed' AND list_contains(?, key)",
        [list(keys)],
    ).fetchall()
    names = [one.use.label for one in changes.compared]
    return {
        key: tuple(
            Difference(name, before, after)
            for name, (is_other, before, after) in zip(names, values, strict=True)
            if is_other == "true"
        )
        for key, values in found
    }


def _differs(one: Comparison, changes: Changes) -> str:
    """The SQL condition that a changed row differs in one thing."""
    return differs(one, changes.mapping, changes.old_mapping, "before", "after")


def _values(one: Comparison, changes: Changes) -> tuple[str, str]:
    """The SQL of both values of one thing, as JSON text."""
    new, old = changes.mapping, changes.old_mapping
    after_type = new.types[one.after]
    before_type = old.type_of(one.before, after_type) if old and one.before else None
    after = _as_json(one, after_type, f"after[{sql.text(one.after)}]")
    if one.before is None or before_type is None:
        return "'null'", after
    return _as_json(one, before_type, f"before[{sql.text(one.before)}]"), after


def _as_json(one: Comparison, kind: str, value: str) -> str:
    if one.is_id:
        text = f"to_json({plain_text(kind, value)})::VARCHAR"
    elif one.is_json_text and kind == "VARCHAR":
        text = value
    else:
        text = json_text(kind, value)
    return f"coalesce({text}, 'null')"
