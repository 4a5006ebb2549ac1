"""The bare read: all columns of the users as Arrow, thrown away. No work on the rows can be quicker.

From Postgres by ADBC, through its low-level API: its DBAPI imports pandas where that is installed. From
DuckDB by the same SELECT.
"""

from collections.abc import Iterator

import pyarrow as pa

from bench.peers.task import PREPARE, QUERY, Task, read_task, say


def read_postgres(task: Task) -> Iterator[pa.RecordBatch]:
    """The users by ADBC; imported here, for start-up counts and DuckDB does without it."""
    import adbc_driver_manager
    import adbc_driver_postgresql

    options = {"driver": adbc_driver_postgresql._driver_path(), "uri": task.url}
    with (
        adbc_driver_manager.AdbcDatabase(**options) as database,
        adbc_driver_manager.AdbcConnection(database) as connection,
        adbc_driver_manager.AdbcStatement(connection) as statement,
    ):
        statement.set_sql_query(QUERY)
        stream, _ = statement.execute_query()
        with pa.RecordBatchReader._import_from_c(stream.address) as reader:
            yield from reader


def read_duckdb(task: Task) -> Iterator[pa.RecordBatch]:
    """The users by the same SELECT; imported here, as above."""
    import duckdb

    with duckdb.connect(task.duckdb_path, read_only=True) as db:
        yield from db.sql(QUERY).to_arrow_reader(100_000)


def main() -> None:
    """Read, and count."""
    task = read_task()
    if task.step == PREPARE:
        return
    batches = read_postgres(task) if task.kind == "postgres" else read_duckdb(task)
    say(0, rows=sum(batch.num_rows for batch in batches))


if __name__ == "__main__":
    main()
