"""Session: a sync with all that a command needs for it, found in the project's files and opened."""

import os
from collections.abc import Iterator, MutableMapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import duckdb

from retl.clock import Clock
from retl.config.folder import name_in
from retl.config.project import (
    Project,
    certificates,
    check_names,
    find_project,
    find_syncs,
    load_model,
    load_sync,
    private_key,
    refuse_namesake,
    warehouse_url,
    write_key,
)
from retl.config.sync import Sync
from retl.damage import own_errors
from retl.delivery.address import is_local, shown_address
from retl.delivery.destination import Destination, Limits
from retl.delivery.rate_limit import RateLimiter
from retl.delivery.response import RetryPolicy
from retl.delivery.settle import doubt
from retl.encryption import StateKey, rewrite, state_key
from retl.engine.warehouse.tables import move_tokens
from retl.errors import ConfigError, StateError
from retl.lazy import lazy_module
from retl.lock import LOCK_TIMEOUT_SECONDS, TRY_LATER, WAREHOUSE_SPILL
from retl.memory import Room, memory_limit, state_memory, warehouse_memory
from retl.model import Model
from retl.state import State, open_state, peek_state, place_on_disk
from retl.state_folder import state_folders
from retl.storage import Folder, FolderOnDisk, Storage
from retl.system import expanded
from retl.warehouse import Warehouse, Workspace, open_warehouse, open_workspace
from retl.warehouse.opened_to_read import OpenedToRead

if TYPE_CHECKING:
    from urllib3 import exceptions as http_errors

    from retl.delivery import file as ndjson
    from retl.delivery import oauth, segment
else:
    http_errors = lazy_module("urllib3.exceptions")
    ndjson = lazy_module("retl.delivery.file")
    oauth = lazy_module("retl.delivery.oauth")
    segment = lazy_module("retl.delivery.segment")

SANDBOX_KEY = "sandbox"
"""The write key for rehearsals."""


