"""The databases that models are read from."""

from pathlib import Path

from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

from retl.errors import ConfigError
from retl.warehouse.base import BATCH_ROWS, FAULT, Column, Warehouse
from retl.warehouse.dialects import dialect_of
from retl.warehouse.duckdb import DuckDBWarehouse, Room
from retl.warehouse.sqlalchemy import SQLAlchemyWarehouse

__all__ = ["BATCH_ROWS", "FAULT", "Column", "Room", "Warehouse", "open_warehouse"]


def open_warehouse(url: str, root: Path, room: Room | None = None) -> Warehouse:
    """Connect, read-only.

    Args:
        url: a SQLAlchemy URL: `duckdb:///data/shop.duckdb`, `duckdb://`, `postgresql://…`, `sqlite:///…`, ….
        root: the project folder, which relative paths in the URL (and, for DuckDB, in SQL) start from.
        room: what DuckDB may take; None leaves that to DuckDB.

    Raises:
        ConfigError: the URL cannot be understood, or its dialect or driver is not installed.
        WarehouseError: the warehouse cannot be reached, or its file does not exist.
    """
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        # The cause may quote the URL, password and all.
        raise ConfigError(
            "the warehouse's URL cannot be understood",
            hint="Write dialect://user:password@host/database, the password with %40 for @ and %2F for /.",
        ) from None
    if parsed.get_backend_name() == "duckdb":
        return DuckDBWarehouse(parsed, root, room)
    return SQLAlchemyWarehouse(parsed, root, dialect_of(parsed))
