"""Rows are compared in Redshift as in Postgres, by statements without what Redshift lacks.

A Postgres is taken for it; what Redshift itself does with the statements is not tested.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy.dialects import registry
from test_engines_agree import Database, compare, sandboxes, some_histories, steps
from warehouses import model
from workspaces import assert_told_apart, differences, empty_workspace

from retl.errors import ConfigError, ModelError, WarehouseError
from retl.sandbox.server import Sandbox
from retl.warehouse import Workspace, open_workspace

__all__ = ["sandboxes"]

KINDS = {"json": "varchar", "numeric": "numeric(38,10)", "text": "varchar"}
"""Redshift's types for those of Postgres' that it lacks."""


def redshift(postgres_url: str) -> str:
    """The URL of the Postgres, by the name of Redshift."""
    registry.register("redshift", "sqlalchemy.dialects.postgresql.psycopg2", "PGDialect_psycopg2")
    return postgres_url.replace("postgresql", "redshift", 1)


class RedshiftDatabase(Database):
    """A table in a Postgres that is taken for Redshift."""

    times = "seen"
    tells_types = False

    def __init__(self, postgres_url: str, root: Path) -> None:
        super().__init__(redshift(postgres_url), root)
        self.postgres_url = postgres_url

    def kinds(self, key: str) -> dict[str, str]:
        """The types of all columns, as Redshift has them."""
        return {name: KINDS.get(kind, kind) for name, kind in super().kinds(key).items()}

    def literal(self, kind: str, value: str | None) -> str:
        """A value, in SQL; no infinite days, no number that is none, no year that the driver cannot read."""
        if value in ("infinity", "12026-01-01") or (value == "'NaN'" and kind.startswith("numeric")):
            return "NULL"
        return super().literal(kind, value)

    def execute(self, statements: Sequence[str]) -> None:
        """Execute statements, as whoever owns the table."""
        with psycopg.connect(self.postgres_url, autocommit=True) as connection:
            for statement in statements:
                connection.execute(statement.encode())


@pytest.fixture(scope="module")
def database(postgres_url: str, tmp_path_factory: pytest.TempPathFactory) -> RedshiftDatabase:
    """A Redshift with one table."""
    return RedshiftDatabase(postgres_url, tmp_path_factory.mktemp("project"))


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "key"), [("track", "text"), ("identify", "int"), ("audience", "numeric")])
@given(data=st.data())
@some_histories
def test_both_engines_send_the_same_from_redshift(
    database: RedshiftDatabase, sandboxes: dict[str, Sandbox], kind: str, key: str, data: st.DataObject
) -> None:
    """Calls, their order and texts, and the counts of the records are the same with both engines."""
    compare(database, sandboxes, kind, key, data.draw(steps(key)))


@pytest.fixture
def workspace(postgres_url: str) -> Iterator[Workspace]:
    """A schema in a Postgres that is taken for Redshift."""
    with empty_workspace(redshift(postgres_url)) as opened:
        yield opened


PAIRS = {
    "text": ("'a'::varchar", "'a '::varchar"),
    "capital": ("'a'::varchar", "'A'::varchar"),
    "empty": ("''::varchar", "NULL::varchar"),
    "number": ("1.1::numeric(38, 18)", "1.100000000000000001::numeric(38, 18)"),
    "zero": ("0.0::float8", "'-0.0'::float8"),
    "near": ("0.1::float8", "0.10000000000000002::float8"),
    "no number": ("'NaN'::float8", "'Infinity'::float8"),
    "moment": ("TIMESTAMP '2026-01-01 00:00:00.000001'", "TIMESTAMP '2026-01-01 00:00:00.000002'"),
    "zoned": ("TIMESTAMPTZ '2026-01-01 00:00+00'", "TIMESTAMPTZ '2026-01-01 00:00+01'"),
    "truth": ("false", "NULL::boolean"),
}
"""Values that are easily taken for each other, by the name of a column."""


@pytest.mark.thorough
def test_no_difference_is_missed_in_redshift(workspace: Workspace) -> None:
    """Two values that are not the same are told apart without IS DISTINCT FROM; and none from itself."""
    assert_told_apart(workspace, PAIRS)
    assert "DISTINCT FROM" not in workspace.spelled(differences(workspace, "one", "other"))


def test_tables_and_errors_of_a_workspace_in_redshift(workspace: Workspace) -> None:
    """Tables are found by how their names begin; what is the model's fault is said to be."""
    for name in ("users__1_a", "users__1_b", "users_other"):
        workspace.execute(f'CREATE TABLE "retl_test"."{name}" AS SELECT 1 AS "a b"')
    assert ["users__1_a", "users__1_b"] == workspace.tables("users__1_")
    workspace.drop(["users__1_a", "users__1_b", "users_other", "gone"])
    assert () == workspace.columns("users__1_a")

    users = model("SELECT nope FROM users_of_nobody")
    with pytest.raises(ModelError, match="users_of_nobody"):
        workspace.execute(
            f'CREATE TABLE "retl_test"."copy" AS SELECT * FROM {workspace.query_of(users)}', users
        )
    with pytest.raises(WarehouseError, match=r"failed in the schema `retl_test`: .*does not exist"):
        workspace.number('SELECT count(*) FROM "retl_test"."nowhere"')
    workspace.execute('CREATE TABLE "retl_test"."odd" AS SELECT point(1, 2) AS spot')
    with pytest.raises(ConfigError, match="`spot` has the type point") as error:
        workspace.columns("odd")
    assert "engine: local" in str(error.value.hint)


@pytest.mark.rule("X9")
def test_who_may_not_make_tables_in_redshift_is_told_the_grants(postgres_url: str) -> None:
    """The error has the statement that an owner of the database has to run."""
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute("DROP SCHEMA IF EXISTS retl_none")
        connection.execute("DROP ROLE IF EXISTS rows_reader")
        connection.execute("CREATE ROLE rows_reader LOGIN")
        url = redshift(postgres_url).replace("//postgres:", "//rows_reader:")
        with open_workspace(url, Path(), "retl_none") as workspace:
            assert ['CREATE SCHEMA "retl_none" AUTHORIZATION "rows_reader"'] == workspace.missing_grants()
            connection.execute("CREATE SCHEMA retl_none")
            with pytest.raises(ConfigError, match="may not make tables") as error:
                workspace.prepare()
        connection.execute("DROP SCHEMA retl_none")
    assert 'GRANT USAGE, CREATE ON SCHEMA "retl_none" TO "rows_reader"' in str(error.value.hint)


def test_redshift_without_its_driver_says_how_to_install_it() -> None:
    """The extra is named, and nothing of the URL that may be secret."""
    with pytest.raises(ConfigError, match="no driver for redshift") as error:
        open_workspace("redshift+nosuch://u:hush@127.0.0.1/shop", Path(), "retl")
    assert "retl[redshift]" in str(error.value.hint)
    assert "hush" not in f"{error.value}{error.value.hint}"
