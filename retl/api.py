"""retl in a notebook or a program."""

from pathlib import Path

from retl.clock import SystemClock
from retl.delivery import outbox
from retl.job import Job, Options
from retl.observer import SilentObserver
from retl.planning import Plan, make_plan
from retl.session import find_sessions


def plan(sync: str | Path, *, backfill: bool = False, sandbox: bool = False) -> Plan:
    """Plan a run of a sync: find what it would send now. Nothing is sent, and nothing changes.

    Args:
        sync: a sync file, or the name of one in the project of the working folder.
        backfill: whether the first pass of a track or audience sync is sent.
        sandbox: whether to plan the next rehearsal, `retl run --sandbox`.

    Returns:
        The plan; its `to_pandas()` has one line for each call.

    Raises:
        RetlError: whatever would stop the run before its guards.
    """
    clock = SystemClock()
    (session,) = find_sessions([str(sync)], None, sandbox)
    with session.peeked_state(clock) as state:
        job = Job(
            session.sync, session.model, state, session.warehouse, Options(backfill), clock, SilentObserver()
        )
        return make_plan(job, outbox.pending(state.db), session.limits, session.file, with_calls=True)
