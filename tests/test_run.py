"""The records of runs that a state keeps."""

import json
from datetime import timedelta
from pathlib import Path

from delivery import NOON, memory_state, rows

from retl.past_run import last_run
from retl.records import KEPT_RUNS, keep_run, kept_records, open_run
from retl.run import Run, begin_run
from retl.state import open_state


def test_the_newest_records_are_kept() -> None:
    """A new record pushes out the oldest one and its receipts; a record that is replaced pushes out none."""
    with memory_state() as state:
        state.db.execute(
            f"""
            INSERT INTO state.run
            SELECT 'r' || i, make_timestamp(i), '{{}}' FROM range({KEPT_RUNS}) AS t (i)
            """
        )
        state.db.execute(
            "INSERT INTO state.receipt SELECT run_id, 0, 1, 1, 1, 1, 0, 1, 200, started_at FROM state.run"
        )
        new = begin_run("shop", NOON)
        for record in (new, new.evolve(batches=1), begin_run("shop", NOON + timedelta(hours=1))):
            keep_run(state.db, record)

        kept = rows(state, "SELECT run_id FROM state.run ORDER BY started_at")
        assert KEPT_RUNS == len(kept)
        assert [("r2",), (new.run_id,)] == [kept[0], kept[-2]]
        assert kept[:-2] == rows(state, "SELECT run_id FROM state.receipt ORDER BY answered_at")
        assert [("1",)] == rows(
            state, f"SELECT record->'batches' FROM state.run WHERE run_id = '{new.run_id}'"
        )


def test_a_run_that_was_cut_off_is_completed_from_its_receipts() -> None:
    """A killed run's record says what was delivered and repeated until then, at once and for good."""
    with memory_state() as state:
        open_run(state.db, Run("shop", "run-1", NOON))
        state.db.execute(
            """
            INSERT INTO state.receipt VALUES
                ('run-1', 0, 1, 9, 0, 0, 9, 0, 0, TIMESTAMP '2026-03-01'),
                ('run-1', 0, 1, 9, 9, 900, 0, 1, 200, TIMESTAMP '2026-03-01'),
                ('run-0', 0, 1, 9, 9, 900, 0, 1, 200, TIMESTAMP '2026-03-01')
            """
        )
        found = last_run(state.db)
        assert found is not None
        assert ("interrupted", None, 9) == (found.status, found.exit_code, found.delivered)
        open_run(state.db, Run("shop", "run-2", NOON + timedelta(hours=1)))
        ((kept,),) = state.db.execute("SELECT record FROM state.run WHERE run_id = 'run-1'").fetchall()
        record = json.loads(kept)
        assert (9, 9, 0, 1, 900) == (
            record["calls"]["delivered"],
            record["calls"]["unsure"],
            record["calls"]["rejected"],
            record["batches"],
            record["bytes"],
        )


def test_the_last_run_is_the_one_that_was_written_last(tmp_path: Path) -> None:
    """Where a clock was set back, the newest record is not taken for an old one, nor pushed out as such."""
    path = tmp_path / "shop.duckdb"
    for hours in (0, -1, -2):
        with open_state(path, "shop") as state:
            keep_run(state.db, begin_run("shop", NOON + timedelta(hours=hours)))
    with open_state(path, "shop") as state:
        last = last_run(state.db)
        assert last is not None
        assert "2026-03-01T10:00:00Z" == last.started_at
        state.db.execute(
            f"INSERT INTO state.run SELECT 'r', make_timestamp(i), '{{}}' FROM range({KEPT_RUNS}) AS t (i)"
        )
        new = begin_run("shop", NOON - timedelta(days=99_999))
        keep_run(state.db, new)
        assert [(new.run_id,)] == rows(state, "SELECT run_id FROM state.run ORDER BY rowid DESC LIMIT 1")


def test_records_of_a_period_are_the_newest_first_and_the_last_run_is_among_them() -> None:
    """Runs before the moment are left out, but for the last one; one that was cut off has its receipts."""
    with memory_state() as state:
        for number in range(3):
            run = Run("sync", f"r{number}", NOON + timedelta(hours=number))
            keep_run(state.db, run if number == 2 else run.evolve(exit_code=0))

        def found(since: timedelta) -> list[str]:
            return [record["run_id"] for record in kept_records(state.db, NOON + since)]

        assert ["r2", "r1"] == found(timedelta(hours=1))
        assert ["r2"] == found(timedelta(days=1))
        assert 0 == kept_records(state.db, NOON)[0]["calls"]["delivered"]
