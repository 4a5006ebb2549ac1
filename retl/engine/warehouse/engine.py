"""The warehouse engine: rows are compared where they are, and only candidates are read.

The model runs once, into a table of the workspace. Its rows are compared there with the last snapshot table
(`retl.engine.warehouse.statements`). Those that may have changed are read, old and new, and from there on all
is as it is with the local engine: their canonical values are compared, and only these decide.

The snapshot is the snapshot table and the rows in the state file, which have no key in common. In the file
stand rows that are neither as the model has them nor as the last table had them.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from typing import TYPE_CHECKING

import pyarrow as pa

from retl import sql
from retl.config.sync import Sync
from retl.engine import diff, snapshot
from retl.engine.base import Changes, Engine
from retl.engine.cast import refuse_casts
from retl.engine.landing import SEQ, Landing, Purpose, Staged
from retl.engine.local import located, needed
from retl.engine.mapping import SyncMapping, comparisons, read_mapping
from retl.engine.stage import numbered, stage
from retl.engine.unmatched import all_unmatched
from retl.engine.warehouse import held, statements
from retl.engine.warehouse.statements import Sides
from retl.engine.warehouse.tables import (
    RunTables,
    SnapshotTable,
    drop_left,
    drop_unneeded,
    left_for_later,
    lost,
    note_snapshot_table,
    run_tables,
    snapshot_table,
)
from retl.errors import ConfigError, WarehouseError
from retl.lazy import lazy_module
from retl.memory import allowed, hold_to, hold_to_candidates
from retl.model import Model
from retl.state import State
from retl.warehouse import Warehouse, Workspace
from retl.warehouse.workspace import StoredColumn

if TYPE_CHECKING:
    import pyarrow.compute as pc
else:
    pc = lazy_module("pyarrow.compute")

_THERE = "retl_there"
"""The numbers of rows in the warehouse, beside those here."""


class Shipment(Enum):
    """The rows that are read from the warehouse."""

    CANDIDATES = "candidates"
    """Rows that may have changed, old and new."""

    FAULTS = "faults"
    """Rows that may be at fault; of a first pass that sends nothing."""

    ALL = "all"
    """All, old and new: where the two tables cannot be compared, or each row is needed."""


@dataclass(frozen=True)
class Copied:
    """The model's rows in the workspace, and how they are compared.

    Attributes:
        shipment: the rows that are read.
        rows: that the model has.
        sides: the tables.
        kept: rows that differ in what is not compared alone.
    """

    shipment: Shipment
    rows: int
    sides: Sides
    kept: int = 0


class WarehouseEngine(Engine):
    """An engine that compares rows in the warehouse.

    Attributes:
        state: whose snapshot it is.
        warehouse: where rows are read.
        opening: opens the schema of a name, where this state has left tables.
        workspace: where they are compared.
        purpose: which rows `stage` holds, and where.
        first_place: as for the local engine.
        sends: whether a first pass sends its rows.
        is_memory_said: whether DuckDB may take the memory that it has, and not only what candidates need.
    """

    def __init__(
        self,
        state: State,
        warehouse: Warehouse,
        opening: Callable[[str], Workspace],
        schema: str,
        purpose: Purpose = Purpose.COMPARE,
        first_place: int = 1,
        sends: bool = True,
        is_memory_said: bool = False,
    ) -> None:
        self.state = state
        self.db = state.db
        self.warehouse = warehouse
        self.opening = opening
        self.workspace = opening(schema)
        self.purpose = purpose
        self.first_place = first_place
        self.sends = sends
        # A state that has no file yet has no folder beside it, in which DuckDB could go on.
        self._may_take_little = state.path is not None and not is_memory_said
        self._most_memory = allowed(self.db)
        self._widest = 0.0
        self._tables: RunTables | None = None
        self._copied: Copied | None = None

    def find_changes(self, sync: Sync, model: Model, old_mapping: SyncMapping | None, full: bool) -> Changes:
        """Copy the model's rows, find candidates and compare them; see `Engine.find_changes`."""
        try:
            return self._find_changes(sync, model, old_mapping, full)
        finally:
            if self.purpose is not Purpose.PROMOTE:
                self.close()

    def _find_changes(self, sync: Sync, model: Model, old_mapping: SyncMapping | None, full: bool) -> Changes:
        self.workspace.prepare()  # first, as a warehouse that cannot is to be told before its SQL's errors
        sync, names = needed(sync, model, self.warehouse)
        self._tables = run_tables(self.state, self.workspace, keep=self.purpose is Purpose.PROMOTE)
        if self.purpose is Purpose.PROMOTE:
            drop_unneeded(self.state, self.workspace, self._tables, at_end=False)
        mapping = read_mapping(sync)
        rows_before = snapshot.row_count(self.db)
        copied = self._copied = self._copy(model, names, mapping, old_mapping, full)
        known = self._hold(sync, model, old_mapping, copied)
        snapshot.make_known(self.db, mapping, known, held.TABLE)
        staged = self._stage(sync, model, mapping, known, copied)
        all_unmatched(self.db, staged.mapping, known)
        mapping = staged.mapping
        if self._widest and "JSON" in mapping.types.values():
            hold_to(self.db, self._most_memory)  # JSON that changed is compared in memory, all of it at once
        refuse_casts(sync, mapping)
        compared = comparisons(sync, mapping, known, send_new_fields=sync.sends_new_fields)
        found = diff.diff(self.db, staged, known, compared, rows_before, full)
        if old_mapping is None:
            found = replace(found, added=staged.rows - found.rejected)
        return Changes(sync, mapping, known, compared, found)

    def moving(self, changes: Changes) -> str | None:
        """All rows, as none of the file has the place of a call from then on; see `Engine.moving`."""
        return None

    def prepare(self, changes: Changes) -> None:
        """Put the rows that were compared into the state's snapshot; see `Engine.prepare`."""
        assert self._copied is not None, "changes were found before"
        is_same = changes.old_mapping == changes.mapping
        held.find_moved(self.db, is_same and self._copied.shipment is Shipment.CANDIDATES)
        if changes.old_mapping is not None:
            noted = held.noted_types(self.state)
            snapshot.hold(self.db, held.TABLE, changes.old_mapping, noted, but=held.MOVED)
            snapshot.read_replaced_anew(self.db, changes.mapping, changes.old_mapping)

    def promote(self, changes: Changes) -> SyncMapping:
        """Make the next snapshot table, and move the state to it; see `Engine.promote`."""
        assert self._copied is not None and self._tables is not None, "changes were found before"
        copied, tables = self._copied, self._tables
        if changes.old_mapping is None and copied.shipment is Shipment.ALL:
            exceptions = snapshot.left_out(self.db, self.first_place - 1)
            snapshot.promote_arriving(self.db, changes.mapping)
            shape = changes.mapping
        else:
            if changes.old_mapping is not None:
                diff.show_changes(self.db, but=held.MOVED)
            shape = snapshot.promote(
                self.db,
                changes.mapping,
                changes.old_mapping,
                changes.compared,
                changes.sync.sends_new_fields,
            )
            is_old = copied.shipment is Shipment.CANDIDATES and changes.old_mapping is not None
            exceptions = held.settle(self.db, shape, changes.mapping, changes.old_mapping if is_old else None)
        note_snapshot_table(self.state, self._next_table(tables, copied, exceptions))
        return shape

    def close(self) -> None:
        """Drop the tables that nothing needs any more, which the next run does else; see `Engine.close`."""
        try:
            with left_for_later():
                if self._tables is not None and self.purpose is Purpose.PROMOTE:
                    drop_unneeded(self.state, self.workspace, self._tables, at_end=True)
                elif self._tables is not None:
                    self.workspace.drop(self.workspace.tables(self._tables.stem))
        finally:
            self.workspace.close()
        if self.purpose is Purpose.PROMOTE:
            drop_left(self.state, self.opening, but=self.workspace.schema)

    def _copy(
        self,
        model: Model,
        names: Sequence[str],
        mapping: SyncMapping,
        old_mapping: SyncMapping | None,
        full: bool,
    ) -> Copied:
        """Run the model into a table of the workspace, and find the candidates."""
        assert self._tables is not None
        tables, old = self._tables, self._old_columns(old_mapping)
        alike = old_mapping is not None and mapping.is_alike(old_mapping)
        needs_all = self.purpose is Purpose.LOOK_UP or (
            full or not alike or old is None or held.is_overridden(self.db)
        )
        shipment = Shipment.ALL if needs_all else Shipment.CANDIDATES
        if old_mapping is None and not self.sends and self.purpose is not Purpose.LOOK_UP:
            shipment = Shipment.FAULTS
        query = self.workspace.query_of(model)
        copy = self._named(tables.copy)
        is_numbered = shipment is Shipment.ALL
        rows = self._made(copy, statements.copy_model(copy, query, names, is_numbered), model)
        columns = [one for one in self.workspace.columns(tables.copy) if one.name != statements.NUMBER]
        table = snapshot_table(self.state)
        is_compared = old_mapping is not None and table is not None
        sides = _sides(copy, self._named(table.name) if is_compared and table else None, columns, mapping)
        if shipment is not Shipment.ALL and not _can_compare(sides, old):
            numbered_copy = self._named(tables.numbered)
            self.workspace.execute(statements.number_copy(numbered_copy, copy))
            sides, shipment = replace(sides, new=numbered_copy), Shipment.ALL
        if shipment is Shipment.ALL:
            return Copied(shipment, rows, sides)
        return Copied(shipment, rows, sides, self._find_candidates(sides, rows))

    def _find_candidates(self, sides: Sides, rows: int) -> int:
        """Make the table of candidates; gives how many rows differ in what is not compared alone."""
        assert self._tables is not None
        table, old = self._named(self._tables.candidates), snapshot_table(self.state)
        self.workspace.analyze(self._tables.copy, [column.name for column in sides.key])
        is_first = sides.old is None or old is None
        self.workspace.execute(statements.find_candidates(table, sides, shared=is_first))
        queries = statements.count_candidates(table)
        counts = {name: self.workspace.number(query) for name, query in queries.items()}
        if old is None or is_first:
            return counts["kept"]
        if statements.share_keys(rows, old.rows, counts["added"], counts["removed"]):
            self.workspace.drop([self._tables.candidates])
            self.workspace.execute(statements.find_candidates(table, sides))
            return self.workspace.number(queries["kept"])
        return counts["kept"]

    def _old_columns(self, old_mapping: SyncMapping | None) -> Mapping[str, str] | None:
        """The types of the columns of the snapshot table; None where there is none.

        Raises:
            ConfigError: it is in another schema.
            StateError: it is gone, lacks a column, or has other rows than it had.
        """
        table = snapshot_table(self.state)
        if table is None:
            return None
        if table.schema != self.workspace.schema:
            raise ConfigError(
                f"the snapshot is in the schema `{table.schema}`, and `engine_schema` is another one now",
                hint=f"write `engine_schema: {table.schema}`; or start anew with a first pass: "
                f"retl reset {self.state.metadata.sync}",
            )
        columns = {one.name: one.type for one in self.workspace.columns(table.name)}
        if not columns:
            raise lost(table, self.state.metadata.sync, "is not in the warehouse (any more)")
        there = {name.lower() for name in columns}
        for name in old_mapping.columns if old_mapping else ():
            if name.lower() not in there:
                raise lost(table, self.state.metadata.sync, f"lacks the column `{name}`")
        rows = self.workspace.number(statements.count_rows(self._named(table.name)))
        if rows != table.rows:
            raise lost(table, self.state.metadata.sync, f"had {table.rows:,} rows and has {rows:,} now")
        columns.pop(statements.NUMBER, None)
        return columns

    def _hold(self, sync: Sync, model: Model, old: SyncMapping | None, copied: Copied) -> SyncMapping | None:
        """Read the old rows, into the TEMP table `held`; gives the mapping with the types that they have."""
        if old is None:
            held.hold_nothing(self.db)
            return None
        if copied.sides.old is None:
            held.hold_file(self.db)
            return old
        assert self._tables is not None
        if copied.shipment is Shipment.CANDIDATES:
            candidates = self._named(self._tables.candidates)
            query = statements.select_old(candidates, copied.sides.columns, SEQ)
        else:
            query = statements.select_all(copied.sides.old, old.columns)
        zone = sync.model_copy(update={"timezone": old.timezone or sync.timezone})
        batches = self._read(sync, model, query)
        batches = numbered(batches, 1) if copied.shipment is Shipment.ALL else self._in_little_memory(batches)
        staged = stage(self.db, zone, old, batches, Landing.SHIPPED)
        return held.hold_shipped(self.db, old, staged.mapping)

    def _stage(
        self, sync: Sync, model: Model, mapping: SyncMapping, known: SyncMapping | None, copied: Copied
    ) -> Staged:
        """Read the new rows into `stage`."""
        assert self._tables is not None
        names = [column.name for column in copied.sides.columns]
        if copied.shipment is not Shipment.ALL:
            candidates = self._named(self._tables.candidates)
            batches = self._read(sync, model, statements.select_new(candidates, copied.sides.columns, SEQ))
            staged = stage(self.db, sync, mapping, self._in_little_memory(batches), Landing.SHIPPED, known)
            return replace(staged, rows=copied.rows)
        is_first = snapshot_table(self.state) is None and self.state.metadata.mapping is None
        landing = Landing.IN_STATE if is_first and self.purpose is Purpose.PROMOTE else Landing.SHIPPED
        query = statements.select_all(copied.sides.new, names, SEQ, in_order=is_first)
        batches = self._read(sync, model, query)
        if landing is Landing.IN_STATE:
            batches = _placed(batches, self.first_place - 1)
        return stage(self.db, sync, mapping, batches, landing, known)

    def _read(self, sync: Sync, model: Model, query: str) -> Iterator[pa.RecordBatch]:
        """Rows of the workspace, by the reader by which all models are read."""
        return located(sync, self.warehouse.read(replace(model, sql=self.workspace.spelled(query))))

    def _in_little_memory(self, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """Batches of candidates, for whose width DuckDB is given memory as they come."""
        for batch in batches:
            width = batch.nbytes / max(1, batch.num_rows)
            if self._may_take_little and (width > self._widest or not self._widest):
                self._widest = max(width, 1.0)
                with self.db.cursor() as db:  # the other one is about to take the batch
                    hold_to_candidates(db, self._most_memory, self._widest)
            yield batch

    def _next_table(self, tables: RunTables, copied: Copied, exceptions: Mapping[int, bool]) -> SnapshotTable:
        """Make the next snapshot table, which is the copy where that has all its rows."""
        is_all = copied.shipment is Shipment.ALL
        name = tables.numbered if copied.sides.new == self._named(tables.numbered) else tables.copy
        if not exceptions and not copied.kept:
            return SnapshotTable(tables.schema, name, copied.rows)
        excepted = self._named(tables.exceptions)
        self.workspace.execute(statements.create_exceptions(excepted))
        for statement in statements.insert_exceptions(excepted, exceptions):
            self.workspace.execute(statement)
        merged, names = self._named(tables.merged), [one.name for one in copied.sides.columns]
        if is_all:
            statement = statements.leave_out(merged, copied.sides.new, excepted, names)
        else:
            statement = statements.merge(merged, self._named(tables.candidates), excepted, copied.sides)
        return SnapshotTable(tables.schema, tables.merged, self._made(merged, statement))

    def _made(self, table: str, statement: str, model: Model | None = None) -> int:
        """Make a table by a statement; gives how many rows it has."""
        rows = self.workspace.execute(statement, model)
        return self.workspace.number(statements.count_rows(table)) if rows is None else rows

    def _named(self, table: str) -> str:
        """A table of the workspace, in SQL."""
        return f"{sql.name(self.workspace.schema)}.{sql.name(table)}"


def _sides(new: str, old: str | None, columns: Sequence[StoredColumn], mapping: SyncMapping) -> Sides:
    by_name = {column.name: column for column in columns}
    key = [by_name[name] for name in mapping.primary_key]
    compared = [by_name[name] for name in dict.fromkeys(mapping.compared.values())]
    return Sides(new, old, columns, key, compared)


def _can_compare(sides: Sides, old: Mapping[str, str] | None) -> bool:
    """Whether rows can be joined, and all columns have the types that they had."""
    if any(column.key is None for column in sides.key):
        return False
    return sides.old is None or {column.name: column.type for column in sides.columns} == old


def _placed(batches: Iterator[pa.RecordBatch], before: int) -> Iterator[pa.RecordBatch]:
    """Batches whose rows are numbered from the place behind `before` on.

    Raises:
        WarehouseError: they do not come in the order of their numbers, by which some may be left out later.
    """
    for batch in numbered((batch.rename_columns({SEQ: _THERE}) for batch in batches), before + 1):
        there = batch[_THERE].cast(pa.int64())  # Snowflake counts in decimals
        if not pc.all(pc.equal(batch[SEQ], pc.add(there, before)), min_count=0).as_py():
            raise WarehouseError(
                "the warehouse handed over the rows in another order than it numbered them in",
                hint="nothing was sent; run it again, or use `engine: local`",
            )
        yield batch.drop_columns([_THERE])
