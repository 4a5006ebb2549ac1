"""The workspace in Databricks: a schema of Unity Catalog, with Delta tables. Nobody has tried it live."""

import re

from retl.address import Address
from retl.warehouse.databricks_session import DatabricksSession
from retl.warehouse.spark_grammar import DATABRICKS
from retl.warehouse.spark_sql import NOT_ALLOWED, SparkSqlWorkspace

_TRIED = "retl_check"
"""The table that is made to see whether one can be."""

_ANY_NAME = "TBLPROPERTIES ('delta.columnMapping.mode' = 'name')"
"""The property by which a column of a Delta table may have any name, as one with a blank."""


class DatabricksWorkspace(SparkSqlWorkspace):
    """A schema in the catalog of the URL, or in the default one of the SQL warehouse."""

    dialect = "databricks"
    longest_name = 255
    way_out = "retl check --connect says which grants are missing"

    def __init__(self, address: Address, schema: str) -> None:
        """Open a session.

        Args:
            address: of the SQL warehouse.
            schema: the name of the schema.

        Raises:
            ConfigError: the URL cannot be used.
            WarehouseError: the warehouse cannot be reached.
        """
        super().__init__(DatabricksSession(address), DATABRICKS, schema)

    def prepare(self) -> None:
        """Make the schema where there is none; see `Workspace.prepare`."""
        if not self._is_there():  # or the user would need the right to make one
            self.execute(f'CREATE SCHEMA IF NOT EXISTS "{self.schema}"')

    def missing_grants(self) -> list[str]:
        """The statements that let the user do what is needed; see `Workspace.missing_grants`.

        What groups the user is in, and what they inherit, is not for the user to ask. So the schema is made
        where there is none, and a table in it, which is dropped at once.
        """
        try:
            if not self._is_there():
                self._session.execute(f"CREATE SCHEMA IF NOT EXISTS `{self.schema}`")
            self._session.execute(f"CREATE TABLE IF NOT EXISTS `{self.schema}`.`{_TRIED}` (n BOOLEAN)")
            self._session.execute(f"DROP TABLE IF EXISTS `{self.schema}`.`{_TRIED}`")
        except self._session.errors as error:
            if self._session.state(error) != NOT_ALLOWED:
                raise self._translated(error, None) from None
            return self._grants()
        return []

    def spelled(self, statement: str) -> str:
        """A statement in Databricks' SQL; see `Workspace.spelled`."""
        return re.sub(r"^(CREATE TABLE \S+) AS\b", rf"\1 {_ANY_NAME} AS", super().spelled(statement))

    def _is_there(self) -> bool:
        """Whether there is a schema of that name that the user may see; names are in small letters there."""
        with self._translating(None):
            found = [
                row
                for batch in self._session.batches(f"SHOW SCHEMAS LIKE '{self.schema}'")
                for row in batch.to_pylist()
            ]
        return bool(found)

    def _grants(self) -> list[str]:
        """The SQL with which the user of the session may make tables in the schema."""
        with self._translating(None):
            (batch,) = self._session.batches("SELECT current_user() AS who, current_catalog() AS catalog")
        (row,) = batch.to_pylist()
        who, catalog = _name(row["who"]), _name(row["catalog"])
        schema = f"{catalog}.{_name(self.schema)}"
        return [
            f"CREATE SCHEMA IF NOT EXISTS {schema}",
            f"GRANT USE CATALOG ON CATALOG {catalog} TO {who}",
            f"GRANT USE SCHEMA, CREATE TABLE ON SCHEMA {schema} TO {who}",
        ]


def _name(identifier: str) -> str:
    return "`" + identifier.replace("`", "``") + "`"
