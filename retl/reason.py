"""Reason codes: why a row or a call cannot be sent."""

from enum import StrEnum
from typing import Self


class Reason(StrEnum):
    """A reason code of retl's own; it stands in the state, in run records and in `retl rejected`.

    Beside these, rules of receivers are codes, such as `insider_I6` (docs/receivers.md). The order is that of
    the table in docs/promises/silent-200.md: of several reasons against a row, the first one is told.

    Attributes:
        meaning: the reason in a few words, as reports print it.
        next_step: how such rows or calls can be sent after all.
    """

    meaning: str
    next_step: str

    def __new__(cls, code: str, meaning: str, next_step: str) -> Self:
        """A member whose value is the code."""
        member = str.__new__(cls, code)
        member._value_ = code
        member.meaning = meaning
        member.next_step = next_step
        return member

    NULL_KEY = (
        "null_key",
        "a column of the primary key is null",
        "leave such rows out in the model, or take another `primary_key`",
    )
    DUPLICATE_KEY = (
        "duplicate_key",
        "several rows share the primary key",
        "let the model give one row for each key, or add a column to `primary_key`",
    )
    NO_ID = (
        "no_id",
        "user id and anonymous id are both null",
        "leave such rows out in the model, or map an `anonymous_id`, too",
    )
    NO_GROUP_ID = (
        "no_group_id",
        "the group id is null or empty",
        "leave such rows out in the model, or give them a group id",
    )
    GROUP_ID_TOO_LONG = (
        "group_id_too_long",
        "the group id is longer than 500 characters",
        "take a shorter id",
    )
    BLOCKED_ID = (
        "blocked_id",
        "an id that comes from a bad cast and would merge profiles; see `allow_ids`",
        "correct the cast in the model; if it is somebody's id, list it in `allow_ids`",
    )
    NO_EVENT_NAME = (
        "no_event_name",
        "the column of the event's name is null or empty",
        "fill the column, or leave such rows out in the model",
    )
    BAD_TIMESTAMP = (
        "bad_timestamp",
        "a date or timestamp cannot be read, or is outside the years 1 to 9999",
        "cast it in the model; for numbers write `{column: …, as: timestamp, unit: s}`",
    )
    BAD_JSON = (
        "bad_json",
        "a text that should hold JSON does not",
        "correct the text, or leave `as: json` out, so that it is sent as text",
    )
    BAD_NUMBER = (
        "bad_number",
        "a text that should hold a number does not; see `as: number`",
        "correct the text, or leave `as: number` out, so that it is sent as text",
    )
    BAD_BOOLEAN = (
        "bad_boolean",
        "a value that should be true or false is neither; see `as: boolean`",
        "correct the value, or leave `as: boolean` out",
    )
    BAD_TEXT = (
        "bad_text",
        "a text is not valid Unicode",
        "correct the text in the warehouse, or decode it in the model",
    )
    MESSAGE_ID_TOO_LONG = (
        "message_id_too_long",
        "the message id is longer than 100 characters",
        "take a shorter id, or leave `message_id` out: retl makes ids",
    )
    TOO_LARGE = (
        "too_large",
        "the call is larger than 32,768 bytes",
        "shorten the largest columns in the model, or map fewer",
    )
    DUPLICATE_MESSAGE_ID = (
        "duplicate_message_id",
        "the message id was used before, or by another row",
        "give each change an id of its own, or leave `message_id` out: retl makes ids",
    )
    REFUSED = (
        "refused",
        "Segment does not take this call, and took others",
        "mend what the answer says, then send it again with `retl retry`, or forget it with `retl discard`",
    )
