"""Postgres read by columns: what it asks of the server, and when it is read by rows instead."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from sqlalchemy.engine import make_url
from warehouses import READERS, model, only_batch, read_through, rows

from retl.errors import ModelError
from retl.warehouse import Warehouse, open_warehouse
from retl.warehouse.postgres_adbc import PostgresWarehouse


@pytest.fixture
def warehouse(postgres_url: str) -> Iterator[Warehouse]:
    """A Postgres that is read by columns."""
    with open_warehouse(postgres_url, Path()) as opened:
        assert isinstance(opened, PostgresWarehouse)
        yield opened


def way_of_reading(warehouse: Warehouse) -> str:
    """How the warehouse is read now, by what its server executes."""
    (row,) = rows(warehouse, "SELECT query AS q FROM pg_stat_activity WHERE pid = pg_backend_pid()")
    ways = {"COPY (": "columns", "FETCH FORWARD 32768 FROM model": "columns, batch by batch"}
    return next((way for start, way in ways.items() if row["q"].startswith(start)), "rows")


def test_is_read_by_columns(warehouse: Warehouse) -> None:
    """A model is read by one COPY, where nothing speaks against it."""
    assert "columns" == way_of_reading(warehouse)


@pytest.mark.rule("W1")
def test_one_transaction_of_one_moment(warehouse: Warehouse) -> None:
    """A model is read in a repeatable-read transaction that cannot write."""
    settings = ("transaction_read_only", "transaction_isolation")
    listed = ", ".join(f"current_setting('{name}') AS {name}" for name in settings)

    assert [{"transaction_read_only": "on", "transaction_isolation": "repeatable read"}] == rows(
        warehouse, f"SELECT {listed}"
    )


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize(("query", "name"), [({}, "retl"), ({"application_name": "nightly"}, "nightly")])
def test_name_of_the_application(query: dict[str, str], name: str, reader: str, postgres_url: str) -> None:
    """The server sees retl, or what the URL says, in each way of reading."""
    url = make_url(postgres_url).update_query_dict(query).render_as_string(hide_password=False)
    with read_through(reader), open_warehouse(url, Path()) as warehouse:
        assert [{"name": name}] == rows(warehouse, "SELECT current_setting('application_name') AS name")


def test_settings_in_the_url(postgres_url: str) -> None:
    """Settings of libpq and of the server reach both, quotes and backslashes included."""
    query = {"options": r"-c my.odd=a'b\\\ c", "sslmode": "disable", "connect_timeout": "7"}
    url = make_url(postgres_url).update_query_dict(query).render_as_string(hide_password=False)
    found = []
    for reader in READERS:
        with read_through(reader), open_warehouse(url, Path()) as warehouse:
            found += rows(warehouse, "SELECT current_setting('my.odd') AS odd")

    assert 2 * [{"odd": r"a'b\ c"}] == found


def test_password_with_odd_signs(postgres_url: str) -> None:
    """A user and a password of any signs are taken."""
    password = r"it's \ %@/:"
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute('DROP ROLE IF EXISTS "o\'dd"')
        connection.execute("CREATE ROLE \"o'dd\" LOGIN PASSWORD 'it''s \\ %@/:'")
    url = make_url(postgres_url).set(username="o'dd", password=password)
    with open_warehouse(url.render_as_string(hide_password=False), Path()) as warehouse:
        assert "columns" == way_of_reading(warehouse)
        assert [{"who": "o'dd"}] == rows(warehouse, "SELECT current_user AS who")


def test_role_that_may_connect_once(postgres_url: str) -> None:
    """Where the server takes no second connection, the model is read by rows on the first."""
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute("DROP ROLE IF EXISTS single")
        connection.execute("CREATE ROLE single LOGIN CONNECTION LIMIT 1")
    url = make_url(postgres_url).set(username="single").render_as_string(hide_password=False)
    with open_warehouse(url, Path()) as warehouse:
        assert "rows" == way_of_reading(warehouse)


TIMED = "-c statement_timeout=600000"


@pytest.mark.thorough
def test_time_of_a_statement(postgres_url: str) -> None:
    """Where the server limits a statement's time, each batch has its own, and the rows are the same."""
    url = make_url(postgres_url).update_query_dict({"options": TIMED}).render_as_string(hide_password=False)
    numbers = model("SELECT i, 'x' AS x, 1.50::numeric(4,2) AS n FROM generate_series(1, 8) AS i ORDER BY i")
    found = []
    for address in (url, postgres_url):
        with open_warehouse(address, Path()) as warehouse:
            found.append([batch for size in (3, 4, 9) for batch in warehouse.read(numbers, batch_rows=size)])
            empty = only_batch(warehouse, "SELECT 1 AS i WHERE false")
            assert (0, ["i"]) == (empty.num_rows, empty.schema.names)
    with open_warehouse(url, Path()) as warehouse:
        assert "columns, batch by batch" == way_of_reading(warehouse)
        reading = warehouse.read(model("SELECT i FROM generate_series(1, 100000) AS i"), batch_rows=10)
        next(reading)
        reading.close()  # type: ignore[attr-defined]
        with pytest.raises(ModelError, match="division by zero"):
            rows(warehouse, "SELECT 1 / (3 - i) AS n FROM generate_series(1, 5) AS i")

    assert [3, 3, 2, 4, 4, 8] == [batch.num_rows for batch in found[0]]
    assert found[0] == found[1]


