"""BigQuery's own driver, as retl uses it, against bqemulator: a server of BigQuery's protocols over DuckDB.

What BigQuery itself does with a model is not tested: no test has an account.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from bigquery_server import FOLDER
from sqlalchemy.engine import make_url
from warehouses import model, only_batch, rows, spelled, types_seen_by_duckdb

from retl.errors import ModelError, WarehouseError
from retl.warehouse import Warehouse, bigquery, open_warehouse
from retl.warehouse.adbc import ColumnConnection

pytestmark = pytest.mark.bigquery

SERVED = Path(os.environ[FOLDER])

URL = f"bigquery://shop?credentials_path={SERVED}/account.json&location=US"


def in_bigquery(*statements: str) -> None:
    """Run these statements in BigQuery, outside of retl."""
    connection = ColumnConnection(lambda: bigquery.SERVICE.connect(bigquery.options(make_url(URL))))
    for _ in connection.batches(";\n".join([*statements, "SELECT 1 AS done"])):
        pass
    connection.close()


@pytest.fixture
def server() -> Iterator[Path]:
    """The server's folder; what is written in it counts until the test ends."""
    yield SERVED
    (SERVED / "refused").write_text("")
    (SERVED / "cut").write_text("0")


@pytest.fixture(scope="module")
def opened() -> Iterator[Warehouse]:
    """The project, as a warehouse."""
    in_bigquery(
        "CREATE SCHEMA IF NOT EXISTS crm",
        "CREATE OR REPLACE TABLE crm.users (user_id INT64, email STRING, document JSON)",
        "INSERT INTO crm.users VALUES (1, 'a@example.com', JSON '{\"n\": 1.5}'), (2, 'b@example.com', NULL)",
    )
    with open_warehouse(URL, Path()) as warehouse:
        yield warehouse


def test_a_table_of_bigquerys(opened: Warehouse) -> None:
    """A model's columns are known before it is read, and only the wanted ones arrive."""
    users = "SELECT * FROM crm.users ORDER BY user_id -- all"

    assert ["user_id", "email", "document"] == [column.name for column in opened.columns(model(users))]
    batch = only_batch(opened, users, ["document", "user_id"])
    assert {"user_id": ["1", "2"], "document": ['{"n":1.5}', None]} == spelled(batch)


def test_a_result_of_bigquerys_without_rows(opened: Warehouse) -> None:
    """Its columns are known, although the driver says nothing of them."""
    batch = only_batch(opened, "SELECT user_id, email FROM crm.users WHERE FALSE")
    assert (0, ["user_id", "email"]) == (batch.num_rows, batch.schema.names)


@pytest.mark.parametrize(
    ("sql", "message"),
    [
        ("SELECT nope FROM crm.users", "nope"),
        ("SELECT user_id FROM crm.nowhere", "not found"),
        ("SELECT CAST(email AS INT64) AS n FROM crm.users", "."),
    ],
)
def test_errors_of_a_model_in_bigquery(sql: str, message: str, opened: Warehouse) -> None:
    """What is wrong with a model is its own fault."""
    with pytest.raises(ModelError, match=message):
        rows(opened, sql)


def test_a_result_of_bigquerys_that_is_cut_off(opened: Warehouse, server: Path) -> None:
    """A read that ends before all rows have come is an error, though the driver gives none."""
    users = "SELECT user_id FROM crm.users"
    assert 2 == len(rows(opened, users))

    (server / "cut").write_text("1")
    with pytest.raises(WarehouseError, match=r"the result ended after \d of \d rows"):
        rows(opened, users)


TYPES = [
    ("9007199254740993", "BIGINT", '"9007199254740993"'),
    ("CAST('12345678901234567890.12345' AS NUMERIC(38, 6))", "DECIMAL(38,6)", "12345678901234567890.12345"),
    ("CAST('0.1' AS FLOAT64)", "DOUBLE", "0.1"),
    ("TRUE", "BOOLEAN", "true"),
    ("FROM_HEX('00ff')", "BLOB", '"AP8="'),
    ("DATE '2024-02-29'", "DATE", '"2024-02-29"'),
    ("TIME '10:11:12.5'", "TIME", '"10:11:12.5"'),
    ("DATETIME '2024-02-29 01:02:03.5'", "TIMESTAMP", '"2024-02-29T01:02:03.500Z"'),
    ("TIMESTAMP '2024-02-29 01:02:03.5+02:00'", "TIMESTAMP WITH TIME ZONE", '"2024-02-28T23:02:03.500Z"'),
    ("JSON '{\"a\": 1}'", "JSON", '{"a":1}'),
    ("[1, 2]", "INTEGER[]", "[1,2]"),
    ("STRUCT('x' AS a)", "STRUCT(a VARCHAR)", '{"a":"x"}'),
]
"""SQL of a value, DuckDB's type of it, and the JSON that is sent."""


@pytest.mark.rule("W5")
@pytest.mark.parametrize(("sql", "kind", "text"), TYPES, ids=[sql for sql, *_ in TYPES])
def test_types_of_bigquerys(sql: str, kind: str, text: str, opened: Warehouse) -> None:
    """What BigQuery's driver hands over arrives in DuckDB as the type and the value that it is."""
    batch = only_batch(opened, f"SELECT {sql} AS v")

    assert ({"v": kind}, [text]) == (types_seen_by_duckdb(batch), spelled(batch)["v"])
