"""Segment's rules for calls that arrive, by which it drops some of them and answers 200 all the same.

The rules come from Segment's public pages "HTTP API Source", "Spec: Common Fields", "Delivery Overview" (its
table of discards), "Handling Duplicate Data" and "Unify Product Limits". Where they are silent, the choice
is marked as ours.
"""

import uuid
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any

TYPES = ("identify", "track", "page", "screen", "group", "alias")
ROUTES = ("/v1/batch", *(f"/v1/{type_}" for type_ in TYPES))

BODY_LIMIT = 500_000  # bytes; Segment says "500 KB", that it means these, unpacked, is our choice
CALL_LIMIT = 32_768  # bytes of compact UTF-8 JSON; Segment says "32 KB", that a 400 follows is our choice
BATCH_LIMIT = 2_500  # calls; the rest is discarded under a 200 (HTTP API Source, "Errors")
MESSAGE_ID_LIMIT = 100  # characters (Spec: Common Fields)
GROUP_ID_LIMIT = 500  # characters (Unify Product Limits)
DUPLICATE_WINDOW = timedelta(hours=24)  # the least that Segment promises (Handling Duplicate Data)


def discard_code(call: Any) -> str | None:
    """Say why Segment throws a call away although it answers 200; None where it does not.

    The codes are Segment's (Delivery Overview), except three of our own: `message_id_too_long` (Spec: Common
    Fields), `group_id_not_string` for one that is missing from a group call, empty or no string, and
    `group_id_too_long` (Unify Product Limits). That null counts as missing is our choice.
    """
    if not isinstance(call, dict):
        return "bad_request"
    return next((code for code, is_so in _DISCARDS if is_so(call)), None)


def _is_text(value: Any) -> bool:
    return value is None or (isinstance(value, str) and value != "")


def _is_object(value: Any) -> bool:
    return value is None or isinstance(value, dict)


def _group_ids(call: dict[str, Any]) -> list[Any]:
    context = call.get("context")
    return [call.get("groupId"), context.get("groupId") if isinstance(context, dict) else None]


def _is_page(call: dict[str, Any]) -> bool:
    return call["type"] in ("page", "screen")


# In this order; a rule may rely on those before it.
_DISCARDS: tuple[tuple[str, Callable[[dict[str, Any]], bool]], ...] = (
    ("missing_type", lambda call: call.get("type") is None),
    ("invalid_type", lambda call: call["type"] not in TYPES),
    ("id_required", lambda call: call.get("userId") is None and call.get("anonymousId") is None),
    ("id_not_string", lambda call: not (_is_text(call.get("userId")) and _is_text(call.get("anonymousId")))),
    ("bad_request", lambda call: not isinstance(call.get("messageId"), str | None)),
    ("message_id_too_long", lambda call: len(call.get("messageId") or "") > MESSAGE_ID_LIMIT),
    ("event_not_defined", lambda call: call["type"] == "track" and call.get("event") in (None, "")),
    ("event_not_string", lambda call: call["type"] == "track" and not isinstance(call["event"], str)),
    ("properties_not_object", lambda call: not _is_object(call.get("properties"))),
    ("traits_not_object", lambda call: not _is_object(call.get("traits"))),
    ("name_not_string", lambda call: _is_page(call) and not _is_text(call.get("name"))),
    ("category_not_string", lambda call: _is_page(call) and not _is_text(call.get("category"))),
    ("group_id_not_string", lambda call: call["type"] == "group" and call.get("groupId") is None),
    ("group_id_not_string", lambda call: not all(map(_is_text, _group_ids(call)))),
    ("group_id_too_long", lambda call: any(len(id_ or "") > GROUP_ID_LIMIT for id_ in _group_ids(call))),
)


def merged_call(call: Any, envelope: dict[str, Any]) -> Any:
    """Add what the batch says for all its calls; where both speak the call wins, which is our choice."""
    if isinstance(call, dict):
        for key in ("context", "integrations"):
            shared, own = envelope.get(key), call.get(key)
            if isinstance(shared, dict) and _is_object(own):
                call = call | {key: shared | (own or {})}
    return call


def stamped(call: dict[str, Any], sent_at: Any, arrival: datetime) -> dict[str, Any]:
    """Add the fields that the server adds (Spec: Common Fields, "Timestamps")."""
    original = _moment(call.get("timestamp")) or arrival
    sent = _moment(sent_at) or arrival
    timestamp = arrival
    if "timestamp" in call:
        with suppress(OverflowError):
            timestamp = arrival - (sent - original)
    sent_fields = {"originalTimestamp": call.get("timestamp"), "sentAt": sent_at}
    return {
        **call,
        **{name: value for name, value in sent_fields.items() if value is not None},
        "messageId": call.get("messageId") or str(uuid.uuid4()),
        "receivedAt": _iso(arrival),
        "timestamp": _iso(timestamp),
    }


def _moment(text: Any) -> datetime | None:
    with suppress(TypeError, ValueError):
        moment = datetime.fromisoformat(text)
        return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return None


def _iso(moment: datetime) -> str:
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
