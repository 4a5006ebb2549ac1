"""Hosted services: what their drivers are asked, and what becomes of what they hand over.

No test reaches Snowflake or BigQuery. The reader itself is tested on a real Postgres, as if it were hosted.
"""

from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import adbc_driver_postgresql
import psycopg
import pyarrow as pa
import pytest
from adbc_driver_manager import AdbcStatusCode, OperationalError
from sqlalchemy.dialects import registry
from sqlalchemy.engine import make_url
from warehouses import faults, model, only_batch, rows, spelled, types_seen_by_duckdb

from retl.errors import ConfigError, ModelError, WarehouseError
from retl.warehouse import bigquery, open_warehouse, snowflake
from retl.warehouse.arrow import passed_on
from retl.warehouse.base import Column, batch_of, line_in
from retl.warehouse.dialects import dialect_of
from retl.warehouse.hosted import HostedWarehouse, Service
from retl.warehouse.query import Grammar, one_query

HOSTED = Service(
    options=lambda url: {"uri": url.render_as_string(hide_password=False)},
    connect=lambda options: adbc_driver_postgresql.connect(options["uri"]),
    quoted=lambda name: f'"{name}"',
    grammar=Grammar("postgres"),
    type_name=lambda field: "JSON" if "document" in field.name else "",
    json_types=frozenset({"JSON"}),
)


@pytest.fixture
def hosted(postgres_url: str) -> Iterator[HostedWarehouse]:
    """A Postgres, taken for a hosted service of which nothing but its driver is known."""
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute("DROP TABLE IF EXISTS hosted")
        connection.execute(
            "CREATE TABLE hosted AS SELECT i AS user_id, 'u' || i AS email, '{\"n\":1.10}' AS document"
            " FROM generate_series(1, 3) AS i"
        )
    with HostedWarehouse(make_url(postgres_url), HOSTED) as warehouse:
        yield warehouse


def test_a_hosted_model(hosted: HostedWarehouse) -> None:
    """A model is described, and its wanted columns are read, in batches of the rows asked for."""
    users = model("SELECT * FROM hosted ORDER BY user_id -- all")

    assert hosted.columns(users) == (
        Column("user_id", "int32"),
        Column("email", "string"),
        Column("document", "JSON"),
    )
    batches = list(hosted.read(users, ["document", "user_id"], batch_rows=2))
    assert [2, 1] == [batch.num_rows for batch in batches]
    assert ["user_id", "document"] == batches[0].schema.names
    assert ["1", "2", "3"] == [text for batch in batches for text in spelled(batch)["user_id"]]
    assert {"user_id": "INTEGER", "document": "JSON"} == types_seen_by_duckdb(batches[0])


def test_a_hosted_model_without_rows(hosted: HostedWarehouse) -> None:
    """A result without rows is one batch without rows."""
    batch = only_batch(hosted, "SELECT email FROM hosted WHERE false")

    assert (0, ["email"]) == (batch.num_rows, batch.schema.names)


def test_a_hosted_model_of_which_nothing_is_wanted(hosted: HostedWarehouse) -> None:
    """Where no column is wanted there is one batch, as of other warehouses."""
    assert 0 == only_batch(hosted, "SELECT email FROM hosted", []).num_columns


@pytest.mark.thorough
def test_a_hosted_read_that_is_left(hosted: HostedWarehouse) -> None:
    """A read that is left in its midst ends, and the service can be read again."""
    reading = hosted.read(model("SELECT i FROM generate_series(1, 10000000) AS i"), batch_rows=10)
    next(reading)
    reading.close()  # type: ignore[attr-defined]

    assert [{"one": 1}] == rows(hosted, "SELECT 1 AS one")


def test_a_hosted_model_keeps_its_order(hosted: HostedWarehouse) -> None:
    """Where all columns are wanted the model itself is read, as a SELECT from it need not keep its order."""
    by_email = "SELECT user_id FROM hosted ORDER BY email DESC -- all"
    assert [3, 2, 1] == [row["user_id"] for row in rows(hosted, by_email)]


