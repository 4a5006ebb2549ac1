"""Rows are compared in Snowflake as elsewhere: its own driver, against fakesnow, a DuckDB inside.

What Snowflake itself does with the statements is not tested: no test has an account.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from snowflake_server import PASSWORD, Refusing, in_snowflake
from sqlalchemy.engine import make_url
from test_engines_agree import COLUMNS, Database, Row, compare, sandboxes, steps
from warehouses import model
from workspaces import assert_told_apart, empty_workspace

from retl.errors import ConfigError, ModelError, WarehouseError
from retl.sandbox.server import Sandbox
from retl.warehouse import Workspace, open_workspace

pytestmark = pytest.mark.snowflake

__all__ = ["sandboxes"]

EXAMPLES = 4
"""Histories of each kind of call."""

KINDS = {
    "text": "VARCHAR",
    "numeric": "NUMBER(38, 10)",
    "numeric(10,2)": "NUMBER(10, 2)",
    "numeric(30,2)": "NUMBER(30, 2)",
    "double precision": "FLOAT",
    "json": "VARIANT",
    "date": "DATE",
    "timestamp": "TIMESTAMP_NTZ",
    "timestamptz": "TIMESTAMP_TZ",
    "int": "NUMBER(38, 0)",
}
"""Snowflake's types for those of Postgres'."""


class SnowflakeDatabase(Database):
    """A table in Snowflake, which is filled anew before each run."""

    table = "SHOP_ROWS"
    times = '"seen"'

    def __init__(self, url: str, root: Path) -> None:
        self.url = url
        self.root = root

    def fill(self, key: str, rows: Sequence[Row]) -> None:
        """Make the table of these rows."""
        kinds = {"id": KINDS[key]} | {name: KINDS[kind] for name, (kind, _) in COLUMNS.items()}
        columns = ", ".join(f'"{name}" {kind}' for name, kind in kinds.items())
        statements = [f"CREATE OR REPLACE TABLE CRM.SHOP_ROWS ({columns})"]
        for row in rows:
            values = ", ".join(map(literal, kinds.values(), row))
            statements.append(f"INSERT INTO CRM.SHOP_ROWS SELECT {values}")
        in_snowflake(self.url, *statements)


def literal(kind: str, value: str | None) -> str:
    """A value, as Snowflake casts it; neither infinite days nor years of five digits."""
    if value is None or value in ("infinity", "12026-01-01") or (kind, value) == ("NUMBER(38, 10)", "'NaN'"):
        return f"CAST(NULL AS {kind})"
    value = value.strip("'")
    if kind == "VARIANT":
        return f"PARSE_JSON('{value}')"
    value = f"{value}:00" if value.endswith(("+00", "+01")) else value
    return f"CAST('{value}' AS {kind})"


@pytest.fixture(scope="module")
def database(snowflake_url: str, tmp_path_factory: pytest.TempPathFactory) -> SnowflakeDatabase:
    """A Snowflake with one table."""
    return SnowflakeDatabase(snowflake_url, tmp_path_factory.mktemp("project"))


@pytest.mark.parametrize(("kind", "key"), [("track", "text"), ("identify", "int"), ("audience", "numeric")])
@given(data=st.data())
@settings(
    max_examples=EXAMPLES,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    derandomize=True,
    phases=[Phase.explicit, Phase.generate],
)
def test_both_engines_send_the_same_from_snowflake(
    database: SnowflakeDatabase, sandboxes: dict[str, Sandbox], kind: str, key: str, data: st.DataObject
) -> None:
    """Calls, their order, ids and texts, and the counts of the records are the same with both engines."""
    compare(database, sandboxes, kind, key, data.draw(steps(key)))


@pytest.fixture(scope="module")
def workspace(snowflake_url: str) -> Iterator[Workspace]:
    """A schema in Snowflake."""
    with empty_workspace(snowflake_url) as opened:
        yield opened


PAIRS = {
    "number": ("1.1::NUMBER(38, 18)", "1.100000000000000001::NUMBER(38, 18)"),
    "float": ("0.0::FLOAT", "'-0.0'::FLOAT"),
    "no number": ("'NaN'::FLOAT", "'inf'::FLOAT"),
    "near": ("0.1::FLOAT", "0.10000000000000002::FLOAT"),
    "text": ("'a'", "'a '"),
    "capital": ("'a'", "'A'"),
    "empty": ("''", "NULL"),
    "binary": ("TO_BINARY('00', 'HEX')", "TO_BINARY('0000', 'HEX')"),
    "ntz": ("'2026-01-01 00:00:00.000001'::TIMESTAMP_NTZ", "'2026-01-01 00:00:00.000002'::TIMESTAMP_NTZ"),
    "tz": ("'2026-01-01 00:00:00 +0100'::TIMESTAMP_TZ", "'2026-01-01 00:00:00 +0200'::TIMESTAMP_TZ"),
    "ltz": ("'2026-01-01 00:00:00 +0100'::TIMESTAMP_LTZ", "'2026-01-01 00:00:00 +0200'::TIMESTAMP_LTZ"),
    "time": ("'10:00:00.000001'::TIME", "'10:00:00.000002'::TIME"),
    "date": ("'2026-01-01'::DATE", "'2026-01-02'::DATE"),
    "variant": ("PARSE_JSON('1')", "PARSE_JSON('\"1\"')"),
    "nothing": ("PARSE_JSON('null')", "NULL::VARIANT"),
    "object": ("OBJECT_CONSTRUCT('a', 1)", "OBJECT_CONSTRUCT('a', '1')"),
    "array": ("PARSE_JSON('[1]')::ARRAY", "PARSE_JSON('[1,null]')::ARRAY"),
}
"""Values that are easily taken for each other, by the name of a column."""


def test_no_difference_is_missed_in_snowflake(workspace: Workspace) -> None:
    """Two values that are not the same are told apart, whatever their type; and none from itself."""
    assert_told_apart(workspace, PAIRS)


KEYS = {
    "number": ("1.10::NUMBER(10, 2)", "NULL::NUMBER(10, 2)", 0),
    "no number": ("1.5::FLOAT", "'NaN'::FLOAT", 1),
    "date": ("'9999-12-31'::DATE", "'0001-01-01'::DATE", 0),
    "tz": ("'2026-01-01 01:00:00 +0100'::TIMESTAMP_TZ", "'2026-01-01 00:00:00 +0000'::TIMESTAMP_TZ", 0),
}
"""A usable key, another value, and how many of both are none for retl though they are not NULL."""


def test_keys_in_snowflake(workspace: Workspace) -> None:
    """A key that is none is found; two moments that are one instant are one key."""
    listed = (", ".join(f'{some[place]} AS "{name}"' for name, some in KEYS.items()) for place in (0, 1))
    workspace.execute(f'CREATE TABLE "retl_test"."keys" AS SELECT {" UNION ALL SELECT ".join(listed)}')
    columns = {column.name: column for column in workspace.columns("keys")}

    for name, (_, _, none) in KEYS.items():
        odd = (columns[name].odd or "FALSE").replace("{}", f'"{name}"')
        assert none == workspace.number(f'SELECT COUNT_IF({odd}) AS N FROM "retl_test"."keys"'), name
    key = (columns["tz"].key or "").replace("{}", '"tz"')
    assert 1 == workspace.number(f'SELECT COUNT(DISTINCT {key}) AS N FROM "retl_test"."keys"')


def test_tables_of_a_workspace_in_snowflake(workspace: Workspace) -> None:
    """Tables are found by how their names begin, in the case that they have, and are gone once dropped."""
    made = ["users__1_a", "users__1_b", "users_other"]
    for name in made:
        workspace.execute(f'CREATE TABLE "retl_test"."{name}" AS SELECT 1::NUMBER AS "a b", 2::NUMBER AS C')

    assert made[:2] == workspace.tables("users__1_")
    assert ["a b", "C"] == [column.name for column in workspace.columns("users__1_a")]
    workspace.drop([*made, "users__1_z"])
    assert [] == workspace.tables("users_")
    assert () == workspace.columns("users__1_a")


def test_errors_in_a_workspace_in_snowflake(workspace: Workspace) -> None:
    """An error in the model's SQL is the model's; any other is the warehouse's."""
    users = model("SELECT 1 AS a,\n nope\nFROM CRM.NOWHERE")
    with pytest.raises(ModelError, match="NOWHERE does not exist"):
        workspace.execute(
            f'CREATE TABLE "retl_test"."copy" AS SELECT "A" FROM {workspace.query_of(users)}', users
        )
    with pytest.raises(WarehouseError, match=r"failed in the schema `retl_test`: .*does not exist"):
        workspace.number('SELECT count(*) FROM "retl_test"."nowhere"')


