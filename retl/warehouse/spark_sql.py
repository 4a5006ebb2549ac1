"""Servers of Spark's SQL: Spark itself, and Databricks.

A model is a subquery there, and how it is sent is left to a `SqlSession`.
"""

import re
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

import pyarrow as pa
import pyarrow.compute as pc

from retl.address import Address, shown
from retl.errors import ConfigError, ModelError, WarehouseError
from retl.model import Model
from retl.warehouse import parse
from retl.warehouse.arrow import passed_on, pieces
from retl.warehouse.base import BATCH_ROWS, Column, Parsed, Warehouse, distinct, unspelled, wanted
from retl.warehouse.dialect import as_subquery
from retl.warehouse.query import Grammar, one_query
from retl.warehouse.spark_types import family, is_spelled, stored
from retl.warehouse.workspace import StoredColumn, Workspace

NOT_ALLOWED = "42501"
"""The SQLSTATE for what the user may not do."""

_NO_SUCH_TABLE = {"TABLE_OR_VIEW_NOT_FOUND", "SCHEMA_NOT_FOUND"}

_QUOTED = re.compile(r"""'(?:[^']|'')*'|"(?P<name>(?:[^"]|"")*)\"""")
"""A text, or a name, in the SQL of statements."""


class SqlSession(Protocol):
    """A session of a server, which is sent SQL and answers with Arrow batches.

    Attributes:
        address: of the server, with all in it that is secret.
        errors: the classes of what its methods raise.
    """

    address: Address
    errors: type[Exception] | tuple[type[Exception], ...]

    def columns(self, sql: str) -> tuple[Column, ...]:
        """The columns of a query, without running it."""
        ...

    def batches(self, sql: str) -> Iterator[pa.RecordBatch]:
        """The rows of a query as they come; a result without rows is one batch without rows."""
        ...

    def execute(self, sql: str) -> None:
        """Execute a command to its end."""
        ...

    def sentence(self, error: Exception) -> str:
        """The words of an error, in one sentence and without secrets."""
        ...

    def condition(self, error: Exception) -> str | None:
        """The server's name for what is wrong, as TABLE_OR_VIEW_NOT_FOUND; None where it has none."""
        ...

    def state(self, error: Exception) -> str | None:
        """The SQLSTATE of an error."""
        ...

    def read_failed(self, model: Model, error: Exception) -> ModelError | WarehouseError:
        """The error for a model that could not be described, read or copied."""
        ...

    def cancel(self) -> None:
        """Have the server stop what it does, from any thread."""
        ...

    def close(self) -> None:
        """End the session."""
        ...


class SparkSqlWarehouse(Warehouse):
    """A server of Spark's SQL; each model is a subquery there, which can hold no command."""

    def __init__(self, session: SqlSession, grammar: Grammar) -> None:
        """Read models in a session.

        Args:
            session: which is closed in the end.
            grammar: how the server reads SQL.
        """
        self._session = session
        self._grammar = grammar

    def columns(self, model: Model) -> tuple[Column, ...]:
        """The columns of the model's result; see `Warehouse.columns`."""
        sql = f"SELECT * FROM {self._subquery(model)}"
        with self._translating(model):
            found = self._session.columns(model.said(sql))
        distinct(model, [column.name for column in found])
        return found

    def read(
        self, model: Model, columns: Collection[str] | None = None, batch_rows: int = BATCH_ROWS
    ) -> Iterator[pa.RecordBatch]:
        """The model's rows; see `Warehouse.read`."""
        known = {column.name: column for column in self.columns(model)}
        names = wanted(model, list(known), columns)
        chosen = [known[name] for name in names]
        for column in chosen:
            _refuse_unspelled(model, column)
        if not names:
            yield pa.RecordBatch.from_arrays([], [])
            return
        sql = f"SELECT {', '.join(map(_selected, chosen))} FROM {self._subquery(model)}"
        with self._translating(model):
            for batch in self._session.batches(model.said(sql)):
                arrived = zip(chosen, batch.columns, strict=True)
                yield from pieces(names, [_arrived(*one) for one in arrived], batch_rows)

    def cancel(self) -> None:
        """Stop what is being read; see `Warehouse.cancel`."""
        self._session.cancel()

    def close(self) -> None:
        """End the session."""
        self._session.close()

    def _subquery(self, model: Model) -> str:
        return as_subquery(one_query(model, self._grammar))

    @contextmanager
    def _translating(self, model: Model) -> Iterator[None]:
        """Have what goes wrong be an error of the model or of the warehouse."""
        try:
            yield
        except self._session.errors as error:
            # The cause may quote the rows, or the token.
            raise self._session.read_failed(model, error) from None


def _selected(column: Column) -> str:
    name = "`" + column.name.replace("`", "``") + "`"
    return f"to_json({name}) AS {name}" if family(column.type) == "variant" else name


def _refuse_unspelled(model: Model, column: Column) -> None:
    if family(column.type) != "variant" and not is_spelled(column.type):
        cast = f"CAST({column.name} AS STRING), or to_json({column.name}) where it is nested"
        raise unspelled(model, column.name, column.type, cast)


def _arrived(column: Column, values: pa.Array) -> Parsed:
    """A column as retl reads it; a row with text that is not UTF-8, which Spark lets pass, is at fault."""
    values, reasons = parse.unicode(values)
    if family(column.type) == "variant":
        return parse.as_json(values), reasons
    read, others = passed_on(values)
    return read, reasons if others is None else others if reasons is None else pc.coalesce(reasons, others)


class SparkSqlWorkspace(Workspace):
    """A schema in the catalog of a session, whose tables are as the catalog makes them by itself.

    Attributes:
        way_out: the hint for a user who may not do what is needed; `{}` stands for the schema.
    """

    way_out = "let it make, read and drop tables in the schema `{}`"

    def __init__(self, session: SqlSession, grammar: Grammar, schema: str) -> None:
        """Keep tables in a schema.

        Args:
            session: which is closed in the end.
            grammar: how the server reads SQL.
            schema: the name of the schema.
        """
        self.schema = schema
        self._session = session
        self._grammar = grammar

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
            found = self._session.columns(self.spelled(f'SELECT * FROM "{self.schema}"."{table}"'))
        except self._session.errors as error:
            if self._session.condition(error) in _NO_SUCH_TABLE:
                return ()
            raise self._translated(error, None) from None
        return tuple(stored(column.name, column.type) for column in found)

    def query_of(self, model: Model) -> str:
        """The model's SQL in brackets."""
        return as_subquery(one_query(model, self._grammar))

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
        except self._session.errors as error:
            # The cause may quote the rows, or the token.
            raise self._translated(error, model) from None

    def _translated(self, error: Exception, model: Model | None) -> Exception:
        said, where = self._session.sentence(error), shown(self._session.address)
        if self._session.condition(error) and self._session.state(error) == NOT_ALLOWED:
            return ConfigError(
                f"the warehouse's user may not do what `engine: warehouse` needs: {said}",
                where=where,
                hint=self.way_out.format(self.schema),
            )
        if model is not None:
            return self._session.read_failed(model, error)
        return WarehouseError(
            f"the warehouse failed in the schema `{self.schema}`: {said}",
            where=where,
            hint="nothing was sent; run it again",
        )


def _in_backticks(quoted: re.Match[str]) -> str:
    if quoted["name"] is None:
        return quoted[0]
    name = quoted["name"].replace('""', '"').replace("`", "``")
    return f"`{name}`"
