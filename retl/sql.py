"""Spelling names, constants and comments into SQL text, and streaming what a query yields."""

import re
from typing import TYPE_CHECKING

import duckdb

if TYPE_CHECKING:
    import pyarrow as pa


def name(identifier: str) -> str:
    """A quoted identifier: `first name` becomes `"first name"`."""
    return '"' + identifier.replace('"', '""') + '"'


def text(constant: str) -> str:
    """A quoted string constant: `O'Brien` becomes `'O''Brien'`."""
    return "'" + constant.replace("'", "''") + "'"


def comment(**parts: str) -> str:
    """A comment that names who asks: `/* retl sync=users run=20260301T120000-1a2b3c */`.

    Of what is said only letters and digits of ASCII, `_`, `.` and `-` are left: nothing can end the comment
    early, and no driver takes a sign for the place of a value.
    """
    spelled = " ".join(f"{part}={re.sub(r'[^A-Za-z0-9_.-]', '_', said)}" for part, said in parts.items())
    return f"/* retl {spelled} */"


def let(variable: str, value: str, expression: str) -> str:
    """An expression over a variable that stands for a value, which is then computed once."""
    return f"list_transform([{value}], lambda {variable}: {expression})[1]"


def join_lines(parts: list[str], separator: str = ",", indent: str = "    ") -> str:
    """One part a line, so that generated SQL can be read where it is logged."""
    return f"{separator}\n{indent}".join(parts)


def stream(db: duckdb.DuckDBPyConnection, query: str, batch_rows: int) -> "pa.RecordBatchReader":
    """The result of a query, in Arrow batches of `batch_rows` rows; the connection is busy meanwhile."""
    if hasattr(duckdb.DuckDBPyRelation, "to_arrow_reader"):
        return db.sql(query).to_arrow_reader(batch_rows)
    # DuckDB 1.4, whose relations write the SQL anew, so that its lines are lost.
    return db.execute(query).fetch_record_batch(batch_rows)  # type: ignore[attr-defined]
