"""Databases read through an ADBC driver, which hands over Arrow batches and makes no object of a row.

The drivers' own modules for Python's database API would load pandas and more, where those are installed. The
classes beneath do not.
"""

from collections.abc import Callable, Generator, Mapping
from contextlib import closing, suppress
from threading import Lock
from typing import Any, TypeAlias

import pyarrow as pa
from adbc_driver_manager import (
    AdbcConnection,
    AdbcStatement,
    AdbcStatusCode,
    Error,
    NotSupportedError,
    OperationalError,
)
from adbc_driver_manager._reader import AdbcRecordBatchReader

from retl.model import Model
from retl.warehouse.arrow import without_rows

Batches: TypeAlias = Generator[pa.RecordBatch, None, None]
"""Batches that are closed, not only left."""


class ColumnConnection:
    """A connection that answers a query with Arrow batches.

    Use it in one thread, except for `cancel`. Each method raises the driver's `Error`.
    """

    def __init__(self, database: Callable[[], Any], ending: bool = False, counted: bool = False) -> None:
        """Connect.

        Args:
            database: makes the driver's handle of the database.
            ending: whether a model's comment ends a statement; else it begins it.
            counted: whether the driver says how many rows a result has, as it may end one early without
                an error.
        """
        self._ending = ending
        self._counted = counted
        self._model: Model | None = None
        self._closing = Lock()
        self._is_closed = False
        self._statement: AdbcStatement | None = None
        self._database = database()
        try:
            self._connection = AdbcConnection(self._database)
        except Error:
            self._database.close()
            raise

    def read_for(self, model: Model) -> None:
        """Have each statement from now on carry a model's comment."""
        self._model = model

    def execute(self, sql: str) -> None:
        """Execute a statement that gives no rows."""
        with AdbcStatement(self._connection) as statement:
            statement.set_sql_query(self._said(sql))
            statement.execute_update()

    def batches(self, sql: str, options: Mapping[str, str] | None = None) -> Batches:
        """The rows of a query; a result without rows is one batch without rows.

        Close it where it is left in its midst, before the connection.

        Args:
            sql: the query.
            options: the driver's own, of a statement.
        """
        with AdbcStatement(self._connection) as statement:
            statement.set_options(**(options or {}))
            statement.set_sql_query(self._said(sql))
            self._note(statement)
            try:
                yield from self._executed(statement)
            finally:
                self._note(None)

    def cancel(self) -> None:
        """Have the database stop what it executes, from any thread."""
        with self._closing:
            if self._is_closed:
                return
            try:
                self._connection.cancel()
            except NotSupportedError:
                if self._statement is not None:
                    self._statement.cancel()

    def close(self) -> None:
        """Let go of the database."""
        with self._closing:
            self._is_closed = True
            self._connection.close()
            self._database.close()

    def _executed(self, statement: AdbcStatement) -> Batches:
        handle, said = statement.execute_query()
        with closing(AdbcRecordBatchReader._import_from_c(handle.address)) as reader:
            empty, came = True, 0
            try:
                for batch in reader:
                    empty, came = False, came + batch.num_rows
                    yield batch
                if self._counted and came < said:
                    raise OperationalError(
                        f"the result ended after {came:,} of {said:,} rows", status_code=AdbcStatusCode.IO
                    )
                if empty:
                    yield without_rows(reader.schema)
            except GeneratorExit:
                with suppress(Error):
                    self.cancel()  # the rest of the result may be endless
                raise

    def _said(self, sql: str) -> str:
        return self._model.said(sql, self._ending) if self._model else sql

    def _note(self, statement: AdbcStatement | None) -> None:
        """Note what is executed, so that it can be cancelled; nothing, before it is closed."""
        with self._closing:
            self._statement = statement
