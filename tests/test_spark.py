"""Spark: what it says of types, values and errors, its token, and the end of a read.

The contract of all warehouses is tested on it in test_warehouse.py.
"""

import logging
import socket
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from spark_server import EVENTS, LARGEST_RESULT, TOKEN
from warehouses import faults, model, only_batch, rows, spelled, types_seen_by_duckdb

from retl.address import read_address
from retl.cli.main import execute
from retl.errors import ConfigError, ModelError, WarehouseError
from retl.warehouse import Warehouse, open_warehouse
from retl.warehouse.dialect import as_subquery

pytestmark = pytest.mark.spark


@pytest.fixture(scope="module")
def spark(spark_url: str) -> Iterator[Warehouse]:
    """A session of Spark."""
    with open_warehouse(spark_url, Path()) as warehouse:
        yield warehouse


ZONED, NESTED = "TIMESTAMP WITH TIME ZONE", "STRUCT(a INTEGER, b BLOB[])"

TYPES = [
    ("CAST(-7 AS TINYINT)", "tinyint", "TINYINT", "-7"),
    ("CAST(-7 AS SMALLINT)", "smallint", "SMALLINT", "-7"),
    ("-7", "int", "INTEGER", "-7"),
    ("9007199254740993", "bigint", "BIGINT", '"9007199254740993"'),
    ("CAST(0.1 AS FLOAT)", "float", "FLOAT", "0.1"),
    ("CAST('NaN' AS DOUBLE)", "double", "DOUBLE", "null"),
    ("CAST('1.50' AS DECIMAL(12, 2))", "decimal(12,2)", "DECIMAL(12,2)", "1.5"),
    (f"{'9' * 37}.5", "decimal(38,1)", "DECIMAL(38,1)", f"{'9' * 37}.5"),
    ("CAST('1E-18' AS DECIMAL(38, 18))", "decimal(38,18)", "DECIMAL(38,18)", "0.000000000000000001"),
    ("true", "boolean", "BOOLEAN", "true"),
    ("X'00FF'", "binary", "BLOB", '"AP8="'),
    ("CAST('x' AS CHAR(3))", "string", "VARCHAR", '"x"'),
    ("TIMESTAMP '2024-02-29 01:02:03.5+05:00'", "timestamp", ZONED, '"2024-02-28T20:02:03.500Z"'),
    ("TIMESTAMP '2024-02-29 01:02:03'", "timestamp", ZONED, '"2024-02-29T01:02:03.000Z"'),
    ("TIMESTAMP_NTZ '2024-02-29 01:02:03.5'", "timestamp_ntz", "TIMESTAMP", '"2024-02-29T01:02:03.500Z"'),
    ("DATE '0001-01-01'", "date", "DATE", '"0001-01-01"'),
    ("array(1.5, NULL)", "array<decimal(2,1)>", "DECIMAL(2,1)[]", "[1.5,null]"),
    ("map('a', 1, 'b', NULL)", "map<string,int>", "MAP(VARCHAR, INTEGER)", '{"a":1,"b":null}'),
    ("struct(1 AS a, array(X'0F') AS b)", "struct<a:int,b:array<binary>>", NESTED, '{"a":1,"b":["Dw=="]}'),
    ("""parse_json('{"n": 1.5, "a": [null, true]}')""", "variant", "JSON", '{"a":[null,true],"n":1.5}'),
    ("NULL", "void", '"NULL"', "null"),
]  # fmt: skip
"""SQL of a value, Spark's type of it, DuckDB's, and the JSON that is sent."""


@pytest.mark.rule("W5")
@pytest.mark.parametrize(
    ("sql", "named", "kind", "text"), TYPES, ids=[f"{named} {sql}"[:40] for sql, named, *_ in TYPES]
)
def test_types(sql: str, named: str, kind: str, text: str, spark: Warehouse) -> None:
    """Each of Spark's types arrives in DuckDB as the type and the value that it is, times in UTC."""
    (column,) = spark.columns(model(f"SELECT {sql} AS v"))
    batch = only_batch(spark, f"SELECT {sql} AS v")

    assert named == column.type
    assert {"v": kind} == types_seen_by_duckdb(batch)
    assert [text] == [one or "null" for one in spelled(batch)["v"]]


@pytest.mark.rule("W6")
@pytest.mark.parametrize(
    ("sql", "named"),
    [
        ("INTERVAL '1' DAY", "interval day"),
        ("INTERVAL '1-2' YEAR TO MONTH", "interval year to month"),
        ("make_interval(1, 2)", "interval"),
        ("array(parse_json('1'))", "array<variant>"),
        ("map(1, INTERVAL '1' DAY)", "map<int,interval day>"),
        ("named_struct('a', INTERVAL '1' DAY)", "struct<a:interval day>"),
    ],
)
def test_types_without_a_spelling(sql: str, named: str, spark: Warehouse) -> None:
    """A type without a spelling is refused where its column is wanted, and only there."""
    with pytest.raises(ModelError, match="no clear spelling") as error:
        rows(spark, f"SELECT 1 AS a, {sql} AS v")

    assert f"the column `v` has the type {named}," in error.value.message
    assert [{"a": 1}] == rows(spark, f"SELECT 1 AS a, {sql} AS v", ["a"])


