"""Postgres read through ADBC, and by rows where ADBC cannot.

A model is described as it is for a read by rows, through SQLAlchemy: so the server's parser has seen it, and
the types of its columns say how each is asked for. Then one SELECT from the model is copied in binary form,
in a transaction of its own on a connection of its own. Where the server limits the time of a statement, a
cursor is read instead.

It is read by rows where no column is wanted, where the server does not do what ADBC needs (a second
connection, or COPY in binary form, which databases lack that only speak Postgres' protocol), and where
another version of the driver hands over other types.
"""

import logging
import re
from collections.abc import Collection, Iterator, Mapping
from contextlib import closing
from itertools import islice
from pathlib import Path

import adbc_driver_postgresql
import pyarrow as pa
from adbc_driver_manager import Error
from sqlalchemy.engine import URL

from retl.address import without_secrets
from retl.errors import ModelError, WarehouseError
from retl.model import Model
from retl.warehouse.adbc import Batches, ColumnConnection
from retl.warehouse.arrow import pieces
from retl.warehouse.base import (
    BATCH_ROWS,
    Column,
    Warehouse,
    line_in,
    unspelled,
    wanted,
)
from retl.warehouse.dialect import Columnar, ColumnType, as_subquery
from retl.warehouse.message import model_error, read_error
from retl.warehouse.postgres import DIALECT, SETTINGS, is_models, quoted, refuse_writable, words
from retl.warehouse.query import one_query
from retl.warehouse.sqlalchemy import SQLAlchemyWarehouse

_LOG = logging.getLogger("retl.warehouse")

_BEGIN = (
    "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY",
    # Of the transaction, not of the session: behind a pooler that would be other clients' too.
    *(f"SET LOCAL {name} = '{value}'" for name, value in SETTINGS.items()),
)

_ASKED = """
SELECT current_setting('transaction_read_only'), current_setting('statement_timeout')
"""

_BATCH_BYTES = "adbc.postgresql.batch_size_hint_bytes"

_USE_COPY = "adbc.postgresql.use_copy"

_ROW_BYTES = 100
"""The width of a row by which a batch's rows are counted in bytes, the only limit that the driver takes."""

_UNABLE = {"0A000", "42601"}
"""SQLSTATEs of a server without such a COPY: not supported, bad syntax. The model itself was described."""

_PSYCOPGS_OWN = {"autocommit", "prepare_threshold", "row_factory", "cursor_factory", "context"}
"""Settings of a URL that are psycopg's, not libpq's."""


class _UnableError(Exception):
    """The server cannot be read through ADBC; nothing was read."""


class PostgresWarehouse(Warehouse):
    """A Postgres, read by columns."""

    def __init__(self, url: URL, root: Path) -> None:
        """Connect.

        Args:
            url: where the database is.
            root: the project folder.

        Raises:
            ConfigError, WarehouseError: as of `SQLAlchemyWarehouse`.
        """
        self._url = url
        self._by_rows = SQLAlchemyWarehouse(url, root, DIALECT)
        self._address = _conninfo(url, root)
        self._running: set[ColumnConnection] = set()

    def columns(self, model: Model) -> tuple[Column, ...]:
        """The columns of the model's result; see `Warehouse.columns`."""
        return self._by_rows.columns(model)

    def read(
        self, model: Model, columns: Collection[str] | None = None, batch_rows: int = BATCH_ROWS
    ) -> Iterator[pa.RecordBatch]:
        """The model's rows; see `Warehouse.read`."""
        types = dict(self._by_rows.described(model))
        names = wanted(model, list(types), columns)
        asked = {name: _columnar(model, name, types[name]) for name in names}
        try:
            if not names:
                raise _UnableError("no column is wanted")
            yield from self._by_columns(model, asked, batch_rows)
        except _UnableError as reason:
            _LOG.info("model %s is read by rows: %s", model.name, reason)
            yield from self._by_rows.read(model, columns, batch_rows)

    def cancel(self) -> None:
        """Stop what is being read; see `Warehouse.cancel`."""
        self._by_rows.cancel()
        for connection in list(self._running):
            connection.cancel()

    def close(self) -> None:
        """Close the connections."""
        self._by_rows.close()

    def _by_columns(
        self, model: Model, asked: Mapping[str, Columnar], batch_rows: int
    ) -> Iterator[pa.RecordBatch]:
        """The wanted columns, in batches.

        Raises:
            _UnableError: they cannot be read so, and nothing was.
        """
        try:
            connection = ColumnConnection(lambda: adbc_driver_postgresql.connect(self._address))
        except Error as error:
            raise _UnableError(without_secrets(str(error), self._url)) from None
        self._running.add(connection)
        is_under_way = False
        try:
            with closing(_executed(connection, model, asked, batch_rows)) as batches:
                for batch in batches:
                    is_under_way = True
                    yield batch
        except Error as error:
            if error.sqlstate in _UNABLE and not is_under_way:
                raise _UnableError(error.sqlstate) from None
            # The cause may quote the rows.
            raise self._translated(model, error) from None
        finally:
            self._running.discard(connection)
            connection.close()

    def _translated(self, model: Model, error: Error) -> ModelError | WarehouseError:
        said = without_secrets(words(error.sqlstate, _sentence(error)), self._url)
        if is_models(error.sqlstate):
            return model_error(model, said, line_in(str(error)))
        return read_error(model, said, self._url)


