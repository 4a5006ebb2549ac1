"""Both engines send the same from Databricks: its own connector, and a server with a real Spark behind it.

What Databricks itself does with the statements is not tested: no test has an account.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path

import pytest
from databricks_server import TOKEN, DatabricksServer
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from test_engines_agree import Step, compare, sandboxes, steps
from test_spark_engine import PAIRS, SparkDatabase
from warehouses import model
from workspaces import assert_told_apart, differences, empty_workspace

from retl.errors import ConfigError, ModelError, WarehouseError
from retl.sandbox.server import Sandbox
from retl.warehouse import Workspace, open_workspace

pytestmark = pytest.mark.spark

__all__ = ["sandboxes"]


@pytest.fixture(scope="module")
def database(
    databricks: DatabricksServer, spark_url: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[SparkDatabase]:
    """A Databricks with one view."""
    database = SparkDatabase(spark_url, tmp_path_factory.mktemp("project"))
    database.url = databricks.url()
    yield database
    database.statements.close()


@pytest.mark.parametrize(("kind", "key"), [("track", "text"), ("identify", "int")])
@given(data=st.data())
@settings(
    max_examples=1,  # which takes ten seconds, as Spark takes half of one for each statement
    deadline=None,
    suppress_health_check=list(HealthCheck),
    derandomize=True,
    phases=[Phase.explicit, Phase.generate],
)
def test_both_engines_send_the_same_from_databricks(
    database: SparkDatabase, sandboxes: dict[str, Sandbox], kind: str, key: str, data: st.DataObject
) -> None:
    """Calls, their order, ids and texts, and the counts of the records are the same with both engines."""
    compare(database, sandboxes, kind, key, data.draw(steps(key).filter(has_rows)))


def has_rows(history: Sequence[Step]) -> bool:
    """Whether there are some in the first run and in the last."""
    return len(history[0].rows) > 2 and len(history[-1].rows) > 2


@pytest.fixture(scope="module")
def workspace(databricks: DatabricksServer) -> Iterator[Workspace]:
    """A schema in Databricks."""
    with empty_workspace(databricks.url()) as opened:
        yield opened


def test_no_difference_is_missed_in_databricks(workspace: Workspace) -> None:
    """Two values that are not the same are told apart, whatever their type; and none from itself."""
    assert_told_apart(workspace, PAIRS)


def test_a_struct_of_many_fields_is_compared_whole(workspace: Workspace) -> None:
    """Where the name of a type is cut, and hides what it holds, no difference is missed all the same."""
    fields = ", ".join(f"{place} AS f{place}" for place in range(40))
    workspace.drop(["one"])
    for table, last in (("one", "map('a', -0.0D)"), ("wider", "map('a', 0.0D)")):
        workspace.execute(f'CREATE TABLE "retl_test"."{table}" AS SELECT struct({fields}, {last} AS m) AS s')
    (column,) = workspace.columns("one")

    assert "more fields>" in column.type
    assert 1 == workspace.number(differences(workspace, "one", "wider"))


def test_tables_of_a_workspace_in_databricks(workspace: Workspace) -> None:
    """Tables are found by how their names begin, and are gone once they are dropped, or were before."""
    made = ["users__1_a", "users__1_b", "users_other"]
    for name in made:
        workspace.execute(f'CREATE TABLE "retl_test"."{name}" AS SELECT 1 AS "a ""b`"')

    assert made[:2] == workspace.tables("users__1_")
    assert ['a "b`'] == [column.name for column in workspace.columns("users__1_a")]
    workspace.drop([*made, "users__1_z"])
    assert [] == workspace.tables("users_")
    assert () == workspace.columns("users__1_a")


def test_a_column_may_have_any_name_in_a_delta_table(workspace: Workspace) -> None:
    """A table that is made of a query has the property without which Delta takes no blank in a name."""
    property_of = "TBLPROPERTIES ('delta.columnMapping.mode' = 'name') AS\nSELECT"
    assert property_of in workspace.spelled('CREATE TABLE "retl"."a" AS\nSELECT 1 AS "a b"')
    assert "CREATE TABLE `retl`.`x` (n BIGINT)" == workspace.spelled('CREATE TABLE "retl"."x" (n BIGINT)')


def test_errors_in_a_workspace_in_databricks(workspace: Workspace) -> None:
    """An error in the model's SQL is the model's, with its line; any other is the warehouse's."""
    users = model("SELECT 1 AS a,\n nope\nFROM range(3)")
    copy = f'CREATE TABLE "retl_test"."copy" AS SELECT "a" FROM {workspace.query_of(users)}'
    with pytest.raises(ModelError, match="`nope` cannot be resolved") as error:
        workspace.execute(copy, users)
    with pytest.raises(WarehouseError, match=r"failed in the schema `retl_test`: .*cannot be found"):
        workspace.number('SELECT count(*) FROM "retl_test"."nowhere"')

    assert "models/users.sql:2" == error.value.where


