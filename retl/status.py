"""Where a sync stands: what `retl status` shows of it."""

from typing import Any

from retl.clock import SystemClock
from retl.delivery import outbox, rejected
from retl.engine import snapshot
from retl.errors import LockedError
from retl.run import last_runs
from retl.session import Session
from retl.state import holder


def sync_status(session: Session) -> dict[str, Any]:
    """The last run of a sync, and what waits and is rejected; counts are None where they are not known."""
    name = session.sync.name
    nothing = {"rows": None, "delivered": None, "pending": None, "rejected": None, "exit_code": None}
    if not session.state_path.exists():
        return {"sync": name, "status": "never", "last_run": None, **nothing}
    try:
        with session.peeked_state(SystemClock()) as state:
            runs = last_runs(state.db, 1)
            waiting = outbox.pending(state.db)
            refused = sum(rejected.counts(state.db))
            rows = snapshot.row_count(state.db)
    except LockedError:
        by = holder(session.state_path)
        return {"sync": name, "status": "running", "last_run": by.since if by else None, **nothing}
    last = runs[0] if runs else None
    return {
        "sync": name,
        "status": last["status"] if last else "never",
        "last_run": last["started_at"] if last else None,
        "rows": rows,
        "delivered": last["calls"]["delivered"] if last else None,
        "pending": waiting,
        "rejected": refused,
        "exit_code": last["exit_code"] if last else None,
    }
