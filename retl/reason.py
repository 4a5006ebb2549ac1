"""Reason codes: why a row or a call cannot be sent."""

from enum import StrEnum
from typing import Self


class Reason(StrEnum):
    """A reason code of retl's own; it stands in the state, in run records and in `retl rejected`.

    Beside these, rules of receivers are codes, such as `insider_I6` (docs/receivers.md). The order is that of
    the table in docs/promises/silent-200.md.

    Attributes:
        meaning: the reason in a few words, as reports print it.
    """

    meaning: str

    def __new__(cls, code: str, meaning: str) -> Self:
        """A member whose value is the code."""
        member = str.__new__(cls, code)
        member._value_ = code
        member.meaning = meaning
        return member

    NULL_KEY = "null_key", "a column of the primary key is null"
    DUPLICATE_KEY = "duplicate_key", "several rows share the primary key"
    NO_ID = "no_id", "user id and anonymous id are both null"
    BLOCKED_ID = "blocked_id", "an id that comes from a bad cast and would merge profiles; see `allow_ids`"
    NO_GROUP_ID = "no_group_id", "the group id is null or empty"
    GROUP_ID_TOO_LONG = "group_id_too_long", "the group id is longer than 500 characters"
    NO_EVENT_NAME = "no_event_name", "the column of the event's name is null or empty"
    BAD_TIMESTAMP = (
        "bad_timestamp",
        "a date or timestamp cannot be read, or is outside the years 1 to 9999",
    )
    BAD_JSON = "bad_json", "a text that should hold JSON does not"
    BAD_NUMBER = "bad_number", "a text that should hold a number does not; see `as: number`"
    BAD_BOOLEAN = "bad_boolean", "a value that should be true or false is neither; see `as: boolean`"
    BAD_TEXT = "bad_text", "a text is not valid Unicode"
    TOO_LARGE = "too_large", "the call is larger than 32,768 bytes"
    MESSAGE_ID_TOO_LONG = "message_id_too_long", "the message id is longer than 100 characters"
    DUPLICATE_MESSAGE_ID = "duplicate_message_id", "the message id was used before, or by another row"
    REFUSED = "refused", "Segment does not take this call, and took others"