@pytest.mark.parametrize(
    ("sql", "columns", "message"),
    [
        ("SELECT\nnope FROM hosted", None, 'column "nope" does not exist'),
        ("SELECT user_id FROM hosted", ["email"], "has no column `email`"),
        ("SELECT user_id, email AS user_id FROM hosted", None, "more than one column `user_id`"),
        ("DELETE FROM hosted", None, "is not a SELECT"),
        ("SELECT email::int AS n FROM hosted", None, "invalid input syntax for type integer"),
    ],
)
def test_errors_of_a_hosted_model(sql: str, columns: Any, message: str, hosted: HostedWarehouse) -> None:
    """What is wrong with a model is said as of other warehouses, without values of rows."""
    with pytest.raises(ModelError, match=message) as error:
        rows(hosted, sql, columns)

    assert "u1" not in str(error.value)


def test_a_service_out_of_reach() -> None:
    """A service that cannot be reached can be tried again; what is shown holds no password."""
    with pytest.raises(WarehouseError, match="cannot be reached") as error:
        HostedWarehouse(make_url("postgresql://u:hush@/db?host=/nowhere"), HOSTED)

    assert "hush" not in str(error.value)


def test_services_behind_sqlalchemy(postgres_url: str) -> None:
    """A model is described without being run, and then its wanted columns are selected from it."""
    registry.register("redshift", "sqlalchemy.dialects.postgresql.psycopg2", "PGDialect_psycopg2")
    url = postgres_url.replace("postgresql", "redshift", 1)
    numbers = "SELECT 1 / (i - 1) AS n, i FROM generate_series(1, 3) AS i -- all"
    with open_warehouse(url, Path()) as warehouse:
        assert ["n", "i"] == [column.name for column in warehouse.columns(model(numbers))]
        assert [{"i": 1}, {"i": 2}, {"i": 3}] == rows(warehouse, numbers, ["i"])

    assert '"a""b"' == str(dialect_of(make_url(url)).quoted('a"b'))  # type: ignore[misc]


ACCOUNT = {
    "username": "u",
    "password": "p@ss/word",
    "adbc.snowflake.sql.account": "org-acct",
    "adbc.snowflake.sql.client_option.app_name": "retl",
    "adbc.snowflake.sql.client_option.use_high_precision": "true",
    "adbc.snowflake.sql.client_option.max_timestamp_precision": "microseconds",
}


@pytest.mark.parametrize(
    ("url", "options"),
    [
        ("snowflake://u:p%40ss%2Fword@org-acct", {}),
        (
            "snowflake://u:p%40ss%2Fword@org-acct/SHOP/PUBLIC?warehouse=WH&role=RETL",
            {
                "adbc.snowflake.sql.db": "SHOP",
                "adbc.snowflake.sql.schema": "PUBLIC",
                "adbc.snowflake.sql.warehouse": "WH",
                "adbc.snowflake.sql.role": "RETL",
            },
        ),
        (
            "snowflake://u:p%40ss%2Fword@org-acct.eu-central-1.snowflakecomputing.com/",
            {"adbc.snowflake.sql.region": "eu-central-1"},
        ),
        (
            "snowflake://u:p%40ss%2Fword@org-acct?private_key_file=/key.p8",
            {
                "adbc.snowflake.sql.auth_type": "auth_jwt",
                "adbc.snowflake.sql.client_option.jwt_private_key": "/key.p8",
            },
        ),
        (
            "snowflake://u:p%40ss%2Fword@org-acct?authenticator=OAuth&token=t&adbc.rpc.result_queue_size=8",
            {
                "adbc.snowflake.sql.auth_type": "auth_oauth",
                "adbc.snowflake.sql.client_option.auth_token": "t",
                "adbc.rpc.result_queue_size": "8",
            },
        ),
    ],
)
def test_options_for_snowflake(url: str, options: dict[str, str]) -> None:
    """A URL as for Snowflake's own connector becomes the options of the ADBC driver."""
    assert {**ACCOUNT, **options} == snowflake.options(make_url(url))


