"""The dialect of MySQL and MariaDB; their values as Arrow, with the digits that the server wrote.

PyMySQL is made to hand over each value as the bytes that came, which Arrow parses a column at a time.

MariaDB's JSON is a LONGTEXT and arrives as text. A FLOAT has the six digits with which the server writes it.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import sqlalchemy
from sqlalchemy.engine import URL, Connection, Engine
from sqlalchemy.exc import DBAPIError

from retl.warehouse import parse
from retl.warehouse.base import Parsed
from retl.warehouse.dialect import SUBQUERY_END, ColumnType, Dialect
from retl.warehouse.query import Grammar

_SESSION = (
    "SET SESSION time_zone = '+00:00'",
    "SET SESSION TRANSACTION READ ONLY",
    # The server drops a reader that takes nothing for so many seconds: 60, if nobody says more.
    "SET SESSION net_write_timeout = 3600",
)

_TOKEN = re.compile(
    r"""
    (?P<comment> --(?=\s|$)[^\n]* | \#[^\n]* | /\*.*?\*/ )
  | '(?:\\.|[^'\\])*' | "(?:\\.|[^"\\])*" | `[^`]*`
  | (?P<end> ; )
  | \w+ | \S
    """,
    re.VERBOSE | re.DOTALL,
)
"""A token of SQL, as `retl.warehouse.query.TOKEN`; `#` begins a comment, a backslash escapes a quote."""

_WRITING_FUNCTIONS = re.compile(
    r"get_lock|release_lock|release_all_locks|load_file|nextval|setval|sys_(eval|exec|set)", re.IGNORECASE
)
"""Locks, the server's files, MariaDB's sequences, and functions that somebody installed to run programs."""

_NAMED_TWICE = 1060
"""The error of a subquery with two columns of one name."""

_RAISED = 1644
"""The error of a SIGNAL in a function."""

_UNSIGNED, _ENUM, _SET = 32, 256, 2048
"""Flags of a column."""

_BYTES = 63
"""The character set of columns that are not text."""

_NULL, _BIT, _JSON = 6, 16, 245
_INTEGERS = {
    1: ("tinyint", pa.int8(), pa.uint8()),
    2: ("smallint", pa.int16(), pa.uint16()),
    9: ("mediumint", pa.int32(), pa.uint32()),
    3: ("int", pa.int32(), pa.uint32()),
    8: ("bigint", pa.int64(), pa.uint64()),
    13: ("year", pa.int16(), pa.uint16()),
}
_FLOATS = {4: ("float", pa.float32()), 5: ("double", pa.float64())}
_DECIMALS = {0, 246}
_INSTANTS = {
    7: ("timestamp", pa.timestamp("us")),
    10: ("date", pa.date32()),
    12: ("datetime", pa.timestamp("us")),
    14: ("date", pa.date32()),
}
_TIMESTAMP, _TIME = 7, 11
_TEXTS = {
    15: ("varchar", "varbinary"),
    253: ("varchar", "varbinary"),
    254: ("char", "binary"),
    247: ("enum", "enum"),
    248: ("set", "set"),
    **dict.fromkeys((249, 250, 251, 252), ("text", "blob")),
}
_OTHERS = {_NULL: "null", _BIT: "bit", _JSON: "json", _TIME: "time", 242: "vector", 255: "geometry"}

_OUTSIDE_FAULTS = {
    *(1021, 1037, 1038, 1041, 1114, 1135),  # no room: disk, memory, temporary table, threads
    *(1023, 1024, 1026, 1030, 1034, 1035, 1194, 1195, 1296),  # a table that cannot be read
    *(1040, 1129, 1130, 1203, 1226),  # more connections than are allowed, or from elsewhere
    *(1042, 1043, 1044, 1045, 1049, 1698),  # on connecting
    *(1053, 1077, 1078, 1079, 1080, 1152, 1184, 1317, 1927),  # the server ends, or somebody ended the read
    *(1154, 1155, 1156, 1157, 1158, 1159, 1160, 1161),  # the network
    *(1205, 1206, 1213, 1969, 3024),  # locks and limits of time
}


@dataclass(frozen=True)
class MySQLColumn:
    """The server's description of a column.

    Attributes:
        name: the type's, as SQL writes it.
        code: the type's number.
        is_unsigned: whether a number has no sign.
        is_bytes: whether a string is not text.
        length: how many bytes its text has at most.
        scale: how many digits a decimal has behind the point.
    """

    name: str
    code: int
    is_unsigned: bool
    is_bytes: bool
    length: int
    scale: int

    @property
    def has_spelling(self) -> bool:
        """Whether `to_arrow` can read the column."""
        known = _INTEGERS.keys() | _FLOATS.keys() | _DECIMALS | _INSTANTS.keys() | _TEXTS.keys()
        return self.code in known | {_NULL, _BIT, _JSON, _TIME}


def _engine(url: URL, _root: Path) -> Engine:
    """An engine with PyMySQL and UTF-8, whatever driver and character set the URL names."""
    url = url.set(drivername="mysql+pymysql")
    # Its flags could have the server take several statements at once.
    url = url.difference_update_query(["client_flag"])
    return sqlalchemy.create_engine(url.update_query_dict({"charset": "utf8mb4"}))


def _load_as_bytes(connection: Any) -> None:
    """Have PyMySQL hand over each value as the bytes that came."""
    connection.use_unicode = False
    connection.decoders = {}


def kinds(cursor: Any) -> list[MySQLColumn]:
    """The server's description of a result's columns, of which PyMySQL's own gives only half."""
    return [
        MySQLColumn(
            _name(field.type_code, field.flags, field.charsetnr == _BYTES),
            field.type_code,
            bool(field.flags & _UNSIGNED),
            field.charsetnr == _BYTES,
            field.length,
            field.scale,
        )
        for field in cursor._result.fields
    ]