def test_a_model_of_databricks_stays_as_it_is(workspace: Workspace, databricks: DatabricksServer) -> None:
    """Only what is retl's own is written as Databricks has it; the comment says who asks."""
    quoted = model('SELECT "CREATE TABLE a AS" AS a -- "d"').asking(sync="users", run="r1")
    copy = f'CREATE TABLE "retl_test"."copy" AS SELECT "a" FROM {workspace.query_of(quoted)}'
    workspace.execute(copy, quoted)

    assert databricks.said[-1].startswith("/* retl sync=users run=r1 */ CREATE TABLE `retl_test`.`copy` TBL")
    assert 1 == workspace.number("SELECT count(*) FROM retl_test.copy WHERE \"a\" = 'CREATE TABLE a AS'")
    workspace.drop(["copy"])


@pytest.mark.rule("W8")
def test_a_statement_is_cancelled_in_databricks(workspace: Workspace) -> None:
    """A statement that is cancelled from another thread ends with an error, and leaves no table."""
    with ThreadPoolExecutor(1) as threads:
        endless = "SELECT count(*) AS n FROM range(100000000000) AS a JOIN range(9) AS b"
        running = threads.submit(workspace.execute, f'CREATE TABLE "retl_test"."long" AS {endless}')
        while not wait([running], 0.05).done:
            workspace.cancel()
    with pytest.raises(WarehouseError, match="OPERATION_CANCELED"):
        running.result()

    assert [] == workspace.tables("long")


@pytest.mark.rule("X9")
def test_a_check_in_databricks_makes_the_schema_and_leaves_no_table(
    workspace: Workspace, databricks: DatabricksServer
) -> None:
    """Where the user may do all, no grant is missing, and what was tried is gone."""
    assert [] == workspace.missing_grants()
    assert [] == workspace.tables("retl_check")
    with open_workspace(databricks.url(), Path(), "retl_new") as other:
        assert [] == other.missing_grants()
        assert [] == other.tables("")


DENIED = "PERMISSION_DENIED: User does not have CREATE SCHEMA on Catalog 'main'."
"""Unity Catalog's words for what the user may not do, without a SQLSTATE."""


@pytest.mark.rule("X9")
@pytest.mark.parametrize(
    ("begin", "refusal"),
    [("CREATE SCHEMA", DENIED), ("CREATE TABLE", None)],
    ids=["schema", "table"],
)
def test_a_user_of_databricks_who_may_not_is_told_the_grants(
    databricks: DatabricksServer, begin: str, refusal: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether it may make no schema or no table: the SQL to copy names catalog, schema and user."""
    with open_workspace(databricks.url(), Path(), "retl_none") as workspace:
        if refusal is None:
            workspace.prepare()
        # It is the tests' own server, which others share.
        monkeypatch.setattr(databricks, "refused", begin)
        monkeypatch.setattr(databricks, "refusal", refusal or databricks.refusal)
        made, used, granted = workspace.missing_grants()
        if refusal:
            with pytest.raises(ConfigError, match="does not have CREATE SCHEMA") as error:
                workspace.prepare()
            assert "retl check --connect" in str(error.value.hint)
            assert TOKEN not in f"{error.value}{error.value.hint}"

    assert "CREATE SCHEMA IF NOT EXISTS `spark_catalog`.`retl_none`" == made
    assert used.startswith("GRANT USE CATALOG ON CATALOG `spark_catalog` TO `")
    assert granted.startswith("GRANT USE SCHEMA, CREATE TABLE ON SCHEMA `spark_catalog`.`retl_none` TO `")