@pytest.mark.parametrize(
    ("url", "options"),
    [
        ("bigquery://shop-1", {"project_id": "shop-1"}),
        (
            "bigquery://shop-1/crm?credentials_path=/key.json&location=EU",
            {
                "project_id": "shop-1",
                "dataset_id": "crm",
                "location": "EU",
                "auth_type": "adbc.bigquery.sql.auth_type.json_credential_file",
                "auth_credentials": "/key.json",
            },
        ),
    ],
)
def test_options_for_bigquery(url: str, options: dict[str, str]) -> None:
    """A URL as for BigQuery's SQLAlchemy dialect becomes the options of the ADBC driver."""
    expected = {f"adbc.bigquery.sql.{name}": value for name, value in options.items()}
    assert expected == bigquery.options(make_url(url))


@pytest.mark.parametrize(
    "url",
    [
        "snowflake://u:hush@acct/db?warehose=WH",
        "snowflake://",
        "bigquery://project?credential_path=/key.json",
        "bigquery://",
    ],
)
def test_a_url_of_no_service(url: str) -> None:
    """A URL without its place, or with a setting that is not known, is the configuration's."""
    options = snowflake.options if url.startswith("snowflake") else bigquery.options
    with pytest.raises(ConfigError) as error:
        options(make_url(url))

    assert "hush" not in f"{error.value} {error.value.hint}"


@pytest.mark.rule("W1")
@pytest.mark.parametrize(
    ("service", "sql"),
    [
        (snowflake.SERVICE, "SELECT SYSTEM$CANCEL_ALL_QUERIES(1) AS n"),
        (snowflake.SERVICE, "SELECT seq.nextval AS n"),
        (bigquery.SERVICE, "SELECT * FROM EXTERNAL_QUERY('c', 'DELETE FROM t')"),
    ],
)
def test_functions_of_services_that_do_more_than_read(service: Service, sql: str) -> None:
    """A function that would write in the service, or beyond it, is refused by its name."""
    with pytest.raises(ModelError, match="does more than read"):
        one_query(model(sql), service.grammar)


@pytest.mark.parametrize(
    ("service", "metadata", "is_json"),
    [
        (snowflake.SERVICE, {"logicalType": "VARIANT"}, True),
        (snowflake.SERVICE, {"SNOWFLAKE_TYPE": "object"}, True),
        (snowflake.SERVICE, {"logicalType": "TEXT"}, False),
        (snowflake.SERVICE, None, False),
        (bigquery.SERVICE, {"ARROW:extension:name": "google:sqlType:json"}, True),
        (bigquery.SERVICE, {"Type": "JSON"}, True),
        (bigquery.SERVICE, {"ARROW:extension:name": "google:sqlType:geography"}, False),
        (bigquery.SERVICE, None, False),
    ],
)
def test_text_that_is_json(service: Service, metadata: dict[str, str] | None, is_json: bool) -> None:
    """Text is JSON where the driver's note about its type says so."""
    field = pa.field("v", pa.string(), metadata=metadata)

    assert is_json == (service.type_name(field) in service.json_types)


@pytest.mark.parametrize(
    ("message", "reason", "is_models"),
    [
        (
            "googleapi: Error 400: Two\nMore details:\nReason: invalidQuery, Message: One",
            "invalidQuery",
            True,
        ),
        (
            "UNKNOWN: [BigQuery] googleapi: Error 400: Syntax error at [1:8], invalidQuery",
            "invalidQuery",
            True,
        ),
        ("[BigQuery] googleapi: Error 404: Not found: Table shop:crm.u, notFound", "notFound", True),
        ('{Location: "query"; Message: "Bad int64 value: a"; Reason: "invalidQuery"}', "invalidQuery", True),
        (
            "[BigQuery] googleapi: Error 403: Access Denied: Table shop:crm.u, accessDenied",
            "accessDenied",
            False,
        ),
        ("[BigQuery] googleapi: Error 503: Try again, backendError", "backendError", False),
        ("rpc error: code = Unavailable desc = gone", "", False),
    ],
)
def test_errors_of_bigquery(message: str, reason: str, is_models: bool) -> None:
    """Its driver has no class for an error, but the text has BigQuery's reason."""
    error = OperationalError(message, status_code=AdbcStatusCode.UNKNOWN)
    assert (reason, is_models) == (bigquery.reason(error), bigquery.SERVICE.is_models(error))


