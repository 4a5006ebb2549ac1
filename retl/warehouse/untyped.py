"""Columns of databases that do not fix their types: the type is what a batch's values have in common."""

import base64
import json
import math
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

import pyarrow as pa


def inferred(values: Sequence[Any]) -> pa.Array:
    """The values as what they are; as JSON where they are of several types, or nested."""
    kinds = {type(value) for value in values} - {type(None)}
    # Arrow would take a datetime among dates for a date, and a string among bytes for bytes.
    if (len(kinds) > 1 and kinds != {int, float}) or kinds & {dict, list}:
        return as_json(values)
    try:
        array = pa.array(values)
    except (pa.ArrowException, OverflowError):
        return as_json(values)
    if pa.types.is_decimal256(array.type):
        return as_json(values)
    if pa.types.is_timestamp(array.type) and array.type.tz:
        return array.cast(pa.timestamp("us", "UTC"))
    return array


def as_json(values: Sequence[Any]) -> pa.Array:
    """Each value spelled as JSON, so that a number stays a number, with its digits, and a string a string."""
    texts = [None if value is None else _text(value) for value in values]
    return pa.ExtensionArray.from_storage(pa.json_(), pa.array(texts, pa.string()))


def _text(value: Any) -> str:
    if isinstance(value, float | Decimal) and not math.isfinite(value):
        return "null"
    if isinstance(value, Decimal):
        return f"{value:f}"
    if isinstance(value, bytes):
        return json.dumps(base64.b64encode(value).decode())
    return json.dumps(value, ensure_ascii=False, default=str)
