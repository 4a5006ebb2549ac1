"""The tables that a state has in its workspace: their names, and which of them nothing needs any more.

Each name begins with the sync's and a random token of the state, so that two states never choose the same
one. A state drops only tables with a token of its own: one that it drew itself, where it is now. A copy of a
state file reads the snapshot table that it came with, and draws another token for the tables that it makes.
A token is noted with its schema for as long as tables of it may be there, whatever the sync file says then.

`retl plan` looks at a state without holding it where that is in a bucket, so that its tables are not those of
a run. Those that a killed one left are dropped two runs later, when it cannot be under way any more. Beside a
state in a bucket, those of a killed run are dropped when another one has come to its end.
"""

import hashlib
import math
import re
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import duckdb

from retl import sql
from retl.errors import ConfigError, Interrupted, RetlError, StateError, WarehouseError
from retl.state import State
from retl.warehouse.workspace import Workspace

_RANDOM_BYTES = 4
_ENDING = 32
"""Characters that a name has at most behind the sync's: token, generation, and what tells tables apart."""


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
        keep: whether the state may note its token, which it must before a table outlasts the process. Else
            the tables are those of a plan.
    """
    metadata = state.metadata
    prefix = (
        f"{_stem(metadata.sync, workspace.longest_name - _ENDING)}__{_token(state, workspace.schema, keep)}_"
    )
    kind = "" if keep else "p"
    stem = f"{prefix}{metadata.generation}{kind}_{secrets.token_hex(_RANDOM_BYTES)}"
    return RunTables(workspace.schema, prefix, stem)


def drop_unneeded(state: State, workspace: Workspace, tables: RunTables, *, at_end: bool) -> bool:
    """Drop the tables that this state made and that its snapshot is not in.

    At the end of a run, a state that is kept elsewhere may not be saved yet: until then the state there needs
    the table of before, which the next run drops.

    Where that cannot be done now, a later run does it.

    Returns:
        Whether no table but that of the snapshot is left.

    Raises:
        LockedError: another process has taken the state over, and knows better what is needed.
    """
    kept = snapshot_table(state)
    beginning = tables.stem if at_end and state.is_remote else tables.prefix
    found = [name for name in workspace.tables(beginning) if kept is None or name != kept.name]
    in_use = _in_use(state, tables, found)
    lost = state.lost()  # asked after that, so that no table is found which a process made that took over
    if lost is not None:
        raise lost
    try:
        workspace.drop([name for name in found if name not in in_use])
    except (ConfigError, WarehouseError):  # as where somebody reads one of them, or another user made it
        return False
    return not in_use


@contextmanager
def left_for_later() -> Iterator[None]:
    """Leave it to a later run to clean up where that cannot be done now; but a signal ends this run."""
    try:
        yield
    except Interrupted:
        raise
    except (RetlError, duckdb.Error):
        return


def _in_use(state: State, tables: RunTables, names: list[str]) -> set[str]:
    """The tables among them that another process may need.

    That is a plan which is under way, or, where the state is elsewhere, a run that has taken it over: by the
    clock of a machine that stood still meanwhile, the lease has not ended. Such a run goes on from the
    generation of this one, or from a later one.
    """
    generation = state.metadata.generation
    made_in = re.compile(re.escape(tables.prefix) + r"(\d+)(p?)_")
    found = ((name, made_in.match(name)) for name in names)
    first = {"p": generation - 1, "": generation if state.is_remote else math.inf}
    return {
        name
        for name, made in found
        if made and int(made[1]) >= first[made[2]] and not name.startswith(tables.stem)
    }


def drop_left(state: State, opening: Callable[[str], Workspace], but: str | None = None) -> None:
    """Drop what this state left in any schema; where that cannot be done now, a later run does it.

    Args:
        state: which needs no table any more but that of its snapshot.
        opening: opens the schema of that name.
        but: the schema that is left as it is.
    """
    for schema in sorted(makers(state)):
        if schema == but:
            continue
        with left_for_later(), opening(schema) as workspace:
            own = run_tables(state, workspace, keep=True)
            is_empty = drop_unneeded(state, workspace, own, at_end=False)
            kept = snapshot_table(state)
            if is_empty and (kept is None or kept.schema != schema):
                _forget(state, schema)


def makers(state: State) -> dict[str, str]:
    """The schemas in which this state may have tables that it made where it is now, and the token of each."""
    return dict(_schema_and_token(noted) for noted in own_tokens(state))


def own_tokens(state: State) -> list[str]:
    """The tokens of the tables that this state made where it is now, as they are noted."""
    found = state.db.execute("SELECT token FROM state.table_maker WHERE place = ?", [state.place])
    return [str(noted) for (noted,) in found.fetchall()]


def take_tokens(state: State, tokens: list[str]) -> None:
    """Let the tables of tokens be this state's own, whose file takes the place of the one that made them.

    To be run in a transaction.
    """
    for noted in tokens:
        state.db.execute("DELETE FROM state.table_maker WHERE token = ?", [noted])
        state.db.execute("INSERT INTO state.table_maker VALUES (?, ?)", [state.place, noted])


def move_tokens(db: duckdb.DuckDBPyConnection, database: str, before: str, after: str) -> None:
    """Let the tokens of one place be those of another, in a state that is attached under that name."""
    db.execute(f"UPDATE {sql.name(database)}.table_maker SET place = ? WHERE place = ?", [after, before])


def drop_all(state: State, workspace: Workspace) -> int:
    """Drop the tables that this state made where it is now, whether it needs them or not; gives how many."""
    tables = run_tables(state, workspace, keep=False)
    found = workspace.tables(tables.prefix)
    workspace.drop(found)
    return len(found)


def _schema_and_token(noted: str) -> tuple[str, str]:
    token, _, schema = noted.partition(" ")
    return schema or "retl", token  # a state of before the schema was noted has them in that of the default


def _token(state: State, schema: str, keep: bool) -> str:
    """The random token of the state at this place for one schema; a new one where it was copied here."""
    known = makers(state).get(schema)
    if known is not None:
        return known
    token = secrets.token_hex(_RANDOM_BYTES)
    if keep:
        with state.transaction():
            state.db.execute(
                "INSERT INTO state.table_maker VALUES (?, ?)", [state.place, f"{token} {schema}"]
            )
        state.save(leaving=False)  # or nobody would know whose tables they are
    return token


def _forget(state: State, schema: str) -> None:
    """Note that no table of this state is in a schema any more."""
    with state.transaction():
        for noted in own_tokens(state):
            if _schema_and_token(noted)[0] == schema:
                state.db.execute("DELETE FROM state.table_maker WHERE token = ?", [noted])


def _stem(sync: str, longest: int) -> str:
    """A sync's name as the beginning of a table's; cut, and with a hash, where that has no room for it."""
    plain = re.sub(r"[^a-z0-9_]", "_", sync.lower())
    if plain == sync and len(plain) <= longest:
        return plain
    return f"{plain[: longest - 7]}_{hashlib.sha256(sync.encode()).hexdigest()[:6]}"
