"""What is particular to MySQL and MariaDB, on a real server."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest
import sqlalchemy
from sqlalchemy.engine import make_url
from warehouses import (
    faults,
    model,
    mysql_database,
    needs_mysql,
    only_batch,
    rows,
    spelled,
    types_seen_by_duckdb,
)

from retl.errors import ConfigError, ModelError, WarehouseError
from retl.warehouse import open_warehouse
from retl.warehouse.mysql import MySQLColumn, is_model_fault, to_arrow

pytestmark = pytest.mark.mysql

# A column's type, a value as SQL, the type that DuckDB sees, and the JSON that is sent.
TYPES = [
    ("BIT(1)", "1", "BOOLEAN", "true"),
    ("BIT(64)", "b'1000000000000000000000000000000000000000000000000000000000000001'", "UBIGINT", None),
    ("BIT(10)", "513", "UBIGINT", "513"),
    ("BOOLEAN", "TRUE", "TINYINT", "1"),
    ("TINYINT", "-128", "TINYINT", "-128"),
    ("TINYINT UNSIGNED", "255", "UTINYINT", "255"),
    ("SMALLINT", "-32768", "SMALLINT", "-32768"),
    ("SMALLINT UNSIGNED", "65535", "USMALLINT", "65535"),
    ("MEDIUMINT", "-8388608", "INTEGER", "-8388608"),
    ("MEDIUMINT UNSIGNED", "16777215", "UINTEGER", "16777215"),
    ("INT", "-2147483648", "INTEGER", "-2147483648"),
    ("INT UNSIGNED", "4294967295", "UINTEGER", "4294967295"),
    ("INT(9) ZEROFILL", "42", "UINTEGER", "42"),
    ("BIGINT", "-9223372036854775808", "BIGINT", '"-9223372036854775808"'),
    ("BIGINT UNSIGNED", "18446744073709551615", "UBIGINT", '"18446744073709551615"'),
    ("YEAR", "2024", "USMALLINT", "2024"),
    ("FLOAT", "0.1", "FLOAT", "0.1"),
    ("DOUBLE", "0.1e0 + 0.2e0", "DOUBLE", "0.30000000000000004"),
    ("DOUBLE", "-1.5e300", "DOUBLE", "-1.5e+300"),
    ("DECIMAL(10,2)", "-1.50", "DECIMAL(10,2)", "-1.5"),
    ("DECIMAL(10,2) UNSIGNED", "99999999.99", "DECIMAL(10,2)", "99999999.99"),
    ("DECIMAL(10,2) ZEROFILL", "1.50", "DECIMAL(10,2)", "1.5"),
    ("DECIMAL(4,4)", "-0.0150", "DECIMAL(4,4)", "-0.015"),
    ("DECIMAL(38,6)", "12345678901234567890.123450", "DECIMAL(38,6)", "12345678901234567890.12345"),
    ("DECIMAL(65,0)", "1" + "0" * 64, "JSON", f'"1{"0" * 64}"'),
    ("DECIMAL(65,30)", f"-{'9' * 35}.10", "JSON", f"-{'9' * 35}.1"),
    ("DECIMAL(65,30)", f"{'9' * 35}.00", "JSON", f'"{"9" * 35}"'),
    ("DECIMAL(65,5) ZEROFILL", f"{'9' * 45}.5", "JSON", f"{'9' * 45}.5"),
    ("CHAR(4)", "'é😀'", "VARCHAR", '"é😀"'),
    ("VARCHAR(9) CHARACTER SET latin1", "'é'", "VARCHAR", '"é"'),
    ("VARCHAR(9) COLLATE utf8mb4_bin", "'é'", "VARCHAR", '"é"'),
    ("TINYTEXT", "'a'", "VARCHAR", '"a"'),
    ("LONGTEXT", "''", "VARCHAR", '""'),
    ("ENUM('x','y')", "'y'", "VARCHAR", '"y"'),
    ("SET('x','y')", "'x,y'", "VARCHAR", '"x,y"'),
    ("BINARY(3)", "x'00ff'", "BLOB", '"AP8A"'),
    ("VARBINARY(3)", "x'00ff'", "BLOB", '"AP8="'),
    ("VARBINARY(3)", "x''", "BLOB", '""'),
    ("BLOB", "x'ff'", "BLOB", '"/w=="'),
    ("LONGBLOB", "x'ff'", "BLOB", '"/w=="'),
    ("DATE", "'2024-02-29'", "DATE", '"2024-02-29"'),
    ("DATE", "'9999-12-31'", "DATE", '"9999-12-31"'),
    ("DATETIME", "'2024-02-29 01:02:03'", "TIMESTAMP", '"2024-02-29T01:02:03.000Z"'),
    ("DATETIME(6)", "'2024-02-29 01:02:03.456789'", "TIMESTAMP", '"2024-02-29T01:02:03.456Z"'),
    (
        "TIMESTAMP(3) NULL",
        "'2024-02-29 01:02:03.456'",
        "TIMESTAMP WITH TIME ZONE",
        '"2024-02-29T01:02:03.456Z"',
    ),
    ("TIME", "'03:04:05'", "VARCHAR", '"03:04:05"'),
    ("TIME(6)", "'03:04:05.500000'", "VARCHAR", '"03:04:05.5"'),
    ("TIME(3)", "'-27:46:40.000'", "VARCHAR", '"-27:46:40"'),
    ("TIME", "'838:59:50'", "VARCHAR", '"838:59:50"'),
]

SETUP = (
    f"CREATE TABLE typed (id INT, {', '.join(f'c{i} {kind}' for i, (kind, *_) in enumerate(TYPES))})",
    f"INSERT INTO typed VALUES (1, {', '.join(value for _, value, *_ in TYPES)})",
    "INSERT INTO typed (id) VALUES (0)",
    "CREATE TABLE instants (id INT, day DATE, at DATETIME(3), stamp TIMESTAMP NULL)",
    "SET sql_mode = 'ALLOW_INVALID_DATES'",
    "INSERT INTO instants VALUES (1, '2024-02-29', '2024-02-29', '2024-02-29'), (2, NULL, NULL, NULL)",
    "INSERT INTO instants VALUES (3, '0000-00-00', NULL, NULL), (4, '2024-00-15', NULL, NULL)",
    "INSERT INTO instants VALUES (5, '2024-02-31', NULL, NULL), (6, '0000-01-01', NULL, NULL)",
    "INSERT INTO instants VALUES (7, NULL, '0000-00-00', NULL), (8, NULL, NULL, 0)",
    "CREATE FUNCTION remember() RETURNS INT BEGIN INSERT INTO instants (id) VALUES (9); RETURN 1; END",
)


@pytest.fixture(scope="session")
def mysql_url() -> Iterator[str]:
    """A database with a value of each type."""
    with mysql_database(*SETUP) as url:
        yield url


@pytest.fixture(scope="session")
def typed(mysql_url: str) -> list[pa.RecordBatch]:
    """Two batches: a row of NULLs, and one with a value in each column."""
    wanted = [f"c{i}" for i in range(len(TYPES))]
    with open_warehouse(mysql_url, Path()) as warehouse:
        return list(warehouse.read(model("SELECT * FROM typed ORDER BY id LIMIT 9"), wanted, batch_rows=1))


@needs_mysql
@pytest.mark.parametrize("i", range(len(TYPES)), ids=[f"{kind} {value}" for kind, value, *_ in TYPES])
def test_types(i: int, typed: list[pa.RecordBatch]) -> None:
    """Each of MySQL's types arrives in DuckDB as the type that it is, and is spelled as any of its kind."""
    _, _, kind, text = TYPES[i]
    column = typed[1].select([i])

    assert [kind] == list(types_seen_by_duckdb(column).values())
    assert [[text or f'"{2**63 + 1}"']] == list(spelled(column).values())


