"""The local engine over a snapshot that is, or was, in the warehouse: all of its rows are read.

So a sync goes back to `engine: local`, and so whoever wants to see every row looks at it, without writing
anything in the warehouse.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace

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
    drop_left,
    left_for_later,
    lost,
    note_snapshot_table,
    snapshot_table,
)
from retl.errors import ModelError
from retl.model import Model
from retl.state import State
from retl.warehouse import Warehouse, Workspace


class TakenOverEngine(LocalEngine):
    """A local engine whose snapshot is read from a table in the warehouse; the promote puts it in the file.

    Attributes:
        state: whose snapshot it is.
        opening: opens the schema of a name, where tables are dropped that hold it no longer.
    """

    def __init__(
        self,
        state: State,
        warehouse: Warehouse,
        opening: Callable[[str], Workspace],
        purpose: Purpose,
        first_place: int,
    ) -> None:
        super().__init__(state.db, warehouse, purpose, first_place)
        self.state = state
        self.opening = opening

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
        if changes.old_mapping is not None and snapshot_table(self.state) is not None:
            snapshot.hold(self.db, held.TABLE, changes.old_mapping, held.noted_types(self.state))
        super().prepare(changes)

    def promote(self, changes: Changes) -> SyncMapping:
        """Move the snapshot in the state file, which from now on has all of it."""
        shape = super().promote(changes)
        note_snapshot_table(self.state, None)
        return shape

    def close(self) -> None:
        """Drop the tables that nothing needs any more; where that cannot be done, a later run does it."""
        if self.purpose is not Purpose.PROMOTE:
            return
        if self.state.is_remote and snapshot_table(self.state) is not None:
            return
        with left_for_later():
            self.state.save(leaving=False)  # or the state in a bucket would need the table still
            drop_left(self.state, self.opening)
