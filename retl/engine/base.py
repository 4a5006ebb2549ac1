"""Engine: the seam between reading and rendering. It finds what changed, and moves the snapshot.

An engine leaves its findings in tables of the state's connection. Rendering, guards, the outbox and delivery
know these tables and no engine; whichever fills them, the rest is the same code.

    table      columns                                  a row for each
    stage      key, row, fault, hash                    row that was read: all, or at least each candidate
    row_fault  key, reason, rows                        key whose rows cannot be compared; NULL: rows without
    known      key, row, stale, hash                    row of the snapshot, as it is compared
    unmatched  number, key, row, stale, hash            row of `known`, but for those left out of `stage`
    change     change, key, before, after, stale, hash  change; "unchanged" for rows sent again anyway
    respelled  key                                      row that is only written otherwise

All are TEMP tables or views, made by `find_changes`, and last until the next one. `row` is a STRUCT of
canonical values by column, NULL where a change has no row before or after; `hash` is of what is compared in
the row (`retl.engine.row_hash`); `number` is that of the row in its table, which holds as long as nothing is
committed to that. Between the two steps `retl.calls.rejection` makes

    rejected   key, reason, rows                        row that cannot be sent, whose old version stays

which `promote` reads, with `change`, `stage`, `known`, `unmatched` and `respelled`.

An engine that finds candidates elsewhere, as inside the user's warehouse, ships their rows into `stage` and
`known`, and hands over the counts of the rows that it did not ship.
"""

from dataclasses import dataclass
from typing import Protocol

from retl.config.sync import Sync
from retl.engine.diff import Diff
from retl.engine.mapping import Comparison, SyncMapping
from retl.model import Model


@dataclass(frozen=True)
class Changes:
    """The changes of a model's rows since the snapshot; the rows themselves are in the view `change`.

    Attributes:
        sync: the sync, in which `all` is replaced by the model's columns.
        mapping: the sync's mapping, with the types of the model's columns.
        old_mapping: the mapping with which the snapshot was built; None on a first pass.
        compared: the comparisons that were made.
        diff: the counts.
    """

    sync: Sync
    mapping: SyncMapping
    old_mapping: SyncMapping | None
    compared: tuple[Comparison, ...]
    diff: Diff


class Engine(Protocol):
    """Finds what changed in a model since the snapshot of a state."""

    def find_changes(self, sync: Sync, model: Model, old_mapping: SyncMapping | None, full: bool) -> Changes:
        """Fill the tables of the contract; the state file stays as it is.

        Args:
            sync: what to read and to compare.
            model: where the rows come from.
            old_mapping: the mapping with which the snapshot was built; None on a first pass.
            full: whether unchanged rows are sent again.

        Raises:
            ConfigError: the mapping does not fit the model's columns.
            ModelError: the SQL fails, or lacks a column that the sync needs.
            WarehouseError: the warehouse cannot be reached, or the read broke off.
        """

    def moving(self, changes: Changes) -> str | None:
        """The SELECT of the places of first calls whose rows `promote` alters or removes; None is all.

        To be run in the run's transaction, before the snapshot is touched.
        """

    def prepare(self, changes: Changes) -> None:
        """Let the state file have all rows that were compared, in the types of the old mapping.

        Rows before changes whose calls wait are then read in the timezone of now, as those that are compared.
        To be run in the run's transaction, before the snapshot is touched.
        """

    def promote(self, changes: Changes) -> SyncMapping:
        """Make the snapshot what the calls of this run say; to be run in the run's transaction.

        Returns:
            The mapping with which the snapshot is now built.
        """
        ...

    def close(self) -> None:
        """Drop what was written outside the state file and is of no use, if that can be done."""
