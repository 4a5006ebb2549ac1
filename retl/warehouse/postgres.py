"""The dialect of Postgres, with either driver; `retl.warehouse.postgres_values` makes Arrow of its values."""

import re
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import sqlalchemy
from sqlalchemy.engine import URL, Connection, CursorResult, Engine
from sqlalchemy.exc import DBAPIError

from retl.errors import WarehouseError
from retl.warehouse.dialect import ColumnType, Dialect, is_model_fault
from retl.warehouse.postgres_columns import in_columns
from retl.warehouse.postgres_values import (
    BY_ARRAY_OID,
    BY_OID,
    OTHER,
    TYPES,
    PostgresType,
    ValueType,
    to_arrow,
)
from retl.warehouse.query import Grammar

SETTINGS = {
    "TimeZone": "UTC",
    "DateStyle": "ISO",
    "IntervalStyle": "iso_8601",
    "extra_float_digits": "1",
    "bytea_output": "hex",
    # The whole result is read, so the plan that is fastest to the last row is wanted, not to the first.
    "cursor_tuple_fraction": "1",
}
"""The server's settings under which it writes values as `retl.warehouse.postgres_values` reads them."""

_READ_ONLY = "25006"
"""The SQLSTATE of a write in a read-only transaction."""

_MODELS = ("0A", "10", "20", "21", "22", "23", "26", "34", "3D", "3F", "42", "44", "P")
"""The beginnings of SQLSTATEs for which a statement is to blame, or its data."""

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
  | pg_(restore|clear)_(relation|attribute)_stats
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


_TEXT_CATEGORIES = frozenset("SENDTVIX")
"""Strings, enums, numbers as money, dates and times, intervals, bits, networks, and the type `unknown`."""

_TEXT_OIDS = {18, 142, 774, 829, 3220}
"""Of other categories: "char", xml, macaddr8, macaddr, pg_lsn."""


_KINDS = """
SELECT t.oid::text, format_type(t.oid, NULL), t.typcategory::text, t.typtype::text, b.oid::text,
    b.typcategory::text, b.typtype::text,
    EXISTS (SELECT FROM pg_cast WHERE castsource IN (t.oid, b.oid) AND casttarget = 'text'::regtype)
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
    for oid, name, category, form, *element, own_cast in connection.exec_driver_sql(
        _KINDS.format(oids=listed)
    ):
        type_ = _how_to_read(*element) if category == "A" else _how_to_read(oid, category, form)
        if category == "A" and int(oid) not in BY_ARRAY_OID and type_ and not type_.as_text:
            type_ = None  # an array of a domain over a type that only the driver can read
        is_row = form == "c" or name == "record"
        found[int(oid)] = PostgresType(int(oid), name, category == "A", is_row, type_, own_cast)
    return found


def _how_to_read(oid: str | None, category: str | None, form: str | None) -> ValueType | None:
    if oid is None or category is None:
        return None
    if int(oid) in BY_OID:
        return BY_OID[int(oid)]
    is_text = int(oid) in _TEXT_OIDS or (form in ("b", "e") and category in _TEXT_CATEGORIES)
    return OTHER if is_text else None


def _types(connection: Connection, cursor: Any) -> list[ColumnType]:
    """The types of a result's columns."""
    found = kinds(connection, [column[1] for column in cursor.description])
    return [_type_of(column, found[column[1]]) for column in cursor.description]


def _type_of(column: Sequence[Any], kind: PostgresType) -> ColumnType:
    """The type of a column that the driver describes so."""
    if kind.type is None:
        return ColumnType(kind.name, None, _cast(column[0], kind))
    precision, scale = column[4], column[5]
    return ColumnType(
        kind.name,
        partial(to_arrow, kind=kind, precision=precision, scale=scale),
        columnar=in_columns(kind, precision, scale),
    )


def _cast(column: str, kind: PostgresType) -> str:
    """SQL that gives a column of a type without a clear spelling one."""
    if kind.name.rpartition(".")[2] in ("geometry", "geography"):
        return f"ST_AsGeoJSON({column})::json"
    if kind.is_array or kind.is_row or kind.name.rpartition(".")[2] == "hstore":
        return f"to_jsonb({column})"
    return f"{column}::text"


def quoted(name: str) -> str:
    """A column's name in SQL."""
    return '"' + name.replace('"', '""') + '"'


