"""A session of a SQL warehouse of Databricks', which answers with Arrow batches. Nobody has tried it live.

A statement is started, and then asked after, so that it can be cancelled at any time.
"""

import logging
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from threading import Event
from typing import Any

import pyarrow as pa
from databricks.sql import connect
from databricks.sql.backend.types import CommandState
from databricks.sql.client import Connection, Cursor
from databricks.sql.exc import Error
from urllib3.exceptions import HTTPError

from retl.address import Address, shown
from retl.errors import ModelError, WarehouseError
from retl.model import Model
from retl.warehouse.arrow import without_rows
from retl.warehouse.base import BATCH_ROWS, Column
from retl.warehouse.databricks_oauth import RefusedError, proxy_to
from retl.warehouse.databricks_settings import PORT, TOKEN_USER, settings
from retl.warehouse.message import model_error, read_error
from retl.warehouse.spark_message import MODELS_STATES, condition_in, first_sentence, line_in, state_in
from retl.warehouse.spark_sql import NOT_ALLOWED, SqlSession

logging.getLogger("databricks").setLevel(logging.CRITICAL)  # an error follows, without rows and the token
logging.getLogger("databricks.sql.unsafe").disabled = True  # it would write down all rows

_DENIED = "PERMISSION_DENIED"
"""The word of Unity Catalog for what the user may not do, where there is no SQLSTATE."""

_CANCELLED = "[OPERATION_CANCELED] the statement was cancelled"

_REACH_SECONDS = 10.0
"""The time in which the host has to be reached; the connector would try for a quarter of an hour."""

_CLOSE_SECONDS = 1.0
"""The time for which the end of a session is tried."""

_FIRST_LOOK, _LATEST_LOOK = 0.02, 0.5
"""Seconds between two questions whether a statement has ended: at first, and at most."""

_BUFFER_BYTES = 16 * 1024 * 1024
"""The most that the server hands over at once."""


class EndedError(Exception):
    """A statement was cancelled, or has ended without a result and without an error."""


class DatabricksSession(SqlSession):
    """A session of a SQL warehouse, whose zone is UTC. Use it in any thread."""

    errors = (EndedError, Error, HTTPError, OSError)

    def __init__(self, address: Address) -> None:
        """Open one.

        Args:
            address: `databricks://token:…@host?http_path=…`, in its parts.

        Raises:
            ConfigError: the URL cannot be used.
            WarehouseError: the warehouse cannot be reached, or does not take the token.
        """
        given = settings(address)
        user = None if address.username == TOKEN_USER else address.username
        self.address = replace(address, username=user, query={})  # as the rest is no secret
        self._operations: set[_Operation] = set()
        self._connection: Connection | None = None
        self._retries: Any = None
        try:
            if proxy_to(address.host or "") is None:
                socket.create_connection((address.host, address.port or PORT), _REACH_SECONDS).close()
            if "credentials_provider" in given:
                given["credentials_provider"]()()
            self._connection = connect(**given)
            self._retries = getattr(self._connection.session.backend, "retry_policy", None)
            if self._retries is None:
                raise EndedError(
                    "it is a real-time SQL warehouse, which retl does not speak to; take another"
                )
            self._retries.read = False  # a statement whose answer is lost may have been executed
            self.execute("SET TIME ZONE 'UTC'")
        except (*self.errors, RefusedError, ImportError) as error:
            self.close()
            # The cause may quote the token.
            raise WarehouseError(
                f"the warehouse cannot be reached: {self.sentence(error)}",
                where=shown(self.address),
                hint="Check that this machine may reach it, the `http_path`, and the token or the secret.",
            ) from None

    def columns(self, sql: str) -> tuple[Column, ...]:
        """The columns of a query, without running it."""
        return tuple(
            Column(row["col_name"], row["data_type"])
            for batch in self.batches(f"DESCRIBE QUERY {sql}")
            for row in batch.to_pylist()
        )

    def batches(self, sql: str) -> Iterator[pa.RecordBatch]:
        """The rows of a query as they come; a result without rows is one batch without rows."""
        with self._executed(sql) as operation:
            cursor = operation.cursor
            cursor.get_async_execution_result()
            table = cursor.fetchmany_arrow(BATCH_ROWS)
            if table.num_rows == 0:
                names = [name for name, *_ in cursor.description or ()]
                is_whole = table.schema.names == names
                yield without_rows(
                    table.schema if is_whole else pa.schema([(one, pa.null()) for one in names])
                )
            while table.num_rows:
                yield from table.to_batches(BATCH_ROWS)
                operation.refuse_cancelled()
                table = cursor.fetchmany_arrow(BATCH_ROWS)

    def execute(self, sql: str) -> None:
        """Execute a command to its end."""
        with self._executed(sql):
            pass

    def sentence(self, error: Exception) -> str:
        """The words of an error, in one sentence and without secrets."""
        return first_sentence(str(error).strip(), self.address)

    def condition(self, error: Exception) -> str | None:
        """Databricks' name for what is wrong; None where it has none."""
        return condition_in(str(error)) or (_DENIED if _DENIED in str(error) else None)

    def state(self, error: Exception) -> str | None:
        """The SQLSTATE of an error."""
        return NOT_ALLOWED if _DENIED in str(error) else state_in(str(error))

    def read_failed(self, model: Model, error: Exception) -> ModelError | WarehouseError:
        """The error for a model that could not be described, read or copied."""
        said = self.sentence(error)
        if (self.state(error) or "").startswith(MODELS_STATES):
            return model_error(model, said, line_in(str(error)))
        return read_error(model, said, self.address)

    def cancel(self) -> None:
        """Have the warehouse stop what it does."""
        for operation in list(self._operations):
            operation.cancel()

    def close(self) -> None:
        """End the session, which a warehouse that is gone has forgotten anyway."""
        if self._retries is not None:
            self._retries.stop_after_attempts_duration = _CLOSE_SECONDS
        if self._connection is not None:
            with suppress(*self.errors):
                self._connection.close()

    @contextmanager
    def _executed(self, sql: str) -> Iterator["_Operation"]:
        """A statement that has been executed; what is left of its result is let go of in the end."""
        assert self._connection is not None
        cursor = self._connection.cursor(arraysize=BATCH_ROWS, buffer_size_bytes=_BUFFER_BYTES)
        operation = _Operation(cursor)
        self._operations.add(operation)
        try:
            cursor.execute_async(sql)
            operation.await_end()
            yield operation
        finally:
            self._operations.discard(operation)
            with suppress(*self.errors):
                cursor.close()


class _Operation:
    """A statement that is being executed or read."""

    def __init__(self, cursor: Cursor) -> None:
        self.cursor = cursor
        self._cancelled = Event()

    def await_end(self) -> None:
        """Wait for the end of the execution."""
        seconds = _FIRST_LOOK
        while (state := self.cursor.get_query_state()) in (CommandState.PENDING, CommandState.RUNNING):
            if self._cancelled.wait(seconds):
                self.cursor.cancel()
                self.refuse_cancelled()
            seconds = min(2 * seconds, _LATEST_LOOK)
        self.refuse_cancelled()
        if state is not CommandState.SUCCEEDED:
            raise EndedError(
                _CANCELLED if state is CommandState.CANCELLED else f"the statement has ended as {state.value}"
            )

    def cancel(self) -> None:
        """Have it end with an error, by its own thread."""
        self._cancelled.set()

    def refuse_cancelled(self) -> None:
        """Raise where it was cancelled."""
        if self._cancelled.is_set():
            raise EndedError(_CANCELLED)
