"""The calls that a sandbox took, and its requests, as tables for its pages: the newest, within limits.

`call` and `request` can be asked by any SELECT.
"""

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, TypeVar

import duckdb

from retl.lazy import lazy_module
from retl.sandbox.body import json_bytes, told_run
from retl.sandbox.parts import COMPRESSED, Parts
from retl.sandbox.received import CallOutcome, ReceivedCall
from retl.sandbox.request import Request

if TYPE_CHECKING:
    import pyarrow as pa
else:
    pa = lazy_module("pyarrow")

KEPT_CALLS = 500_000
"""Calls that are kept where nothing else is said."""

KEPT_BYTES = 500_000_000
"""Most bytes of their text."""

KEPT_REQUESTS = 100_000
"""Requests that are kept, without their bodies."""

WAITING_CALLS = 5_000
"""Calls that may wait for their way into the table; a reader takes in those that wait before it reads."""

WAITING_BYTES = 5_000_000
"""Bytes of calls that may wait."""

MOST_WAITING = 2
"""Times as many calls, or bytes, may wait while others are on their way."""

CALL_COLUMNS = {
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
"""Columns of `call`, which has a row for each call.

`timestamp` is Segment's, `original_timestamp` the one that the call came with.
"""


REQUEST_COLUMNS = {
    "received_at": "TIMESTAMPTZ",
    "method": "VARCHAR",
    "path": "VARCHAR",
    "status": "BIGINT",
    "calls": "BIGINT",
    "bytes": "BIGINT",
    "sync": "VARCHAR",
    "run_id": "VARCHAR",
    "failure": "VARCHAR",
}
"""Columns of `request`, which has a row for each POST of calls and each question for a write key.

`status` is NULL where the connection was closed without an answer. `failure` is what the sandbox did wrong on
purpose, by its word as in `--failures`, or NULL.
"""


T = TypeVar("T")

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


class Store:
    """Keeps calls and requests in DuckDB, in memory; several threads may add and read.

    Args:
        keep: how many calls there may be.
        most_bytes: how large they may be together, as text.
    """

    def __init__(self, keep: int = KEPT_CALLS, most_bytes: int = KEPT_BYTES) -> None:
        self._waiting: list[ReceivedCall] = []
        self._waiting_bytes = 0
        self._waiting_requests: list[dict[str, Any]] = []
        self._last = 0
        self._came = threading.Condition()
        self._writing = threading.RLock()
        self._db = duckdb.connect(":memory:")
        self._db.execute("SET GLOBAL TimeZone = 'UTC'")
        self._db.execute("SET GLOBAL temp_directory = ''")  # calls hold personal data, and stay in memory
        self._db.execute(f"ATTACH ':memory:' AS {COMPRESSED} (COMPRESS)")
        self._calls = Parts(self._db, "call", CALL_COLUMNS, keep, most_bytes)
        self._requests = Parts(self._db, "request", REQUEST_COLUMNS, KEPT_REQUESTS, most_bytes)

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

    def note(self, request: Request) -> None:
        """Add a request, without its body; it waits in the same way."""
        with self._came:
            self._waiting_requests.append(_request_row(request))

    def settle(self) -> None:
        """Take in the calls and requests that wait, where they are many.

        While another thread does so, this one goes on, up to twice as many.
        """
        waiting = len(self._waiting) + len(self._waiting_requests)
        much = max(waiting / WAITING_CALLS, self._waiting_bytes / WAITING_BYTES)
        if much >= 1 and self._writing.acquire(blocking=much >= MOST_WAITING):
            try:
                self._take_in()
            finally:
                self._writing.release()

    def read(self, query: str, parameters: Sequence[Any] = ()) -> list[dict[str, Any]]:
        """The rows of a SELECT, with all that was added before; its values are bound to `?`."""
        self._take_in()

        def found(cursor: duckdb.DuckDBPyConnection) -> list[dict[str, Any]]:
            rows: list[dict[str, Any]] = (
                cursor.sql(query, params=list(parameters)).to_arrow_table().to_pylist()
            )
            return rows

        with self._db.cursor() as cursor:
            return _again(lambda: found(cursor))

    def texts(self, query: str, parameters: Sequence[Any] = ()) -> Iterator[list[str]]:
        """The texts in the one column of a SELECT, some at a time, read as they are asked for; see `read`."""
        self._take_in()
        with self._db.cursor() as cursor:
            found = _again(lambda: cursor.execute(query, list(parameters)))
            while some := found.fetchmany(1_000):
                yield [text for (text,) in some]

    def holdings(self) -> dict[str, int]:
        """The calls that are `held`, those that are `gone` to make room, and the `last` seq that came."""
        with self._writing:
            self._take_in()
            return {"held": self._calls.rows, "gone": self._calls.gone, "last": self._last}

    def wait(self, after: int, seconds: float) -> bool:
        """Wait until there is a call after that seq, at most so long; whether there is one."""
        with self._came:
            return self._came.wait_for(lambda: self._last > after, seconds)

    def clear(self) -> None:
        """Forget the calls and requests so far; none of them counts as gone to make room."""
        with self._writing:
            with self._came:
                self._waiting, self._waiting_bytes, self._waiting_requests = [], 0, []
            self._calls.clear()
            self._requests.clear()

    def _take_in(self) -> None:
        """Put what waits into the tables."""
        with self._writing:
            with self._came:
                calls, requests = self._waiting, self._waiting_requests
                self._waiting, self._waiting_bytes, self._waiting_requests = [], 0, []
            if calls:
                rows = _call_rows(calls)
                as_moment = '* REPLACE (TRY_CAST("timestamp" AS TIMESTAMPTZ) AS "timestamp")'
                self._calls.insert(rows, rows.column("body").nbytes, as_moment)
            if requests:
                self._requests.insert(_request_rows(requests), 0)


def _again(read: Callable[[], T]) -> T:
    """Read once more where a part was dropped between a look at the view and one at its tables."""
    with suppress(duckdb.CatalogException):
        return read()
    return read()


def _call_rows(calls: Sequence[ReceivedCall]) -> "pa.Table":
    """Calls as rows of `call`, with `timestamp` as a text."""
    seqs, moments, outcomes, reasons, bodies, syncs, run_ids = zip(*calls, strict=True)
    fields = [body if isinstance(body, dict) else {} for body in bodies]
    passed_on = [outcome is not CallOutcome.DISCARDED for outcome in outcomes]
    text = pa.string()

    def field(name: str) -> "pa.Array":
        return _texts([call.get(name) for call in fields])

    originals = [
        call.get("originalTimestamp" if passed else "timestamp")
        for call, passed in zip(fields, passed_on, strict=True)
    ]
    timestamps = [
        call["timestamp"] if passed else None for call, passed in zip(fields, passed_on, strict=True)
    ]
    columns: Mapping[str, Any] = {
        "seq": pa.array(seqs, pa.int64()),
        "received_at": pa.array(_microseconds(moments), pa.int64()).cast(pa.timestamp("us", "UTC")),
        "outcome": pa.array(outcomes, text),
        "reason": pa.array(reasons, text),
        "type": field("type"),
        "event": field("event"),
        "user_id": field("userId"),
        "anonymous_id": field("anonymousId"),
        "group_id": field("groupId"),
        "message_id": field("messageId"),
        "sync": _texts(syncs),
        "run_id": _texts(run_ids),
        "original_timestamp": _texts(originals),
        "timestamp": pa.array(timestamps, text),
        "sent_at": field("sentAt"),
        "body": _json([json_bytes(body) for body in bodies]),
    }
    return pa.table(columns)


def _json(texts: list[bytes]) -> "pa.Array":
    """Texts that DuckDB takes for JSON without another look."""
    return pa.ExtensionArray.from_storage(pa.json_(), pa.array(texts, pa.string()))


def _microseconds(moments: Sequence[datetime]) -> list[int]:
    """Moments since 1970; most of them are one object with the moment before."""
    found: list[int] = []
    last, value = None, 0
    for moment in moments:
        if moment is not last:
            last, value = moment, (moment - _EPOCH) // _MICROSECOND
        found.append(value)
    return found


def _request_row(request: Request) -> dict[str, Any]:
    """A request as a row of `request`."""
    sync, run_id = told_run(request.headers)
    return {
        "received_at": request.received_at,
        "method": request.method,
        "path": request.path,
        "status": request.status,
        "calls": request.calls,
        "bytes": len(request.body),
        "sync": sync,
        "run_id": run_id,
        "failure": request.failure,
    }


def _request_rows(rows: Sequence[Mapping[str, Any]]) -> "pa.Table":
    """Rows of `request` for Arrow."""

    def column(name: str, type_: str) -> "pa.Array":
        values = [row[name] for row in rows]
        if type_ == "VARCHAR":
            return _texts(values)
        return pa.array(values, pa.int64() if type_ == "BIGINT" else pa.timestamp("us", "UTC"))

    return pa.table({name: column(name, type_) for name, type_ in REQUEST_COLUMNS.items()})


def _texts(values: Sequence[Any]) -> "pa.Array":
    """Values as texts: those that are none as their JSON, half a surrogate pair as a question mark."""
    try:
        return pa.array(values, pa.string())
    except (pa.ArrowException, TypeError, UnicodeEncodeError):
        whole = [
            value.encode("utf-8", "replace")
            if isinstance(value, str)
            else None
            if value is None
            else json_bytes(value)
            for value in values
        ]
        return pa.array(whole, pa.string())
