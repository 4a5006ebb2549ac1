"""A table by its name: the SELECT that reads it, as each kind of database spells it."""

from pathlib import Path

import psycopg
import pytest

from retl.config.project import find_project, load_model, load_sync
from retl.model import Model
from retl.table import plain_name, select_table
from retl.warehouse import open_warehouse

SYNC = "table: {table}\nprimary_key: id\nidentify: {{user_id: id}}\n"


@pytest.mark.parametrize(
    ("written", "backend", "spelled"),
    [
        ("users", "postgresql", '"users"'),
        ("user", "postgresql", '"user"'),
        ("analytics.users", "postgres", '"analytics"."users"'),
        ("Analytics.Users", "postgresql", "Analytics.Users"),
        ('analytics."Users"', "postgresql", '"analytics"."Users"'),
        ('"a ""b"""', "duckdb", '"a ""b"""'),
        ("Users", "duckdb", '"Users"'),
        ("order-items", "sqlite", '"order-items"'),
        ("analytics.users", "snowflake", "analytics.users"),
        ("ANALYTICS.USERS", "snowflake", '"ANALYTICS"."USERS"'),
        ('analytics."users"', "snowflake", 'analytics."users"'),
        ("shop.users", "mysql", "`shop`.`users`"),
        ("shop.users", "sc", "`shop`.`users`"),
        ("my-project.shop.users", "bigquery", "`my-project`.`shop`.`users`"),
        ("[my server].shop.dbo.[users]", "mssql", "[my server].[shop].[dbo].[users]"),
        ('"a`b"', "mysql", "`a``b`"),
        ("Größen", "sqlite", '"Größen"'),
        ("users", "", "users"),
        ("2024_users", "", '"2024_users"'),
    ],
)
def test_a_name_as_each_database_spells_it(written: str, backend: str, spelled: str) -> None:
    """A plain name means what it means in SQL, and is quoted where that changes nothing."""
    assert f"SELECT * FROM {spelled}" == select_table(written, backend)


def test_a_name_for_people() -> None:
    """In a sentence a name stands without its quotes."""
    assert "analytics.Order Items.x" == plain_name('analytics."Order Items".`x`')


@pytest.mark.parametrize(
    ("settings", "sql"),
    [
        ("warehouse: mysql://me@db/shop\n", "SELECT * FROM `shop`.`users`"),
        ("timezone: UTC\n", "SELECT * FROM shop.users"),
    ],
)
def test_the_model_of_a_table(tmp_path: Path, settings: str, sql: str) -> None:
    """The model is the SELECT in the spelling of the sync's warehouse, and knows the line that names it."""
    (tmp_path / "syncs").mkdir()
    path = tmp_path / "syncs/users.yml"
    path.write_text("# users\n" + SYNC.format(table="shop.users"))
    (tmp_path / "retl.yml").write_text(settings)
    project = find_project(path, {})

    assert Model("shop.users", sql, "syncs/users.yml:2", 2) == load_model(load_sync(path, project), project)


def test_a_name_that_is_a_word_of_sql(tmp_path: Path, postgres_url: str) -> None:
    """A table named as a word of SQL is read, where plain SQL would read something else."""
    with psycopg.connect(postgres_url, autocommit=True) as db:
        db.execute('CREATE SCHEMA "Odd" CREATE TABLE "user" (id INT) CREATE TABLE "a.b" (n INT)')
        try:
            with open_warehouse(postgres_url, tmp_path) as warehouse:
                found = {
                    name: [column.name for column in warehouse.columns(Model(name, select, "x"))]
                    for name in ('"Odd".user', "`Odd`.[a.b]")
                    for select in [select_table(name, "postgresql")]
                }
        finally:
            db.execute('DROP SCHEMA "Odd" CASCADE')

    assert {'"Odd".user': ["id"], "`Odd`.[a.b]": ["n"]} == found
