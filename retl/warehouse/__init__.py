"""The databases that models are read from."""

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from retl.address import Address, read_address, shown
from retl.errors import ConfigError
from retl.lazy import lazy_module
from retl.memory import Room
from retl.warehouse.base import BATCH_ROWS, FAULT, Column, Warehouse
from retl.warehouse.workspace import Workspace

if TYPE_CHECKING:
    from sqlalchemy import engine

    from retl.warehouse import (
        bigquery,
        bigquery_workspace,
        databricks,
        databricks_workspace,
        dialects,
        duckdb,
        duckdb_workspace,
        hosted,
        postgres_adbc,
        postgres_workspace,
        redshift_workspace,
        snowflake,
        snowflake_workspace,
        spark,
        spark_workspace,
        sqlalchemy,
    )
else:
    engine = lazy_module("sqlalchemy.engine")
    databricks = lazy_module("retl.warehouse.databricks", "databricks")
    databricks_workspace = lazy_module("retl.warehouse.databricks_workspace", "databricks")
    dialects = lazy_module("retl.warehouse.dialects")
    duckdb = lazy_module("retl.warehouse.duckdb")
    duckdb_workspace = lazy_module("retl.warehouse.duckdb_workspace")
    postgres_workspace = lazy_module("retl.warehouse.postgres_workspace")
    redshift_workspace = lazy_module("retl.warehouse.redshift_workspace", "redshift")
    postgres_adbc = lazy_module("retl.warehouse.postgres_adbc")
    hosted = lazy_module("retl.warehouse.hosted")
    snowflake = lazy_module("retl.warehouse.snowflake")
    snowflake_workspace = lazy_module("retl.warehouse.snowflake_workspace", "snowflake")
    bigquery = lazy_module("retl.warehouse.bigquery")
    bigquery_workspace = lazy_module("retl.warehouse.bigquery_workspace", "bigquery")
    spark = lazy_module("retl.warehouse.spark", "spark")
    spark_workspace = lazy_module("retl.warehouse.spark_workspace", "spark")
    sqlalchemy = lazy_module("retl.warehouse.sqlalchemy")

_COMPARING = frozenset(
    {"bigquery", "databricks", "duckdb", "postgres", "postgresql", "redshift", "sc", "snowflake"}
)
"""The kinds of warehouses, as URLs name them, that `engine: warehouse` compares rows in."""

__all__ = [
    "BATCH_ROWS",
    "FAULT",
    "Column",
    "Warehouse",
    "Workspace",
    "open_warehouse",
    "open_workspace",
    "refuse_workspace",
]


def open_warehouse(
    url: str, root: Path, room: Room | None = None, *, with_workspace: bool = False
) -> Warehouse:
    """Connect, read-only.

    Args:
        url: a SQLAlchemy URL: `duckdb:///data/shop.duckdb`, `duckdb://`, `postgresql://…`, `sqlite:///…`, …;
            or Spark's, `sc://host:15002`.
        root: the project folder, which relative paths in the URL (and, for DuckDB, in SQL) start from.
        room: what DuckDB may take; None leaves that to DuckDB.
        with_workspace: whether a workspace is open, too; a DuckDB file is then not opened read-only.

    Raises:
        ConfigError: the URL cannot be understood, or its dialect or driver is not installed.
        WarehouseError: the warehouse cannot be reached, or its file does not exist.
    """
    address = _address(url)
    if address.backend == "duckdb":
        return duckdb.DuckDBWarehouse(address, root, room, writable=with_workspace)
    if address.backend == "sc":
        return spark.SparkWarehouse(address)
    if address.backend == "databricks":
        return databricks.DatabricksWarehouse(address)
    parsed = engine.make_url(url)
    dialect = dialects.dialect_of(parsed)
    if dialect is dialects.DIALECTS["postgresql"] and find_spec("adbc_driver_postgresql"):
        return postgres_adbc.PostgresWarehouse(parsed, root)
    if address.backend == "snowflake" and find_spec("adbc_driver_snowflake"):
        return hosted.HostedWarehouse(parsed, snowflake.SERVICE)
    if address.backend == "bigquery" and find_spec("adbc_driver_bigquery"):
        return hosted.HostedWarehouse(parsed, bigquery.SERVICE)
    return sqlalchemy.SQLAlchemyWarehouse(parsed, root, dialect)


def open_workspace(url: str, root: Path, schema: str, room: Room | None = None) -> Workspace:
    """Connect to the schema of a warehouse that retl writes in.

    Args:
        url: as for `open_warehouse`.
        root: as for `open_warehouse`.
        schema: the name of the schema.
        room: as for `open_warehouse`.

    Raises:
        ConfigError: `engine: warehouse` does not know that kind of warehouse, or the URL cannot be used.
        WarehouseError: the warehouse cannot be reached, or cannot be written.
    """
    refuse_workspace(url)
    address = _address(url)
    if address.backend == "duckdb":
        return duckdb_workspace.DuckDBWorkspace(address, root, schema, room)
    if address.backend in ("postgres", "postgresql"):
        return postgres_workspace.PostgresWorkspace(engine.make_url(url), root, schema)
    if address.backend == "redshift":
        return redshift_workspace.RedshiftWorkspace(engine.make_url(url), root, schema)
    if address.backend == "snowflake":
        return snowflake_workspace.SnowflakeWorkspace(engine.make_url(url), schema)
    if address.backend == "bigquery":
        return bigquery_workspace.BigQueryWorkspace(engine.make_url(url), schema)
    if address.backend == "databricks":
        return databricks_workspace.DatabricksWorkspace(address, schema)
    return spark_workspace.SparkWorkspace(address, schema)


def refuse_workspace(url: str, where: str | None = None) -> None:
    """See by its URL that a warehouse may have a schema of retl's own; it is not connected to.

    Args:
        url: as for `open_warehouse`.
        where: the place of `engine: warehouse`, for the error.

    Raises:
        ConfigError: `engine: warehouse` does not know that kind of warehouse, it keeps nothing, or the URL
            cannot be understood.
    """
    address = _address(url)
    if address.backend not in _COMPARING:
        raise ConfigError(
            f"`engine: warehouse` cannot compare rows in {address.backend} (yet)",
            where=where or shown(address),
            hint="use `engine: local`, which reads all rows and compares them here",
        )
    if address.backend == "duckdb" and address.database in (None, "", ":memory:"):
        raise ConfigError(
            "a DuckDB in memory keeps no table from one run to the next",
            where=where,
            hint="use `engine: local`, or a DuckDB file",
        )


def _address(url: str) -> Address:
    """The parts of a warehouse's URL."""
    try:
        return read_address(url)
    except ValueError:
        # The cause may quote the URL, password and all.
        raise ConfigError(
            "the warehouse's URL cannot be understood",
            hint="Write dialect://user:password@host/database, the password with %40 for @ and %2F for /.",
        ) from None