def test_text_that_is_no_text(spark: Warehouse) -> None:
    """Bytes that Spark takes for text, though they are none, reject their row, also within an array."""
    batch = only_batch(
        spark,
        "SELECT CAST(b AS STRING) AS t, array(CAST(b AS STRING)) AS a"
        " FROM VALUES (1, X'61'), (2, X'FF') AS v (n, b) ORDER BY n",
    )

    assert [None, "bad_text"] == faults(batch)
    assert [{"t": "a", "a": ["a"]}, {"t": None, "a": None}] == batch.select(["t", "a"]).to_pylist()


@pytest.mark.rule("W9")
@pytest.mark.parametrize(
    ("sql", "message"),
    [
        (
            "SELECT\nCAST(name AS INT) AS n FROM people",
            'The value … of the type "STRING" cannot be cast to "INT" because it is malformed.',
        ),
        ("SELECT\nraise_error('no such person: ' || name) AS n FROM people", "[USER_RAISED_EXCEPTION] …"),
        ("SELECT\nto_date(name, 'yyyy') AS n FROM people", "[CANNOT_PARSE_TIMESTAMP]"),
        ("SELECT\nCAST(length(name) * 51234 AS TINYINT) AS n FROM people", "[CAST_OVERFLOW]"),
    ],
)
def test_values_in_errors(
    sql: str,
    message: str,
    spark: Warehouse,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """A value that a cast refuses is the model's fault; the log alone has the value, at the level debug."""
    caplog.set_level(logging.DEBUG, logger="retl")
    people = "SELECT concat('Jane', CAST(id AS STRING), '\\nGrady') AS name FROM range(3)"
    with pytest.raises(ModelError) as error:
        rows(spark, f"WITH people AS ({people}) {sql}")

    assert message in error.value.message
    said = f"{error.value}{error.value.hint}{error.value.__cause__}{capfd.readouterr()}"
    assert not [word for word in ("Jane0", "Grady\\n", "Grady'", "563574") if word in said]
    assert "Jane" in caplog.text or "563574" in caplog.text


@pytest.mark.parametrize(
    ("sql", "line", "message"),
    [
        ("SELECT 1 AS a,\n nope\nFROM range(3)", 2, "`nope` cannot be resolved. Did you mean"),
        ("SELECT 1 AS a\nFROM range(3)\nWHERE 1 2", 3, "Syntax error"),
        ("SELECT 1 AS a FROM\n\nshop.nowhere", 3, "`shop`.`nowhere` cannot be found"),
        ("SELECT\n1 / (id - id) AS a FROM range(3)", 2, "Division by zero"),
    ],
)  # fmt: skip
def test_errors_in_the_sql(sql: str, line: int, message: str, spark: Warehouse) -> None:
    """What is wrong with a model's SQL is said in Spark's words, with the line in the model's file."""
    with pytest.raises(ModelError) as error:
        rows(spark, sql)

    assert message in error.value.message
    assert f"models/users.sql{':' + str(line) if line > 1 else ''}" == error.value.where


@pytest.mark.rule("W1")
@pytest.mark.parametrize(
    "sql",
    ["INSERT INTO kept SELECT 1", "FROM range(3) INSERT INTO kept SELECT id", "DROP TABLE kept", "SET a = 1"],
)
def test_a_subquery_holds_no_command(sql: str, spark_url: str) -> None:
    """Spark itself takes no command in a subquery, as which each model is sent."""
    # The reader refuses it before; it needs a client to be loaded.
    from retl.warehouse.spark_connect import SparkSession

    session = SparkSession(read_address(spark_url))
    with pytest.raises(Exception, match="PARSE_SYNTAX_ERROR"):
        session.columns(f"SELECT * FROM {as_subquery(sql)}")
    session.close()


@pytest.mark.rule("W8")
def test_a_read_is_cancelled(spark: Warehouse) -> None:
    """A read that is cancelled from another thread ends with an error, and the session goes on."""
    reading = spark.read(model("SELECT id FROM range(0, 2000000000, 1, 40000)"))
    next(reading)
    other = threading.Thread(target=spark.cancel)
    other.start()
    with pytest.raises(WarehouseError, match="OPERATION_CANCELED"):
        list(reading)
    other.join()

    assert [{"one": 1}] == rows(spark, "SELECT 1 AS one")


def test_a_run_ends_at_its_deadline(
    spark_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A run whose model takes for ever ends at its deadline, and what Spark does for it is interrupted."""
    (tmp_path / "syncs").mkdir()
    endless = "SELECT count(*) AS user_id FROM range(100000000000) AS a JOIN range(9) AS b"
    (tmp_path / "syncs/users.yml").write_text(
        f"sql: {endless}\nprimary_key: user_id\nidentify: {{user_id: user_id}}\nallow_ids: ['0']\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RETL_WAREHOUSE_URL", spark_url)

    assert 3 == execute(["run", "users", "--sandbox", "--deadline", "3s"])
    assert "the time for this run is up" in capsys.readouterr().err
    with open_warehouse(spark_url, Path()) as warehouse:  # whose two threads would have no time for it
        assert [{"one": 1}] == rows(warehouse, "SELECT 1 AS one FROM range(1)")


class Relay:
    """A way to a server on this machine that can be cut, and closed."""

    def __init__(self, port: int) -> None:
        self._to = port
        self._ends: list[socket.socket] = []
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port = self._server.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        """Break each connection."""
        for end in self._ends:
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Break each connection, and let no other come."""
        self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        self.cut()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                near, _ = self._server.accept()
                far = socket.create_connection(("127.0.0.1", self._to))
                self._ends += [near, far]
                for ends in ((near, far), (far, near)):
                    threading.Thread(target=self._pass_on, args=ends, daemon=True).start()

    def _pass_on(self, source: socket.socket, to: socket.socket) -> None:
        with suppress(OSError), source, to:
            while data := source.recv(65_536):
                to.sendall(data)


@pytest.mark.rule("G8")
def test_a_connection_that_breaks(spark_url: str) -> None:
    """A read goes on over another connection where one broke; without one it is an error, never an end."""
    port = urlsplit(spark_url).port or 0
    relay = Relay(port)
    wide = model("SELECT id, repeat('x', 1000) AS x FROM range(0, 50000, 1, 50)")
    with open_warehouse(spark_url.replace(f":{port}/", f":{relay.port}/"), Path()) as warehouse:
        reading = warehouse.read(wide)
        found = next(reading)["id"].to_pylist()
        relay.cut()
        found += [number for batch in reading for number in batch["id"].to_pylist()]
        assert list(range(50_000)) == sorted(found)

        reading = warehouse.read(wide)
        next(reading)
        relay.close()
        with pytest.raises(WarehouseError, match="model users: ") as error:
            list(reading)

    assert 3 == error.value.exit_code


def test_a_result_that_is_larger_than_the_server_lets_out(spark: Warehouse) -> None:
    """A result beyond Spark's own limit is an error, which names the setting."""
    with pytest.raises(
        WarehouseError, match=f"bigger than spark.driver.maxResultSize.*{LARGEST_RESULT[:2]}"
    ) as error:
        for _ in spark.read(model("SELECT repeat(uuid(), 300) AS v FROM range(0, 20000, 1, 40)")):
            pass

    assert "Raise spark.driver.maxResultSize of the Spark Connect server; 0 is no limit." == error.value.hint


@pytest.mark.rule("W9")
@pytest.mark.parametrize("token", ["Falsch-und-geheim==", ""])
def test_a_token_that_is_wrong(token: str, spark_url: str, capfd: pytest.CaptureFixture[str]) -> None:
    """A server that does not take the token, or is given none, is an error that does not show it."""
    url = spark_url.replace(f"token={TOKEN}", f"token={token}" if token else "")
    with pytest.raises(WarehouseError, match=r"cannot be reached: .*token") as error:
        open_warehouse(url, Path())

    assert "geheim" not in f"{error.value}{error.value.hint}{capfd.readouterr()}"


@pytest.mark.rule("W9")
@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("sc://localhost/db;token=geheim", "path component '/db' must be empty"),
        ("sc://localhost/;token=geheim;session_id=1", "no `session_id`"),
        ("sc://:15002/;token=geheim", "Hostname is missing"),
    ],
)
def test_a_url_that_the_client_does_not_take(url: str, message: str) -> None:
    """A URL that is not one of Spark's is the configuration's fault, and its token is not shown."""
    with pytest.raises(ConfigError, match=message) as error:
        open_warehouse(url, Path())

    assert "geheim" not in f"{error.value}{error.value.hint}"


