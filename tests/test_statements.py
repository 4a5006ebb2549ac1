"""The statements of `engine: warehouse`: each is SQL of the warehouses that it is written for."""

from collections.abc import Iterator

import pytest
import sqlglot
from sqlalchemy.engine import make_url
from sqlglot import exp
from sqlglot.errors import ErrorLevel

from retl.engine.warehouse import statements
from retl.engine.warehouse.statements import Sides
from retl.warehouse import bigquery_workspace
from retl.warehouse.spelling import spelled
from retl.warehouse.workspace import StoredColumn

DIALECTS = ["postgres", "duckdb", "spark", "databricks", "snowflake", "bigquery", "redshift"]

KEY = StoredColumn("id", "bigint", "{}", ("{}",))
PLAN = StoredColumn("my plan", "text", "{}", ("{}",))
BORN = StoredColumn("born", "date", "{}", ("{}",), at_fault="{} > DATE '9999-12-31'")
SIDES = Sides('"retl"."new"', '"retl"."old"', [KEY, PLAN, BORN], [KEY], [PLAN])
QUERY = "(SELECT id FROM users) AS model"


def written() -> Iterator[tuple[str, str]]:
    """Each statement, by its name."""
    yield "copy_model", statements.copy_model('"retl"."new"', QUERY, ["id", "my plan"], numbered=True)
    yield "number_copy", statements.number_copy('"retl"."n"', '"retl"."new"')
    yield "find_candidates", statements.find_candidates('"retl"."c"', SIDES)
    yield "find_faults", statements.find_candidates('"retl"."c"', Sides(SIDES.new, None, *_columns()))
    yield "select_new", statements.select_new('"retl"."c"', SIDES.columns, "seq")
    yield "select_old", statements.select_old('"retl"."c"', SIDES.columns, "seq")
    yield "select_all", statements.select_all('"retl"."old"', ["id"], "seq", in_order=True)
    yield "count_rows", statements.count_rows('"retl"."old"')
    yield from statements.count_candidates('"retl"."c"').items()
    yield "find_unshared", statements.find_candidates('"retl"."c"', SIDES, shared=False)
    yield "create_exceptions", statements.create_exceptions('"retl"."x"')
    yield from (("insert_exceptions", one) for one in statements.insert_exceptions('"retl"."x"', {1: True}))
    yield "merge", statements.merge('"retl"."m"', '"retl"."c"', '"retl"."x"', SIDES)
    yield "leave_out", statements.leave_out('"retl"."m"', '"retl"."n"', '"retl"."x"', ["id", "my plan"])


def _columns() -> tuple[list[StoredColumn], list[StoredColumn], list[StoredColumn]]:
    return [KEY, PLAN, BORN], [KEY], [PLAN]


STATEMENTS = dict(written())


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("name", STATEMENTS)
def test_a_statement_is_sql_of_each_warehouse(name: str, dialect: str) -> None:
    """Written for a dialect and read back by its parser, a statement is the same, and nothing is unknown."""
    text = spelled(STATEMENTS[name], dialect)
    (tree,) = sqlglot.parse(text, dialect=dialect, error_level=ErrorLevel.RAISE)
    assert tree is not None
    assert not list(tree.find_all(exp.Command))
    again = tree.sql(dialect=dialect)
    assert again == sqlglot.parse_one(again, dialect=dialect).sql(dialect=dialect)
    assert ("FULL" in text) == (name in ("find_candidates", "find_unshared"))
    assert text.count("UNION ALL") == STATEMENTS[name].count("UNION ALL")


def test_bigquery_compares_as_its_workspace_says() -> None:
    """What is compared of each type is SQL of BigQuery, which has NEW for a word of its own."""
    url = make_url("bigquery://shop")
    kinds = ["INT64", "STRING", "FLOAT64", "JSON", "TIME", "NUMERIC(10, 2)", "ARRAY<STRING>", "TIMESTAMP"]
    columns = [bigquery_workspace._stored(f"c{place}", kind, url) for place, kind in enumerate(kinds)]
    sides = Sides('"retl"."new"', '"retl"."old"', columns, columns[:3], columns)
    text = spelled(statements.find_candidates('"retl"."c"', sides), "bigquery")
    (tree,) = sqlglot.parse(text, dialect="bigquery", error_level=ErrorLevel.RAISE)
    assert tree is not None
    for part in (
        "SHA256(old.`c1`) = SHA256(`new`.`c1`)",
        "SHA256(`new`.`c1`) IS DISTINCT FROM SHA256(old.`c1`)",
        "IEEE_DIVIDE(1, `new`.`c2`) IS DISTINCT FROM IEEE_DIVIDE(1, old.`c2`)",
        "(IS_NAN(`new`.`c2`) OR IS_INF(`new`.`c2`))",
        "TO_JSON_STRING(`new`.`c3`) IS DISTINCT FROM TO_JSON_STRING(old.`c3`)",
        "(`new`.`c3` IS NULL) IS DISTINCT FROM (old.`c3` IS NULL)",
    ):
        assert part in text


@pytest.mark.parametrize("dialect", ["spark", "databricks", "bigquery"])
def test_names_are_quoted_as_the_warehouse_has_it(dialect: str) -> None:
    """Where double quotes make a text, names stand in backticks."""
    assert "`my plan`" in spelled(STATEMENTS["merge"], dialect)
    assert '"' not in spelled(STATEMENTS["merge"], dialect)


def test_redshift_compares_with_null_by_hand() -> None:
    """It knows no IS DISTINCT FROM."""
    text = spelled(STATEMENTS["find_candidates"], "redshift")
    assert "DISTINCT FROM" not in text
    assert "IS NULL" in text


def test_postgres_and_duckdb_take_them_as_they_are() -> None:
    """Nothing is written anew for them, and no parser is loaded."""
    for text in STATEMENTS.values():
        assert text == spelled(text, "postgres") == spelled(text, "duckdb")