@needs_mysql
def test_schema_is_fixed(typed: list[pa.RecordBatch]) -> None:
    """A batch that holds nothing but NULL has the types of the others."""
    assert [1] * len(TYPES) == [column.null_count for column in typed[0].columns]
    different = [
        one.name
        for one, other in zip(typed[0].schema, typed[1].schema, strict=True)
        # How many digits a decimal needs that is too wide for Arrow is not known before it comes.
        if one.type != other.type and other.type != pa.json_()
    ]
    assert [] == different


@needs_mysql
def test_null_alone(mysql_url: str) -> None:
    """A column of the literal NULL has no type, also where columns are wanted by name."""
    with open_warehouse(mysql_url, Path()) as warehouse:
        for wanted in (None, ["nothing"]):
            assert pa.null() == only_batch(warehouse, "SELECT NULL AS nothing", wanted)["nothing"].type


@needs_mysql
def test_dates_that_are_none(mysql_url: str) -> None:
    """A date or time that is none rejects its row alone, and only where it is wanted."""
    sql = "SELECT id, day, at, stamp FROM instants ORDER BY id LIMIT 99"
    with open_warehouse(mysql_url, Path()) as warehouse:
        batch = only_batch(warehouse, sql)
        other = only_batch(warehouse, sql, ["id", "at"])
        year_0 = only_batch(warehouse, "SELECT day FROM instants WHERE id IN (1, 6) ORDER BY id")

    bad = "bad_timestamp"
    assert [None, None, bad, bad, bad, bad, bad, bad] == faults(batch)
    assert [None, None, None, None, None, None, bad, None] == faults(other)
    assert [None, bad] == faults(year_0)
    assert ['"2024-02-29"', *[None] * 7] == spelled(batch)["day"]
    assert ['"2024-02-29T00:00:00.000Z"', *[None] * 7] == spelled(batch)["at"] == spelled(batch)["stamp"]


