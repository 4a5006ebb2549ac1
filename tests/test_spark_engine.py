"""Both engines send the same from a real Spark, and the workspace there is as others are.

Random rows, mappings and edits go through both side by side, as in test_engines_agree.py.
"""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_engines_agree import COLUMNS, Database, Row, compare, sandboxes, steps
from warehouses import SparkStatements, model
from workspaces import assert_told_apart, empty_workspace

from retl.errors import ModelError, WarehouseError
from retl.sandbox.server import Sandbox
from retl.warehouse import Workspace

pytestmark = pytest.mark.spark

__all__ = ["sandboxes"]

EXAMPLES = 2
"""Histories of each kind of call; one takes ten seconds, as Spark takes half of one for each statement."""

KINDS = {
    "text": "STRING",
    "numeric": "DECIMAL(38, 10)",
    "numeric(10,2)": "DECIMAL(10, 2)",
    "numeric(30,2)": "DECIMAL(30, 2)",
    "double precision": "DOUBLE",
    "json": "STRING",
    "date": "DATE",
    "timestamp": "TIMESTAMP_NTZ",
    "timestamptz": "TIMESTAMP",
    "int": "INT",
}
"""Spark's types for those of Postgres'."""

NESTED = {"share": "array(share, 0.0D)", "price": "map(coalesce(plan, ''), price)"}
"""Columns that are of a type here that Postgres does not have, each by its SQL."""


class SparkDatabase(Database):
    """A view in Spark, which is made anew before each run."""

    times = "array(seen)"

    def __init__(self, url: str, root: Path) -> None:
        self.url = url
        self.root = root
        self.statements = SparkStatements(url)

    def fill(self, key: str, rows: Sequence[Row]) -> None:
        """Make the view of these rows."""
        kinds = [KINDS[kind] for kind in (key, *(kind for kind, _ in COLUMNS.values()))]
        names = ["id", *COLUMNS]
        values = ", ".join(f"({', '.join(map(literal, row))})" for row in rows or [(None,) * len(names)])
        cast = ", ".join(f"CAST({name} AS {kind}) AS {name}" for name, kind in zip(names, kinds, strict=True))
        nested = ", ".join(f"{NESTED.get(name, name)} AS {name}" for name in names)
        self.statements.run(
            f"CREATE OR REPLACE VIEW rows AS SELECT {nested} FROM (SELECT {cast}"
            f" FROM VALUES {values} AS v ({', '.join(names)}){'' if rows else ' WHERE false'})"
        )


def literal(value: str | None) -> str:
    """A text with a value, as Spark casts it."""
    if value is None or value == "infinity":
        return "CAST(NULL AS STRING)"
    value = value.strip("'").replace("12026", "+12026")
    value = f"{value}:00" if value.endswith(("+00", "+01")) else value
    return f"'{value}'"


@pytest.fixture(scope="module")
def database(spark_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SparkDatabase]:
    """A Spark with one view."""
    database = SparkDatabase(spark_url, tmp_path_factory.mktemp("project"))
    yield database
    database.statements.close()


@pytest.mark.parametrize(("kind", "key"), [("track", "text"), ("identify", "int"), ("audience", "numeric")])
@given(data=st.data())
@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
def test_both_engines_send_the_same_from_spark(
    database: SparkDatabase, sandboxes: dict[str, Sandbox], kind: str, key: str, data: st.DataObject
) -> None:
    """Calls, their order, ids and texts, and the counts of the records are the same with both engines."""
    compare(database, sandboxes, kind, key, data.draw(steps(key)))


@pytest.fixture(scope="module")
def workspace(spark_url: str) -> Iterator[Workspace]:
    """A schema in Spark."""
    with empty_workspace(spark_url) as opened:
        yield opened


