"""`retl reset`: forgets what was sent."""

from pathlib import Path

import click

from retl.cli.console import count
from retl.cli.options import ONE_SYNC, REHEARSAL, STATE_DIR
from retl.clock import SystemClock
from retl.config.sync import Sync
from retl.damage import state_exists
from retl.delivery import outbox, rejected
from retl.engine import snapshot
from retl.engine.mapping import first_pass_sentence
from retl.session import find_sessions


@click.command("reset")
@ONE_SYNC
@click.option("--yes", is_flag=True, help="Do not ask.")
@REHEARSAL
@STATE_DIR
def reset_command(sync: str, yes: bool, rehearsal: bool, state_dir: Path | None) -> int:
    """Forget what was sent: the next run is a first pass.

    Calls that are pending are delivered all the same, to the destination that they are for; where there are
    none, the next run may have another destination. Message ids never repeat.
    """
    for session in find_sessions([sync], state_dir, rehearsal):
        name = session.sync.name
        if not state_exists(session.state_path):
            click.echo(f"{name}: there is no state to forget")
            continue
        with session.hold(SystemClock()), session.open_state() as state:
            rows, pending = snapshot.row_count(state.db), outbox.pending(state.db)
            if not yes:
                click.confirm(f"{name}: forget {count(rows, 'row')} and start anew?", abort=True)
            with state.transaction():
                outbox.render_waiting(state.db)
                snapshot.forget(state, with_destination=not pending)
                rejected.overtake_all(state.db)  # the next run may go elsewhere, and sends each row anyway
        click.echo(f"{name}: {count(rows, 'row')} forgotten; {_next_run(session.sync, pending)}")
        if pending:
            click.echo(f"{name}: {count(pending, 'call')} of an earlier run still go to the same destination")
    return 0


def _next_run(sync: Sync, pending: int) -> str:
    """The words for the next run and what it does."""
    first = (
        f"the next run delivers {count(pending, 'call')} that are pending, and "
        if pending
        else "the next run "
    )
    return f"{first}is a first pass, {first_pass_sentence(sync)}"