def test_text_that_is_none() -> None:
    """Text that is not UTF-8 rejects its row alone."""
    kind = MySQLColumn("text", 252, is_unsigned=False, is_bytes=False, length=9, scale=0)
    array, reasons = to_arrow(["é".encode(), b"a\xff", None], kind)

    assert ["é", None, None] == array.to_pylist()
    assert reasons is not None
    assert [None, "bad_text", None] == reasons.to_pylist()


def test_json_of_mysql() -> None:
    """MySQL's own JSON, which MariaDB has not, arrives as JSON, digit for digit."""
    kind = MySQLColumn("json", 245, is_unsigned=False, is_bytes=True, length=9, scale=0)
    array, reasons = to_arrow([b'{"a": 1.10}', None], kind)

    assert pa.json_() == array.type
    assert ['{"a": 1.10}', None] == array.to_pylist()
    assert reasons is None


@needs_mysql
def test_type_without_a_spelling(mysql_url: str) -> None:
    """A geometry is refused with the way to convert it, where it is wanted."""
    sql = "SELECT 1 AS one, ST_GeomFromText('POINT(1 2)') AS place"
    with open_warehouse(mysql_url, Path()) as warehouse:
        assert [{"one": 1}] == rows(warehouse, sql, ["one"])
        assert ["int", "geometry"] == [column.type for column in warehouse.columns(model(sql))]
        with pytest.raises(ModelError) as error:
            rows(warehouse, sql)

    assert "the column `place` has the type geometry, which has no clear spelling" in error.value.message
    assert "ST_AsGeoJSON(place)" in (error.value.hint or "")


@needs_mysql
def test_columns_of_a_long_query(mysql_url: str) -> None:
    """The columns are known without the query being run, which would take years."""
    tables = ", ".join(f"information_schema.COLLATIONS AS {name}" for name in "abcdef")
    sql = f"SELECT a.id, count(*) AS n FROM {tables} GROUP BY a.id ORDER BY n"
    with open_warehouse(mysql_url, Path()) as warehouse:
        assert ["id", "n"] == [column.name for column in warehouse.columns(model(sql))]


@needs_mysql
@pytest.mark.parametrize(
    ("sql", "found"),
    [
        (r"SELECT 'it\'s; %' AS a, 8 AS b # and; so on", ["it's; %", 8]),
        ("SELECT 1 AS a, 5--3 AS b;", [1, 8]),
        ('SELECT "a\\";" AS a, 2 AS b -- ;', ['a";', 2]),
        ("SELECT 'a''b' AS a, 7 /* ; */ % 4 AS b;", ["a'b", 3]),
        ("SELECT `a;` AS a, 1 AS b FROM (SELECT 1 AS `a;`) AS x -- done\n;", [1, 1]),
    ],
)
def test_sql_as_mysql_reads_it(sql: str, found: list[object], mysql_url: str) -> None:
    """Backslashes, double quotes, backticks and comments mean what they mean to MySQL."""
    with open_warehouse(mysql_url, Path()) as warehouse:
        assert [found] == [list(row.values()) for row in rows(warehouse, sql)]
        assert [{"b": found[1]}] == rows(warehouse, sql, ["b"])


