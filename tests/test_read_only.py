"""A model that tries to do more than read is refused by real databases, and leaves nothing behind."""

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import duckdb
import psycopg
import pytest
from warehouses import READERS, read_through, rows

from retl.errors import ModelError
from retl.warehouse import Warehouse, open_warehouse

DUCKDB = (
    "ATTACH '{out}' AS made",
    "INSTALL httpfs",
    "LOAD json",
    "SET enable_external_access = true",
    "RESET memory_limit",
    "PRAGMA database_list",
    "COPY (SELECT 1) TO '{out}'",
    "EXPORT DATABASE '{out}'",
    "CREATE SECRET made (TYPE s3)",
    "CREATE MACRO made() AS 1",
    "CALL checkpoint()",
    "USE memory",
    "EXPLAIN ANALYZE DELETE FROM users",
    "PREPARE made AS SELECT 1",
    "WITH gone AS (DELETE FROM users RETURNING *) SELECT * FROM gone",
    "SELECT 1; COPY (SELECT 1) TO '{out}'",
    "SELECT 1 /* */; /* */ INSTALL httpfs",
    "SELECT * FROM query('COPY (SELECT 1) TO ''{out}''')",
    "SELECT json_execute_serialized_sql(json_serialize_sql('SELECT 1'))",
    "FROM checkpoint()",
    "FROM enable_logging('QueryLog', storage := 'file', storage_path := '{out}')",
    "FROM enable_profiling(save_location := '{out}')",
    "FROM add_grammar_extension('made')",
    "FROM create_external_resource('made')",
    "SELECT write_log('made')",
    "SELECT getenv('HOME')",  # of DuckDB's own command line
    "SELECT * FROM duckdb_secrets(redact := false)",
)

SQLITE = (
    "ATTACH '{out}' AS made",
    "VACUUM INTO '{out}'",
    "PRAGMA query_only = OFF",
    "SELECT * FROM pragma_query_only(0)",
    "SELECT * FROM pragma_journal_mode('delete')",
    "SELECT load_extension('{out}')",
    "SELECT writefile('{out}', 'made')",
    "SELECT readfile('/etc/passwd')",
    "WITH gone AS (SELECT 1) DELETE FROM users",
    "DELETE FROM users RETURNING *",
    "CREATE TEMP TABLE made AS SELECT 1",
    "EXPLAIN DELETE FROM users",
    "SELECT 1; ATTACH '{out}' AS made",
    "SELECT 1 --\n; DELETE FROM users",
)

POSTGRES = (
    "COPY (SELECT 1) TO PROGRAM 'cat > {out}'",
    "COPY users FROM '/etc/passwd'",
    "WITH gone AS (DELETE FROM ten RETURNING *) SELECT * FROM gone",
    "WITH gone AS MATERIALIZED (INSERT INTO ten VALUES (11) RETURNING 1) SELECT 1",
    "SELECT * INTO made FROM ten",
    "SELECT * INTO TEMP made FROM ten",
    "SELECT * FROM ten FOR UPDATE",
    "SELECT * FROM (SELECT * FROM ten FOR KEY SHARE) AS a",
    "DO $$ BEGIN DELETE FROM ten; END $$",
    "CALL made()",
    "SET default_transaction_read_only = off",
    "LISTEN made",
    "EXPLAIN ANALYZE DELETE FROM ten",
    "PREPARE made AS DELETE FROM ten",
    "SELECT 1; DELETE FROM ten",
    "SELECT 1 /* /* */ ; */; DELETE FROM ten",
    "SELECT 1 --\r; DELETE FROM ten",
    "SELECT forget_ten()",
    "SELECT n, forget_ten() FROM ten WHERE n = 1",
    "SELECT * FROM forgetting",
    "SELECT set_config('transaction_read_only', 'off', false)",
    "SELECT pg_read_file('/etc/passwd')",
    "SELECT lo_import('/etc/passwd')",
    "SELECT lo_export(1, '{out}')",
    "SELECT query_to_xml('DELETE FROM ten', true, true, '')",
    'SELECT "pg_catalog"."pg_terminate_backend"(pg_backend_pid())',
    r"""SELECT U&"\0070g_reload_conf"()""",
    "SELECT pg_clear_relation_stats('public', 'ten')",
    "SELECT nextval('counter')",
    "SELECT pg_advisory_lock(1)",
)


