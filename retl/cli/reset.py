"""`retl reset`: forgets what was sent."""

from pathlib import Path

import click

from retl.cli.console import count
from retl.cli.options import ONE_SYNC, REHEARSAL, STATE_DIR
from retl.clock import SystemClock
from retl.engine import snapshot
from retl.session import find_sessions


@click.command("reset")
@ONE_SYNC
@click.option("--yes", is_flag=True, help="Do not ask.")
@REHEARSAL
@STATE_DIR
def reset_command(sync: str, yes: bool, rehearsal: bool, state_dir: Path | None) -> int:
    """Forget what was sent: the next run is a first pass.

    Calls that are pending are delivered all the same. Message ids never repeat.
    """
    for session in find_sessions([sync], state_dir, rehearsal):
        name = session.sync.name
        if not session.state_path.exists():
            click.echo(f"{name}: there is no state to forget")
            continue
        with session.hold(SystemClock()), session.open_state() as state:
            rows = snapshot.row_count(state.db)
            if not yes:
                click.confirm(f"{name}: forget {count(rows, 'row')} and start anew?", abort=True)
            with state.transaction():
                snapshot.forget(state)
        click.echo(f"{name}: {count(rows, 'row')} forgotten; the next run is a first pass")
    return 0
