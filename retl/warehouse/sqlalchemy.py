"""Models read from Postgres, SQLite, and whatever else SQLAlchemy has a dialect for."""

import difflib
import re
import sqlite3
from collections.abc import Collection, Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import quote, quote_plus

import pyarrow as pa
import sqlalchemy
from sqlalchemy.engine import URL, Connection, CursorResult, Engine
from sqlalchemy.exc import DBAPIError, NoSuchModuleError, SQLAlchemyError
from sqlalchemy.pool import QueuePool

from retl.errors import ConfigError, ModelError, WarehouseError
from retl.model import Model
from retl.warehouse import postgres
from retl.warehouse.base import (
    BATCH_ROWS,
    Column,
    Warehouse,
    at_line,
    distinct,
    line_in,
    not_a_select,
    one_select,
    sentence_in,
    wanted,
)
from retl.warehouse.untyped import as_json, inferred

_PACKAGES = {
    "MySQLdb": "mysqlclient",
    "psycopg2": "psycopg2-binary",
    "bigquery": "sqlalchemy-bigquery",
    "clickhouse": "clickhouse-sqlalchemy",
    "databricks": "databricks-sqlalchemy",
    "redshift": "sqlalchemy-redshift",
    "snowflake": "snowflake-sqlalchemy",
    "trino": "trino[sqlalchemy]",
}
"""What to install for a driver or dialect whose package is named differently."""

_SQLITES_MODEL_FAULTS = {
    sqlite3.SQLITE_ERROR,
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_TOOBIG,
    sqlite3.SQLITE_MISMATCH,
    sqlite3.SQLITE_AUTH,
}


class SQLAlchemyWarehouse(Warehouse):
    """A database behind SQLAlchemy, read-only as far as the database knows such a thing.

    Postgres' columns have fixed Arrow types (see `retl.warehouse.postgres`). Elsewhere a column's type
    is taken from the values of each batch: null where all are NULL, `arrow.json` where they are mixed.
    """

    def __init__(self, url: URL, root: Path) -> None:
        """Connect.

        Raises:
            ConfigError: SQLAlchemy has no such dialect, or its driver is not installed.
            WarehouseError: the database cannot be reached, or its file does not exist.
        """
        self._url = url
        self._engine = self._made_engine(root)
        try:
            self._engine.connect().close()
        except SQLAlchemyError as error:
            # The cause may quote the URL, password and all.
            raise WarehouseError(
                f"the warehouse cannot be reached: {self._message(error)}",
                where=self._shown,
                hint="Check that it runs, that this machine may reach it, and the URL's user and password.",
            ) from None

    def columns(self, model: Model) -> tuple[Column, ...]:
        """The columns of the model's result; see `Warehouse.columns`."""
        with self._engine.connect() as connection:
            try:
                with _executed(connection, one_select(model), 1) as result:
                    description = _description(model, result)
                distinct(model, [column[0] for column in description])
                return tuple(
                    Column(column[0], kind)
                    for column, kind in zip(description, _type_names(connection, description), strict=True)
                )
            except DBAPIError as error:
                raise self._translated(model, error) from error

    def read(
        self, model: Model, columns: Collection[str] | None = None, batch_rows: int = BATCH_ROWS
    ) -> Iterator[pa.RecordBatch]:
        """The model's rows; see `Warehouse.read`."""
        sql = one_select(model)
        if columns is not None and self._engine.dialect.name == "postgresql":
            names = wanted(model, [column.name for column in self.columns(model)], columns)
            quoted = ", ".join(map(self._engine.dialect.identifier_preparer.quote_identifier, names))
            sql = f"SELECT {quoted} FROM ({sql}\n) AS model"
        with self._engine.connect() as connection:
            try:
                with _executed(connection, sql, batch_rows) as result:
                    description = _description(model, result)
                    names = [column[0] for column in description]
                    distinct(model, names)
                    keep = [names.index(name) for name in wanted(model, names, columns)]
                    rows = result.fetchmany(batch_rows)
                    yield self._batch(rows, description, keep)
                    while rows := result.fetchmany(batch_rows):
                        yield self._batch(rows, description, keep)
            except DBAPIError as error:
                raise self._translated(model, error) from error

    def close(self) -> None:
        """Close the connections."""
        self._engine.dispose()

    @property
    def _shown(self) -> str:
        """The URL as people may see it."""
        secret = re.compile("pass|secret|token|key", re.IGNORECASE)
        query = {name: "***" if secret.search(name) else value for name, value in self._url.query.items()}
        return self._url.set(query=query).render_as_string(hide_password=True)

    def _made_engine(self, root: Path) -> Engine:
        try:
            match self._url.get_backend_name():
                case "sqlite" if self._url.database not in (None, "", ":memory:"):
                    engine = _sqlite_engine(root / str(self._url.database), self._shown)
                case "postgres" | "postgresql":
                    driver = "psycopg" if find_spec("psycopg") else "psycopg2"
                    url = self._url.set(drivername=f"postgresql+{driver}")
                    engine = sqlalchemy.create_engine(url, use_native_hstore=False)
                case _:
                    engine = sqlalchemy.create_engine(self._url)
        except NoSuchModuleError:
            dialect = self._url.get_backend_name()
            if dialect not in _PACKAGES:
                raise self._unknown(dialect) from None
            raise self._not_installed(dialect) from None
        except ImportError as error:
            raise self._not_installed(error.name or self._url.drivername) from None
        sqlalchemy.event.listen(engine, "connect", _prepare(engine.dialect.name))
        return engine

    def _unknown(self, dialect: str) -> ConfigError:
        known = ["duckdb", "postgresql", "sqlite", "mysql", "mariadb", "mssql", "oracle", *_PACKAGES]
        near = difflib.get_close_matches(dialect, known, n=1)
        return ConfigError(
            f"no kind of database called `{dialect}` is known here",
            where=self._shown,
            hint=f"did you mean `{near[0]}`?" if near else "install the SQLAlchemy dialect for it",
        )

    def _not_installed(self, what: str) -> ConfigError:
        return ConfigError(
            f"{self._url.drivername} needs a package that is not installed, for {what}",
            where=self._shown,
            hint=f"pip install {_PACKAGES.get(what, what)}",
        )

    def _batch(
        self, rows: Sequence[Sequence[Any]], description: Sequence[Sequence[Any]], keep: Sequence[int]
    ) -> pa.RecordBatch:
        values = list(zip(*rows, strict=True)) if rows else [()] * len(description)
        if self._engine.dialect.name == "postgresql":
            arrays = [_typed(values[i], description[i]) for i in keep]
        else:
            arrays = [inferred(values[i]) for i in keep]
        return pa.RecordBatch.from_arrays(arrays, [description[i][0] for i in keep])

    def _translated(self, model: Model, error: DBAPIError) -> ModelError | WarehouseError:
        message = self._message(error)
        said = f"model {model.name}: {sentence_in(message)}"
        if _is_the_models(error, self._engine.dialect.name):
            return ModelError(said, where=at_line(model, line_in(message)))
        return WarehouseError(said, where=self._shown, hint="Nothing was changed; run it again.")

    def _message(self, error: SQLAlchemyError) -> str:
        message = str(error.orig if isinstance(error, DBAPIError) else error)
        password = self._url.password
        for secret in {password, quote(password, safe=""), quote_plus(password)} if password else ():
            message = message.replace(secret, "***")
        return message


