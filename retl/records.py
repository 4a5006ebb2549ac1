"""The records of runs, as a state keeps them."""

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import duckdb

from retl import sql
from retl.delivery import history, outbox, receipts, rejected
from retl.run import Run

KEPT_RUNS = 1_000
"""How many runs are kept, with their receipts."""


def open_run(db: duckdb.DuckDBPyConnection, run: Run) -> None:
    """Keep the record of a run that begins, and complete those of runs that were cut off.

    To be run in a transaction.
    """
    complete_records(db)
    keep_run(db, run)


def complete_records(db: duckdb.DuckDBPyConnection) -> None:
    """Complete the records of runs that were cut off; to be run in a transaction."""
    cut_off = db.execute(
        """
        SELECT run_id, record FROM state.run
        WHERE (record ->> '$.exit_code') IS NULL AND (record ->> '$.completed') IS NULL
        """
    )
    for run_id, record in cut_off.fetchall():
        completed = json.dumps({**_completed(db, json.loads(record)), "completed": True})
        db.execute("UPDATE state.run SET record = ? WHERE run_id = ?", [completed, run_id])


def _completed(db: duckdb.DuckDBPyConnection, record: dict[str, Any]) -> dict[str, Any]:
    """The record of a run that was cut off, with what its receipts say."""
    sent = receipts.sent(db, record["run_id"])
    refused = rejected.rejected_in(db, record["run_id"])
    calls = record["calls"] | {"delivered": sent.calls, "unsure": sent.repeated, "rejected": refused}
    return record | {"calls": calls, "batches": sent.batches, "bytes": sent.bytes}


def note_discarded(db: duckdb.DuckDBPyConnection, by_run: Mapping[str, int], now: datetime) -> None:
    """Note in the records of runs that calls of theirs were taken back; to be run in a transaction.

    Args:
        db: the state's connection.
        by_run: how many calls were taken back, by the run that made them.
        now: UTC.
    """
    for run_id, calls in by_run.items():
        for (text,) in db.execute("SELECT record FROM state.run WHERE run_id = ?", [run_id]).fetchall():
            record = json.loads(text)
            before = record.get("discarded", {"calls": 0})["calls"]
            record["discarded"] = {"calls": before + calls, "at": now.strftime("%Y-%m-%dT%H:%M:%SZ")}
            db.execute("UPDATE state.run SET record = ? WHERE run_id = ?", [json.dumps(record), run_id])


def keep_run(db: duckdb.DuckDBPyConnection, run: Run) -> None:
    """Keep a run's record, in place of what was kept of it before; the oldest ones make room.

    To be run in a transaction.
    """
    replaced = db.execute("DELETE FROM state.run WHERE run_id = ?", [run.run_id]).fetchone()
    db.execute(
        "INSERT INTO state.run VALUES (?, ?, ?)",
        [run.run_id, run.started_at.replace(tzinfo=None), json.dumps(run.as_json())],
    )
    if replaced != (0,) or db.execute("SELECT count(*) FROM state.run").fetchall() <= [(KEPT_RUNS,)]:
        return
    pushed_out = db.execute(
        """
        DELETE FROM state.run
        WHERE run_id NOT IN (SELECT run_id FROM state.run ORDER BY rowid DESC LIMIT ?)
            AND NOT list_contains(?, run_id)
        RETURNING run_id
        """,
        [KEPT_RUNS, receipts.last_runs(db)],
    ).fetchall()
    if pushed_out:
        # The receipts of a first pass tell its history, for longer than so many runs may take.
        receipts.forget(db, [run_id for (run_id,) in pushed_out], up_to=history.last_place(db))


def keeps_all_runs(db: duckdb.DuckDBPyConnection) -> bool:
    """Whether no run's record was pushed out yet, and with it its receipts."""
    row = db.execute("SELECT count(*) FROM state.run").fetchone()
    assert row is not None
    return int(row[0]) < KEPT_RUNS


