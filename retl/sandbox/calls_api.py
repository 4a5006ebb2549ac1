"""The calls of the sandbox as JSON."""

import json
from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import Any

from retl.sandbox.call_filter import call_filter, number
from retl.sandbox.local_segment import LocalSegment
from retl.sandbox.routes import Asked, PageAnswer, Route
from retl.sandbox.store import CALL_COLUMNS
from retl.version import __version__

USUAL_LIMIT = 100
"""Calls of a listing where nothing else is asked for."""


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


def _json(value: Any) -> PageAnswer:
    return PageAnswer(json.dumps(value, default=_moment))


def _moment(moment: datetime) -> str:
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


CALLS_ROUTES: Iterable[Route] = (
    Route("GET", r"/|/calls\.json", listing),
    Route("GET", r"/calls\.ndjson", export),
    Route("GET", r"/summary\.json", summary),
)
"""Routes that every sandbox has."""
