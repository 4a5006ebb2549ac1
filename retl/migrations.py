"""Migrations: the steps that bring an older state file to this version's schema.

A step belongs to the version that it starts from, and is never changed afterwards: it knows nothing of
today's code, so that a file of any age takes the same way.
"""

import json
from collections.abc import Callable
from typing import Any

import duckdb


def _add_stale(db: duckdb.DuckDBPyConnection) -> None:
    db.execute("ALTER TABLE state.snapshot ADD COLUMN stale BOOLEAN DEFAULT false")


def _name_metadata(db: duckdb.DuckDBPyConnection) -> None:
    """Rename `about`, and write out what a mapping's columns are used for."""
    db.execute("ALTER TABLE state.about RENAME TO metadata")
    db.execute("CREATE VIEW state.about AS SELECT schema_version, sync FROM state.metadata")
    for (mapping,) in db.execute("SELECT mapping FROM state.metadata WHERE mapping IS NOT NULL").fetchall():
        written = json.loads(mapping)
        for group in ("fields", "compared", "carried"):
            uses = written.get(group, {})
            written[group] = [{**_use(name), "column": column} for name, column in uses.items()]
        db.execute("UPDATE state.metadata SET mapping = ?", [json.dumps(written)])


def _use(name: str) -> dict[str, Any]:
    """The use of a column from its name in schema 2, such as `email`, `.id user_id` or `.removed .event`."""
    change = None
    first, _, rest = name.partition(" ")
    if first in (".added", ".changed", ".removed"):
        change, name = first[1:], rest
    if name == ".event":
        return {"part": "event", "name": "", "change": change}
    first, _, rest = name.partition(" ")
    if first in (".id", ".column", ".context"):
        return {"part": first[1:], "name": rest, "change": change}
    return {"part": "field", "name": name, "change": change}


MIGRATIONS: dict[int, Callable[[duckdb.DuckDBPyConnection], None]] = {1: _add_stale, 2: _name_metadata}
"""The step from each older schema version to the next."""
