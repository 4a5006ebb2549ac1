"""The views of receivers: what of the accepted calls reaches each."""

from retl.sandbox.body import RefusalError
from retl.sandbox.local_segment import LocalSegment
from retl.sandbox.page.filter import place_of
from retl.sandbox.page.frame import Frame, query_of, text_of
from retl.sandbox.routes import Asked, PageAnswer

LISTED = 50
"""Calls of a list."""


def receiver_view(frame: Frame, sandbox: LocalSegment, asked: Asked) -> PageAnswer:
    """The newest calls at a receiver, and the requests of the one that is open."""
    name = asked.parts["name"]
    rehearsal = frame.rehearsal
    if rehearsal is None or name not in rehearsal.names:
        raise RefusalError(404, f"there is no receiver {name}")
    query = query_of(asked)
    user, seq = text_of(query, "user") or None, place_of(query, "call")
    listing = rehearsal.newest(sandbox.store, name, LISTED, user)
    found = () if seq is None else rehearsal.of_call(sandbox.store, seq)
    opened = next((one for one in found if one.outcome.receiver == name), None)
    return frame.around(
        sandbox,
        "receiver.html",
        name,
        status=200 if opened or seq is None else 404,
        receiver=name,
        listing=listing,
        user=user,
        opened=opened,
        newest=listing.after,
    )
