"""retl sends what changed in a SQL model to Twilio Segment, and remembers what it sent.

import retl

users = retl.load("shop/syncs/users.yml")
users.plan().to_pandas()
users.run()
"""

from importlib import import_module
from typing import TYPE_CHECKING

from retl.version import __version__

if TYPE_CHECKING:  # at run time `__getattr__` loads them
    from retl.api import LoadedSync, load, plan
    from retl.check import CheckReport
    from retl.errors import (
        BugError,
        ConfigError,
        DeadlineError,
        DestinationError,
        ExternalError,
        GuardError,
        Interrupted,
        LockedError,
        MissingColumnError,
        ModelError,
        MovedError,
        RetlError,
        SegmentError,
        SetupError,
        StateError,
        StorageError,
        WarehouseError,
    )
    from retl.planning import Plan
    from retl.run import Run
    from retl.status import SyncStatus

__all__ = [
    "BugError",
    "CheckReport",
    "ConfigError",
    "DeadlineError",
    "DestinationError",
    "ExternalError",
    "GuardError",
    "Interrupted",
    "LoadedSync",
    "LockedError",
    "MissingColumnError",
    "ModelError",
    "MovedError",
    "Plan",
    "RetlError",
    "Run",
    "SegmentError",
    "SetupError",
    "StateError",
    "StorageError",
    "SyncStatus",
    "WarehouseError",
    "__version__",
    "load",
    "plan",
]

_HOMES = {
    "CheckReport": "retl.check",
    "LoadedSync": "retl.api",
    "Plan": "retl.planning",
    "Run": "retl.run",
    "SyncStatus": "retl.status",
    "load": "retl.api",
    "plan": "retl.api",
}
"""The homes of names that are not errors."""


def __getattr__(name: str) -> object:
    """Load the parts for notebooks when they are asked for.

    The command line begins without them, so that it can say what keeps a library from loading.
    """
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES.get(name, "retl.errors")), name)


def __dir__() -> list[str]:
    return __all__
