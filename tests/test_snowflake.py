"""Snowflake's own driver, as retl uses it, against fakesnow: a server of Snowflake's protocol over DuckDB.

What Snowflake itself does with a model is not tested: no test has an account.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest
from snowflake_server import PASSWORD, in_snowflake
from sqlalchemy.engine import make_url
from warehouses import model, only_batch, rows, spelled, types_seen_by_duckdb

from retl.errors import ModelError, WarehouseError
from retl.warehouse import Warehouse, open_warehouse
from retl.warehouse.base import Column

pytestmark = pytest.mark.snowflake

CREATED = (
    "CREATE TABLE CRM.USERS (USER_ID INTEGER, EMAIL VARCHAR, DOCUMENT VARIANT)",
    "INSERT INTO CRM.USERS SELECT 1, 'a@example.com', PARSE_JSON('{\"n\": 1.5}')",
    "INSERT INTO CRM.USERS SELECT 2, 'b@example.com', NULL",
)


@pytest.fixture(scope="module")
def opened(snowflake_url: str) -> Iterator[Warehouse]:
    """The database, as a warehouse."""
    in_snowflake(snowflake_url, *CREATED)
    with open_warehouse(snowflake_url, Path()) as warehouse:
        yield warehouse


def test_a_table_of_snowflakes(opened: Warehouse) -> None:
    """A model's columns are known before it is read, in capitals, and only the wanted ones arrive."""
    users = "SELECT * FROM USERS ORDER BY USER_ID -- all"

    assert (
        Column("USER_ID", "FIXED"),
        Column("EMAIL", "TEXT"),
        Column("DOCUMENT", "VARIANT"),
    ) == opened.columns(model(users))
    batch = only_batch(opened, users, ["DOCUMENT", "USER_ID"])
    assert {"USER_ID": ["1", "2"], "DOCUMENT": ['{"n":1.5}', None]} == spelled(batch)
    assert 0 == only_batch(opened, "SELECT * FROM USERS WHERE FALSE").num_rows


TYPES = [
    ("9007199254740993", "DECIMAL(38,0)", '"9007199254740993"'),
    ("12345678901234567890.123450::NUMBER(38, 6)", "DECIMAL(38,6)", "12345678901234567890.12345"),
    ("0.1::FLOAT", "DOUBLE", "0.1"),
    ("TRUE", "BOOLEAN", "true"),
    ("TO_BINARY('00ff', 'HEX')", "BLOB", '"AP8="'),
    ("'2024-02-29'::DATE", "DATE", '"2024-02-29"'),
    ("'10:11:12.5'::TIME", "TIME", '"10:11:12.5"'),
    ("'2024-02-29 01:02:03.5'::TIMESTAMP_NTZ", "TIMESTAMP", '"2024-02-29T01:02:03.500Z"'),
    ("'2024-02-29 01:02:03.5 +0200'::TIMESTAMP_TZ", "TIMESTAMP WITH TIME ZONE", '"2024-02-28T23:02:03.500Z"'),
    ("OBJECT_CONSTRUCT('a', 1)", "JSON", '{"a":1}'),
    ("NULL", "VARCHAR", None),
]
"""SQL of a value, DuckDB's type of it, and the JSON that is sent."""


@pytest.mark.rule("W5")
@pytest.mark.parametrize(("sql", "kind", "text"), TYPES, ids=[sql for sql, *_ in TYPES])
def test_types_of_snowflakes(sql: str, kind: str, text: str | None, opened: Warehouse) -> None:
    """What Snowflake's driver hands over arrives in DuckDB as the type and the value that it is."""
    batch = only_batch(opened, f"SELECT {sql} AS V")

    assert {"V": kind} == types_seen_by_duckdb(batch)
    assert [text] == spelled(batch)["V"]


@pytest.mark.parametrize(
    ("sql", "message"),
    [
        ("SELECT NOPE FROM USERS", "NOPE"),
        ("SELECT 1 AS A FROM NOWHERE", "NOWHERE does not exist"),
        ("SELECT EMAIL::INTEGER AS N FROM USERS", "Could not convert string '…' to INT64"),
    ],
)
def test_errors_of_snowflakes(sql: str, message: str, opened: Warehouse) -> None:
    """What the driver calls internal is the model's fault where its SQLSTATE says so; no value is shown."""
    with pytest.raises(ModelError) as error:
        rows(opened, sql)

    assert message in error.value.message
    assert "example" not in f"{error.value}{error.value.hint}"


@pytest.mark.rule("W9")
def test_a_server_of_snowflakes_out_of_reach(snowflake_url: str) -> None:
    """A server that cannot be reached can be tried again; what is shown holds no password."""
    url = make_url(snowflake_url).update_query_dict(
        {"adbc.snowflake.sql.uri.port": "1", "login_timeout": "1s"}
    )
    with pytest.raises(WarehouseError, match="cannot be reached") as error:
        open_warehouse(url.render_as_string(hide_password=False), Path())

    assert PASSWORD not in f"{error.value}{error.value.hint}"
