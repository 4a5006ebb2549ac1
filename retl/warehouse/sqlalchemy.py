"""Models read from any database that SQLAlchemy has a dialect for."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import sqlalchemy
from sqlalchemy.engine import URL, Connection, CursorResult, Engine
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError, SQLAlchemyError

from retl.address import shown, without_secrets
from retl.errors import ConfigError, ModelError, WarehouseError
from retl.model import Model
from retl.nearest import did_you_mean
from retl.warehouse.base import (
    BATCH_ROWS,
    Column,
    Warehouse,
    batch_of,
    distinct,
    line_in,
    named_twice,
    not_a_select,
    sentence_in,
    unspelled,
    wanted,
)
from retl.warehouse.dialect import ColumnType, Dialect, Reader, as_subquery
from retl.warehouse.dialects import KNOWN, PACKAGES
from retl.warehouse.message import model_error, read_error
from retl.warehouse.query import one_query

_MODEL = "retl_model"
"""The option of a connection that has the model for which it is used."""


class SQLAlchemyWarehouse(Warehouse):
    """A database behind SQLAlchemy, read-only as far as the database knows such a thing.

    Its `Dialect` says everything in which it differs from others. Where the dialect does not give types of
    columns, the values of each batch do: null where all are NULL, `arrow.json` where they are mixed.
    """

    def __init__(self, url: URL, root: Path, dialect: Dialect) -> None:
        """Connect.

        Args:
            url: where the database is.
            root: the project folder, which a relative path in the URL starts from.
            dialect: how this kind of database differs from others.

        Raises:
            ConfigError: SQLAlchemy has no such dialect, its driver is not installed, or does not know a
                setting in the URL.
            WarehouseError: the database cannot be reached, or its file does not exist.
        """
        self._url = url
        self._dialect = dialect
        self._engine = self._made_engine(root)
        self._running: set[Any] = set()  # the driver's connections
        try:
            self._engine.connect().close()
        except SQLAlchemyError as error:
            # The cause may quote the URL, password and all.
            raise self._out_of_reach(error) from None
        except (TypeError, ValueError, RuntimeError) as error:
            # A driver's words for a setting that it does not take, and for a package that it lacks.
            raise self._unusable(error) from None
        except OSError as error:
            raise self._out_of_reach(error) from None

    def columns(self, model: Model) -> tuple[Column, ...]:
        """The columns of the model's result; see `Warehouse.columns`."""
        return tuple(Column(name, type_.name) for name, type_ in self.described(model))

    def described(self, model: Model) -> tuple[tuple[str, ColumnType], ...]:
        """The columns of the model's result, each by its name and with how it is read.

        Raises:
            ModelError, WarehouseError: as `columns`.
        """
        sql = one_query(model, self._dialect.grammar)
        if self._dialect.describes_by_subquery:
            sql = f"SELECT * FROM {as_subquery(sql)} LIMIT 0"
        with self._connected(model) as connection, self._asked(connection, sql) as result:
            description = _description(model, result)
            types = self._dialect.types(connection, result.cursor)
        names = [column[0] for column in description]
        distinct(model, names)
        return tuple(zip(names, types, strict=True))

    def read(
        self, model: Model, columns: Collection[str] | None = None, batch_rows: int = BATCH_ROWS
    ) -> Iterator[pa.RecordBatch]:
        """The model's rows; see `Warehouse.read`."""
        sql = self._select(model, columns)
        with self._connected(model) as connection, self._executed(connection, sql, batch_rows) as result:
            description = _description(model, result)
            names = [column[0] for column in description]
            distinct(model, names)
            keep = [names.index(name) for name in wanted(model, names, columns)]
            types = self._dialect.types(connection, result.cursor)
            readers = {i: _reader(model, names[i], types[i]) for i in keep}
            rows = result.fetchmany(batch_rows)
            yield _batch(names, rows, readers)
            while rows := result.fetchmany(batch_rows):
                yield _batch(names, rows, readers)

    def cancel(self) -> None:
        """Stop what is being read; see `Warehouse.cancel`."""
        for connection in list(self._running):
            self._dialect.cancel(self._engine, connection)

    def close(self) -> None:
        """Close the connections."""
        self._engine.dispose()

    def _select(self, model: Model, columns: Collection[str] | None) -> str:
        """The model's SQL, or a SELECT of the wanted columns from it where the dialect has a way to quote."""
        sql = one_query(model, self._dialect.grammar)
        quoted = self._dialect.quoted
        if quoted is None or columns is None:
            if self._dialect.describes_by_subquery:
                self.columns(model)  # as a subquery a SELECT … INTO OUTFILE is refused
            return sql
        names = wanted(model, [column.name for column in self.columns(model)], columns)
        return f"SELECT {', '.join(map(quoted, names))} FROM {as_subquery(sql)}"

    @contextmanager
    def _connected(self, model: Model) -> Iterator[Connection]:
        """A connection; what goes wrong while it is used is an error of the model or the warehouse."""
        try:
            with self._engine.connect() as connection:
                yield connection.execution_options(**{_MODEL: model})
        except (SQLAlchemyError, OSError) as error:
            # The cause may quote the rows, or the URL, password and all.
            raise self._translated(model, error) from None

    @contextmanager
    def _asked(self, connection: Connection, sql: str) -> Iterator[CursorResult[Any]]:
        """The result of a statement that is executed for its columns."""
        if self._dialect.describe is None:
            with self._executed(connection, sql, 1) as result:
                yield result
        else:
            connection.execution_options(**self._dialect.read_options)
            with self._cancellable(connection):
                yield self._dialect.describe(connection, sql)

    @contextmanager
    def _executed(self, connection: Connection, sql: str, batch_rows: int) -> Iterator[CursorResult[Any]]:
        """The result of a statement, with its rows still to be fetched."""
        connection.execution_options(**self._dialect.read_options)
        options: Mapping[str, Any] = {"no_parameters": True, "stream_results": True, "yield_per": batch_rows}
        with self._cancellable(connection):
            self._dialect.begin(connection, sql)
            result = connection.exec_driver_sql(sql, execution_options=options)
            cursor = result.cursor
            try:
                yield result
            finally:
                is_cut = self._dialect.leave_unread(cursor)
                result.close()
                if is_cut:
                    connection.invalidate()

    @contextmanager
    def _cancellable(self, connection: Connection) -> Iterator[None]:
        """Have `cancel` know of the connection for as long as it is read from."""
        driver = connection.connection.driver_connection
        self._running.add(driver)
        try:
            yield
        finally:
            self._running.discard(driver)

    def _made_engine(self, root: Path) -> Engine:
        try:
            engine = self._dialect.engine(self._url, root)
        except NoSuchModuleError:
            dialect = self._url.get_backend_name()
            if dialect not in PACKAGES:
                raise self._unknown(dialect) from None
            raise self._not_installed(dialect) from None
        except ImportError as error:
            raise self._not_installed(error.name or self._url.drivername) from None
        except ArgumentError:
            # Its text, and the trace of it, show what was set.
            raise self._unusable(ValueError("a part of it is not as this kind of database has it")) from None
        except ValueError as error:
            raise self._unusable(error) from None
        sqlalchemy.event.listen(engine, "connect", self._prepare)
        sqlalchemy.event.listen(engine, "before_cursor_execute", _say_who_asks, retval=True)
        return engine

    def _prepare(self, connection: Any, _record: object) -> None:
        """Prepare a new connection of the driver's for reading."""
        cursor = connection.cursor()
        for statement in self._dialect.session:
            cursor.execute(statement)
        cursor.close()
        self._dialect.prepare(connection)

    def _unknown(self, dialect: str) -> ConfigError:
        return ConfigError(
            f"no kind of database called `{dialect}` is known here",
            where=shown(self._url),
            hint=did_you_mean(dialect, KNOWN) or "install the SQLAlchemy dialect for it",
        )

    def _not_installed(self, what: str) -> ConfigError:
        return ConfigError(
            f"{self._url.drivername} needs a package that is not installed, for {what}",
            where=shown(self._url),
            hint=f"pip install {PACKAGES.get(what, what)}",
        )

    def _out_of_reach(self, error: Exception) -> WarehouseError:
        return WarehouseError(
            f"the warehouse cannot be reached: {self._message(error)}",
            where=shown(self._url),
            hint="Check that it runs, that this machine may reach it, and the URL's user and password.",
        )

    def _unusable(self, error: Exception) -> ConfigError:
        return ConfigError(
            f"the warehouse's URL cannot be used: {self._message(error)}",
            where=shown(self._url),
            hint=f"Check the settings behind its `?` ({', '.join(self._url.query) or 'none'});"
            " install with pip what is said to be missing.",
        )

    def _translated(self, model: Model, error: Exception) -> ModelError | WarehouseError:
        twice = self._dialect.named_twice(error) if isinstance(error, DBAPIError) else None
        if twice is not None:
            return named_twice(model, without_secrets(twice, self._url))
        message = self._message(error)
        if (
            isinstance(error, DBAPIError)
            and not error.connection_invalidated
            and self._dialect.is_model_fault(error)
        ):
            return model_error(model, sentence_in(message), line_in(message))
        return read_error(model, sentence_in(message), self._url)

    def _message(self, error: Exception) -> str:
        message = self._dialect.message(error) if isinstance(error, DBAPIError) else str(error)
        return without_secrets(message, self._url)


def _say_who_asks(
    connection: Connection, _cursor: Any, statement: str, parameters: Any, _context: Any, _many: bool
) -> tuple[str, Any]:
    """Put the comment of the model that a connection reads before each of its statements."""
    model = connection.get_execution_options().get(_MODEL)
    return (model.said(statement) if model else statement), parameters


def _description(model: Model, result: CursorResult[Any]) -> Sequence[Sequence[Any]]:
    if not result.returns_rows:
        raise not_a_select(model, "a statement without rows")
    return result.cursor.description


def _reader(model: Model, column: str, type_: ColumnType) -> Reader:
    """How a column is read.

    Raises:
        ModelError: its type has no clear spelling.
    """
    if type_.reader is None:
        raise unspelled(model, column, type_.name, type_.cast)
    return type_.reader


def _batch(
    names: Sequence[str], rows: Sequence[Sequence[Any]], readers: Mapping[int, Reader]
) -> pa.RecordBatch:
    values = list(zip(*rows, strict=True)) if rows else [()] * len(names)
    return batch_of([names[i] for i in readers], [read(values[i]) for i, read in readers.items()])
