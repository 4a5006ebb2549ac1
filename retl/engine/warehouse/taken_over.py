"""The local engine over a snapshot that is in the warehouse, whose rows are all read.

So a sync goes back to `engine: local`, and so whoever wants to see every row looks at it, without writing
anything in the warehouse.
"""

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace

import duckdb
import pyarrow as pa

from retl import sql
from retl.config.sync import Sync
from retl.engine import snapshot
from retl.engine.base import Changes
from retl.engine.landing import Landing, Purpose
from retl.engine.local import LocalEngine
from retl.engine.mapping import SyncMapping
from retl.engine.stage import numbered, stage
from retl.engine.warehouse import held, statements
from retl.engine.warehouse.tables import (
    SnapshotTable,
    drop_unneeded,
    lost,
    note_snapshot_table,
    run_tables,
    snapshot_table,
)
from retl.errors import ModelError, RetlError
from retl.model import Model
from retl.state import State
from retl.warehouse import Warehouse, Workspace


class TakenOverEngine(LocalEngine):
    """A local engine whose snapshot is read from a table in the warehouse; the promote puts it in the file.

    Attributes:
        state: whose snapshot it is.
        workspace: where the table is dropped that holds it no longer.
    """

    def __init__(
        self, state: State, warehouse: Warehouse, workspace: Workspace, purpose: Purpose, first_place: int
    ) -> None:
        super().__init__(state.db, warehouse, purpose, first_place)
        self.state = state
        self.workspace = workspace

    def _make_known(
        self, sync: Sync, model: Model, mapping: SyncMapping, old_mapping: SyncMapping | None
    ) -> SyncMapping | None:
        """Read the rows of the snapshot's table, and make the view `known` of them."""
        table = snapshot_table(self.state)
        if old_mapping is None or table is None:
            return super()._make_known(sync, model, mapping, old_mapping)
        zone = sync.model_copy(update={"timezone": old_mapping.timezone or sync.timezone})
        batches = numbered(self._rows(model, old_mapping, table), 1)
        staged = stage(self.db, zone, old_mapping, batches, Landing.SHIPPED)
        if staged.rows != table.rows:
            raise lost(table, sync.name, f"had {table.rows:,} rows and has {staged.rows:,} now")
        known = held.hold_shipped(self.db, old_mapping, staged.mapping)
        snapshot.make_known(self.db, mapping, known, held.TABLE)
        return known

    def _rows(self, model: Model, old: SyncMapping, table: SnapshotTable) -> Iterator[pa.RecordBatch]:
        query = statements.select_all(f"{sql.name(table.schema)}.{sql.name(table.name)}", old.columns)
        try:
            yield from self.warehouse.read(replace(model, sql=query))
        except ModelError as error:
            raise lost(table, self.state.metadata.sync, f"cannot be read: {error.message}") from error

    def moving(self, changes: Changes) -> str | None:
        """All rows, as none of the file has the place of a call from then on."""
        return None

    def prepare(self, changes: Changes) -> None:
        """Put the rows that were read into the state's snapshot."""
        if changes.old_mapping is not None:
            snapshot.hold(self.db, held.TABLE, changes.old_mapping, held.noted_types(self.state))

    def promote(self, changes: Changes) -> SyncMapping:
        """Move the snapshot in the state file, which from now on has all of it."""
        shape = super().promote(changes)
        note_snapshot_table(self.state, None)
        return shape

    def close(self) -> None:
        """Drop the table, unless it is still needed; if that cannot be done, it stays."""
        if self.purpose is not Purpose.PROMOTE:
            return
        try:
            with suppress(RetlError, duckdb.Error):
                if self.state.is_remote:
                    if snapshot_table(self.state) is not None:
                        return
                    self.state.save(leaving=False)  # or the state there would need the table still
                own = run_tables(self.state, self.workspace, keep=True)
                drop_unneeded(self.state, self.workspace, own, at_end=False)
        finally:
            self.workspace.close()
