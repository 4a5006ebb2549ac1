"""The local engine: all rows are staged in DuckDB and compared there."""

from collections.abc import Iterator
from contextlib import contextmanager

import duckdb
import pyarrow as pa

from retl.config.sync import Sync, with_columns
from retl.engine import diff, snapshot
from retl.engine.base import Changes, Engine
from retl.engine.cast import refuse_casts
from retl.engine.landing import Landing, Purpose
from retl.engine.mapping import SyncMapping, comparisons, read_mapping
from retl.engine.stage import numbered, stage
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
        purpose: which rows `stage` holds, and where.
        first_place: of a first pass that is to be promoted, the place in the outbox of the first row's call.
    """

    def __init__(
        self,
        db: duckdb.DuckDBPyConnection,
        warehouse: Warehouse,
        purpose: Purpose = Purpose.COMPARE,
        first_place: int = 1,
    ) -> None:
        self.db = db
        self.warehouse = warehouse
        self.purpose = purpose
        self.first_place = first_place

    def find_changes(self, sync: Sync, model: Model, old_mapping: SyncMapping | None, full: bool) -> Changes:
        """Stage the model's rows and compare them; see `Engine.find_changes`."""
        sync, batches = read_columns(sync, model, self.warehouse)
        mapping = read_mapping(sync)
        old_mapping = self._make_known(sync, model, mapping, old_mapping)
        rows_before = snapshot.row_count(self.db)
        is_first = old_mapping is None
        edited = old_mapping is not None and not mapping.is_alike(old_mapping)
        landing = self.purpose.landing(is_first, all_rows=full or edited)
        if landing is Landing.IN_STATE:
            batches = numbered(batches, self.first_place)
        staged = stage(self.db, sync, mapping, batches, landing, old_mapping)
        if staged.landing is Landing.UNLESS_KNOWN:
            find_unmatched(self.db, staged.turn)
        else:
            all_unmatched(self.db, staged.mapping, old_mapping)
        mapping = staged.mapping
        refuse_casts(sync, mapping)
        compared = comparisons(sync, mapping, old_mapping, send_new_fields=sync.sends_new_fields)
        found = diff.diff(self.db, staged, old_mapping, compared, rows_before, full)
        return Changes(sync, mapping, old_mapping, compared, found)

    def _make_known(
        self, _sync: Sync, _model: Model, mapping: SyncMapping, old_mapping: SyncMapping | None
    ) -> SyncMapping | None:
        """Make the view `known`; gives the mapping with the types of its rows."""
        snapshot.make_known(self.db, mapping, old_mapping)
        return old_mapping

    def moving(self, changes: Changes) -> str | None:
        """The SELECT of the places of first calls whose rows the promote moves; see `Engine.moving`."""
        before = changes.old_mapping
        return snapshot.moving(self.db, changes.mapping, before) if before is not None else None

    def prepare(self, changes: Changes) -> None:
        """Leave the snapshot as it is: it is the one that was compared; see `Engine.prepare`."""
        snapshot.read_replaced_anew(self.db, changes.mapping, changes.old_mapping)

    def promote(self, changes: Changes) -> SyncMapping:
        """Move the snapshot in the state file; see `Engine.promote`."""
        if changes.old_mapping is None and self.purpose is Purpose.PROMOTE:
            snapshot.promote_arriving(self.db, changes.mapping)
            return changes.mapping
        return snapshot.promote(
            self.db,
            changes.mapping,
            changes.old_mapping,
            changes.compared,
            changes.sync.sends_new_fields,
        )

    def close(self) -> None:
        """Leave all as it is: nothing was written elsewhere."""


def read_columns(sync: Sync, model: Model, warehouse: Warehouse) -> tuple[Sync, Iterator[pa.RecordBatch]]:
    """The sync with `all` replaced by the model's columns, and the rows of the columns that it needs.

    Raises:
        ModelError: the SQL fails, or its result lacks a column; it says where the sync names it.
        WarehouseError: the warehouse cannot be reached, or the read broke off.
    """
    if sync.block.sends_all:
        sync = with_columns(sync, [column.name for column in warehouse.columns(model)])
    return sync, located(sync, warehouse.read(model, read_mapping(sync).columns))


def needed_columns(sync: Sync, model: Model, warehouse: Warehouse) -> list[str]:
    """The columns of the model that the sync needs; see `needed`."""
    return needed(sync, model, warehouse)[1]


def needed(sync: Sync, model: Model, warehouse: Warehouse) -> tuple[Sync, list[str]]:
    """The sync with `all` replaced by the model's columns, and the columns that it needs; no row is read.

    Raises:
        ModelError: the SQL fails, or its result lacks a column; it says where the sync names it.
        WarehouseError: the warehouse cannot be reached.
    """
    names = [column.name for column in warehouse.columns(model)]
    sync = with_columns(sync, names)
    with _locating(sync):
        return sync, wanted(model, names, read_mapping(sync).columns)


def located(sync: Sync, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Batches, of whose columns one that is missing is an error where the sync names it."""
    with _locating(sync):
        yield from batches


@contextmanager
def _locating(sync: Sync) -> Iterator[None]:
    """Say of a column that is missing where the sync names it."""
    try:
        yield
    except MissingColumnError as error:
        raise ModelError(error.message, where=sync.where_used(error.column), hint=error.hint) from error