def test_a_model_in_snowflake_stays_as_it_is(workspace: Workspace) -> None:
    """Only what is retl's own is written as Snowflake has it; its tables have no days of backup."""
    users = model("SELECT 'CREATE TABLE row_number() OVER ()' AS \"text\"")
    copy = f'CREATE TABLE "retl_test"."copy" AS SELECT "text" FROM {workspace.query_of(users)}'
    workspace.execute(copy, users)

    assert "CREATE TRANSIENT TABLE x AS" == workspace.spelled("CREATE TABLE x AS")
    ending = "\"text\" LIKE '%() OVER ()'"
    assert 1 == workspace.number(f'SELECT count(*) AS N FROM "retl_test"."copy" WHERE {ending}')
    workspace.drop(["copy"])


@pytest.mark.rule("X9")
def test_a_check_makes_the_schema_and_leaves_no_table(workspace: Workspace, snowflake_url: str) -> None:
    """Where the role may do all, no grant is missing, and what was tried is gone."""
    assert [] == workspace.missing_grants()
    assert [] == workspace.tables("retl_check")
    with open_workspace(snowflake_url, Path(), "retl_new") as other:
        assert [] == other.missing_grants()
        assert [] == other.tables("")


@pytest.mark.rule("X9")
@pytest.mark.parametrize("refused", ["CREATE SCHEMA", "CREATE OR REPLACE TRANSIENT TABLE"])
def test_a_role_that_may_not_is_told_the_grants(snowflake_url: str, refused: str) -> None:
    """Whether it may make no schema or no table: the SQL to copy names the schema and the role."""
    with Refusing(snowflake_url) as server, open_workspace(server.url, Path(), "retl_none") as workspace:
        server.refused = refused
        *_, role = workspace.missing_grants()
        assert role.startswith('GRANT USAGE, CREATE TABLE ON SCHEMA "SHOP"."retl_none" TO ROLE "')


