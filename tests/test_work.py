"""The work of a run, counted: rows that are copied, bytes that are written, statements, the size of a page.

A stage that gets heavier by mistake is found here, without a clock. To make one lighter lowers a number.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow.parquet as parquet
import pytest
from delivery import IDENTIFY, Counted, Shop, Table, segment

from retl.delivery import outbox
from retl.delivery.outbox import PAGE_BYTES
from retl.job import Options
from retl.sandbox.server import Sandbox
from retl.state import State, open_state

ROWS = 20_000
TOUCHED = 400


def users(touched: int = 0) -> Table:
    """Users, of whom some have another plan."""
    plans = ["pro" if n < touched else "free" for n in range(ROWS)]
    names = [f"name {n * 7919 % 50_021}" for n in range(ROWS)]
    return Table({"id": [f"user-{n:08d}" for n in range(ROWS)], "name": names, "plan": plans})


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    """Give a local Segment that keeps little."""
    with Sandbox(keep=10) as started:
        yield started


@pytest.fixture
def shop(tmp_path: Path, sandbox: Sandbox) -> Shop:
    """An identify sync to the sandbox."""
    return Shop(tmp_path, sandbox.url, IDENTIFY)


@contextmanager
def opened(shop: Shop) -> Iterator[State]:
    """The state of a shop's sync, for one run and a look at what it left."""
    with open_state(shop.state_path, "shop") as state:
        yield state


def run(shop: Shop, state: State, table: Table, options: Options | None = None) -> None:
    """One run that has to go well."""
    with segment(shop.url, connections=2) as to:
        assert shop.run_with(state, table, to, options).error is None


def copied(state: State) -> dict[str, int]:
    """The rows of each TEMP table that has any."""
    tables = state.db.execute("SELECT table_name FROM duckdb_tables() WHERE temporary").fetchall()
    counts = {
        name: state.db.execute(f"SELECT count(*) FROM temp.{name}").fetchall()[0][0] for (name,) in tables
    }
    return {name: rows for name, rows in counts.items() if rows}


def test_a_first_pass_copies_no_row(shop: Shop) -> None:
    """Its rows are written once, as the snapshot; neither they nor texts of calls are anywhere else."""
    with opened(shop) as state:
        run(shop, state, users(), Options(limit=1))
        assert {} == copied(state)
        assert [(0,)] == state.db.execute("SELECT count(*) FROM state.outbox").fetchall()
        assert [(ROWS,)] == state.db.execute("SELECT count(*) FROM state.snapshot").fetchall()


def test_a_run_without_changes_keeps_a_number_of_a_row(shop: Shop) -> None:
    """A row that arrives as it was is not copied, and the snapshot is not touched."""
    shop.run(users())
    with opened(shop) as state:
        before = state.db.execute(
            "SELECT table_oid FROM duckdb_tables() WHERE table_name = 'snapshot'"
        ).fetchall()
        run(shop, state, users())
        after = state.db.execute(
            "SELECT table_oid FROM duckdb_tables() WHERE table_name = 'snapshot'"
        ).fetchall()
        images = state.db.execute("SELECT count(image), count(number) FROM arrived").fetchall()
        columns = [name for name, *_ in state.db.execute("DESCRIBE arrived").fetchall()]
        assert {"arrived": ROWS} == copied(state)
    assert ([(0, ROWS)], ["number", "image", "missing_after"], before) == (images, columns, after)


def test_a_delta_copies_what_changed(shop: Shop) -> None:
    """Of a changed row there are an image, the change, the row before and a call; of others a number."""
    shop.run(users())
    with opened(shop) as state:
        run(shop, state, users(TOUCHED))
        images = state.db.execute("SELECT count(image) FROM arrived").fetchall()
        rows = dict.fromkeys(("differing", "not_met", "rendered", "moving"), TOUCHED)
        # The number of a row that changed is there as that of one that is missing.
        assert {"arrived": ROWS + TOUCHED, **rows} == copied(state)
    assert [(TOUCHED,)] == images


@pytest.mark.thorough
def test_the_history_of_calls_costs_only_those_that_are_not_told_otherwise(shop: Shop) -> None:
    """A first pass writes no call down; a delta the calls before it of rows that changed, and its own."""
    with opened(shop) as state:
        run(shop, state, users())
        assert [(0,)] == state.db.execute("SELECT count(*) FROM state.delivered_call").fetchall()
        run(shop, state, users(TOUCHED))
        assert [(2 * TOUCHED,)] == state.db.execute("SELECT count(*) FROM state.delivered_call").fetchall()


@pytest.mark.thorough
def test_a_state_is_small(shop: Shop, tmp_path: Path) -> None:
    """The state takes a few times the Parquet of its rows; a run without changes adds little."""
    parquet.write_table(users().table, tmp_path / "users.parquet", compression="zstd")
    shop.run(users())
    first = shop.state_path.stat().st_size
    shop.run(users())
    assert first < 6 * (tmp_path / "users.parquet").stat().st_size + 1_800_000
    assert shop.state_path.stat().st_size - first <= 524_288


@pytest.mark.thorough
@pytest.mark.parametrize(("touched", "most"), [(0, 84), (TOUCHED, 116)], ids=["no changes", "a delta"])
def test_the_statements_of_a_run_are_few(shop: Shop, touched: int, most: int) -> None:
    """However many rows there are, a run asks DuckDB about as often."""
    statements: list[str] = []
    shop.run(users())
    with opened(shop) as state:
        counted = State(Counted(state.db, statements), state.path)  # type: ignore[arg-type]
        run(shop, counted, users(touched))
    assert len(statements) <= most, "\n".join(statements)


def test_one_query_counts_the_calls_of_all_lanes(shop: Shop) -> None:
    """To plan their SELECT takes DuckDB milliseconds; only to send them it is asked once a lane."""
    lanes, statements = 10, list[str]()
    with opened(shop) as state, segment(shop.url, connections=lanes) as to:
        counted = State(Counted(state.db, statements), state.path)  # type: ignore[arg-type]
        assert shop.run_with(counted, users(), to, None).error is None
    of_calls = [statement for statement in statements if "AS message_id" in statement]
    counts = [statement for statement in of_calls if "histogram" in statement]
    assert len(counts) == 2
    assert len(of_calls) < 2 * lanes


@pytest.mark.thorough
def test_a_page_of_calls_has_a_limit(shop: Shop) -> None:
    """However large a lane is, its text is made a page at a time."""
    wide = Table(
        {"id": [f"u{n}" for n in range(2_000)], "name": ["x" * 20_000] * 2_000, "plan": ["p"] * 2_000}
    )
    with opened(shop) as state:
        run(shop, state, wide, Options(limit=1))
        (lane,) = outbox.lanes(state.db)
        sizes = [len(page.text) for page in outbox.pages(state.db, lane)]
    assert 39_000_000 < sum(sizes)
    assert max(sizes[1:]) < 1.1 * PAGE_BYTES
    assert sizes[0] < 250 * 21_000
