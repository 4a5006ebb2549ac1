"""retl sends what changed in a SQL model to Twilio Segment, and remembers what it sent."""

from importlib import import_module
from typing import TYPE_CHECKING

from retl.version import __version__

if TYPE_CHECKING:  # at run time `__getattr__` loads them
    from retl.api import plan
    from retl.planning import Plan

__all__ = ["Plan", "__version__", "plan"]

_HOMES = {"plan": "retl.api", "Plan": "retl.planning"}


def __getattr__(name: str) -> object:
    """Load the parts for notebooks when they are asked for.

    The command line begins without them, so that it can say what keeps a library from loading.
    """
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
