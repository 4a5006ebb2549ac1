"""Values: one spelling for each type, used for comparing and for sending alike.

A warehouse's types are first reduced to a few canonical ones, in which equal values are equal bits
(an instant is UTC to the millisecond, a NaN is NULL, an array is its JSON text). Canonical values are
what a snapshot holds. From them come the JSON that is sent and the plain text of keys and ids.

Everything here is text: functions take an SQL expression and give an SQL expression for DuckDB.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from retl import sql
from retl.json_values import SAFE_INTEGER, json_string

if TYPE_CHECKING:
    from duckdb.sqltypes import DuckDBPyType  # in DuckDB 1.4.0 it is elsewhere

INTEGERS = {"tinyint", "smallint", "integer", "bigint", "utinyint", "usmallint", "uinteger"}
WIDE_INTEGERS = {"ubigint", "hugeint"}
INSTANTS = {"timestamp", "timestamp_s", "timestamp_ms", "timestamp_ns"}
PLAIN_TEXT = {"uuid", "enum", "time", "time with time zone", "time_ns", "bit"}
ENDLESS_INTEGERS = {"uhugeint", "bignum"}
NESTED = {"list", "array", "struct", "map", "union"}


@dataclass(frozen=True)
class Canonical:
    """A value in canonical form.

    Attributes:
        type: one of BOOLEAN, BIGINT, HUGEINT, DECIMAL(p,s), DOUBLE, VARCHAR, DATE, TIMESTAMP (UTC,
            whole milliseconds) and JSON, as DuckDB spells it; or NULL where there are no values,
            stored as VARCHAR.
        expression: the SQL that yields it.
        exact: the SQL that yields its text in full precision, for keys; None where the value has it.
        zoneless: whether it is, or holds, an instant that names no zone.
    """

    type: str
    expression: str
    exact: str | None = None
    zoneless: bool = False


NOTHING = Canonical("NULL", "NULL::VARCHAR")
"""The canonical form of a column without values."""


def canonical(source: "DuckDBPyType", expression: str, timezone: str) -> Canonical | None:
    """Reduce a warehouse value to canonical form.

    Args:
        source: the DuckDB type of `expression`.
        expression: SQL that yields the value as the warehouse gave it.
        timezone: the IANA zone in which instants without a zone are read.

    Returns:
        None where the type has no canonical form.
    """
    kind = source.id
    if str(source) == "JSON":
        text = f"{expression}::VARCHAR"
        is_null = f"{trimmed(text)} = 'null'"
        # Most texts need no trimming, which takes long.
        known = f"CASE WHEN contains({text}, 'null') THEN CASE WHEN NOT {is_null} THEN {expression} END"
        return Canonical("JSON", f"{known} ELSE {expression} END")
    if str(source) == '"NULL"':
        return NOTHING
    if kind in {"boolean", "varchar"}:
        return Canonical(kind.upper(), expression)
    if kind == "date":
        return Canonical("DATE", _finite(expression))
    if kind in INTEGERS:
        return Canonical("BIGINT", f"{expression}::BIGINT")
    if kind in WIDE_INTEGERS:
        return Canonical("HUGEINT", f"{expression}::HUGEINT")
    if kind == "decimal":
        precision, scale = decimal_shape(str(source))
        if scale == 0:
            wide = "BIGINT" if precision <= 18 else "HUGEINT"
            return Canonical(wide, f"{expression}::{wide}")
        return Canonical(f"DECIMAL({precision},{scale})", expression)
    if kind in {"float", "double"}:
        number = expression if kind == "double" else f"{expression}::VARCHAR::DOUBLE"
        return Canonical("DOUBLE", f"CASE WHEN isfinite({expression}) THEN {number} END")
    if kind == "timestamp with time zone":
        exact = f"strftime({expression} AT TIME ZONE 'UTC', '%Y-%m-%dT%H:%M:%S.%fZ')"
        return Canonical("TIMESTAMP", zoned_instant(expression), exact)
    if kind in INSTANTS:
        # A key stays what it is when the timezone is edited, so it names the zone only as if it were UTC.
        exact = f"strftime({expression}::TIMESTAMP, '%Y-%m-%dT%H:%M:%S.%fZ')"
        instant = local_instant(f"{expression}::TIMESTAMP", timezone)
        return Canonical("TIMESTAMP", instant, exact, zoneless=True)
    if kind in PLAIN_TEXT:
        return Canonical("VARCHAR", f"{expression}::VARCHAR")
    if kind == "interval":
        return Canonical("VARCHAR", _iso_duration(expression))
    if kind == "blob":
        return Canonical("VARCHAR", f"base64({expression})")
    if kind in ENDLESS_INTEGERS or kind in NESTED:
        nested = _nested(source, expression, timezone)
        if nested is not None:
            return Canonical("JSON", f"({nested})::JSON", zoneless=_holds_zoneless(source))
    return None


def _holds_zoneless(source: "DuckDBPyType") -> bool:
    if source.id not in NESTED:
        return source.id in INSTANTS
    return any(_holds_zoneless(child) for child in _children(source).values())


def _children(source: "DuckDBPyType") -> "dict[str, DuckDBPyType]":
    """The types inside a nested type, by their name in it."""
    inside = {name: child for name, child in source.children if not isinstance(child, int | list)}
    return {name: child for name, child in inside.items() if name} if source.id == "union" else inside


def as_json_text(value: Canonical) -> Canonical:
    """The value as text that holds JSON, whatever its type; a JSON null is NULL."""
    if value.type == "NULL":
        return value
    text = value.expression if value.type == "VARCHAR" else json_text(value.type, value.expression)
    return Canonical("VARCHAR", bare_json(text), zoneless=value.zoneless)


def as_json(kind: str, value: str, holds_json: bool) -> str:
    """The JSON text of a value of a canonical type, where a text is JSON already or is none."""
    return value if kind == "NULL" or (kind == "VARCHAR" and holds_json) else json_text(kind, value)


def bare_json(text: str) -> str:
    """The text of JSON without blanks around it; NULL for a JSON null."""
    return f"nullif({trimmed(text)}, 'null')"


def _nested(source: "DuckDBPyType", expression: str, timezone: str, depth: int = 0) -> str | None:
    """The JSON text of a value of any type, NULL where the value is NULL."""
    kind = source.id
    if kind in ENDLESS_INTEGERS:
        small = f"try_cast({expression} AS BIGINT)"
        return _integer_text(f"{small} BETWEEN -{SAFE_INTEGER} AND {SAFE_INTEGER}", expression)
    if kind not in NESTED:
        inner = canonical(source, expression, timezone)
        return None if inner is None else json_text(inner.type, inner.expression)
    children = _children(source)
    if kind == "union":
        members = []
        for tag, child in children.items():
            member = _nested(child, f"union_extract({expression}, {sql.text(tag)})", timezone, depth)
            if member is None:
                return None
            members.append(f"WHEN {sql.text(tag)} THEN {member}")
        return f"CASE union_tag({expression}) {' '.join(members)} END"
    if kind == "struct":
        fields = []
        for key, child in children.items():
            value = _nested(child, f"{expression}[{sql.text(key)}]", timezone, depth)
            if value is None:
                return None
            fields.append(f"{sql.text(json_string(key) + ':')} || coalesce({value}, 'null')")
        inside = f"concat_ws(',', {', '.join(fields)})"
        return f"CASE WHEN {expression} IS NOT NULL THEN '{{' || {inside} || '}}' END"
    item = f"item{depth}"
    if kind == "map":
        key_type, value_type = children["key"], children["value"]
        key_value = canonical(key_type, f"{item}['key']", timezone)
        value = _nested(value_type, f"{item}['value']", timezone, depth + 1)
        if key_value is None or value is None:
            return None
        key_text = f"to_json({plain_text(key_value.type, key_value.expression)})::VARCHAR"
        pair = f"{key_text} || ':' || coalesce({value}, 'null')"
        pairs = f"list_transform(map_entries({expression}), lambda {item}: {pair})"
        return f"CASE WHEN {expression} IS NOT NULL THEN '{{' || {_joined(pairs)} || '}}' END"
    value = _nested(children["child"], item, timezone, depth + 1)
    if value is None:
        return None
    items = f"list_transform({expression}, lambda {item}: coalesce({value}, 'null'))"
    return f"CASE WHEN {expression} IS NOT NULL THEN '[' || {_joined(items)} || ']' END"


def _joined(texts: str) -> str:
    """A list of texts with commas between; of an empty one, DuckDB 1.4 would make NULL."""
    return f"coalesce(array_to_string({texts}, ','), '')"


def _iso_duration(expression: str) -> str:
    """An interval as ISO 8601 has durations, and Postgres too: `P1Y2M3DT4H5M6.7S`, zero as `PT0S`."""
    parts = f"datepart(['year', 'month', 'day', 'hour', 'minute', 'microsecond'], {expression})"
    return f"CASE WHEN {expression} IS NOT NULL THEN {sql.let('part', parts, _DURATION)} END"


_DURATION = """concat(
    'P', nullif(part.year, 0) || 'Y', nullif(part.month, 0) || 'M', nullif(part.day, 0) || 'D',
    CASE WHEN part.hour <> 0 OR part.minute <> 0 OR part.microsecond <> 0 THEN 'T' END,
    nullif(part.hour, 0) || 'H', nullif(part.minute, 0) || 'M',
    CASE WHEN part.microsecond <> 0 THEN concat(
        CASE WHEN part.microsecond < 0 THEN '-' END, abs(part.microsecond) // 1000000,
        rtrim(rtrim('.' || lpad((abs(part.microsecond) % 1000000)::VARCHAR, 6, '0'), '0'), '.'), 'S') END,
    CASE WHEN part.year = 0 AND part.month = 0 AND part.day = 0
        AND part.hour = 0 AND part.minute = 0 AND part.microsecond = 0 THEN 'T0S' END)"""


def zoned_instant(expression: str) -> str:
    """A TIMESTAMP WITH TIME ZONE as UTC in whole milliseconds; NULL for infinities."""
    # Its microseconds are those of UTC already. AT TIME ZONE would ask ICU, which takes ten times as long.
    return f"date_trunc('millisecond', make_timestamp(epoch_us({expression})))"


def local_instant(expression: str, timezone: str) -> str:
    """A TIMESTAMP, read in a zone, as UTC in whole milliseconds; NULL for infinities.

    An hour that the zone's clock skips is read as the later one, an hour that it repeats as the first.
    DuckDB takes the second of the repeated hours, so the offset of the day before is tried as well.
    """
    finite = _finite(expression)
    if timezone == "UTC":
        return f"date_trunc('millisecond', {finite})"
    zone = sql.text(timezone)
    instant = f"(local AT TIME ZONE {zone})"
    shift = f"(local - INTERVAL 24 HOURS - (({instant} - INTERVAL 24 HOURS) AT TIME ZONE {zone}))"
    first = f"({instant} + {shift})"
    chosen = f"CASE WHEN {first} AT TIME ZONE {zone} = local THEN {first} ELSE {instant} END"
    return f"date_trunc('millisecond', {sql.let('local', finite, chosen)} AT TIME ZONE 'UTC')"


def _finite(expression: str) -> str:
    return f"(CASE WHEN isfinite({expression}) THEN {expression} END)"


def json_text(kind: str, expression: str) -> str:
    """The JSON text of a canonical value; NULL where the value is NULL.

    Numbers keep their digits and lose trailing zeros, whole ones beyond `SAFE_INTEGER` are strings,
    instants are ISO 8601 with milliseconds and `Z`, and JSON is passed through as it is.
    """
    if kind in {"BIGINT", "HUGEINT"}:
        return _integer_text(f"{expression} BETWEEN -{SAFE_INTEGER} AND {SAFE_INTEGER}", expression)
    if kind.startswith("DECIMAL") and _whole_digits(kind) >= len(str(SAFE_INTEGER)):
        is_whole = f"{expression} = trunc({expression})"
        is_safe = f"{expression} BETWEEN -{SAFE_INTEGER} AND {SAFE_INTEGER}"
        return _integer_text(f"{is_safe} OR NOT {is_whole}", plain_text(kind, expression))
    if kind == "VARCHAR":
        return f"to_json({expression})::VARCHAR"
    if kind == "JSON":
        return f"{expression}::VARCHAR"
    if kind in {"DATE", "TIMESTAMP"}:
        return f"'\"' || {plain_text(kind, expression)} || '\"'"
    return plain_text(kind, expression)


def _integer_text(is_safe: str, expression: str) -> str:
    return f"CASE WHEN {is_safe} THEN {expression}::VARCHAR ELSE '\"' || {expression}::VARCHAR || '\"' END"


def plain_text(kind: str, expression: str) -> str:
    """The text of a canonical value without quotes, as keys and ids are spelled; NULL where it is NULL."""
    if kind == "VARCHAR":
        return expression
    if kind.startswith("DECIMAL"):
        precision, scale = decimal_shape(kind)
        # DuckDB writes no zero before the point where the type has no room for one.
        text = f"{expression}::VARCHAR"
        text = f"replace({text}, '.', '0.')" if precision == scale else text
        # The check costs a third of rtrim(), and mostly there is nothing to take off.
        return f"CASE WHEN ends_with({text}, '0') THEN rtrim(rtrim({text}, '0'), '.') ELSE {text} END"
    if kind == "DOUBLE":
        # Not a plain cast: DuckDB 2.0 may evaluate it for numbers that the condition keeps out.
        digits = f"try_cast({expression} AS BIGINT)::VARCHAR"
        whole = f"{expression} = trunc({expression}) AND abs({expression}) < 1e18"
        return f"CASE WHEN {whole} THEN {digits} ELSE {expression}::VARCHAR END"
    if kind == "TIMESTAMP":
        return f"strftime({expression}, '%Y-%m-%dT%H:%M:%S.%gZ')"
    if kind == "JSON":
        text = f"{expression}::VARCHAR"
        return f"CASE WHEN {text} LIKE '\"%' THEN {expression} ->> '$' ELSE {text} END"
    return f"{expression}::VARCHAR"


def common_type(one: str, other: str) -> str:
    """The canonical type in which values of both types keep their spelling; JSON holds them all."""
    if one == other or other == "NULL":
        return one
    if one == "NULL":
        return other
    if {one, other} == {"BIGINT", "HUGEINT"}:
        return "HUGEINT"
    if one.startswith("DECIMAL") and other.startswith("DECIMAL"):
        (digits, scale), (other_digits, other_scale) = decimal_shape(one), decimal_shape(other)
        scale_both = max(scale, other_scale)
        precision = max(digits - scale, other_digits - other_scale) + scale_both
        if precision <= 38:
            return f"DECIMAL({precision},{scale_both})"
    return "JSON"


def decimal_shape(kind: str) -> tuple[int, int]:
    """Precision and scale of `DECIMAL(p,s)`."""
    precision, scale = kind.removeprefix("DECIMAL(").removesuffix(")").split(",")
    return int(precision), int(scale)


def converted(kind: str, target: str, expression: str) -> str:
    """A canonical value of one type as another's, with its spelling; NULL where that cannot be."""
    if kind == target:
        return expression
    if kind == "NULL":
        return f"NULL::{target}"
    if target == "JSON":
        return f"({json_text(kind, expression)})::JSON"
    return f"try_cast({plain_text(kind, expression)} AS {target})"


def _whole_digits(kind: str) -> int:
    precision, scale = decimal_shape(kind)
    return precision - scale


def trimmed(text: str) -> str:
    """A text without the blanks that JSON allows around a value."""
    return f"trim({text}, E' \\t\\r\\n')"


def valid_json(expression: str) -> str:
    """True where a text is JSON to the letter of RFC 8259.

    DuckDB's `json_valid` alone lets NaN, infinities and a comma before a closing bracket pass, and numbers
    that are infinite for whoever reads them as floats, such as 1e999.
    """
    strings = sql.text(r'"(?:[^"\\]|\\.)*"')
    slips = sql.text(r"(?i)nan|inf|,\s*[\]}]|[0-9]e\+?0*(309|3[1-9][0-9]|[4-9][0-9]{2}|[0-9]{4,})")
    outside_strings = f"regexp_replace({expression}, {strings}, '\"\"', 'g')"
    # Strings are taken out of the few texts in which anything looks like a slip, as that takes long.
    return (
        f"(json_valid({expression}) AND CASE WHEN regexp_matches({expression}, {slips})"
        f" THEN NOT regexp_matches({outside_strings}, {slips}) ELSE true END)"
    )
