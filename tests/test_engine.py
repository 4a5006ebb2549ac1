"""The contract of engines: the tables that lie between finding changes and rendering calls."""

import re
from collections.abc import Collection
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from delivery import TRACK, Shop, Table, memory_state

from retl.config.sync import Change
from retl.engine import base
from retl.engine.base import Changes
from retl.engine.landing import Purpose
from retl.engine.local import LocalEngine
from retl.model import Model
from retl.state import State
from retl.warehouse import Warehouse

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


class Batches(Table):
    """A warehouse whose models all give the same batches, be their types as they are."""

    def __init__(self, batches: list[pa.RecordBatch]) -> None:
        super().__init__({})
        self.batches = batches

    def read(self, model: Model, columns: Collection[str] | None = None, batch_rows: int = 1_000) -> Any:
        """The batches as they were handed in."""
        return iter(self.batches)


def met_again(
    state: State, shop: Shop, after: Warehouse, before: Warehouse | None = None
) -> tuple[Changes, list[tuple[Any, ...]]]:
    """The changes from `BEFORE`, which is promoted, to other rows, and the keys that came more than once."""
    first = LocalEngine(state.db, before or Table(BEFORE), Purpose.PROMOTE)
    changes = first.find_changes(shop.sync, shop.model, None, full=False)
    state.db.execute("CREATE OR REPLACE TEMP TABLE rejected (key VARCHAR, reason VARCHAR, rows BIGINT)")
    mapping = first.promote(changes)
    found = LocalEngine(state.db, after).find_changes(shop.sync, shop.model, mapping, full=False)
    return found, state.db.execute("SELECT key, rows FROM row_fault ORDER BY key").fetchall()


def test_a_row_that_arrives_as_it_was_is_not_staged(shop: Shop) -> None:
    """Only rows that are new or differ are staged; the others count as unchanged, and none as removed."""
    with memory_state() as state:
        after = {"id": [1, 2, 3, 4], "owner": ["u1", "u2", "u3", "u4"], "value": ["a", "x", "c", "d"]}
        changes, _ = met_again(state, shop, Table(after))
        staged = state.db.execute("SELECT key FROM stage ORDER BY key").fetchall()
        others = state.db.execute("SELECT key FROM unmatched").fetchall()

    assert ([("2",), ("4",)], [("2",)]) == (staged, others)
    diff = changes.diff
    assert (4, 1, 1, 0, 2) == (diff.rows_read, diff.added, diff.changed, diff.removed, diff.unchanged)


@pytest.mark.parametrize(
    ("ids", "values", "shared"),
    [
        ([1, 2, 3, 2], ["a", "b", "c", "b"], [("2", 2)]),
        ([1, 2, 3, 2], ["a", "b", "c", "x"], [("2", 2)]),
        ([1, 2, 3, 2], ["a", "y", "c", "x"], [("2", 2)]),
        ([1, 2, 3, 2, 2], ["a", "b", "c", "x", "b"], [("2", 3)]),
        ([1, 2, 2, 3, 3], ["a", "b", "b", "c", "x"], [("2", 2), ("3", 2)]),
        ([1, 2, 3, 4, 4], ["a", "b", "c", "d", "d"], [("4", 2)]),
    ],
    ids=["both as it was", "one as it was", "none as it was", "three", "two keys", "a new key"],
)
def test_a_key_that_comes_twice_is_found_where_rows_are_not_staged(
    shop: Shop, ids: list[int], values: list[str], shared: list[tuple[str, int]]
) -> None:
    """All rows of a shared key are rejected, be they as they were or not; the key is not removed."""
    with memory_state() as state:
        after = {"id": ids, "owner": [f"u{one}" for one in ids], "value": values}
        changes, faults = met_again(state, shop, Table(after))
        assert [] == state.db.execute("SELECT key FROM change").fetchall()

    assert shared == faults
    assert (0, 0, 0) == (changes.diff.added, changes.diff.changed, changes.diff.removed)


def batch(ids: list[int], values: list[Any], kind: pa.DataType | None = None) -> pa.RecordBatch:
    """Rows as a warehouse without column types hands them over: typed by what is in the batch."""
    columns = {"id": pa.array(ids), "owner": pa.array([f"u{one}" for one in ids])}
    return pa.RecordBatch.from_pydict({**columns, "value": pa.array(values, kind)})


