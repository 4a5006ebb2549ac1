"""dlt: a custom destination that posts, alone, and behind a history (scd2) that dlt keeps in DuckDB.

A custom destination appends: it has no idea of what was there before. So the plain variant sends all users
each time; `scd2` loads them into DuckDB first, where dlt keeps every version of a row with the time in which
it was valid, and then posts what the last load has opened or closed. The documented shape of a custom
destination (batches of 10, typed-jsonl) makes 10,000 requests of 100,000 users; here a batch has 800 calls
and comes as Parquet.
"""

import json
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import dlt
import duckdb
import pyarrow as pa
import requests
from dlt.destinations import duckdb as history
from dlt.sources.helpers.transform import add_row_hash_to_table
from dlt.sources.sql_database import sql_table

from bench.peers.task import PREPARE, STATE, TEXT_QUERY, Task, gone, identify, read_task, say

CALLS_IN_REQUEST = 800
ROWS_IN_BATCH = 50_000
FILES_AGAINST_LATENCY = 8
"""dlt posts several files at once, each with one request at a time; without latency one file is quicker."""

HISTORY = STATE / "history.duckdb"
LAST_LOAD = """
SELECT greatest(max(_dlt_valid_from), coalesce(max(_dlt_valid_to), max(_dlt_valid_from))) FROM bench.users
"""
SINCE = """
SELECT * EXCLUDE (_dlt_valid_from, _dlt_valid_to, row_hash), _dlt_valid_to IS NOT NULL AS gone
FROM bench.users
WHERE _dlt_valid_from > $last
    OR (
        _dlt_valid_to > $last
        AND user_id NOT IN (SELECT user_id FROM bench.users WHERE _dlt_valid_to IS NULL)
    )
"""


def set_up(task: Task) -> None:
    """Give dlt as many files, and workers for them, as suit the latency."""
    files = FILES_AGAINST_LATENCY if task.latency_ms else 1
    dlt.config["load.workers"] = files
    dlt.config["data_writer.file_max_items"] = task.rows // files + 1


def users(task: Task) -> Any:
    """The users as a resource of dlt that yields Arrow tables."""
    if task.kind == "postgres":
        url = task.url.replace("postgresql://", "postgresql+psycopg2://")
        return sql_table(credentials=url, table="users", backend="pyarrow", chunk_size=ROWS_IN_BATCH)

    @dlt.resource(name="users")
    def read() -> Iterator[pa.Table]:
        with duckdb.connect(task.duckdb_path, read_only=True) as db:
            for batch in db.sql(TEXT_QUERY).to_arrow_reader(ROWS_IN_BATCH):
                yield pa.Table.from_batches([batch])

    return read


def pipeline(name: str, destination: Any) -> Any:
    """A pipeline whose files are in the state folder."""
    return dlt.pipeline(
        name, destination=destination, dataset_name="bench", pipelines_dir=str(STATE.absolute() / "pipelines")
    )


def segment(endpoint: str, sent: list[int]) -> Any:
    """The custom destination; it notes how many calls went out."""

    @dlt.destination(batch_size=CALLS_IN_REQUEST, loader_file_format="parquet", name="segment")
    def post(items: pa.RecordBatch, table: Any) -> None:
        rows = items.to_pylist()
        calls = [gone(row["user_id"]) if row.get("gone") else identify(row) for row in rows]
        batch = [{**call, "messageId": str(uuid4())} for call in calls]
        body = json.dumps({"batch": batch}, separators=(",", ":"))
        session.post(f"{endpoint}/v1/batch", data=body.encode()).raise_for_status()
        sent.append(len(batch))

    session = requests.Session()
    return post


def changes(task: Task) -> Any:
    """Load all users into the history; returns a resource of what that load has opened or closed."""
    last = "1970-01-01"
    if HISTORY.exists():
        with duckdb.connect(HISTORY, read_only=True) as db:
            last = db.execute(LAST_LOAD).fetchall()[0][0]
    source = users(task).add_map(add_row_hash_to_table("row_hash"))
    scd2 = {"disposition": "merge", "strategy": "scd2", "row_version_column_name": "row_hash"}
    loading = pipeline("history", history(str(HISTORY)))
    loading.run(source, table_name="users", write_disposition=scd2, loader_file_format="parquet")

    @dlt.resource(name="changes")
    def read() -> Iterator[pa.Table]:
        with duckdb.connect(HISTORY, read_only=True) as db:
            db.execute("SET VARIABLE last = $last::TIMESTAMPTZ", {"last": last})
            query = SINCE.replace("$last", "getvariable('last')")
            for batch in db.sql(query).to_arrow_reader(ROWS_IN_BATCH):
                yield pa.Table.from_batches([batch])

    return read


def main() -> None:
    """Load, and post."""
    task = read_task()
    if task.step == PREPARE:
        return
    set_up(task)
    STATE.mkdir(exist_ok=True)
    sent: list[int] = []
    source = changes(task) if task.variant == "scd2" else users(task)
    pipeline("segment", segment(task.endpoint, sent)).run(source, loader_file_format="parquet")
    say(sum(sent))


if __name__ == "__main__":
    main()
