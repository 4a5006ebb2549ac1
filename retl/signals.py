"""SIGINT and SIGTERM stop a run in good order."""

import signal

from retl.errors import Interrupted, RetlError

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
    """The error to report: the signal's, where one came and a library made something else of it.

    DuckDB raises a RuntimeError of its own when a signal handler raises during a query.

    Raises:
        Exception: the error itself, where it is a bug.
    """
    if isinstance(error, RetlError):
        return error
    if _received:
        # Its traceback holds on to all that was open, and the process is about to end.
        return _received[-1].with_traceback(None)
    raise error