def _name(code: int, flags: int, is_bytes: bool) -> str:
    if flags & (_ENUM | _SET):
        return "enum" if flags & _ENUM else "set"
    if code in _TEXTS:
        return _TEXTS[code][is_bytes]
    if code in _DECIMALS:
        return "decimal"
    if code in _INTEGERS:
        unsigned = " unsigned" if flags & _UNSIGNED and code != 13 else ""
        return _INTEGERS[code][0] + unsigned
    for named in (_FLOATS, _INSTANTS):
        if code in named:
            return named[code][0]
    return _OTHERS.get(code, f"number {code}")


def _leave_unread(cursor: Any) -> bool:
    """Have PyMySQL not read the rest of a result, which may be endless; true where there is a rest.

    The connection is of no use after that.
    """
    result = cursor._result
    if result is None or not result.unbuffered_active:
        return False
    result.unbuffered_active = False
    return True


def _cancel(engine: Engine, connection: Any) -> None:
    """Cancel over another connection, as the server takes nothing on this one before its answer is read."""
    with engine.connect() as other:
        other.exec_driver_sql(f"KILL QUERY {connection.thread_id()}")


def _types(_connection: Connection, cursor: Any) -> list[ColumnType]:
    """The types of a result's columns."""
    return [_type_of(name, kind) for (name, *_), kind in zip(cursor.description, kinds(cursor), strict=True)]


def _type_of(column: str, kind: MySQLColumn) -> ColumnType:
    """The type of a column of that name."""
    if kind.has_spelling:
        return ColumnType(kind.name, partial(to_arrow, kind=kind))
    cast = f"ST_AsGeoJSON({column})" if kind.name == "geometry" else f"CAST({column} AS CHAR)"
    return ColumnType(kind.name, None, cast)


def _quoted(name: str) -> str:
    """A column's name in SQL."""
    return "`" + name.replace("`", "``") + "`"


