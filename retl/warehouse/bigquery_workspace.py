"""The workspace in BigQuery: a dataset of retl's own. Nobody has tried it against a live account.

Statements are sent as scripts that end with a SELECT. BigQuery's driver would else not wait until a statement
is done, or read back all rows of the table that it made.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from adbc_driver_manager import AdbcStatusCode, Error
from sqlalchemy.engine import URL

from retl import sql
from retl.address import shown, without_secrets
from retl.errors import ConfigError, ModelError, WarehouseError
from retl.model import Model
from retl.warehouse.base import line_in, sentence_in
from retl.warehouse.bigquery import SERVICE, reason
from retl.warehouse.dialect import as_subquery
from retl.warehouse.hosted import connected
from retl.warehouse.message import model_error, read_error
from retl.warehouse.query import one_query
from retl.warehouse.spelling import spelled
from retl.warehouse.workspace import StoredColumn, Workspace

_TABLES = """\
SELECT table_name FROM {dataset}.INFORMATION_SCHEMA.TABLES
WHERE STARTS_WITH(table_name, {prefix}) ORDER BY table_name"""

_COLUMNS = """\
SELECT column_name, data_type FROM {dataset}.INFORMATION_SCHEMA.COLUMNS
WHERE table_name = {table} ORDER BY ordinal_position"""

_NOT_ALLOWED = "accessDenied"

_NOT_THERE = "notFound"

_MODEL = '"retl_model"'
"""Stands for the model in a statement that is being spelled."""

_TRIED = "retl_check"
"""The table that is made to see whether one can be."""

_TEXT = "SHA256({})"
"""Of a text, as a collation may take two of them for the same."""

_NO_NUMBER = "(IS_NAN({}) OR IS_INF({}))"

_SIGN = "IEEE_DIVIDE(1, {})"
"""A number that tells 0 from -0, which are equal."""

_NESTED = ("TO_JSON_STRING({})", "({} IS NULL)")
"""The JSON of a value, in which NULL may be one of JSON's."""

_PLAIN = ("BOOL", "INT64", "NUMERIC", "BIGNUMERIC", "BYTES", "DATE", "DATETIME", "TIMESTAMP")
"""Types of which what is equal to BigQuery is the same; their years are 1 to 9999."""

_UNKNOWN = ("GEOGRAPHY", "INTERVAL", "RANGE", "TIMESTAMP(12)")
"""Types that cannot be compared, also inside others."""


