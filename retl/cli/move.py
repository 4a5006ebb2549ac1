"""`retl move`: brings the state of a sync along to where the sync has it now."""

from pathlib import Path

import click

from retl.cli.console import count
from retl.cli.options import ONE_SYNC, STATE_DIR, Place
from retl.clock import SystemClock
from retl.move import move_state
from retl.session import find_sessions


@click.command("move")
@ONE_SYNC
@click.option(
    "--from", "place", type=Place(path_type=Path), required=True, help="Folder or bucket that has the state."
)
@STATE_DIR
def move_command(sync: str, place: Path, state_dir: Path | None) -> int:
    """Bring the state of a sync along to another folder or bucket.

    It goes to the one that the sync has as `state` now, and is deleted in the other once it is safe there.

    Example: retl move users --from state
    """
    for session in find_sessions([sync], state_dir, rehearsal=False):
        moved = move_state(session, place, SystemClock())
        click.echo(
            f"{session.sync.name}: {count(moved.rows, 'row')} and {count(moved.pending, 'call')} that wait "
            f"moved from {moved.before} to {moved.after}"
        )
    return 0
