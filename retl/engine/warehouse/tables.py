"""The tables that a state has in its workspace: their names, and which of them nothing needs any more.

Each name begins with the sync's and a random token of the state, so that two states never choose the same
one. A state drops only tables with a token of its own: one that it drew itself, where it is now. A copy of a
state file reads the snapshot table that it came with, and draws another token for the tables that it makes.
"""

import hashlib
import re
import secrets
from dataclasses import asdict, dataclass
from typing import Any

from retl.errors import StateError
from retl.state import State
from retl.warehouse.workspace import Workspace

_TOKEN_BYTES = 4
_ENDING = 24
"""Characters that a name has at most behind the sync's: the token, the generation and the kind of table."""


@dataclass(frozen=True)
class SnapshotTable:
    """The table that holds a state's snapshot, but for the rows in the state file.

    Attributes:
        schema: where it is.
        name: of the table.
        rows: that it has.
    """

    schema: str
    name: str
    rows: int

    def as_json(self) -> dict[str, Any]:
        """The object as the state's metadata has it."""
        return asdict(self)


def snapshot_table(state: State) -> SnapshotTable | None:
    """The table that holds the state's snapshot; None where all of it is in the state file."""
    noted = state.metadata.snapshot_table
    return SnapshotTable(**noted) if noted else None


def note_snapshot_table(state: State, table: SnapshotTable | None) -> None:
    """Let a table hold the snapshot; to be run in the run's transaction."""
    state.note_snapshot_table(table.as_json() if table else None)


def lost(table: SnapshotTable, sync: str, what: str) -> StateError:
    """The error for a table that does not hold the snapshot as it did."""
    return StateError(
        f"the table `{table.schema}.{table.name}`, which holds the snapshot, {what}",
        hint=f"restore it as it was; or start anew with a first pass: retl reset {sync}",
    )


@dataclass(frozen=True)
class RunTables:
    """The names of the tables that one run makes.

    Attributes:
        schema: where they are.
        prefix: with which the names of all tables begin that are this state's own.
        stem: with which those of this run begin.
    """

    schema: str
    prefix: str
    stem: str

    @property
    def copy(self) -> str:
        """The model's rows."""
        return f"{self.stem}a"

    @property
    def numbered(self) -> str:
        """The same, with numbers."""
        return f"{self.stem}n"

    @property
    def candidates(self) -> str:
        """The rows that may have changed."""
        return f"{self.stem}c"

    @property
    def exceptions(self) -> str:
        """The candidates that do not become part of the snapshot."""
        return f"{self.stem}x"

    @property
    def merged(self) -> str:
        """The next snapshot."""
        return f"{self.stem}m"


def run_tables(state: State, workspace: Workspace, keep: bool) -> RunTables:
    """The names of the tables of a run.

    Args:
        state: whose they are.
        workspace: where they are.
        keep: whether the state may note its token, which it must before a table outlasts the process.
    """
    metadata = state.metadata
    prefix = f"{_stem(metadata.sync, workspace.longest_name - _ENDING)}__{_token(state, keep)}_"
    return RunTables(workspace.schema, prefix, f"{prefix}{metadata.generation}_{secrets.token_hex(1)}")


def drop_unneeded(state: State, workspace: Workspace, tables: RunTables, *, at_end: bool) -> None:
    """Drop the tables that this state made and that its snapshot is not in.

    At the end of a run, a state that is kept elsewhere may not be saved yet: until then the state there needs
    the table of before, which the next run drops.

    Raises:
        LockedError: another process has taken the state over, and knows better what is needed.
    """
    kept = snapshot_table(state)
    beginning = tables.stem if at_end and state.is_remote else tables.prefix
    found = [name for name in workspace.tables(beginning) if kept is None or name != kept.name]
    lost = state.lost()  # asked after that, so that no table is found which a process made that took over
    if lost is not None:
        raise lost
    workspace.drop(found)


def own_token(state: State) -> str | None:
    """The token of the tables that this state made where it is now; None where it never made one."""
    row = state.db.execute("SELECT token FROM state.table_maker WHERE place = ?", [state.place]).fetchone()
    return None if row is None else str(row[0])


def take_token(state: State, token: str | None) -> None:
    """Let the tables of a token be this state's own, whose file takes the place of the one that made them.

    To be run in a transaction.
    """
    if token is not None:
        state.db.execute("DELETE FROM state.table_maker WHERE token = ?", [token])
        state.db.execute("INSERT INTO state.table_maker VALUES (?, ?)", [state.place, token])


def drop_all(state: State, workspace: Workspace) -> int:
    """Drop the tables that this state made where it is now, whether it needs them or not; gives how many."""
    tables = run_tables(state, workspace, keep=False)
    found = workspace.tables(tables.prefix)
    workspace.drop(found)
    return len(found)


def _token(state: State, keep: bool) -> str:
    """The random token of the state at this place; a new one where it was copied here."""
    known = own_token(state)
    if known is not None:
        return known
    token = secrets.token_hex(_TOKEN_BYTES)
    if keep:
        with state.transaction():
            state.db.execute("INSERT INTO state.table_maker VALUES (?, ?)", [state.place, token])
        state.save(leaving=False)  # or nobody would know whose tables they are
    return token


def _stem(sync: str, longest: int) -> str:
    """A sync's name as the beginning of a table's; cut, and with a hash, where that has no room for it."""
    plain = re.sub(r"[^a-z0-9_]", "_", sync.lower())
    if plain == sync and len(plain) <= longest:
        return plain
    return f"{plain[: longest - 7]}_{hashlib.sha256(sync.encode()).hexdigest()[:6]}"
