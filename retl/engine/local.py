"""The local engine: all rows are staged in DuckDB and compared there."""

from collections.abc import Iterator
from contextlib import contextmanager

import duckdb
import pyarrow as pa

from retl.config.sync import Sync, with_columns
from retl.engine import diff, snapshot
from retl.engine.base import Changes, Engine
from retl.engine.cast import refuse_casts
from retl.engine.landing import Landing
from retl.engine.mapping import SyncMapping, comparisons, read_mapping
from retl.engine.stage import stage
from retl.engine.unmatched import all_unmatched, find_unmatched
from retl.errors import MissingColumnError, ModelError
from retl.model import Model
from retl.warehouse import Warehouse
from retl.warehouse.base import wanted


class LocalEngine(Engine):
    """An engine that reads all rows of the model, and compares them with a snapshot in the state file.

    Attributes:
        db: the state's connection.
        warehouse: where models are read.
        every_row: whether `stage` holds every row, also where the snapshot has it just so.
        in_state: whether the rows of a first pass go to the state file as they are read, so that `promote`
            need not copy them.
    """

    def __init__(
        self,
        db: duckdb.DuckDBPyConnection,
        warehouse: Warehouse,
        every_row: bool = False,
        in_state: bool = False,
    ) -> None:
        self.db = db
        self.warehouse = warehouse
        self.every_row = every_row
        self.in_state = in_state

    def find_changes(self, sync: Sync, model: Model, old_mapping: SyncMapping | None, full: bool) -> Changes:
        """Stage the model's rows and compare them; see `Engine.find_changes`."""
        sync, batches = read_columns(sync, model, self.warehouse)
        mapping = read_mapping(sync)
        snapshot.make_known(self.db, mapping, old_mapping)
        rows_before = snapshot.row_count(self.db)
        landing = self._landing(mapping, old_mapping, full)
        staged = stage(self.db, sync, mapping, batches, landing, old_mapping)
        if staged.landing is Landing.UNLESS_KNOWN:
            find_unmatched(self.db, staged.turn)
        else:
            all_unmatched(self.db)
        mapping = staged.mapping
        refuse_casts(sync, mapping)
        compared = comparisons(sync, mapping, old_mapping, send_new_fields=sync.sends_new_fields)
        found = diff.diff(self.db, staged, old_mapping, compared, rows_before, full)
        return Changes(sync, mapping, old_mapping, compared, found)

    def _landing(self, mapping: SyncMapping, old_mapping: SyncMapping | None, full: bool) -> Landing:
        """The table that takes the rows; an edited mapping and a full run need all of them."""
        if old_mapping is None:
            return Landing.IN_STATE if self.in_state else Landing.ASIDE
        if self.every_row or full or not mapping.is_alike(old_mapping):
            return Landing.ASIDE
        return Landing.UNLESS_KNOWN

    def promote(self, changes: Changes) -> SyncMapping:
        """Move the snapshot in the state file; see `Engine.promote`."""
        if changes.old_mapping is None and self.in_state:
            snapshot.promote_arriving(self.db, changes.mapping)
            return changes.mapping
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


def needed_columns(sync: Sync, model: Model, warehouse: Warehouse) -> list[str]:
    """The columns of the model that the sync needs, without reading its rows.

    Raises:
        ModelError: the SQL fails, or its result lacks a column; it says where the sync names it.
        WarehouseError: the warehouse cannot be reached.
    """
    names = [column.name for column in warehouse.columns(model)]
    sync = with_columns(sync, names)
    with _locating(sync):
        return wanted(model, names, read_mapping(sync).columns)


def _located(sync: Sync, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    with _locating(sync):
        yield from batches


@contextmanager
def _locating(sync: Sync) -> Iterator[None]:
    """Say of a column that is missing where the sync names it."""
    try:
        yield
    except MissingColumnError as error:
        raise ModelError(error.message, where=sync.where_used(error.column), hint=error.hint) from error
