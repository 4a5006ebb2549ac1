"""The calls that a sandbox took, as tables for its pages: the newest ones, within limits.

`call` and `request` can be asked by any SELECT. They are views over a few tables each, of which the oldest is
dropped as a whole to make room: rows that are deleted one by one would leave their memory taken.
"""

import threading
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from retl.lazy import lazy_module
from retl.sandbox.body import json_text
from retl.sandbox.received import CallOutcome, ReceivedCall

if TYPE_CHECKING:
    import duckdb
    import pyarrow as pa
else:
    duckdb = lazy_module("duckdb")
    pa = lazy_module("pyarrow")

KEPT_CALLS = 500_000
"""Calls that are kept where nothing else is said."""

KEPT_BYTES = 500_000_000
"""Most bytes of their text."""

PARTS = 10
"""Tables that a view is over: so much of what is kept goes at a time."""

WAITING_CALLS = 5_000
"""Calls that may wait for their way into the table; a reader takes in those that wait before it reads."""

WAITING_BYTES = 5_000_000
"""Bytes of calls that may wait."""

COLUMNS = {
    "seq": "BIGINT",
    "received_at": "TIMESTAMPTZ",
    "outcome": "VARCHAR",
    "reason": "VARCHAR",
    "type": "VARCHAR",
    "event": "VARCHAR",
    "user_id": "VARCHAR",
    "anonymous_id": "VARCHAR",
    "group_id": "VARCHAR",
    "message_id": "VARCHAR",
    "sync": "VARCHAR",
    "run_id": "VARCHAR",
    "original_timestamp": "VARCHAR",
    "timestamp": "TIMESTAMPTZ",
    "sent_at": "VARCHAR",
    "body": "JSON",
}
"""Columns of `call`. `timestamp` is Segment's, `original_timestamp` the one that the call came with."""


