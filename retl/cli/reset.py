"""`retl reset`: forgets what was sent, or deletes all that is kept."""

from pathlib import Path

import click

from retl import purge
from retl.cli.console import count
from retl.cli.options import ONE_SYNC, REHEARSAL, STATE_DIR
from retl.clock import SystemClock
from retl.config.sync import Sync
from retl.delivery import history, outbox, rejected
from retl.engine import snapshot
from retl.engine.mapping import first_pass_sentence
from retl.errors import ConfigError, ExternalError, StateError
from retl.session import Session, find_sessions


@click.command("reset")
@ONE_SYNC
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option(
    "--purge",
    "is_purge",
    is_flag=True,
    help="Delete the state file and all beside it: rows, calls, receipts, rejections, runs, rehearsals.",
)
@click.option(
    "--pending", "with_pending", is_flag=True, help="With --purge: delete the calls that wait, too."
)
@REHEARSAL
@STATE_DIR
def reset_command(
    sync: str, yes: bool, is_purge: bool, with_pending: bool, rehearsal: bool, state_dir: Path | None
) -> int:
    """Forget what was sent: the next run is a first pass.

    Calls that are pending are delivered all the same, to the destination that they are for; where there are
    none, the next run may have another destination. Message ids never repeat.

    With --purge nothing is left on disk of what retl kept of the sync.
    """
    if with_pending and not is_purge:
        raise click.UsageError("--pending goes with --purge; retl discard --pending takes calls back")
    for session in find_sessions([sync], state_dir, rehearsal):
        name = session.sync.name
        if is_purge:
            _purge(session, yes, with_pending)
            continue
        if not session.has_state:
            click.echo(f"{name}: there is no state to forget")
            continue
        with session.hold(SystemClock()):
            with session.open_state() as state:
                rows, pending = snapshot.row_count(state.db), outbox.pending(state.db)
            if not yes:
                click.confirm(f"{name}: forget {count(rows, 'row')} and start anew?", abort=True)
            if not _write_first_calls(session):
                click.echo(f"{name}: the rows are damaged, so the history of their first calls is lost")
            with session.open_state() as state, state.transaction():
                outbox.render_waiting(state.db)
                history.forget_first_calls(state.db)
                snapshot.forget(state, with_destination=not pending)
                rejected.overtake_all(state.db)  # the next run may go elsewhere, and sends each row anyway
            _drop_tables(session)
        click.echo(f"{name}: {count(rows, 'row')} forgotten; {_next_run(session.sync, pending)}")
        if pending:
            click.echo(f"{name}: {count(pending, 'call')} of an earlier run still go to the same destination")
    return 0


def _drop_tables(session: Session) -> None:
    """Drop the tables in the warehouse; where that cannot be done, the next run of the sync does it."""
    try:
        with session.open_state() as state:
            purge.drop_tables(session, state)
    except (ConfigError, ExternalError) as error:
        click.echo(
            f"{session.sync.name}: its tables in the warehouse stay until the next run: {error.message}"
        )


def _write_first_calls(session: Session) -> bool:
    """Write down the calls that only the rows tell; whether these could be read."""
    try:
        with session.open_state() as state, state.transaction():
            outbox.render_waiting(state.db)
            history.keep_first_calls(state.db, places=None)
    except StateError:
        return False
    return True


def _purge(session: Session, yes: bool, with_pending: bool) -> None:
    """Ask, and delete all that is kept of a sync."""
    name, clock = session.sync.name, SystemClock()
    rows, pending = purge.counted(session, clock)
    purge.refuse_pending(session, 0 if with_pending else pending)
    lost = f" and {count(pending, 'call')} that never left" if pending else ""
    if not yes:
        click.confirm(f"{name}: delete all that is kept of it, {count(rows, 'row')}{lost}?", abort=True)
    deleted = purge.purge(session, clock, with_pending)
    if session.storage.is_remote and rows + pending + len(deleted):
        click.echo(f"{name}: deleted {session.storage}")
    for path in deleted:
        if not session.storage.is_remote or path.is_relative_to(session.state_dir):
            click.echo(f"{name}: deleted {path}")
    if not deleted:
        click.echo(f"{name}: there is nothing to delete")
        return
    click.echo(f"{name}: {_next_run(session.sync, 0)}")


def _next_run(sync: Sync, pending: int) -> str:
    """The words for the next run and what it does."""
    first = (
        f"the next run delivers {count(pending, 'call')} that are pending, and "
        if pending
        else "the next run "
    )
    return f"{first}is a first pass, {first_pass_sentence(sync)}"
