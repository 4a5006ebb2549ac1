"""Postgres' columns as ADBC hands them over, with the same values as `postgres_values` makes of rows.

ADBC takes the binary form in which Postgres copies a query's result. It is asked for a column as it is where
that loses nothing: truth values, integers, floats, texts, bytes, JSON, dates and timestamps. Of all others
the server writes the text, as it does for rows:

- numeric, since ADBC writes its digits more slowly than the server does;
- all else that is read as text anyhow, as enums, UUIDs, times, intervals, money and addresses.

The same holds for the elements of arrays, except that ADBC forgets of how many dimensions an array is. Of
those that have several the server writes the whole text, too.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import pyarrow as pa

from retl.warehouse import parse
from retl.warehouse.base import Parsed
from retl.warehouse.dialect import Columnar
from retl.warehouse.postgres_values import (
    BY_ARRAY_OID,
    PostgresType,
    ValueType,
    items,
    loaded_type,
    of_lists,
    parsed,
    to_arrow,
)

_AS_IT_IS = {16, 17, 20, 21, 23, 25, 114, 700, 701, 1042, 1043, 1082, 1114, 1184, 3802}
"""Types that ADBC hands over as `postgres_values` does, by their numbers."""

_VECTORS = {22, 30}
"""int2vector and oidvector, which no cast takes for arrays."""

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
    if kind.is_array:
        return _array_in_columns(kind, kind.type)
    if kind.oid in _AS_IT_IS:
        is_instant = pa.types.is_temporal(kind.type.arrow)
        return Columnar(_as_it_is, [kind.type.arrow], _instants if is_instant else _sound)
    numeric = partial(parsed, type_=kind.type, precision=precision, scale=scale)
    return Columnar(_text_of_any if kind.has_own_cast else _text, [pa.string()], numeric)


def _array_in_columns(kind: PostgresType, element: ValueType) -> Columnar:
    """How a column of arrays is asked for: those of several dimensions apart, as their text."""
    is_own = kind.oid in BY_ARRAY_OID and element.oid in _AS_IT_IS and loaded_type(element) == element.arrow
    if kind.oid in _VECTORS or (kind.has_own_cast and not is_own):
        return Columnar(_text, [pa.string()], partial(_arrays, None, kind=kind))
    return Columnar(
        partial(_array, cast="" if is_own else "::pg_catalog.text[]"),
        [pa.list_(loaded_type(element)), pa.string()],
        partial(_arrays, kind=kind),
    )


def _as_it_is(name: str) -> Sequence[str]:
    return [name]


def _text(name: str) -> Sequence[str]:
    """The text that the type's output function writes, since the type has no other cast to text."""
    return [f"{name}::pg_catalog.text"]


def _text_of_any(name: str) -> Sequence[str]:
    """The text that the type's output function writes, where a cast is another: inet's adds a mask."""
    return [f"CASE WHEN {name} IS NOT NULL THEN pg_catalog.concat({name}) END"]


def _array(name: str, cast: str) -> Sequence[str]:
    """The elements, and of an array of several dimensions the text."""
    return [
        f"{name}{cast}",
        f"CASE WHEN pg_catalog.array_ndims({name}) > 1 THEN {name}::pg_catalog.text END",
    ]


def _sound(values: pa.Array) -> Parsed:
    return values, None


def _instants(values: pa.Array) -> Parsed:
    """Dates and timestamps without infinities, and without those that have no clear spelling."""
    return parse.within_years(values, _INFINITE[values.type.bit_width])


def _arrays(lists: pa.Array | None, texts: pa.Array, kind: PostgresType) -> Parsed:
    """Arrays by their elements; by the text that Postgres wrote where there is one."""
    assert kind.type is not None
    if lists is not None and texts.null_count == len(texts):
        return of_lists(lists, kind.type)
    leaf = _LEAVES.get(kind.type.oid)
    values = [None] * len(texts) if lists is None else lists.to_pylist()
    for row, text in enumerate(texts.to_pylist()):
        if text is not None:
            values[row] = _loaded(items(text), leaf)
    return to_arrow(values, kind, None, None)


def _loaded(item: Any, leaf: Callable[[str], Any] | None) -> Any:
    if isinstance(item, list):
        return [_loaded(one, leaf) for one in item]
    return item if item is None or leaf is None else leaf(item)
