"""Models read from Spark, by columns, through a Spark Connect server."""

from pyspark.errors import PySparkException

from retl.address import Address
from retl.warehouse.spark_connect import SparkSession
from retl.warehouse.spark_errors import unopened
from retl.warehouse.spark_grammar import SPARK
from retl.warehouse.spark_sql import SparkSqlWarehouse


class SparkWarehouse(SparkSqlWarehouse):
    """Spark behind a Spark Connect server."""

    def __init__(self, address: Address) -> None:
        """Open a session.

        Args:
            address: of a server: `sc://host:15002/;token=…;use_ssl=true`, as Spark's own clients have it.

        Raises:
            ConfigError: the client does not take the address.
            WarehouseError: the server cannot be reached, or does not take the token.
        """
        super().__init__(opened(address), SPARK)


def opened(address: Address) -> SparkSession:
    """A session of a server; raises as `SparkWarehouse` does."""
    try:
        return SparkSession(address)
    except (PySparkException, ValueError) as error:
        # The cause may quote the token.
        raise unopened(error, address) from None
