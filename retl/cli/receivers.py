"""Shared by the commands that ask receivers: colours and meanings to print."""

from retl.receivers.data_file import Effect, meaning

EFFECT_COLORS = {Effect.REFUSED: "red", Effect.DOUBTFUL: "yellow", Effect.IGNORED: "cyan", Effect.NOTE: "dim"}
"""The colour in which each effect of a violation is printed."""


def reason_meaning(reason: str) -> str:
    """The meaning of a reason code, of retl's own or of a receiver's rule."""
    return meaning(reason)
