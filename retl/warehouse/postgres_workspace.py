"""The workspace in Postgres: a schema of retl's own."""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from sqlalchemy.engine import URL, Connection
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from retl import sql
from retl.address import shown, without_secrets
from retl.errors import ConfigError, ModelError, RetlError, WarehouseError
from retl.model import Model
from retl.warehouse.base import line_in, sentence_in
from retl.warehouse.dialect import SUBQUERY_END, as_subquery
from retl.warehouse.message import model_error, read_error
from retl.warehouse.postgres import DIALECT, SETTINGS
from retl.warehouse.query import one_query
from retl.warehouse.workspace import StoredColumn, Workspace, lacking_grants

_SAMPLE = 10
"""The size of samples, of which Postgres takes 300 rows each: they tell whether keys are all others."""

SEVERAL_PROCESSES = "SET LOCAL parallel_tuple_cost = 0"
"""Postgres takes most rows of a join for ones that differ, which would have to be handed from one process to
another, and would have one do it alone. It is of a transaction, as behind a pooler a setting of a session
would be that of other clients, too."""

_NOT_ALLOWED = "42501"
"""The SQLSTATE for what the user may not do."""

_IN_USE = "55P03"
"""The SQLSTATE where somebody else has a table in use for too long."""

_COLUMNS = """
SELECT
    a.attname, format_type(a.atttypid, a.atttypmod) || ' ' || a.atttypid || ' ' || a.attcollation,
    b.oid::int, b.typname::text, b.typtype::text, b.typcategory::text, a.atttypmod,
    coalesce(i.typbasetype, 0)::int, e.oid::int
FROM pg_catalog.pg_attribute AS a
JOIN pg_catalog.pg_type AS t ON t.oid = a.atttypid
JOIN pg_catalog.pg_type AS b ON b.oid = CASE WHEN t.typtype = 'd' THEN t.typbasetype ELSE t.oid END
LEFT JOIN pg_catalog.pg_type AS i ON i.oid = b.typelem AND b.typcategory = 'A'
LEFT JOIN pg_catalog.pg_type AS e ON e.oid = b.typelem AND b.typcategory = 'A'
WHERE a.attrelid = to_regclass({table}) AND a.attnum > 0 AND NOT a.attisdropped
ORDER BY a.attnum
"""

_TABLES = """
SELECT c.relname FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
WHERE n.nspname = {schema} AND c.relkind IN ('r', 'p') AND starts_with(c.relname, {prefix})
ORDER BY c.relname
"""

_OWN_TYPES = """
WITH RECURSIVE plain AS (
    SELECT t.oid AS asked, t.oid, -1 AS size, t.typtype FROM pg_catalog.pg_type AS t WHERE t.oid IN ({oids})
    UNION ALL
    SELECT plain.asked, b.oid, d.typtypmod, b.typtype
    FROM plain
    JOIN pg_catalog.pg_type AS d ON d.oid = plain.oid AND d.typtype = 'd'
    JOIN pg_catalog.pg_type AS b ON b.oid = d.typbasetype
)
SELECT
    asked::bigint,
    CASE
        WHEN t.typtype = 'e' THEN 'CASE WHEN {{}} IS NOT NULL THEN pg_catalog.concat({{}}) END'
        WHEN e.typtype = 'e' THEN '{{}}::pg_catalog.text[]'
        ELSE '{{}}::' || format_type(t.oid, size)
    END
FROM plain
JOIN pg_catalog.pg_type AS t ON t.oid = plain.oid
LEFT JOIN pg_catalog.pg_type AS e ON e.oid = t.typelem AND t.typcategory = 'A'
WHERE t.typtype <> 'd' AND (t.typtype = 'e' OR e.typtype = 'e' OR asked <> t.oid)
"""
"""Types that somebody made, and the SQL of what is stored: of an enum its text, of a domain the base."""

