"""retl in a notebook or a program: a sync by its file, and the commands as its methods.

Nothing of the process changes: neither its working folder, nor its environment, nor what it does on a signal.
So methods may be called from several threads; two runs of one sync keep out of each other's way as those of
two processes do.
"""

import logging
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING
from weakref import WeakValueDictionary

from retl import signals
from retl.check import CheckReport, check_sync, looking_job, receiver_settings
from retl.clock import SystemClock
from retl.damage import storage_error
from retl.delivery.rate_limit import RateLimiter
from retl.engine.guard import NAMES as GUARDS
from retl.errors import ConfigError
from retl.job import Job, Options
from retl.launch import Launch, launch
from retl.lazy import lazy_module
from retl.model_check import check_connections, check_model
from retl.observer import Observer, SilentObserver
from retl.orphans import refuse_former_name
from retl.planning import Plan, make_plan
from retl.receivers.data_file import chosen_receivers
from retl.run import Run
from retl.session import Session, find_sessions
from retl.state import new_state
from retl.status import SyncStatus, sync_status

if TYPE_CHECKING:
    from retl.sandbox import server
else:
    server = lazy_module("retl.sandbox.server")

log = logging.getLogger("retl")

_rate_limiters: "WeakValueDictionary[str, RateLimiter]" = WeakValueDictionary()
"""By destination, for as long as a run uses them: all syncs of a process share its rate."""


class LogObserver(SilentObserver):
    """Writes what a user should read to the log `retl` of Python's logging."""

    def __init__(self, sync: str) -> None:
        self._sync = sync

    def waiting(self, reason: str, seconds: float) -> None:
        """A batch waits before it is tried again."""
        log.warning("%s: %s; again in %.1f s", self._sync, reason, seconds)

    def notice(self, sentence: str) -> None:
        """A sentence that the user should read."""
        log.warning("%s: %s", self._sync, sentence)


