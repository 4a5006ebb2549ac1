"""The workspace in Spark: a schema of retl's own, whose tables are as the catalog makes them by itself.

That is Parquet, or Delta or Iceberg where the server's default says so.
"""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from pyspark.errors import PySparkException
from pyspark.sql.types import (
    ArrayType,
    BinaryType,
    BooleanType,
    DataType,
    DateType,
    DecimalType,
    FractionalType,
    IntegralType,
    MapType,
    StringType,
    StructType,
    TimestampNTZType,
    TimestampType,
    VariantType,
)

from retl.address import Address, shown
from retl.errors import ConfigError, WarehouseError
from retl.model import Model
from retl.warehouse.dialect import as_subquery
from retl.warehouse.query import one_query
from retl.warehouse.spark_connect import SparkSession
from retl.warehouse.spark_errors import read_failed, sentence, unopened
from retl.warehouse.spark_grammar import SPARK
from retl.warehouse.workspace import StoredColumn, Workspace

_NOT_ALLOWED = "42501"
"""The SQLSTATE for what the user may not do."""

_NO_SUCH_TABLE = {"TABLE_OR_VIEW_NOT_FOUND", "SCHEMA_NOT_FOUND"}

_QUOTED = re.compile(r"""'(?:[^']|'')*'|"(?P<name>(?:[^"]|"")*)\"""")
"""A text, or a name, in the SQL of statements."""

_INSTANTS = (DateType, TimestampType, TimestampNTZType)

_MICROSECONDS = "yyyy-MM-dd HH:mm:ss.SSSSSS"

_JSON = (
    f"to_json({{}}, map('timestampFormat', '{_MICROSECONDS}', 'timestampNTZFormat', '{_MICROSECONDS}',"
    " 'ignoreNullFields', 'false'))"
)
"""The JSON of a nested value, with all that it holds."""


class SparkWorkspace(Workspace):
    """A schema in the default catalog of a Spark Connect server."""

    dialect = "spark"
    longest_name = 128

    def __init__(self, address: Address, schema: str) -> None:
        """Open a session.

        Args:
            address: of the server.
            schema: the name of the schema.

        Raises:
            ConfigError: the client does not take the address.
            WarehouseError: the server cannot be reached.
        """
        self.schema = schema
        self._address = address
        try:
            self._session = SparkSession(address)
        except (PySparkException, ValueError) as error:
            raise unopened(error, address) from None

    def prepare(self) -> None:
        """Make the schema where there is none; see `Workspace.prepare`."""
        self.execute(f'CREATE SCHEMA IF NOT EXISTS "{self.schema}"')

    def missing_grants(self) -> list[str]:
        """Nothing: Spark itself has no grants."""
        return []

    def tables(self, prefix: str) -> list[str]:
        """The tables whose names begin so."""
        with self._translating(None):
            found = [
                row["tableName"]
                for batch in self._session.batches(f"SHOW TABLES IN `{self.schema}` LIKE '{prefix}*'")
                for row in batch.to_pylist()
                if not row["isTemporary"]
            ]
        return sorted(name for name in found if name.startswith(prefix))

    def columns(self, table: str) -> tuple[StoredColumn, ...]:
        """The columns of a table, in its order; none where it is gone."""
        try:
            schema = self._session.schema(self.spelled(f'SELECT * FROM "{self.schema}"."{table}"'))
        except PySparkException as error:
            if error.getCondition() in _NO_SUCH_TABLE:
                return ()
            raise self._translated(error, None) from None
        return tuple(_stored(field.name, field.dataType) for field in schema)

    def query_of(self, model: Model) -> str:
        """The model's SQL in brackets."""
        return as_subquery(one_query(model, SPARK))

    def spelled(self, statement: str) -> str:
        """A statement in Spark's SQL; see `Workspace.spelled`."""
        named = _QUOTED.sub(_in_backticks, statement)
        return named.replace("row_number() OVER ()", "row_number() OVER (ORDER BY NULL)")

    def execute(self, statement: str, model: Model | None = None) -> None:
        """Execute a statement that gives no rows; see `Workspace.execute`."""
        query = self.query_of(model) if model else ""
        before, query, after = statement.partition(query) if query else (statement, "", "")
        text = self.spelled(before) + query + self.spelled(after)
        with self._translating(model):
            self._session.execute(model.said(text) if model else text)

    def analyze(self, table: str, columns: Sequence[str]) -> None:
        """Nothing: Spark plans a join anew when it knows how many rows there are."""

    def number(self, query: str) -> int:
        """The one number that a query gives."""
        with self._translating(None):
            (batch,) = self._session.batches(self.spelled(query))
        return int(batch[0][0].as_py())

    def drop(self, tables: Sequence[str]) -> None:
        """Drop tables, of which some may be gone."""
        for table in tables:
            self.execute(f'DROP TABLE IF EXISTS "{self.schema}"."{table}"')

    def cancel(self) -> None:
        """Stop what is executed."""
        self._session.cancel()

    def close(self) -> None:
        """End the session."""
        self._session.close()

    @contextmanager
    def _translating(self, model: Model | None) -> Iterator[None]:
        try:
            yield
        except PySparkException as error:
            # The cause may quote the rows, or the token.
            raise self._translated(error, model) from None

    def _translated(self, error: PySparkException, model: Model | None) -> Exception:
        said = sentence(error, self._address)
        if error.getCondition() and error.getSqlState() == _NOT_ALLOWED:
            return ConfigError(
                f"the warehouse's user may not do what `engine: warehouse` needs: {said}",
                where=shown(self._address),
                hint=f"let it make, read and drop tables in the schema `{self.schema}`",
            )
        if model is not None:
            return read_failed(model, error, self._address)
        return WarehouseError(
            f"the warehouse failed in the schema `{self.schema}`: {said}",
            where=shown(self._address),
            hint="nothing was sent; run it again",
        )


