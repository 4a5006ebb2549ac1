"""Databases that are hosted services, read through their ADBC drivers.

What is handed over is passed on where DuckDB takes it for what it is, and otherwise made such. A `Service` is
all that is particular to one of them.
"""

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
from adbc_driver_manager import (
    AdbcStatusCode,
    DataError,
    Error,
    IntegrityError,
    NotSupportedError,
    ProgrammingError,
)
from sqlalchemy.engine import URL

from retl.address import shown, without_secrets
from retl.errors import ConfigError, ModelError, WarehouseError
from retl.model import Model
from retl.warehouse import parse
from retl.warehouse.adbc import ColumnConnection
from retl.warehouse.arrow import passed_on, pieces, without_rows
from retl.warehouse.base import (
    BATCH_ROWS,
    Column,
    Parsed,
    Warehouse,
    distinct,
    line_in,
    sentence_in,
    unspelled,
    wanted,
)
from retl.warehouse.dialect import as_subquery
from retl.warehouse.message import model_error, read_error
from retl.warehouse.query import Grammar, one_query

_MODELS_STATES = ("02", "0A", "21", "22", "23", "42", "P0")
"""How SQLSTATE begins where the model's SQL, or a value, is to blame."""


def is_models(error: Error) -> bool:
    """Whether the model's SQL is to blame for an error, by its class, as Python's database API has them.

    Snowflake's driver says of most errors where it met them; then their SQLSTATE tells.
    """
    refused = (AdbcStatusCode.UNAUTHENTICATED, AdbcStatusCode.UNAUTHORIZED)
    kinds = (ProgrammingError, DataError, NotSupportedError, IntegrityError)
    is_vague = error.status_code in (AdbcStatusCode.INTERNAL, AdbcStatusCode.IO)
    if is_vague and (error.sqlstate or "").startswith(_MODELS_STATES):
        return True
    return isinstance(error, kinds) and error.status_code not in refused


@dataclass(frozen=True)
class Service:
    """Everything in which a hosted service differs from others.

    Attributes:
        options: the driver's options for a URL; raises a ConfigError for a setting that it does not know.
        connect: makes the driver's handle of the database from its options.
        quoted: a column's name in SQL.
        grammar: how it reads SQL.
        type_name: the service's name for a column's type, as the driver notes it; empty where it does not.
        json_types: those of these names whose values are JSON, written as text.
        cuts_leading_comments: whether it takes away comments before a statement.
        counts_rows: whether the driver says how many rows a result has, as it may end one early without
            an error.
        described: a query for the columns of a model, whose SQL in brackets stands for `{}`; its rows do not
            count.
        is_models: whether the model's SQL is to blame for an error.
        said: the service's own sentence about an error.
    """

    options: Callable[[URL], Mapping[str, str]]
    connect: Callable[[Mapping[str, str]], Any]
    quoted: Callable[[str], str]
    grammar: Grammar
    type_name: Callable[[pa.Field], str]
    json_types: frozenset[str]
    cuts_leading_comments: bool = False
    counts_rows: bool = False
    described: str = "SELECT * FROM {} LIMIT 0"
    is_models: Callable[[Error], bool] = is_models
    said: Callable[[Error], str] = str