@contextmanager
def refused(warehouse: Warehouse, out: Path, sql: str) -> Iterator[None]:
    """A model of that SQL is an error in the model, and makes no file."""
    with pytest.raises(ModelError):
        rows(warehouse, sql.format(out=out))
    yield
    assert not out.exists()


@pytest.mark.rule("W2")
@pytest.mark.parametrize("sql", DUCKDB)
@pytest.mark.parametrize("url", ["duckdb://", "duckdb:///shop.duckdb"])
def test_duckdb(sql: str, url: str, tmp_path: Path) -> None:
    """DuckDB makes no file, takes no setting and shows no secret, whether it has a file or none."""
    with duckdb.connect(tmp_path / "shop.duckdb") as db:
        db.execute("CREATE TABLE users AS SELECT 1 AS user_id")
    before = sorted(os.listdir(tmp_path))
    with open_warehouse(url, tmp_path) as warehouse, refused(warehouse, tmp_path / "made", sql):
        assert [{"n": 1}] == rows(warehouse, "SELECT 1 AS n")

    assert before == sorted(os.listdir(tmp_path))


DEEP = {
    "a sum": "SELECT {} AS n".format("+".join(["1"] * 900)),
    "cases": f"SELECT {'CASE WHEN true THEN ' * 800}1{' ELSE 0 END' * 800} AS n",
    "names": """SELECT 1 AS n, '"function_name":"query"' AS a, """
    """'\\","type":"INSERT' AS "x""type"":""DELETE" """,
}


@pytest.mark.parametrize("sql", DEEP.values(), ids=DEEP)
def test_a_deep_query_is_read(sql: str, tmp_path: Path) -> None:
    """A query as deep as DuckDB takes it, and one that quotes what is looked for, are taken."""
    with open_warehouse("duckdb://", tmp_path) as warehouse:
        assert 1 == len(rows(warehouse, sql))
        hidden = sql.replace("SELECT ", "SELECT (SELECT 1 FROM query('SELECT 1')) AS q, ", 1)
        with pytest.raises(ModelError, match="more than read: the function query"):
            rows(warehouse, hidden)


@pytest.mark.parametrize("name", ["model", "types", "duckdb"])
def test_a_variable_of_python_is_no_table(name: str, tmp_path: Path) -> None:
    """A table that is not there is not looked for among retl's own variables."""
    with (
        open_warehouse("duckdb://", tmp_path) as warehouse,
        pytest.raises(ModelError, match=f"Table with name {name} does not exist"),
    ):
        rows(warehouse, f"SELECT * FROM {name}")


@pytest.mark.rule("W2")
@pytest.mark.parametrize("sql", SQLITE)
def test_sqlite(sql: str, tmp_path: Path) -> None:
    """SQLite attaches and makes no file, and loads nothing."""
    lite = sqlite3.connect(tmp_path / "shop.db")
    lite.execute("CREATE TABLE users AS SELECT 1 AS user_id")
    lite.commit()
    lite.close()
    with (
        open_warehouse("sqlite:///shop.db", tmp_path) as warehouse,
        refused(warehouse, tmp_path / "made", sql),
    ):
        assert [{"user_id": 1}] == rows(warehouse, "SELECT * FROM users")


@pytest.fixture(scope="module")
def ten(postgres_url: str) -> str:
    """A Postgres with ten rows, and with functions and a view that would delete them."""
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        for statement in (
            "CREATE TABLE IF NOT EXISTS ten AS SELECT generate_series(1, 10) AS n",
            "CREATE SEQUENCE IF NOT EXISTS counter",
            "CREATE OR REPLACE FUNCTION forget_ten() RETURNS bigint LANGUAGE sql"
            " AS 'WITH x AS (DELETE FROM ten RETURNING 1) SELECT count(*) FROM x'",
            "CREATE OR REPLACE VIEW forgetting AS SELECT forget_ten() AS n",
        ):
            connection.execute(statement)
    return postgres_url


@pytest.mark.rule("W1", "W2")
@pytest.mark.parametrize("sql", POSTGRES)
@pytest.mark.parametrize("reader", READERS)
def test_postgres(sql: str, reader: str, ten: str, tmp_path: Path) -> None:
    """Postgres keeps its rows, whichever way it is read, and runs no program."""
    with (
        read_through(reader),
        open_warehouse(ten, tmp_path) as warehouse,
        refused(warehouse, tmp_path / "made", sql),
    ):
        assert [{"n": 10}] == rows(warehouse, "SELECT count(*) AS n FROM ten")
