"""retl's own log, on stderr: lines for people, or JSON."""

import json
import logging
import sys
import time

from retl.cli.output import takes_unicode, without_controls
from retl.mask import masked

log = logging.getLogger("retl")


class Masked(logging.Formatter):
    """A line for people; what is written for whoever looks for a cause has no secret in it."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as text."""
        text = without_controls(super().format(record))
        return masked(text) if record.levelno <= logging.DEBUG else text


class JsonLines(logging.Formatter):
    """A log line as one JSON object."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as JSON."""
        moment = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(record.created))
        line = {"time": moment, "level": record.levelname.lower(), "message": record.getMessage()}
        fields = {**line, **getattr(record, "fields", {})}
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
    handler.setFormatter(JsonLines() if as_json else Masked("%(message)s"))
    log.handlers[:] = [handler]
    log.propagate = False
    log.setLevel(level.upper())


def json_logs() -> bool:
    """Whether the log is JSON."""
    return any(isinstance(handler.formatter, JsonLines) for handler in log.handlers)