def _sqlite_engine(path: Path, shown: str) -> Engine:
    if not path.is_file():
        raise WarehouseError(
            f"there is no SQLite file {path}",
            where=shown,
            hint="Three slashes begin a path relative to the project folder, four an absolute one.",
        )
    address = f"file:{quote(str(path.absolute()))}?mode=ro"
    return sqlalchemy.create_engine(
        "sqlite://",
        creator=lambda: sqlite3.connect(address, uri=True, check_same_thread=False),
        poolclass=QueuePool,
    )


def _prepare(dialect: str) -> Any:
    """What is done with each new connection."""

    def prepare(connection: Any, _record: object) -> None:
        cursor = connection.cursor()
        match dialect:
            case "postgresql":
                for setting in postgres.SESSION:
                    cursor.execute(setting)
                connection.commit()
                postgres.load_as_text(connection)
            case "sqlite":
                # The schema version is read so that a file which is no database is noticed now.
                cursor.execute("PRAGMA schema_version")
                cursor.execute("PRAGMA query_only = ON")
            case "mysql" | "mariadb":
                cursor.execute("SET SESSION TRANSACTION READ ONLY")
        cursor.close()

    return prepare


def _executed(connection: Connection, sql: str, batch_rows: int) -> CursorResult[Any]:
    options: Mapping[str, Any] = {"no_parameters": True, "stream_results": True, "yield_per": batch_rows}
    if connection.dialect.name == "postgresql":
        connection.execution_options(postgresql_readonly=True)
    return connection.exec_driver_sql(sql, execution_options=options)


def _description(model: Model, result: CursorResult[Any]) -> Sequence[Sequence[Any]]:
    if not result.returns_rows:
        raise not_a_select(model, "a statement without rows")
    return result.cursor.description


def _type_names(connection: Connection, description: Sequence[Sequence[Any]]) -> list[str]:
    if connection.dialect.name != "postgresql":
        return [""] * len(description)
    rows = ", ".join(f"({i}, {column[1]})" for i, column in enumerate(description))
    sql = f"SELECT format_type(oid, NULL) FROM (VALUES {rows}) AS types (i, oid) ORDER BY i"
    return list(connection.exec_driver_sql(sql).scalars()) if rows else []


def _is_the_models(error: DBAPIError, dialect: str) -> bool:
    """Whether the SQL is to blame for an error, rather than the server, the disk or the network."""
    if error.connection_invalidated:
        return False
    if dialect == "sqlite":
        # Python's own refusals, as of two statements or of an undecodable text, have no such code.
        code = getattr(error.orig, "sqlite_errorcode", sqlite3.SQLITE_ERROR)
        return code & 0xFF in _SQLITES_MODEL_FAULTS
    if dialect == "postgresql" and getattr(error.orig, "sqlstate", None) == "25006":
        return True  # a write in a read-only transaction
    kinds = ["ProgrammingError", "DataError", "NotSupportedError", "IntegrityError"]
    if dialect in ("mysql", "mariadb"):
        kinds.append("OperationalError")  # MySQL's drivers raise it for an unknown column
    return type(error).__name__ in kinds


def _typed(values: Sequence[Any], column: Sequence[Any]) -> pa.Array:
    array = postgres.to_arrow(values, column[1], column[4], column[5])
    return as_json(values) if array is None else array