class Store:
    """Keeps calls in DuckDB, in memory; several threads may add and read.

    Args:
        keep: how many calls there may be.
        most_bytes: how large they may be together, as text.
    """

    def __init__(self, keep: int = KEPT_CALLS, most_bytes: int = KEPT_BYTES) -> None:
        self._keep = keep
        self._most_bytes = most_bytes
        self._waiting: list[ReceivedCall] = []
        self._waiting_bytes = 0
        self._parts: deque[tuple[int, int, int]] = deque()  # number of the table, its calls, their bytes
        self._made = 0
        self._last = 0
        self._gone = 0
        self._came = threading.Condition()
        self._writing = threading.RLock()
        self._db = duckdb.connect(":memory:")
        self._db.execute("SET GLOBAL TimeZone = 'UTC'")
        self._add_part()

    def close(self) -> None:
        """Forget everything."""
        with self._writing:
            self._db.close()

    def add(self, calls: Sequence[ReceivedCall], size: int) -> None:
        """Add calls of so many bytes, in the order of their `seq`; they wait for a reader or `settle`."""
        with self._came:
            self._waiting.extend(calls)
            self._waiting_bytes += size
            self._last = calls[-1].seq if calls else self._last
            self._came.notify_all()

    def settle(self) -> None:
        """Take in the calls that wait, where they are many."""
        if len(self._waiting) >= WAITING_CALLS or self._waiting_bytes >= WAITING_BYTES:
            self._take_in()

    def read(self, query: str, parameters: Sequence[Any] = ()) -> list[dict[str, Any]]:
        """The rows of a SELECT, with all calls that were added before; its values are bound to `?`."""
        self._take_in()
        with self._db.cursor() as cursor:
            rows: list[dict[str, Any]] = (
                cursor.sql(query, params=list(parameters)).to_arrow_table().to_pylist()
            )
            return rows

    def lines(self, query: str, parameters: Sequence[Any] = ()) -> Iterator[str]:
        """The texts in the only column of a SELECT, read as they are asked for; see `read`."""
        self._take_in()
        with self._db.cursor() as cursor:
            found = cursor.execute(query, list(parameters))
            while some := found.fetchmany(1_000):
                yield from (text for (text,) in some)

    def holdings(self) -> dict[str, int]:
        """The calls that are `held`, those that are `gone` to make room, and the `last` seq that came."""
        with self._writing, self._came:
            held = sum(calls for _, calls, _ in self._parts) + len(self._waiting)
            return {"held": held, "gone": self._gone, "last": self._last}

    def wait(self, after: int, seconds: float) -> bool:
        """Wait until there is a call after that seq, at most so long; whether there is one."""
        with self._came:
            return self._came.wait_for(lambda: self._last > after, seconds)

    def clear(self) -> None:
        """Forget the calls so far; none of them counts as gone to make room."""
        with self._writing:
            with self._came:
                self._waiting, self._waiting_bytes = [], 0
                self._gone = 0
            while self._parts:
                self._drop_part()
            self._add_part()

    def _take_in(self) -> None:
        """Put the calls that wait into the newest tables."""
        with self._writing:
            with self._came:
                calls, self._waiting, self._waiting_bytes = self._waiting, [], 0
            self._gone += max(0, len(calls) - self._keep)
            calls = calls[-self._keep :]
            size = max(1, self._keep // PARTS)
            for start in range(0, len(calls), size):
                self._insert(calls[start : start + size])

    def _insert(self, calls: Sequence[ReceivedCall]) -> None:
        number, held, held_bytes = self._parts.pop()
        arrived, bytes_ = _arrow(calls)
        with self._db.cursor() as cursor:
            cursor.register("arrived", arrived)
            cursor.execute(
                f"""
                INSERT INTO call_{number}
                SELECT * REPLACE (TRY_CAST("timestamp" AS TIMESTAMPTZ) AS "timestamp") FROM arrived
                """
            )
        held, held_bytes = held + len(calls), held_bytes + bytes_
        self._parts.append((number, held, held_bytes))
        if held >= self._keep // PARTS or held_bytes >= self._most_bytes // PARTS:
            self._add_part()

    def _add_part(self) -> None:
        """Begin another table, and drop the oldest ones where there is no room for its calls."""
        share = self._keep // PARTS, self._most_bytes // PARTS
        self._made += 1
        self._parts.append((self._made, 0, 0))
        columns = ", ".join(f'"{name}" {type_}' for name, type_ in COLUMNS.items())
        self._db.execute(f"CREATE TABLE call_{self._made} ({columns})")
        self._show()
        while len(self._parts) > 1 and (
            sum(calls for _, calls, _ in self._parts) > self._keep - share[0]
            or sum(bytes_ for _, _, bytes_ in self._parts) > self._most_bytes - share[1]
        ):
            self._gone += self._parts[0][1]
            self._drop_part()
            self._show()

    def _drop_part(self) -> None:
        number, _, _ = self._parts.popleft()
        self._db.execute(f"DROP TABLE call_{number}")

    def _show(self) -> None:
        tables = " UNION ALL ".join(f"FROM call_{number}" for number, _, _ in self._parts)
        self._db.execute(f"CREATE OR REPLACE VIEW call AS {tables}")


def _arrow(calls: Sequence[ReceivedCall]) -> "tuple[pa.Table, int]":
    """Calls as an Arrow table, and the bytes of their text."""
    texts = [json_text(one.call) for one in calls]
    fields = [one.call if isinstance(one.call, dict) else {} for one in calls]
    was_kept = [one.outcome is not CallOutcome.DISCARDED for one in calls]

    def field(name: str) -> "pa.Array":
        return _strings([_text(call.get(name)) for call in fields])

    stamps = zip(fields, was_kept, strict=True)
    columns: Mapping[str, Any] = {
        "seq": pa.array([one.seq for one in calls], pa.int64()),
        "received_at": pa.array([one.received_at for one in calls], pa.timestamp("us", "UTC")),
        "outcome": pa.array([one.outcome.value for one in calls], pa.string()),
        "reason": pa.array([one.reason for one in calls], pa.string()),
        "type": field("type"),
        "event": field("event"),
        "user_id": field("userId"),
        "anonymous_id": field("anonymousId"),
        "group_id": field("groupId"),
        "message_id": field("messageId"),
        "sync": _strings([one.sync for one in calls]),
        "run_id": _strings([one.run_id for one in calls]),
        "original_timestamp": _strings(
            [_text(call.get("originalTimestamp" if kept else "timestamp")) for call, kept in stamps]
        ),
        "timestamp": pa.array(
            [call["timestamp"] if kept else None for call, kept in zip(fields, was_kept, strict=True)],
            pa.string(),
        ),
        "sent_at": field("sentAt"),
        "body": pa.array(texts, pa.string()),
    }
    return pa.table(columns), sum(map(len, texts))


def _text(value: Any) -> str | None:
    return value if value is None or isinstance(value, str) else json_text(value)


def _strings(texts: list[str | None]) -> "pa.Array":
    """Texts for Arrow, which takes no half of a surrogate pair."""
    try:
        return pa.array(texts, pa.string())
    except UnicodeEncodeError:
        whole = [None if text is None else text.encode("utf-8", "replace").decode() for text in texts]
        return pa.array(whole, pa.string())