@dataclass(frozen=True, repr=False)
class LoadedSync:
    """A sync whose file was read and found right.

    Each method opens what it needs, and closes it again. The sync file is read by `load` alone; the model's
    file is read each time.
    """

    _session: Session

    @property
    def name(self) -> str:
        """The name of the sync, which is that of its state."""
        return self._session.sync.name

    @property
    def path(self) -> Path:
        """The sync file, as an absolute path."""
        return self._session.path

    @property
    def kind(self) -> str:
        """The kind of its calls: "track", "audience", "identify" or "group"."""
        return self._session.sync.kind

    @property
    def state_path(self) -> Path:
        """The state file, which the first run makes."""
        return self._session.state_path

    def __repr__(self) -> str:
        sandbox = ", sandbox=True" if self._session.rehearsal else ""
        return f"retl.load({str(self.path)!r}{sandbox})"

    def check(
        self, *, connect: bool = False, receivers: Sequence[str] = (), sample: int | None = None
    ) -> CheckReport:
        """Check the model and the settings, and the calls by the rules of receivers, as `retl check` does.

        Args:
            connect: whether to ask the warehouse for the model's columns, whatever it is, and Segment about
                the write key; an embedded DuckDB is asked for columns in any case.
            receivers: the systems behind Segment to ask: "insider", "suprsend", …, or "all".
            sample: with receivers, how many rows to look at; 0 looks at the file alone, None at all rows.

        Returns:
            The report; `is_clean` tells whether receivers take all calls. Without receivers there are no
            findings.

        Raises:
            ModelError: the SQL fails, or lacks a column that the sync needs.
            RetlError: whatever else would stop a run before its guards.
        """
        with _reporting():
            checked = check_connections(self._session) if connect else check_model(self._session)
            if checked.doubt is not None:
                log.warning("%s: %s", self.name, checked.doubt)
            names = chosen_receivers(",".join(receivers))
            if not names:
                return CheckReport(self.name, None, None, 0, {}, (), (), checked.columns)
            with new_state(self.name, key=self._session.state_key) as state:
                job = looking_job(self._session, state)
                report = check_sync(job, receiver_settings(self._session, names), None, sample)
                return replace(report, columns=checked.columns)

    def plan(self, *, backfill: bool = False, full: bool = False) -> Plan:
        """Find what a run would send now, as `retl plan` does. Nothing is sent, and nothing changes.

        Args:
            backfill: whether the first pass of a track or audience sync is sent.
            full: whether every current row is sent again.

        Returns:
            The plan; its `to_pandas()` has a line for each call.

        Raises:
            RetlError: whatever would stop the run before its guards.
        """
        clock, session = SystemClock(), self._session
        with _reporting():
            refuse_former_name(session)
            with session.peeked_state(clock) as state:
                options = Options(backfill=backfill, full=full)
                job = Job(
                    session.sync,
                    session.model,
                    state,
                    session.warehouse,
                    options,
                    clock,
                    SilentObserver(),
                    workspace=session.open_workspace,
                )
                return make_plan(job, session.limits, session.file, with_calls=True)

    def run(
        self,
        *,
        backfill: bool = False,
        full: bool = False,
        force: Collection[str] = (),
        limit: int | None = None,
        deadline: float = Options.deadline_seconds,
        wait: bool = False,
        expect_state: bool = False,
        from_production: bool = False,
        observer: Observer | None = None,
        raises: bool = True,
    ) -> Run:
        """Send what changed since the last run, and remember it, as `retl run` does.

        Args:
            backfill: whether the first pass of a track or audience sync is sent.
            full: whether every current row is sent again, changed or not.
            force: names of guards to let pass, once: "removed", "changed", …
            limit: how many calls may leave now; the rest stays pending. None is all.
            deadline: seconds after which the run stops.
            wait: whether to wait for another run of the sync to end.
            expect_state: whether a missing state file is an error.
            from_production: of a sync that was loaded with `sandbox`: whether to rehearse on a copy of the
                production state.
            observer: is told of the steps, from several threads; None writes warnings to the log `retl`.
            raises: whether an error that ends the run is raised; else it is the record's `error`.

        Returns:
            The record of the run. Rows and calls that were rejected are no error: its `status` is then
            "partial" and its `exit_code` 1, unless the sync says `on_rejected: warn`.

        Raises:
            GuardError: a guard stopped the run before its first call.
            LockedError: another process or thread holds the sync.
            RetlError: it could not begin or not be completed; its `run` is the record, if there is one.
        """
        unknown = [name for name in force if name not in GUARDS]
        if unknown:
            raise ConfigError(f"there is no guard `{unknown[0]}`", hint=f"there are {', '.join(GUARDS)}")
        options = Options(backfill, frozenset(force), limit, full, deadline)
        how = Launch(options, from_production, expect_state, wait)
        told = observer or LogObserver(self.name)
        with _reporting(), server.Sandbox() if self._session.rehearsal else nullcontext() as sandbox:
            url = sandbox.url if sandbox is not None else None
            run = launch(self._session, how, told, url, _rate_limiters)
        if raises and run.error is not None:
            run.error.run = run
            raise run.error
        return run

    def status(self) -> SyncStatus:
        """The last run, and what is pending and rejected, as `retl status` shows them.

        Raises:
            StateError: the state file is not one that this retl can read.
        """
        with _reporting():
            return sync_status(self._session)


def load(sync: str | Path, *, sandbox: bool = False, state_dir: str | Path | None = None) -> LoadedSync:
    """Read a sync and see that its file is right.

    Args:
        sync: a sync file, or the name of one in the project around the working folder.
        sandbox: whether to rehearse: calls go to a local Segment, and the state is one of its own.
        state_dir: the folder of the state files; None takes RETL_STATE_DIR, else `state` in the project.

    Raises:
        ConfigError: there is no such file, or it is wrong; it says all that is.
    """
    with _reporting():
        found = find_sessions([str(sync)], Path(state_dir) if state_dir is not None else None, sandbox)
        if len(found) > 1:
            raise ConfigError(f"{sync} is a folder of {len(found)} syncs", hint="name one of its files")
        return LoadedSync(found[0])


def plan(sync: str | Path, *, backfill: bool = False, sandbox: bool = False) -> Plan:
    """Plan a run of a sync: `load` it, and `LoadedSync.plan`.

    Args:
        sync: a sync file, or the name of one in the project of the working folder.
        backfill: whether the first pass of a track or audience sync is sent.
        sandbox: whether to plan the next rehearsal, `retl run --sandbox`.

    Raises:
        RetlError: whatever would stop the run before its guards.
    """
    return load(sync, sandbox=sandbox).plan(backfill=backfill)


@contextmanager
def _reporting() -> Iterator[None]:
    """Raise the error of retl's own for one of the disk, of DuckDB's files or of the system."""
    try:
        yield
    except Exception as error:
        found = storage_error(error) or signals.told(error)
        if found is error:
            raise
        raise found from error
