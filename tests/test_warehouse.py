"""What every warehouse reader promises, on a database of each kind.

A test that takes `shop` runs on a DuckDB file, a SQLite file, a real Postgres in each way of reading it, a
real MySQL, and a database of which retl knows nothing. These tests are the contract that a new dialect must
keep.
"""

import json
import re
import socket
import sqlite3
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import psycopg
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy.dialects import registry
from warehouses import (
    KINDS,
    MARKS,
    READERS,
    faults,
    in_spark,
    model,
    mysql_database,
    only_batch,
    read_through,
    rows,
    spelled,
    texts_seen_by_duckdb,
    types_seen_by_duckdb,
)

from retl.address import read_address
from retl.cli.main import execute
from retl.errors import ConfigError, ModelError, WarehouseError
from retl.memory import Room
from retl.model import Model
from retl.table import select_table
from retl.warehouse import Warehouse, open_warehouse
from retl.warehouse.message import without_values
from retl.warehouse.parse import decimals
from retl.warehouse.untyped import as_json

CREATE = "CREATE TABLE users (user_id INTEGER, email VARCHAR(80), score DOUBLE PRECISION, document JSON)"
INSERT = """
    INSERT INTO users VALUES
    (1, 'a@example.com', 1.5, '{"n":12345678901234567890.123,"half":0.10}'),
    (2, 'b@example.com', 2.5, NULL),
    (3, NULL, NULL, '[1]')
"""
POSTGRES_OWN = "CREATE TYPE letter AS ENUM ('x', 'y')"
MYSQLS_OWN = (
    "CREATE TABLE own (flag BIT(1), at TIMESTAMP(6) NULL, kind ENUM('x', 'y'))",
    "INSERT INTO own VALUES (1, '2024-02-28 23:02:03.500000', 'x')",
)
ENDLESS = {
    "duckdb": "SELECT range AS i FROM range(1000000000000)",
    "sqlite": "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT i FROM n",
    "postgres": "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT i FROM n",
    "other": "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT i FROM n",
    "spark": "SELECT id AS i FROM range(0, 2000000000, 1, 40000)",  # Spark has a part in memory as a whole
    "mysql": "SELECT a.id FROM" + ", ".join(f" information_schema.COLLATIONS {name}" for name in "abcdef"),
}


@dataclass(frozen=True)
class Shop:
    """A database that holds the users, and where it is."""

    kind: str
    url: str
    root: Path
    file: Path | None
    reader: str = "adbc"

    @property
    def quote(self) -> str:
        """The sign around a name."""
        return "`" if self.kind in ("mysql", "spark") else '"'

    def open(self) -> Warehouse:
        """Connect to it."""
        with read_through(self.reader):
            return open_warehouse(self.url, self.root)


@contextmanager
def unknown_database(postgres_url: str) -> Iterator[str]:
    """The URL of a database that holds the users, of which SQLAlchemy knows the name and retl does not.

    In truth a Postgres, reached as SQLAlchemy does by itself. Its JSON is text, as in many databases.
    """
    registry.register("other", "sqlalchemy.dialects.postgresql.psycopg", "PGDialect_psycopg")
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute("CREATE DATABASE other")
    url = postgres_url.replace("/postgres?", "/other?")
    with psycopg.connect(url) as connection:
        for statement in (CREATE.replace("JSON", "TEXT"), INSERT, POSTGRES_OWN):
            connection.execute(statement)
    yield url.replace("postgresql", "other", 1)


