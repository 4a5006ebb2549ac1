"""The workspace in Spark: a schema of retl's own, whose tables are as the catalog makes them by itself.

That is Parquet, or Delta or Iceberg where the server's default says so.
"""

from retl.address import Address
from retl.warehouse.spark import opened
from retl.warehouse.spark_grammar import SPARK
from retl.warehouse.spark_sql import SparkSqlWorkspace


class SparkWorkspace(SparkSqlWorkspace):
    """A schema in the default catalog of a Spark Connect server."""

    dialect = "spark"
    longest_name = 128

    def __init__(self, address: Address, schema: str) -> None:
        """Open a session.

        Args:
            address: of the server.
            schema: the name of the schema.

        Raises:
            ConfigError: the client does not take the address.
            WarehouseError: the server cannot be reached.
        """
        super().__init__(opened(address), SPARK, schema)

    def prepare(self) -> None:
        """Make the schema where there is none; see `Workspace.prepare`."""
        self.execute(f'CREATE SCHEMA IF NOT EXISTS "{self.schema}"')

    def missing_grants(self) -> list[str]:
        """Nothing: Spark itself has no grants."""
        return []