def _engine(url: URL, _root: Path) -> Engine:
    """An engine with the driver that is installed, whichever the URL names."""
    driver = "psycopg" if find_spec("psycopg") else "psycopg2"
    url = url.set(drivername=f"postgresql+{driver}")
    settings = {
        "fallback_application_name": "retl",
        **url.query,
        "client_encoding": "utf8",  # or the driver would take ASCII of a database with the encoding SQL_ASCII
    }
    return sqlalchemy.create_engine(url.set(query=settings), use_native_hstore=False)


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
    refuse_writable(connection.exec_driver_sql("SHOW transaction_read_only").scalar())
    if connection.dialect.driver == "psycopg2":
        _have_planned(connection, sql)


def _have_planned(connection: Connection, sql: str) -> None:
    """Have the server see that a text is one query, by giving it as a value."""
    connection.exec_driver_sql("SELECT set_config('retl.model', %s, true)", (sql,))
    connection.exec_driver_sql(_OPENED)


def _describe(connection: Connection, sql: str) -> CursorResult[Any]:
    """The result of a cursor of which no row is fetched.

    SQLAlchemy's own would fetch one, for which a model may run as long as for all of them.
    """
    refuse_writable(connection.exec_driver_sql("SHOW transaction_read_only").scalar())
    _have_planned(connection, sql)
    declared = f"DECLARE retl_model NO SCROLL CURSOR FOR {sql}"
    connection.exec_driver_sql(declared, execution_options={"no_parameters": True})
    return connection.exec_driver_sql("FETCH 0 FROM retl_model")


def refuse_writable(read_only: str | None) -> None:
    """Refuse a transaction for which the server does not say `on` where it is asked `transaction_read_only`.

    Raises:
        WarehouseError: it would let a model write.
    """
    if read_only != "on":
        raise WarehouseError("the server does not keep the transaction read-only; nothing was read")


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
        if info.oid not in BY_OID or BY_OID[info.oid].as_text:
            connection.adapters.register_loader(info.oid, TextLoader)
        if info.array_oid and info.array_oid not in BY_ARRAY_OID:
            connection.adapters.register_loader(info.array_oid, TextLoader)


def _psycopg2_loads_text(connection: Any) -> None:
    from psycopg2 import extensions  # only one of the two drivers need be installed

    own = {oid for type_ in TYPES if not type_.as_text for oid in (type_.oid, type_.array_oid)}
    texts = {*extensions.string_types, *BY_OID} - own
    extensions.register_type(extensions.new_type(tuple(texts), "TEXT", extensions.UNICODE), connection)
    for type_ in TYPES:
        if type_.as_text:
            text = extensions.new_type((type_.oid,), "TEXT", extensions.UNICODE)
            extensions.register_type(
                extensions.new_array_type((type_.array_oid,), "TEXTARRAY", text), connection
            )


def _state(error: DBAPIError) -> str | None:
    """The SQLSTATE of an error, for which psycopg2 has another name."""
    return getattr(error.orig, "sqlstate", None) or getattr(error.orig, "pgcode", None)


def _is_model_fault(error: DBAPIError) -> bool:
    return _state(error) in (_READ_ONLY, _RAISED) or is_model_fault(error)


def _message(error: DBAPIError) -> str:
    return words(_state(error), str(error.orig))


def is_models(state: str | None) -> bool:
    """Whether the model's SQL is to blame for an error of that SQLSTATE; as psycopg's classes have it."""
    return state is not None and (state == _READ_ONLY or state.startswith(_MODELS))


def words(state: str | None, message: str) -> str:
    """The server's words, unless a function chose them: they may hold anything of a row."""
    return "a function raised an exception (P0001)" if state == _RAISED else message


DIALECT = Dialect(
    engine=_engine,
    packages={"psycopg2": "psycopg2-binary"},
    session=tuple(f"SET {name} = '{value}'" for name, value in SETTINGS.items()),
    prepare=_prepare,
    read_options={"postgresql_readonly": True},
    grammar=Grammar("postgres", writing_functions=_WRITING_FUNCTIONS),
    begin=_begin,
    describe=_describe,
    cancel=_cancel,
    quoted=quoted,
    types=_types,
    is_model_fault=_is_model_fault,
    message=_message,
)