@dataclass(frozen=True)
class Session:
    """One sync, as a command finds it.

    Attributes:
        project: its project folder.
        sync: the sync.
        rehearsal: whether it goes to the sandbox, with a state of its own.
        state_dir: the folder of this machine for state files.
        bucket: the folder of a bucket that has them in its place, but for those of rehearsals.
    """

    project: Project
    sync: Sync
    rehearsal: bool
    state_dir: Path
    bucket: Folder | None = None

    @property
    def folder(self) -> Folder:
        """The folder of the states of real runs."""
        return self.bucket or FolderOnDisk(self.state_dir)

    @property
    def storage(self) -> Storage:
        """The sync's state file, where it is kept: `<sync>[.<segment.name>].duckdb`.

        Calls that are written to a file are not sent to Segment, so such a sync has a state of its own, whose
        name ends in `.file`.
        """
        if self.rehearsal:
            return FolderOnDisk(self.state_dir / "sandbox").storage(f"{self.sync.name}.duckdb")
        settings = self.sync.segment
        parts = (self.sync.name, settings.name, "file" if settings.file is not None else None)
        return self.folder.storage(f"{'.'.join(filter(None, parts))}.duckdb")

    @property
    def state_path(self) -> Path:
        """The sync's state file as DuckDB opens it."""
        return self.storage.path

    @property
    def has_state(self) -> bool:
        """Whether there is a state.

        Raises:
            StateError: there was one and it is missing.
        """
        return self.storage.exists()

    @property
    def is_only_rehearsed(self) -> bool:
        """Whether there were rehearsals of the sync and no real run, which is what the command is about."""
        if self.rehearsal or self.has_state:
            return False
        return replace(self, rehearsal=True).has_state

    @property
    def model(self) -> Model:
        """The sync's model."""
        return load_model(self.sync, self.project)

    def hold(
        self, clock: Clock, timeout: float = LOCK_TIMEOUT_SECONDS, hint: str = TRY_LATER
    ) -> AbstractContextManager[None]:
        """Keep other processes from the state; see `retl.storage`.

        Raises:
            LockedError: another process holds it after `timeout` seconds; -1 waits without end.
        """
        return self.storage.hold(clock.now(), timeout, hint)

    def open_state(self, claim: bool = True) -> State:
        """The state, made where there is none; to be held before.

        Args:
            claim: whether the state is this sync file's from now on; else whose it is does not matter.

        Raises:
            StateError: the file is not a state that this retl can read, or another sync file uses it.
        """
        with ExitStack() as stack:
            storage = self.storage
            state = stack.enter_context(
                open_state(storage.path, self.sync.name, self._state_memory, self.state_key)
            )
            state.storage = storage
            if storage.was_cut_off:
                with state.transaction():
                    doubt(state.db)
            if claim:
                self._refuse_shared(state)
                self.claim(state)
            stack.pop_all()
        return state

    def claim(self, state: State) -> None:
        """Note that the state is this sync file's."""
        metadata = state.metadata
        if metadata.sync_file != self._noted_file:
            state.note(replace(metadata, sync_file=self._noted_file))

    def other_file(self, state: State) -> Path | None:
        """The sync file that used the state before, where it is another and has the name of this sync still.

        A file that is gone, as that of a project that was moved, is none.
        """
        noted = state.metadata.sync_file
        if noted is None or noted == self._noted_file:
            return None
        other = Path(os.path.normpath(self._base / noted))
        if name_in(other) != self.sync.name or other.samefile(self.path):
            return None
        return other

    def _refuse_shared(self, state: State) -> None:
        """See that no other sync file of this name uses the state.

        Raises:
            StateError: one does.
        """
        other = self.other_file(state)
        if other is None:
            return
        instead = f"; if this one takes its place: retl rekey {self.sync.path}"
        raise StateError(
            f"{other} uses this state too, for a sync of the same name as that of {self.path}",
            where=str(self.storage),
            hint="give one of them another `name`, or a folder of its own with --state-dir or RETL_STATE_DIR"
            + ("" if self.rehearsal else instead),
        )

    @property
    def path(self) -> Path:
        """The sync file, as an absolute path."""
        return self.project.root / self.sync.path

    @property
    def _noted_file(self) -> str:
        """The sync file as the state notes it.

        A state inside its project has it from the state's folder on, so that project and state can be moved
        and copied together; one in a bucket has it from the project on; another has the absolute path.
        """
        folder, root = self._base, self.project.root.resolve()
        if not folder.is_relative_to(root):
            return str(self.path)
        return os.path.relpath(self.path.parent.resolve() / self.path.name, folder)

    @property
    def _base(self) -> Path:
        """The folder from which a noted sync file is found."""
        return self.project.root.resolve() if self.storage.is_remote else self.state_dir.resolve()

    @contextmanager
    def peeked_state(
        self, clock: Clock, timeout: float = LOCK_TIMEOUT_SECONDS, hint: str = TRY_LATER
    ) -> Iterator[State]:
        """The state, for looking only, and locked where that is needed; nothing is made where there is none.

        Raises:
            LockedError: another process holds it after `timeout` seconds.
            StateError: the file is not a state that this retl can read, or another sync file uses it.
        """
        storage, memory, key = self.storage, self._state_memory, self.state_key
        with (
            storage.look(clock.now(), timeout, hint),
            peek_state(storage.path, self.sync.name, memory, key) as state,
        ):
            self._refuse_shared(state)
            state.storage = storage
            yield state

    def rewrite_state(self, before: StateKey | None, after: StateKey | None) -> None:
        """Write the state file anew with another key; to be held before.

        Args:
            before: the key that the file has; None where it has none.
            after: the key that it gets; None leaves it without.

        Raises:
            StateError: `before` is not its key, or it is not the state of this sync.
        """
        memory = self._state_memory
        with open_state(self.state_path, self.sync.name, memory, before) as state:
            self._refuse_shared(state)
            place = state.place

        def finish(db: duckdb.DuckDBPyConnection, file: Path) -> None:
            move_tokens(db, "anew", place, place_on_disk(self.state_path, file))

        with own_errors(self.state_path):
            rewrite(self.state_path, before, after, finish)

    @property
    def state_key(self) -> StateKey | None:
        """The key of the state; None where it is not encrypted."""
        return state_key(self.project.env)

    @property
    def warehouse(self) -> Warehouse:
        """The sync's warehouse, opened only when it is read."""
        return OpenedToRead(self.open_warehouse)

    @property
    def _state_memory(self) -> int:
        """The bytes that DuckDB may take for the state."""
        return state_memory(memory_limit(os.environ))

    @contextmanager
    def open_warehouse(self) -> Iterator[Warehouse]:
        """The sync's warehouse.

        Raises:
            ConfigError: no URL, or one that cannot be used.
            WarehouseError: it cannot be reached.
        """
        url, root = warehouse_url(self.sync, self.project), self.project.root
        room = self._room
        with open_warehouse(url, root, room, with_workspace=self.sync.engine == "warehouse") as warehouse:
            yield warehouse

    def open_workspace(self, schema: str | None = None) -> Workspace:
        """The schema in the sync's warehouse that retl writes in; or one that it wrote in before.

        Raises:
            ConfigError: no URL, or a warehouse that `engine: warehouse` does not know.
            WarehouseError: it cannot be reached.
        """
        url, root = warehouse_url(self.sync, self.project), self.project.root
        return open_workspace(url, root, schema or self.sync.engine_schema, self._room)

    @property
    def _room(self) -> Room:
        """The memory and the folder that a DuckDB warehouse may take."""
        memory = warehouse_memory(memory_limit(os.environ))
        scratch = self.state_path.with_name(self.state_path.name + WAREHOUSE_SPILL)
        return Room(memory, scratch, encrypted=self.state_key is not None)

    def open_destination(
        self, sandbox: str | None, rate_limiters: MutableMapping[str, RateLimiter], clock: Clock
    ) -> Destination:
        """The place that the calls go to: the sandbox, a file, or the sync's Segment source.

        Args:
            sandbox: the address of the local Segment of a rehearsal; None for any other run.
            rate_limiters: of this process by destination, since syncs with one destination share one rate.
            clock: for the rate.

        Raises:
            ConfigError: there is no write key, its certificates cannot be read, or a proxy is not a URL.
        """
        settings = self.sync.segment
        if sandbox is None and settings.file is not None:
            path = self.project.root / expanded(Path(settings.file))
            return ndjson.NdjsonFile(path, settings.file, clock)
        source = replace(self._source(sandbox), application=None if sandbox else self._application())
        rate = 0 if sandbox else settings.calls_per_second
        rate_limiter = rate_limiters.setdefault(source.hash, RateLimiter(rate, clock))
        try:
            return segment.Segment(source, rate_limiter, RetryPolicy(), settings.concurrency, clock)
        except (ValueError, http_errors.HTTPError) as error:
            # The text may hold the password of the proxy.
            raise ConfigError(
                "a proxy in the environment is not a URL (HTTPS_PROXY, HTTP_PROXY or ALL_PROXY)",
                hint="write it as http://host:port, or list Segment's host in NO_PROXY",
            ) from error

    @property
    def limits(self) -> Limits:
        """The limits of a batch at the destination."""
        if self.file is not None:
            return ndjson.NdjsonFile.limits
        return segment.segment_limits(self.sync.segment.calls_per_second)

    @property
    def file(self) -> str | None:
        """The file that takes the calls, as the sync has it; None where they go to Segment or the sandbox."""
        return None if self.rehearsal else self.sync.segment.file

    @property
    def address(self) -> str:
        """The address of the destination as it is shown, without a secret.

        Raises:
            ConfigError: there is no write key.
        """
        if self.rehearsal:
            return "the sandbox"
        if self.file is not None:
            return f"file:{self.file}"
        source = self._source(None)
        return shown_address(source.endpoint, source.write_key)

    @property
    def is_local(self) -> bool:
        """Whether the calls go to this very machine, though it is no rehearsal."""
        endpoint = self.sync.segment.endpoint
        return not self.rehearsal and self.file is None and endpoint is not None and is_local(endpoint)

    def _source(self, sandbox: str | None) -> "segment.Source":
        """The Segment source of a run."""
        if sandbox is not None:
            marks = self.sync.segment.mark_runs
            name = self.sync.name
            return segment.Source(sandbox, SANDBOX_KEY, known_as="sandbox", mark_runs=marks, told_sync=name)
        source = segment.source_of(self.sync.segment, write_key(self.sync, self.project))
        told_sync = self.sync.name if self.is_local else None
        return replace(source, ssl_cert=self.certificates(), told_sync=told_sync)

    def _application(self) -> "oauth.Application | None":
        """The OAuth application of the sync; None where the write key is enough."""
        settings, key = self.sync.segment, private_key(self.sync, self.project)
        if settings.oauth is None or key is None:
            return None
        return oauth.Application(
            client_id=settings.oauth.client_id,
            key_id=settings.oauth.key_id,
            private_key=key,
            auth_server=settings.oauth.auth_server or oauth.AUTH_SERVERS[settings.region],
            scope=settings.oauth.scope,
            where=self.sync.where("segment", "oauth"),
        )

    def certificates(self) -> str | None:
        """The file of certificates that the sync trusts; see `retl.config.project.certificates`."""
        return certificates(self.sync, self.project)


def find_sessions(arguments: Sequence[str], state_dir: Path | None, rehearsal: bool) -> list[Session]:
    """The syncs that the arguments of a command mean.

    Args:
        arguments: files, folders and names.
        state_dir: the folder of state files, where the command line gives one.
        rehearsal: whether the calls go to the sandbox.

    Raises:
        ConfigError: an argument means nothing, or a file is wrong.
    """
    paths = find_syncs(arguments, Path.cwd())
    sessions = [load_session(path, state_dir, rehearsal) for path in paths]
    check_names([session.sync for session in sessions])
    return sessions


def load_session(path: Path, state_dir: Path | None, rehearsal: bool) -> Session:
    """One sync file as a session; the arguments are those of `find_sessions`.

    Raises:
        ConfigError: the file is wrong, or another beside it has its name.
    """
    project = find_project(path, os.environ)
    sync = load_sync(path, project)
    refuse_namesake(sync, path, project)
    return Session(project, sync, rehearsal, *state_folders(project, state_dir, sync))