PAIRS = {
    "double": ("0.0D", "-0.0D"),
    "float": ("CAST('NaN' AS FLOAT)", "CAST('Infinity' AS FLOAT)"),
    "string": ("'a'", "'a '"),
    "collated": ("'a' COLLATE UTF8_LCASE", "'A' COLLATE UTF8_LCASE"),
    "binary": ("X'00'", "X'0000'"),
    "decimal": ("CAST(1.1 AS DECIMAL(38, 18))", "CAST(1.100000000000000001 AS DECIMAL(38, 18))"),
    "timestamp": ("timestamp_micros(1)", "timestamp_micros(2)"),
    "ntz": ("TIMESTAMP_NTZ '2026-01-01 00:00:00.000001'", "TIMESTAMP_NTZ '2026-01-01 00:00:00.000002'"),
    "variant": ("parse_json('1')", "parse_json('\"1\"')"),
    "array": ("array(0.0D)", "array(-0.0D)"),
    "empty": ("array(CAST(NULL AS STRING))", "array('')"),
    "map": ("map('a', timestamp_micros(1))", "map('a', timestamp_micros(2))"),
    "member": ("map('a', CAST(NULL AS INT))", "map('b', CAST(NULL AS INT))"),
    "struct": ("struct(CAST(NULL AS INT) AS a, 1 AS b)", "struct(1 AS a, CAST(NULL AS INT) AS b)"),
    "nothing": ("CAST(NULL AS STRUCT<a: INT>)", "struct(CAST(NULL AS INT) AS a)"),
    "deep": ("array(map('a', struct(-0.0D AS x)))", "array(map('a', struct(0.0D AS x)))"),
}
"""Values that are easily taken for each other, by the name of a column."""


def test_no_difference_is_missed(workspace: Workspace) -> None:
    """Two values that are not the same are told apart, whatever their type; and none from itself."""
    assert_told_apart(workspace, PAIRS)


def test_tables_of_a_workspace(workspace: Workspace) -> None:
    """Tables are found by how their names begin, and are gone once they are dropped, or were before."""
    made = ["users__1_a", "users__1_b", "users_other"]
    for name in made:
        workspace.execute(f'CREATE TABLE "retl_test"."{name}" AS SELECT 1 AS "a ""b`"')

    assert made[:2] == workspace.tables("users__1_")
    assert ['a "b`'] == [column.name for column in workspace.columns("users__1_a")]
    workspace.drop([*made, "users__1_z"])
    assert [] == workspace.tables("users_")
    assert () == workspace.columns("users__1_a")
    assert () == workspace.columns("nowhere")


def test_errors_in_a_workspace(workspace: Workspace) -> None:
    """An error in the model's SQL is the model's, with its line; any other is the warehouse's."""
    users = model("SELECT 1 AS a,\n nope\nFROM range(3)")
    copy = f'CREATE TABLE "retl_test"."copy" AS SELECT "a" FROM {workspace.query_of(users)}'
    with pytest.raises(ModelError, match="`nope` cannot be resolved") as error:
        workspace.execute(copy, users)
    with pytest.raises(WarehouseError, match=r"failed in the schema `retl_test`: .*cannot be found"):
        workspace.number('SELECT count(*) FROM "retl_test"."nowhere"')

    assert "models/users.sql:2" == error.value.where


def test_a_models_text_stays_as_it_is(workspace: Workspace) -> None:
    """What is in quotes in the model means there what it means to Spark."""
    quoted = model('SELECT "a" AS a, 1 AS `b "c"` -- "d"')
    copy = f'CREATE TABLE "retl_test"."copy" AS SELECT "a", "b ""c""" FROM {workspace.query_of(quoted)}'
    workspace.execute(copy, quoted)

    assert 1 == workspace.number('SELECT count(*) FROM "retl_test"."copy" WHERE "a" = \'a\'')
    workspace.drop(["copy"])


@pytest.mark.rule("W8")
def test_a_statement_is_cancelled(workspace: Workspace) -> None:
    """A statement that is cancelled from another thread ends with an error, and leaves no table."""
    with ThreadPoolExecutor(1) as threads:
        endless = "SELECT count(*) AS n FROM range(100000000000) AS a JOIN range(9) AS b"
        running = threads.submit(workspace.execute, f'CREATE TABLE "retl_test"."long" AS {endless}')
        while not wait([running], 0.05).done:
            workspace.cancel()
    with pytest.raises(WarehouseError, match="OPERATION_CANCELED"):
        running.result()

    assert [] == workspace.tables("long")
