"""Each statement with which a model is read says in a comment which sync, and which run, asks."""

import json
import re
from pathlib import Path

import adbc_driver_postgresql
import duckdb
import pytest
from harness import Bench
from sqlalchemy.engine import make_url
from test_hosted import HOSTED
from warehouses import READERS, model, mysql_database, read_through

from retl import sql
from retl.cli.main import execute
from retl.warehouse import Warehouse, open_warehouse, snowflake
from retl.warehouse.adbc import ColumnConnection
from retl.warehouse.hosted import HostedWarehouse

COMMENT = "/* retl sync=users run=20260301T120000-1a2b3c */"
OWN_STATEMENT = {
    "duckdb": "SELECT current_query() AS query",
    "adbc": "SELECT query FROM pg_stat_activity WHERE pid = pg_backend_pid()",
    # What it has open is the cursor that it is read from.
    "psycopg": "SELECT statement AS query FROM pg_cursors",
    "mysql": "SELECT info AS query FROM information_schema.processlist WHERE id = connection_id()",
}
"""A model that yields the text of the statement with which it is read, as others see it."""


def own_statement(warehouse: Warehouse, text: str) -> str:
    """The statement with which a model is read that yields it."""
    asking = model(text).asking(sync="users", run="20260301T120000-1a2b3c")
    assert ["query"] == [column.name for column in warehouse.columns(asking)]
    (batch,) = warehouse.read(asking, ["query"])
    (said,) = batch["query"].to_pylist()
    return str(said)


@pytest.mark.parametrize(
    "kind", ["duckdb", "duckdb_file", *READERS, pytest.param("mysql", marks=pytest.mark.mysql)]
)
def test_the_database_sees_who_asks(kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    """Whoever looks at the statements of a warehouse sees the sync and the run in each model's."""
    if kind == "mysql":
        with mysql_database() as url, open_warehouse(url, tmp_path) as warehouse:
            said = own_statement(warehouse, OWN_STATEMENT["mysql"])
    elif kind in READERS:
        with read_through(kind), open_warehouse(request.getfixturevalue("postgres_url"), tmp_path) as opened:
            said = own_statement(opened, OWN_STATEMENT[kind])
    else:
        duckdb.connect(tmp_path / "shop.duckdb").close()
        url = "duckdb://" if kind == "duckdb" else "duckdb:///shop.duckdb"
        with open_warehouse(url, tmp_path) as warehouse:
            said = own_statement(warehouse, OWN_STATEMENT["duckdb"])

    assert COMMENT in said


def test_a_comment_can_come_last(postgres_url: str) -> None:
    """Where a service cuts off what is before a statement, the comment stands behind it."""
    asking = model("x").asking(sync="users", run="1")
    database = lambda: adbc_driver_postgresql.connect(postgres_url)  # noqa: E731
    connection = ColumnConnection(database, ending=True)
    connection.read_for(asking)
    query = f"SELECT query FROM ({OWN_STATEMENT['adbc']}) AS model -- all"
    (batch,) = connection.batches(query, {"adbc.postgresql.use_copy": "false"})
    connection.close()

    assert batch[0].to_pylist() == [f"{query}\n/* retl sync=users run=1 */"]
    assert snowflake.SERVICE.cuts_leading_comments
    with HostedWarehouse(make_url(postgres_url), HOSTED) as hosted:
        assert "/* retl sync=users run=1 */ SELECT" in own_statement_of(hosted)


def own_statement_of(hosted: Warehouse) -> str:
    """The statement with which a hosted model is read."""
    asking = model(OWN_STATEMENT["adbc"]).asking(sync="users", run="1")
    (batch,) = hosted.read(asking)
    return str(batch[0].to_pylist()[0])


@pytest.mark.parametrize("name", ["*/ DROP TABLE users --", "a\nb", "%s %(x)s ? :x", "Zürich", "*" + "/" * 9])
def test_no_name_ends_the_comment(name: str) -> None:
    """Whatever a name holds, the comment is one line of ASCII, without its own end or a place for a value."""
    said = sql.comment(sync=name, run="1")

    assert re.fullmatch(r"/\* retl sync=[A-Za-z0-9_.-]+ run=1 \*/", said)


def test_a_run_says_its_own_id(bench: Bench) -> None:
    """A run reads its model with the id under which its record is kept."""
    sync = {"primary_key": "user_id", "identify": {"user_id": "user_id", "traits": {"said": "said"}}}
    outcome = bench.run(sync, "SELECT 'u1' AS user_id, current_query() AS said")

    (call,) = outcome.calls
    assert f"/* retl sync=sync run={outcome.run.run_id} */" in call["traits"]["said"]


@pytest.mark.parametrize(
    ("command", "rest"),
    [("plan", ["--json"]), ("explain", ["u1"]), ("check", ["--receiver", "insider", "--json"])],
)
def test_commands_that_look_say_which_they_are(
    command: str,
    rest: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A command without a run says its own name: the model yields a row only if it does."""
    (tmp_path / "syncs").mkdir()
    (tmp_path / "syncs/users.yml").write_text(
        "sql: SELECT 'u1' AS user_id\n"
        f"  WHERE starts_with(current_query(), '/* retl sync=users command={command} */')\n"
        "primary_key: user_id\nwarehouse: duckdb://\nsegment: {write_key: key}\n"
        "identify: {user_id: user_id}\n"
    )
    monkeypatch.chdir(tmp_path)
    execute([command, "users", *rest])

    said = capsys.readouterr().out
    assert "u1" in said or json.loads(said)["rows"] == 1
