"""Databricks: its own connector, against a server that has a real Spark behind it.

How values and models are read is tested on Spark itself, in test_spark.py and test_warehouse.py. What
Databricks itself does is not tested: no test has an account.
"""

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from databricks_server import HTTP_PATH, PRINCIPAL, SECRET, TOKEN, DatabricksServer
from test_spark import TYPES
from warehouses import faults, model, only_batch, rows, spelled, types_seen_by_duckdb

from retl.cli.main import execute
from retl.errors import MissingColumnError, ModelError, WarehouseError
from retl.warehouse import Warehouse, open_warehouse, open_workspace

pytestmark = pytest.mark.spark


@pytest.fixture(scope="module")
def bricks(databricks: DatabricksServer) -> Iterator[Warehouse]:
    """A session of Databricks."""
    with open_warehouse(databricks.url(), Path()) as warehouse:
        yield warehouse


@pytest.mark.rule("W5")
def test_types_of_databricks(bricks: Warehouse) -> None:
    """Each type arrives in DuckDB as the type and the value that it is, times in UTC."""
    sql = "SELECT " + ", ".join(f"{one[0]} AS v{place}" for place, one in enumerate(TYPES))
    batch = only_batch(bricks, sql)

    assert [named for _, named, *_ in TYPES] == [column.type for column in bricks.columns(model(sql))]
    assert [kind for *_, kind, _ in TYPES] == list(types_seen_by_duckdb(batch).values())
    assert [text for *_, text in TYPES] == [one[0] or "null" for one in spelled(batch).values()]


@pytest.mark.rule("W6")
@pytest.mark.parametrize(
    ("sql", "named"),
    [("INTERVAL '1' DAY", "interval day"), ("map(1, parse_json('1'))", "map<int,variant>")],
)
def test_types_of_databricks_without_a_spelling(sql: str, named: str, bricks: Warehouse) -> None:
    """A type without a spelling is refused where its column is wanted, and only there."""
    with pytest.raises(ModelError, match="no clear spelling") as error:
        rows(bricks, f"SELECT 1 AS a, {sql} AS v")

    assert f"the column `v` has the type {named}," in error.value.message
    assert [{"a": 1}] == rows(bricks, f"SELECT 1 AS a, {sql} AS v", ["a"])


def test_rows_of_databricks_come_in_batches(bricks: Warehouse) -> None:
    """A result is read piece by piece, in the connector's portions; one of no rows has its columns."""
    some = model(
        "SELECT id, CAST(b AS STRING) AS t FROM range(70000) JOIN VALUES (X'FF') AS v (b) ORDER BY id"
    )
    batches = list(bricks.read(some, batch_rows=7_000))

    assert 7_000 == max(batch.num_rows for batch in batches)
    assert list(range(70_000)) == [number for batch in batches for number in batch["id"].to_pylist()]
    assert {"bad_text"} == set(faults(batches[0]))
    assert ["id", "t"] == only_batch(bricks, "SELECT 1 AS id, 'a' AS t WHERE false").schema.names


@pytest.mark.parametrize(
    ("sql", "line", "message"),
    [
        ("SELECT 1 AS a,\n nope\nFROM range(3)", 2, "`nope` cannot be resolved. Did you mean"),
        ("SELECT 1 AS a\nFROM range(3)\nWHERE 1 2", 3, "Syntax error"),
        ("SELECT 1 AS a FROM\n\nshop.nowhere", 3, "`shop`.`nowhere` cannot be found"),
        ("SELECT\n1 / (id - id) AS a FROM range(3)", 2, "Division by zero"),
        ("SELECT 1 AS a, 2 AS A", None, "more than one column `a`"),
    ],
)  # fmt: skip
def test_errors_in_the_sql_of_databricks(sql: str, line: int | None, message: str, bricks: Warehouse) -> None:
    """What is wrong with a model's SQL is said in Databricks' words, with the line in the model's file."""
    with pytest.raises(ModelError) as error:
        rows(bricks, sql)

    assert message in error.value.message
    assert f"models/users.sql{f':{line}' if line else ''}" == error.value.where


def test_a_column_that_a_model_in_databricks_lacks(bricks: Warehouse) -> None:
    """A wanted column that is not there is an error before any row is read."""
    with pytest.raises(MissingColumnError, match="has no column `b`"):
        rows(bricks, "SELECT 1 AS a", ["b"])


@pytest.mark.rule("W9")
@pytest.mark.parametrize(
    "sql",
    [
        "SELECT CAST(name AS INT) AS n FROM people",
        "SELECT raise_error('no such person: ' || name) AS n FROM people",
        "SELECT to_date(name, 'yyyy') AS n FROM people",
        "SELECT CAST(length(name) * 51234 AS TINYINT) AS n FROM people",
    ],
)
def test_values_in_errors_of_databricks(
    sql: str, bricks: Warehouse, capfd: pytest.CaptureFixture[str]
) -> None:
    """An error about a value does not show it, and the connector writes nothing itself."""
    people = "SELECT concat('Jane', CAST(id AS STRING), '\\nGrady') AS name FROM range(3)"
    with pytest.raises(ModelError) as error:
        rows(bricks, f"WITH people AS ({people}) {sql}")

    said = f"{error.value}{error.value.hint}{error.value.__cause__}{capfd.readouterr()}"
    assert not [word for word in ("Jane0", "Grady\\n", "Grady'", "563574") if word in said]


