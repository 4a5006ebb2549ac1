"""Launch: the run of one sync, for which state, lock and destination are opened."""

from collections.abc import MutableMapping
from dataclasses import dataclass, field

from retl.clock import SystemClock
from retl.delivery.rate_limit import RateLimiter
from retl.engine.mapping import first_pass_sentence
from retl.errors import GuardError
from retl.job import Job, Options
from retl.lock import LOCK_TIMEOUT_SECONDS
from retl.observer import Observer
from retl.orphans import refuse_former_name
from retl.pipeline import run
from retl.rehearsal import copy_production
from retl.run import Run
from retl.session import Session
from retl.status import with_progress_file


@dataclass(frozen=True)
class Launch:
    """How a run is launched.

    Attributes:
        options: the options of the run itself.
        from_production: whether a rehearsal begins with a copy of the production state.
        expect_state: whether a missing state file is an error.
        wait: whether to wait for another run of the sync to end, up to the deadline.
    """

    options: Options = field(default_factory=Options)
    from_production: bool = False
    expect_state: bool = False
    wait: bool = False


_LOCAL = (
    "calls go to {} on this machine, and count as sent; "
    "to rehearse: --sandbox, or `segment: {{name: …}}` for a state of its own"
)


def launch(
    session: Session,
    how: Launch,
    observer: Observer,
    sandbox: str | None,
    rate_limiters: MutableMapping[str, RateLimiter],
) -> Run:
    """Open what the run of a sync needs, run it, and give its record, in which an error may stand.

    Args:
        session: the sync.
        how: the options.
        observer: is told of the steps.
        sandbox: the address of the local Segment of a rehearsal; None for any other run.
        rate_limiters: of this process by destination, since syncs with one destination share one rate.

    Raises:
        RetlError: the run could not begin.
    """
    clock = SystemClock()
    if how.from_production:
        copy_production(session, clock)
    if how.expect_state:
        _refuse_missing_state(session)
    planned = how.options.planned
    if planned is not None:
        planned.refuse_moved_files(session.project.root, session.sync)
        planned.refuse_missing_state(session.state_path, session.has_state)
    doubt = refuse_former_name(session)
    if doubt is not None:
        observer.notice(doubt)
    model = session.model
    with (
        session.open_destination(sandbox, rate_limiters, clock) as destination,
        session.hold(
            clock,
            how.options.deadline_seconds if how.wait else LOCK_TIMEOUT_SECONDS,
            "give it more time with --deadline" if how.wait else "use --wait or --skip-if-running",
        ),
        session.open_state() as state,
    ):
        if planned is not None:
            planned.begin(state)
        if session.is_local and session.sync.segment.name is None:
            observer.notice(_LOCAL.format(session.address.partition(", ")[0]))
        warehouse, address = session.warehouse, session.address
        told = with_progress_file(session, state, observer, clock)
        options, workspace = how.options, session.open_workspace
        job = Job(session.sync, model, state, warehouse, options, clock, told, address, workspace)
        return run(job, destination)


def _refuse_missing_state(session: Session) -> None:
    if not session.has_state:
        raise GuardError(
            "the state file is missing",
            where=str(session.storage),
            hint="restore it, or run once without --expect-state to start anew with a first pass, "
            + first_pass_sentence(session.sync),
        )
