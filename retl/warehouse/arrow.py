"""Columns of Arrow, from whatever driver hands them over, as retl reads them."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import pyarrow as pa

from retl.lazy import lazy_module
from retl.warehouse import parse
from retl.warehouse.base import Parsed, batch_of

if TYPE_CHECKING:
    import pyarrow.compute as pc
else:
    pc = lazy_module("pyarrow.compute")


def passed_on(values: pa.Array) -> Parsed:
    """A column as retl reads it: decimals with all digits, instants in UTC with microseconds."""
    kind = values.type
    if pa.types.is_decimal256(kind):
        texts = [None if value is None else f"{value:f}" for value in values.to_pylist()]
        return parse.decimals(parse.without_trailing_zeros(pa.array(texts, pa.string())), None, None), None
    if pa.types.is_timestamp(kind):
        if kind.unit == "ns":
            values = pc.floor_temporal(values, unit="microsecond")
        return parse.within_years(values.cast(pa.timestamp("us", "UTC" if kind.tz else None)))
    if pa.types.is_date(kind):
        return parse.within_years(values.cast(pa.date32()))
    if pa.types.is_time(kind):
        return values.cast(pa.time64("us"), safe=False), None
    return values, None


def without_rows(schema: pa.Schema) -> pa.RecordBatch:
    """A batch of that schema without rows."""
    return pa.RecordBatch.from_arrays([pa.nulls(0, field.type) for field in schema], schema=schema)


def pieces(names: Sequence[str], columns: Sequence[Parsed], rows: int) -> Iterator[pa.RecordBatch]:
    """The batch of these columns in pieces of at most so many rows, without a copy; at least one."""
    length = len(columns[0][0])
    for start in range(0, max(length, 1), rows):
        yield batch_of(
            names, [(values.slice(start, rows), _slice(reasons, start, rows)) for values, reasons in columns]
        )


def _slice(reasons: pa.Array | None, start: int, rows: int) -> pa.Array | None:
    if reasons is None or (part := reasons.slice(start, rows)).null_count == len(part):
        return None
    return part
