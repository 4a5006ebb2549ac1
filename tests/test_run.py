"""The records of runs that a state keeps."""

from datetime import timedelta

from delivery import NOON, memory_state, rows

from retl.run import KEPT_RUNS, begin_run, keep_run


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
