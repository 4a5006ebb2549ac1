"""A model is one query that only reads: what the text alone tells, and what only the server can tell."""

import sys
from pathlib import Path

import pytest
from sqlalchemy.engine import URL, Connection, make_url
from sqlalchemy.exc import DBAPIError
from warehouses import model, rows

from retl.errors import ModelError, WarehouseError
from retl.warehouse import mysql, open_warehouse, postgres, sqlite
from retl.warehouse.dialects import dialect_of
from retl.warehouse.query import Grammar, one_query
from retl.warehouse.spark_grammar import SPARK

UNKNOWN = Grammar()
POSTGRES = postgres.DIALECT.grammar
MYSQL = mysql.DIALECT.grammar
SQLITE = sqlite.DIALECT.grammar
TSQL = dialect_of(make_url("mssql://")).grammar

TWO = "more than one statement"
LEAVES = "; commit; delete from users; select "

REFUSED = [
    (POSTGRES, f"SELECT 1 /* /* */ ' */ {LEAVES} '", "a comment"),
    (POSTGRES, f"SELECT a$$ {LEAVES} b$$ FROM users", TWO),
    (POSTGRES, f"SELECT $a$ $b$ $a$ {LEAVES} $b$ '", TWO),
    (POSTGRES, rf"SELECT '\' {LEAVES} '", TWO),
    (POSTGRES, rf"SELECT U&'\' {LEAVES} '", TWO),
    (POSTGRES, f"SELECT 1 {{# {LEAVES} #}}", TWO),
    (POSTGRES, "SELECT 1 \\; DELETE FROM users", TWO),
    (POSTGRES, "WITH gone AS (DELETE FROM users RETURNING *) SELECT * FROM gone", "more than read: DELETE"),
    (POSTGRES, "SELECT * FROM (WITH x AS (UPDATE t SET a = 1 RETURNING a) TABLE x) AS y", "read: UPDATE"),
    (POSTGRES, "SELECT 1 AS a INTO made", "more than read: INTO"),
    (POSTGRES, "SELECT a FROM users FOR NO KEY UPDATE SKIP LOCKED", "a lock on rows"),
    (POSTGRES, "SELECT (SELECT a FROM users FOR SHARE)", "a lock on rows"),
    (POSTGRES, "SELECT pg_notify('a', 'b')", "the function pg_notify"),
    (POSTGRES, "SELECT pg_catalog . /* */ \"setval\" ('s', 1)", "the function setval"),
    (POSTGRES, "SELECT * FROM dblink('', 'DELETE FROM users') AS t (a int)", "the function dblink"),
    (POSTGRES, "SELECT pg_read_file('/etc/passwd')", "the function pg_read_file"),
    (MYSQL, "SELECT Load_File ('/etc/passwd')", "the function load_file"),
    (POSTGRES, r"""SELECT U&"\006eextval" ('s')""", "a name that is written in escapes"),
    (POSTGRES, """SELECT u&"!006eextval" UESCAPE '!' ('s')""", "a name that is written in escapes"),
    (POSTGRES, "TABLE users", "not a SELECT but: TABLE"),
    (POSTGRES, '"select" 1', "not a SELECT"),
    (MYSQL, rf"SELECT 'a\\' {LEAVES} '", TWO),
    (MYSQL, f"SELECT 1 /* /* */ {LEAVES} 1 -- */", TWO),
    (MYSQL, f"SELECT 5--3 {LEAVES} 1", TWO),
    (MYSQL, "SELECT 1 INTO DUMPFILE 'a'", "more than read: INTO"),
    (MYSQL, "SELECT NEXT VALUE FOR s INTO OUTFILE 'a'", "more than read: INTO"),
    (MYSQL, "SELECT a FROM users LOCK IN SHARE MODE", "a lock on rows"),
    (MYSQL, "SELECT 1 /*!50000 + 1 */", "a comment that the database executes"),
    (SQLITE, f"SELECT [a] {LEAVES} [b]", TWO),
    (SQLITE, "SELECT load_extension('a')", "the function load_extension"),
    (TSQL, "SELECT 1 AS a DELETE FROM users", "more than read: DELETE"),
    (TSQL, "SELECT 1 AS a EXEC ('DROP TABLE users')", "more than read: EXEC"),
    (TSQL, "SELECT 1 AS a SHUTDOWN WITH NOWAIT", "more than read: SHUTDOWN"),
    (TSQL, "SELECT 1 SHUTDOWN", "more than read: SHUTDOWN"),
    (TSQL, "SELECT 1 AS update users SET a = 1", "more than read: UPDATE"),
    (TSQL, "SELECT 1 AS a, 2 DELETE FROM users WHERE 1 = 1", "more than read: DELETE"),
    (TSQL, "SELECT 1 COMMIT", "more than read: COMMIT"),
    (TSQL, "SELECT 1 AS a FROM t AS begin SHOW DROP TABLE users", "more than read"),
    (POSTGRES, "SELECT '{#' AS y --\r, pg_reload_conf() AS x", "a comment"),
    (POSTGRES, "SELECT '{#' AS y /* /* */ ' */, pg_reload_conf() AS x --'", "a comment"),
    (
        POSTGRES,
        "SELECT 1 AS begin FETCH FIRST (SELECT length(pg_reload_conf()::text)) ROWS ONLY",
        "pg_reload_conf",
    ),
    (POSTGRES, "SELECT * FROM ts_stat('select 1')", "ts_stat"),
    (POSTGRES, "SELECT pg_ls_dir('/')", "pg_ls_dir"),
    (MYSQL, "SELECT NEXT VALUE FOR s", "NEXT VALUE FOR"),
    (UNKNOWN, "SELECT s.nextval AS id FROM dual", "nextval"),
    (TSQL, "SELECT 1 AS a INTO #b", "more than read: INTO"),
    (TSQL, "SELECT NEXT VALUE FOR s AS a", "more than read: NEXT"),
    (UNKNOWN, f"SELECT a$$ {LEAVES} b$$ FROM users", TWO),
    (UNKNOWN, f"SELECT 1 /* /* */ ' */ ; /**/ {LEAVES} '", "a comment"),
    (UNKNOWN, "SELECT 1 AS a INTO b", "more than read: INTO"),
    (UNKNOWN, "SELECT nextval('a')", "the function nextval"),
    (UNKNOWN, "SELECT 1 \0", "U\\+0000"),
    (POSTGRES, "SELECT '\ud800'", r"U\+D800"),
]

