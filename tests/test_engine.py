"""The contract of engines: the tables that lie between finding changes and rendering calls."""

import re
from pathlib import Path

import pytest
from delivery import TRACK, Shop, Table, memory_state

from retl.config.sync import Change
from retl.engine import base
from retl.engine.base import Changes
from retl.engine.local import LocalEngine
from retl.state import State

ENGINES = {"local": LocalEngine}
"""Each engine, by the name that a sync file has for it."""

BEFORE = {"id": [1, 2, 3], "owner": ["u1", "u2", "u3"], "value": ["a", "b", "c"]}
AFTER = {"id": [2, 3, 4, 5, 5, None], "owner": ["u2"] * 6, "value": ["b", "x", "d", "e", "e", "f"]}
"""One row is gone, one as it was, one changed, one new; two share a key, one has none."""

CONTRACT = dict(
    re.findall(
        r"^    (stage|row_fault|known|unmatched|change|respelled) +((?:\w+, )*\w+)", base.__doc__ or "", re.M
    )
)
"""The tables of the contract as the module's docstring has them, with their columns."""


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    """A track sync."""
    return Shop(tmp_path, "http://127.0.0.1:1", TRACK)


def after_two_runs(engine: type[LocalEngine], state: State, shop: Shop) -> Changes:
    """The changes from `BEFORE`, which is promoted, to `AFTER`."""
    first = engine(state.db, Table(BEFORE))
    changes = first.find_changes(shop.sync, shop.model, None, full=False)
    state.db.execute("CREATE OR REPLACE TEMP TABLE rejected (key VARCHAR, reason VARCHAR, rows BIGINT)")
    mapping = first.promote(changes)
    return engine(state.db, Table(AFTER)).find_changes(shop.sync, shop.model, mapping, full=False)


@pytest.mark.parametrize("engine", ENGINES.values(), ids=ENGINES)
def test_an_engine_fills_the_tables_of_the_contract(engine: type[LocalEngine], shop: Shop) -> None:
    """After finding changes there is each table that the contract lists, with these columns and no other."""
    assert {"stage", "row_fault", "known", "unmatched", "change", "respelled"} == CONTRACT.keys()
    with memory_state() as state:
        after_two_runs(engine, state, shop)
        for table, columns in CONTRACT.items():
            described = state.db.execute(f"DESCRIBE {table}").fetchall()
            assert columns.split(", ") == [name for name, *_ in described], table


@pytest.mark.parametrize("engine", ENGINES.values(), ids=ENGINES)
def test_an_engine_finds_each_change_once_and_counts_it(engine: type[LocalEngine], shop: Shop) -> None:
    """The table of changes has a row for each key that is new, differs or is gone; the counts agree."""
    with memory_state() as state:
        diff = after_two_runs(engine, state, shop).diff
        found = state.db.execute("SELECT key, change FROM change ORDER BY key").fetchall()
        faults = state.db.execute("SELECT key, reason, rows FROM row_fault ORDER BY key").fetchall()

    assert [("1", Change.REMOVED), ("3", Change.CHANGED), ("4", Change.ADDED)] == found
    assert [("5", "duplicate_key", 2), (None, "null_key", 1)] == faults
    assert (6, 3, 1, 1, 1) == (diff.rows_read, diff.rows_before, diff.added, diff.changed, diff.removed)
    assert 1 == diff.unchanged


@pytest.mark.parametrize("engine", ENGINES.values(), ids=ENGINES)
def test_a_promoted_snapshot_has_no_changes(engine: type[LocalEngine], shop: Shop) -> None:
    """Once a model's rows are promoted, the same rows are no change; rejected ones keep their old version."""
    with memory_state() as state:
        changes = after_two_runs(engine, state, shop)
        state.db.execute("INSERT INTO rejected VALUES ('3', 'too_large', 1)")
        work = engine(state.db, Table(AFTER))
        mapping = work.promote(changes)
        work.find_changes(shop.sync, shop.model, mapping, full=False)
        found = state.db.execute("SELECT key, change, before['value'] FROM change").fetchall()

    assert [("3", Change.CHANGED, "c")] == found
