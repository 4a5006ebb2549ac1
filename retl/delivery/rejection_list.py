"""A list of rejections: rows and calls that could not be sent, as they are shown."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any


@dataclass(frozen=True)
class RejectedRow:
    """The rows of one key that cannot be sent until they are fixed; all rows without a key are one entry.

    Attributes:
        key: their primary key as text; None where a column of it is null.
        reason: the reason code.
        rows: how many rows share the key.
        first_seen: when a run first rejected them, in UTC and without a time zone.
        last_seen: when a run last rejected them, likewise.
        times: how many runs rejected them, one after another.
        user_id: the user id, else the anonymous id; None where it has none, or several rows share the key.
        at_fault: the column whose value is the reason; None where no single one is.
        value: the beginning of that value; of rows without a key, of one of them, whole.
    """

    key: str | None
    reason: str
    rows: int
    first_seen: datetime
    last_seen: datetime
    times: int
    user_id: str | None = None
    at_fault: str | None = None
    value: str | None = None

    def as_json(self) -> dict[str, Any]:
        """The object that `retl rejected --json` prints in its `rows`, less what may be personal data."""
        return {
            "key": self.key,
            "reason": self.reason,
            "rows": self.rows,
            "first_seen": str(self.first_seen),
            "last_seen": str(self.last_seen),
            "times": self.times,
            "at_fault": self.at_fault,
        }


@dataclass(frozen=True)
class RejectedCall:
    """A call that was refused for good.

    Attributes:
        key: the primary key of its row, as text.
        change: the change of the row that made the call: "added", "changed", "removed" or "unchanged".
        reason: the reason code.
        message_id: Segment's `messageId`; None where the call has none.
        answer: the answer of Segment; None where retl's own check refused the call.
        rejected_at: when, in UTC and without a time zone.
        user_id: the call's user id, else its anonymous id.
        body: the call as JSON; None where it could not be made.
    """

    key: str
    change: str
    reason: str
    message_id: str | None
    answer: str | None
    rejected_at: datetime
    user_id: str | None = None
    body: str | None = None

    def as_json(self) -> dict[str, Any]:
        """The object that `retl rejected --json` prints in its `calls`."""
        return {
            "key": self.key,
            "change": self.change,
            "reason": self.reason,
            "message_id": self.message_id,
            "answer": self.answer,
            "rejected_at": str(self.rejected_at),
            "user_id": self.user_id,
        }


@dataclass(frozen=True)
class RejectedText:
    """The values of a rejected call, which are personal data.

    Attributes:
        user_id: the call's user id, else its anonymous id.
        body: the call as JSON.
    """

    user_id: str | None
    body: str | None


@dataclass(frozen=True)
class ReasonCount:
    """The rows and calls that are rejected for one reason.

    Attributes:
        reason: the reason code.
        rows: that cannot be sent until they are fixed.
        calls: that were refused for good.
        first_seen: when a run first met one of them, in UTC and without a time zone.
        last_seen: when a run last met one of them, likewise.
    """

    reason: str
    rows: int
    calls: int
    first_seen: datetime
    last_seen: datetime
