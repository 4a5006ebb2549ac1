"""Columns of databases that do not fix their types: a batch's values decide the type."""

import base64
import json
import math
import re
from collections.abc import Sequence
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any

import pyarrow as pa

from retl.json_values import SAFE_INTEGER
from retl.warehouse import parse
from retl.warehouse.base import Parsed


def inferred(values: Sequence[Any]) -> Parsed:
    """The values in the Arrow type of their own type; as JSON where they are of several types, or nested."""
    kinds = {type(value) for value in values} - {type(None)}
    if kinds == {str}:
        return parse.strings(values)
    # Arrow would take a datetime among dates for a date, and a string among bytes for bytes.
    if (len(kinds) > 1 and not _are_doubles(kinds, values)) or kinds & {dict, list}:
        return as_json(values)
    try:
        array = pa.array(values)
    except (pa.ArrowException, OverflowError):
        return as_json(values)
    if pa.types.is_decimal256(array.type):
        return as_json(values)
    if pa.types.is_timestamp(array.type) and array.type.tz:
        array = array.cast(pa.timestamp("us", "UTC"))
    return array, None


def _are_doubles(kinds: set[type], values: Sequence[Any]) -> bool:
    """True where a double spells each number as the integer or the fraction that it is."""
    return kinds == {int, float} and all(
        abs(value) <= SAFE_INTEGER for value in values if isinstance(value, int)
    )


def as_json(values: Sequence[Any]) -> Parsed:
    """Each value spelled as JSON, by the rules that `retl.engine.canonical` has for columns of one type."""
    array, reasons = parse.strings([None if value is None else _text(value) for value in values])
    return parse.as_json(array), reasons


def _text(value: Any) -> str:
    match value:
        case None | bool():
            return json.dumps(value)
        case int():
            return _integer(value)
        case float() | Decimal() if not math.isfinite(value):
            return "null"
        case float():
            return str(int(value)) if value.is_integer() and abs(value) < 1e18 else repr(value)
        case Decimal():
            whole = value.to_integral_value()
            return _integer(int(value)) if value == whole else f"{value:f}".rstrip("0")
        case dict():
            members = (f"{_string(str(key))}:{_text(member)}" for key, member in value.items())
            return "{" + ",".join(members) + "}"
        case list() | tuple():
            return "[" + ",".join(map(_text, value)) + "]"
        case _:
            return _string(_plain(value))


def _plain(value: Any) -> str:
    match value:
        case bytes() | bytearray() | memoryview():
            return base64.b64encode(value).decode()
        case datetime():
            # As a whole column's: without a zone it is UTC.
            utc = value.astimezone(UTC).replace(tzinfo=None) if value.tzinfo else value
            return utc.isoformat(timespec="milliseconds") + "Z"
        case date():
            return value.isoformat()
        case time():
            clock = value.replace(tzinfo=None).isoformat()
            zone = value.isoformat().removeprefix(clock)
            return _without_zeros(clock) + zone.removesuffix(":00")
        case timedelta():
            return _duration(value)
        case _:
            return str(value)


def _duration(value: timedelta) -> str:
    """A span of time as ISO 8601, in hours, minutes and seconds."""
    micros = value // timedelta(microseconds=1)
    sign, rest = ("-", -micros) if micros < 0 else ("", micros)
    seconds, micros = divmod(rest, 1_000_000)
    parts = [(seconds // 3600, "H"), (seconds // 60 % 60, "M")]
    clock = "".join(f"{sign}{number}{unit}" for number, unit in parts if number)
    if seconds % 60 or micros or not clock:
        clock += sign + _without_zeros(f"{seconds % 60}.{micros:06}") + "S"
    return f"PT{clock}"


def _without_zeros(number: str) -> str:
    return re.sub(r"(\.\d*?)0+$", r"\1", number).removesuffix(".")


def _integer(number: int) -> str:
    return str(number) if abs(number) <= SAFE_INTEGER else f'"{number}"'


def _string(text: str) -> str:
    # DuckDB writes the digits of control characters in capitals.
    return re.sub(
        r"\\(?:u[0-9a-f]{4}|.)",
        lambda escape: escape[0] if len(escape[0]) == 2 else "\\u" + escape[0][2:].upper(),
        json.dumps(text, ensure_ascii=False),
    )
