"""What commands share that show the rules of receivers."""

from collections.abc import Sequence

from retl.clock import SystemClock
from retl.delivery.rejected import REASONS
from retl.observer import SilentObserver
from retl.pipeline import Job, Options
from retl.receivers.data_file import Effect, Settings, meaning, read_settings
from retl.session import Session
from retl.state import State

EFFECT_COLORS = {Effect.REFUSED: "red", Effect.DOUBTFUL: "yellow", Effect.IGNORED: "cyan", Effect.NOTE: "dim"}


def reason_meaning(reason: str) -> str:
    """What a reason code means: one of retl's own, or of a receiver's rule."""
    return REASONS[reason] if reason in REASONS else meaning(reason)


def looking_job(session: Session, state: State) -> Job:
    """What a command works with that only looks."""
    return Job(
        session.sync, session.model, state, session.warehouse, Options(), SystemClock(), SilentObserver()
    )


def receiver_settings(session: Session, names: Sequence[str]) -> dict[str, Settings]:
    """The receivers by name, with the settings that the sync has for them."""
    return {name: session.sync.receivers.get(name) or read_settings(name, {}) for name in names}
