"""The dialect of Postgres; its values as Arrow, the same from either driver, with the digits it wrote.

Numbers, text, truth values and bytes are taken as the driver loads them. All other types are asked
for as text, which Arrow parses a column at a time: that is exact, and faster than Python objects.

Only types whose text is what anybody would expect are read as text; for others a model has to say what
they shall be.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import sqlalchemy
from sqlalchemy.engine import URL, Connection, Engine
from sqlalchemy.exc import DBAPIError

from retl.errors import WarehouseError
from retl.reason import Reason
from retl.warehouse import parse, untyped
from retl.warehouse.base import Parsed
from retl.warehouse.dialect import ColumnType, Dialect, is_model_fault
from retl.warehouse.query import Grammar

_SESSION = (
    "SET TimeZone = 'UTC'",
    "SET DateStyle = 'ISO'",
    "SET IntervalStyle = 'iso_8601'",
    "SET extra_float_digits = 1",
    # The whole result is read, so the plan that is fastest to the last row is wanted, not to the first.
    "SET cursor_tuple_fraction = 1",
)

_READ_ONLY = "25006"
"""The SQLSTATE of a write in a read-only transaction."""

_RAISED = "P0001"
"""The SQLSTATE of a RAISE in a function."""

_WRITING_FUNCTIONS = re.compile(
    r"""
    nextval | setval | set_config | pg_notify | pg_logical_emit_message
  | pg_(try_)?advisory_\w+ | pg_(cancel|terminate)_backend | pg_log_backend_memory_contexts
  | lo_(create|creat|open|import|export|unlink|put|from_bytea|truncate|truncate64) | lowrite
  | dblink(_exec|_connect|_connect_u|_open|_send_query)? | pg_file_(write|sync|rename|unlink)
  | pg_read_(binary_)?file
  | pg_(create|copy)_(physical|logical)_replication_slot | pg_drop_replication_slot
  | pg_replication_slot_advance | pg_logical_slot_get(_binary)?_changes
  | pg_(reload_conf|rotate_logfile|switch_wal|create_restore_point|promote|wal_replay_(pause|resume))
  | pg_(backup_start|backup_stop|start_backup|stop_backup) | pg_stat(_statements)?_reset\w*
  | pg_import_system_collations | pg_replication_origin_\w+ | pg_sync_replication_slots
  | pg_(export|log_standby)_snapshot | pg_ls_\w+ | pg_stat_file | gin_clean_pending_list | brin_\w+
  | ts_stat | (query|cursor)_to_xml\w*
    """,
    re.VERBOSE | re.IGNORECASE,
)
"""Functions that change or lock something, or leave the database, though the transaction is read-only."""

_OPENED = """
DO $retl$
DECLARE model refcursor;
BEGIN
    OPEN model FOR EXECUTE current_setting('retl.model');
    CLOSE model;
END
$retl$
"""
"""Plans the text that a setting holds; it is refused where it is not one query."""


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
    _Type(_NUMERIC, 1231, pa.decimal128(38, 0)),
    _Type(2950, 2951, pa.string()),
    _Type(3802, 3807, pa.json_()),
)
_BY_OID = {type_.oid: type_ for type_ in _TYPES}
_BY_ARRAY_OID = {type_.array_oid: type_ for type_ in _TYPES}
_OTHER = _Type(0, 0, pa.string())
"""Any type that is taken for its text."""

_TEXT_CATEGORIES = frozenset("SENDTVIX")
"""Strings, enums, numbers as money, dates and times, intervals, bits, networks, and the type `unknown`."""

_TEXT_OIDS = {18, 142, 774, 829, 3220}
"""Of other categories: "char", xml, macaddr8, macaddr, pg_lsn."""


@dataclass(frozen=True)
class PostgresType:
    """Postgres' description of a type.

    Attributes:
        oid: its number.
        name: as SQL writes it.
        is_array: whether its values are arrays.
        is_row: whether they are rows.
        type: how a value, or an array's element, is read; None where it has no clear spelling.
    """

    oid: int
    name: str
    is_array: bool
    is_row: bool
    type: _Type | None


_KINDS = """
SELECT t.oid::text, format_type(t.oid, NULL), t.typcategory::text, t.typtype::text, b.oid::text,
    b.typcategory::text, b.typtype::text
