"""SIGINT and SIGTERM stop a run in good order."""

import signal

from retl.errors import Interrupted, RetlError
from retl.system import system_error

_received: list[Interrupted] = []


def listen() -> None:
    """Raise `Interrupted` in the main thread when a signal comes; the second signal ends the process."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _stop)


def _stop(number: int, _frame: object) -> None:
    signal.signal(number, signal.SIG_DFL)
    _received.append(Interrupted(number))
    raise _received[-1]


def told(error: Exception) -> RetlError:
    """The error to report: that of a signal, where one came, or of the operating system.

    DuckDB raises a RuntimeError of its own when a signal handler raises during a query.

    Raises:
        Exception: the error itself, where it is a bug.
    """
    if isinstance(error, RetlError):
        return error
    if _received:
        # Its traceback holds on to all that was open, and the process is about to end.
        return _received[-1].with_traceback(None)
    found = system_error(error)
    if found is not None:
        return found
    raise error
