"""The list of dialects, by the name that a URL begins with."""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial

from sqlalchemy.engine import URL

from retl.warehouse import mysql, postgres, sqlite
from retl.warehouse.dialect import DEFAULT, Dialect
from retl.warehouse.query import Grammar

DIALECTS: Mapping[str, Dialect] = {
    "postgresql": postgres.DIALECT,
    "mysql": mysql.DIALECT,
    "mariadb": mysql.DIALECT,
    "sqlite": sqlite.DIALECT,
}
"""The dialects that are not the default, by a URL's name for the database."""

_ALIASES = {"postgres": "postgresql"}
"""Names that are taken, and never suggested."""

_PARSERS = {
    "awsathena": "athena",
    "bigquery": "bigquery",
    "clickhouse": "clickhouse",
    "clickhousedb": "clickhouse",
    "cockroachdb": "postgres",
    "mssql": "tsql",
    "oracle": "oracle",
    "presto": "presto",
    "redshift": "redshift",
    "snowflake": "snowflake",
    "teradatasql": "teradata",
    "trino": "trino",
}
"""sqlglot's names for databases of the default dialect, by a URL's name for them."""

_QUOTES = {"redshift": '"'}
"""The signs around names in databases of the default dialect whose models are selected from as a subquery.

They are services where a model that runs for its columns alone would be paid for.
"""

PACKAGES = {
    "bigquery": "adbc-driver-bigquery",
    "clickhouse": "clickhouse-sqlalchemy",
    "databricks": "'retl[databricks]'",
    "redshift": "'retl[redshift]'",
    "snowflake": "adbc-driver-snowflake",
    "trino": "trino[sqlalchemy]",
    **{module: package for one in DIALECTS.values() for module, package in one.packages.items()},
}
"""The package to install for a driver or a kind of database, where its name differs."""

KNOWN = ["duckdb", *DIALECTS, "mssql", "oracle", *PACKAGES]
"""Names that are suggested to whoever misspells one."""


def dialect_of(url: URL) -> Dialect:
    """The dialect of the database that a URL leads to."""
    name = url.get_backend_name()
    name = _ALIASES.get(name, name)
    if name in _QUOTES:
        quoted = partial(_quoted, _QUOTES[name])
        return replace(DEFAULT, grammar=_grammar(name), quoted=quoted, describes_by_subquery=True)
    if name in _PARSERS:
        return replace(DEFAULT, grammar=_grammar(name))
    return DIALECTS.get(name, DEFAULT)


def _grammar(name: str) -> Grammar:
    return Grammar(_PARSERS[name], has_batches=name == "mssql")


def _quoted(sign: str, name: str) -> str:
    return f"{sign}{name.replace(sign, 2 * sign)}{sign}"
