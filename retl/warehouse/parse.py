"""Values that a database writes as text, as Arrow: parsed a column at a time, with all their digits."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import duckdb
import numpy as np
import pyarrow as pa

from retl.json_values import SAFE_INTEGER
from retl.lazy import lazy_module
from retl.reason import Reason
from retl.warehouse.base import Parsed

if TYPE_CHECKING:
    import pyarrow.compute as pc
else:
    pc = lazy_module("pyarrow.compute")

_WIDEST = 38
"""Digits of the widest decimal that Arrow's decimal128 and DuckDB have."""

_FIRST_DAY, _LAST_DAY = -719_162, 2_932_896
"""The first day of the year 1 and the last of 9999, counted from 1970-01-01."""

_PER_DAY = {"s": 86_400, "ms": 86_400 * 10**3, "us": 86_400 * 10**6, "ns": 86_400 * 10**9}


def decoded(values: Sequence[bytes | None]) -> Parsed:
    """Text from its bytes in UTF-8."""
    raw = pa.array(values, pa.binary())
    try:
        return raw.cast(pa.string()), None
    except pa.ArrowInvalid:
        return strings(
            [None if value is None else value.decode(errors="surrogateescape") for value in values]
        )


def strings(values: Sequence[str | None]) -> Parsed:
    """Texts, among which may be some with half a surrogate pair, or with bytes that Python escaped as one."""
    try:
        return pa.array(values, pa.string()), None
    except UnicodeEncodeError:
        is_bad = [value is not None and not _is_unicode(value) for value in values]
    sound = [None if bad else value for value, bad in zip(values, is_bad, strict=True)]
    return pa.array(sound, pa.string()), _reasons(pa.array(is_bad), Reason.BAD_TEXT)


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def unicode(values: pa.Array) -> Parsed:
    """Values whose texts, nested or not, may not be UTF-8 throughout."""
    if _is_valid(values):
        return values, None
    is_bad = [not _is_valid(values.take([row])) for row in range(len(values))]  # a slice shares all texts
    sound = pa.array([None if bad else row for row, bad in enumerate(is_bad)], pa.int64())
    return values.take(sound), _reasons(pa.array(is_bad), Reason.BAD_TEXT)


def _is_valid(values: pa.Array) -> bool:
    try:
        values.validate(full=True)
    except pa.ArrowInvalid:
        return False
    return True


def as_json(texts: pa.Array) -> pa.Array:
    """Texts that are JSON already."""
    return pa.ExtensionArray.from_storage(pa.json_(), texts)


def without_trailing_zeros(texts: pa.Array) -> pa.Array:
    """The texts without the zeros at the end of a fraction, and without the point where nothing is left."""
    return pc.replace_substring_regex(texts, r"(\.\d*[1-9])0+$|\.0+$", r"\1")


def decimals(
    texts: pa.Array, precision: int | None, scale: int | None, no_numbers: Sequence[str] = ()
) -> pa.Array:
    """Decimals of the column's own scale; without one, of the batch's; what is too wide, as JSON.

    Args:
        texts: plain digits, with a sign and a point or without.
        precision: how many digits they have at most, where that is known.
        scale: how many of them behind the point.
        no_numbers: words that may stand among them, and become NULL.
    """
    if precision is not None and scale is not None:
        # Postgres has scales below 0 and above the precision, Arrow and DuckDB have neither.
        width = precision - scale if scale < 0 else max(precision, scale)
        if width <= _WIDEST:
            kind = pa.decimal128(width, max(scale, 0))
            try:  # to compare with a word would load pandas, as all that makes Arrow of Python's objects does
                return texts.cast(kind)
            except pa.ArrowInvalid:
                return _without(texts, no_numbers).cast(kind)
    texts = _without(texts, no_numbers)
    digits = pc.utf8_ltrim(texts, "-")
    length, point = pc.binary_length(digits), pc.find_substring(digits, ".")
    whole = pc.max(pc.if_else(pc.less(point, 0), length, point)).as_py() or 0
    behind = pc.max(pc.if_else(pc.less(point, 0), 0, pc.subtract(length, pc.add(point, 1)))).as_py() or 0
    # Counted, not tried: Arrow's cast makes a wrong number of one that is too wide, without a word.
    if whole + behind <= _WIDEST:
        return texts.cast(pa.decimal128(_WIDEST, behind))
    return as_json(_json_numbers(texts))


def _without(texts: pa.Array, words: Sequence[str]) -> pa.Array:
    return pc.if_else(pc.is_in(texts, pa.array(words, pa.string())), None, texts) if words else texts


