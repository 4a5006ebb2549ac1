"""The state of a sync: one DuckDB file, one writer.

Tables live in a database attached as `state`; whatever lasts no longer than a run is TEMP. Each table has
one module that reads and writes it (`OWNERS`); this one has the file, transactions and
`state.metadata`.
"""

import json
import secrets
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, replace
from enum import StrEnum
from importlib import resources
from pathlib import Path
from typing import Any

import duckdb

from retl import encryption, sql
from retl.damage import not_readable, own_errors, state_exists, storage_error
from retl.encryption import StateKey
from retl.errors import LockedError, RetlError, StateError
from retl.lock import SPILL, SPILLS
from retl.migrations import MIGRATIONS
from retl.storage import ALONE, Storage

SCHEMA_VERSION = 8

OWNERS = {
    "metadata": "retl.state",
    "snapshot": "retl.engine.snapshot",
    "arriving": "retl.engine.snapshot",
    "replaced": "retl.engine.replaced",
    "overridden": "retl.engine.snapshot",
    "table_maker": "retl.engine.warehouse.tables",
    "outbox": "retl.delivery.rendered",
    "unrendered": "retl.delivery.unrendered",
    "first_pass": "retl.delivery.history",
    "delivered_call": "retl.delivery.history",
    "mark": "retl.delivery.marks",
    "receipt": "retl.delivery.receipts",
    "rejected_row": "retl.delivery.rejected",
    "rejected_call": "retl.delivery.rejected",
    "ended_rejection": "retl.delivery.rejected",
    "run": "retl.records",
}
"""Each table of a state file, and the one module whose SQL names it.

`arriving` is there only while a first pass is read; `retl.engine.landing` makes and fills it.
"""


ALL_IN_FILE = "(SELECT snapshot_table IS NULL FROM state.metadata)"
"""Whether the whole snapshot is in the state file, and none of it in the warehouse; SQL."""

ROWS_ELSEWHERE = "(SELECT coalesce((snapshot_table ->> 'rows')::BIGINT, 0) FROM state.metadata)"
"""How many rows the table in the warehouse has; SQL."""


class FirstPass(StrEnum):
    """The first pass of a sync, by what it did with its rows."""

    SILENT = "silent"  # remembered them, and sent nothing
    SENT = "sent"  # sent them all


@dataclass(frozen=True)
class Metadata:
    """The identity of a state file, and how far its sync has got.

    Attributes:
        sync: the name of the sync.
        destination_id: random, made with the file; a part of each message id.
        destination_hash: of write key and endpoint; None until a run has sent.
        generation: diffs recorded so far; raised, never started again.
        first_pass: None until there is a snapshot.
        mapping: the mapping that the snapshot was built with; None until there is one.
        destination: the same as `destination_hash`, to be shown; None also where an older retl sent last.
        sync_file: the sync file of the last run, from the state's folder where that is inside the project;
            None where an older retl wrote last.
        snapshot_table: schema, name and rows of the table in the warehouse that holds the snapshot, but for
            the rows in the file; None where the file holds all.
    """

    sync: str
    destination_id: str
    destination_hash: str | None
    generation: int
    first_pass: FirstPass | None
    mapping: dict[str, Any] | None
    destination: str | None = None
    sync_file: str | None = None
    snapshot_table: dict[str, Any] | None = None


