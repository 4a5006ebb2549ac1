"""`retl retry`: sends the calls again that Segment refused."""

from pathlib import Path
from typing import Any

import click

from retl.cli import progress
from retl.cli.console import Printer, as_json_line, console, count
from retl.cli.options import AS_JSON, ONE_SYNC, STATE_DIR, seconds
from retl.clock import SystemClock
from retl.job import Job, Options
from retl.retry import Retry, retry
from retl.session import Session, find_sessions
from retl.status import with_progress_file


@click.command("retry")
@ONE_SYNC
@click.option("--stale", is_flag=True, help="Send calls, too, that a newer call of their user has overtaken.")
@click.option(
    "--deadline", callback=seconds, default="12h", help="Stop after this long: 45s, 30m, 12h. [default: 12h]"
)
@AS_JSON
@STATE_DIR
def retry_command(sync: str, stale: bool, deadline: float, as_json: bool, state_dir: Path | None) -> int:
    """Send the calls again that Segment refused, under the message ids that they had.

    Calls that wait are delivered first. Nothing is read from the warehouse.
    """
    codes = []
    for session in find_sessions([sync], state_dir, rehearsal=False):
        printer = Printer(as_json, state_dir=state_dir)
        if not session.has_state:
            name = session.sync.name
            nothing = f"{name}: there are no calls to send again"
            click.echo(as_json_line({"sync": name, "status": "never"}) if as_json else nothing)
            continue
        result = _retry_one(session, stale, deadline)
        codes.append(result.run.exit_code or int(result.left.overtaken > 0))
        _print(printer, result)
    return max(codes, default=0)


def _retry_one(session: Session, stale: bool, deadline: float) -> Retry:
    clock = SystemClock()
    observer = progress.observer_for(session.sync.name, False, console(stderr=True))
    try:
        with (
            session.open_destination(None, {}, clock) as destination,
            session.hold(clock),
            session.open_state() as state,
        ):
            options = Options(deadline_seconds=deadline)
            job = Job(
                session.sync,
                session.model,
                state,
                session.warehouse,
                options,
                clock,
                with_progress_file(session, state, observer, clock),
                address=session.address,
            )
            return retry(job, destination, stale)
    finally:
        observer.close()


def _print(printer: Printer, result: Retry) -> None:
    run, left = result.run, result.left
    if printer.as_json:
        found: dict[str, Any] = {"overtaken": left.overtaken, "unfit": left.unfit}
        click.echo(as_json_line({**run.as_json(), "left": found}))
    else:
        _print_lines(result, printer.flags)
    if run.error is not None:
        printer.error(run.error, run.sync)


def _print_lines(result: Retry, flags: str) -> None:
    run, left = result.run, result.left
    again = run.calls.enqueued or 0
    waited = f", {count(result.waited, 'call')} delivered that waited" if result.waited else ""
    rejected = f", {run.calls.rejected:,} rejected" if run.calls.rejected else ""
    if again:
        delivered = f"{count((run.calls.delivered or 0) - result.waited, 'call')} delivered"
        click.echo(f"{run.sync}: {count(again, 'call')} sent again → {delivered}{rejected}{waited}")
    elif run.error is None:
        click.echo(f"{run.sync}: there are no calls to send again{waited}{rejected}")
    if left.overtaken:
        click.echo(
            f"  {count(left.overtaken, 'call')} not sent: a newer call of the user was delivered, or waits; "
            f"`retl retry {run.sync}{flags} --stale` sends them all the same"
        )
    if left.unfit:
        click.echo(
            f"  {count(left.unfit, 'call')} not sent: Segment would drop them, see "
            f"`retl rejected {run.sync}{flags}`; `retl discard {run.sync}{flags}` forgets them"
        )
