"""What the tests of warehouses share: models, what DuckDB makes of batches, a database of MySQL's."""

import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from uuid import uuid4

import duckdb
import pyarrow as pa
import pytest
import sqlalchemy
from sqlalchemy.engine import make_url

from retl import sql
from retl.engine.canonical import canonical, json_text
from retl.model import Model
from retl.warehouse import Warehouse
from retl.warehouse.base import FAULT

# Read while tests are collected: none of them sees RETL's variables. Its user may make databases.
MYSQL_URL = os.environ.get("RETL_TEST_MYSQL_URL")

KINDS = ("duckdb", "sqlite", "postgres", "mysql", "spark", "other")
"""The kinds of databases that tests read from, each by a name that its URL begins with."""

READERS = ("adbc", "psycopg")
"""The ways in which Postgres is read: through ADBC, and by rows where ADBC is not installed."""

UNTESTED = "MySQL is NOT tested: set RETL_TEST_MYSQL_URL"

MARKS = {"mysql": pytest.mark.mysql, "spark": pytest.mark.spark}
"""The marks of kinds of databases that need a server from elsewhere."""

needs_mysql = pytest.mark.skipif(not MYSQL_URL, reason=UNTESTED)


@contextmanager
def read_through(reader: str) -> Iterator[None]:
    """Have Postgres read through ADBC, or by rows as where ADBC is not installed, if opened in here."""
    with pytest.MonkeyPatch.context() as patch:
        if reader != "adbc":
            patch.setitem(sys.modules, "adbc_driver_postgresql", None)
        yield


@contextmanager
def mysql_database(*statements: str) -> Iterator[str]:
    """The URL of a new database of MySQL's in which these statements were run; it is dropped in the end."""
    if not MYSQL_URL:
        pytest.skip(UNTESTED)
    name = f"retl_test_{uuid4().hex}"
    url = make_url(MYSQL_URL).set(drivername="mysql+pymysql").update_query_dict({"charset": "utf8mb4"})
    engine = sqlalchemy.create_engine(url, isolation_level="AUTOCOMMIT", poolclass=sqlalchemy.NullPool)
    with engine.connect() as connection:
        connection.exec_driver_sql(f"CREATE DATABASE {name} CHARACTER SET utf8mb4")
    try:
        with engine.connect() as connection:
            for statement in (f"USE {name}", "SET time_zone = '+00:00'", *statements):
                connection.exec_driver_sql(statement, execution_options={"no_parameters": True})
        yield url.set(database=name, drivername="mysql", query={}).render_as_string(hide_password=False)
    finally:
        with engine.connect() as connection:
            connection.exec_driver_sql(f"DROP DATABASE {name}")


class SparkStatements:
    """A session of Spark's own client, for what a test makes there."""

    def __init__(self, url: str) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about the versions of pandas that PySpark knows
            from pyspark.sql.connect.session import SparkSession
        # The client takes no value with a sign of its own in it.
        self._session = SparkSession.builder.remote(url.replace("==", "%3D%3D")).create()

    def run(self, *statements: str) -> None:
        """Run these statements."""
        for statement in statements:
            self._session.sql(statement)

    def table(self, statement: str, tag: str) -> pa.Table:
        """The rows of a statement, which `interrupt` knows by the tag."""
        self._session.addTag(tag)
        try:
            return self._session.sql(statement).toArrow()
        finally:
            self._session.removeTag(tag)

    def interrupt(self, tag: str) -> None:
        """Have Spark stop what has that tag."""
        self._session.interruptTag(tag)

    def close(self) -> None:
        """End the session."""
        self._session.stop()


def in_spark(url: str, *statements: str) -> None:
    """Run these statements in Spark."""
    session = SparkStatements(url)
    session.run(*statements)
    session.close()


def model(text: str, first_line: int = 1) -> Model:
    """A model of that SQL."""
    return Model("users", text, "models/users.sql", first_line)


def rows(warehouse: Warehouse, text: str, columns: Any = None) -> list[dict[str, Any]]:
    """All rows of a model of that SQL."""
    return [row for batch in warehouse.read(model(text), columns) for row in batch.to_pylist()]


def only_batch(warehouse: Warehouse, text: str, columns: Any = None) -> pa.RecordBatch:
    """The one batch of a model of that SQL."""
    (batch,) = warehouse.read(model(text), columns)
    return batch


def faults(batch: pa.RecordBatch) -> list[str | None]:
    """The reason to reject each row."""
    if FAULT not in batch.schema.names:
        return [None] * batch.num_rows
    assert FAULT == batch.schema.names[-1]
    found: list[str | None] = batch[FAULT].to_pylist()
    assert any(found)
    return found


@contextmanager
def in_duckdb(batch: pa.RecordBatch) -> Iterator[duckdb.DuckDBPyConnection]:
    """A DuckDB that has the batch as a table of that name."""
    # A connection to the process's own DuckDB: a new DuckDB takes longer than the question.
    with duckdb.cursor() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        connection.register("batch", pa.table(batch))
        yield connection


def types_seen_by_duckdb(batch: pa.RecordBatch) -> dict[str, str]:
    """DuckDB's types of a batch's columns, by name."""
    with in_duckdb(batch) as connection:
        described = connection.execute("DESCRIBE SELECT * FROM batch").fetchall()
    return {name: kind for name, kind, *_ in described}


def texts_seen_by_duckdb(batch: pa.RecordBatch) -> dict[str, list[str | None]]:
    """DuckDB's spelling of a batch's values, by column."""
    with in_duckdb(batch) as connection:
        found = connection.execute("SELECT COLUMNS(*)::VARCHAR FROM batch")
        names = [column[0] for column in found.description or ()]
        return dict(zip(names, map(list, zip(*found.fetchall(), strict=True)), strict=True))


def spelled(batch: pa.RecordBatch) -> dict[str, list[str | None]]:
    """The JSON that is sent of a batch's values, by column."""
    with in_duckdb(batch) as connection:
        relation = connection.table("batch")
        texts = []
        for name, source, field in zip(relation.columns, relation.types, batch.schema, strict=True):
            value = None if pa.types.is_null(field.type) else canonical(source, sql.name(name), "UTC")
            text = json_text(value.type, value.expression) if value else "NULL"
            texts.append(f"({text})::VARCHAR")
        found = connection.execute(f"SELECT {', '.join(texts)} FROM batch").fetchall()
    return dict(zip(batch.schema.names, map(list, zip(*found, strict=True)), strict=True))
