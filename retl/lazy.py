"""Modules that are loaded when they are used: to load all of them takes a second, and no command needs all.

    if TYPE_CHECKING:
        import numpy as np
    else:
        np = lazy_module("numpy")

stands at the top, where an import would stand, so that what a module needs is still seen there, and mypy
knows the names. Nothing else in the package loads a module by its name.
"""

from importlib import import_module
from typing import Any

from retl import signals
from retl.system import unloaded


class LazyModule:
    """A module in whose place this object stands until one of its names is asked for."""

    def __init__(self, name: str, extra: str | None) -> None:
        self._name = name
        self._extra = extra

    def __getattr__(self, name: str) -> Any:
        """A name of the module.

        Raises:
            RetlError: the module, or one that it needs, cannot be loaded.
            Interrupted: a signal came meanwhile; what is written in C cannot be loaded by half.
        """
        try:
            with signals.held():
                module = import_module(self._name)
        except (ImportError, MemoryError, OSError) as error:
            raise unloaded(error, self._extra) from error
        return getattr(module, name)


def lazy_module(name: str, extra: str | None = None) -> Any:
    """The module of that name, loaded when it is first used.

    Args:
        name: of the module.
        extra: of retl, which installs it; None where it comes with retl.
    """
    return LazyModule(name, extra)