_RIGHTS = """
SELECT
    current_user, current_database(), n.oid IS NOT NULL,
    coalesce(has_schema_privilege(n.oid, 'USAGE'), false),
    coalesce(has_schema_privilege(n.oid, 'CREATE'), false),
    has_database_privilege(current_database(), 'CREATE'),
    pg_catalog.getdatabaseencoding()
FROM (SELECT 1) AS one LEFT JOIN pg_catalog.pg_namespace AS n ON n.nspname = {schema}
"""

_SAME = {16, 17, 20, 21, 23, 26, 2950}
"""Truth values, bytes, integers and UUIDs: what is equal to Postgres is the same."""

_TEXTS = {25, 1043}
_DATE, _TIMESTAMP, _ZONED = 1082, 1114, 1184
_INSTANTS = {
    _DATE: ("DATE '0001-01-01'", "DATE '9999-12-31'"),
    _TIMESTAMP: ("TIMESTAMP '0001-01-01'", "TIMESTAMP '9999-12-31 23:59:59.999999'"),
    _ZONED: ("TIMESTAMPTZ '0001-01-01 00:00+00'", "TIMESTAMPTZ '9999-12-31 23:59:59.999999+00'"),
}
_FLOATS, _NUMERIC = {700, 701}, 1700

_WRITTEN = "CASE WHEN {} IS NOT NULL THEN pg_catalog.concat({}) END"
"""The text that Postgres writes for a value of any type."""

_NO_NUMBER = "{}::text IN ('NaN', 'Infinity', '-Infinity')"