class BigQueryWorkspace(Workspace):
    """A dataset in the project of the URL; each statement is a job of its own."""

    dialect = "bigquery"
    longest_name = 1024

    def __init__(self, url: URL, schema: str) -> None:
        """Connect.

        Args:
            url: where the project is.
            schema: the name of the dataset, spelled as it is there.

        Raises:
            ConfigError: the URL has a setting that is not known, or that the driver refuses.
            WarehouseError: the service cannot be reached.
        """
        self.schema = schema
        self._url = url
        self._location = str(url.query.get("location", ""))
        self._connection = connected(url, SERVICE)

    def prepare(self) -> None:
        """Make the dataset where there is none; see `Workspace.prepare`.

        Raises:
            ConfigError: there is none, and the URL does not say where to make it.
        """
        with self._translating(None):
            if not self._is_there():  # or the account would have to have the right to make one
                self._make()

    def missing_grants(self) -> list[str]:
        """The statements that let the account do what is needed; see `Workspace.missing_grants`.

        BigQuery has no question for what an account may do with all that it inherits. So the dataset is made
        where there is none, and a table in it, which is dropped at once.
        """
        table = f"{sql.name(self.schema)}.{sql.name(_TRIED)}"
        with self._translating(None):
            try:
                if not self._is_there():
                    self._make()
                self._run(spelled(f"CREATE TABLE {table} (n BOOLEAN)", self.dialect))
                self._run(spelled(f"DROP TABLE {table}", self.dialect))
            except Error as error:
                if reason(error) != _NOT_ALLOWED:
                    raise
                return self._grants()
        return []

    def tables(self, prefix: str) -> list[str]:
        """The tables whose names begin so."""
        query = _TABLES.format(dataset=self._dataset, prefix=sql.text(prefix))
        with self._translating(None):
            return [row["table_name"] for row in self._fetched(query)]

    def columns(self, table: str) -> tuple[StoredColumn, ...]:
        """The columns of a table, in its order; none where it is gone.

        Raises:
            ConfigError: one has a type whose values cannot be compared.
        """
        query = _COLUMNS.format(dataset=self._dataset, table=sql.text(table))
        with self._translating(None):
            try:
                found = self._fetched(query)
            except Error as error:
                if reason(error) != _NOT_THERE:
                    raise
                return ()
        return tuple(_stored(row["column_name"], row["data_type"], self._url) for row in found)

    def query_of(self, model: Model) -> str:
        """The model's SQL in brackets."""
        return as_subquery(one_query(model, SERVICE.grammar))

    def spelled(self, statement: str) -> str:
        """A statement in BigQuery's SQL; see `Workspace.spelled`."""
        return spelled(statement, self.dialect)

    def execute(self, statement: str, model: Model | None = None) -> None:
        """Execute a statement that gives no rows; see `Workspace.execute`."""
        if model is None:
            text = self.spelled(statement)
        else:
            query = self.query_of(model)
            before, _, after = self.spelled(statement.replace(query, _MODEL, 1)).partition("`retl_model`")
            text = model.said(f"{before}{query}{after}", SERVICE.cuts_leading_comments)
        with self._translating(model):
            self._run(text)

    def analyze(self, table: str, columns: Sequence[str]) -> None:
        """Nothing: BigQuery knows."""

    def number(self, query: str) -> int:
        """The one number that a query gives."""
        with self._translating(None):
            ((number,),) = (row.values() for row in self._fetched(self.spelled(query)))
        return int(number)

    def drop(self, tables: Sequence[str]) -> None:
        """Drop tables, of which some may be gone."""
        named = (f"{sql.name(self.schema)}.{sql.name(table)}" for table in tables)
        drops = [self.spelled(f"DROP TABLE IF EXISTS {one}") for one in named]
        if drops:
            with self._translating(None):
                self._run(";\n".join(drops))

    def cancel(self) -> None:
        """Stop waiting for what is executed."""
        self._connection.cancel()

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def _is_there(self) -> bool:
        try:
            self._fetched(_TABLES.format(dataset=self._dataset, prefix=sql.text(_TRIED)))
        except Error as error:
            if reason(error) != _NOT_THERE:
                raise
            return False
        return True

    def _make(self) -> None:
        """Make the dataset, where BigQuery does not choose its location."""
        if not self._location:
            raise ConfigError(
                f"there is no dataset `{self.schema}`, and the warehouse's URL does not say where to make it",
                where=shown(self._url),
                hint="add the location of the data that models read to the URL, as in …?location=EU; "
                f"or run: CREATE SCHEMA {self._dataset} OPTIONS (location = 'EU');",
            )
        self._run(self._creation())

    @property
    def _dataset(self) -> str:
        return f"`{self._url.host}`.`{self.schema}`"

    def _creation(self) -> str:
        options = f" OPTIONS (location = {sql.text(self._location)})" if self._location else ""
        return f"CREATE SCHEMA IF NOT EXISTS {self._dataset}{options}"

    def _grants(self) -> list[str]:
        """The SQL with which the account of the connection may make tables in the dataset."""
        (row,) = self._fetched("SELECT SESSION_USER() AS account")
        account = row["account"]
        kind = "serviceAccount" if account.endswith(".gserviceaccount.com") else "user"
        return [
            self._creation(),
            f'GRANT `roles/bigquery.dataEditor` ON SCHEMA {self._dataset} TO "{kind}:{account}"',
        ]

    def _run(self, statement: str) -> None:
        """Execute a statement without rows, to its end."""
        self._fetched(f"{statement};\nSELECT 1 AS done")

    def _fetched(self, query: str) -> list[dict[str, Any]]:
        """The rows of a query; it can be cancelled."""
        return [row for batch in self._connection.batches(query) for row in batch.to_pylist()]

    @contextmanager
    def _translating(self, model: Model | None) -> Iterator[None]:
        try:
            yield
        except Error as error:
            # The cause may quote the rows, or the URL, key and all.
            raise self._translated(error, model) from None

    def _translated(self, error: Error, model: Model | None) -> ConfigError | ModelError | WarehouseError:
        said = without_secrets(sentence_in(SERVICE.said(error)), self._url)
        # The driver itself says that the account may not read a result, or not look for it.
        if reason(error) == _NOT_ALLOWED or error.status_code == AdbcStatusCode.UNAUTHORIZED:
            return ConfigError(
                f"the warehouse's account may not do what `engine: warehouse` needs: {said}",
                where=shown(self._url),
                hint="give it the role BigQuery User on the project; "
                "retl check --connect says which grants are missing in the dataset",
            )
        if model is not None:
            if SERVICE.is_models(error):
                return model_error(model, said, line_in(str(error)))
            return read_error(model, said, self._url)
        return WarehouseError(
            f"the warehouse failed in the dataset `{self.schema}`: {said}",
            where=shown(self._url),
            hint="nothing was sent; run it again",
        )


def _stored(name: str, kind: str, url: URL) -> StoredColumn:
    """How a column of that type is compared."""
    family = kind.partition("(")[0].partition("<")[0]
    is_known = not any(one in kind for one in _UNKNOWN)
    if family in _PLAIN and is_known:
        return StoredColumn(name, kind, "{}", ("{}",))
    if family == "STRING":  # of any length, and whatever its collation
        return StoredColumn(name, family, _TEXT, (_TEXT,))
    if family == "FLOAT64":
        return StoredColumn(name, kind, "{}", ("{}", _SIGN), _NO_NUMBER)
    if family == "TIME":
        return StoredColumn(name, kind, None, ("{}",))
    if family in ("ARRAY", "STRUCT", "JSON") and is_known:
        return StoredColumn(name, kind, None, _NESTED)
    raise ConfigError(
        f"the column `{name}` has the type {kind}, whose values `engine: warehouse` cannot compare",
        where=shown(url),
        hint=f"cast it in the model: CAST({name} AS STRING), or ST_ASGEOJSON({name}) of a GEOGRAPHY; "
        "or use `engine: local`",
    )