@needs_mysql
@pytest.mark.parametrize("columns", [None, ["a"]])
def test_line_of_a_syntax_error(columns: list[str] | None, mysql_url: str) -> None:
    """The line of an error is the model's, and the message quotes nothing but the model."""
    with open_warehouse(mysql_url, Path()) as warehouse, pytest.raises(ModelError) as error:
        list(warehouse.read(model("SELECT 1 AS a\nFROM (SELECT 2)\nWHERE", first_line=10), columns))

    assert "models/users.sql:12" == error.value.where
    assert error.value.message.startswith("model users: You have an error in your SQL syntax")
    assert "LIMIT 0" not in error.value.message


@needs_mysql
@pytest.mark.parametrize(
    ("sql", "said"),
    [
        ("SELECT remember() AS made", "READ ONLY"),
        ("SELECT 1 AS a INTO OUTFILE '/tmp/retl-must-not-write'", "more than read: INTO"),
        ("SELECT 1 AS a INTO @a", "more than read: INTO"),
        (
            "SELECT 1 AS a /*! INTO OUTFILE '/tmp/retl-must-not-write' */",
            "a comment that the database executes",
        ),
        ("SELECT 1 AS a /*M!100100 INTO @a */", "a comment that the database executes"),
        ("SELECT id FROM instants FOR UPDATE", "a lock on rows"),
        ("SELECT GET_LOCK('a', 1) AS a", "the function get_lock"),
        ("SELECT 1 AS a INTO DUMPFILE '/tmp/retl-must-not-write'", "more than read: INTO"),
        ("SELECT 1 AS a UNION SELECT 2 INTO OUTFILE '/tmp/retl-must-not-write'", "more than read: INTO"),
        ("SELECT LOAD_FILE('/etc/passwd') AS a", "the function load_file"),
        ("SELECT sys_exec('id') AS a", "the function sys_exec"),
        ("WITH x AS (SELECT 1) DELETE FROM instants", "DELETE"),
        ("SELECT 1 AS a; DELETE FROM instants", "more than one statement"),
        ("SELECT 1 AS a -- \n; DELETE FROM instants", "more than one statement"),
        ("HANDLER instants OPEN", "not a SELECT"),
        ("EXECUTE IMMEDIATE 'DELETE FROM instants'", "not a SELECT"),
        ("LOAD DATA INFILE '/etc/passwd' INTO TABLE instants", "not a SELECT"),
        ("SET GLOBAL read_only = OFF", "not a SELECT"),
        ("DO GET_LOCK('a', 1)", "not a SELECT"),
    ],
)
def test_selects_that_write(sql: str, said: str, mysql_url: str) -> None:
    """A SELECT that writes, by a function or by itself, is an error in the model, and writes nothing."""
    with open_warehouse(mysql_url, Path()) as warehouse:
        with pytest.raises(ModelError, match=said):
            rows(warehouse, sql)
        assert [{"n": 8}] == rows(warehouse, "SELECT count(*) AS n FROM instants")


@needs_mysql
def test_read_that_breaks_off(mysql_url: str) -> None:
    """A connection lost in the midst of the rows is an error, never an end."""
    tables = ", ".join(f"information_schema.COLLATIONS AS {name}" for name in "abc")
    other = sqlalchemy.create_engine(make_url(mysql_url).set(drivername="mysql+pymysql"))
    with open_warehouse(mysql_url, Path()) as warehouse:
        reading = warehouse.read(model(f"SELECT connection_id() AS id FROM {tables}"), batch_rows=10)
        connection_id = next(reading)["id"][0].as_py()
        with other.connect() as connection:
            connection.exec_driver_sql(f"KILL {connection_id}")
        with pytest.raises(WarehouseError) as error:
            list(reading)
        assert [{"one": 1}] == rows(warehouse, "SELECT 1 AS one")
    other.dispose()

    assert 3 == error.value.exit_code
    assert error.value.message.startswith("model users: ")


