"""Casts: a column's value as the JSON that a field asks for with `as`, or as a moment.

A value that cannot be read becomes NULL, and `unreadable` tells it from a value that is null. Everything here
is text: functions take SQL expressions and give SQL expressions, as in `retl.engine.canonical`.
"""

from retl import sql
from retl.config.sync import Sync, Value
from retl.engine.canonical import json_text, local_instant, plain_text, trimmed, valid_json, zoned_instant
from retl.engine.mapping import SyncMapping
from retl.errors import ConfigError
from retl.json_values import SAFE_INTEGER
from retl.reason import Reason

FIRST_MOMENT, LAST_MOMENT = "TIMESTAMP '0001-01-01'", "TIMESTAMP '9999-12-31 23:59:59.999'"
"""The ends of what ISO 8601 can write with four digits for the year."""

MILLISECONDS = {"s": 1000, "ms": 1}
"""The milliseconds in each unit that a field may name."""

TRUE = ("true", "t", "yes", "y", "on", "1")
FALSE = ("false", "f", "no", "n", "off", "0")

TEXTS = {"VARCHAR", "JSON"}
"""Canonical types whose values may be read as something else."""

_NUMBER = "'^[+-]?([0-9]+[.]?[0-9]*|[.][0-9]+)([eE][+-]?[0-9]+)?$'"
_NAN = "'(?i)^[+-]?(nan|inf(inity)?)$'"


def cast_json(value: Value, kind: str, written: str, timezone: str) -> str:
    """The JSON text of a column's value, as its field asks for it; NULL where it is null or unreadable.

    Args:
        value: the field.
        kind: the canonical type of the column.
        written: the column.
        timezone: the zone of moments that name none.
    """
    match value.as_:
        case "timestamp":
            return json_text("TIMESTAMP", moment(value, kind, written, timezone))
        case "json" if kind in TEXTS:
            return f"nullif({trimmed(f'{written}::VARCHAR')}, 'null')"
        case "text":
            return f"to_json({plain_text(kind, written)})::VARCHAR"
        case "number":
            return _number(kind, written)
        case "boolean":
            words = f"lower({trimmed(_with_plain_numbers(kind, written))})"
            return (
                f"CASE WHEN {words} {_among(TRUE)} THEN 'true' WHEN {words} {_among(FALSE)} THEN 'false' END"
            )
    return json_text(kind, written)


def unreadable(value: Value, kind: str, written: str, timezone: str) -> tuple[str, Reason] | None:
    """The condition under which a value is not what its field asks for, and the reason.

    Args:
        value: the field.
        kind: the canonical type of the column.
        written: the column.
        timezone: the zone of moments that name none.

    Returns:
        A boolean SQL expression and the reason; None where every value of the type can be read.
    """
    if value.as_ == "timestamp":
        return (
            f"{written} IS NOT NULL AND {moment(value, kind, written, timezone)} IS NULL",
            Reason.BAD_TIMESTAMP,
        )
    if value.as_ == "number" and kind in TEXTS:
        no_number = f"{_number(kind, written)} IS NULL"
        return f"{no_number} AND NOT regexp_matches({_words(kind, written)}, {_NAN})", Reason.BAD_NUMBER
    if value.as_ == "boolean" and kind != "BOOLEAN":
        return (
            f"{written} IS NOT NULL AND {cast_json(value, kind, written, timezone)} IS NULL",
            Reason.BAD_BOOLEAN,
        )
    if kind == "JSON" or (kind == "VARCHAR" and value.as_ == "json"):
        return f"NOT {valid_json(f'{written}::VARCHAR')}", Reason.BAD_JSON
    if kind in {"DATE", "TIMESTAMP"}:
        return f"{written} NOT BETWEEN {FIRST_MOMENT} AND {LAST_MOMENT}", Reason.BAD_TIMESTAMP
    return None


def _with_plain_numbers(kind: str, written: str) -> str:
    """The plain text of a value, in which a JSON number such as 1.0 is spelled like one of a column: as 1."""
    text = plain_text(kind, written)
    if kind != "JSON":
        return text
    # A JSON string is what it says, so that the kind of value is asked for beside its text.
    is_number = f"json_type({written}) IN ('BIGINT', 'UBIGINT', 'HUGEINT', 'UHUGEINT', 'DOUBLE')"
    number = f"try_cast({text} AS DOUBLE)"
    of_number = f"CASE {number} WHEN 1 THEN '1' WHEN 0 THEN '0' ELSE {text} END"
    return f"CASE WHEN {is_number} THEN {of_number} ELSE {text} END"


def _among(words: tuple[str, ...]) -> str:
    return f"IN ({', '.join(map(sql.text, words))})"