def test_a_run_whose_role_may_not_is_a_mistake_of_the_configuration(
    workspace: Workspace, snowflake_url: str
) -> None:
    """Snowflake's own sentence is shown, and how to find what is missing; nothing secret is."""
    with Refusing(snowflake_url) as server, open_workspace(server.url, Path(), "retl_test") as refused:
        server.refused = "CREATE TRANSIENT TABLE"
        with pytest.raises(ConfigError, match="Insufficient privileges") as error:
            refused.execute('CREATE TABLE "retl_test"."copy" AS SELECT 1 AS A')
    assert "check --connect" in str(error.value.hint)
    assert PASSWORD not in f"{error.value}{error.value.hint}"


def test_snowflake_is_told_who_asks(workspace: Workspace, snowflake_url: str) -> None:
    """The comment stands at the end of the statement with the model in it, as one before is cut off."""
    users = model("SELECT 1::NUMBER AS A").asking(sync="users", run="r1")
    with Refusing(snowflake_url) as server, open_workspace(server.url, Path(), "retl_test") as watched:
        watched.execute(
            f'CREATE TABLE "retl_test"."asked" AS SELECT "A" FROM {watched.query_of(users)}', users
        )
    assert server.said[-1].endswith("/* retl sync=users run=r1 */")
    workspace.drop(["asked"])


def test_a_url_without_a_database_has_no_workspace(snowflake_url: str) -> None:
    """The schema needs a database to be in."""
    url = make_url(snowflake_url).set(database="").render_as_string(hide_password=False)
    with pytest.raises(ConfigError, match="names no database"):
        open_workspace(url, Path(), "retl")
