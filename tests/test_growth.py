"""A state over years: its file beside the data that is in it."""

import os
from pathlib import Path

import duckdb
import pytest
from delivery import IDENTIFY, FakeClock, Shop, Table

from retl.encryption import STORAGE_VERSION
from retl.sandbox.server import Sandbox

RUNS = int(os.environ.get("RETL_TEST_RUNS", "240"))
"""`RETL_TEST_RUNS=1000 pytest tests/test_growth.py` goes on longer than the suite does."""

DAYS_KEPT = RUNS // 60
ROWS = 2_000
CHANGED = 40
RUNS_KEPT = DAYS_KEPT * 24
MOST = 2.5
"""Times the size of its data that a file has at most: DuckDB writes new blocks before it frees old ones."""


def data_size(path: Path) -> int:
    """The size of a file that holds the same and nothing else."""
    copy = path.with_name("copy.duckdb")
    copy.unlink(missing_ok=True)
    with duckdb.connect() as db:
        db.execute(f"ATTACH '{path}' AS state (READ_ONLY)")
        db.execute(f"ATTACH '{copy}' AS copy (STORAGE_VERSION '{STORAGE_VERSION}')")
        db.execute("COPY FROM DATABASE state TO copy")
        db.execute("DETACH copy")
    return copy.stat().st_size


@pytest.mark.slow
def test_hundreds_of_runs_do_not_make_the_file_grow(tmp_path: Path) -> None:
    """With small changes in each, the file stays in proportion to its data, to the last run.

    The history is a part of that data, and has no call that is older than it is kept.
    """
    ids = [f"u{number:05}" for number in range(ROWS)]
    names = [f"name {number}" for number in range(ROWS)]
    sizes = []
    with Sandbox(keep=10) as sandbox:
        shop = Shop(tmp_path, sandbox.url, IDENTIFY + f"keep: {DAYS_KEPT}d\n", clock=FakeClock())
        for number in range(RUNS):
            for one in range(CHANGED):
                names[(number * CHANGED + one * 7) % ROWS] = f"name {one} of run {number}"
            table = Table({"id": ids, "name": names, "plan": ["x"] * ROWS})
            record = shop.run(table)
            assert record.error is None
            shop.clock.pass_to(shop.clock.seconds + 3_600)
            sizes.append(shop.state_path.stat().st_size)
    assert max(sizes[60:]) <= MOST * data_size(shop.state_path)
    assert max(sizes[-60:]) <= max(sizes[60:-60])
    with duckdb.connect(str(shop.state_path), read_only=True) as db:
        ((calls,),) = db.execute("SELECT count(*) FROM delivered_call").fetchall()
    assert RUNS_KEPT * CHANGED <= calls <= (RUNS_KEPT + 1) * CHANGED


def test_rows_are_found_wherever_the_file_moved_them(tmp_path: Path) -> None:
    """A delta moves the right rows by their numbers, which DuckDB may make anew between two runs."""
    ids = [f"u{number:05}" for number in range(ROWS)]
    with Sandbox(keep=10) as sandbox:
        shop = Shop(tmp_path, sandbox.url, IDENTIFY)
        for changed in (0, CHANGED, ROWS, 3, ROWS // 2, 0):
            names = [f"name {number < changed}" for number in range(ROWS)]
            record = shop.run(Table({"id": ids, "name": names, "plan": ["x"] * ROWS}))
            assert record.error is None
            with duckdb.connect(str(shop.state_path), read_only=True) as db:
                assert set(zip(ids, names, strict=True)) == set(
                    db.execute("SELECT key, row.name FROM snapshot").fetchall()
                )