def test_a_server_that_is_not_there(capfd: pytest.CaptureFixture[str]) -> None:
    """A server out of reach is an error that can be tried again, and nothing else is written."""
    with pytest.raises(WarehouseError, match="cannot be reached") as error:
        open_warehouse("sc://localhost:1/;user_id=jane@example.com;token=geheim", Path())

    assert "sc://localhost:1" == error.value.where
    assert ("", "") == capfd.readouterr()
    assert "geheim" not in f"{error.value}{error.value.hint}"


def test_spark_sees_who_asks(spark_folder: Path, spark_url: str) -> None:
    """The description of each of Spark's jobs has the comment that names the sync and the run."""
    comment = "/* retl sync=users run=20260301T120000-1a2b3c */"
    asking = model("SELECT 1 AS one FROM range(1)").asking(sync="users", run="20260301T120000-1a2b3c")
    with open_warehouse(spark_url, Path()) as warehouse:
        assert 1 == sum(batch.num_rows for batch in warehouse.read(asking))

    written = (comment in events(spark_folder) for _ in range(5000))  # by a thread of the server's
    assert any(written)


def events(folder: Path) -> str:
    """All that the server noted of its jobs so far."""
    return "".join(file.read_text() for file in (folder / EVENTS).rglob("events_*"))
