"""retl's own log, on stderr: lines for people, each with its time, or JSON."""

import json
import logging
import sys
import time
from enum import StrEnum
from typing import Any

from retl.cli.output import takes_unicode, without_controls
from retl.mask import masked

log = logging.getLogger("retl")

TIME = "%Y-%m-%dT%H:%M:%SZ"
"""The time of a line, in UTC."""


class LogAction(StrEnum):
    """The subject of a JSON line, by a name that stays; docs/logs.md has the fields of each."""

    READING = "reading"  # the warehouse is asked for rows
    ROWS_READ = "rows_read"  # so many came
    COMPARING = "comparing"  # all rows are read
    DIFFED = "diffed"  # the changes are known
    ENQUEUING = "enqueuing"  # changes become calls, in the outbox
    DELIVERING = "delivering"  # delivery begins
    DELIVERED = "delivered"  # so many calls were accepted
    WAITING = "waiting"  # a batch waits before it is tried again
    NOTICE = "notice"  # a sentence that somebody should read
    FINISHED = "finished"  # a run is over, well or not
    FAILED = "failed"  # the error of a run or of a command
    BUG = "bug"  # the traceback of an error that nobody foresaw
    DETAIL = "detail"  # anything else, for whoever looks for a cause


class Masked(logging.Formatter):
    """A line for people; what is written for whoever looks for a cause has no secret in it."""

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:  # noqa: N802
        """The time of the record, in UTC."""
        return time.strftime(datefmt or TIME, time.gmtime(record.created))

    def format(self, record: logging.LogRecord) -> str:
        """The record as text."""
        text = without_controls(super().format(record))
        return masked(text) if record.levelno <= logging.DEBUG else text


class JsonLines(logging.Formatter):
    """A log line as one JSON object."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as JSON."""
        moment = time.strftime(TIME, time.gmtime(record.created))
        line = {"time": moment, "level": record.levelname.lower(), "message": record.getMessage()}
        fields = {**line, "action": LogAction.DETAIL, **getattr(record, "fields", {})}
        if record.levelno <= logging.DEBUG:
            fields["message"] = masked(fields["message"])
        return json.dumps(fields, ensure_ascii=not takes_unicode(sys.stderr))


def set_up_logs(level: str, as_json: bool) -> None:
    """Send retl's own log to stderr.

    Args:
        level: debug, info, warning or error.
        as_json: whether each line is a JSON object.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines() if as_json else Masked("%(asctime)s %(message)s", TIME))
    log.handlers[:] = [handler]
    log.propagate = False
    log.setLevel(level.upper())


def json_logs() -> bool:
    """Whether the log is JSON."""
    return any(isinstance(handler.formatter, JsonLines) for handler in log.handlers)


def notice(about: str, sentence: str) -> None:
    """Write a sentence that somebody should read, of a command that shows no progress.

    Args:
        about: the sync, or the thing, that it is about.
        sentence: the sentence.
    """
    if json_logs():
        say(logging.WARNING, LogAction.NOTICE, sentence, about)
    else:
        print(f"{about}: {sentence}", file=sys.stderr)


def say(level: int, action: LogAction, sentence: str, sync: str | None = None, **fields: Any) -> None:
    """Write a line.

    Args:
        level: of `logging`.
        action: what it is about.
        sentence: for people; the sync's name is put before it there, where it is about one.
        sync: the name of the sync; None where it is about none.
        fields: more, in JSON alone.
    """
    about = {"action": action, **({"sync": sync} if sync else {}), **fields}
    text = sentence if sync is None or json_logs() else f"{sync}: {sentence}"
    log.log(level, "%s", text, extra={"fields": about})