def _number(kind: str, written: str) -> str:
    """The JSON of a number, of a truth value as 1 or 0, or of a text that is a number to the last digit."""
    if kind == "BOOLEAN":
        return f"CASE WHEN {written} THEN '1' WHEN NOT {written} THEN '0' END"
    if kind not in TEXTS:
        return json_text(kind, written)
    parts = sql.let("digits", f"regexp_extract(words, {_PARTS})", _JSON_NUMBER)
    # What no float holds, such as 1e999, is infinite for readers of JSON.
    is_number = f"regexp_matches(words, {_NUMBER}) AND isfinite(try_cast(words AS DOUBLE))"
    number = f"CASE WHEN {is_number} THEN {parts} END"
    text = sql.let("words", _words(kind, written), number)
    if kind == "VARCHAR":
        return text
    return f"CASE {trimmed(f'{written}::VARCHAR')} WHEN 'true' THEN '1' WHEN 'false' THEN '0' ELSE {text} END"


def _words(kind: str, written: str) -> str:
    return trimmed(plain_text(kind, written))


# Digits stay text throughout, since a number type would cost some.
_PARTS = "'^([+-]?)0*([0-9]*)[.]?([0-9]*?)0*([eE].*)?$', ['sign', 'whole', 'fraction', 'power']"

_JSON_NUMBER = f"""CASE
    WHEN digits.fraction || digits.power <> ''
    THEN concat(
        replace(digits.sign, '+', ''), coalesce(nullif(digits.whole, ''), '0'),
        CASE WHEN digits.fraction <> '' THEN '.' END, digits.fraction, digits.power)
    WHEN digits.whole = '' THEN '0'
    WHEN length(digits.whole) < 16 OR (length(digits.whole) = 16 AND digits.whole <= '{SAFE_INTEGER}')
    THEN replace(digits.sign, '+', '') || digits.whole
    ELSE '"' || replace(digits.sign, '+', '') || digits.whole || '"'
END"""


def moment(value: Value, kind: str, written: str, timezone: str) -> str:
    """A column as an instant in UTC; NULL where it cannot be read as one, or ISO 8601 cannot write it."""
    if kind == "TIMESTAMP":
        instant = written
    elif kind == "DATE":
        instant = local_instant(f"{written}::TIMESTAMP", timezone)
    elif kind in TEXTS and value.unit is None:
        instant = sql.let("words", _words(kind, written), _parsed(timezone))
    elif kind == "BOOLEAN" or value.unit is None:
        return "NULL::TIMESTAMP"
    else:
        milliseconds = f"round(try_cast({plain_text(kind, written)} AS DOUBLE) * {MILLISECONDS[value.unit]})"
        # A CASE alone would not do: DuckDB may compute its branches for numbers that are far too large.
        bounded = "CASE WHEN abs(number) < 1e15 THEN number END"
        instant = f"make_timestamp_ms(try_cast({sql.let('number', milliseconds, bounded)} AS BIGINT))"
    in_range = f"moment BETWEEN {FIRST_MOMENT} AND {LAST_MOMENT}"
    return sql.let("moment", instant, f"CASE WHEN {in_range} THEN moment END")


def _parsed(timezone: str) -> str:
    """The text `words` as an instant, NULL where it is none; a zone in it counts, else the sync's."""
    clock = "[0-9]{1,2}:[0-9]{2}(:[0-9]{2}([.][0-9]+)?)?"
    names_zone = f"regexp_matches(words, '(?i){clock} ?(z|utc|gmt|[+-][0-9]{{2}}(:?[0-9]{{2}})?)$')"
    names_none = f"regexp_matches(words, '^[0-9]{{4}}-[0-9]{{1,2}}-[0-9]{{1,2}}([T ]{clock})?$')"
    zoned, local = "try_cast(words AS TIMESTAMPTZ)", "try_cast(words AS TIMESTAMP)"
    return (
        f"CASE WHEN {names_zone} THEN {zoned_instant(zoned)} "
        f"WHEN {names_none} THEN {local_instant(local, timezone)} END"
    )


def refuse_casts(sync: Sync, mapping: SyncMapping) -> None:
    """Refuse fields that ask for what their column's type cannot give.

    Raises:
        ConfigError: booleans, or numbers without a unit, as moments; or moments as numbers or booleans.
    """
    for value in (*sync.block.moments, *sync.block.values):
        column = value.column or ""
        kind = mapping.types.get(column, "VARCHAR")
        if kind in TEXTS:
            continue
        is_moment = kind in {"DATE", "TIMESTAMP"}
        if value.as_ == "timestamp" and not is_moment and (value.unit is None or kind == "BOOLEAN"):
            what = "booleans" if kind == "BOOLEAN" else "numbers"
            raise ConfigError(
                f"the column `{column}` holds {what}, which are not moments",
                where=sync.where_used(column),
                hint="for seconds or milliseconds since 1970 write "
                f"{{column: {column}, as: timestamp, unit: s}} or unit: ms; else cast it in the model",
            )
        if value.as_ in {"number", "boolean"} and is_moment:
            raise ConfigError(
                f"the column `{column}` holds moments, which are not {value.as_}s",
                where=sync.where_used(column),
                hint="cast it in the model, such as `epoch_ms(created_at)`",
            )