def _json_numbers(texts: pa.Array) -> pa.Array:
    """Numbers as JSON spells them: integers that not every reader keeps are strings."""
    bare = without_trailing_zeros(pc.replace_substring_regex(texts, r"^(-?)0+(\d)", r"\1\2"))
    digits, safe = pc.utf8_ltrim(bare, "-"), str(SAFE_INTEGER)
    length = pc.binary_length(digits)
    is_large = pc.or_(
        pc.greater(length, len(safe)), pc.and_(pc.equal(length, len(safe)), pc.greater(digits, safe))
    )
    is_text = pc.and_(is_large, pc.invert(pc.match_substring(digits, ".")))
    return pc.if_else(is_text, pc.binary_join_element_wise('"', bare, '"', ""), bare)


def instants(texts: pa.Array, kind: pa.DataType, no_instants: Sequence[str] = ()) -> Parsed:
    """Dates, or timestamps in UTC, written as ISO 8601; with a zone's `+00` or without.

    Args:
        texts: as they were written.
        kind: what they become.
        no_instants: words that may stand among them, and become NULL.
    """
    texts = _without(texts, no_instants)
    try:
        return within_years(texts.cast(kind))
    except pa.ArrowInvalid:
        return _instants_one_by_one(texts, kind)


def _instants_one_by_one(texts: pa.Array, kind: pa.DataType) -> Parsed:
    """Parse as `instants` does, for a batch with texts that Arrow does not take."""
    plain = pc.replace_substring(texts, "+00", "") if pa.types.is_timestamp(kind) else texts
    target = "DATE" if pa.types.is_date(kind) else "TIMESTAMP"
    with duckdb.connect() as connection:
        connection.register("texts", pa.table({"text": plain}))
        # DuckDB would take a year before Christ for one after, and words like `epoch` for instants.
        parsed = connection.sql(
            f"SELECT CASE WHEN text SIMILAR TO '[0-9: .-]+' THEN TRY_CAST(text AS {target}) END AS parsed"
            " FROM texts"
        ).to_arrow_table()
    array, _ = within_years(parsed["parsed"].combine_chunks().cast(kind))
    return array, _reasons(pc.and_(texts.is_valid(), array.is_null()), Reason.BAD_TIMESTAMP)


def within_years(array: pa.Array, infinite: Sequence[int] = ()) -> Parsed:
    """Dates and timestamps without those outside the years 1 to 9999; DuckDB's infinities stay.

    Args:
        array: as Arrow counts them from 1970.
        infinite: counts that stand for infinities of another database's; they become NULL.
    """
    if pa.types.is_date32(array.type):
        counted, per_day = array.view(pa.int32()), 1
    else:
        counted, per_day = array.view(pa.int64()), _PER_DAY[array.type.unit]
    first, last = _FIRST_DAY * per_day, (_LAST_DAY + 1) * per_day - 1
    limit = 2**31 - 1 if per_day == 1 else 2**63 - 1
    if last > limit:  # nanoseconds do not reach that far
        return array, None
    if _are_all_within(counted, first, last):
        return array, None
    ends = pc.min_max(counted).as_py()
    if ends["min"] is None or (first <= ends["min"] and ends["max"] <= last):
        return array, None
    if infinite:
        is_none = pc.is_in(counted, pa.array(infinite, counted.type))
        array = pc.if_else(is_none, pa.scalar(None, array.type), array)
        counted = pc.if_else(is_none, pa.scalar(None, counted.type), counted)
    is_infinite = pc.is_in(counted, pa.array([limit, -limit], counted.type))
    is_bad = pc.and_(
        pc.or_(pc.less(counted, first), pc.greater(counted, last)), pc.invert(is_infinite)
    ).fill_null(False)
    if not pc.any(is_bad).as_py():
        return array, None
    return pc.if_else(is_bad, pa.scalar(None, array.type), array), _reasons(is_bad, Reason.BAD_TIMESTAMP)


def _are_all_within(counted: pa.Array, first: int, last: int) -> bool:
    """Whether no count is beyond these, nor what stands in the place of a null.

    Mostly none is, and then Arrow's functions need not be loaded, which takes as long as a small run's work.
    """
    if len(counted) == 0:
        return True
    counts = np.frombuffer(counted.buffers()[1], np.dtype(str(counted.type)))
    counts = counts[counted.offset : counted.offset + len(counted)]
    return bool(first <= counts.min() and counts.max() <= last)


def _reasons(is_bad: pa.Array, reason: Reason) -> pa.Array | None:
    """The reason for each row that is bad; None where none is."""
    if not pc.any(is_bad).as_py():
        return None
    return pc.if_else(is_bad, pa.scalar(reason.value), pa.scalar(None, pa.string()))