@pytest.mark.parametrize(
    ("batches", "changes"),
    [
        ([batch([1], ["a"]), batch([2], [None]), batch([3], ["c"])], {"2": "changed"}),
        ([batch([1, 2], ["a", "b"]), batch([4], [None])], {"3": "removed", "4": "added"}),
        ([batch([1, 2], ["a", "b"]), batch([3], [7])], {"3": "changed"}),
        ([batch([1], ["a"]), batch([2], [7]), batch([3], ["c"])], {"2": "changed"}),
        (
            [batch([1], ["a"]), batch([2], [None]), batch([], [], pa.string())],
            {"2": "changed", "3": "removed"},
        ),
    ],
    ids=[
        "null in the middle",
        "null at the end",
        "number at the end",
        "number in the middle",
        "none at the end",
    ],
)
def test_a_row_is_known_whatever_the_types_of_other_batches(
    shop: Shop, batches: list[pa.RecordBatch], changes: dict[str, str]
) -> None:
    """A row of the snapshot counts as removed only if no batch has its key, and as changed if it differs."""
    with memory_state() as state:
        met_again(state, shop, Batches(batches))
        assert changes == dict(state.db.execute("SELECT key, change FROM change ORDER BY key").fetchall())


def test_numbers_of_the_same_digits_are_not_the_same(shop: Shop) -> None:
    """A value differs where its point moved, although its type is not that of the snapshot any more."""
    before = batch([1, 2], [Decimal("1.25"), Decimal("2.25")], pa.decimal128(4, 2))
    after = [
        batch([2], [Decimal("2.25")], pa.decimal128(4, 2)),
        batch([3], [Decimal("0.125")], pa.decimal128(4, 3)),
        batch([1], [Decimal("0.125")], pa.decimal128(5, 3)),
    ]
    with memory_state() as state:
        met_again(state, shop, Batches(after), Batches([before]))
        found = state.db.execute("SELECT key, change FROM change ORDER BY key").fetchall()

    assert [("1", Change.CHANGED), ("3", Change.ADDED)] == found


def test_rows_are_hashed_anew_where_duckdb_hashes_otherwise(shop: Shop) -> None:
    """Where the sample of the mapping tells of other hashes, equal rows are equal, and get today's hashes."""
    same = {"id": [1, 2, 3], "owner": ["u1", "u2", "u3"], "value": ["a", "b", "c"]}
    with memory_state() as state:
        changes, _ = met_again(state, shop, Table(same))
        hashes = state.db.execute("SELECT key, hash FROM state.snapshot ORDER BY key").fetchall()
        state.db.execute("UPDATE state.snapshot SET hash = 1")
        mapping = replace(changes.mapping, hash_check="of another DuckDB")

        engine = LocalEngine(state.db, Table(same))
        found = engine.find_changes(shop.sync, shop.model, mapping, full=False)
        engine.promote(found)

        assert (3, 0) == (found.diff.unchanged, found.diff.changed)
        assert [] == state.db.execute("SELECT key FROM stage").fetchall()
        assert hashes == state.db.execute("SELECT key, hash FROM state.snapshot ORDER BY key").fetchall()


def test_a_hash_that_is_not_known_is_made_up_for(shop: Shop) -> None:
    """A row without a hash, as of an older state, is compared by its columns once, and then has one."""
    same = {"id": [1, 2, 3], "owner": ["u1", "u2", "u3"], "value": ["a", "b", "c"]}
    with memory_state() as state:
        changes, _ = met_again(state, shop, Table(same))
        state.db.execute("UPDATE state.snapshot SET hash = NULL WHERE key = '2'")

        engine = LocalEngine(state.db, Table(same))
        found = engine.find_changes(shop.sync, shop.model, changes.mapping, full=False)
        assert [("2",)] == state.db.execute("SELECT key FROM stage").fetchall()
        engine.promote(found)

        assert 3 == found.diff.unchanged
        assert [(3,)] == state.db.execute("SELECT count(hash) FROM state.snapshot").fetchall()
