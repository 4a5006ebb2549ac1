"""The calls of the sandbox as JSON, and what can be done about them: to clear them, to make it fail."""

import json
from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import Any
from urllib.parse import parse_qs

from retl.errors import ConfigError
from retl.sandbox.body import RefusalError, strict_json
from retl.sandbox.call_filter import call_filter, number
from retl.sandbox.failures import Failures
from retl.sandbox.local_segment import LocalSegment
from retl.sandbox.routes import Asked, PageAnswer, Route
from retl.sandbox.store import CALL_COLUMNS
from retl.version import __version__

USUAL_LIMIT = 100
"""Calls of a listing where nothing else is asked for."""

FORM = "application/x-www-form-urlencoded"


def _field(name: str, type_: str) -> str:
    if type_ == "TIMESTAMPTZ":
        return f'"{name}": strftime(make_timestamp(epoch_us("{name}")), \'%Y-%m-%dT%H:%M:%S.%gZ\')'
    return f'"{name}": "{name}"'


_OBJECT = f"to_json({{{', '.join(_field(name, type_) for name, type_ in CALL_COLUMNS.items())}}})::VARCHAR"
"""The SQL that makes a call's JSON: its columns, with the body as the object that it is."""


def _objects(segment: LocalSegment, asked: Asked, limit: int | None) -> Iterator[list[str]]:
    """The calls that are asked for, oldest first, some at a time.

    With a limit they are the newest, or after `after` the first of those that follow.
    """
    chosen = call_filter(asked.parameters)
    query = f"SELECT {_OBJECT} FROM call WHERE {chosen.condition}"  # which are in their order already
    if limit is not None:
        order = "ASC" if asked.parameters.get("after") else "DESC"
        some = f"FROM call WHERE {chosen.condition} ORDER BY seq {order} LIMIT {limit}"
        query = f"SELECT {_OBJECT} FROM ({some}) ORDER BY seq"
    return segment.store.texts(query, chosen.values)


def listing(segment: LocalSegment, asked: Asked) -> PageAnswer:
    """The summary, and the calls that are asked for."""
    limit = number(asked.parameters, "limit")
    objects = _objects(segment, asked, USUAL_LIMIT if limit is None else limit)
    head = {"summary": segment.summary(), **segment.store.holdings()}

    def pieces() -> Iterator[bytes]:
        yield json.dumps(head)[:-1].encode() + b', "calls": ['
        before = ""
        for some in objects:
            yield (before + ",\n".join(some)).encode()
            before = ",\n"
        yield b"]}"

    return PageAnswer(pieces())


def export(segment: LocalSegment, asked: Asked) -> PageAnswer:
    """The calls that are asked for, one JSON object a line; all of them where there is no limit."""
    objects = _objects(segment, asked, number(asked.parameters, "limit"))
    lines = (("\n".join(some) + "\n").encode() for some in objects)
    name = {"Content-Disposition": 'attachment; filename="calls.ndjson"'}
    return PageAnswer(lines, "application/x-ndjson", headers=name)


def summary(segment: LocalSegment, asked: Asked) -> PageAnswer:
    """The counts, in all and by run, how many calls are held, and what goes wrong on purpose."""
    return _json(
        {
            **segment.summary(),
            **segment.store.holdings(),
            "runs": segment.runs(),
            "failures": str(segment.failures),
            "started_at": segment.started_at,
            "version": __version__,
        }
    )


def clear(segment: LocalSegment, asked: Asked) -> PageAnswer:
    """Forget all calls; a browser that sent a form is led back to the start."""
    segment.clear()
    return _done(asked, {"success": True})


def failures(segment: LocalSegment, asked: Asked) -> PageAnswer:
    """The failures of the sandbox: as the text that sets them, and one by one."""
    return _json(_failures(segment))


def fail(segment: LocalSegment, asked: Asked) -> PageAnswer:
    """Set the failures to those of the body: JSON, a form, or the bare text as of `--failures`."""
    try:
        segment.fail(Failures.parse(_failures_text(asked)))
    except ConfigError as error:
        raise RefusalError(400, f"{error.message}; {error.hint}" if error.hint else error.message) from error
    return _done(asked, _failures(segment))


def _failures_text(asked: Asked) -> str:
    try:
        text = asked.body.decode()
        if asked.content_type == FORM:
            return parse_qs(text).get("failures", [""])[-1]
        if asked.content_type != "application/json":
            return text.strip()
        found = strict_json(asked.body)
    except ValueError as error:
        raise RefusalError(400, f"the body cannot be read: {error}") from error
    if not isinstance(found, dict) or not isinstance(found.get("failures"), str):
        raise RefusalError(400, 'the body must be an object with a text "failures"')
    return str(found["failures"])


def _failures(segment: LocalSegment) -> dict[str, Any]:
    now = segment.failures
    return {
        "failures": str(now),
        "chances": {reply.word: probability for probability, reply in now.chances},
        "latency_ms": now.latency * 1000,
        "rate": now.calls_per_second,
    }


def _done(asked: Asked, told: Any) -> PageAnswer:
    """The answer to a change; a browser that sent a form is led back to the start."""
    return PageAnswer(status=303, headers={"Location": "/"}) if asked.content_type == FORM else _json(told)


def _json(value: Any) -> PageAnswer:
    return PageAnswer(json.dumps(value, default=_moment))


def _moment(moment: datetime) -> str:
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


CALLS_ROUTES: Iterable[Route] = (
    Route("GET", r"/|/calls\.json", listing),
    Route("GET", r"/calls\.ndjson", export),
    Route("GET", r"/summary\.json", summary),
    Route("DELETE", "/calls", clear),
    Route("POST", "/calls/clear", clear),
    Route("GET", "/faults", failures),
    Route("POST", "/faults", fail),
)
"""Routes that every sandbox has."""