class State:
    """An open state file.

    Attributes:
        db: the connection. Tables of the file are spelled `state.<table>`.
        path: the file; None where the state is in memory.
        memory: bytes that DuckDB may take; None where that is left to DuckDB.
        storage: where the file is kept between runs; None where it stays at its path.
    """

    def __init__(self, db: duckdb.DuckDBPyConnection, path: Path | None, memory: int | None = None) -> None:
        self.db = db
        self.path = path
        self.memory = memory
        self.storage: Storage | None = None

    def __enter__(self) -> "State":
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self.db.close()
        found = storage_error(error, self.path) if isinstance(error, duckdb.Error) else None
        if found is not None:
            raise found from error

    @property
    def metadata(self) -> Metadata:
        """The metadata in the file."""
        row = self.db.execute(
            """
            SELECT
                sync, destination_id, destination_hash, generation, first_pass, mapping,
                destination, sync_file, snapshot_table
            FROM state.metadata
            """
        ).fetchone()
        assert row is not None
        sync, destination_id, destination_hash, generation, first_pass, mapping, destination, file, table = (
            row
        )
        return Metadata(
            sync,
            destination_id,
            destination_hash,
            generation,
            FirstPass(first_pass) if first_pass else None,
            json.loads(mapping) if mapping else None,
            destination,
            file,
            json.loads(table) if table else None,
        )

    def note(self, metadata: Metadata) -> None:
        """Write what the file says of itself."""
        self.db.execute(
            """
            UPDATE state.metadata
            SET
                destination_hash = ?, generation = ?, first_pass = ?, mapping = ?,
                destination = ?, sync_file = ?
            """,
            [
                metadata.destination_hash,
                metadata.generation,
                metadata.first_pass,
                json.dumps(metadata.mapping) if metadata.mapping is not None else None,
                metadata.destination,
                metadata.sync_file,
            ],
        )

    def note_snapshot_table(self, table: dict[str, Any] | None) -> None:
        """Note the table in the warehouse that holds the snapshot; None where the file holds all of it."""
        self.db.execute(
            "UPDATE state.metadata SET snapshot_table = ?", [None if table is None else json.dumps(table)]
        )

    def take_id(self, destination_id: str) -> None:
        """Take another random id, before a message id was made with the one that the file got."""
        self.db.execute("UPDATE state.metadata SET destination_id = ?", [destination_id])

    def rekey(self, destination_hash: str | None, destination: str | None = None) -> None:
        """Note that calls go to another destination from now on; None is the one of the next run."""
        self.note(replace(self.metadata, destination_hash=destination_hash, destination=destination))

    @property
    def place(self) -> str:
        """The place where the file is, by which a copy of it is told from the original.

        A copy has another path, or is another file there, or is on another machine. In a bucket there is one.
        """
        if self.is_remote:
            return str(self.storage)
        if self.path is None:
            return "memory"
        return place_on_disk(self.path, self.path)

    def transaction(self) -> AbstractContextManager[None]:
        """All or nothing, on the state's connection."""
        return transaction(self.db)

    def save(self, leaving: bool, alone: AbstractContextManager[object] = ALONE) -> None:
        """See that what was committed outlasts this machine, where it has to; see `retl.storage`."""
        if self.storage is not None:
            self.storage.save(self.db, leaving, alone)

    @property
    def is_remote(self) -> bool:
        """Whether the file is kept somewhere else between runs."""
        return self.storage is not None and self.storage.is_remote

    def seconds_to_save(self) -> float:
        """In how many seconds a save is due, where calls leave meanwhile."""
        return self.storage.seconds_to_save() if self.storage is not None else float("inf")

    def lost(self) -> RetlError | None:
        """The error of a run that must not go on, as another may hold the state by now; None else."""
        return self.storage.lost() if self.storage is not None else None


def place_on_disk(path: Path, file: Path) -> str:
    """The place of a file that is, or will be, at that path of this machine."""
    return f"{machine_id()} {path.resolve()} {file.stat().st_ino}"


def machine_id() -> str:
    """The id that a Linux machine has since it was set up; empty where it has none, as in most containers."""
    with suppress(OSError):
        return Path("/etc/machine-id").read_text(encoding="ascii").strip()
    return ""


@contextmanager
def transaction(db: duckdb.DuckDBPyConnection) -> Iterator[None]:
    """All or nothing: commits at the end, rolls back when anything is raised."""
    try:
        db.execute("BEGIN TRANSACTION")
        yield
        db.execute("COMMIT")
    except BaseException:
        with suppress(duckdb.Error):  # also after a COMMIT that did not come to its end
            db.execute("ROLLBACK")
        raise


def new_connection() -> duckdb.DuckDBPyConnection:
    """A connection to a DuckDB of its own, in memory."""
    return duckdb.connect(":memory:")


def open_state(
    path: Path,
    sync: str,
    memory: int | None = None,
    key: StateKey | None = None,
    connect: Callable[[], duckdb.DuckDBPyConnection] = new_connection,
) -> State:
    """Open a sync's state file; a missing one is made, readable by its owner alone.

    Args:
        path: the file.
        sync: the name of the sync.
        memory: bytes that DuckDB may take; None leaves that to DuckDB.
        key: of an encrypted file.
        connect: gives a connection to which no `state` is attached.

    Raises:
        ConfigError: DuckDB cannot encrypt here.
        StateError: the file is damaged, is not a state file, was written by a newer retl, or has another key.
        StorageError: it cannot be read or written.
        LockedError: another process has it open.
    """
    with own_errors(path), _open_unless_raised(connect()) as db:
        if key:
            encryption.prepare(db)
        if not state_exists(path):
            _make(db, path, sync, key)
        _attach(db, path, memory, key)
        state = State(db, path, memory)
        for version in range(_check(state, path, sync), SCHEMA_VERSION):
            with state.transaction():
                _migrate(state, version)
    return state


def peek_state(path: Path, sync: str | None, memory: int | None = None, key: StateKey | None = None) -> State:
    """The state, for looking only; an empty one in memory where there is no file.

    Args:
        path: the file.
        sync: the name of the sync that it must be of; None takes any.
        memory: as for `open_state`.
        key: as for `open_state`.

    The file stays as it is. An older one is migrated in a transaction that is never committed, so that it
    looks like a file of this version until it is closed.

    Raises:
        StateError: as `open_state`.
        StorageError: as `open_state`.
        LockedError: as `open_state`.
    """
    if not state_exists(path):
        return new_state(sync or path.stem, memory, key)
    with own_errors(path), _open_unless_raised(new_connection()) as db:
        if key:
            encryption.prepare(db)
        _attach(db, path, memory, key)
        state = State(db, path)
        version = _check(state, path, sync)
        if version < SCHEMA_VERSION:
            state.db.execute("BEGIN TRANSACTION")
        for step in range(version, SCHEMA_VERSION):
            _migrate(state, step)
    return state


