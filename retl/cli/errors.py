"""The error to report, for whatever stops a command."""

import logging
import sys
import traceback
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime

from retl import signals
from retl.cli.console import Printer
from retl.cli.log import LogAction, json_logs, log, say
from retl.damage import storage_error
from retl.errors import BugError, RetlError
from retl.mask import masked
from retl.version import __version__


def print_failure(printer: Printer, sync: str, error: Exception) -> RetlError:
    """Print what kept a command from its work on a sync; gives the error as it was reported."""
    found = to_report(error)
    printer.failed(sync, found)
    return found


@contextmanager
def unless_printed(failures: Iterable[RetlError]) -> Iterator[None]:
    """Swallow an error that says the same as one that was printed."""
    try:
        yield
    except RetlError as error:
        if str(error) not in map(str, failures):
            raise


def to_report(error: BaseException) -> RetlError:
    """The error to report for anything that was raised; a bug's traceback goes to stderr.

    Nothing that a sync does stops the next one, so each is reported where it happened.
    """
    if isinstance(error, RetlError):
        return error
    if isinstance(error, Exception):
        found = storage_error(error)
        if found is not None:
            return found
        try:
            told = signals.told(error)
            log.debug("the error as Python has it", exc_info=error)
            return told
        except Exception as bug:
            error = bug
    trace = masked("".join(traceback.format_exception(error)))
    if json_logs():
        say(logging.ERROR, LogAction.BUG, trace)
    else:
        print(trace, end="", file=sys.stderr)
    moment = f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC"
    return BugError(
        f"this is a bug in retl {__version__} ({moment}); the state file is intact",
        hint="report it with the lines above; `retl status` shows where the sync stands",
    )