def forget_before(db: duckdb.DuckDBPyConnection, moment: datetime | None, run_id: str) -> None:
    """Forget the records of runs before a moment with their receipts, and the history of before it.

    The records of runs whose calls wait stay, as do those by which it is known that calls ever arrived. To be
    run in the transaction that closes a run.

    Args:
        db: the state's connection.
        moment: UTC; None is the beginning of the oldest run that is kept, once others were pushed out.
        run_id: the run that is closed.
    """
    ((oldest,),) = db.execute("SELECT min(started_at) FROM state.run").fetchall()
    if moment is None:
        if keeps_all_runs(db):
            return
        moment = oldest.replace(tzinfo=UTC)
    elif oldest < moment.replace(tzinfo=None):
        _forget_runs_before(db, moment, run_id)
    if history.are_receipts_older(db, moment):
        kept = db.execute("SELECT run_id FROM state.run").fetchall()
        receipts.forget_before(db, moment, [kept_id for (kept_id,) in kept])
        history.forget_first_pass(db)
    history.forget_before(db, moment)
    rejected.forget_ended_before(db, moment)


def _forget_runs_before(db: duckdb.DuckDBPyConnection, moment: datetime, run_id: str) -> None:
    if not keeps_all_runs(db) and not receipts.accepts(db):
        return  # only the number of records tells that others were pushed out
    needed = [run_id, *outbox.run_ids(db), *receipts.last_runs(db)]
    old = db.execute(
        """
        DELETE FROM state.run
        WHERE started_at < ? AND NOT list_contains(?, run_id)
        RETURNING run_id
        """,
        [moment.replace(tzinfo=None), needed],
    ).fetchall()
    if old:
        receipts.forget(db, [old_id for (old_id,) in old], up_to=history.last_place(db))


def any_in_full(db: duckdb.DuckDBPyConnection, run_ids: Sequence[str]) -> bool:
    """Whether one of these runs sent every row again, or completed such a run, and left calls over."""
    row = db.execute(
        """
        SELECT 1 FROM state.run
        WHERE list_contains(?, run_id)
            AND 'true' IN (record->>'$.full', record->>'$.resumed_full')
            AND coalesce((record->>'$.calls.pending')::BIGINT, 1) > 0
        LIMIT 1
        """,
        [list(run_ids)],
    ).fetchone()
    return row is not None


def kept_records(db: duckdb.DuckDBPyConnection, since: datetime) -> list[dict[str, Any]]:
    """The records of the runs that began since a moment, the newest first; the last one whenever it began.

    Each is the object that `Run.as_json` gave; one of an older retl may lack some of its members.

    Args:
        db: the state's connection.
        since: UTC.
    """
    found = db.execute(
        """
        SELECT record FROM state.run
        WHERE started_at >= ? OR rowid = (SELECT max(rowid) FROM state.run)
        ORDER BY rowid DESC
        """,
        [since.replace(tzinfo=None)],
    )
    return [_whole(db, json.loads(record)) for (record,) in found.fetchall()]


def _whole(db: duckdb.DuckDBPyConnection, record: dict[str, Any]) -> dict[str, Any]:
    """A kept record, completed by its receipts where its run was cut off and no run came after it."""
    if record["exit_code"] is None and "completed" not in record:
        return _completed(db, record)
    return record


def newest_records(
    db: duckdb.DuckDBPyConnection, run_ids: Sequence[str] | None = None, most: int = KEPT_RUNS
) -> list[dict[str, Any]]:
    """The records of runs as in `kept_records`, the one that was written last first.

    Args:
        db: the state's connection.
        run_ids: only of these runs; None is of all.
        most: how many at most.
    """
    found = db.execute(
        """
        SELECT record FROM state.run
        WHERE $run_ids IS NULL OR list_contains($run_ids, run_id)
        ORDER BY rowid DESC
        LIMIT $most
        """,
        {"run_ids": None if run_ids is None else list(run_ids), "most": most},
    )
    return [_whole(db, json.loads(record)) for (record,) in found.fetchall()]


def select_runs(db: duckdb.DuckDBPyConnection) -> str:
    """The SELECT of all runs with their records; of one that was cut off, with what its receipts say."""
    cut_off = db.execute(
        """
        SELECT record FROM state.run
        WHERE (record ->> '$.exit_code') IS NULL AND (record ->> '$.completed') IS NULL
        """
    ).fetchall()
    cases = [
        f"WHEN {sql.text(kept['run_id'])} THEN {sql.text(json.dumps(_whole(db, kept)))}"
        for kept in (json.loads(record) for (record,) in cut_off)
    ]
    record = f"CASE run_id {' '.join(cases)} ELSE record END" if cases else "record"
    return f"SELECT run_id, started_at, {record} AS record FROM state.run"