class PostgresWorkspace(Workspace):
    """A schema in Postgres, over a connection that writes; each statement is a transaction of its own.

    Attributes:
        kind: the dialect by which the database is reached and its errors are read.
        session: statements that begin a session.
        lock_timeout: sets how long a transaction waits for others that have a table in use; None where there
            is no such setting.
    """

    dialect = "postgres"
    longest_name = 63
    kind = DIALECT
    session: Sequence[str] = (
        *(f"SET {name} = '{value}'" for name, value in SETTINGS.items()),
        "SET default_transaction_read_only = off",
    )
    lock_timeout: str | None = "SET LOCAL lock_timeout = '2s'"

    def __init__(self, url: URL, root: Path, schema: str) -> None:
        """Connect.

        Args:
            url: where the database is.
            root: the project folder.
            schema: the name of the schema.

        Raises:
            WarehouseError: the database cannot be reached.
        """
        self.schema = schema
        self._url = url
        self._engine = self.kind.engine(url, root)
        try:
            connection = self._engine.connect()
        except (SQLAlchemyError, OSError) as error:
            self._engine.dispose()
            raise self._translated(error, None) from None
        self._connection: Connection = connection.execution_options(isolation_level="AUTOCOMMIT")
        for statement in self.session:
            self._executed(statement, None)

    def prepare(self) -> None:
        """Make the schema where there is none; see `Workspace.prepare`."""
        missing = self.missing_grants()
        if missing:
            raise lacking_grants(self.schema, missing, shown(self._url))
        if not self._rows(_RIGHTS.format(schema=sql.text(self.schema)))[0][2]:
            self.execute(f"CREATE SCHEMA IF NOT EXISTS {sql.name(self.schema)}")

    def missing_grants(self) -> list[str]:
        """The statements that let the user do what is needed; see `Workspace.missing_grants`."""
        ((user, database, is_there, may_use, may_create, may_make, encoding),) = self._rows(
            _RIGHTS.format(schema=sql.text(self.schema))
        )
        if encoding == "SQL_ASCII":
            raise ConfigError(
                "the database has the encoding SQL_ASCII, in which texts cannot be compared",
                where=shown(self._url),
                hint="use `engine: local`",
            )
        schema, role = sql.name(self.schema), sql.name(user)
        if not is_there:
            if may_make:
                return []
            made = f"CREATE SCHEMA {schema} AUTHORIZATION {role}"
            return [made] if database else []
        return [] if may_use and may_create else [f"GRANT USAGE, CREATE ON SCHEMA {schema} TO {role}"]

    def tables(self, prefix: str) -> list[str]:
        """The tables whose names begin so."""
        found = self._rows(_TABLES.format(schema=sql.text(self.schema), prefix=sql.text(prefix)))
        return [name for (name,) in found]

    def columns(self, table: str) -> tuple[StoredColumn, ...]:
        """The columns of a table, in its order."""
        named = sql.text(f"{sql.name(self.schema)}.{sql.name(table)}")
        return tuple(_stored(*row) for row in self._rows(_COLUMNS.format(table=named)))

    def query_of(self, model: Model) -> str:
        """The model's SQL in brackets, without the types that somebody made.

        A table with a column of an enum or a domain keeps their owner from dropping them. And where a value
        of an enum is renamed, it has the new name in the last snapshot table, too, as if nothing had changed.
        """
        query = as_subquery(one_query(model, self.kind.grammar))
        stored = self._stored_values(model, query)
        if all(value == "{}" for value in stored.values()):
            return query
        listed = (
            f"{value.replace('{}', sql.name(name))} AS {sql.name(name)}" for name, value in stored.items()
        )
        return f"(SELECT {', '.join(listed)} FROM {query}{SUBQUERY_END}"

    def _stored_values(self, model: Model, query: str) -> dict[str, str]:
        """The columns of a query, each with the SQL of what is stored (`{}`: itself); reads no row."""
        found = Counter(self._executed(f"SELECT * FROM {query} LIMIT 0", model).keys())
        names = [name for name, times in found.items() if times == 1]
        # What the server tells of a result has the base of a domain in its place.
        types = ", ".join(f"pg_catalog.pg_typeof(m.{sql.name(name)})::oid::bigint" for name in names)
        declared = (
            f"SELECT {types} FROM (SELECT 1) AS one LEFT JOIN (SELECT * FROM {query} LIMIT 0) AS m ON true"
        )
        oids = list(self._executed(declared, model).fetchone() or ()) if names else []
        stored = dict(self._rows(_OWN_TYPES.format(oids=", ".join(map(str, oids))))) if oids else {}
        return {name: stored.get(oid, "{}") for name, oid in zip(names, oids, strict=True)}

    def execute(self, statement: str, model: Model | None = None) -> int | None:
        """Execute a statement that gives no rows; see `Workspace.execute`."""
        if model is not None or not statement.startswith("CREATE TABLE"):
            made = int(self._executed(statement, model).rowcount)
        else:
            with self._transaction():
                self._executed(SEVERAL_PROCESSES, None)
                made = int(self._executed(statement, None).rowcount)
        return made if made > 0 else None  # a database that only speaks the protocol may say 0 of any table

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._executed("BEGIN", None)
        try:
            yield
        except BaseException:
            with suppress(WarehouseError):
                self._executed("ROLLBACK", None)
            raise
        self._executed("COMMIT", None)

    def analyze(self, table: str, columns: Sequence[str]) -> None:
        """Take a small sample of the columns; without one Postgres joins a new table by one process alone."""
        place, names = f"{sql.name(self.schema)}.{sql.name(table)}", list(map(sql.name, columns))
        for name in names:
            self.execute(f"ALTER TABLE {place} ALTER COLUMN {name} SET STATISTICS {_SAMPLE}")
        self.execute(f"ANALYZE {place} ({', '.join(names)})")

    def number(self, query: str) -> int:
        """The one number that a query gives."""
        ((number,),) = self._rows(query)
        return int(number)

    def drop(self, tables: Sequence[str]) -> None:
        """Drop tables, of which some may be gone, and all that can be dropped where one cannot.

        Raises:
            ConfigError: another user made one of them.
            WarehouseError: another session has one in use.
        """
        failed: RetlError | None = None
        for table in tables:
            try:
                with self._transaction():
                    if self.lock_timeout:
                        self._executed(self.lock_timeout, None)
                    self._executed(f"DROP TABLE IF EXISTS {sql.name(self.schema)}.{sql.name(table)}", None)
            except (ConfigError, WarehouseError) as error:
                failed = error
        if failed is not None:
            raise failed

    def cancel(self) -> None:
        """Stop what is executed."""
        driver = self._connection.connection.driver_connection
        if driver is not None:
            self.kind.cancel(self._engine, driver)

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()
        self._engine.dispose()

    def _rows(self, query: str) -> list[Any]:
        return list(self._executed(query, None).fetchall())

    def _executed(self, statement: str, model: Model | None) -> Any:
        spoken = model.said(statement) if model else statement
        try:
            return self._connection.exec_driver_sql(spoken, execution_options={"no_parameters": True})
        except (SQLAlchemyError, OSError) as error:
            # The cause may quote the rows, or the URL, password and all.
            raise self._translated(error, model) from None

    def _translated(self, error: Exception, model: Model | None) -> ConfigError | ModelError | WarehouseError:
        told = error if isinstance(error, DBAPIError) else None
        message = without_secrets(self.kind.message(told) if told else str(error), self._url)
        said = sentence_in(message)
        state = getattr(told.orig, "sqlstate", getattr(told.orig, "pgcode", None)) if told else None
        if state == _IN_USE:
            return WarehouseError(
                f"another session has a table of the schema `{self.schema}` in use: {said}",
                where=shown(self._url),
                hint="see in pg_stat_activity who it is, and run it again once that has ended",
            )
        if state == _NOT_ALLOWED:
            return ConfigError(
                f"the warehouse's user may not do what `engine: warehouse` needs: {said}",
                where=shown(self._url),
                hint="retl check --connect says which grants are missing; where another user made the table, "
                "grant the role of that user to this one",
            )
        if model is not None:
            is_models = told and not told.connection_invalidated and self.kind.is_model_fault(told)
            if is_models:
                return model_error(model, said, line_in(message))
            return read_error(model, said, self._url)
        return WarehouseError(
            f"the warehouse failed in the schema `{self.schema}`: {said}",
            where=shown(self._url),
            hint="nothing was sent; run it again",
        )


