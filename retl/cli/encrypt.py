"""`retl encrypt`: encrypts a state that is there, or gives it another key."""

from contextlib import suppress
from pathlib import Path

import click

from retl.cli.options import ONE_SYNC, REHEARSAL, STATE_DIR
from retl.clock import SystemClock
from retl.encryption import FORMER, VARIABLE, state_key
from retl.errors import ConfigError, StateError
from retl.session import Session, find_sessions


@click.command("encrypt")
@ONE_SYNC
@click.option("--decrypt", is_flag=True, help="Write the state without encryption instead.")
@REHEARSAL
@STATE_DIR
def encrypt_command(sync: str, decrypt: bool, rehearsal: bool, state_dir: Path | None) -> int:
    """Encrypt the state of a sync with the key in RETL_STATE_KEY, or give it another key.

    A state that has another key is read with that in RETL_STATE_OLD_KEY. Everything in it goes on: rows,
    calls that wait, message ids.
    """
    for session in find_sessions([sync], state_dir, rehearsal):
        name, env = session.sync.name, session.project.env
        key = state_key(env)
        if key is None:
            raise ConfigError("there is no key", where=VARIABLE, hint="make one: openssl rand -hex 32")
        if not session.has_state:
            click.echo(f"{name}: there is no state yet; the next run makes an encrypted one")
            continue
        before, after = (key, None) if decrypt else (state_key(env, FORMER), key)
        with session.hold(SystemClock()):
            if not decrypt and _has_its_key(session):
                click.echo(f"{name}: the state is encrypted with this key already")
                continue
            session.rewrite_state(before, after)
        click.echo(f"{name}: the state is {'not encrypted any more' if decrypt else 'encrypted'}")
    return 0


def _has_its_key(session: Session) -> bool:
    """Whether the key in the environment is that of the state."""
    with suppress(StateError), session.open_state(claim=False):
        return True
    return False
