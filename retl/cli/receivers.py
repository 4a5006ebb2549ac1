"""Shared by the commands that ask receivers: jobs and settings for them, colours and meanings to print."""

from collections.abc import Sequence

from retl.clock import SystemClock
from retl.delivery.rejected import REASONS
from retl.job import Job, Options
from retl.observer import SilentObserver
from retl.receivers.data_file import Effect, meaning
from retl.receivers.settings import Settings, read_settings
from retl.session import Session
from retl.state import State

EFFECT_COLORS = {Effect.REFUSED: "red", Effect.DOUBTFUL: "yellow", Effect.IGNORED: "cyan", Effect.NOTE: "dim"}
"""The colour in which each effect of a violation is printed."""


def reason_meaning(reason: str) -> str:
    """The meaning of a reason code, of retl's own or of a receiver's rule."""
    return REASONS[reason] if reason in REASONS else meaning(reason)


def looking_job(session: Session, state: State) -> Job:
    """The job of a command that only looks: the options of a plain run, and no progress."""
    return Job(
        session.sync, session.model, state, session.warehouse, Options(), SystemClock(), SilentObserver()
    )


def receiver_settings(session: Session, names: Sequence[str]) -> dict[str, Settings]:
    """The settings of receivers by their names: those of the sync, else the defaults."""
    return {name: session.sync.receivers.get(name) or read_settings(name, {}) for name in names}
