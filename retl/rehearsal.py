"""Rehearsal: a run against the sandbox that begins where production stands."""

import shutil
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from retl.clock import Clock
from retl.damage import own_errors
from retl.engine.warehouse.tables import own_tokens, take_tokens
from retl.errors import StateError
from retl.session import Session


def copy_production(session: Session, clock: Clock) -> None:
    """Put a copy of the production state, with the calls that wait, in the place of the rehearsals' own.

    The production state stays as it is. Both are held meanwhile, where that is needed.

    Args:
        session: the sync, in rehearsal.
        clock: for the lock.

    Raises:
        StateError: there is no production state.
        StorageError: the copy cannot be written.
        LockedError: another process holds one of the two.
    """
    production = replace(session, rehearsal=False)
    if not production.has_state:
        raise StateError(
            "there is no production state to rehearse from",
            where=str(production.storage),
            hint="leave out --from-production, and the rehearsal is a first pass",
        )
    target = session.state_path
    with session.hold(clock), production.storage.look(clock.now()), own_errors(target):
        tokens = _tokens_before(session)
        copy_file(production.state_path, target)
        with session.open_state(claim=False) as state, state.transaction():
            state.rekey(None)
            take_tokens(state, tokens)


def _tokens_before(session: Session) -> list[str]:
    """The tokens of the tables that the rehearsal before made in the warehouse, which this one is to drop.

    None where its file cannot be read: a rehearsal must not end by what it replaces.
    """
    with suppress(StateError):
        if session.has_state:
            with session.open_state(claim=False) as state:
                return own_tokens(state)
    return []


def copy_file(source: Path, target: Path) -> None:
    """Copy a state file, and its log where a killed process left one."""
    log = target.with_name(f"{target.name}.wal")
    log.unlink(missing_ok=True)  # of the state that is replaced
    for whole, copy in ((source, target), (source.with_name(f"{source.name}.wal"), log)):
        if whole.is_file():
            unfinished = copy.with_name(f"{copy.name}.new")
            unfinished.touch(mode=0o600)
            shutil.copyfile(whole, unfinished)
            unfinished.replace(copy)
