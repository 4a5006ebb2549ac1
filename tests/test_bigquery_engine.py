"""Rows are compared in BigQuery as elsewhere: its own driver, against bqemulator, a DuckDB inside.

What BigQuery itself does with the statements is not tested: no test has an account.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from adbc_driver_manager import AdbcStatusCode, ProgrammingError
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from sqlalchemy.engine import make_url
from test_bigquery import URL, in_bigquery, server
from test_engines_agree import COLUMNS, Database, Row, compare, sandboxes, steps
from warehouses import model
from workspaces import empty_workspace

from retl.errors import ConfigError, ModelError, WarehouseError
from retl.sandbox.server import Sandbox
from retl.warehouse import Workspace, bigquery_workspace, open_workspace
from retl.warehouse.workspace import StoredColumn

pytestmark = pytest.mark.bigquery

__all__ = ["sandboxes", "server"]

EXAMPLES = 2
"""Histories of each kind of call."""

KINDS = {
    "text": "STRING",
    "numeric": "NUMERIC(38, 9)",
    "numeric(10,2)": "NUMERIC(10, 2)",
    "numeric(30,2)": "NUMERIC(30, 2)",
    "double precision": "FLOAT64",
    "json": "JSON",
    "date": "DATE",
    "timestamp": "DATETIME",
    "timestamptz": "TIMESTAMP",
    "int": "INT64",
}
"""BigQuery's types for those of Postgres'."""


class BigQueryDatabase(Database):
    """A table in BigQuery, which is filled anew before each run."""

    table = "crm.shop_rows"
    times = "seen"

    def __init__(self, root: Path) -> None:
        self.url = URL
        self.root = root
        in_bigquery("CREATE SCHEMA IF NOT EXISTS crm")

    def fill(self, key: str, rows: Sequence[Row]) -> None:
        """Make the table of these rows."""
        kinds = {"id": KINDS[key]} | {name: KINDS[kind] for name, (kind, _) in COLUMNS.items()}
        columns = ", ".join(f"`{name}` {kind}" for name, kind in kinds.items())
        statements = [f"CREATE OR REPLACE TABLE crm.shop_rows ({columns})"]
        if rows:
            values = ", ".join(f"({', '.join(map(literal, kinds.values(), row))})" for row in rows)
            statements.append(f"INSERT INTO crm.shop_rows VALUES {values}")
        in_bigquery(*statements)


def literal(kind: str, value: str | None) -> str:
    """A value, as BigQuery casts it; neither infinite days nor years of five digits."""
    if value is None or value in ("infinity", "12026-01-01") or (kind, value) == ("NUMERIC(38, 9)", "'NaN'"):
        return f"CAST(NULL AS {kind})"
    value = value.strip("'")
    if kind == "JSON":
        return f"PARSE_JSON('{value}')"
    value = value.replace(":00+", ":00:00+", 1) if value.endswith(("0:00+00", "1:00+01")) else value
    return f"CAST('{value}' AS {kind})"


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> BigQueryDatabase:
    """A BigQuery with one table."""
    return BigQueryDatabase(tmp_path_factory.mktemp("project"))


@pytest.mark.parametrize(("kind", "key"), [("track", "text"), ("identify", "numeric")])
@given(data=st.data())
@settings(
    max_examples=EXAMPLES,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    derandomize=True,
    phases=[Phase.explicit, Phase.generate],
)
def test_both_engines_send_the_same_from_bigquery(
    database: BigQueryDatabase, sandboxes: dict[str, Sandbox], kind: str, key: str, data: st.DataObject
) -> None:
    """Calls, their order, ids and texts, and the counts of the records are the same with both engines."""
    compare(database, sandboxes, kind, key, data.draw(steps(key)))


@pytest.fixture(scope="module")
def workspace() -> Iterator[Workspace]:
    """A dataset in BigQuery."""
    with empty_workspace(URL) as opened:
        yield opened


PAIRS = {
    "number": ("1.1", "1.100000001", "NUMERIC(38, 9)"),
    "whole": ("9007199254740993", "9007199254740992", "INT64"),
    "float": ("0.0", "-0.0", "FLOAT64"),
    "near": ("0.1", "0.10000000000000002", "FLOAT64"),
    "text": ("a", "a ", "STRING"),
    "capital": ("a", "A", "STRING"),
    "umlaut": ("\u00e4", "a\u0308", "STRING"),
    "empty": ("", None, "STRING"),
    "binary": ("a", "a\\x00", "BYTES"),
    "datetime": ("2026-01-01 00:00:00.000001", "2026-01-01 00:00:00.000002", "DATETIME"),
    "moment": ("2026-01-01 00:00:00.000001+00", "2026-01-01 00:00:00.000002+00", "TIMESTAMP"),
    "time": ("10:00:00.000001", "10:00:00.000002", "TIME"),
    "date": ("2026-01-01", "2026-01-02", "DATE"),
    "truth": ("true", "false", "BOOL"),
}
"""Values that are easily taken for each other, and their type, by the name of a column."""

NESTED = {
    "json": ("JSON '1'", "JSON '\"1\"'", "JSON"),
    "nothing": ("JSON 'null'", "CAST(NULL AS JSON)", "JSON"),
    "array": ("[1, 2]", "[1, 2, 3]", "ARRAY<INT64>"),
    "struct": ("STRUCT(1 AS a, 'x' AS b)", "STRUCT(1 AS a, 'y' AS b)", "STRUCT<a INT64, b STRING>"),
}
"""The same for values that are written as they are."""


def test_no_difference_is_missed_in_bigquery(workspace: Workspace) -> None:
    """Two values that are not the same are told apart, whatever their type; and none from itself."""
    kinds = {name: kind for name, (_, _, kind) in (PAIRS | NESTED).items()}
    columns = ", ".join(f"`{name}` {kind}" for name, kind in kinds.items())
    for table, place in (("one", 0), ("other", 1)):
        values = [cast(pair[place], pair[2]) for pair in PAIRS.values()]
        values += [str(pair[place]) for pair in NESTED.values()]
        in_bigquery(
            f"CREATE OR REPLACE TABLE retl_test.`{table}` ({columns})",
            f"INSERT INTO retl_test.`{table}` SELECT {', '.join(values)}",
        )
    stored = workspace.columns("one")
    assert list(kinds) == [column.name for column in stored]

    for other, differ in (("other", 1), ("one", 0)):
        told = " + ".join(
            f"CAST(({' OR '.join(differs(column, exact) for exact in column.exact)}) AS INT)"
            for column in stored
        )
        query = f'SELECT {told} AS n FROM "retl_test"."one" AS a CROSS JOIN "retl_test"."{other}" AS b'
        assert differ * len(kinds) == workspace.number(query)


def cast(value: str | None, kind: str) -> str:
    """A value of a type, in SQL."""
    return f"CAST({'NULL' if value is None else repr(value)} AS {kind})"


def differs(column: StoredColumn, exact: str) -> str:
    """The condition that two rows differ in a column."""
    one, other = (exact.replace("{}", f'{side}."{column.name}"') for side in "ab")
    return f"{one} IS DISTINCT FROM {other}"


KEYS: dict[str, tuple[Any, Any, str, int]] = {
    "number": ("1.10", None, "NUMERIC(10, 2)", 0),
    "float": ("1.5", "NaN", "FLOAT64", 1),
    "date": ("9999-12-31", "0001-01-01", "DATE", 0),
    "moment": ("2026-01-01 01:00:00+01", "2026-01-01 00:00:00+00", "TIMESTAMP", 0),
}
"""A usable key, another value, their type, and how many of both are none though they are not NULL."""


def test_keys_in_bigquery(workspace: Workspace) -> None:
    """A key that is none is found; two moments that are one instant are one key."""
    rows = (
        ", ".join(f"{cast(one[place], one[2])} AS `{name}`" for name, one in KEYS.items()) for place in (0, 1)
    )
    in_bigquery(f"CREATE OR REPLACE TABLE retl_test.keys AS SELECT {' UNION ALL SELECT '.join(rows)}")
    columns = {column.name: column for column in workspace.columns("keys")}

    for name, (*_, none) in KEYS.items():
        odd = (columns[name].odd or "FALSE").replace("{}", f'"{name}"')
        assert none == workspace.number(f'SELECT count(*) AS n FROM "retl_test"."keys" WHERE {odd}'), name
    key = (columns["moment"].key or "").replace("{}", '"moment"')
    assert 1 == workspace.number(f'SELECT count(DISTINCT {key}) AS n FROM "retl_test"."keys"')


@pytest.mark.parametrize("kind", ["GEOGRAPHY", "ARRAY<INTERVAL>", "INTERVAL", "RANGE<DATE>", "TIMESTAMP(12)"])
def test_a_type_that_bigquery_cannot_compare(kind: str) -> None:
    """It is refused, with what to write in the model."""
    with pytest.raises(ConfigError, match="the column `place` has the type") as error:
        bigquery_workspace._stored("place", kind, make_url(URL))
    assert "CAST(place AS STRING)" in str(error.value.hint)


def test_tables_of_a_workspace_in_bigquery(workspace: Workspace) -> None:
    """Tables are found by how their names begin, in the case that they have, and are gone once dropped."""
    made = ["users__1_a", "users__1_b", "users_other"]
    for name in made:
        workspace.execute(f'CREATE TABLE "retl_test"."{name}" AS SELECT 1 AS "a b", 2 AS "C"')

    assert made[:2] == workspace.tables("users__1_")
    assert ["a b", "C"] == [column.name for column in workspace.columns("users__1_a")]
    workspace.drop([*made, "users__1_z"])
    assert [] == workspace.tables("users_")
    assert () == workspace.columns("users__1_a")


def test_errors_in_a_workspace_in_bigquery(workspace: Workspace) -> None:
    """An error in the model's SQL is the model's; any other is the warehouse's."""
    users = model("SELECT 1 AS a,\n nope\nFROM crm.nowhere")
    copy = f'CREATE TABLE "retl_test"."copy" AS SELECT "a" FROM {workspace.query_of(users)}'
    with pytest.raises(ModelError, match="nowhere"):
        workspace.execute(copy, users)
    with pytest.raises(WarehouseError, match=r"failed in the dataset `retl_test`: .*nowhere"):
        workspace.number('SELECT count(*) FROM "retl_test"."nowhere"')