def _conninfo(url: URL, root: Path) -> str:
    """The settings with which SQLAlchemy's driver connects, as libpq takes them in one text."""
    engine = DIALECT.engine(url, root)
    _, settings = engine.dialect.create_connect_args(engine.url)
    spelled = {name: re.sub(r"(['\\])", r"\\\1", str(value)) for name, value in settings.items()}
    return " ".join(f"{name}='{value}'" for name, value in spelled.items() if name not in _PSYCOPGS_OWN)


def _columnar(model: Model, name: str, type_: ColumnType) -> Columnar:
    """How a column is asked for.

    Raises:
        ModelError: its type has no clear spelling.
    """
    if type_.columnar is None:
        raise unspelled(model, name, type_.name, type_.cast)
    return type_.columnar


def _executed(
    connection: ColumnConnection, model: Model, asked: Mapping[str, Columnar], batch_rows: int
) -> Batches:
    """The wanted columns of a model, in one transaction."""
    connection.read_for(model)
    for statement in _BEGIN:
        connection.execute(statement)
    (answer,) = connection.batches(_ASKED)
    is_read_only, timeout = (column[0].as_py() for column in answer)
    refuse_writable(is_read_only)
    sources = [source for name, column in asked.items() for source in column.sql(quoted(name))]
    listed = ", ".join(f"{source} AS c{number}" for number, source in enumerate(sources))
    sql = f"SELECT {listed} FROM {as_subquery(one_query(model, DIALECT.grammar))}"
    types = [type_ for column in asked.values() for type_ in column.arrow]
    # A timeout is one of a statement: a COPY is one for all rows, as long as their reader takes.
    way = _copied if timeout == "0" else _fetched
    with closing(way(connection, sql, batch_rows)) as batches:
        for batch in batches:
            if batch.schema.types != types:  # before the first batch is handed over, or never
                raise _UnableError("the driver hands over other types, or the model's columns have changed")
            handed = iter(batch.columns)
            columns = [column.parsed(*islice(handed, len(column.arrow))) for column in asked.values()]
            yield from pieces(list(asked), columns, batch_rows)


def _copied(connection: ColumnConnection, sql: str, batch_rows: int) -> Batches:
    """The rows of a query by one COPY, in batches that are limited by their bytes."""
    return connection.batches(sql, {_BATCH_BYTES: str(batch_rows * _ROW_BYTES)})


def _fetched(connection: ColumnConnection, sql: str, batch_rows: int) -> Batches:
    """The rows of a query from a cursor, by a statement for each batch."""
    connection.execute(f"DECLARE model NO SCROLL CURSOR FOR {sql}")
    fetch, is_first = f"FETCH FORWARD {batch_rows} FROM model", True
    while True:
        rows = 0
        with closing(connection.batches(fetch, {_USE_COPY: "false"})) as batches:
            for batch in batches:
                if batch.num_rows or is_first:
                    yield batch
                rows, is_first = rows + batch.num_rows, False
        if rows < batch_rows:
            return


def _sentence(error: Error) -> str:
    """The server's sentence about an error, or the driver's own."""
    for key, value in error.details:
        if key in ("PG_DIAG_MESSAGE_PRIMARY", b"PG_DIAG_MESSAGE_PRIMARY"):
            return value.decode(errors="replace")
    return re.sub(r"^[A-Z_]+: (\[libpq\] )?", "", str(error)).strip()