REFUSED += [
    (SPARK, "SELECT java_method('java.lang.System', 'exit', 1) AS n", "the function java_method"),
    (SPARK, "SELECT `reflect`('java.util.UUID', 'randomUUID') AS n", "the function reflect"),
    (SPARK, "SELECT try_reflect('java.util.UUID', 'randomUUID') AS n", "the function try_reflect"),
    (SPARK, "SELECT TRANSFORM (id) USING 'touch /tmp/x' AS (n) FROM range(2)", "a program"),
    (SPARK, 'SELECT MAP id USING "touch /tmp/x" AS (n) FROM range(2)', "a program"),
    (SPARK, "FROM range(3) INSERT INTO kept SELECT id", "is not a SELECT but: FROM"),
    (SPARK, "SELECT 1 AS a) AS b; DROP TABLE kept; SELECT * FROM (SELECT 1", TWO),
    (SPARK, "SHOW TABLES", "is not a SELECT but: SHOW"),
    (SPARK, "SET spark.sql.session.timeZone = 'UTC'", "is not a SELECT but: SET"),
    (SPARK, "BEGIN DROP TABLE kept; END", TWO),
]

TAKEN = [
    (SPARK, "SELECT id FROM range(3) JOIN range(2) USING (id)"),
    (SPARK, "SELECT transform(array(1, 2), x -> x + 1) AS `using` -- USING 'cat'"),
    (POSTGRES, "SELECT 1 /* a /* b */ ; c */ AS x"),
    (POSTGRES, r"SELECT E'it\'s; %' AS a, $x$ ; ' $x$ AS b, '\' AS c, U&'d\0061t' AS d"),
    (POSTGRES, "(SELECT 1) UNION ALL (SELECT 2)"),
    (
        POSTGRES,
        "SELECT 'INSERT INTO x; DELETE' AS \"delete\", t.update, count(*) FILTER (WHERE a @> b) FROM t",
    ),
    (POSTGRES, "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT i FROM n"),
    (MYSQL, r"""SELECT 'it\'s; %' AS a, "a\";" AS b, 5--3 AS c, `;` # ; delete"""),
    (MYSQL, "SELECT INSERT('a', 1, 2, 'b'), TRUNCATE(1.5, 1), REPLACE(a, 'b', 'c') /*+ hint */ FROM t"),
    (TSQL, "SELECT TOP 5 [a;b] FROM t WITH (NOLOCK) OPTION (MAXDOP 1)"),
    (UNKNOWN, "SELECT 'a; b' AS \"update\", t.delete, truncate(a, 2) FROM t WHERE x !~~> 'into' -- ; x"),
    # Of a grammar that sqlglot does not parse today, though the databases do.
    (POSTGRES, "SELECT a FROM t WHERE a OPERATOR(pg_catalog.=) ANY ('{1}') AND NOT b IS DOCUMENT"),
]


