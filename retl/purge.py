"""Purge: the files of a state are deleted, and with them all personal data that retl keeps of a sync."""

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from retl.clock import Clock
from retl.damage import own_errors
from retl.delivery import outbox
from retl.engine import snapshot
from retl.engine.warehouse import tables
from retl.errors import StateError
from retl.lock import ALERTS, BESIDE
from retl.session import Session
from retl.state import State

_TRACES = (*(ending for ending in BESIDE if ending != ".lock"), ".wal.damaged", ".warehouse.tmp", ALERTS)
"""Endings of all that may hold rows beside a state file, or is about its sync: also a log that was moved away
on the advice of an error, what the warehouse's DuckDB spilled, and what alerts have told. The lock is empty,
and who waits for it must find it there."""


def counted(session: Session, clock: Clock) -> tuple[int, int]:
    """The rows of the snapshot and the calls that wait; zeros where there is no state file.

    Raises:
        LockedError: another process holds the state.
        StateError: the file is not a state of this sync, or cannot be read.
    """
    if not session.has_state:
        return 0, 0
    with session.peeked_state(clock) as state:
        return snapshot.row_count(state.db), outbox.pending(state.db)


def purge(session: Session, clock: Clock, with_pending: bool) -> list[Path]:
    """Delete the state of a sync and, unless that is meant alone, the state of its rehearsals.

    Args:
        session: the sync.
        clock: for the note that says who holds the state.
        with_pending: whether calls that wait are lost, too.

    Returns:
        The files and folders that were deleted.

    Raises:
        LockedError: another process holds the state.
        StateError: the file is not a state of this sync, or calls wait in it.
        WarehouseError: tables of it in the warehouse cannot be dropped; nothing was deleted.
    """
    with session.hold(clock):
        if session.has_state:
            # Opened and closed, so that no file is deleted that is not a state of this very sync.
            with session.open_state() as state:
                refuse_pending(session, 0 if with_pending else outbox.pending(state.db))
                drop_tables(session, state)
        deleted = list(delete_files(session.state_path))
        link = session.state_path
        if link.is_symlink():  # to the file that is gone: the next run would miss it
            link.unlink()
    rehearsal = replace(session, rehearsal=True)
    if not session.rehearsal and rehearsal.state_path.parent.is_dir():
        with rehearsal.hold(clock):
            if rehearsal.has_state:
                with rehearsal.open_state(claim=False) as state:
                    drop_tables(rehearsal, state)
            deleted += delete_files(rehearsal.state_path)
    return deleted


def drop_tables(session: Session, state: State) -> int:
    """Drop the tables that a state made in the warehouse, with `engine: warehouse`; gives how many.

    Raises:
        ConfigError: the warehouse's URL is not there or cannot be used.
        WarehouseError: the warehouse cannot be reached, or does not drop them.
    """
    dropped = 0
    for schema in sorted(tables.makers(state)):
        with session.open_workspace(schema) as workspace:
            dropped += tables.drop_all(state, workspace)
    return dropped


def refuse_pending(session: Session, pending: int) -> None:
    """See that no call would be lost.

    Raises:
        StateError: calls wait.
    """
    if pending:
        raise StateError(
            f"{pending:,} calls wait in this state and would be lost",
            where=str(session.storage),
            hint=f"deliver them first: retl run {session.sync.path}; or delete them, too: "
            f"retl reset {session.sync.path} --purge --pending",
        )


def delete_files(path: Path) -> Iterator[Path]:
    """Delete a state and all that stands beside it; the state last, so that it never misses its log."""
    linked = [path.resolve()] if path.is_symlink() else []
    with own_errors(path):
        for one in (*(path.with_name(path.name + ending) for ending in _TRACES), *linked, path):
            if one.is_dir() and not one.is_symlink():
                shutil.rmtree(one)
            elif one.exists() or one.is_symlink():
                one.unlink()
            else:
                continue
            if not one.name.endswith(".holder"):  # it is of this very process
                yield one
