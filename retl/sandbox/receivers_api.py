"""The requests that would reach receivers as JSON, and servers in the place of these."""

import json

from retl.receivers.data_file import receiver
from retl.sandbox.body import RefusalError
from retl.sandbox.local_segment import LocalSegment
from retl.sandbox.rehearsed import MOST_CALLS, ReceiverRehearsal
from retl.sandbox.routes import Asked, PageAnswer, Route

LONGEST_NUMBER = 19
"""Digits from which on a number is not even read."""


def receiver_routes(rehearsal: ReceiverRehearsal) -> tuple[Route, ...]:
    """The routes of the listings of receivers: `/receivers.json`, and `/receivers/<name>.json` for each."""

    def overview(segment: LocalSegment, asked: Asked) -> PageAnswer:
        """The receivers, and where their listings are."""
        told = [
            {"receiver": name, "title": receiver(name).title, "listing": f"/receivers/{name}.json"}
            for name in rehearsal.names
        ]
        return PageAnswer(json.dumps(told))

    def listing(segment: LocalSegment, asked: Asked) -> PageAnswer:
        """The newest accepted calls at a receiver, or those after one; of one user or of all."""
        name, user = asked.parts["name"], asked.parameters.get("user")
        if name not in rehearsal.names:
            raise RefusalError(404, f"there is no receiver {name}")
        limit = min(_number(asked, "limit", 100), MOST_CALLS)
        if "after" in asked.parameters:
            found = rehearsal.after(segment.store, name, _number(asked, "after", 0), limit, user)
        else:
            found = rehearsal.newest(segment.store, name, limit, user)
        return PageAnswer(json.dumps(found.as_json()))

    return (
        Route("GET", r"/receivers\.json", overview),
        Route("GET", r"/receivers/(?P<name>[\w-]+)\.json", listing),
    )


def _number(asked: Asked, name: str, default: int) -> int:
    """A number of the query."""
    text = asked.parameters.get(name, str(default))
    if not text.isdecimal() or len(text) >= LONGEST_NUMBER:
        raise RefusalError(400, f"{name} must be a number")
    return int(text)