def _in_backticks(quoted: re.Match[str]) -> str:
    if quoted["name"] is None:
        return quoted[0]
    name = quoted["name"].replace('""', '"').replace("`", "``")
    return f"`{name}`"


def _stored(name: str, kind: DataType) -> StoredColumn:
    """How a column of that type is compared."""
    called = kind.simpleString()
    if isinstance(kind, (BooleanType, IntegralType, DecimalType, BinaryType)):
        return StoredColumn(name, called, "{}", ("{}",))
    if isinstance(kind, StringType):  # whatever its collation
        return StoredColumn(
            name, called, "CAST({} AS BINARY)", ("CAST({} AS BINARY)",), at_fault="NOT is_valid_utf8({})"
        )
    if isinstance(kind, FractionalType):
        no_number = "CAST({} AS STRING) IN ('NaN', 'Infinity', '-Infinity')"
        return StoredColumn(name, called, "{}", ("CAST({} AS STRING)",), no_number)
    if isinstance(kind, _INSTANTS):
        outside = "year({}) NOT BETWEEN 1 AND 9999"
        return StoredColumn(name, called, "{}", ("{}",), outside, outside)
    if isinstance(kind, VariantType):
        return StoredColumn(name, called, None, ("to_json({})",))
    if not isinstance(kind, (ArrayType, MapType, StructType)):
        return StoredColumn(name, called, None, ("CAST({} AS STRING)",))
    # What is equal may be spelled in two ways, as 0.0 and -0.0; and a MAP is equal to nothing.
    exact = (_JSON, "CAST({} AS STRING)" if _holds(kind, (MapType, VariantType)) else "{}")
    at_fault = "{} IS NOT NULL" if _holds(kind, _INSTANTS) else "NOT is_valid_utf8(CAST({} AS STRING))"
    return StoredColumn(name, called, None, exact, at_fault=at_fault)


def _holds(kind: DataType, wanted: type | tuple[type, ...]) -> bool:
    """Whether a type is one of these, or holds one."""
    if isinstance(kind, wanted):
        return True
    if isinstance(kind, ArrayType):
        return _holds(kind.elementType, wanted)
    if isinstance(kind, MapType):
        return _holds(kind.keyType, wanted) or _holds(kind.valueType, wanted)
    return isinstance(kind, StructType) and any(_holds(field.dataType, wanted) for field in kind)
