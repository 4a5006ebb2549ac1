"""Models read from Databricks SQL, by columns. Nobody has tried it against a live account."""

from retl.address import Address
from retl.warehouse.databricks_session import DatabricksSession
from retl.warehouse.spark_grammar import DATABRICKS
from retl.warehouse.spark_sql import SparkSqlWarehouse


class DatabricksWarehouse(SparkSqlWarehouse):
    """A SQL warehouse of Databricks', or a cluster by its `http_path`."""

    def __init__(self, address: Address) -> None:
        """Open a session.

        Args:
            address: `databricks://token:…@host?http_path=…&catalog=…&schema=…`, in its parts.

        Raises:
            ConfigError: the URL cannot be used.
            WarehouseError: the warehouse cannot be reached, or does not take the token.
        """
        super().__init__(DatabricksSession(address), DATABRICKS)