def to_arrow(values: Sequence[bytes | None], kind: MySQLColumn) -> Parsed:
    """A column's values in the Arrow type that goes with its type, which has a spelling."""
    nothing = not any(value is not None for value in values)
    # A NULL that went through a subquery is a string of no length.
    if kind.code == _NULL or (nothing and kind.is_bytes and kind.length == 0):
        return pa.nulls(len(values)), None
    if kind.code == _BIT:
        return _bits(values, kind.length), None
    if kind.code in _TEXTS and kind.is_bytes:
        return pa.array(values, pa.binary()), None
    text, reasons = parse.decoded(values)
    if kind.code in _TEXTS:
        return text, reasons
    if kind.code == _JSON:
        return parse.as_json(text), reasons
    if kind.code in _INTEGERS:
        return text.cast(_INTEGERS[kind.code][2 if kind.is_unsigned else 1]), None
    if kind.code in _FLOATS:
        return text.cast(_FLOATS[kind.code][1]), None
    if kind.code in _DECIMALS:
        return _decimals(text, kind), None
    if kind.code == _TIME:
        return parse.without_trailing_zeros(text), None
    array, reasons = parse.instants(text, _INSTANTS[kind.code][1])
    # Only a TIMESTAMP is an instant, which the server gives in the session's zone.
    return array.cast(pa.timestamp("us", "UTC")) if kind.code == _TIMESTAMP else array, reasons


def _bits(values: Sequence[bytes | None], width: int) -> pa.Array:
    """One bit is a truth value, several are a number."""
    numbers = [None if value is None else int.from_bytes(value, "big") for value in values]
    return pa.array(numbers, pa.uint64()).cast(pa.bool_() if width == 1 else pa.uint64())


def _decimals(text: pa.Array, kind: MySQLColumn) -> pa.Array:
    precision = kind.length - (kind.scale > 0) - (not kind.is_unsigned)
    # The zero before the point is not counted where there is no other digit.
    longest = kind.length + (precision == kind.scale)
    if (pc.max(pc.binary_length(text)).as_py() or 0) > longest:
        return parse.decimals(text, None, None)  # wider than the server said
    return parse.decimals(text, precision, kind.scale)


def is_model_fault(code: int) -> bool:
    """Whether the SQL is to blame for an error of that number, rather than the server or the network."""
    is_client_error = code == 0 or 2000 <= code < 3000
    return not is_client_error and code not in _OUTSIDE_FAULTS


def _code(error: DBAPIError) -> int:
    """The number of an error; 0 for an error of PyMySQL's own."""
    code = error.orig.args[0] if error.orig and error.orig.args else 0
    return code if isinstance(code, int) else 0


def _message(error: DBAPIError) -> str:
    """The server's sentence, without its number and without what retl puts around the model's SQL."""
    if _code(error) == _RAISED:
        return (
            "a function raised an exception (1644)"  # in words of its own, which may hold anything of a row
        )
    sentence = str(error.orig.args[-1] if error.orig else error.orig)
    return re.sub(rf"{re.escape(SUBQUERY_END)}( LIMIT 0)?(?=')", "", sentence)


def _named_twice(error: DBAPIError) -> str | None:
    """The name of the column that a subquery has twice."""
    if _code(error) != _NAMED_TWICE:
        return None
    said = _message(error)
    found = re.search("'(.*)'", said)
    return found[1] if found else said


DIALECT = Dialect(
    engine=_engine,
    packages={"pymysql": "'retl[mysql]'"},
    session=_SESSION,
    prepare=_load_as_bytes,
    grammar=Grammar("mysql", _TOKEN, _WRITING_FUNCTIONS, runs_comments=True),
    quoted=_quoted,
    describes_by_subquery=True,
    types=_types,
    cancel=_cancel,
    leave_unread=_leave_unread,
    is_model_fault=lambda error: is_model_fault(_code(error)),
    message=_message,
    named_twice=_named_twice,
)
