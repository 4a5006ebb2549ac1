"""`retl rekey`: takes a new write key or endpoint for the same source."""

from pathlib import Path

import click

from retl.cli.options import ONE_SYNC, STATE_DIR
from retl.clock import SystemClock
from retl.errors import ConfigError
from retl.session import find_sessions


@click.command("rekey")
@ONE_SYNC
@STATE_DIR
def rekey_command(sync: str, state_dir: Path | None) -> int:
    """Say that a new write key or endpoint is the same Segment source: state and pending calls go on."""
    clock = SystemClock()
    for session in find_sessions([sync], state_dir, rehearsal=False):
        if not session.state_path.exists():
            raise ConfigError(
                "there is no state yet, so there is nothing to rekey", where=str(session.state_path)
            )
        with (
            session.open_destination(None, {}, clock) as destination,
            session.hold(clock),
            session.open_state() as state,
        ):
            doubt = destination.check()
            with state.transaction():
                state.rekey(destination.id)
        if doubt:
            click.echo(f"{session.sync.name}: {doubt}", err=True)
        click.echo(f"{session.sync.name}: the state goes on with this write key and endpoint")
    return 0
