"""Postgres' values as Arrow: the same from either driver, with the digits that Postgres wrote.

Numbers, text, truth values and bytes are taken as the driver loads them. All other types are asked
for as text, which Arrow parses a column at a time: that is exact, and faster than Python objects.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

SESSION = (
    "SET TimeZone = 'UTC'",
    "SET DateStyle = 'ISO'",
    "SET IntervalStyle = 'iso_8601'",
    "SET extra_float_digits = 1",
    # The whole result is read, so the plan that is fastest to the last row is wanted, not to the first.
    "SET cursor_tuple_fraction = 1",
)

_WIDEST = 38
"""Digits of the widest decimal that Arrow's decimal128 and DuckDB have."""


@dataclass(frozen=True)
class _Type:
    oid: int
    array_oid: int
    arrow: pa.DataType
    as_text: bool = True


_NUMERIC = 1700
_TYPES = (
    _Type(16, 1000, pa.bool_(), as_text=False),
    _Type(17, 1001, pa.binary(), as_text=False),
    _Type(20, 1016, pa.int64(), as_text=False),
    _Type(21, 1005, pa.int16(), as_text=False),
    _Type(23, 1007, pa.int32(), as_text=False),
    _Type(25, 1009, pa.string()),
    _Type(114, 199, pa.json_()),
    _Type(700, 1021, pa.float32(), as_text=False),
    _Type(701, 1022, pa.float64(), as_text=False),
    _Type(1042, 1014, pa.string()),
    _Type(1043, 1015, pa.string()),
    _Type(1082, 1182, pa.date32()),
    _Type(1114, 1115, pa.timestamp("us")),
    _Type(1184, 1185, pa.timestamp("us", "UTC")),
    _Type(_NUMERIC, 1231, pa.decimal128(_WIDEST, 0)),
    _Type(2950, 2951, pa.string()),
    _Type(3802, 3807, pa.json_()),
)
_BY_OID = {type_.oid: type_ for type_ in _TYPES}
_BY_ARRAY_OID = {type_.array_oid: type_ for type_ in _TYPES}


def load_as_text(connection: Any) -> None:
    """Have psycopg (3 or 2) load every type as text that `to_arrow` does not take as the driver's own."""
    if hasattr(connection, "adapters"):
        _psycopg3_loads_text(connection)
    else:
        _psycopg2_loads_text(connection)


def _psycopg3_loads_text(connection: Any) -> None:
    from psycopg.types.string import TextLoader  # only one of the two drivers need be installed

    for info in connection.adapters.types:
        if info.oid not in _BY_OID or _BY_OID[info.oid].as_text:
            connection.adapters.register_loader(info.oid, TextLoader)
        if info.array_oid and info.array_oid not in _BY_ARRAY_OID:
            connection.adapters.register_loader(info.array_oid, TextLoader)


def _psycopg2_loads_text(connection: Any) -> None:
    from psycopg2 import extensions  # only one of the two drivers need be installed

    own = {oid for type_ in _TYPES if not type_.as_text for oid in (type_.oid, type_.array_oid)}
    texts = {*extensions.string_types, *_BY_OID} - own
    extensions.register_type(extensions.new_type(tuple(texts), "TEXT", extensions.UNICODE), connection)
    for type_ in _TYPES:
        if type_.as_text:
            text = extensions.new_type((type_.oid,), "TEXT", extensions.UNICODE)
            extensions.register_type(
                extensions.new_array_type((type_.array_oid,), "TEXTARRAY", text), connection
            )


def to_arrow(values: Sequence[Any], oid: int, precision: int | None, scale: int | None) -> pa.Array | None:
    """A column's values in the Arrow type that goes with its Postgres type.

    Args:
        values: as loaded by a connection that `load_as_text` has seen.
        oid: the type.
        precision: of a numeric column that has one.
        scale: likewise.

    Returns:
        The array; None where the values do not fit: an array of more than one dimension.
    """
    if oid in _BY_ARRAY_OID:
        element = _BY_ARRAY_OID[oid]
        try:
            lists = pa.array(values, pa.list_(pa.string() if element.as_text else element.arrow))
        except (pa.ArrowInvalid, pa.ArrowTypeError):
            return None
        items = _parsed(lists.values, element, None, None)
        return pa.ListArray.from_arrays(lists.offsets, items, mask=lists.is_null())
    type_ = _BY_OID.get(oid)
    if type_ is None:
        return pa.array(values, pa.string())
    loaded = pa.array(values, pa.string() if type_.as_text else type_.arrow)
    return _parsed(loaded, type_, precision, scale)


def _parsed(loaded: pa.Array, type_: _Type, precision: int | None, scale: int | None) -> pa.Array:
    if not type_.as_text or type_.arrow == pa.string():
        return loaded
    if type_.arrow == pa.json_():
        return pa.ExtensionArray.from_storage(pa.json_(), loaded)
    if type_.oid == _NUMERIC:
        return _decimals(loaded, precision, scale)
    try:
        return loaded.cast(type_.arrow)
    except pa.ArrowInvalid:
        return _instants_far_off(loaded, type_.arrow)


def _decimals(texts: pa.Array, precision: int | None, scale: int | None) -> pa.Array:
    """Decimals of the column's own scale; without one, of the batch's; what is too wide, as JSON numbers.

    NaN and the infinities, which neither decimals nor JSON have, become null.
    """
    finite = pc.if_else(pc.is_in(texts, pa.array(["NaN", "Infinity", "-Infinity"])), None, texts)
    if precision is not None and scale is not None:
        # Postgres has scales below 0 and above the precision, Arrow and DuckDB have neither.
        width = precision - scale if scale < 0 else max(precision, scale)
        if width <= _WIDEST:
            return finite.cast(pa.decimal128(width, max(scale, 0)))
    digits = pc.utf8_ltrim(finite, "-")
    length, point = pc.binary_length(digits), pc.find_substring(digits, ".")
    whole = pc.max(pc.if_else(pc.less(point, 0), length, point)).as_py() or 0
    decimals = pc.max(pc.if_else(pc.less(point, 0), 0, pc.subtract(length, pc.add(point, 1)))).as_py() or 0
    # Counted, not tried: Arrow's cast makes a wrong number of one that is too wide, without a word.
    if whole + decimals <= _WIDEST:
        return finite.cast(pa.decimal128(_WIDEST, decimals))
    return pa.ExtensionArray.from_storage(pa.json_(), finite)


def _instants_far_off(texts: pa.Array, arrow: pa.DataType) -> pa.Array:
    """Dates and timestamps among which are infinities, or years outside 1 to 9999.

    Arrow does not parse these, DuckDB does: its infinities are ends of Arrow's range, and come back
    as infinities wherever DuckDB reads the batch. Postgres' last years, after 294246, stay text.
    """
    plain = pc.replace_substring(texts, "+00", "") if pa.types.is_timestamp(arrow) else texts
    plain = pc.replace_substring_regex(plain, r"^(\S+)(.*) BC$", r"\1 (BC)\2")
    target = "DATE" if pa.types.is_date(arrow) else "TIMESTAMP"
    with duckdb.connect() as connection:
        connection.register("texts", pa.table({"text": plain}))
        try:
            parsed = connection.sql(f"SELECT CAST(text AS {target}) AS parsed FROM texts").to_arrow_table()
        except duckdb.ConversionException:
            return texts
    return parsed["parsed"].combine_chunks().cast(arrow)
