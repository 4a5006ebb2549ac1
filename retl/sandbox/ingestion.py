"""Segment's rules for calls that arrive, by which it drops some of them and answers 200 all the same.

The rules come from Segment's public pages "HTTP API Source", "Spec: Common Fields", "Delivery Overview" (its
table of discards), "Handling Duplicate Data" and "Unify Product Limits". Where they are silent, the choice
is marked as ours.
"""

import uuid
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
    type_ = call.get("type")
    if type_ is None:
        return "missing_type"
    if type_ not in TYPES:
        return "invalid_type"
    return _code_of_ids(call) or _code_of_fields(call, type_) or _code_of_group(call, type_)


def _code_of_ids(call: dict[str, Any]) -> str | None:
    user_id, anonymous_id = call.get("userId"), call.get("anonymousId")
    if user_id is None and anonymous_id is None:
        return "id_required"
    if not (_is_text(user_id) and _is_text(anonymous_id)):
        return "id_not_string"
    message_id = call.get("messageId")
    if message_id is None:
        return None
    if not isinstance(message_id, str):
        return "bad_request"
    return "message_id_too_long" if len(message_id) > MESSAGE_ID_LIMIT else None


def _code_of_fields(call: dict[str, Any], type_: str) -> str | None:
    if type_ == "track":
        event = call.get("event")
        if event is None or event == "":
            return "event_not_defined"
        if not isinstance(event, str):
            return "event_not_string"
    if not _is_object(call.get("properties")):
        return "properties_not_object"
    if not _is_object(call.get("traits")):
        return "traits_not_object"
    if type_ in ("page", "screen"):
        if not _is_text(call.get("name")):
            return "name_not_string"
        if not _is_text(call.get("category")):
            return "category_not_string"
    return None


def _code_of_group(call: dict[str, Any], type_: str) -> str | None:
    context, group_id = call.get("context"), call.get("groupId")
    others = context.get("groupId") if isinstance(context, dict) else None
    if group_id is None and type_ == "group":
        return "group_id_not_string"
    if not (_is_text(group_id) and _is_text(others)):
        return "group_id_not_string"
    too_long = len(group_id or "") > GROUP_ID_LIMIT or len(others or "") > GROUP_ID_LIMIT
    return "group_id_too_long" if too_long else None


def _is_text(value: Any) -> bool:
    return value is None or (isinstance(value, str) and value != "")


def _is_object(value: Any) -> bool:
    return value is None or isinstance(value, dict)


def merged_call(call: Any, envelope: dict[str, Any]) -> Any:
    """Add what the batch says for all its calls; where both speak the call wins, which is our choice."""
    if isinstance(call, dict):
        for key in ("context", "integrations"):
            shared = envelope.get(key)
            if isinstance(shared, dict) and _is_object(own := call.get(key)):
                call = call | {key: shared | (own or {})}
    return call


class Stamps:
    """The fields that the server adds to the calls of one request (Spec: Common Fields, "Timestamps").

    Args:
        sent_at: as the request has it.
        arrival: when it arrived.
    """

    def __init__(self, sent_at: Any, arrival: datetime) -> None:
        self._arrival = arrival
        self._sent = _moment(sent_at) or arrival
        self._received_at = _iso(arrival)
        self._sent_at = {} if sent_at is None else {"sentAt": sent_at}
        self._timestamps: dict[str, str] = {}  # most calls of a request have one in common

    def on(self, call: dict[str, Any]) -> dict[str, Any]:
        """The call with these fields."""
        original = call.get("timestamp")
        stamped = {**call, **self._sent_at, "receivedAt": self._received_at}
        if original is not None:
            stamped["originalTimestamp"] = original
        if call.get("messageId") is None or call["messageId"] == "":
            stamped["messageId"] = str(uuid.uuid4())
        stamped["timestamp"] = self._timestamp(original) if "timestamp" in call else self._received_at
        return stamped

    def _timestamp(self, original: Any) -> str:
        """The moment of a call by the server's clock."""
        known = self._timestamps.get(original) if isinstance(original, str) else None
        if known is None:
            timestamp = self._arrival
            with suppress(OverflowError):
                timestamp = self._arrival - (self._sent - (_moment(original) or self._arrival))
            known = _iso(timestamp)
            if isinstance(original, str):
                self._timestamps[original] = known
        return known


def _moment(text: Any) -> datetime | None:
    with suppress(TypeError, ValueError):
        moment = datetime.fromisoformat(text)
        return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return None


def _iso(moment: datetime) -> str:
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
