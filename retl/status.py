"""The status of a sync, which `retl status` shows."""

from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from retl import notebook
from retl.clock import Clock, SystemClock
from retl.delivery import outbox, rejected
from retl.engine import snapshot
from retl.errors import LockedError
from retl.observer import Observer
from retl.past_run import last_run, last_success, pending_since
from retl.progress_file import ProgressFile, RunProgress, read_progress
from retl.session import Session
from retl.state import State

if TYPE_CHECKING:
    import pandas as pd  # an extra: only notebooks need it


@dataclass(frozen=True)
class SyncStatus:
    """The last run of a sync, and the rows and calls in its state; None is not known.

    While a run is under way, nobody else can look into the state: rows, rejected rows and calls, and the last
    success are then those from before it.

    Attributes:
        sync: name of the sync.
        status: how the last run ended, as `retl.run.Status` has it; "never" before the first run, "running"
            while another process holds the state, "orphaned" where no sync file has this name any more.
        last_run: when it began, as ISO 8601 text in UTC.
        rows: rows of the snapshot; None where no run has read any yet.
        delivered: calls that the last run delivered.
        pending: calls in the outbox.
        rejected: rejected rows and calls.
        exit_code: of the last run.
        run_id: of the last run.
        seconds: how long it took.
        error: what ended it, as `code`, `message` and `hint`; None where nothing did.
        last_success: when the last run began that went through, with or without rejected rows.
        pending_since: when the oldest run began of which calls wait.
        rejected_rows: rows that cannot be sent until they are fixed.
        rejected_calls: calls that were refused for good.
        running: how far the run that is under way has got.
        sandbox: of the rehearsals of the sync.
    """

    sync: str
    status: str
    last_run: str | None = None
    rows: int | None = None
    delivered: int | None = None
    pending: int | None = None
    rejected: int | None = None
    exit_code: int | None = None
    run_id: str | None = None
    seconds: float | None = None
    error: dict[str, str | None] | None = None
    last_success: str | None = None
    pending_since: str | None = None
    rejected_rows: int | None = None
    rejected_calls: int | None = None
    running: RunProgress | None = None
    sandbox: "SyncStatus | None" = None

    def as_json(self) -> dict[str, Any]:
        """The object that `retl status --json` prints."""
        return asdict(self)

    def to_pandas(self) -> "pd.DataFrame":
        """One line with a column for each field; moments are UTC.

        Raises:
            ConfigError: pandas is not installed.
        """
        return notebook.frame([self.as_json()], times=["last_run", "last_success", "pending_since"])

    def _repr_html_(self) -> str:
        """The status as a notebook shows it."""
        colors = {"succeeded": notebook.GOOD, "never": notebook.GOOD, "running": notebook.GOOD}
        colors["partial"] = notebook.DOUBTFUL
        rows = [
            ("rows", self.rows),
            ("delivered", self.delivered),
            ("pending", self.pending),
            ("rejected", self.rejected),
        ]
        note = f"{self.status}{f', last run {self.last_run}' if self.last_run else ''}"
        why = [text for name in ("message", "hint") if self.error and (text := self.error[name])]
        return notebook.html(self.sync, note, colors.get(self.status, notebook.BAD), rows, why)


NEVER, RUNNING = "never", "running"
"""The statuses of a sync that never ran, and of one whose state another process holds."""


def sync_status(session: Session) -> SyncStatus:
    """Look into the state of a sync; it is not an error where another process holds it.

    Raises:
        StateError: the state file is not one that this retl can read.
    """
    name = session.sync.name
    if not session.has_state:
        return SyncStatus(name, NEVER)
    storage = session.storage
    if storage.is_remote and storage.holder() is not None:  # which lets others look
        return _while_running(session, name)
    try:
        with session.peeked_state(SystemClock()) as state:
            return status_of(state, name)
    except LockedError:
        return _while_running(session, name)


def _while_running(session: Session, name: str) -> SyncStatus:
    """The status of a sync whose state another process holds, by what that says of itself."""
    progress = read_progress(session.storage.progress())
    if progress is None:
        by = session.storage.holder()
        return SyncStatus(name, RUNNING, by.since if by else None)
    known = progress.before or {}
    waiting = known.get("pending")
    if progress.calls is not None:
        waiting = max(0, progress.calls - progress.delivered)
    kept = ("rows", "rejected", "rejected_rows", "rejected_calls", "last_success", "pending_since")
    return SyncStatus(
        name,
        RUNNING,
        progress.since,
        delivered=progress.delivered,
        pending=waiting,
        running=progress,
        **{one: known.get(one) for one in kept},
    )


def status_of(state: State, sync: str) -> SyncStatus:
    """The status of a sync by its state."""
    last = last_run(state.db)
    rows, calls = rejected.counts(state.db)
    return SyncStatus(
        sync,
        last.status if last else NEVER,
        last.started_at if last else None,
        rows=snapshot.row_count(state.db) if state.metadata.first_pass else None,
        delivered=last.delivered if last else None,
        pending=outbox.pending(state.db),
        rejected=rows + calls,
        exit_code=last.exit_code if last else None,
        run_id=last.run_id if last else None,
        seconds=last.seconds if last else None,
        error=last.error if last else None,
        last_success=last_success(state.db),
        pending_since=pending_since(state.db),
        rejected_rows=rows,
        rejected_calls=calls,
    )


def with_progress_file(session: Session, state: State, observer: Observer, clock: Clock) -> Observer:
    """An observer that tells `retl status` of other processes, too, how far a run has got.

    Args:
        session: the sync, whose state is held.
        state: its state, from before the run.
        observer: hears all that this one hears.
        clock: for the moments in the file.
    """
    # What an error says is for the state alone, which may be encrypted.
    before = replace(status_of(state, session.sync.name), error=None)
    return ProgressFile(session.state_path, observer, clock, before.as_json())