@pytest.mark.rule("W2")
@pytest.mark.parametrize(("grammar", "sql", "said"), REFUSED)
def test_more_than_a_query(grammar: Grammar, sql: str, said: str) -> None:
    """A text that is not one query, or does more than read, is refused however it is hidden."""
    with pytest.raises(ModelError, match=said):
        one_query(model(sql), grammar)


@pytest.mark.parametrize(("grammar", "sql"), TAKEN)
@pytest.mark.parametrize("end", ["", ";", " -- done\n ; ;"])
def test_any_query(grammar: Grammar, sql: str, end: str) -> None:
    """A query is taken as it stands, whether or not the parser understands it; its end is left out."""
    if "#" in sql or "--" in sql:
        end = f"\n{end}"
    assert sql == one_query(model(sql + end), grammar).removesuffix(" -- done\n ").rstrip()


def test_place_of_what_is_refused() -> None:
    """The line of a second statement, and of what writes, is given."""
    for sql in ("SELECT 1;\n-- a\nDELETE FROM t", "SELECT 1\n\nFROM t FOR UPDATE", "SELECT\n\nnextval('a')"):
        with pytest.raises(ModelError) as error:
            one_query(model(sql, first_line=10), POSTGRES)
        assert "models/users.sql:12" == error.value.where


@pytest.fixture(params=["psycopg", "psycopg2"])
def url(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, postgres_url: str) -> URL:
    """A Postgres with five users, for each driver as if it were the only one that is installed."""
    if request.param == "psycopg2":
        monkeypatch.setitem(sys.modules, "psycopg", None)
    engine = postgres.DIALECT.engine(make_url(postgres_url), Path())
    assert request.param == engine.dialect.driver
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE IF NOT EXISTS five AS SELECT generate_series(1, 5) AS n")
        connection.exec_driver_sql(
            "CREATE OR REPLACE FUNCTION forget() RETURNS bigint LANGUAGE sql"
            " AS 'WITH x AS (DELETE FROM five RETURNING 1) SELECT count(*) FROM x'"
        )
    engine.dispose()
    return make_url(postgres_url)


def executed(connection: Connection, sql: str) -> None:
    """Execute a text as models are, though nothing has looked at it."""
    postgres.DIALECT.begin(connection, sql)
    connection.exec_driver_sql(sql, execution_options={"no_parameters": True, "stream_results": True})


@pytest.mark.rule("W1")
@pytest.mark.parametrize(
    "sql",
    [
        "SELECT 1 AS a; COMMIT; DELETE FROM five; SELECT 2 AS a",
        "SELECT 1 AS a /* /* */ ' */; COMMIT; BEGIN READ WRITE; DELETE FROM five; SELECT '",
        "SELECT 1 AS a; ROLLBACK; SET default_transaction_read_only = off; DELETE FROM five",
        "DELETE FROM five RETURNING 1",
        "COMMIT",
    ],
)
def test_the_server_sees_one_query(sql: str, url: URL) -> None:
    """Even a text that no check has looked at is one query to the server, or it is not executed."""
    engine = postgres.DIALECT.engine(url, Path())
    with engine.connect() as connection:
        connection.execution_options(**postgres.DIALECT.read_options)
        with pytest.raises(DBAPIError):
            executed(connection, sql)
        connection.rollback()
        assert 5 == connection.exec_driver_sql("SELECT count(*) FROM five").scalar()
    engine.dispose()


def test_a_transaction_that_may_write(url: URL) -> None:
    """Where the server does not keep the transaction read-only, nothing is read."""
    engine = postgres.DIALECT.engine(url, Path())
    with engine.connect() as connection, pytest.raises(WarehouseError, match="read-only"):
        postgres.DIALECT.begin(connection, "SELECT 1")
    engine.dispose()


def test_who_is_to_blame(url: URL) -> None:
    """A function that writes, and a syntax error with its line, are the model's, whichever the driver."""
    with open_warehouse(str(url), Path()) as warehouse:
        with pytest.raises(ModelError, match="read-only transaction"):
            rows(warehouse, "SELECT forget() AS n")
        with pytest.raises(ModelError, match="syntax error") as error:
            rows(warehouse, "SELECT 1 AS a\nFROM WHERE")
        assert [{"n": 5, "a": ";%s"}] == rows(warehouse, "SELECT count(*) AS n, ';%s' AS a FROM five;")

    assert "models/users.sql:2" == error.value.where