@needs_mysql
def test_error_while_reading(mysql_url: str) -> None:
    """A value that cannot be computed in the midst of the rows is the model's fault."""
    sql = "SELECT exp(a.id) AS n FROM information_schema.COLLATIONS AS a ORDER BY a.id"
    with open_warehouse(mysql_url, Path()) as warehouse:
        reading = warehouse.read(model(sql), batch_rows=10)
        next(reading)
        with pytest.raises(ModelError, match="out of range"):
            list(reading)


@needs_mysql
@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"password": "hush"}, "Access denied"),
        ({"username": "nobody", "password": "hush"}, "Access denied"),
        ({"database": "nowhere"}, "nowhere"),
        ({"port": 1}, "refused"),
    ],
)
def test_out_of_reach(changes: dict[str, str], said: str, mysql_url: str) -> None:
    """A wrong password, user, database or port is an error on opening that shows no password."""
    url = make_url(mysql_url).set(**changes)
    with pytest.raises(WarehouseError, match=said) as error:
        open_warehouse(url.render_as_string(hide_password=False), Path())

    assert 3 == error.value.exit_code
    assert "hush" not in f"{error.value} {error.value.hint} {error.value.__cause__}"


@needs_mysql
@pytest.mark.parametrize(
    "scheme", ["mysql", "mariadb", "mysql+mysqldb", "mariadb+mariadbconnector", "mysql+asyncmy"]
)
def test_any_driver_suffix(scheme: str, mysql_url: str) -> None:
    """However the URL spells the database, and whatever charset it names, PyMySQL and UTF-8 are taken."""
    url = mysql_url.replace("mysql", scheme, 1) + "?charset=latin1"
    with open_warehouse(url, Path()) as warehouse:
        assert [{"a": "é😀"}] == rows(warehouse, "SELECT 'é😀' AS a")


@pytest.mark.parametrize("url", ["mysql://u:hush@127.0.0.1:1/x", "mariadb://u:hush@127.0.0.1:1/x"])
def test_missing_driver(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the driver is not installed, the error says how to install it."""
    monkeypatch.setitem(sys.modules, "pymysql", None)
    with pytest.raises(ConfigError) as error:
        open_warehouse(url, Path())

    assert "pip install 'retl[mysql]'" == error.value.hint
    assert "hush" not in str(error.value)


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("ssl_mood=good", "ssl_mood"),
        ("connect_timeout=soon", "int"),
        ("connect_timeout=0", "connect_timeout"),
    ],
)
def test_setting_that_the_driver_does_not_take(setting: str, said: str) -> None:
    """A setting in the URL that PyMySQL does not know or take is the configuration's fault."""
    with pytest.raises(ConfigError, match=said) as error:
        open_warehouse(f"mysql://u:hush@127.0.0.1:1/x?{setting}", Path())

    assert f"({setting.partition('=')[0]})" in (error.value.hint or "")
    assert "hush" not in str(error.value)
    assert "soon" not in str(error.value)  # a setting may be a secret, too


@needs_mysql
def test_zone_of_the_session(mysql_url: str) -> None:
    """Timestamps come in UTC, whatever the server's zone."""
    with open_warehouse(mysql_url, Path()) as warehouse:
        assert [{"zone": "+00:00"}] == rows(warehouse, "SELECT @@session.time_zone AS zone")


@needs_mysql
def test_connection_is_kept(mysql_url: str) -> None:
    """Looking at columns and reading to the end cost no connection; a read that is left does."""
    sql = "SELECT connection_id() AS id FROM instants"
    with open_warehouse(mysql_url, Path()) as warehouse:
        (first,) = {row["id"] for _ in range(2) for row in rows(warehouse, sql)}
        reading = warehouse.read(model(sql), batch_rows=1)
        assert first == next(reading)["id"][0].as_py()
        reading.close()  # type: ignore[attr-defined]
        assert first not in {row["id"] for row in rows(warehouse, sql)}


@pytest.mark.parametrize(
    ("code", "is_models"),
    [
        *((code, True) for code in (1054, 1064, 1109, 1142, 1146, 1222, 1305, 1365, 1690, 1792, 3141)),
        *((code, False) for code in (0, 1040, 1045, 1053, 1114, 1205, 1317, 1927, 1969, 2006, 2013, 3024)),
    ],
)
def test_who_is_to_blame(code: int, is_models: bool) -> None:
    """Errors in the SQL are the model's; limits, locks, the disk and the network are the server's."""
    assert is_models == is_model_fault(code)
