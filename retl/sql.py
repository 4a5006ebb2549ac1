"""Spelling names and constants into SQL text, and streaming what a query yields."""

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