@contextmanager
def _open_unless_raised(db: duckdb.DuckDBPyConnection) -> Iterator[duckdb.DuckDBPyConnection]:
    """A connection that stays open, but where anything is raised."""
    try:
        yield db
    except BaseException:
        db.close()
        raise


def new_state(sync: str, memory: int | None = None, key: StateKey | None = None) -> State:
    """An empty state in memory, for looking only; `memory` is that of `open_state`.

    With a key, what it spills to disk is encrypted; in the working folder, as DuckDB has it.
    """
    db = new_connection()
    if key:
        encryption.prepare(db)
    db.execute("ATTACH ':memory:' AS state")
    _set_up(db, memory)
    _create(db, sync)
    return State(db, None)


def _make(db: duckdb.DuckDBPyConnection, path: Path, sync: str, key: StateKey | None) -> None:
    """Make the file under another name first, so that a half-made one never stands in the way.

    The connection has nothing attached, before and after: to start a DuckDB is a tenth of a short run.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    unfinished = path.with_name(f"{path.name}.new")
    for leftover in (unfinished, unfinished.with_name(f"{unfinished.name}.wal")):
        leftover.unlink(missing_ok=True)
    encryption.attach(db, unfinished, "state", key, new=True)
    _create(db, sync)
    db.execute("DETACH state")
    unfinished.chmod(0o600)
    unfinished.replace(path)


def _create(db: duckdb.DuckDBPyConnection, sync: str) -> None:
    schema = resources.files("retl").joinpath("state.sql").read_text(encoding="utf-8")
    with transaction(db):
        db.execute(schema)
        db.execute(
            """
            INSERT INTO state.metadata (schema_version, sync, destination_id, generation)
            VALUES (?, ?, ?, 0)
            """,
            [SCHEMA_VERSION, sync, secrets.token_hex(16)],
        )


def _attach(db: duckdb.DuckDBPyConnection, path: Path, memory: int | None, key: StateKey | None) -> None:
    spill = path.with_name(path.name + SPILL)
    try:
        encryption.attach(db, path, "state", key)
    except duckdb.Error as error:
        if "Could not set lock" in str(error) or "Unique file handle conflict" in str(error):
            raise LockedError(
                "another process has this state open",
                where=str(path),
                hint="wait for it; if it is not retl, close what you opened the file with",
            ) from error
        raise (
            encryption.key_error(error, path) or storage_error(error, path) or not_readable(error, path)
        ) from error
    # The file is ours alone from here on, so what a killed process spilled to disk can go.
    for ending in SPILLS:
        shutil.rmtree(path.with_name(path.name + ending), ignore_errors=True)
    db.execute(f"SET temp_directory = {sql.text(str(spill))}")
    _set_up(db, memory)


def _set_up(db: duckdb.DuckDBPyConnection, memory: int | None) -> None:
    if memory is not None:
        db.execute("SET memory_limit = ?", [f"{memory}B"])
    db.execute("SET GLOBAL TimeZone = 'UTC'")  # for cursors too, in which calls are rendered
    db.execute("SET enable_progress_bar = false")  # it would go to stdout, in the midst of our own


def _check(state: State, path: Path, sync: str | None) -> int:
    """See that a file is this sync's state; gives its schema version."""
    row = None
    for table in ("metadata", "about"):  # its name before schema 3
        with suppress(duckdb.CatalogException, duckdb.BinderException):
            row = state.db.execute(f"SELECT schema_version, sync FROM state.{table}").fetchone()
            break
    if row is None:
        raise StateError(
            "this DuckDB file was not made by retl",
            where=str(path),
            hint="move it away, or give another folder with --state-dir",
        )
    version, owner = row
    if version > SCHEMA_VERSION:
        raise StateError(
            f"this state was written by a newer retl (schema {version}, this one knows {SCHEMA_VERSION})",
            where=str(path),
            hint="upgrade retl: pip install --upgrade retl",
        )
    if sync is not None and owner != sync:
        raise StateError(
            f"this state belongs to the sync `{owner}`, not to `{sync}`",
            where=str(path),
            hint="give each sync a name of its own",
        )
    return int(version)


def _migrate(state: State, version: int) -> None:
    """Bring an older file from a schema version to the next; to be run in a transaction.

    DuckDB 1.4 commits no transaction that changes the columns of a table whose rows it has updated before, so
    that each step has one of its own, and is whole by itself.
    """
    MIGRATIONS[version](state.db)
    table = "about" if version + 1 < 3 else "metadata"  # its name before schema 3
    state.db.execute(f"UPDATE state.{table} SET schema_version = ?", [version + 1])
