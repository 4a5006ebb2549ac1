"""Staging: batches of a model's rows become rows to compare, whatever their types."""

from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest
from harness import Bench

from retl.config.sync import Sync
from retl.engine.mapping import read_mapping
from retl.engine.stage import stage
from retl.errors import WarehouseError
from retl.warehouse import FAULT

SYNC = Sync.model_validate(
    {
        "name": "sync",
        "model": "rows",
        "primary_key": "id",
        "identify": {"user_id": "id", "traits": {"v": "v"}},
    }
)


def batch(ids: list[Any], values: list[Any]) -> pa.RecordBatch:
    """Rows as a warehouse without column types hands them over: typed by what is in the batch."""
    return pa.RecordBatch.from_pydict({"id": ids, "v": values})


def staged(bench: Bench) -> list[tuple[Any, ...]]:
    """What is staged: key, and value as text."""
    return bench.state.db.execute("SELECT key, row.v::VARCHAR FROM stage ORDER BY ALL").fetchall()


@pytest.mark.rule("W7")
@pytest.mark.parametrize(
    ("first", "second", "kind", "texts"),
    [
        ([1], ["1"], "JSON", ["1", '"1"']),
        ([1], [1.5], "JSON", ["1", "1.5"]),
        ([None], [7], "BIGINT", [None, "7"]),
        ([7], [None], "BIGINT", ["7", None]),
        ([None], ["x"], "VARCHAR", [None, "x"]),
        ([None], [None], "VARCHAR", [None, None]),
        ([True], [b"\x00"], "JSON", ["true", '"AA=="']),
        ([[1]], ["x"], "JSON", ["[1]", '"x"']),
        ([Decimal("12.5")], [Decimal("0.25")], "DECIMAL(4,2)", ["12.50", "0.25"]),
        ([Decimal("1" * 30 + ".5")], [Decimal("0." + "1" * 20)], "JSON", ["1" * 30 + ".5", "0." + "1" * 20]),
    ],
)
def test_batches_of_several_types(
    bench: Bench, first: list[Any], second: list[Any], kind: str, texts: list[str | None]
) -> None:
    """A column whose type changes from batch to batch keeps each value's spelling."""
    batches = [batch(["a"], first), batch(["b"], second)]
    mapping = stage(bench.state.db, SYNC, read_mapping(SYNC), batches).mapping
    assert kind == mapping.types["v"]
    assert [("a", texts[0]), ("b", texts[1])] == staged(bench)


def test_key_of_several_types(bench: Bench) -> None:
    """A key is found twice where one batch has it as a number and another as text."""
    stage(bench.state.db, SYNC, read_mapping(SYNC), [batch([1, 2], [0, 0]), batch(["2", "3"], [0, 0])])
    found = bench.state.db.execute("SELECT key, reason, rows FROM row_fault").fetchall()
    assert [("2", "duplicate_key", 2)] == found


@pytest.mark.rule("G8")
def test_error_in_the_midst_of_a_read(bench: Bench) -> None:
    """The error of a read that breaks off is the warehouse's own, not DuckDB's."""

    def breaking() -> Iterator[pa.RecordBatch]:
        yield batch(["a"], [1])
        raise WarehouseError("the connection broke off")

    with pytest.raises(WarehouseError, match="broke off"):
        stage(bench.state.db, SYNC, read_mapping(SYNC), breaking())


@pytest.mark.rule("R2")
def test_a_value_that_the_warehouse_could_not_read_rejects_its_row(bench: Bench) -> None:
    """A row with a fault is kept apart by its reason; the rows beside it and in later batches go on."""
    first = pa.RecordBatch.from_pydict(
        {
            "id": ["a", "b", "c", "c", None],
            "v": [1, None, None, 2, None],
            FAULT: [None, "bad_text", "x", None, "x"],
        }
    )
    stage(bench.state.db, SYNC, read_mapping(SYNC), [first, batch(["d"], [3])])
    found = bench.state.db.execute("SELECT key, reason, rows FROM row_fault ORDER BY key").fetchall()
    assert [("b", "bad_text", 1), ("c", "duplicate_key", 2), (None, "null_key", 1)] == found


@pytest.mark.rule("W7")
def test_types_hold_across_many_batches(bench: Bench) -> None:
    """A column may be null for 100,000 rows and then hold text; integers may become decimals."""
    nulls = [
        batch([f"{i}" for i in range(start, start + 25_000)], [None] * 25_000)
        for start in range(0, 100_000, 25_000)
    ]
    mapping = stage(bench.state.db, SYNC, read_mapping(SYNC), [*nulls, batch(["x"], ["text"])]).mapping
    assert ("VARCHAR", ("x", "text")) == (mapping.types["v"], staged(bench)[-1])

    batches = [batch(["a"], [2**62]), batch(["b"], [Decimal("0.10")])]
    mapping = stage(bench.state.db, SYNC, read_mapping(SYNC), batches).mapping
    assert "JSON" == mapping.types["v"]
    assert [("a", '"4611686018427387904"'), ("b", "0.1")] == staged(bench)
