"""The local engine: all rows are staged in DuckDB and compared there."""

from collections.abc import Iterator

import duckdb
import pyarrow as pa

from retl.config.sync import Sync, with_columns
from retl.engine import diff, snapshot
from retl.engine.base import Changes, Engine
from retl.engine.cast import refuse_casts
from retl.engine.mapping import SyncMapping, comparisons, read_mapping
from retl.engine.stage import stage
from retl.errors import MissingColumnError, ModelError
from retl.model import Model
from retl.warehouse import Warehouse


class LocalEngine(Engine):
    """An engine that reads all rows of the model, and compares them with a snapshot in the state file.

    Attributes:
        db: the state's connection.
        warehouse: where models are read.
    """

    def __init__(self, db: duckdb.DuckDBPyConnection, warehouse: Warehouse) -> None:
        self.db = db
        self.warehouse = warehouse

    def find_changes(self, sync: Sync, model: Model, old_mapping: SyncMapping | None, full: bool) -> Changes:
        """Stage the model's rows and compare them; see `Engine.find_changes`."""
        sync, batches = read_columns(sync, model, self.warehouse)
        mapping, rows_read = stage(self.db, sync, read_mapping(sync), batches)
        refuse_casts(sync, mapping)
        snapshot.make_known(self.db, mapping, old_mapping)
        compared = comparisons(sync, mapping, old_mapping, send_new_fields=sync.sends_new_fields)
        rows_before = snapshot.row_count(self.db)
        found = diff.diff(self.db, mapping, old_mapping, compared, rows_read, rows_before, full)
        return Changes(sync, mapping, old_mapping, compared, found)

    def promote(self, changes: Changes) -> SyncMapping:
        """Move the snapshot in the state file; see `Engine.promote`."""
        return snapshot.promote(
            self.db,
            changes.mapping,
            changes.old_mapping,
            changes.compared,
            changes.sync.sends_new_fields,
        )


def read_columns(sync: Sync, model: Model, warehouse: Warehouse) -> tuple[Sync, Iterator[pa.RecordBatch]]:
    """The sync with `all` replaced by the model's columns, and the rows of the columns that it needs.

    Raises:
        ModelError: the SQL fails, or its result lacks a column; it says where the sync names it.
        WarehouseError: the warehouse cannot be reached, or the read broke off.
    """
    if sync.block.sends_all:
        sync = with_columns(sync, [column.name for column in warehouse.columns(model)])
    return sync, _located(sync, warehouse.read(model, read_mapping(sync).columns))


def _located(sync: Sync, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    try:
        yield from batches
    except MissingColumnError as error:
        raise ModelError(error.message, where=sync.where_used(error.column), hint=error.hint) from error