FROM pg_type AS t
LEFT JOIN pg_type AS e ON t.typcategory = 'A' AND e.oid = t.typelem
LEFT JOIN pg_type AS b ON b.oid = CASE WHEN e.typtype = 'd' THEN e.typbasetype ELSE e.oid END
WHERE t.oid IN ({oids})
"""


def kinds(connection: Connection, oids: Iterable[int]) -> Mapping[int, PostgresType]:
    """The database's description of these types, by their numbers."""
    listed = ", ".join(map(str, {int(oid) for oid in oids}))
    if not listed:
        return {}
    found = {}
    for oid, name, category, form, *element in connection.exec_driver_sql(_KINDS.format(oids=listed)):
        type_ = _how_to_read(*element) if category == "A" else _how_to_read(oid, category, form)
        if category == "A" and int(oid) not in _BY_ARRAY_OID and type_ and not type_.as_text:
            type_ = None  # an array of a domain over a type that only the driver can read
        is_row = form == "c" or name == "record"
        found[int(oid)] = PostgresType(int(oid), name, category == "A", is_row, type_)
    return found


def _how_to_read(oid: str | None, category: str | None, form: str | None) -> _Type | None:
    if oid is None or category is None:
        return None
    if int(oid) in _BY_OID:
        return _BY_OID[int(oid)]
    is_text = int(oid) in _TEXT_OIDS or (form in ("b", "e") and category in _TEXT_CATEGORIES)
    return _OTHER if is_text else None


def _types(connection: Connection, cursor: Any) -> list[ColumnType]:
    """The types of a result's columns."""
    found = kinds(connection, [column[1] for column in cursor.description])
    return [_type_of(column, found[column[1]]) for column in cursor.description]


def _type_of(column: Sequence[Any], kind: PostgresType) -> ColumnType:
    """The type of a column that the driver describes so."""
    if kind.type is None:
        return ColumnType(kind.name, None, _cast(column[0], kind))
    return ColumnType(kind.name, partial(to_arrow, kind=kind, precision=column[4], scale=column[5]))


def _cast(column: str, kind: PostgresType) -> str:
    """SQL that gives a column of a type without a clear spelling one."""
    if kind.name.rpartition(".")[2] in ("geometry", "geography"):
        return f"ST_AsGeoJSON({column})::json"
    if kind.is_array or kind.is_row or kind.name.rpartition(".")[2] == "hstore":
        return f"to_jsonb({column})"
    return f"{column}::text"


def _quoted(name: str) -> str:
    """A column's name in SQL."""
    return '"' + name.replace('"', '""') + '"'


def _engine(url: URL, _root: Path) -> Engine:
    """An engine with the driver that is installed, whichever the URL names."""
    driver = "psycopg" if find_spec("psycopg") else "psycopg2"
    url = url.set(drivername=f"postgresql+{driver}")
    # A database with the encoding SQL_ASCII would have the driver take ASCII.
    return sqlalchemy.create_engine(
        url.update_query_dict({"client_encoding": "utf8"}), use_native_hstore=False
    )


def _prepare(connection: Any) -> None:
    """Keep the session's settings, whatever becomes of the transaction, and have values loaded as text."""
    connection.commit()
    load_as_text(connection)


def _begin(connection: Connection, sql: str) -> None:
    """See that the transaction is read-only, and have the server see that the text is one query.

    psycopg sends one statement at a time. psycopg2 sends a text with all statements in it, so the server
    is first given the text as a value, which only its own parser reads.

    `default_transaction_read_only` is left alone: behind a pooler it would be set for other clients too.
    """
    if connection.exec_driver_sql("SHOW transaction_read_only").scalar() != "on":
        raise WarehouseError("the server does not keep the transaction read-only; nothing was read")
    if connection.dialect.driver == "psycopg2":
        connection.exec_driver_sql("SELECT set_config('retl.model', %s, true)", (sql,))
        connection.exec_driver_sql(_OPENED)