def test_a_model_in_bigquery_stays_as_it_is(workspace: Workspace, server: Path) -> None:
    """Only what is retl's own is written as BigQuery has it, behind the comment that says who asks."""
    users = model('SELECT \'a "b"\' AS text -- "all"').asking(sync="users", run="r1")
    copy = f'CREATE TABLE "retl_test"."copy" AS SELECT "text" FROM {workspace.query_of(users)}'
    workspace.execute(copy, users)

    said = (server / "said").read_text()
    made = (
        'CREATE TABLE `retl_test`.`copy` AS SELECT `text` FROM (SELECT \'a "b"\' AS text -- "all"\n) AS model'
    )
    assert f"/* retl sync=users run=r1 */ {made}" in said
    assert 1 == workspace.number('SELECT count(*) FROM "retl_test"."copy" WHERE "text" = \'a "b"\'')
    workspace.drop(["copy"])


def test_a_table_is_made_in_bigquery_without_being_read(workspace: Workspace) -> None:
    """The driver would else hand over all rows of the table that a statement has made."""
    with open_workspace(URL, Path(), "retl_test") as other:
        assert isinstance(other, bigquery_workspace.BigQueryWorkspace)
        made = other._fetched("CREATE TABLE `retl_test`.`made` AS SELECT 1 AS a;\nSELECT 1 AS done")
    assert [{"done": 1}] == made
    workspace.drop(["made"])


