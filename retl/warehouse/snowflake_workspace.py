"""The workspace in Snowflake: a schema of retl's own. Nobody has tried it against a live account.

Names are written in quotes, so the schema and its tables are spelled as in the sync, and not in capitals.
"""

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from adbc_driver_manager import Error
from sqlalchemy.engine import URL

from retl import sql
from retl.address import shown, without_secrets
from retl.errors import ConfigError, ModelError, WarehouseError
from retl.model import Model
from retl.warehouse.base import line_in, sentence_in
from retl.warehouse.dialect import as_subquery
from retl.warehouse.hosted import connected, is_models
from retl.warehouse.message import model_error, read_error
from retl.warehouse.query import one_query
from retl.warehouse.snowflake import SERVICE
from retl.warehouse.workspace import StoredColumn, Workspace

_NOT_ALLOWED = "42501"
"""The SQLSTATE for what the role may not do."""

_NOT_THERE = ("42S02", "02000")
"""The SQLSTATEs for a table or a schema that is not there, or that the role may not see."""

_TRIED = "retl_check"
"""The table that is made to see whether one can be."""

_OUTSIDE = "YEAR({}) NOT BETWEEN 1 AND 9999"

_NO_NUMBER = "{} IN ('NaN'::FLOAT, 'inf'::FLOAT, '-inf'::FLOAT)"

_TEXT = "TO_BINARY({}, 'UTF-8')"
"""The bytes of a text, as a collation may take two of them for the same."""

_MICROSECONDS = "DATE_TRUNC('MICROSECOND', {})"
"""A moment as it is read; Snowflake's may have nanoseconds."""

_JSON = "TO_BINARY(TO_JSON({}::VARIANT), 'UTF-8')"

_SIGN = "ATAN2({}, -1)"
"""A number that tells 0 from -0, which are equal."""


class SnowflakeWorkspace(Workspace):
    """A schema in the database of the URL; each statement is a transaction of its own."""

    dialect = "snowflake"
    longest_name = 255

    def __init__(self, url: URL, schema: str) -> None:
        """Connect.

        Args:
            url: where the database is.
            schema: the name of the schema, spelled as it is there.

        Raises:
            ConfigError: the URL names no database, or has a setting that is not known.
            WarehouseError: the service cannot be reached.
        """
        if not url.database:
            raise ConfigError(
                "the warehouse's URL names no database, in which `engine: warehouse` could make a schema",
                where=shown(url),
                hint="Write snowflake://user:password@organization-account/database/schema?warehouse=…&role=….",
            )
        self.schema = schema
        self._url = url
        self._connection = connected(url, SERVICE)

    def prepare(self) -> None:
        """Make the schema where there is none; see `Workspace.prepare`."""
        with self._translating(None):
            if not self._is_there():  # or the role would have to have the right to make one
                self._fetched(f"CREATE SCHEMA {sql.name(self.schema)}")

    def missing_grants(self) -> list[str]:
        """The statements that let the role do what is needed; see `Workspace.missing_grants`.

        Snowflake has no question for what a role may do with all that it inherits. So the schema is made
        where there is none, and a table in it, which is dropped at once.
        """
        table = f"{sql.name(self.schema)}.{sql.name(_TRIED)}"
        with self._translating(None):
            try:
                if not self._is_there():
                    self._fetched(f"CREATE SCHEMA {sql.name(self.schema)}")
                self._fetched(f"CREATE OR REPLACE TRANSIENT TABLE {table} (n BOOLEAN)")
                self._fetched(f"DROP TABLE IF EXISTS {table}")
            except Error as error:
                if error.sqlstate != _NOT_ALLOWED:
                    raise
                return self._grants()
        return []

    def tables(self, prefix: str) -> list[str]:
        """The tables whose names begin so."""
        query = f"SHOW TERSE TABLES IN SCHEMA {sql.name(self.schema)} STARTS WITH {_text(prefix)}"
        with self._translating(None):
            names = [row["name"] for row in self._fetched(query)]
        return sorted(name for name in names if name.startswith(prefix))

    def columns(self, table: str) -> tuple[StoredColumn, ...]:
        """The columns of a table, in its order; none where it is gone.

        Raises:
            ConfigError: one has a type whose values cannot be compared.
        """
        with self._translating(None):
            try:
                found = self._fetched(f"DESCRIBE TABLE {sql.name(self.schema)}.{sql.name(table)}")
            except Error as error:
                if error.sqlstate not in _NOT_THERE:
                    raise
                return ()
        return tuple(_stored(row["name"], row["type"], self._url) for row in found)

    def query_of(self, model: Model) -> str:
        """The model's SQL in brackets."""
        return as_subquery(one_query(model, SERVICE.grammar))

    def spelled(self, statement: str) -> str:
        """A statement in Snowflake's SQL; its tables are transient, which cost no week of backups."""
        made = re.sub(r"^CREATE TABLE ", "CREATE TRANSIENT TABLE ", statement)
        return made.replace("row_number() OVER ()", "row_number() OVER (ORDER BY NULL)")

    def execute(self, statement: str, model: Model | None = None) -> None:
        """Execute a statement that gives no rows; see `Workspace.execute`."""
        query = self.query_of(model) if model else ""
        before, query, after = statement.partition(query) if query else (statement, "", "")
        text = self.spelled(before) + query + self.spelled(after)
        with self._translating(model):
            self._fetched(model.said(text, SERVICE.cuts_leading_comments) if model else text)

    def analyze(self, table: str, columns: Sequence[str]) -> None:
        """Nothing: Snowflake knows."""

    def number(self, query: str) -> int:
        """The one number that a query gives."""
        with self._translating(None):
            ((number,),) = (row.values() for row in self._fetched(self.spelled(query)))
        return int(number)

    def drop(self, tables: Sequence[str]) -> None:
        """Drop tables, of which some may be gone."""
        for table in tables:
            self.execute(f"DROP TABLE IF EXISTS {sql.name(self.schema)}.{sql.name(table)}")

    def cancel(self) -> None:
        """Stop what is executed."""
        self._connection.cancel()

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def _is_there(self) -> bool:
        found = self._fetched(f"SHOW TERSE SCHEMAS STARTS WITH {_text(self.schema)}")
        return self.schema in {row["name"] for row in found}

    def _grants(self) -> list[str]:
        """The SQL with which the role of the connection may make tables in the schema."""
        (row,) = self._fetched("SELECT CURRENT_ROLE() AS R, CURRENT_DATABASE() AS D")
        role, database = sql.name(row["R"]), sql.name(row["D"])
        schema = f"{database}.{sql.name(self.schema)}"
        return [
            f"CREATE SCHEMA IF NOT EXISTS {schema}",
            f"GRANT USAGE ON DATABASE {database} TO ROLE {role}",
            f"GRANT USAGE, CREATE TABLE ON SCHEMA {schema} TO ROLE {role}",
        ]

    def _fetched(self, statement: str) -> list[dict[str, Any]]:
        """The rows of a statement, or what Snowflake says of one without rows; it can be cancelled."""
        return [row for batch in self._connection.batches(statement) for row in batch.to_pylist()]

    @contextmanager
    def _translating(self, model: Model | None) -> Iterator[None]:
        try:
            yield
        except Error as error:
            # The cause may quote the rows, or the URL, password and all.
            raise self._translated(error, model) from None

    def _translated(self, error: Error, model: Model | None) -> ConfigError | ModelError | WarehouseError:
        said = without_secrets(sentence_in(str(error)), self._url)
        if error.sqlstate == _NOT_ALLOWED:
            return ConfigError(
                f"the warehouse's user may not do what `engine: warehouse` needs: {said}",
                where=shown(self._url),
                hint="retl check --connect says which grants are missing",
            )
        if model is not None:
            if is_models(error):
                return model_error(model, said, line_in(str(error)))
            return read_error(model, said, self._url)
        return WarehouseError(
            f"the warehouse failed in the schema `{self.schema}`: {said}",
            where=shown(self._url),
            hint="nothing was sent; run it again",
        )


