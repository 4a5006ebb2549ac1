"""Segment's reasons to discard a call that it answered 200 to, in words."""

from types import MappingProxyType

REASONS = MappingProxyType(
    {
        "bad_request": "The call is not what Segment reads: it is no object, or its messageId is no text.",
        "empty_batch": "The batch held no call.",
        "event_not_defined": "A track call needs the name of an event; this one has none, or an empty one.",
        "event_not_string": "The name of the event must be text.",
        "category_not_string": "The category of a page or screen must be text.",
        "group_id_not_string": "A group call needs a groupId that is text and not empty.",
        "group_id_too_long": "The groupId has more than 500 characters.",
        "id_not_string": "userId and anonymousId must be text, and not empty.",
        "id_required": "The call has neither a userId nor an anonymousId, so that it belongs to nobody.",
        "invalid_type": "The type must be identify, track, page, screen, group or alias.",
        "message_id_too_long": "The messageId has more than 100 characters.",
        "missing_type": "The call does not say its type, such as identify or track.",
        "name_not_string": "The name of a page or screen must be text.",
        "over_batch_count": "Segment takes the first 2,500 calls of a batch, and discards the rest.",
        "project_not_found": "No source has this write key, or the request had none.",
        "properties_not_object": "properties must be a JSON object.",
        "traits_not_object": "traits must be a JSON object.",
    }
)
"""A sentence for each code. The codes are those of `retl.sandbox`."""


def reason_in_words(code: str | None) -> str:
    """The sentence for a code; the code itself where none is known."""
    return REASONS.get(code or "", f"Segment's reason is {code}.")