class HostedWarehouse(Warehouse):
    """A hosted service, read by columns; what keeps a model from writing there are the role's grants."""

    def __init__(self, url: URL, service: Service) -> None:
        """Connect.

        Args:
            url: where the database is.
            service: of which kind.

        Raises:
            ConfigError: the URL has a setting that is not known, or that the driver refuses.
            WarehouseError: the service cannot be reached.
        """
        self._url = url
        self._service = service
        self._running: set[ColumnConnection] = set()
        self._ready: list[ColumnConnection] = [self._opened()]

    def columns(self, model: Model) -> tuple[Column, ...]:
        """The columns of the model's result; see `Warehouse.columns`."""
        return tuple(Column(field.name, self._type_name(field)) for field in self._schema(model))

    def read(
        self, model: Model, columns: Collection[str] | None = None, batch_rows: int = BATCH_ROWS
    ) -> Iterator[pa.RecordBatch]:
        """The model's rows; see `Warehouse.read`."""
        schema = self._schema(model)
        names = wanted(model, schema.names, columns)
        if not names:
            yield pa.RecordBatch.from_arrays([], [])
            return
        sql = f"{one_query(model, self._service.grammar)}\n"  # which may end with a comment
        if columns is not None:  # else the model is asked itself, as a SELECT from it would lose its order
            sql = f"SELECT {', '.join(map(self._service.quoted, names))} FROM {as_subquery(sql)}"
        with self._connected(model) as connection, closing(connection.batches(sql)) as batches:
            for batch in batches:
                if not batch.num_columns:  # BigQuery's driver says nothing of a result without rows
                    batch = without_rows(pa.schema([schema.field(name) for name in names]))
                arrived = zip(names, batch.schema, batch.columns, strict=True)
                yield from pieces(
                    names, [self._arrived(model, name, *column) for name, *column in arrived], batch_rows
                )

    def cancel(self) -> None:
        """Stop what is being read; see `Warehouse.cancel`."""
        for connection in list(self._running):
            connection.cancel()

    def close(self) -> None:
        """Close the connections."""
        while self._ready:
            self._ready.pop().close()

    def _schema(self, model: Model) -> pa.Schema:
        sql = self._service.described.replace("{}", as_subquery(one_query(model, self._service.grammar)))
        with self._connected(model) as connection:
            first, *_ = connection.batches(sql)
        distinct(model, first.schema.names)
        return first.schema

    def _arrived(self, model: Model, name: str, field: pa.Field, values: pa.Array) -> Parsed:
        if self._service.type_name(field) in self._service.json_types:
            return parse.as_json(values.cast(pa.string())), None
        if _has_no_spelling(field.type):
            raise unspelled(model, name, self._type_name(field), f"CAST({name} AS …)")
        return passed_on(values)

    def _type_name(self, field: pa.Field) -> str:
        return self._service.type_name(field) or str(field.type)

    @contextmanager
    def _connected(self, model: Model) -> Iterator[ColumnConnection]:
        """A connection; what goes wrong while it is used is an error of the model or the warehouse."""
        connection = self._ready.pop() if self._ready else self._opened()
        self._running.add(connection)
        connection.read_for(model)
        is_whole = False
        try:
            yield connection
            is_whole = True
        except Error as error:
            # The cause may quote the rows, or the URL, password and all.
            raise self._translated(model, error) from None
        finally:
            self._running.discard(connection)
            if is_whole:
                self._ready.append(connection)
            else:
                connection.close()

    def _opened(self) -> ColumnConnection:
        return connected(self._url, self._service)

    def _translated(self, model: Model, error: Error) -> ModelError | WarehouseError:
        said = without_secrets(sentence_in(self._service.said(error)), self._url)
        if self._service.is_models(error):
            return model_error(model, said, line_in(str(error)))
        return read_error(model, said, self._url)


def connected(url: URL, service: Service) -> ColumnConnection:
    """A connection to a hosted service.

    Raises:
        ConfigError: the URL has a setting that is not known, or that the driver refuses.
        WarehouseError: the service cannot be reached.
    """
    options = service.options(url)
    try:
        return ColumnConnection(
            lambda: service.connect(options), service.cuts_leading_comments, service.counts_rows
        )
    except Error as error:
        said = without_secrets(str(error), url)
        if error.status_code in (AdbcStatusCode.INVALID_ARGUMENT, AdbcStatusCode.NOT_IMPLEMENTED):
            raise ConfigError(f"the warehouse's URL cannot be used: {said}", where=shown(url)) from None
        raise WarehouseError(
            f"the warehouse cannot be reached: {said}",
            where=shown(url),
            hint="Check that this machine may reach it, and the URL's user and password.",
        ) from None


def _has_no_spelling(kind: pa.DataType) -> bool:
    """Whether values of a nested type hold what `passed_on` changes only where it is not nested."""
    if not pa.types.is_nested(kind):
        return False
    inner = [kind.field(index).type for index in range(kind.num_fields)]
    return any(pa.types.is_decimal256(one) or _has_no_spelling(one) for one in inner)
