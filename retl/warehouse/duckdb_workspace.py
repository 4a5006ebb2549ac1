"""The workspace in a DuckDB file: a schema of retl's own."""

import re
from collections.abc import Sequence
from pathlib import Path

import duckdb

from retl import sql
from retl.address import Address, shown, without_secrets
from retl.errors import ConfigError, WarehouseError
from retl.memory import Room
from retl.model import Model
from retl.warehouse.dialect import as_subquery
from retl.warehouse.duckdb import DuckDBWarehouse, one_query
from retl.warehouse.workspace import StoredColumn, Workspace

_TABLES = """
SELECT table_name FROM duckdb_tables()
WHERE database_name = current_database() AND schema_name = $schema AND starts_with(table_name, $prefix)
ORDER BY table_name
"""

_COLUMNS = """
SELECT column_name, data_type FROM duckdb_columns()
WHERE database_name = current_database() AND schema_name = $schema AND table_name = $table
ORDER BY column_index
"""

_SAME = re.compile(r"BOOLEAN|U?(TINY|SMALL|BIG|HUGE)INT|U?INTEGER|UUID|BLOB|ENUM\(.*", re.DOTALL)
"""Types of which what is equal to DuckDB is the same."""

_INSTANT = re.compile(r"DATE|TIMESTAMP(_S|_MS)?|TIMESTAMP WITH TIME ZONE")

_NUMBER = re.compile(r"DECIMAL\(.*\)")

_VARIANT = re.compile(r"\bVARIANT\b")


class DuckDBWorkspace(Workspace):
    """A schema in a DuckDB file, which is open for writing as long as this is."""

    dialect = "duckdb"
    longest_name = 200

    def __init__(self, url: Address, root: Path, schema: str, room: Room | None = None) -> None:
        """Open the file.

        Args:
            url: where the file is.
            root: the project folder.
            schema: the name of the schema.
            room: what DuckDB may take.

        Raises:
            WarehouseError: there is no such file, or it cannot be written.
        """
        self.schema = schema
        self._url = url
        self._root = root
        self._warehouse = DuckDBWarehouse(url, root, room, writable=True)
        self._opened = self._warehouse.cursor()
        self._cursor = self._opened.__enter__()

    def prepare(self) -> None:
        """Make the schema where there is none; see `Workspace.prepare`."""
        self.execute(f"CREATE SCHEMA IF NOT EXISTS {sql.name(self.schema)}")

    def missing_grants(self) -> list[str]:
        """Nothing: who may write the file may do all."""
        return []

    def tables(self, prefix: str) -> list[str]:
        """The tables whose names begin so."""
        found = self._executed(_TABLES, None, {"schema": self.schema, "prefix": prefix})
        return [name for (name,) in found.fetchall()]

    def columns(self, table: str) -> tuple[StoredColumn, ...]:
        """The columns of a table, in its order.

        Raises:
            ConfigError: one has a type whose values cannot be compared.
        """
        found = self._executed(_COLUMNS, None, {"schema": self.schema, "table": table})
        return tuple(_stored(name, kind, self._url) for name, kind in found.fetchall())

    def query_of(self, model: Model) -> str:
        """The model's SQL in brackets."""
        try:
            return as_subquery(one_query(self._cursor, model, self._root))
        except duckdb.Error as error:
            raise self._warehouse.translated(model, error) from None

    def execute(self, statement: str, model: Model | None = None) -> None:
        """Execute a statement that gives no rows; see `Workspace.execute`."""
        self._executed(statement, model)

    def analyze(self, table: str, columns: Sequence[str]) -> None:
        """Nothing: DuckDB knows."""

    def number(self, query: str) -> int:
        """The one number that a query gives."""
        ((number,),) = self._executed(query, None).fetchall()
        return int(number)

    def drop(self, tables: Sequence[str]) -> None:
        """Drop tables, of which some may be gone."""
        for table in tables:
            self.execute(f"DROP TABLE IF EXISTS {sql.name(self.schema)}.{sql.name(table)}")

    def cancel(self) -> None:
        """Stop what is executed."""
        self._cursor.interrupt()

    def close(self) -> None:
        """Close the file."""
        self._opened.__exit__(None, None, None)
        self._warehouse.close()

    def _executed(
        self, statement: str, model: Model | None, values: dict[str, str] | None = None
    ) -> duckdb.DuckDBPyConnection:
        try:
            return self._cursor.execute(model.said(statement) if model else statement, values)
        except duckdb.Error as error:
            if model is not None:
                raise self._warehouse.translated(model, error) from None
            raise WarehouseError(
                f"the warehouse failed in the schema `{self.schema}`: {self._told(error)}",
                where=shown(self._url),
                hint="nothing was sent; run it again",
            ) from None

    def _told(self, error: Exception) -> str:
        return without_secrets(str(error), self._url).strip().split("\n", 1)[0]


def _stored(name: str, kind: str, url: Address) -> StoredColumn:
    """How a column of that type is compared.

    Raises:
        ConfigError: its values are handed over in a form of DuckDB's own.
    """
    if _VARIANT.search(kind):
        raise ConfigError(
            f"the column `{name}` has the type {kind}, whose values `engine: warehouse` cannot compare",
            where=shown(url),
            hint=f"cast it in the model: {sql.name(name)}::JSON; or use `engine: local`",
        )
    if kind == "TIMESTAMP_NS":  # whose keys are cut to microseconds; it has no year of five digits
        return StoredColumn(name, kind, None, ("{}",))
    if _INSTANT.fullmatch(kind):
        first, last = ("'0001-01-01'", "'9999-12-31'") if kind == "DATE" else _MOMENTS
        outside = f"({{}} < {first} OR {{}} > {last})"
        fault = f"(isfinite({{}}) AND {outside})"
        return StoredColumn(name, kind, "{}", ("{}",), outside, fault)
    if _SAME.fullmatch(kind):
        return StoredColumn(name, kind, "{}", ("{}",))
    if kind == "VARCHAR":  # whatever its collation
        return StoredColumn(name, kind, "encode({})", ("encode({})",))
    if _NUMBER.fullmatch(kind):
        return StoredColumn(name, kind, "{}", ("{}",))
    if kind in ("DOUBLE", "FLOAT"):
        return StoredColumn(name, kind, "{}", ("{}::VARCHAR",), "NOT isfinite({})")
    if kind == "JSON":
        return StoredColumn(name, kind, None, ("encode({}::VARCHAR)",))
    # The texts of two nested values may be alike, and two that are equal may be spelled in two ways.
    return StoredColumn(name, kind, None, ("{}", "{}::VARCHAR"))


_MOMENTS = ("'0001-01-01'", "'9999-12-31 23:59:59.999999'")
