"""`retl rekey`: takes a new write key or endpoint for the same source."""

from pathlib import Path

import click

from retl.cli.console import count
from retl.cli.log import notice
from retl.cli.options import ONE_SYNC, STATE_DIR
from retl.clock import SystemClock
from retl.delivery import outbox
from retl.delivery.address import is_local
from retl.engine import snapshot
from retl.errors import ConfigError
from retl.session import Session, find_sessions
from retl.state import State


@click.command("rekey")
@ONE_SYNC
@click.option("--yes", is_flag=True, help="Do not ask.")
@STATE_DIR
def rekey_command(sync: str, yes: bool, state_dir: Path | None) -> int:
    """Say that a new write key or endpoint is the same Segment source: state and pending calls go on.

    The same goes for a sync file that takes the place of another one.
    """
    clock = SystemClock()
    for session in find_sessions([sync], state_dir, rehearsal=False):
        name = session.sync.name
        if not session.has_state:
            raise ConfigError(
                "there is no state yet, so there is nothing to rekey", where=str(session.storage)
            )
        with (
            session.open_destination(None, {}, clock) as destination,
            session.hold(clock),
            session.open_state(claim=False) as state,
        ):
            other = session.other_file(state)
            if state.metadata.destination_hash in {destination.id, None} and other is None:
                click.echo(f"{name}: there is nothing to rekey; the next run goes on")
                continue
            doubt = destination.check()
            for line in _consequences(session, state, other):
                notice(name, line)
            if not yes:
                click.confirm(f"{name}: does the state go on with this?", abort=True, err=True)
            with state.transaction():
                state.rekey(destination.id, session.address)
                session.claim(state)
        if doubt:
            notice(name, doubt)
        click.echo(f"{name}: the state goes on with this write key and endpoint")
    return 0


def _consequences(session: Session, state: State, other: Path | None) -> list[str]:
    """Sentences that say what a new write key, endpoint or sync file means for the state."""
    before = state.metadata.destination
    lines = [f"in the place of {other}"] if other else []
    lines += [f"from {before or 'a place that an older retl did not note'}", f"to {session.address}"]
    rows, pending = snapshot.row_count(state.db), outbox.pending(state.db)
    lines.append(f"{count(rows, 'row')} of the snapshot count as known there, and are not sent again")
    if pending:
        lines.append(f"{count(pending, 'pending call')} go there with the next run")
    if before is not None and is_local(before) and not is_local(session.address):
        lines.append("the calls so far went to this machine alone, so the new place has none of these rows")
    return lines