def test_what_bigquery_says() -> None:
    """Of an error its own sentence is shown, without what the driver and its library put around it."""
    message = "UNKNOWN: [BigQuery] googleapi: Error 400: Unrecognized name: nope at [1:8], invalidQuery"
    error = OperationalError(message, status_code=AdbcStatusCode.UNKNOWN)
    assert "Unrecognized name: nope at [1:8]" == bigquery.SERVICE.said(error)


@pytest.mark.parametrize(
    ("message", "line"),
    [
        ('syntax error at or near "x"\nLINE 3: SELECT x\n             ^', 3),
        ("FEHLER\nZEILE 12: SELECT\n   ^", 12),
        ("You have an error in your SQL syntax near 'x' at line 4", 4),
        ("SQL compilation error: error line 2 at position 1\ninvalid identifier 'NOPE'", 2),
        ("[UNRESOLVED_COLUMN] `nope` cannot be resolved. SQLSTATE: 42703; line 5 pos 1", 5),
        ("Syntax error. SQLSTATE: 42601 (line 6, pos 7)", 6),
        ("Unrecognized name: nope at [7:1]", 7),
        ("division by zero", None),
    ],
)
def test_line_that_a_message_points_at(message: str, line: int | None) -> None:
    """Each database has its own way to say on which line of the SQL it failed."""
    assert line == line_in(message)


INSTANT = 1_709_168_523_500_000  # 2024-02-29T01:02:03.5Z in microseconds

WIDE, ZONED = pa.decimal256(76, 38), pa.timestamp("us", "America/New_York")

ARRIVED: list[tuple[pa.Array, str, list[str | None]]] = [
    (pa.array([7, None], pa.int64()), "BIGINT", ["7", None]),
    (pa.array([Decimal("1.50"), None], pa.decimal128(12, 2)), "DECIMAL(12,2)", ["1.5", None]),
    (pa.array([Decimal(2**63)], pa.decimal128(38, 0)), "DECIMAL(38,0)", ['"9223372036854775808"']),
    (pa.array([Decimal("1e-10"), Decimal("2.50")], WIDE), "DECIMAL(38,10)", ["0.0000000001", "2.5"]),
    (pa.array([Decimal("1" * 38 + ".1")], WIDE), "JSON", ["1" * 38 + ".1"]),
    (pa.array([INSTANT], pa.timestamp("us")), "TIMESTAMP", ['"2024-02-29T01:02:03.500Z"']),
    (pa.array([1000 * INSTANT + 999], pa.timestamp("ns")), "TIMESTAMP", ['"2024-02-29T01:02:03.500Z"']),
    (pa.array([-1], pa.timestamp("ns")), "TIMESTAMP", ['"1969-12-31T23:59:59.999Z"']),
    (pa.array([INSTANT], ZONED), "TIMESTAMP WITH TIME ZONE", ['"2024-02-29T01:02:03.500Z"']),
    (pa.array([19_782], pa.date32()), "DATE", ['"2024-02-29"']),
    (pa.array([3_600_500_000_000], pa.time64("ns")), "TIME", ['"01:00:00.5"']),
    (pa.array([[1, None]], pa.list_(pa.int64())), "BIGINT[]", ["[1,null]"]),
    (pa.array([b"\x00\xff"]), "BLOB", ['"AP8="']),
    (pa.array([True]), "BOOLEAN", ["true"]),
]  # fmt: skip


@pytest.mark.rule("W5")
@pytest.mark.parametrize(("values", "kind", "texts"), ARRIVED, ids=[str(one.type) for one, *_ in ARRIVED])
def test_values_that_arrive(values: pa.Array, kind: str, texts: list[str | None]) -> None:
    """A column of each of Arrow's types is read as the type and the value that it is."""
    batch = batch_of(["v"], [passed_on(values)])

    assert {"v": kind} == types_seen_by_duckdb(batch)
    assert texts == spelled(batch)["v"]


def test_instants_far_off_that_arrive() -> None:
    """A timestamp outside the years 1 to 9999 rejects its row."""
    batch = batch_of(
        ["v"], [passed_on(pa.array([INSTANT, 10 * 253_402_300_800_000_000], pa.timestamp("us")))]
    )

    assert [None, "bad_timestamp"] == faults(batch)
