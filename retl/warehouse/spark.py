"""Models read from Spark, by columns, through a Spark Connect server."""

from collections.abc import Collection, Iterator
from contextlib import contextmanager

import pyarrow as pa
import pyarrow.compute as pc
from pyspark.errors import PySparkException
from pyspark.sql.types import ArrayType, DataType, MapType, StructField, StructType, VariantType

from retl.address import Address
from retl.model import Model
from retl.warehouse import parse
from retl.warehouse.arrow import passed_on, pieces
from retl.warehouse.base import (
    BATCH_ROWS,
    Column,
    Parsed,
    Warehouse,
    distinct,
    unspelled,
    wanted,
)
from retl.warehouse.dialect import as_subquery
from retl.warehouse.query import one_query
from retl.warehouse.spark_connect import SparkSession
from retl.warehouse.spark_errors import read_failed, unopened
from retl.warehouse.spark_grammar import SPARK

_SPELLED = {
    *("byte", "short", "integer", "long", "float", "double", "decimal", "boolean", "void"),
    *("string", "char", "varchar", "binary", "date", "timestamp", "timestamp_ntz", "time"),
}
"""Spark's types, not nested, that Arrow and DuckDB have."""


class SparkWarehouse(Warehouse):
    """Spark behind a Spark Connect server; each model is a subquery there, which can hold no command."""

    def __init__(self, address: Address) -> None:
        """Open a session.

        Args:
            address: of a server: `sc://host:15002/;token=…;use_ssl=true`, as Spark's own clients have it.

        Raises:
            ConfigError: the client does not take the address.
            WarehouseError: the server cannot be reached, or does not take the token.
        """
        self._address = address
        try:
            self._session = SparkSession(address)
        except (PySparkException, ValueError) as error:
            # The cause may quote the token.
            raise unopened(error, address) from None

    def columns(self, model: Model) -> tuple[Column, ...]:
        """The columns of the model's result; see `Warehouse.columns`."""
        return tuple(Column(field.name, field.dataType.simpleString()) for field in self._schema(model))

    def read(
        self, model: Model, columns: Collection[str] | None = None, batch_rows: int = BATCH_ROWS
    ) -> Iterator[pa.RecordBatch]:
        """The model's rows; see `Warehouse.read`."""
        schema = self._schema(model)
        names = wanted(model, schema.names, columns)
        fields = [schema[name] for name in names]
        for field in fields:
            _refuse_unspelled(model, field)
        if not names:
            yield pa.RecordBatch.from_arrays([], [])
            return
        sql = f"SELECT {', '.join(map(_selected, fields))} FROM {as_subquery(one_query(model, SPARK))}"
        with self._translating(model):
            for batch in self._session.batches(model.said(sql)):
                arrived = zip(fields, batch.columns, strict=True)
                yield from pieces(names, [_arrived(*one) for one in arrived], batch_rows)

    def cancel(self) -> None:
        """Stop what is being read; see `Warehouse.cancel`."""
        self._session.cancel()

    def close(self) -> None:
        """End the session."""
        self._session.close()

    def _schema(self, model: Model) -> StructType:
        sql = f"SELECT * FROM {as_subquery(one_query(model, SPARK))}"
        with self._translating(model):
            schema = self._session.schema(model.said(sql))
        distinct(model, schema.names)
        return schema

    @contextmanager
    def _translating(self, model: Model) -> Iterator[None]:
        """Have what goes wrong be an error of the model or of the warehouse."""
        try:
            yield
        except PySparkException as error:
            # The cause may quote the rows, or the token.
            raise read_failed(model, error, self._address) from None


def _selected(field: StructField) -> str:
    name = "`" + field.name.replace("`", "``") + "`"
    return f"to_json({name}) AS {name}" if isinstance(field.dataType, VariantType) else name


def _refuse_unspelled(model: Model, field: StructField) -> None:
    if not isinstance(field.dataType, VariantType) and not _is_spelled(field.dataType):
        cast = f"CAST({field.name} AS STRING), or to_json({field.name}) where it is nested"
        raise unspelled(model, field.name, field.dataType.simpleString(), cast)


def _is_spelled(kind: DataType) -> bool:
    if isinstance(kind, ArrayType):
        return _is_spelled(kind.elementType)
    if isinstance(kind, MapType):
        return _is_spelled(kind.keyType) and _is_spelled(kind.valueType)
    if isinstance(kind, StructType):
        return all(_is_spelled(field.dataType) for field in kind)
    return kind.typeName() in _SPELLED


def _arrived(field: StructField, values: pa.Array) -> Parsed:
    """A column as retl reads it; a row with text that is not UTF-8, which Spark lets pass, is at fault."""
    values, reasons = parse.unicode(values)
    if isinstance(field.dataType, VariantType):
        return parse.as_json(values), reasons
    read, others = passed_on(values)
    return read, reasons if others is None else others if reasons is None else pc.coalesce(reasons, others)
