"""Move: the state of a sync from another folder or bucket to where the sync has it now."""

from dataclasses import dataclass, replace
from pathlib import Path

from retl.clock import Clock
from retl.delivery import outbox
from retl.delivery.settle import doubt
from retl.encryption import state_key
from retl.engine import snapshot
from retl.engine.warehouse.tables import own_tokens, take_tokens
from retl.errors import StateError
from retl.purge import delete_files
from retl.rehearsal import copy_file
from retl.session import Session
from retl.state import peek_state
from retl.state_folder import state_folders


@dataclass(frozen=True)
class Moved:
    """The state that was moved.

    Attributes:
        before: where it was, as messages show it.
        after: where it is.
        rows: of its snapshot.
        pending: the calls that wait in it.
    """

    before: str
    after: str
    rows: int
    pending: int


def move_state(session: Session, place: Path, clock: Clock) -> Moved:
    """Move the state of a sync; it is gone from the other place once it is safe in the new one.

    Args:
        session: the sync.
        place: the folder or bucket that has its state so far.
        clock: for the locks.

    Raises:
        StateError: there is none, or it is not this sync's; there is one in the new place already.
        LockedError: another process holds one of the two.
    """
    path, bucket = state_folders(session.project, place, session.sync)
    source, target = replace(session, state_dir=path, bucket=bucket).storage, session.storage
    if not source.exists():
        raise StateError("there is no state of this sync", where=str(source))
    if session.has_state:
        raise StateError(
            "there is a state already, which would be overwritten",
            where=str(target),
            hint=f"to do without it: retl reset {session.sync.path} --purge",
        )
    with source.hold(clock.now()):
        with peek_state(source.path, session.sync.name, key=state_key(session.project.env)) as state:
            state.storage = source
            tokens = own_tokens(state)
            moved = Moved(str(source), str(target), snapshot.row_count(state.db), outbox.pending(state.db))
        with session.hold(clock):
            copy_file(source.path, target.path)
            with session.open_state() as state, state.transaction():
                take_tokens(state, tokens)
                if source.was_cut_off:
                    doubt(state.db)
        for _ in delete_files(source.path):
            pass
    return moved