def _stored(
    name: str, type_: str, oid: int, called: str, form: str, category: str, size: int, base: int, item: int
) -> StoredColumn:
    """How a column of that type is compared."""
    if oid in _SAME or form == "e":
        return StoredColumn(name, type_, "{}", ("{}",))
    if oid in _TEXTS:
        return StoredColumn(name, type_, '{} COLLATE "C"', ('{} COLLATE "C"',))
    if oid in _INSTANTS:
        first, last = _INSTANTS[oid]
        outside = f"({{}} < {first} OR {{}} > {last})"
        fault = f"(isfinite({{}}) AND {outside})"
        return StoredColumn(name, type_, "{}", ("{}",), outside, fault)
    if oid in _FLOATS:
        return StoredColumn(name, type_, "{}", ("{}::text",), _NO_NUMBER)
    if oid == _NUMERIC:
        return StoredColumn(name, type_, "{}", ("{}" if size >= 0 else "{}::text",), _NO_NUMBER)
    if oid == 1042 or called == "citext":
        return StoredColumn(name, type_, f'({_WRITTEN}) COLLATE "C"', (f'({_WRITTEN}) COLLATE "C"',))
    if called in ("json", "jsonb"):
        return StoredColumn(name, type_, None, ('{}::text COLLATE "C"',))
    holds_instants = {base, item} & _INSTANTS.keys()
    return StoredColumn(
        name,
        type_,
        None,
        (f'({_WRITTEN}) COLLATE "C"',),
        at_fault="{} IS NOT NULL" if holds_instants else None,
    )
