"""A table or a view by its name, as the SELECT that reads it in its database's spelling.

A plain name means what it means in SQL: `users` is `USERS` in Snowflake, which folds names to capitals. It
is quoted where that changes nothing, so that no word of SQL is in the way: Postgres would take `FROM user`
for the name of whoever asks. A name in quotes, of whatever kind, is meant to the letter.
"""

import re
from dataclasses import dataclass

LONGEST = 1_000
"""Characters of a table's name with all its parts."""

MOST_PARTS = 4
"""A server, a database, a schema and a table, as SQL Server has them."""

_PART = r"""(?:[^\s"`\[\]'.,;:()/\\]+|"(?:[^"]|"")+"|`[^`]+`|\[[^\[\]]+\])"""
_NAME = re.compile(rf"{_PART}(?:\.{_PART}){{0,{MOST_PARTS - 1}}}")

_BACKQUOTES = {"mysql", "mariadb", "bigquery", "clickhouse", "clickhousedb", "databricks", "hive", "sc"}
_BRACKETS = {"mssql"}
_CAPITALS = {"snowflake", "oracle", "db2", "ibm_db_sa", "firebird", "exa"}
"""The kinds of database that take a plain name for one in capitals."""

_SMALL = {"postgresql", "postgres", "redshift", "cockroachdb", "vertica", "trino", "presto", "awsathena"}
"""The kinds that take it for one in small letters."""

_AS_IT_IS = {"duckdb", "sqlite"} | _BACKQUOTES | _BRACKETS
"""The kinds in which quotes do not matter for which table is meant."""


@dataclass(frozen=True)
class _Part:
    text: str
    is_quoted: bool


def is_table(written: str) -> bool:
    """Whether a text is a table's name: parts with dots between them, plain or in quotes of some kind."""
    return written.isprintable() and _NAME.fullmatch(written) is not None


def select_table(written: str, backend: str) -> str:
    """The SELECT of all columns of a table.

    Args:
        written: its name, of which `is_table` is true.
        backend: the kind of database, as its URL begins; empty where that is not known.
    """
    return f"SELECT * FROM {'.'.join(_spelled(part, backend) for part in _parts(written))}"


def plain_name(written: str) -> str:
    """A table's name without quotes, for people and for catalogues."""
    return ".".join(part.text for part in _parts(written))


def _parts(written: str) -> list[_Part]:
    found = []
    for part in re.findall(_PART, written):
        is_quoted = part[0] in '"`['
        text = part[1:-1] if is_quoted else part
        found.append(_Part(text.replace('""', '"') if part[0] == '"' else text, is_quoted))
    return found


def _spelled(part: _Part, backend: str) -> str:
    """A part of a name as its database takes it."""
    if not part.is_quoted and re.fullmatch(r"[^\W\d]\w*", part.text) and _folds(part.text, backend):
        return part.text
    if backend in _BACKQUOTES:
        return f"`{part.text.replace('`', '``')}`"
    if backend in _BRACKETS:
        return f"[{part.text.replace(']', ']]')}]"
    return '"' + part.text.replace('"', '""') + '"'


def _folds(text: str, backend: str) -> bool:
    """Whether the database may take a plain name for another one, so that quotes would change it."""
    if backend in _CAPITALS:
        return text != text.upper()
    if backend in _SMALL:
        return text != text.lower()
    return backend not in _AS_IT_IS