@pytest.fixture(
    scope="session",
    params=[pytest.param(kind, marks=MARKS.get(kind, ())) for kind in (*KINDS, "psycopg")],
)
def shop(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    """Each kind of database, with the same users in it."""
    root = tmp_path_factory.mktemp("project")
    (root / "data").mkdir()
    if request.param == "duckdb":
        file = root / "data" / "shop.duckdb"
        with duckdb.connect(file) as duck:
            duck.execute(CREATE).execute(INSERT)
        yield Shop("duckdb", "duckdb:///data/shop.duckdb", root, file)
    elif request.param == "sqlite":
        file = root / "data" / "shop.db"
        lite = sqlite3.connect(file)
        lite.execute(CREATE)
        lite.execute(INSERT)
        lite.commit()
        lite.close()
        yield Shop("sqlite", "sqlite:///data/shop.db", root, file)
    elif request.param == "mysql":
        with mysql_database(CREATE, INSERT, *MYSQLS_OWN) as url:
            yield Shop("mysql", url, root, None)
    elif request.param == "spark":
        url = request.getfixturevalue("spark_url")
        create = CREATE.replace("JSON", "STRING").replace("DOUBLE PRECISION", "DOUBLE")
        in_spark(url, "DROP TABLE IF EXISTS users", create, INSERT)
        yield Shop("spark", url, root, None)
    elif request.param == "other":
        with unknown_database(request.getfixturevalue("postgres_url")) as url:
            yield Shop("other", url, root, None)
    else:
        url = request.getfixturevalue("postgres_url")
        with psycopg.connect(url) as connection:
            for statement in (
                "DROP TABLE IF EXISTS users; DROP TYPE IF EXISTS letter",
                CREATE,
                INSERT,
                POSTGRES_OWN,
            ):
                connection.execute(statement)
        yield Shop("postgres", url, root, None, "psycopg" if request.param == "psycopg" else "adbc")


@pytest.fixture(params=READERS)
def each_reader(request: pytest.FixtureRequest) -> Iterator[None]:
    """Postgres read in each way, one after the other."""
    with read_through(request.param):
        yield


in_each_way = pytest.mark.usefixtures("each_reader")


def refusal(shop: Shop, sql: str, first_line: int = 1, columns: Any = None) -> ModelError:
    """The error that the model meets on being read, which is the one it meets on being described too."""
    with shop.open() as warehouse:
        with pytest.raises(ModelError) as read:
            list(warehouse.read(model(sql, first_line), columns))
        if columns is None:
            with pytest.raises(ModelError) as described:
                warehouse.columns(model(sql, first_line))
            assert str(read.value) == str(described.value)
    return read.value


def test_a_table_by_its_name(shop: Shop) -> None:
    """A table that a sync names is read as the SELECT of all its columns."""
    select = select_table("users", read_address(shop.url).backend)

    with shop.open() as warehouse:
        names = [
            [column.name for column in warehouse.columns(Model("users", text, "x"))]
            for text in ("SELECT * FROM users", select)
        ]
    assert names[0] == names[1]


def test_all_rows(shop: Shop) -> None:
    """A model's rows arrive, all of them, with their values."""
    with shop.open() as warehouse:
        found = rows(warehouse, "SELECT user_id, email, score FROM users ORDER BY user_id")

    assert [
        {"user_id": 1, "email": "a@example.com", "score": 1.5},
        {"user_id": 2, "email": "b@example.com", "score": 2.5},
        {"user_id": 3, "email": None, "score": None},
    ] == found


def test_several_batches(shop: Shop) -> None:
    """No batch is larger than asked, and together they hold each row once."""
    with shop.open() as warehouse:
        batches = list(
            warehouse.read(
                model(
                    "WITH RECURSIVE n (i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < 99)"
                    " SELECT 100 * a.i + b.i + 1 AS i FROM n AS a, n AS b WHERE a.i < 50 ORDER BY 1"
                ),
                batch_rows=2048,
            )
        )

    assert [2048, 2048, 904] == [batch.num_rows for batch in batches]
    assert list(range(1, 5001)) == [i for batch in batches for i in batch["i"].to_pylist()]


@pytest.mark.rule("W3")
def test_streams(shop: Shop) -> None:
    """The first batch of a result that no memory could hold arrives, and the rest can be left unread."""
    with shop.open() as warehouse:
        reading = warehouse.read(model(ENDLESS[shop.kind]), batch_rows=2048)
        first = next(reading)
        reading.close()  # type: ignore[attr-defined]
        again = rows(warehouse, "SELECT 1 AS one")

    assert 2048 == first.num_rows
    assert [{"one": 1}] == again


def test_two_reads_at_once(shop: Shop) -> None:
    """A read goes on where it was after another one, and a look at the columns, in its midst."""
    users = model("SELECT user_id FROM users ORDER BY user_id")
    with shop.open() as warehouse:
        reading = warehouse.read(users, batch_rows=1)
        found = [next(reading)]
        assert "user_id" == warehouse.columns(users)[0].name
        assert 3 == len(rows(warehouse, users.sql))
        found += reading

    assert [1, 2, 3] == [i for batch in found for i in batch["user_id"].to_pylist()]


def test_empty_result_has_a_schema(shop: Shop) -> None:
    """A result without rows is one batch without rows, with the columns."""
    with shop.open() as warehouse:
        (batch,) = warehouse.read(model("SELECT user_id, email FROM users WHERE user_id > 99"))

    assert (0, ["user_id", "email"]) == (batch.num_rows, batch.schema.names)


@pytest.mark.parametrize(
    "kind", ["UUID[]", "STRUCT(a JSON)", "MAP(VARCHAR, UUID)", "UNION(a INTEGER, b VARCHAR)"]
)
def test_an_empty_result_has_a_schema_whatever_its_types(tmp_path: Path, kind: str) -> None:
    """Also where Arrow has types of its own inside of others, as only DuckDB hands them over."""
    with open_warehouse("duckdb://", tmp_path) as warehouse:
        (batch,) = warehouse.read(model(f"SELECT NULL::{kind} AS value WHERE false"))

    assert (0, ["value"]) == (batch.num_rows, batch.schema.names)


def test_columns(shop: Shop) -> None:
    """The columns come in the model's order, each with the database's word for its type."""
    with shop.open() as warehouse:
        found = warehouse.columns(model("SELECT email, user_id, document FROM users"))

    types = {
        "duckdb": ["VARCHAR", "INTEGER", "JSON"],
        "sqlite": ["", "", ""],
        "postgres": ["character varying", "integer", "json"],
        "other": ["", "", ""],
        "spark": ["string", "int", "string"],
        "mysql": ["varchar", "int", "text"],  # MariaDB has no JSON of its own
    }
    assert ["email", "user_id", "document"] == [column.name for column in found]
    assert types[shop.kind] == [column.type for column in found]


def test_only_the_wanted_columns(shop: Shop) -> None:
    """Only the wanted columns arrive, in the model's order, whatever comments end the SQL."""
    with shop.open() as warehouse:
        found = rows(warehouse, "SELECT * FROM users ORDER BY user_id LIMIT 1 -- all", {"score", "user_id"})

    assert [{"user_id": 1, "score": 1.5}] == found
    assert ["user_id", "score"] == list(found[0])


def test_any_name_of_a_column(shop: Shop) -> None:
    """A wanted column is found whatever signs are in its name."""
    name = """50% "of" `it` %s :x"""
    quoted = f"{shop.quote}{name.replace(shop.quote, 2 * shop.quote)}{shop.quote}"
    with shop.open() as warehouse:
        found = rows(warehouse, f"SELECT 1 AS {quoted}, 2 AS b", [name])

    assert [{name: 1}] == found


def test_name_that_is_taken(shop: Shop) -> None:
    """A column that has the name of the column of faults is refused."""
    error = refusal(shop, f"SELECT 1 AS {shop.quote}retl.fault{shop.quote}")

    assert "model users has a column `retl.fault`, which is a name of retl's own" == error.message


def test_missing_column(shop: Shop) -> None:
    """A wanted column that the result lacks is named, with those it has and the nearest of them."""
    error = refusal(shop, "SELECT user_id, email FROM users", columns=["user_id", "emial"])

    assert "model users has no column `emial`; it has: user_id, email" == error.message
    assert "models/users.sql" == error.where
    assert "did you mean `email`?" == error.hint


@pytest.mark.parametrize("second", ["user_id", "USER_ID"])
def test_two_columns_of_one_name(shop: Shop, second: str) -> None:
    """Two columns alike, or alike but for upper and lower case, are refused."""
    error = refusal(shop, f"SELECT user_id, score, score AS {shop.quote}{second}{shop.quote} FROM users")

    assert "model users has more than one column `user_id`" == error.message.replace("USER_ID", "user_id")


def test_error_in_the_sql(shop: Shop) -> None:
    """An error in the SQL names the model, gives the database's words, and the line where it gives one."""
    error = refusal(shop, "-- who\n/* and\nwhat */ SELECT user_id,\n  nope\nFROM users", first_line=10)

    assert error.message.startswith("model users: ")
    assert "nope" in error.message
    assert "LINE" not in error.message
    has_line = shop.kind in ("duckdb", "postgres", "spark", "other")
    assert ("models/users.sql:13" if has_line else "models/users.sql") == error.where


def test_line_of_sql_inside_another_file() -> None:
    """The line is that of the file, also where the model's place already names a line."""
    inline = Model("vip", "SELECT 1;\nSELECT 2", "syncs/vip.yml:3", first_line=3)
    with open_warehouse("duckdb://", Path()) as warehouse, pytest.raises(ModelError) as error:
        warehouse.columns(inline)

    assert "syncs/vip.yml:4" == error.value.where


@pytest.mark.parametrize("sql", ["SELECT FROM FROM users", "SELECT * FROM nowhere", "SELECT lower(1, 2, 3)"])
def test_errors_in_the_sql_are_the_models(shop: Shop, sql: str) -> None:
    """Bad syntax, an unknown table and a wrong call are to be fixed in the model."""
    assert 2 == refusal(shop, sql).exit_code


def test_error_while_reading() -> None:
    """A value that a cast refuses in the midst of the rows is the model's fault, with its line."""
    sql = "SELECT\n(CASE WHEN range = 100000 THEN 'x' ELSE '1' END)::INT AS n FROM range(200000)"
    with open_warehouse("duckdb://", Path()) as warehouse, pytest.raises(ModelError) as error:
        list(warehouse.read(model(sql)))

    assert "models/users.sql:2" == error.value.where
    assert "model users: Conversion Error: Could not convert string 'x' to INT32" == error.value.message


@in_each_way
def test_error_while_reading_postgres(postgres_url: str) -> None:
    """A division by zero in the midst of the rows is the model's fault."""
    with open_warehouse(postgres_url, Path()) as warehouse:
        reading = warehouse.read(model("SELECT 1 / (5000 - generate_series(1, 9000)) AS n"), batch_rows=100)
        next(reading)
        with pytest.raises(ModelError, match="division by zero"):
            list(reading)


@pytest.mark.rule("W9")
@pytest.mark.parametrize("shop", ["duckdb", "postgres", "psycopg", "other"], indirect=True)
@pytest.mark.parametrize("columns", [None, ["n"]])
def test_value_that_a_message_quotes(shop: Shop, columns: Any, caplog: pytest.LogCaptureFixture) -> None:
    """A value of a row is not in an error's message; the log has it at the level debug."""
    caplog.set_level("DEBUG", logger="retl")
    with shop.open() as warehouse, pytest.raises(ModelError) as error:
        rows(warehouse, "SELECT\nCAST(email AS INTEGER) AS n FROM users ORDER BY user_id", columns)

    assert re.search(
        "could not convert|invalid input syntax for type integer", error.value.message, re.IGNORECASE
    )
    assert "…" in error.value.message
    assert "example" not in f"{error.value}{error.value.hint}{error.value.__cause__}"
    assert "a@example.com" in caplog.text


@pytest.mark.rule("W9")
@pytest.mark.parametrize(
    "sql",
    [
        "SELECT * FROM read_csv('people.csv', types = {'age': 'INT'}, header = true)",
        "SELECT CAST(age AS TINYINT) AS n FROM read_csv('numbers.csv')",
        "SELECT CAST(age AS INT) * 1000000 AS n FROM read_csv('numbers.csv')",
        "SELECT strptime(age::VARCHAR, '%Y-%m-%d') AS n FROM read_csv('numbers.csv')",
        "SELECT error('Bad person: ' || name) AS n FROM read_csv('people.csv')",
        "SELECT name::JSON AS n FROM read_csv('people.csv')",
        "SELECT name::UUID AS n FROM read_csv('people.csv')",
        "SELECT name::DATE AS n FROM read_csv('people.csv')",
    ],
)
def test_value_that_duckdb_quotes(sql: str, tmp_path: Path) -> None:
    """Lines of files, numbers, and words that a model chose for its own errors are values, too."""
    (tmp_path / "people.csv").write_text("name,age\nJane O'Grady,n/a\n")
    (tmp_path / "numbers.csv").write_text("age\n51234\n")
    with open_warehouse("duckdb://", tmp_path) as warehouse, pytest.raises(ModelError) as error:
        rows(warehouse, sql)

    assert not re.search("Jane|Grady|n/a|51234", f"{error.value}{error.value.hint}"), error.value


@pytest.mark.rule("W9")
@pytest.mark.parametrize(
    ("message", "expected"),
    [
        ("ungültige Eingabesyntax für Typ integer: „Jane“", "ungültige Eingabesyntax für Typ integer: „…“"),
        ("syntaxe en entrée invalide : « Jane »", "syntaxe en entrée invalide : «…»"),
        ("Incorrect DOUBLE value: 'Jane's \"home\"' for `email`", "Incorrect DOUBLE value: '…' for `email`"),
        ("Could not convert string 'O'Jane 1' to INT32", "Could not convert string '…' to INT32"),
        ("duplicate key\nDETAIL:  Key (email)=(Jane) exists.", "duplicate key"),
        ("cannot store (email)=(Jane 'x')", "cannot store (email)=(…)"),
        ("Bad int64 value: Jane", "Bad int64 value: …"),
        ("UUID string too short: Jane", "UUID string too short: …"),
        ("Conversion Error: no such luck", "Conversion Error: no such luck"),
        ("ORA-01722: no number: EMAIL", "ORA-01722: no number: EMAIL"),
        ("SQL compilation error: line 1\ninvalid identifier 'LIMIT'", None),
        ("nobody can't read 'Jane", "nobody can't read '…'"),
        ('invalid input for integer: "5" pipe for Jane 4" wide"', 'invalid input for integer: "…"'),
        ('invalid input for integer: "email" Jane"', 'invalid input for integer: "…"'),
        ("user jane@example.com has 555 1234-5", "user … has … …"),
        ('column "email" of type INT32 does not exist', 'column "email" of type INT32 does not exist'),
    ],
)
def test_values_in_messages(message: str, expected: str | None) -> None:
    """What a message quotes is left out unless the model's SQL has it, in whatever language and signs."""
    assert (expected or message) == without_values(message, model("SELECT email FROM users LIMIT 5"))


@in_each_way
@pytest.mark.rule("W9")
def test_words_that_a_function_chose(postgres_url: str) -> None:
    """The message of an exception that a function raised may hold anything, and is left out."""
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute(
            "CREATE OR REPLACE FUNCTION complain() RETURNS int LANGUAGE plpgsql AS"
            " $$ BEGIN RAISE EXCEPTION 'no such person: Jane'; END $$"
        )
    with open_warehouse(postgres_url, Path()) as warehouse, pytest.raises(ModelError, match="P0001") as error:
        rows(warehouse, "SELECT complain() AS n")

    assert "Jane" not in str(error.value)


@pytest.mark.rule("W1")
@pytest.mark.parametrize(
    "sql",
    [
        "INSERT INTO users (user_id) VALUES (4)",
        "WITH four AS (SELECT 4) INSERT INTO users (user_id) SELECT * FROM four",
        "DELETE FROM users",
        "CREATE TABLE other (id INTEGER)",
        "DROP TABLE users",
        "COMMIT",
    ],
)
def test_writes_are_refused(shop: Shop, sql: str) -> None:
    """A model that writes is an error in the model, and writes nothing."""
    refusal(shop, sql)

    with shop.open() as warehouse:
        assert [{"n": 3}] == rows(warehouse, "SELECT count(*) AS n FROM users")


@pytest.mark.rule("W2")
@pytest.mark.parametrize(
    "sql", ["INSERT INTO users (user_id) VALUES (4)", "/* a */ -- b\nINSERT INTO users VALUES (4)"]
)
def test_no_select(shop: Shop, sql: str) -> None:
    """A statement of another kind is refused by its name, before the database runs it."""
    assert "model users is not a SELECT but: INSERT" == refusal(shop, sql).message


@pytest.mark.parametrize("shop", ["duckdb"], indirect=True)
def test_duckdb_file_is_shared(shop: Shop) -> None:
    """A DuckDB file, which DuckDB locks, can be read while another reader has it open."""
    assert shop.file is not None
    with duckdb.connect(shop.file, read_only=True), shop.open() as warehouse:
        assert 3 == len(rows(warehouse, "SELECT user_id FROM users"))


@pytest.mark.rule("W1")
@pytest.mark.parametrize("shop", ["duckdb"], indirect=True)
@pytest.mark.parametrize("setting", ["access_mode=READ_WRITE", "Access_Mode=automatic"])
def test_duckdb_file_that_the_url_would_write_to(setting: str, shop: Shop) -> None:
    """A DuckDB file is opened read-only, whatever the URL asks for."""
    assert shop.file is not None
    with (
        open_warehouse(f"{shop.url}?{setting}", shop.root),
        duckdb.connect(shop.file, read_only=True) as other,  # refused beside a connection that may write
    ):
        assert (3,) == other.execute("SELECT count(*) FROM users").fetchone()


@in_each_way
@pytest.mark.rule("W1")
def test_function_that_writes(postgres_url: str) -> None:
    """A SELECT of a function that writes is refused, by its name or by the database itself."""
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute(
            "CREATE OR REPLACE FUNCTION remember() RETURNS int LANGUAGE sql AS 'SELECT lo_create(0)::int'"
        )
    with open_warehouse(postgres_url, Path()) as warehouse:
        with pytest.raises(ModelError, match="read-only"):
            rows(warehouse, "SELECT remember() AS made")
        with pytest.raises(ModelError, match="more than read: the function lo_create"):
            rows(warehouse, 'SELECT pg_catalog . "lo_create" (0) AS made')


@pytest.mark.rule("W2")
@pytest.mark.parametrize(
    "sql", ["SELECT 1 AS a;\nSELECT 2 AS a", "SELECT ';' AS a; -- one\nDELETE FROM users"]
)
def test_two_statements(shop: Shop, sql: str) -> None:
    """A second statement is refused, and its line given."""
    error = refusal(shop, sql)

    assert "model users holds more than one statement" == error.message
    assert "models/users.sql:2" == error.where


@pytest.mark.parametrize("sql", ["", "  -- nothing\n", ";"])
def test_no_statement(shop: Shop, sql: str) -> None:
    """A model without SQL is refused."""
    assert "model users holds no SQL" == refusal(shop, sql).message


@pytest.mark.parametrize("end", [";", " ; -- done", ";;\n/* done; */ ;\n", " -- done; really"])
def test_closing_semicolon(shop: Shop, end: str) -> None:
    """Semicolons and comments after the SELECT do no harm."""
    with shop.open() as warehouse:
        assert [{"a": 1}] == rows(warehouse, "SELECT 1 AS a" + end, ["a"])


def test_sql_is_taken_literally(shop: Shop) -> None:
    """Percent signs, colons, question marks and semicolons in the SQL mean what the database says."""
    sql = (
        "SELECT '100%' AS a, 'x:y :z %s %(s)s' AS b, '?;--' AS c, 7 % 4 AS d FROM users WHERE email LIKE 'a%'"
    )
    with shop.open() as warehouse:
        assert [{"a": "100%", "b": "x:y :z %s %(s)s", "c": "?;--", "d": 3}] == rows(warehouse, sql)


@in_each_way
def test_cast_by_colons(postgres_url: str) -> None:
    """Postgres' own `::` casts, quoted strings with backslashes and dollar quotes work."""
    sql = r"SELECT '7'::int AS a, E'it\'s; %' AS b, $x$ ; ' $x$ AS c"
    with open_warehouse(postgres_url, Path()) as warehouse:
        assert [{"a": 7, "b": "it's; %", "c": " ; ' "}] == rows(warehouse, sql)


@pytest.mark.rule("W5", "V8")
def test_json_keeps_its_digits(shop: Shop) -> None:
    """JSON arrives as the text that it is, with all digits of its numbers."""
    with shop.open() as warehouse:
        (batch,) = warehouse.read(model("SELECT document FROM users WHERE user_id = 1"))

    kind = "JSON" if shop.kind in ("duckdb", "postgres") else "VARCHAR"
    assert [kind] == list(types_seen_by_duckdb(batch).values())
    assert ['{"n":12345678901234567890.123,"half":0.10}'] == texts_seen_by_duckdb(batch)["document"]


@pytest.mark.rule("W1")
@pytest.mark.parametrize("shop", ["duckdb", "sqlite"], indirect=True)
def test_file_stays_as_it_was(shop: Shop) -> None:
    """Reading changes neither the warehouse's bytes nor its time, and leaves nothing beside it."""

    def state() -> tuple[list[Path], bytes, int]:
        assert shop.file is not None
        return sorted(shop.file.parent.iterdir()), shop.file.read_bytes(), shop.file.stat().st_mtime_ns

    before = state()
    with shop.open() as warehouse:
        rows(warehouse, "SELECT * FROM users")
        during = state()

    assert before == during == state()


@pytest.mark.parametrize("url", ["duckdb:///data/none.duckdb", "sqlite:///data/none.db"])
def test_missing_file(url: str, tmp_path: Path) -> None:
    """A file that is not there is an error, and still not there afterwards."""
    (tmp_path / "data").mkdir()
    with pytest.raises(WarehouseError, match=r"there is no \w+ file .*data/none"):
        open_warehouse(url, tmp_path)

    assert [] == list((tmp_path / "data").iterdir())


@pytest.mark.parametrize("dialect", ["duckdb", "sqlite"])
def test_file_that_is_no_database(dialect: str, tmp_path: Path) -> None:
    """A file of another kind is an error on opening."""
    (tmp_path / "notes.txt").write_text("no database at all, " * 1000)
    with pytest.raises(WarehouseError, match="database"):
        open_warehouse(f"{dialect}:///notes.txt", tmp_path)


@pytest.mark.rule("W4")
@pytest.mark.parametrize("dialect", ["duckdb", "sqlite"])
def test_absolute_path(dialect: str, tmp_path: Path) -> None:
    """Four slashes begin an absolute path."""
    file = tmp_path / "some data.db"
    if dialect == "duckdb":
        duckdb.connect(file).close()
    else:
        sqlite3.connect(file).execute("CREATE TABLE t (i INTEGER)").connection.close()
    with open_warehouse(f"{dialect}:///{file}", Path("/nowhere")) as warehouse:
        assert [{"one": 1}] == rows(warehouse, "SELECT 1 AS one")


@pytest.mark.rule("W4")
@pytest.mark.parametrize("url", ["duckdb://", "duckdb:///:memory:"])
def test_files_through_duckdb(url: str, tmp_path: Path) -> None:
    """Paths in a model's SQL start from the project folder, and an error about one names the file."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "users.csv").write_text("user_id,email\n1,a@example.com\n")
    with open_warehouse(url, tmp_path) as warehouse:
        found = rows(warehouse, "SELECT * FROM read_csv('data/users.csv')")
        with pytest.raises(WarehouseError, match=r"none\.csv"):
            rows(warehouse, "SELECT * FROM 'data/none.csv'")

    assert [{"user_id": 1, "email": "a@example.com"}] == found


@pytest.mark.rule("W4")
@pytest.mark.parametrize(
    "sql",
    [
        "SELECT place FROM read_csv('data/a.csv')",
        "SELECT place FROM READ_CSV_AUTO($$data/a.csv$$)",
        "SELECT place FROM read_csv(['data/a.csv'])",
        "SELECT place FROM read_csv(ARRAY['data/a.csv'], header = true)",
        "SELECT place FROM read_csv('./data/../data/a.csv')",
        "SELECT place FROM read_csv('data/*.csv')",
        "SELECT place FROM 'data/a.csv'",
        'FROM "data/a.csv" SELECT place',
        "SELECT a.place FROM 'data/a.csv'",
        "WITH é AS (SELECT 'ü' AS u, * FROM 'data/a.csv') SELECT place FROM é",
        "SELECT (SELECT place FROM read_csv('data/a.csv')) AS place",
        "SELECT place FROM read_csv('data/a.csv') UNION SELECT place FROM 'data/a.csv'",
        "SELECT content[7:-2] AS place FROM read_text('data/a.csv')",
    ],
)
@pytest.mark.parametrize("folder", ["project", "it's a project, 50% ünique"])
def test_a_file_of_the_project_is_read(
    sql: str, folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model reads its project's files, however it names them, and not those of the working folder."""
    for name in (folder, "elsewhere"):
        (tmp_path / name / "data").mkdir(parents=True)
        (tmp_path / name / "data/a.csv").write_text(f"place\n{name[:4]}\n")
    monkeypatch.chdir(tmp_path / "elsewhere")
    with open_warehouse("duckdb://", tmp_path / folder) as warehouse:
        assert [{"place": folder[:4]}] == rows(warehouse, sql)


def test_two_threads_read_one_duckdb_file(tmp_path: Path) -> None:
    """Two syncs of one process, each with a folder of its own to spill to, read one file after the other."""
    with duckdb.connect(tmp_path / "shop.duckdb") as db:
        db.execute("CREATE TABLE users AS SELECT 1 AS n")

    def read(room: Room) -> list[dict[str, Any]]:
        with open_warehouse("duckdb:///shop.duckdb", tmp_path, room) as warehouse:
            return rows(warehouse, "SELECT n FROM users")

    one, two = (Room(50_000_000, tmp_path / name, encrypted=False) for name in ("one", "two"))
    with ThreadPoolExecutor(2) as threads:
        with open_warehouse("duckdb:///shop.duckdb", tmp_path, one):
            others = [threads.submit(read, room) for room in (two, one)]
            assert [{"n": 1}] == others[1].result()  # with the same settings there is no need to wait
        assert [{"n": 1}] == others[0].result()


@pytest.mark.rule("W4")
def test_a_folder_whose_name_looks_like_a_pattern(tmp_path: Path) -> None:
    """The name of the project folder is never a pattern of names."""
    for name in ("a[b]*?c", "abxc"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.csv").write_text(f"place\n{name}\n")
    with open_warehouse("duckdb://", tmp_path / "a[b]*?c") as warehouse:
        assert [{"place": "a[b]*?c"}] == rows(warehouse, "SELECT place FROM 'a.csv'")


@pytest.mark.rule("W4")
def test_what_is_no_path_stays(tmp_path: Path) -> None:
    """A table whose quoted name is that of a file, and texts that are no paths, are left as they are."""
    (tmp_path / "users").write_text("a\nfile\n")
    with duckdb.connect(tmp_path / "shop.duckdb") as db:
        db.execute("CREATE TABLE users AS SELECT 'data/a.csv' AS path")
    with open_warehouse("duckdb:///shop.duckdb", tmp_path) as warehouse:
        found = rows(
            warehouse, """SELECT path, 'data/a.csv' AS text FROM "users" WHERE path = 'data/a.csv'"""
        )
        deep = rows(warehouse, "SELECT " + "+".join(["1"] * 400) + " AS n FROM users")

    assert [{"path": "data/a.csv", "text": "data/a.csv"}] == found
    assert [{"n": 400}] == deep


def test_unreachable_server() -> None:
    """A server that does not answer is an error that can be tried again, and shows no password."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"postgresql://bob:s3%2Fcret@127.0.0.1:{taken.getsockname()[1]}/shop?sslpassword=t0psecret"
        with pytest.raises(WarehouseError) as error:
            open_warehouse(url, Path())

    assert 3 == error.value.exit_code
    assert str(error.value).startswith("postgresql://127.0.0.1:")
    assert "refused" in str(error.value)
    assert not any(secret in str(error.value) for secret in ("s3/cret", "s3%2Fcret", "t0psecret"))


def test_driver_that_quotes_the_password() -> None:
    """A password is taken out of the driver's own words too."""
    with pytest.raises(WarehouseError, match="connect_timeout") as error:
        open_warehouse("postgresql://bob:hush@/shop?host=/nowhere&connect_timeout=hush", Path())

    assert "hush" not in error.value.message


@in_each_way
def test_wrong_user(postgres_url: str) -> None:
    """A user whom the server does not know is an error on opening, which does not show the user."""
    with pytest.raises(WarehouseError, match=r'role "\*\*\*" does not exist'):
        open_warehouse(postgres_url.replace("postgres:@", "nobody:hush@"), Path())


@pytest.mark.rule("W9")
@pytest.mark.parametrize("url", ["postgresql://u:@/x?host=/x&port=Hunter7", "sqlite://Hunter7:pw@host/"])
def test_a_url_that_is_not_of_its_kind(url: str) -> None:
    """A part of a URL that SQLAlchemy does not take is a setting to fix, and is not shown."""
    with pytest.raises(ConfigError) as error:
        open_warehouse(url, Path())

    assert "Hunter7" not in f"{error.value} {error.value.hint}"


@in_each_way
def test_columns_without_a_run(postgres_url: str) -> None:
    """Postgres tells the columns of a model without running it, which may take long until the first row."""
    with open_warehouse(postgres_url, Path()) as warehouse:
        (column,) = warehouse.columns(model("SELECT pg_sleep(600)::text AS n"))

    assert "n" == column.name


@in_each_way
def test_vectors_of_the_catalogue(postgres_url: str) -> None:
    """Postgres writes an oidvector without braces; its numbers arrive like those of an array."""
    sql = "SELECT '23 25'::oidvector AS some, ''::oidvector AS none"
    with open_warehouse(postgres_url, Path()) as warehouse:
        (row,) = rows(warehouse, sql)

    assert [2, 0] == [len(row["some"]), len(row["none"])]


@in_each_way
@pytest.mark.rule("G8")
def test_read_that_breaks_off(postgres_url: str) -> None:
    """A connection lost in the midst of the rows is an error, never an end."""
    with (
        open_warehouse(postgres_url, Path()) as warehouse,
        psycopg.connect(postgres_url, autocommit=True) as other,
    ):
        reading = warehouse.read(
            model("SELECT pg_backend_pid() AS pid, generate_series(1, 100000) AS n"), batch_rows=10
        )
        pid = next(reading)["pid"][0].as_py()
        other.execute("SELECT pg_terminate_backend(%s, 10000)", [pid])
        with pytest.raises(WarehouseError) as error:
            list(reading)

    assert 3 == error.value.exit_code
    assert error.value.message.startswith("model users: ")


@pytest.mark.parametrize(
    ("url", "hint"),
    [
        ("snowflake://u:hush@account/db", "pip install adbc-driver-snowflake"),
        ("nonsense://u:hush@host/db", "install the SQLAlchemy dialect"),
        ("postgress://u:hush@host/db", "did you mean `postgresql`?"),
        ("oracle+oracledb://u:hush@host/db", "pip install oracledb"),
        ("u:hush@host", "Write dialect://"),
        ("postgresql://u:hu/sh@host:hush/db", "Write dialect://"),
    ],
)
def test_url_that_leads_nowhere(url: str, hint: str) -> None:
    """An unknown dialect, a missing driver and a broken URL are the configuration's, and show no password."""
    with pytest.raises(ConfigError) as error:
        open_warehouse(url, Path())

    assert hint in (error.value.hint or "")
    assert "hush" not in f"{error.value} {error.value.hint} {error.value.__cause__}"


@in_each_way
@pytest.mark.parametrize("scheme", ["postgres", "postgresql+psycopg2", "postgresql+asyncpg"])
def test_any_driver_suffix(scheme: str, postgres_url: str) -> None:
    """However the URL spells Postgres, the driver that is installed is taken."""
    with open_warehouse(postgres_url.replace("postgresql", scheme, 1), Path()) as warehouse:
        assert [{"one": 1}] == rows(warehouse, "SELECT 1 AS one")


POSTGRES_TYPES = [
    ("true", "BOOLEAN", "true"),
    ("7::int2", "SMALLINT", "7"),
    ("7", "INTEGER", "7"),
    ("9007199254740993", "BIGINT", "9007199254740993"),
    ("0.1::float4", "FLOAT", "0.1"),
    ("0.1::float8", "DOUBLE", "0.1"),
    ("'NaN'::float8", "DOUBLE", "nan"),
    ("1.50::numeric(10,2)", "DECIMAL(10,2)", "1.50"),
    ("0.0015::numeric(2,4)", "DECIMAL(4,4)", ".0015"),
    ("12345::numeric(3,-2)", "DECIMAL(5,0)", "12300"),
    ("'NaN'::numeric(10,2)", "DECIMAL(10,2)", None),
    ("12345678901234567890.123", "DECIMAL(38,3)", "12345678901234567890.123"),
    ("'Infinity'::numeric", "DECIMAL(38,0)", None),
    ("10::numeric ^ 40 + 0.10", "JSON", f"1{'0' * 40}.1"),
    ("10::numeric ^ 40 + 0.00", "JSON", f'"1{"0" * 40}"'),
    ("1.5::numeric(50,1)", "DECIMAL(38,1)", "1.5"),
    ("-3793514757000806015409968933396545.16", "DECIMAL(38,2)", "-3793514757000806015409968933396545.16"),
    ("-3793514757000806015409968933396545.16701", "JSON", "-3793514757000806015409968933396545.16701"),
    ("'é'::text", "VARCHAR", "é"),
    ("'ab'::char(3)", "VARCHAR", "ab "),
    ("'2024-02-29'::date", "DATE", "2024-02-29"),
    ("'infinity'::date", "DATE", None),
    ("'-infinity'::date", "DATE", None),
    ("'2024-02-29 01:02:03.000004'::timestamp", "TIMESTAMP", "2024-02-29 01:02:03.000004"),
    ("'infinity'::timestamp", "TIMESTAMP", None),
    ("'2024-02-29 01:02:03.5+02'::timestamptz", "TIMESTAMP WITH TIME ZONE", "2024-02-28 23:02:03.5+00"),
    ("'-infinity'::timestamptz", "TIMESTAMP WITH TIME ZONE", None),
    (
        "'5b1d2b3c-0000-4000-8000-000000000001'::uuid",
        "VARCHAR",
        "5b1d2b3c-0000-4000-8000-000000000001",
    ),
    (r"'\x00ff'::bytea", "BLOB", r"\x00\xFF"),
    ("""'{"a": 1.10, "a":2}'::json""", "JSON", '{"a": 1.10, "a":2}'),
    ("'12345678901234567890.10'::jsonb", "JSON", "12345678901234567890.10"),
    ("'10:00:00.500'::time(3)", "VARCHAR", "10:00:00.5"),
    ("'10:00+02'::timetz", "VARCHAR", "10:00:00+02"),
    ("'1 month 2 days 4.500 s'::interval", "VARCHAR", "P1M2DT4.5S"),
    ("'12.50'::money", "VARCHAR", "$12.50"),
    ("B'101'::bit(3)", "VARCHAR", "101"),
    ("'08:00:2b:01:02:03'::macaddr", "VARCHAR", "08:00:2b:01:02:03"),
    ("NULL::xml", "VARCHAR", None),
    ("'0/16B3748'::pg_lsn", "VARCHAR", "0/16B3748"),
    ("'ab'::name", "VARCHAR", "ab"),
    ("'x'::\"char\"", "VARCHAR", "x"),
    ("7::digit", "INTEGER", "7"),
    ("'a@b'::address", "VARCHAR", "a@b"),
    ("'10.0.0.1/8'::inet", "VARCHAR", "10.0.0.1/8"),
    ("'happy'::mood", "VARCHAR", "happy"),
    ("ARRAY[1, NULL, 3]", "INTEGER[]", "[1, NULL, 3]"),
    ("ARRAY[]::text[]", "VARCHAR[]", "[]"),
    ("ARRAY['a,b', 'c']", "VARCHAR[]", "['a,b', c]"),
    ("ARRAY[1.5, 2.25]", "DECIMAL(38,2)[]", "[1.50, 2.25]"),
    ("ARRAY['2024-02-29', 'infinity']::date[]", "DATE[]", "[2024-02-29, NULL]"),
    ("ARRAY['{\"a\":0.10}']::jsonb[]", "JSON[]", '[{"a": 0.10}]'),
    ("ARRAY['10:00']::time[]", "VARCHAR[]", "['10:00:00']"),
    ("ARRAY['10:00+02']::timetz[]", "VARCHAR[]", "['10:00:00+02']"),
    ("ARRAY['happy', NULL]::mood[]", "VARCHAR[]", "[happy, NULL]"),
    ("ARRAY['a@b', 'NULL', '', 'q\"\\{},']::address[]", "VARCHAR[]", """[a@b, 'NULL', '', 'q"\\\\{},']"""),
    ("'[2:3]={a,b}'::mood_less[]", "VARCHAR[]", "[a, b]"),
    ("ARRAY[[1, 2], [3, 4]]", "INTEGER[][]", "[[1, 2], [3, 4]]"),
    ("ARRAY[ARRAY['a'], ARRAY['b']]::address[]", "VARCHAR[][]", "[[a], [b]]"),
    ("'NaN'::float4", "FLOAT", "nan"),
    ("'-Infinity'::float8", "DOUBLE", "-inf"),
    ("0.00000000000000000001", "DECIMAL(38,20)", "0.00000000000000000001"),
    ("'-0.50'::numeric(12,2)", "DECIMAL(12,2)", "-0.50"),
    ("'0001-01-01'::date", "DATE", "0001-01-01"),
    ("'9999-12-31 23:59:59.999999'::timestamp", "TIMESTAMP", "9999-12-31 23:59:59.999999"),
    ("'infinity'::timestamptz", "TIMESTAMP WITH TIME ZONE", None),
    (
        "'1969-12-31 23:59:59.999999+00'::timestamptz",
        "TIMESTAMP WITH TIME ZONE",
        "1969-12-31 23:59:59.999999+00",
    ),
    ("'10.0.0.1/32'::inet", "VARCHAR", "10.0.0.1"),
    ("NULL::inet", "VARCHAR", None),
    ("'10.0.0.0/8'::cidr", "VARCHAR", "10.0.0.0/8"),
    ("4000000000::oid", "VARCHAR", "4000000000"),
    ("B'101'::varbit", "VARCHAR", "101"),
    ("'-12:30:00.5'::interval", "VARCHAR", "PT-12H-30M-0.5S"),
    ("NULL::mood", "VARCHAR", None),
    ("ARRAY[true, NULL, false]", "BOOLEAN[]", "[true, NULL, false]"),
    ("ARRAY['-Infinity', 1.5]::float8[]", "DOUBLE[]", "[-inf, 1.5]"),
    ("ARRAY['\\x00ff', '']::bytea[]", "BLOB[]", "['\\\\x00\\\\xFF', '']"),
    (
        "ARRAY['5b1d2b3c-0000-4000-8000-000000000001']::uuid[]",
        "VARCHAR[]",
        "[5b1d2b3c-0000-4000-8000-000000000001]",
    ),
    ("ARRAY['10.0.0.1']::inet[]", "VARCHAR[]", "[10.0.0.1]"),
    (
        "ARRAY['2024-02-29 01:02:03+02', '-infinity']::timestamptz[]",
        "TIMESTAMP WITH TIME ZONE[]",
        "['2024-02-28 23:02:03+00', NULL]",
    ),
    ("NULL", "VARCHAR", None),
    ("NULL::jsonb", "JSON", None),
    ("NULL::int[]", "INTEGER[]", None),
]


@pytest.fixture(scope="session", params=READERS)
def typed_batch(request: pytest.FixtureRequest, postgres_url: str) -> pa.RecordBatch:
    """One row with a value of each type."""
    with psycopg.connect(postgres_url) as connection:
        connection.execute("DROP TYPE IF EXISTS mood; DROP DOMAIN IF EXISTS digit, address, mood_less")
        connection.execute("CREATE TYPE mood AS ENUM ('happy', 'sad')")
        connection.execute("CREATE DOMAIN digit AS integer; CREATE DOMAIN address AS text")
        connection.execute("CREATE DOMAIN mood_less AS varchar(9)")
    values = ", ".join(f"{value} AS c{i}" for i, (value, _, _) in enumerate(POSTGRES_TYPES))
    with read_through(request.param), open_warehouse(postgres_url, Path()) as warehouse:
        (batch,) = warehouse.read(model(f"SELECT {values}"))
    return batch


@pytest.mark.parametrize("i", range(len(POSTGRES_TYPES)), ids=[value for value, _, _ in POSTGRES_TYPES])
def test_postgres_types(i: int, typed_batch: pa.RecordBatch) -> None:
    """Each of Postgres' types arrives in DuckDB as the type and the value that it is."""
    _, kind, text = POSTGRES_TYPES[i]
    column = typed_batch.select([i])

    assert [kind] == list(types_seen_by_duckdb(column).values())
    assert [[text]] == list(texts_seen_by_duckdb(column).values())


@pytest.mark.thorough
@pytest.mark.rule("W5")
def test_each_way_of_reading_postgres_gives_the_same(postgres_with_types: str) -> None:
    """Types and values are equal in each way, also where the first rows hold nothing but NULL."""
    values = [value for value, _, _ in POSTGRES_TYPES if not re.search("mood|digit|address", value)]
    nothing = ", ".join(f"NULL AS c{i}" for i in range(len(values)))
    listed = ", ".join(f"({value}) AS c{i}" for i, value in enumerate(values))
    sql = f"SELECT * FROM ((SELECT {nothing}) UNION ALL (SELECT {listed})) AS two"
    timed = f"{postgres_with_types}&options=-c%20statement_timeout%3D600000"  # is read batch by batch
    found = []
    for reader, url in (("psycopg", postgres_with_types), ("adbc", postgres_with_types), ("adbc", timed)):
        with read_through(reader), open_warehouse(url, Path()) as warehouse:
            found.append(only_batch(warehouse, sql))

    by_rows, *others = found
    for by_columns in others:
        assert by_rows.schema == by_columns.schema
        assert spelled(by_rows) == spelled(by_columns)
        assert texts_seen_by_duckdb(by_rows) == texts_seen_by_duckdb(by_columns)


@pytest.mark.thorough
@in_each_way
def test_postgres_arrays_of_several_dimensions(postgres_url: str) -> None:
    """Inside arrays of arrays values are spelled as anywhere, also where other rows have fewer dimensions."""
    values = {
        "ARRAY[[9007199254740993, NULL]]": '[["9007199254740993",null]]',
        "ARRAY[[1.50, 2]]": "[[1.5,2]]",
        "ARRAY[['infinity', '2024-02-29 01:02:03.4']]::timestamp[]": '[[null,"2024-02-29T01:02:03.400Z"]]',
        "ARRAY[['2024-02-29 01:02:03.456789+02']]::timestamptz[]": '[["2024-02-28T23:02:03.456Z"]]',
        "ARRAY[['2024-02-29', NULL]]::date[]": '[["2024-02-29",null]]',
        "ARRAY[[true, false]]": "[[true,false]]",
        "ARRAY[[0.1]]::float4[]": "[[0.1]]",
        "ARRAY[[0.1, 'NaN']]::float8[]": "[[0.1,null]]",
        "ARRAY[['\\x00ff']]::bytea[]": '[["AP8="]]',
        """ARRAY[['{"a":1.10}', 'null']]::json[]""": '[[{"a":1.10},null]]',
        "ARRAY[['a', 'NULL']]": '[["a","NULL"]]',
        "'{}'::int[]": "[]",
    }
    shallow = [f"coalesce(({value})[1:0], '{{}}')" for value in values]
    with open_warehouse(postgres_url, Path()) as warehouse:
        for value, empty in zip(values, shallow, strict=True):
            flat = f"(SELECT array_agg(i) FROM unnest({value}) AS i)"
            alike = only_batch(
                warehouse, f"SELECT {value} AS v UNION ALL SELECT NULL UNION ALL SELECT {empty}"
            )
            mixed = only_batch(warehouse, f"SELECT {value} AS v UNION ALL SELECT {flat}")
            assert [values[value], None, "[]"] == spelled(alike)["v"]
            expected = values[value].replace("[[", "[").replace("]]", "]")
            found = spelled(mixed)["v"]
            assert [values[value], None if value == "'{}'::int[]" else expected] == found


NO_SPELLING = [
    ("'[1,5)'::int4range", "int4range", "v::text"),
    ("'(1,2)'::point", "point", "v::text"),
    ("'a b'::tsvector", "tsvector", "v::text"),
    ("ROW(1, 'a')", "record", "to_jsonb(v)"),
    ("ROW(1, 'a')::pair", "pair", "to_jsonb(v)"),
    ("ARRAY['(1,2)']::point[]", "point[]", "to_jsonb(v)"),
    ("ARRAY[7]::whole[]", "whole[]", "to_jsonb(v)"),
    ("'(1,2)'::geometry", "geometry", "ST_AsGeoJSON(v)::json"),
]


@pytest.fixture(scope="session")
def postgres_with_types(postgres_url: str) -> str:
    """A Postgres with types of its own; a composite stands for the type that PostGIS makes."""
    with psycopg.connect(postgres_url) as connection:
        connection.execute("CREATE TYPE pair AS (a integer, b text); CREATE DOMAIN whole AS integer")
        connection.execute("CREATE TYPE geometry AS (x integer, y integer)")
    return postgres_url


@in_each_way
@pytest.mark.parametrize(("value", "kind", "cast"), NO_SPELLING)
def test_postgres_type_without_a_spelling(value: str, kind: str, cast: str, postgres_with_types: str) -> None:
    """A type whose text nobody would expect is refused with the way to cast it, where it is wanted."""
    sql = f"SELECT 1 AS one, {value} AS v"
    with open_warehouse(postgres_with_types, Path()) as warehouse:
        assert [{"one": 1}] == rows(warehouse, sql, ["one"])
        assert kind == warehouse.columns(model(sql))[1].type
        with pytest.raises(ModelError) as error:
            rows(warehouse, sql)

    expected = f"model users: the column `v` has the type {kind}, which has no clear spelling"
    assert expected == error.value.message
    assert cast in (error.value.hint or "")


@in_each_way
@pytest.mark.parametrize(
    ("value", "kind"),
    [
        ("0044-03-15 BC", "date"),
        ("12024-02-29", "date"),
        ("0001-01-01 BC", "timestamp"),
        ("294270-01-01", "timestamp"),
        ("0044-03-15 10:00:00+00 BC", "timestamptz"),
        ("10000-01-01 00:00:00+00", "timestamptz"),
        ("{2024-02-29,10000-01-01}", "date[]"),
        ("{{2024-02-29},{10000-01-01}}", "date[]"),
    ],
)
def test_postgres_instants_far_off(value: str, kind: str, postgres_url: str) -> None:
    """A date or timestamp outside the years 1 to 9999 rejects its row alone, where it is wanted."""
    sql = f"SELECT 1 AS i, '{value}'::{kind} AS v UNION ALL SELECT 2, NULL UNION ALL SELECT 3, '{{}}'"
    sound = "{}" if "[" in kind else "9999-12-31 23:59:59"
    sql = sql.replace("'{}'", f"'{sound}'") + f" UNION ALL SELECT 4, '{'{}' if '[' in kind else 'infinity'}'"
    with open_warehouse(postgres_url, Path()) as warehouse:
        batch = only_batch(warehouse, sql)
        unwanted = only_batch(warehouse, sql, ["i"])

    assert ["bad_timestamp", None, None, None] == faults(batch)
    if "[" not in kind:
        assert [True, True, False, True] == batch["v"].is_null().to_pylist()
    assert ["i"] == unwanted.schema.names


@in_each_way
def test_arrays_of_mixed_dimensions_with_a_fault(postgres_url: str) -> None:
    """A date far off rejects its own row in a column of arrays of one and of two dimensions."""
    sql = "SELECT '{2024-02-29}'::date[] AS v UNION ALL SELECT '{{2024-02-29},{10000-01-01}}'"
    with open_warehouse(postgres_url, Path()) as warehouse:
        batch = only_batch(warehouse, sql)

    assert [None, "bad_timestamp"] == faults(batch)
    assert ['["2024-02-29"]', '[["2024-02-29"],[null]]'] == batch["v"].to_pylist()


@in_each_way
def test_postgres_that_takes_any_bytes_for_text(postgres_url: str) -> None:
    """A database without an encoding is read as UTF-8; Postgres itself refuses to send text that is none."""
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute("DROP DATABASE IF EXISTS bytes WITH (FORCE)")
        connection.execute("CREATE DATABASE bytes ENCODING 'SQL_ASCII' TEMPLATE template0 LC_CTYPE 'C'")
    with open_warehouse(postgres_url.replace("/postgres?", "/bytes?"), Path()) as warehouse:
        assert [{"a": "é", "b": ["😀"]}] == rows(warehouse, "SELECT 'é' AS a, ARRAY['😀'] AS b")
        with pytest.raises(ModelError, match="invalid byte sequence"):
            rows(warehouse, r"SELECT E'\xff' AS a")


@in_each_way
def test_postgres_schema_is_fixed(postgres_url: str) -> None:
    """Batches that hold nothing but NULL have the types of the others."""
    sql = """
        SELECT CASE WHEN i > 2 THEN 1 END AS a, CASE WHEN i > 2 THEN now() END AS b,
               CASE WHEN i > 2 THEN '{}'::jsonb END AS c, (CASE WHEN i > 2 THEN 1.5 END)::numeric(4,2) AS d
        FROM generate_series(1, 4) AS i ORDER BY i
    """
    with open_warehouse(postgres_url, Path()) as warehouse:
        first, second = warehouse.read(model(sql), batch_rows=2)

    assert 2 == first["a"].null_count
    assert first.schema == second.schema


@in_each_way
def test_nulls_among_lists(postgres_url: str) -> None:
    """NULL, empty and filled arrays stay apart."""
    sql = """
        SELECT a FROM (VALUES (1, ARRAY[1.5]), (2, NULL), (3, '{}'), (4, ARRAY[NULL, 2])) AS v (i, a)
        ORDER BY i
    """
    with open_warehouse(postgres_url, Path()) as warehouse:
        found = [row["a"] for row in rows(warehouse, sql)]

    assert [[Decimal("1.5")], None, [], [None, Decimal(2)]] == found


DUCKDB_TYPES = [
    ("170141183460469231731687303715884105727::HUGEINT", "HUGEINT"),
    ("5::UHUGEINT", "UHUGEINT"),
    ("'5b1d2b3c-0000-4000-8000-000000000001'::UUID", "UUID"),
    ("'{\"n\":12345678901234567890.123}'::JSON", "JSON"),
    ("['1'::JSON]", "JSON[]"),
    ("'10:00:00+02'::TIMETZ", "TIME WITH TIME ZONE"),
    ("TIMESTAMPTZ '2024-02-29 01:00:00+02'", "TIMESTAMP WITH TIME ZONE"),
    ("'infinity'::TIMESTAMP", "TIMESTAMP"),
    ("1.50::DECIMAL(38,2)", "DECIMAL(38,2)"),
    ("INTERVAL 1 MONTH", "INTERVAL"),
    ("'101'::BIT", "BIT"),
    ("{'a': 1, 'b': ['x']}", "STRUCT(a INTEGER, b VARCHAR[])"),
    ("MAP {'a': 1}", "MAP(VARCHAR, INTEGER)"),
    ("'x'::ENUM ('x', 'y')", "VARCHAR"),
]


@pytest.mark.parametrize(("value", "kind"), DUCKDB_TYPES)
def test_duckdb_types(value: str, kind: str) -> None:
    """DuckDB's own types go through Arrow and come back as what they were, value and all."""
    with open_warehouse("duckdb://", Path()) as warehouse:
        (batch,) = warehouse.read(model(f"SELECT {value} AS v, ({value})::VARCHAR AS text"), ["v", "text"])

    seen = texts_seen_by_duckdb(batch)
    assert kind == types_seen_by_duckdb(batch)["v"]
    assert seen["text"] == seen["v"]


@pytest.mark.parametrize("kind", ["DATE", "TIMESTAMP", "TIMESTAMPTZ", "TIMESTAMP_S", "TIMESTAMP_MS"])
def test_duckdb_instants_far_off(kind: str) -> None:
    """A date or timestamp outside the years 1 to 9999 rejects its row alone, and infinities do not."""
    texts = ["0001-01-01", "9999-12-31", "10000-01-01", "0001-12-31 (BC)", "infinity", "-infinity"]
    with open_warehouse("duckdb://", Path()) as warehouse:
        batch = only_batch(warehouse, f"SELECT unnest({texts})::{kind} AS v")

    assert [None, None, "bad_timestamp", "bad_timestamp", None, None] == faults(batch)
    assert [False, False, True, True, False, False] == batch["v"].is_null().to_pylist()


SQLITE_COLUMNS: list[tuple[list[str], pa.DataType, list[Any]]] = [
    (["1", "NULL"], pa.int64(), [1, None]),
    (["1", "2.5"], pa.float64(), [1.0, 2.5]),
    (["'x'", "'1'"], pa.string(), ["x", "1"]),
    (["x'00ff'"], pa.binary(), [b"\x00\xff"]),
    (["NULL", "NULL"], pa.null(), [None, None]),
    (["1", "'1'", "NULL", "2.5"], pa.json_(), ["1", '"1"', None, "2.5"]),
    (["9007199254740993", "0.5"], pa.json_(), ['"9007199254740993"', "0.5"]),
    (["9007199254740992", "0.5"], pa.json_(), ['"9007199254740992"', "0.5"]),
    (["9007199254740991", "0.5"], pa.float64(), [9007199254740991.0, 0.5]),
    (["2.0", "'x'", "-0.0", "1e22"], pa.json_(), ["2", '"x"', "0", "1e+22"]),
    (["'é'", "x'00ff'"], pa.json_(), ['"é"', '"AP8="']),
    (["'x'", "9e999"], pa.json_(), ['"x"', "null"]),
]


@pytest.mark.parametrize(("values", "kind", "expected"), SQLITE_COLUMNS)
def test_sqlite_values(values: list[str], kind: pa.DataType, expected: list[Any], tmp_path: Path) -> None:
    """A SQLite column is of its values' type: null where there are none, JSON where they are mixed."""
    sqlite3.connect(tmp_path / "x.db").execute("CREATE TABLE t (i INTEGER)").connection.close()
    with open_warehouse("sqlite:///x.db", tmp_path) as warehouse:
        (batch,) = warehouse.read(model(" UNION ALL ".join(f"SELECT {value} AS v" for value in values)))

    assert kind == batch.schema.field("v").type
    assert expected == batch["v"].to_pylist()
    assert all(json.loads(text) is not ... for text in expected if kind == pa.json_() and text is not None)


@pytest.mark.parametrize("others", [[], ["1"]])
def test_sqlite_text_that_is_none(others: list[str], tmp_path: Path) -> None:
    """Text that is not UTF-8 rejects its row alone, and only where it is wanted."""
    sqlite3.connect(tmp_path / "x.db").execute("CREATE TABLE t (i INTEGER)").connection.close()
    values = ["'é'", "CAST(x'61ff' AS TEXT)", "NULL", "CAST(x'eda080' AS TEXT)", *others]
    sql = " UNION ALL ".join(f"SELECT 1 AS i, {value} AS v" for value in values)
    with open_warehouse("sqlite:///x.db", tmp_path) as warehouse:
        batch = only_batch(warehouse, sql)
        unwanted = only_batch(warehouse, sql, ["i"])

    assert [None, "bad_text", None, "bad_text"] == faults(batch)[:4]
    assert [False, True, True, True] == batch["v"].is_null().to_pylist()[:4]
    assert ['"é"', None, None, None, *others] == spelled(batch.select(["v"]))["v"]
    assert ["i"] == unwanted.schema.names


texts = st.text(st.characters(codec="utf-8"))
values = st.one_of(
    st.integers(-(2**63), 2**63 - 1),
    st.floats(),
    st.decimals(-(10**15), 10**15, places=4),
    st.decimals(allow_nan=False, allow_infinity=False, places=0).filter(lambda one: abs(one) < 10**30),
    st.booleans(),
    texts,
    st.binary(),
    st.dates(),
    st.datetimes(),
    st.datetimes(timezones=st.timezones()),
    st.times(),
    st.lists(st.integers(-(2**63), 2**63 - 1)),
    st.lists(texts),
)


@pytest.mark.thorough
@settings(max_examples=30, deadline=None)
@given(st.lists(values, min_size=1, max_size=30))
def test_mixed_columns_spell_as_others_do(found: list[Any]) -> None:
    """A value among values of other types is sent as it is in a column of its own type."""
    zoned = pa.timestamp("us", "UTC")
    alone = [pa.array([value], zoned if getattr(value, "tzinfo", None) else None) for value in found]
    mixed, reasons = as_json(found)

    assert reasons is None
    names = [f"v{i}" for i in range(len(found))]
    own = spelled(pa.RecordBatch.from_arrays(alone, names))
    among_others = spelled(pa.RecordBatch.from_arrays([mixed], ["v"]))["v"]
    assert [text for (text,) in own.values()] == [None if text == "null" else text for text in among_others]


def test_durations_in_mixed_columns() -> None:
    """A span of time is ISO 8601."""
    spans = [timedelta(), timedelta(days=1, seconds=61, milliseconds=500), timedelta(hours=-2, seconds=-1)]

    assert ['"PT0S"', '"PT24H1M1.5S"', '"PT-2H-1S"'] == as_json(spans)[0].to_pylist()


def test_decimals_too_wide_for_arrow() -> None:
    """Where one number of a column is too wide, all are JSON, spelled as they would be without it."""
    wide = "1" * 40
    numbers = ["9007199254740991", "-9007199254740991", "9007199254740992", "-9007199254740992", f"{wide}.50"]
    numbers += ["1.50", "2.00", "-0.010", "007.0", "100", None, f"{wide}.0"]

    found = decimals(pa.array(numbers), None, None)

    safe = ["9007199254740991", "-9007199254740991"]
    unsafe = ['"9007199254740992"', '"-9007199254740992"']
    expected = [*safe, *unsafe, f"{wide}.5", "1.5", "2", "-0.01", "7", "100", None, f'"{wide}"']
    assert expected == found.to_pylist()


ODD_TEXT = "é😀'\"\\/\n\t\x01\x7f"
ODD_JSON = json.dumps(ODD_TEXT, ensure_ascii=False)
_SQL_TEXT = "'" + ODD_TEXT.replace("'", "''") + "'"
JSON_TEXT = '{"n":12345678901234567890.10,"a":[1e2, null]}'
UUID = "5b1d2b3c-0000-4000-8000-000000000001"

# The same thing as each database writes it; None where a database has no such thing.
SPELLINGS: dict[str, tuple[str, dict[str, str | None]]] = {
    "true": (
        "true",
        {"duckdb": "true", "postgres": "true", "sqlite": None, "mysql": "(SELECT flag FROM own)"},
    ),
    "integer": ("-7", dict.fromkeys(("duckdb", "postgres", "sqlite", "mysql"), "-7")),
    "2^53-1": (
        "9007199254740991",
        dict.fromkeys(("duckdb", "postgres", "sqlite", "mysql"), "9007199254740991"),
    ),
    "2^53+1": (
        '"9007199254740993"',
        dict.fromkeys(("duckdb", "postgres", "sqlite", "mysql"), "9007199254740993"),
    ),
    "2^64-1": (
        '"18446744073709551615"',
        {
            "duckdb": "18446744073709551615::UBIGINT",
            "postgres": "18446744073709551615",
            "sqlite": None,
            "mysql": "18446744073709551615",
        },
    ),
    "decimal": (
        "12345678901234567890.12345",
        {
            "duckdb": "12345678901234567890.123450::DECIMAL(38,6)",
            "postgres": "12345678901234567890.123450",
            "sqlite": None,
            "mysql": "12345678901234567890.123450",
        },
    ),
    "below one": (
        "-0.05",
        {"duckdb": "-0.050::DECIMAL(3,3)", "postgres": "-0.050", "sqlite": None, "mysql": "-0.050"},
    ),
    "double": (
        "0.30000000000000004",
        {
            "duckdb": "0.1::DOUBLE + 0.2::DOUBLE",
            "postgres": "0.1::float8 + 0.2::float8",
            "sqlite": "0.1 + 0.2",
            "mysql": "0.1e0 + 0.2e0",
        },
    ),
    "whole double": (
        "100",
        {"duckdb": "1e2::DOUBLE", "postgres": "1e2::float8", "sqlite": "1e2", "mysql": "1e2"},
    ),
    "infinity": (
        "null",
        {"duckdb": "'inf'::DOUBLE", "postgres": "'inf'::float8", "sqlite": "9e999", "mysql": None},
    ),
    "text": (
        ODD_JSON,
        {
            "duckdb": _SQL_TEXT,
            "postgres": _SQL_TEXT,
            "sqlite": _SQL_TEXT,
            "mysql": _SQL_TEXT.replace("\\", "\\\\"),
        },
    ),
    "text with NUL": (
        '"a\\u0000b"',
        {
            "duckdb": "'a' || chr(0) || 'b'",
            "postgres": None,
            "sqlite": "'a' || char(0) || 'b'",
            "mysql": "'a\\0b'",
        },
    ),
    "empty text": ('""', dict.fromkeys(("duckdb", "postgres", "sqlite", "mysql"), "''")),
    "bytes": (
        '"AP8="',
        {
            "duckdb": r"'\x00\xFF'::BLOB",
            "postgres": r"'\x00ff'::bytea",
            "sqlite": "x'00ff'",
            "mysql": "x'00ff'",
        },
    ),
    "uuid": (
        f'"{UUID}"',
        {
            "duckdb": f"'{UUID}'::UUID",
            "postgres": f"'{UUID}'::uuid",
            "sqlite": f"'{UUID}'",
            "mysql": f"CAST('{UUID}' AS CHAR)",
        },
    ),
    "enum": (
        '"x"',
        {
            "duckdb": "'x'::ENUM ('x', 'y')",
            "postgres": "(SELECT 'x'::letter)",
            "sqlite": None,
            "mysql": "(SELECT kind FROM own)",
        },
    ),
    "date": (
        '"2024-02-29"',
        {
            "duckdb": "DATE '2024-02-29'",
            "postgres": "DATE '2024-02-29'",
            "sqlite": "date('2024-02-29')",
            "mysql": "DATE '2024-02-29'",
        },
    ),
    "time": (
        '"03:04:05.5"',
        {
            "duckdb": "TIME '03:04:05.500'",
            "postgres": "TIME '03:04:05.500'",
            "sqlite": None,
            "mysql": "TIME '03:04:05.500'",
        },
    ),
    "whole time": (
        '"03:04:00"',
        {
            "duckdb": "TIME '03:04:00'",
            "postgres": "TIME(3) '03:04:00'",
            "sqlite": "time('03:04:00')",
            "mysql": "TIME '03:04:00.000'",
        },
    ),
    "timestamp": (
        '"2024-02-29T01:02:03.000Z"',
        {
            "duckdb": "TIMESTAMP '2024-02-29 01:02:03.000456'",
            "postgres": "TIMESTAMP '2024-02-29 01:02:03.000456'",
            "sqlite": None,
            "mysql": "TIMESTAMP '2024-02-29 01:02:03.000456'",
        },
    ),
    "zoned timestamp": (
        '"2024-02-28T23:02:03.500Z"',
        {
            "duckdb": "TIMESTAMPTZ '2024-02-29 01:02:03.5+02'",
            "postgres": "TIMESTAMPTZ '2024-02-29 01:02:03.5+02'",
            "sqlite": None,
            "mysql": "(SELECT at FROM own)",
        },
    ),
    "JSON": (
        JSON_TEXT,
        {"duckdb": f"'{JSON_TEXT}'::JSON", "postgres": f"'{JSON_TEXT}'::json", "sqlite": None, "mysql": None},
    ),
    "array": (
        '["9007199254740993",null]',
        {
            "duckdb": "[9007199254740993, NULL]",
            "postgres": "ARRAY[9007199254740993, NULL]",
            "sqlite": None,
            "mysql": None,
        },
    ),
    "null": ("null", dict.fromkeys(("duckdb", "postgres", "sqlite", "mysql"), "NULL")),
}


SPARKS_SPELLINGS = {
    "true": "true",
    "integer": "-7",
    "2^53-1": "9007199254740991",
    "2^53+1": "9007199254740993",
    "2^64-1": "18446744073709551615",
    "decimal": "12345678901234567890.123450",
    "below one": "CAST(-0.050 AS DECIMAL(3, 3))",
    "double": "0.1D + 0.2D",
    "whole double": "1e2",
    "infinity": "CAST('inf' AS DOUBLE)",
    "text": _SQL_TEXT.replace("\\", "\\\\"),
    "text with NUL": "'a\\0b'",
    "empty text": "''",
    "bytes": "X'00FF'",
    "uuid": f"'{UUID}'",
    "date": "DATE '2024-02-29'",
    "timestamp": "TIMESTAMP_NTZ '2024-02-29 01:02:03.000456'",
    "zoned timestamp": "TIMESTAMP '2024-02-29 01:02:03.5+02:00'",
    "array": "array(9007199254740993, NULL)",
    "null": "NULL",
}
"""What Spark has of it; JSON is its VARIANT, which spells numbers anew."""


def spelling_in(kind: str, what: str) -> str | None:
    """The SQL of that thing in a kind of database; None where it has no such thing."""
    if kind == "spark":
        return SPARKS_SPELLINGS.get(what)
    _, spelling = SPELLINGS[what]
    if kind == "other":  # whose driver makes Python's numbers of those in JSON
        return None if what == "JSON" else spelling["postgres"]
    return spelling[kind]


@pytest.fixture(scope="session")
def spelled_by(shop: Shop) -> dict[str, str | None]:
    """The JSON of each of the spellings in a kind of database, its columns wanted by name, as in a run."""
    found = [(what, sql) for what in SPELLINGS if (sql := spelling_in(shop.kind, what))]
    sql = ", ".join(f"{value} AS c{i}" for i, (_, value) in enumerate(found))
    with shop.open() as warehouse:
        batch = only_batch(warehouse, f"SELECT {sql}", [f"c{i}" for i in range(len(found))])
    texts = [text for (text,) in spelled(batch).values()]
    return {what: "null" if text is None else text for (what, _), text in zip(found, texts, strict=True)}


@pytest.mark.parametrize("what", SPELLINGS)
def test_one_spelling_whatever_the_warehouse(
    what: str, shop: Shop, spelled_by: dict[str, str | None]
) -> None:
    """The same thing is sent as the same JSON, to the letter, whichever database it comes from."""
    expected, _ = SPELLINGS[what]
    if spelling_in(shop.kind, what) is None:
        assert what not in spelled_by
    else:
        assert expected == spelled_by[what]


def test_reads_from_another_thread(shop: Shop) -> None:
    """A warehouse opened in one thread can be read in another."""
    with shop.open() as warehouse, ThreadPoolExecutor(1) as pool:
        assert 3 == len(pool.submit(rows, warehouse, "SELECT user_id FROM users").result())


@pytest.mark.thorough
def test_a_run_sends_what_changed(
    shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whatever the warehouse: a first run sends each row, the same again nothing, an edit what changed."""
    url = f"{shop.kind}:///{shop.file}" if shop.file else shop.url
    for folder in ("models", "syncs"):
        (tmp_path / folder).mkdir()
    model = tmp_path / "models" / "users.sql"
    model.write_text("SELECT user_id, email FROM users")
    (tmp_path / "syncs" / "users.yml").write_text(
        "model: users\nprimary_key: user_id\nidentify: {user_id: user_id, traits: {email: email}}\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RETL_WAREHOUSE_URL", url)

    def counts() -> tuple[int, int, int, int]:
        capsys.readouterr()
        assert execute(["run", "users", "--sandbox", "--json"]) == 0
        run = json.loads(capsys.readouterr().out)
        return run["added"], run["changed"], run["unchanged"], run["calls"]["delivered"]

    assert (3, 0, 0, 3) == counts()
    assert (0, 0, 3, 0) == counts()
    model.write_text(
        "SELECT user_id, CASE WHEN user_id = 1 THEN 'new@x.com' ELSE email END AS email FROM users"
    )
    assert (0, 1, 2, 1) == counts()
