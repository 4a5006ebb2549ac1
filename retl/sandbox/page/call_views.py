"""The views of calls: the list with its filters, the call that is open, and what is new."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from retl.sandbox.local_segment import LocalSegment
from retl.sandbox.page import calls, words
from retl.sandbox.page.chart import chart
from retl.sandbox.page.difference import difference, read_call
from retl.sandbox.page.filter import Filter, place_of
from retl.sandbox.page.frame import Frame, query_of
from retl.sandbox.page.throughput import throughput
from retl.sandbox.routes import Asked, PageAnswer
from retl.sandbox.standing import PORT_VARIABLE, USUAL_PORT
from retl.sandbox.store import Store


@dataclass(frozen=True)
class Command:
    """A command that a newcomer may type next."""

    text: str
    does: str


def calls_view(frame: Frame, sandbox: LocalSegment, asked: Asked) -> PageAnswer:
    """The list of calls, with filters, and the call that is open."""
    query = query_of(asked)
    filter_, seq = Filter.of(query), place_of(query, "call")
    # How the store stands comes first: calls that arrive meanwhile are announced, and none is passed over.
    standing = calls.standing(sandbox.store, filter_)
    found = calls.newest_calls(sandbox.store, filter_, calls.PAGE + 1)
    listed = found[: calls.PAGE]
    flow = throughput(sandbox.store, filter_)
    opened = None if seq is None else calls.one_call(sandbox.store, seq)
    return frame.around(
        sandbox,
        "calls.html",
        "calls",
        status=200 if opened or seq is None else 404,
        filter=filter_,
        standing=standing,
        facets=calls.facets(sandbox.store, filter_),
        flow=flow,
        chart=chart(flow),
        calls=listed,
        older=listed[-1].seq if len(found) > len(listed) else None,
        commands=_commands(sandbox.url),
        missing=seq if opened is None else None,
        **(_opened(frame, sandbox.store, opened) if opened else {"call": None}),
    )


def _opened(frame: Frame, store: Store, call: calls.StoredCall) -> dict[str, Any]:
    earlier = None if call.user is None else calls.call_before(store, call)
    is_duplicate = call.outcome == "duplicate"
    original = words.moment_of(call.original_timestamp)
    return {
        "call": call,
        "earlier": earlier,
        "changes": difference(read_call(earlier.body), read_call(call.body)) if earlier else None,
        "original": calls.first_arrival(store, call) if is_duplicate else None,
        "repeated": calls.repeats(store, call) if call.outcome == "accepted" else 0,
        "shift": words.lag(call.timestamp - original) if original and call.timestamp else "",
        "arrivals": frame.rehearsal.of_call(store, call.seq) if frame.rehearsal else [],
        "titles": frame.titles,
    }


def pulse_view(frame: Frame, sandbox: LocalSegment, asked: Asked) -> PageAnswer:
    """A small answer about what is new, for a page that is open: JSON."""
    query = query_of(asked)
    now = calls.standing(sandbox.store, Filter.of(query), place_of(query, "after") or 0)
    return PageAnswer(json.dumps({"newest": now.newest, "held": now.held, "new": now.matching}))


def _commands(url: str) -> Sequence[Command]:
    port = urlsplit(url).port
    found = "" if port == USUAL_PORT else f"{PORT_VARIABLE}={port} "
    call = '{"userId": "ada", "event": "Order Completed", "properties": {"total": 12.5}}'
    return (
        Command(
            f"{found}retl run --all --sandbox --open",
            "Rehearses the syncs of your project, with a state of their own. A first run of a track or "
            "audience sync remembers the rows and sends nothing; with --full it sends them as well.",
        ),
        Command(f"curl {url}/v1/track -u sandbox: --json '{call}'", "Sends one call by hand."),
        Command(
            f"segment: {{endpoint: {url}, write_key: sandbox, name: sandbox}}",
            "In a sync or in retl.yml: runs without --sandbox send here, too.",
        ),
    )