@pytest.mark.rule("W8")
def test_a_read_of_databricks_is_cancelled(bricks: Warehouse) -> None:
    """A read that is cancelled from another thread ends with an error, and the session goes on."""
    reading = bricks.read(model("SELECT id FROM range(100000)"))
    next(reading)
    other = threading.Thread(target=bricks.cancel)
    other.start()
    other.join()
    with pytest.raises(WarehouseError, match="OPERATION_CANCELED"):
        list(reading)

    assert [{"one": 1}] == rows(bricks, "SELECT 1 AS one")


def test_a_run_on_databricks_ends_at_its_deadline(
    databricks: DatabricksServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A run whose model takes for ever ends at its deadline, and what Databricks does for it is cancelled."""
    (tmp_path / "syncs").mkdir()
    endless = "SELECT count(*) AS user_id FROM range(100000000000) AS a JOIN range(9) AS b"
    (tmp_path / "syncs/users.yml").write_text(
        f"sql: {endless}\nprimary_key: user_id\nidentify: {{user_id: user_id}}\nallow_ids: ['0']\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RETL_WAREHOUSE_URL", databricks.url())

    assert 3 == execute(["run", "users", "--sandbox", "--deadline", "3s"])
    assert "the time for this run is up" in capsys.readouterr().err
    with open_warehouse(databricks.url(), Path()) as warehouse:  # whose two threads would have no time for it
        assert [{"one": 1}] == rows(warehouse, "SELECT 1 AS one FROM range(1)")


@pytest.mark.rule("G8")
def test_a_warehouse_of_databricks_that_is_gone(
    databricks: DatabricksServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A read that breaks off is an error, never an end."""
    with open_warehouse(databricks.url(), Path()) as warehouse:
        reading = warehouse.read(model("SELECT id FROM range(100000)"))
        next(reading)
        monkeypatch.setattr(databricks, "gone", True)  # the tests' own server, which others share
        with pytest.raises(WarehouseError, match="model users: ") as error:
            list(reading)

    assert 3 == error.value.exit_code


def test_a_statement_of_databricks_is_sent_once(
    databricks: DatabricksServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A statement whose answer is lost may have been executed, so it is an error and not sent again."""
    with open_workspace(databricks.url(retry_seconds="60"), Path(), "retl_once") as workspace:
        workspace.prepare()
        workspace.drop(["once"])
        workspace.execute('CREATE TABLE "retl_once"."once" (n BIGINT)')
        monkeypatch.setattr(databricks, "lost", "INSERT")  # the tests' own server, which others share
        with pytest.raises(WarehouseError, match="failed in the schema `retl_once`"):
            workspace.execute('INSERT INTO "retl_once"."once" VALUES (1)')
        assert 1 == len([one for one in databricks.said if one.startswith("INSERT INTO `retl_once`")])


@pytest.mark.rule("W9")
def test_a_token_that_databricks_does_not_take(
    databricks: DatabricksServer, capfd: pytest.CaptureFixture[str]
) -> None:
    """A token that is wrong is an error that does not show it."""
    with pytest.raises(WarehouseError, match=r"cannot be reached: .*Invalid access token") as error:
        open_warehouse(databricks.url("token:dapi-geheim"), Path())

    assert "dapi" not in f"{error.value}{error.value.hint}{capfd.readouterr()}"
    assert f"databricks://localhost:{databricks.port}" == error.value.where


def test_a_service_principal_of_databricks(databricks: DatabricksServer) -> None:
    """Its id and its secret are exchanged for one token, which serves all requests."""
    before = databricks.tokens
    with open_warehouse(databricks.url(f"{PRINCIPAL}:{SECRET}"), Path()) as warehouse:
        assert [{"one": 1}] == rows(warehouse, "SELECT 1 AS one")

    assert 1 == databricks.tokens - before


@pytest.mark.rule("W9")
def test_a_secret_that_databricks_does_not_take(
    databricks: DatabricksServer, capfd: pytest.CaptureFixture[str]
) -> None:
    """A service principal that gets no token is an error that does not show its secret."""
    with pytest.raises(WarehouseError, match="got no OAuth token: HTTP 401") as error:
        open_warehouse(databricks.url(f"{PRINCIPAL}:dose-geheim"), Path())

    assert "dose" not in f"{error.value}{error.value.hint}{capfd.readouterr()}"


def test_a_databricks_that_is_not_there(capfd: pytest.CaptureFixture[str]) -> None:
    """A host out of reach is an error at once that can be tried again, and nothing else is written."""
    with pytest.raises(WarehouseError, match="cannot be reached") as error:
        open_warehouse(f"databricks://token:{TOKEN}@localhost:1?http_path={HTTP_PATH}", Path())

    assert "databricks://localhost:1" == error.value.where
    assert ("", "") == capfd.readouterr()
    assert TOKEN not in f"{error.value}{error.value.hint}"


def test_databricks_sees_who_asks(bricks: Warehouse, databricks: DatabricksServer) -> None:
    """Each statement of a model has the comment that names the sync and the run."""
    asking = model("SELECT 1 AS one FROM range(1)").asking(sync="users", run="20260301T120000-1a2b3c")
    assert 1 == sum(batch.num_rows for batch in bricks.read(asking))

    comment = "/* retl sync=users run=20260301T120000-1a2b3c */"
    described, read = databricks.said[-2:]
    assert described.startswith(f"DESCRIBE QUERY {comment}")
    assert read.startswith(comment)
