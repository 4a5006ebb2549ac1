"""The calls of the sandbox as JSON."""

import json

from retl.sandbox.body import RefusalError
from retl.sandbox.local_segment import LocalSegment
from retl.sandbox.routes import Asked, PageAnswer, Route

LONGEST_NUMBER = 19
"""Digits from which on a number is not even read."""


def listing(segment: LocalSegment, asked: Asked) -> PageAnswer:
    """The summary, and the newest calls."""
    limit = asked.parameters.get("limit", "100")
    if not limit.isdecimal() or len(limit) >= LONGEST_NUMBER:
        raise RefusalError(400, "limit must be a number")
    return PageAnswer(json.dumps(segment.listing(int(limit))))


CALLS_ROUTES = (Route("GET", r"/|/calls\.json", listing),)
"""Routes that every sandbox has."""