def test_no_column_is_wanted(warehouse: Warehouse) -> None:
    """A model without columns, or of which none is wanted, is read as without ADBC."""
    found = []
    for reader in READERS:
        with read_through(reader), open_warehouse(str(warehouse._url), Path()) as other:  # type: ignore[attr-defined]
            found.append(only_batch(other, "SELECT 1 AS one", []))

    assert found[0].schema == found[1].schema


def test_a_value_with_a_cast_of_its_own(postgres_url: str) -> None:
    """A type that casts to text in a way of its own arrives as what Postgres writes for it, in each way."""
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute("DROP TYPE IF EXISTS size CASCADE")
        connection.execute("CREATE TYPE size AS ENUM ('S', 'L')")
        connection.execute(
            "CREATE FUNCTION size_text(size) RETURNS text LANGUAGE sql IMMUTABLE"
            " AS $$ SELECT 'of another word' $$"
        )
        connection.execute("CREATE CAST (size AS text) WITH FUNCTION size_text(size)")
    sql = "SELECT 'S'::size AS one, NULL::size AS none, ARRAY['L', NULL]::size[] AS some"
    for reader in READERS:
        with read_through(reader), open_warehouse(postgres_url, Path()) as warehouse:
            assert [{"one": "S", "none": None, "some": ["L", None]}] == rows(warehouse, sql)


@pytest.mark.rule("W2")
@pytest.mark.parametrize(
    "sql",
    [
        "SELECT 1 AS a) TO PROGRAM 'true' --",
        "SELECT 1 AS a) AS model; CREATE TABLE made (i int); SELECT 1 AS c0 FROM (SELECT 1",
    ],
)
def test_a_text_that_ends_the_copy(sql: str, warehouse: Warehouse) -> None:
    """A text that would leave the COPY that it is put in is refused as no query."""
    for columns in (None, ["a"]):
        with pytest.raises(ModelError):
            rows(warehouse, sql, columns)


@pytest.mark.thorough
def test_pandas_is_not_loaded(postgres_url: str) -> None:
    """Reading decimals, dates, texts and JSON loads neither pandas nor ADBC's Python database API."""
    sql = "SELECT 1.50::numeric(5,2) AS a, now() AS b, current_date AS c, 'x' AS d, '{}'::jsonb AS e"
    program = f"""
import sys
from pathlib import Path
from retl.model import Model
from retl.warehouse import open_warehouse
with open_warehouse({postgres_url!r}, Path()) as warehouse:
    (batch,) = warehouse.read(Model("m", {sql!r}, "m", 1))
    assert batch.num_rows == 1
print([name for name in ("pandas", "polars", "adbc_driver_manager.dbapi") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert "[]" == done.stdout.strip()