def _text(value: str) -> str:
    """A text in Snowflake's SQL, in which a backslash stands for more than itself."""
    return sql.text(value.replace("\\", "\\\\"))


def _stored(name: str, kind: str, url: URL) -> StoredColumn:
    """How a column of that type is compared."""
    family = kind.partition("(")[0].partition(" ")[0]
    if family in ("NUMBER", "BOOLEAN"):
        return StoredColumn(name, kind, "{}", ("{}",))
    if family == "BINARY":
        return StoredColumn(name, family, "{}", ("{}",))
    if family == "VARCHAR":  # of any length, and whatever its collation
        return StoredColumn(name, family, _TEXT, (_TEXT,))
    if family == "FLOAT":
        return StoredColumn(name, kind, "{}", ("{}", _SIGN), _NO_NUMBER)
    if family == "DATE":
        return StoredColumn(name, kind, "{}", ("{}",), _OUTSIDE, _OUTSIDE)
    if family in ("TIMESTAMP_NTZ", "TIMESTAMP_LTZ", "TIMESTAMP_TZ"):
        return StoredColumn(name, kind, _MICROSECONDS, ("{}",), _OUTSIDE, _OUTSIDE)
    if family == "TIME":
        return StoredColumn(name, kind, None, ("{}",))
    if family == "VARIANT":  # whose null of JSON's is not NULL
        return StoredColumn(name, kind, None, (_JSON, "TYPEOF({})"))
    if family in ("OBJECT", "ARRAY", "MAP"):
        return StoredColumn(name, kind, None, (_JSON,))
    raise ConfigError(
        f"the column `{name}` has the type {kind}, whose values `engine: warehouse` cannot compare",
        where=shown(url),
        hint=f"cast it in the model: TO_VARCHAR({name}), or ST_ASGEOJSON({name}) of a GEOGRAPHY; "
        "or use `engine: local`",
    )
