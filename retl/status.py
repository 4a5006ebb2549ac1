"""The status of a sync, which `retl status` shows."""

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from retl import notebook
from retl.clock import SystemClock
from retl.damage import state_exists
from retl.delivery import outbox, rejected
from retl.engine import snapshot
from retl.errors import LockedError
from retl.lock import holder
from retl.run import last_run
from retl.session import Session
from retl.state import State

if TYPE_CHECKING:
    import pandas as pd  # an extra: only notebooks need it


@dataclass(frozen=True)
class SyncStatus:
    """The last run of a sync, and the rows and calls in its state; None is not known.

    Attributes:
        sync: name of the sync.
        status: how the last run ended, as `retl.run.Status` has it; "never" before the first run, "running"
            while another process holds the state, "orphaned" where no sync file has this name any more.
        last_run: when it began, as ISO 8601 text in UTC.
        rows: rows of the snapshot.
        delivered: calls that the last run delivered.
        pending: calls in the outbox.
        rejected: rejected rows and calls.
        exit_code: of the last run.
    """

    sync: str
    status: str
    last_run: str | None = None
    rows: int | None = None
    delivered: int | None = None
    pending: int | None = None
    rejected: int | None = None
    exit_code: int | None = None

    def as_json(self) -> dict[str, Any]:
        """The object that `retl status --json` prints."""
        return asdict(self)

    def to_pandas(self) -> "pd.DataFrame":
        """One line with a column for each field; `last_run` is UTC.

        Raises:
            ConfigError: pandas is not installed.
        """
        return notebook.frame([self.as_json()], times=["last_run"])

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
        return notebook.html(self.sync, note, colors.get(self.status, notebook.BAD), rows)


def sync_status(session: Session) -> SyncStatus:
    """Look into the state of a sync; it is not an error where another process holds it.

    Raises:
        StateError: the state file is not one that this retl can read.
    """
    name = session.sync.name
    if not state_exists(session.state_path):
        return SyncStatus(name, "never")
    try:
        with session.peeked_state(SystemClock()) as state:
            return status_of(state, name)
    except LockedError:
        by = holder(session.state_path)
        return SyncStatus(name, "running", by.since if by else None)


def status_of(state: State, sync: str) -> SyncStatus:
    """The status of a sync by its state."""
    last = last_run(state.db)
    return SyncStatus(
        sync,
        last.status if last else "never",
        last.started_at if last else None,
        rows=snapshot.row_count(state.db),
        delivered=last.delivered if last else None,
        pending=outbox.pending(state.db),
        rejected=sum(rejected.counts(state.db)),
        exit_code=last.exit_code if last else None,
    )
