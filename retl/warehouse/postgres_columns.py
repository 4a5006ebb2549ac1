"""Postgres' columns as ADBC hands them over, with the same values as `postgres_values` makes of rows.

ADBC takes the binary form in which Postgres copies a query's result. It is asked for a column as it is where
that loses nothing: truth values, integers, floats, texts, bytes, JSON, dates and timestamps. Of all others
the server writes the text, as it does for rows:

- numeric, since ADBC writes its digits more slowly than the server does;
- arrays, since ADBC forgets how many dimensions they have;
- all else that is read as text anyhow, as enums, UUIDs, times, intervals, money and addresses.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from retl.warehouse import parse
from retl.warehouse.base import Parsed
from retl.warehouse.dialect import Columnar
from retl.warehouse.postgres_values import BY_ARRAY_OID, PostgresType, items, parsed, to_arrow

_AS_IT_IS = {16, 17, 20, 21, 23, 25, 114, 700, 701, 1042, 1043, 1082, 1114, 1184, 3802}
"""Types that ADBC hands over as `postgres_values` does, by their numbers."""

_DAYS, _MICROS = 10_957, 946_684_800_000_000
"""From 1970, where Arrow counts from, to 2000, where Postgres does."""

_INFINITE = {
    32: [2**31 - 1 + _DAYS - 2**32, -(2**31) + _DAYS],
    64: [2**63 - 1 + _MICROS - 2**64, -(2**63) + _MICROS],
}
"""Postgres' infinities, its largest and smallest count, after ADBC has added those; by the bits."""

_LEAVES: dict[int, Callable[[str], Any]] = {
    16: lambda text: text == "t",
    17: lambda text: bytes.fromhex(text.removeprefix("\\x")),
    20: int,
    21: int,
    23: int,
    700: float,
    701: float,
}
"""How the elements of arrays are loaded that are not taken for their text, by the numbers of their types."""


def in_columns(kind: PostgresType, precision: int | None, scale: int | None) -> Columnar | None:
    """How a column of that type is asked for, and what is made of it; None where it has no clear spelling.

    Args:
        kind: its type.
        precision: of a numeric column that has one.
        scale: likewise.
    """
    if kind.type is None:
        return None
    text = _text_of_any if kind.has_own_cast else _text
    if kind.is_array:
        return Columnar(text, pa.string(), partial(_arrays, kind=kind))
    if kind.oid in _AS_IT_IS:
        is_instant = pa.types.is_temporal(kind.type.arrow)
        return Columnar(_as_it_is, kind.type.arrow, _instants if is_instant else _sound)
    return Columnar(text, pa.string(), partial(parsed, type_=kind.type, precision=precision, scale=scale))


def _as_it_is(name: str) -> str:
    return name


def _text(name: str) -> str:
    """The text that the type's output function writes, since the type has no other cast to text."""
    return f"{name}::pg_catalog.text"


def _text_of_any(name: str) -> str:
    """The text that the type's output function writes, where a cast is another: inet's adds a mask."""
    return f"CASE WHEN {name} IS NOT NULL THEN pg_catalog.concat({name}) END"


def _sound(values: pa.Array) -> Parsed:
    return values, None


def _instants(values: pa.Array) -> Parsed:
    """Dates and timestamps without infinities, and without those that have no clear spelling."""
    counted = values.view(pa.int32() if pa.types.is_date32(values.type) else pa.int64())
    is_infinite = pc.is_in(counted, pa.array(_INFINITE[counted.type.bit_width], counted.type))
    if pc.any(is_infinite).as_py():
        values = pc.if_else(is_infinite, pa.scalar(None, values.type), values)
    return parse.within_years(values)


def _arrays(texts: pa.Array, kind: PostgresType) -> Parsed:
    """Arrays, of which Postgres wrote the text."""
    values = texts.to_pylist()
    if kind.oid not in BY_ARRAY_OID:
        return to_arrow(values, kind, None, None)
    leaf = _LEAVES.get(BY_ARRAY_OID[kind.oid].oid)
    lists = [None if text is None else _loaded(items(text), leaf) for text in values]
    return to_arrow(lists, kind, None, None)


def _loaded(item: Any, leaf: Callable[[str], Any] | None) -> Any:
    if isinstance(item, list):
        return [_loaded(one, leaf) for one in item]
    return item if item is None or leaf is None else leaf(item)
