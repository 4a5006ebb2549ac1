"""SIGINT and SIGTERM stop a run in good order."""

import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from retl.errors import Interrupted, RetlError
from retl.system import system_error

_NUMBERS = (signal.SIGINT, signal.SIGTERM)

_received: list[Interrupted] = []

_wakeups: list[socket.socket] = []
"""Two ends: Python writes the number of a signal to one at once, whatever the main thread is doing."""

_noticed = bytearray()
"""Numbers of signals that were read from the other end."""

_holds: list[int] = []
"""One for each `held` that the main thread is in: how many signals had come before it."""


def listen() -> None:
    """Raise `Interrupted` in the main thread when a signal comes; the second signal ends the process."""
    _wakeups[:] = socket.socketpair()
    for end in _wakeups:
        end.setblocking(False)
    signal.set_wakeup_fd(_wakeups[1].fileno(), warn_on_full_buffer=False)
    for number in _NUMBERS:
        signal.signal(number, _stop)


def check() -> None:
    """Raise `Interrupted` where a signal has come, in any thread: the main one may be busy in a library.

    Raises:
        Interrupted: one has come since `listen`.
    """
    if _wakeups:
        with suppress(BlockingIOError):  # there is none
            _noticed.extend(_wakeups[0].recv(64))
    for number in _NUMBERS:
        if number in _noticed:
            raise Interrupted(number)


@contextmanager
def held() -> Iterator[None]:
    """Let a first signal wait until the end of a block, in the main thread; another thread gets none.

    Raises:
        Interrupted: one came meanwhile.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    _holds.append(len(_received))
    try:
        yield
    finally:
        before = _holds.pop()
        if not _holds and len(_received) > before:
            raise _received[-1]


def _stop(number: int, _frame: object) -> None:
    signal.signal(number, signal.SIG_DFL)
    _received.append(Interrupted(number))
    if not _holds:
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