def _cancel(_engine: Engine, connection: Any) -> None:
    """Cancel by a message of its own to the server, in which psycopg 3 need not wait without end."""
    if hasattr(connection, "cancel_safe"):
        connection.cancel_safe(timeout=5)
    else:
        connection.cancel()


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


def to_arrow(values: Sequence[Any], kind: PostgresType, precision: int | None, scale: int | None) -> Parsed:
    """A column's values in the Arrow type that goes with its Postgres type.

    Args:
        values: as loaded by a connection that `load_as_text` has seen.
        kind: the type, which has a spelling.
        precision: of a numeric column that has one.
        scale: likewise.
    """
    assert kind.type is not None
    if not kind.is_array:
        return _parsed(pa.array(values, _loaded(kind.type)), kind.type, precision, scale)
    if kind.oid not in _BY_ARRAY_OID:
        values = [None if value is None else _items(value) for value in values]
    depths = {_dimensions(value) for value in values if value}
    if len(depths) > 1:
        return _json_lists(values, kind.type)
    shape = _loaded(kind.type)
    for _ in range(max(depths, default=1)):
        shape = pa.list_(shape)
    return _lists(pa.array(values, shape), kind.type)


def _dimensions(value: Any) -> int:
    return 1 + _dimensions(value[0]) if isinstance(value, list) else 0


def _loaded(type_: _Type) -> pa.DataType:
    return pa.string() if type_.as_text else type_.arrow


def _lists(lists: pa.Array, type_: _Type) -> Parsed:
    is_nested = pa.types.is_list(lists.type.value_type)
    items, reasons = _lists(lists.values, type_) if is_nested else _parsed(lists.values, type_, None, None)
    array = pa.ListArray.from_arrays(lists.offsets, items, mask=lists.is_null())
    if reasons is not None:
        rows = pc.list_parent_indices(lists).filter(reasons.is_valid())
        reasons = _at_rows(len(lists), set(rows.to_pylist()))
    return array, reasons


def _json_lists(values: Sequence[Any], type_: _Type) -> Parsed:
    """Arrays of several dimensions among those of fewer, for which Arrow has no type, as JSON."""
    found = [(row, leaf) for row, value in enumerate(values) if value is not None for leaf in _leaves(value)]
    items, reasons = _parsed(pa.array([leaf for _, leaf in found], _loaded(type_)), type_, None, None)
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


def _items(text: str) -> list[Any]:
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


def _parsed(loaded: pa.Array, type_: _Type, precision: int | None, scale: int | None) -> Parsed:
    if not type_.as_text or type_.arrow == pa.string():
        return loaded, None
    if type_.arrow == pa.json_():
        return parse.as_json(loaded), None
    if type_.oid == _NUMERIC:
        # Neither decimals nor JSON have these.
        return parse.decimals(_without(loaded, "NaN", "Infinity", "-Infinity"), precision, scale), None
    return parse.instants(_without(loaded, "infinity", "-infinity"), type_.arrow)


def _without(values: pa.Array, *words: str) -> pa.Array:
    return pc.if_else(pc.is_in(values, pa.array(words)), None, values)


def _state(error: DBAPIError) -> str | None:
    """The SQLSTATE of an error, for which psycopg2 has another name."""
    return getattr(error.orig, "sqlstate", None) or getattr(error.orig, "pgcode", None)


def _is_model_fault(error: DBAPIError) -> bool:
    return _state(error) in (_READ_ONLY, _RAISED) or is_model_fault(error)


def _message(error: DBAPIError) -> str:
    """The server's words, unless a function chose them: they may hold anything of a row."""
    if _state(error) == _RAISED:
        return "a function raised an exception (P0001)"
    return str(error.orig)


DIALECT = Dialect(
    engine=_engine,
    packages={"psycopg2": "psycopg2-binary"},
    session=_SESSION,
    prepare=_prepare,
    read_options={"postgresql_readonly": True},
    grammar=Grammar("postgres", writing_functions=_WRITING_FUNCTIONS),
    begin=_begin,
    cancel=_cancel,
    quoted=_quoted,
    types=_types,
    is_model_fault=_is_model_fault,
    message=_message,
)
