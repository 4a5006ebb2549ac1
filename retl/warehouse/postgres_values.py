"""Values of Postgres as Arrow, the same from either driver, with the digits that it wrote.

Numbers, truth values and bytes are taken as the driver loads them. All other types are asked for as text,
which Arrow parses a column at a time: that is exact, and faster than Python objects.

Only types whose text is what anybody would expect are read as text; for others a model has to say what
they shall be.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from retl.reason import Reason
from retl.warehouse import parse, untyped
from retl.warehouse.base import Parsed


@dataclass(frozen=True)
class ValueType:
    """How the values of a type, and the elements of its arrays, become Arrow.

    Attributes:
        oid: Postgres' number of the type; 0 for any type that is taken for its text.
        array_oid: the number of its arrays.
        arrow: what its values become.
        as_text: whether they are asked for as text.
    """

    oid: int
    array_oid: int
    arrow: pa.DataType
    as_text: bool = True


NUMERIC = 1700
TYPES = (
    ValueType(16, 1000, pa.bool_(), as_text=False),
    ValueType(17, 1001, pa.binary(), as_text=False),
    ValueType(20, 1016, pa.int64(), as_text=False),
    ValueType(21, 1005, pa.int16(), as_text=False),
    ValueType(23, 1007, pa.int32(), as_text=False),
    ValueType(25, 1009, pa.string()),
    ValueType(114, 199, pa.json_()),
    ValueType(700, 1021, pa.float32(), as_text=False),
    ValueType(701, 1022, pa.float64(), as_text=False),
    ValueType(1042, 1014, pa.string()),
    ValueType(1043, 1015, pa.string()),
    ValueType(1082, 1182, pa.date32()),
    ValueType(1114, 1115, pa.timestamp("us")),
    ValueType(1184, 1185, pa.timestamp("us", "UTC")),
    ValueType(NUMERIC, 1231, pa.decimal128(38, 0)),
    ValueType(2950, 2951, pa.string()),
    ValueType(3802, 3807, pa.json_()),
)
BY_OID = {type_.oid: type_ for type_ in TYPES}
BY_ARRAY_OID = {type_.array_oid: type_ for type_ in TYPES}
OTHER = ValueType(0, 0, pa.string())
"""Any type that is taken for its text."""


@dataclass(frozen=True)
class PostgresType:
    """Postgres' description of a type.

    Attributes:
        oid: its number.
        name: as SQL writes it.
        is_array: whether its values are arrays.
        is_row: whether they are rows.
        type: how a value, or an array's element, is read; None where it has no clear spelling.
        has_own_cast: whether its cast to text may be another than what Postgres writes for it.
    """

    oid: int
    name: str
    is_array: bool
    is_row: bool
    type: ValueType | None
    has_own_cast: bool = False


def to_arrow(values: Sequence[Any], kind: PostgresType, precision: int | None, scale: int | None) -> Parsed:
    """A column's values in the Arrow type that goes with its Postgres type.

    Args:
        values: as loaded by a connection that `load_as_text` has seen, an array as its elements or its text.
        kind: the type, which has a spelling.
        precision: of a numeric column that has one.
        scale: likewise.
    """
    assert kind.type is not None
    if not kind.is_array:
        return parsed(pa.array(values, loaded_type(kind.type)), kind.type, precision, scale)
    values = [items(value) if isinstance(value, str) else value for value in values]
    depths = {_dimensions(value) for value in values if value}
    if len(depths) > 1:
        return _json_lists(values, kind.type)
    shape = loaded_type(kind.type)
    for _ in range(max(depths, default=1)):
        shape = pa.list_(shape)
    return of_lists(pa.array(values, shape), kind.type)


def _dimensions(value: Any) -> int:
    return 1 + _dimensions(value[0]) if isinstance(value, list) else 0


def loaded_type(type_: ValueType) -> pa.DataType:
    """The type of values, or of elements, as they are loaded."""
    return pa.string() if type_.as_text else type_.arrow


def of_lists(lists: pa.Array, type_: ValueType) -> Parsed:
    """Arrays whose elements are as they were loaded, in the Arrow type that goes with their type."""
    is_nested = pa.types.is_list(lists.type.value_type)
    items, reasons = of_lists(lists.values, type_) if is_nested else parsed(lists.values, type_, None, None)
    array = pa.ListArray.from_arrays(lists.offsets, items, mask=lists.is_null())
    if reasons is not None:
        rows = pc.list_parent_indices(lists).filter(reasons.is_valid())
        reasons = _at_rows(len(lists), set(rows.to_pylist()))
    return array, reasons


def _json_lists(values: Sequence[Any], type_: ValueType) -> Parsed:
    """Arrays of several dimensions among those of fewer, for which Arrow has no type, as JSON."""
    found = [(row, leaf) for row, value in enumerate(values) if value is not None for leaf in _leaves(value)]
    items, reasons = parsed(pa.array([leaf for _, leaf in found], loaded_type(type_)), type_, None, None)
    if pa.types.is_float32(items.type):
        items = items.cast(pa.string()).cast(pa.float64())  # 0.1 is 0.1, not the double next to it
    spelled = items if items.type == pa.json_() else untyped.as_json(items.to_pylist())[0]
    leaves = iter(spelled.storage.to_pylist())
    array = parse.as_json(
        pa.array([None if value is None else _json_list(value, leaves) for value in values], pa.string())
    )
    if reasons is not None:
        bad = zip(found, reasons.is_valid().to_pylist(), strict=True)
        reasons = _at_rows(len(values), {row for (row, _), is_bad in bad if is_bad})
    return array, reasons


def _leaves(value: Any) -> Iterator[Any]:
    for item in value:
        if isinstance(item, list):
            yield from _leaves(item)
        else:
            yield item


def _json_list(value: Sequence[Any], leaves: Iterator[str | None]) -> str:
    items = (_json_list(item, leaves) if isinstance(item, list) else next(leaves) or "null" for item in value)
    return f"[{','.join(items)}]"


def _at_rows(count: int, rows: set[int]) -> pa.Array:
    return pa.array(
        [Reason.BAD_TIMESTAMP.value if row in rows else None for row in range(count)], pa.string()
    )


_ITEM = re.compile(r'"(?P<quoted>(?:[^"\\]|\\.)*)"|(?P<brace>[{}])|(?P<plain>[^{},"]+)', re.DOTALL)


def items(text: str) -> list[Any]:
    """The elements of an array that Postgres wrote as text, each a text or None."""
    if "{" not in text:  # int2vector and oidvector: `1 2`
        return list(text.split())
    open_lists: list[list[Any]] = [[]]
    # The text before the first brace says only at which number the elements begin.
    for item in _ITEM.finditer(text, text.index("{")):
        if item["quoted"] is not None:
            open_lists[-1].append(re.sub(r"\\(.)", r"\1", item["quoted"], flags=re.DOTALL))
        elif item["plain"] is not None:
            open_lists[-1].append(None if item["plain"] == "NULL" else item["plain"])
        elif item["brace"] == "{":
            open_lists.append([])
        else:
            done = open_lists.pop()
            open_lists[-1].append(done)
    whole: list[Any] = open_lists[0][0]
    return whole


def parsed(loaded: pa.Array, type_: ValueType, precision: int | None, scale: int | None) -> Parsed:
    """Values, or elements of arrays, in the Arrow type that goes with their Postgres type.

    Args:
        loaded: as Arrow takes them from the driver.
        type_: their type.
        precision: of a numeric column that has one.
        scale: likewise.
    """
    if not type_.as_text or type_.arrow == pa.string():
        return loaded, None
    if type_.arrow == pa.json_():
        return parse.as_json(loaded), None
    if type_.oid == NUMERIC:
        # Neither decimals nor JSON have these.
        return parse.decimals(loaded, precision, scale, ("NaN", "Infinity", "-Infinity")), None
    return parse.instants(loaded, type_.arrow, ("infinity", "-infinity"))