@pytest.mark.rule("X9")
def test_a_check_makes_the_dataset_and_leaves_no_table(workspace: Workspace) -> None:
    """Where the account may do all, no grant is missing, and what was tried is gone."""
    assert [] == workspace.missing_grants()
    assert [] == workspace.tables("retl_check")
    with open_workspace(URL, Path(), "retl_new") as other:
        assert [] == other.missing_grants()
        assert [] == other.tables("")


@pytest.mark.rule("X9")
@pytest.mark.parametrize("refused", ["CREATE SCHEMA", "CREATE TABLE `retl_none`"])
def test_an_account_that_may_not_is_told_the_grants(server: Path, refused: str) -> None:
    """Whether it may make no dataset or no table: the SQL to copy names the dataset and the account."""
    with open_workspace(URL, Path(), "retl_none") as workspace:
        (server / "refused").write_text(refused)
        made, granted = workspace.missing_grants()
    assert "CREATE SCHEMA IF NOT EXISTS `shop`.`retl_none` OPTIONS (location = 'US')" == made
    assert granted.startswith('GRANT `roles/bigquery.dataEditor` ON SCHEMA `shop`.`retl_none` TO "')


def test_a_run_whose_account_may_not_is_a_mistake_of_the_configuration(
    workspace: Workspace, server: Path
) -> None:
    """BigQuery's own sentence is shown, and how to find what is missing."""
    (server / "refused").write_text("CREATE TABLE")
    with pytest.raises(ConfigError, match="Access Denied") as error:
        workspace.execute('CREATE TABLE "retl_test"."copy" AS SELECT 1 AS a')
    assert "check --connect" in str(error.value.hint)


def test_a_result_that_the_account_may_not_read_is_a_mistake_of_the_configuration(
    workspace: Workspace,
) -> None:
    """The driver names a role for that, which is not enough to find the result of a script."""
    assert isinstance(workspace, bigquery_workspace.BigQueryWorkspace)
    said = "UNAUTHORIZED: [bigquery] Arrow reader requires roles/bigquery.readSessionUser"
    error = workspace._translated(ProgrammingError(said, status_code=AdbcStatusCode.UNAUTHORIZED), None)
    assert isinstance(error, ConfigError)
    assert "BigQuery User" in str(error.hint)


@pytest.mark.rule("X9")
def test_a_dataset_is_not_made_just_anywhere() -> None:
    """Without a location BigQuery would make it in the United States, where no other data can come to."""
    with open_workspace(URL.replace("&location=US", ""), Path(), "retl_nowhere") as workspace:
        for ask in (workspace.prepare, workspace.missing_grants):
            with pytest.raises(ConfigError, match="does not say where to make it") as error:
                ask()
            assert "location=EU" in str(error.value.hint)
        assert () == workspace.columns("users")
