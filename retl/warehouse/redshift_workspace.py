"""The workspace in Redshift, which is much like Postgres'. Nobody has tried it against a cluster.

Redshift has no IS DISTINCT FROM, tells two texts from each other neither by blanks at their ends nor, in some
columns, by their case, and has a catalog as Postgres' was twenty years ago.
"""

from collections.abc import Sequence
from pathlib import Path

from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

from retl import sql
from retl.address import shown
from retl.errors import ConfigError
from retl.model import Model
from retl.warehouse.dialect import as_subquery
from retl.warehouse.dialects import dialect_of
from retl.warehouse.postgres_workspace import PostgresWorkspace
from retl.warehouse.query import one_query
from retl.warehouse.spelling import spelled
from retl.warehouse.workspace import StoredColumn, lacking_grants

_TABLES = """
SELECT c.relname FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace
WHERE n.nspname = {schema} AND c.relkind = 'r' AND left(c.relname::text, {length}) = {prefix}
ORDER BY c.relname
"""

_COLUMNS = """
SELECT column_name, data_type, numeric_precision, numeric_scale FROM information_schema.columns
WHERE table_catalog = current_database() AND table_schema = {schema} AND table_name = {table}
ORDER BY ordinal_position
"""

_SCHEMA = "SELECT count(*) FROM pg_catalog.pg_namespace WHERE nspname = {schema}"

_RIGHTS = """
SELECT has_schema_privilege(current_user, {schema}, 'USAGE')
    AND has_schema_privilege(current_user, {schema}, 'CREATE')
"""

_MAY_MAKE = "SELECT current_user, current_database(), has_database_privilege(current_database(), 'CREATE')"

_SAME = {"boolean", "smallint", "integer", "bigint", "numeric", "binary varying"}
"""Types of which what is equal to Redshift is the same."""

_MOMENTS = {
    "date": ("DATE '0001-01-01'", "DATE '9999-12-31'"),
    "timestamp without time zone": ("TIMESTAMP '0001-01-01'", "TIMESTAMP '9999-12-31 23:59:59.999999'"),
    "timestamp with time zone": (
        "TIMESTAMPTZ '0001-01-01 00:00+00'",
        "TIMESTAMPTZ '9999-12-31 23:59:59.999999+00'",
    ),
}

_TEXT = "MD5({} || '.')"
"""Of a text, so that blanks at its end count, and its case whatever the collation."""

_NO_NUMBER = "{}::varchar IN ('NaN', 'Infinity', '-Infinity')"

_SIGN = "ATAN2({}, -1)"
"""A number that tells 0 from -0, which are equal."""


class RedshiftWorkspace(PostgresWorkspace):
    """A schema in Redshift."""

    dialect = "redshift"
    longest_name = 127
    kind = dialect_of(make_url("redshift://"))
    session = ()
    lock_timeout = None

    def __init__(self, url: URL, root: Path, schema: str) -> None:
        """Connect; see `PostgresWorkspace`.

        Raises:
            ConfigError: the driver is not installed.
            WarehouseError: the database cannot be reached.
        """
        try:
            super().__init__(url, root, schema)
        except (ArgumentError, ImportError):
            # The cause may quote the URL, password and all.
            raise ConfigError(
                f"there is no driver for {url.drivername}",
                where=shown(url),
                hint="pip install 'retl[redshift]'",
            ) from None

    def prepare(self) -> None:
        """Make the schema where there is none; see `Workspace.prepare`."""
        missing = self.missing_grants()
        if missing:
            raise lacking_grants(self.schema, missing, shown(self._url))
        if not self._is_there():
            self.execute(f"CREATE SCHEMA {sql.name(self.schema)}")

    def missing_grants(self) -> list[str]:
        """The statements that let the user do what is needed; see `Workspace.missing_grants`."""
        ((user, _, may_make),) = self._rows(_MAY_MAKE)
        schema, owner = sql.name(self.schema), sql.name(user)
        if not self._is_there():
            return [] if may_make else [f"CREATE SCHEMA {schema} AUTHORIZATION {owner}"]
        ((may,),) = self._rows(_RIGHTS.format(schema=sql.text(self.schema)))
        return [] if may else [f"GRANT USAGE, CREATE ON SCHEMA {schema} TO {owner}"]

    def tables(self, prefix: str) -> list[str]:
        """The tables whose names begin so."""
        query = _TABLES.format(schema=sql.text(self.schema), prefix=sql.text(prefix), length=len(prefix))
        return [name for (name,) in self._rows(query)]

    def columns(self, table: str) -> tuple[StoredColumn, ...]:
        """The columns of a table, in its order.

        Raises:
            ConfigError: one has a type whose values cannot be compared.
        """
        found = self._rows(_COLUMNS.format(schema=sql.text(self.schema), table=sql.text(table)))
        return tuple(_stored(self._url, *row) for row in found)

    def query_of(self, model: Model) -> str:
        """The model's SQL in brackets."""
        return as_subquery(one_query(model, self.kind.grammar))

    def spelled(self, statement: str) -> str:
        """A statement in Redshift's SQL; see `Workspace.spelled`."""
        return spelled(statement, self.dialect) if "IS DISTINCT FROM" in statement else statement

    def execute(self, statement: str, model: Model | None = None) -> int | None:
        """Execute a statement that gives no rows; see `Workspace.execute`."""
        self._executed(statement if model else self.spelled(statement), model)
        return None

    def analyze(self, table: str, columns: Sequence[str]) -> None:
        """Nothing: Redshift takes its sample as it makes a table of a SELECT."""

    def number(self, query: str) -> int:
        """The one number that a query gives."""
        return super().number(self.spelled(query))

    def _is_there(self) -> bool:
        return bool(self._rows(_SCHEMA.format(schema=sql.text(self.schema)))[0][0])


def _stored(url: URL, name: str, kind: str, precision: int | None, scale: int | None) -> StoredColumn:
    """How a column of that type is compared."""
    if kind in _SAME:
        whole = f"numeric({precision},{scale})" if kind == "numeric" else kind
        return StoredColumn(name, whole, "{}", ("{}",))
    if kind in ("character varying", "character", "text"):
        return StoredColumn(name, kind, _TEXT, (_TEXT, "{} || '.'"))
    if kind in ("double precision", "real"):
        return StoredColumn(name, kind, "{}", ("{}", _SIGN), _NO_NUMBER)
    if kind in _MOMENTS:
        first, last = _MOMENTS[kind]
        outside = f"({{}} < {first} OR {{}} > {last})"
        return StoredColumn(name, kind, "{}", ("{}",), outside, outside)
    if kind in ("time without time zone", "time with time zone"):
        return StoredColumn(name, kind, None, ("{}::varchar",))
    if kind == "super":
        return StoredColumn(name, kind, None, ("MD5(JSON_SERIALIZE({}))", "JSON_TYPEOF({})"))
    raise ConfigError(
        f"the column `{name}` has the type {kind}, whose values `engine: warehouse` cannot compare",
        where=shown(url),
        hint=f"cast it in the model: CAST({name} AS VARCHAR); or use `engine: local`",
    )
