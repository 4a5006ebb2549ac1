"""`retl discard`: forgets calls that are not to be sent any more."""

from pathlib import Path

import click

from retl.cli.console import count
from retl.cli.options import ONE_SYNC, REHEARSAL, STATE_DIR
from retl.clock import SystemClock
from retl.discard import discard_pending, discard_rejected, waiting
from retl.session import find_sessions


@click.command("discard")
@ONE_SYNC
@click.option("--pending", is_flag=True, help="Drop the calls that wait, instead of the rejected ones.")
@click.option("--yes", is_flag=True, help="Do not ask.")
@REHEARSAL
@STATE_DIR
def discard_command(sync: str, pending: bool, yes: bool, rehearsal: bool, state_dir: Path | None) -> int:
    """Forget the rejected calls, or with --pending those that wait.

    With --pending their rows are put back to what was delivered: the next run finds the changes anew, and
    makes other calls of them.
    """
    for session in find_sessions([sync], state_dir, rehearsal):
        name = session.sync.name
        if not session.has_state:
            click.echo(f"{name}: there are no calls to discard")
            continue
        with session.hold(SystemClock()), session.open_state() as state:
            found = waiting(state)
            calls = count(found.pending if pending else found.rejected, "call")
            kind = "that wait" if pending else "that were rejected"
            if not (found.pending if pending else found.rejected):
                click.echo(f"{name}: there are no calls {kind}")
                continue
            if not yes:
                click.confirm(f"{name}: forget {calls} {kind}?", abort=True)
            if pending:
                dropped = discard_pending(state, SystemClock().now())
                click.echo(f"{name}: {count(dropped, 'call')} dropped; the next run finds what changed anew")
                if dropped < found.pending:
                    stay = count(found.pending - dropped, "call")
                    click.echo(f"  {stay} not dropped: another call of the change was delivered")
            else:
                discard_rejected(state, SystemClock().now())
                click.echo(f"{name}: {calls} forgotten; the rows behind them count as sent")
    return 0
