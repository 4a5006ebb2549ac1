"""The sandbox: a local Segment, on 127.0.0.1 only.

A real HTTP server that behaves by the documented rules of Segment's Tracking API. It answers 200 to calls
that it then throws away and, unlike Segment, tells which and why. It fails when it is told to.
"""

import json
import re
import socket
import sys
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from random import Random
from socketserver import TCPServer, ThreadingMixIn
from typing import Any
from urllib.parse import SplitResult, parse_qs, unquote, urlsplit

from retl.errors import ConfigError
from retl.sandbox.body import (
    RefusalError,
    call_size,
    failure,
    is_loopback,
    is_own_origin,
    read_calls,
    read_envelope,
    read_write_key,
    strict_json,
    unpacked,
)
from retl.sandbox.failures import Failures, Reply
from retl.sandbox.ingestion import (
    BATCH_LIMIT,
    BODY_LIMIT,
    CALL_LIMIT,
    DUPLICATE_WINDOW,
    ROUTES,
    discard_code,
    merged_call,
    stamped,
)
from retl.sandbox.kept import Kept
from retl.sandbox.throttle import Throttle

HOST = "127.0.0.1"

READ_LIMIT = 4 * BODY_LIMIT
"""Bytes of a body as it is sent; a larger one is not read. Our choice, as Segment says none."""

LONGEST_NUMBER = 19
"""Digits from which on a number is not even read."""

READ_BYTES = 65_536
"""Bytes that are read at a time of a body that nobody wants."""

IDLE_SECONDS = 300.0
"""After so long without a byte a connection is closed."""

MOST_CONNECTIONS = 250
"""Connections at a time, each of which takes a thread; beyond, one is closed before it is read."""


@dataclass(frozen=True)
class Request:
    """A request that arrived, and what it got.

    Attributes:
        path: without the query.
        headers: by name in lower case.
        body: its bytes, unpacked where that was possible.
        calls: how many calls it held; 0 where it could not be read.
        status: as answered; None where there was no answer.
    """

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes
    calls: int
    status: int | None

    @property
    def parsed(self) -> Any:
        """The body as JSON; a ValueError where it is none."""
        return strict_json(self.body)


class Sandbox:
    """A local Segment, for as long as it is entered; `url` is its address.

    Args:
        port: where to listen on 127.0.0.1; 0 takes any free port.
        failures: what goes wrong by chance.
        now: the clock that stamps arrivals; must tell its zone.
        unknown_keys: write keys that Segment does not know. The settings question answers 404 for them;
            calls sent with one of them, or with none, are discarded under a 200.
        keep: how many calls of each kind are held in memory, the newest, and no more than `KEPT_BYTES` of
            each; counts go on beyond. Duplicates are known among the newest calls, ten times as many.
        reject_if: any request that holds such a call is answered 400.
        reply_if: gives a call the reply that any request which holds it gets; None is the plain one.
        seed: of the chances of `failures`.
    """

    def __init__(
        self,
        port: int = 0,
        *,
        failures: Failures | None = None,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        unknown_keys: Iterable[str] = (),
        keep: int = 100_000,
        reject_if: Callable[[dict[str, Any]], bool] | None = None,
        reply_if: Callable[[dict[str, Any]], Reply | None] | None = None,
        seed: int = 0,
    ) -> None:
        self.url = ""
        self.failures = failures or Failures()
        self.unknown_keys = frozenset(unknown_keys)
        self.reject_if = reject_if
        self.reply_if = reply_if
        self.closing = threading.Event()
        self._port = port
        self._now = now
        self._keep = keep
        self._random = Random(seed)
        self._throttle = Throttle(self.failures.calls_per_second)
        self._lock = threading.Lock()
        self._script: deque[Reply] = deque()
        self._first_arrivals: dict[str, datetime] = {}
        self._requests: Kept[Request] = Kept(keep)
        self._accepted: Kept[dict[str, Any]] = Kept(keep)
        self._discarded: Kept[tuple[str, Any]] = Kept(keep)
        self._duplicates: deque[str] = deque(maxlen=keep)
        self._counts = Counter(requests=0, accepted=0, duplicates=0)
        self._discard_counts: Counter[str] = Counter()

    def __enter__(self) -> "Sandbox":
        """Start to listen.

        Raises:
            ConfigError: the port is taken, or not to be had.
        """
        try:
            self._server = _Server((HOST, self._port), _Handler)
        except (OSError, OverflowError) as error:
            message = f"the sandbox cannot listen on {HOST}:{self._port}: {error}"
            raise ConfigError(message, hint="choose another port; 0 takes any free one") from error
        self._server.sandbox = self
        self.url = f"http://{HOST}:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop at once, whatever is under way."""
        self.closing.set()
        # A last connection wakes the loop that waits for one; polling would be slower to close and busier.
        socket.create_connection((HOST, self._server.server_address[1])).close()
        self._thread.join()
        self._server.end_connections()
        self._server.server_close()

    def _serve(self) -> None:
        while not self.closing.is_set():
            self._server.handle_request()

    def script(self, answers: Iterable[Reply]) -> None:
        """Line up answers, one for each POST to come; chance waits until they are used up."""
        with self._lock:
            self._script.extend(answers)

    @property
    def accepted(self) -> list[dict[str, Any]]:
        """The calls that Segment would pass on, as it would, in order of arrival."""
        with self._lock:
            return self._accepted.all()

    @property
    def discarded(self) -> list[tuple[str, Any]]:
        """The calls thrown away under a 200, each after its discard code, in order of arrival."""
        with self._lock:
            return self._discarded.all()

    @property
    def duplicates(self) -> list[str]:
        """The message ids that came again, in order of arrival."""
        with self._lock:
            return list(self._duplicates)

    @property
    def requests(self) -> list[Request]:
        """The newest requests, as many as hold `keep` calls together; those for the listing are left out."""
        with self._lock:
            return self._requests.all()

    def summary(self) -> dict[str, Any]:
        """Count so far: `requests`, `accepted`, `duplicates`, and `discarded` by code."""
        with self._lock:
            return {**self._counts, "discarded": dict(self._discard_counts)}

    def listing(self, limit: int) -> dict[str, Any]:
        """Give the summary and at most `limit` calls of each kind: the newest, newest last."""
        newest = slice(-limit, None) if limit else slice(0)
        return {
            "summary": self.summary(),
            "accepted": self.accepted[newest],
            "discarded": [{"code": code, "call": call} for code, call in self.discarded[newest]],
            "duplicates": self.duplicates[newest],
        }

    def next_reply(self) -> Reply:
        """Take what the script, or else chance, has for the next POST."""
        with self._lock:
            return self._script.popleft() if self._script else self.failures.draw(self._random)

    def receive(self, path: str, headers: Mapping[str, str], body: bytes, reply: Reply) -> Reply:
        """Check a POST, take its calls where `reply` lets it, and note it; returns the reply to send."""
        calls: list[Any] = []
        try:
            body = unpacked(body, headers)
            envelope = read_envelope(path, headers, body)
            calls = read_calls(path, envelope)
            self._check(calls)
        except RefusalError as refusal:
            if reply.takes_calls:
                reply = replace(reply, status=refusal.status, body=failure(str(refusal)))
        if reply.takes_calls and (seconds := self._seconds_to_wait(len(calls))):
            reply = Reply(HTTPStatus.TOO_MANY_REQUESTS, retry_after=seconds)
        if reply.takes_calls and self.reply_if:
            reply = next(filter(None, map(self.reply_if, calls)), reply)
        if reply.takes_calls and not (reply.lost and self.reply_if):
            self._take(calls, envelope, read_write_key(headers, envelope), len(body))
        self.note(Request("POST", path, headers, body, len(calls), reply.seen_status))
        return reply

    def _seconds_to_wait(self, calls: int) -> int:
        if not self.failures.calls_per_second:
            return 0
        with self._lock:
            return self._throttle.seconds_to_wait(calls, self._now())

    def note(self, request: Request) -> None:
        """Remember a request."""
        with self._lock:
            self._counts["requests"] += 1
            size = len(request.body) + sum(len(one) for header in request.headers.items() for one in header)
            self._requests.append(request, size, max(request.calls, 1))

    def _check(self, calls: list[Any]) -> None:
        for call in calls:
            if call_size(call) > CALL_LIMIT:
                raise RefusalError(400, f"a call exceeds {CALL_LIMIT} bytes")
            if self.reject_if and isinstance(call, dict) and self.reject_if(call):
                raise RefusalError(400, "a call is rejected")

    def _take(self, calls: list[Any], envelope: dict[str, Any], write_key: str | None, size: int) -> None:
        """Take the calls of a request of so many bytes."""
        shared = size // max(len(calls), 1)
        with self._lock:
            arrival = self._now().astimezone(UTC)
            if not calls:
                self._discard("empty_batch", envelope, size)
            for position, call in enumerate(calls):
                if write_key is None or write_key in self.unknown_keys:
                    self._discard("project_not_found", call, shared)
                elif position >= BATCH_LIMIT:
                    self._discard("over_batch_count", call, shared)
                elif code := discard_code(merged := merged_call(call, envelope)):
                    self._discard(code, merged, shared)
                else:
                    self._accept(stamped(merged, envelope.get("sentAt"), arrival), arrival, shared)

    def _discard(self, code: str, call: Any, size: int) -> None:
        self._discard_counts[code] += 1
        self._discarded.append((code, call), size)

    def _accept(self, call: dict[str, Any], arrival: datetime, size: int) -> None:
        message_id = call["messageId"]
        first_arrival = self._first_arrivals.get(message_id)
        if first_arrival is not None and arrival - first_arrival < DUPLICATE_WINDOW:
            self._counts["duplicates"] += 1
            self._duplicates.append(message_id)
            return
        self._first_arrivals[message_id] = arrival
        if len(self._first_arrivals) > 10 * self._keep:
            del self._first_arrivals[next(iter(self._first_arrivals))]
        self._counts["accepted"] += 1
        self._accepted.append(call, size)


class _Server(ThreadingMixIn, TCPServer):
    allow_reuse_address = True
    request_queue_size = 128
    sandbox: Sandbox

    def __init__(self, address: tuple[str, int], handler: type[BaseHTTPRequestHandler]) -> None:
        self._connections: set[Any] = set()
        self._lock = threading.Lock()
        super().__init__(address, handler)

    def get_request(self) -> tuple[socket.socket, Any]:
        connection, address = super().get_request()
        with self._lock:
            self._connections.add(connection)
        return connection, address

    def verify_request(self, request: Any, client_address: Any) -> bool:
        with self._lock:
            return len(self._connections) <= MOST_CONNECTIONS

    def shutdown_request(self, request: Any) -> None:
        with self._lock:
            self._connections.discard(request)
        super().shutdown_request(request)

    def end_connections(self) -> None:
        # It wakes every handler that waits for its client, so that closing can join them all.
        with self._lock:
            for connection in self._connections:
                with suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        # A client that goes away or falls asleep is everyday life; anything else is a bug and shows.
        if not isinstance(sys.exc_info()[1], ConnectionError | TimeoutError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_version = "retl-sandbox"
    disable_nagle_algorithm = True
    wbufsize = -1
    timeout = IDLE_SECONDS
    server: _Server

    def do_POST(self) -> None:
        sandbox = self.server.sandbox
        path, headers = self._path().path, self._lowered_headers()
        reply = sandbox.next_reply()
        unreadable = self._unreadable(headers)
        if unreadable is None and not reply.refused:
            length = int(headers["content-length"])
            body = self.rfile.read(length)
            if len(body) < length or sandbox.closing.wait(sandbox.failures.latency):
                self.close_connection = True
                return
            reply = sandbox.receive(path, headers, body, reply)
        else:
            reply = reply if reply.refused or unreadable is None else Reply(unreadable)
            sandbox.note(Request("POST", path, headers, b"", 0, reply.seen_status))
        if reply.seen_status is not None:
            self._send(reply, last=unreadable is not None)
        if reply.seen_status is None or unreadable is not None:
            self.close_connection = True
        if reply.hang or (unreadable is not None and not reply.refused):
            # The end comes when the client gives up or the closing sandbox ends the connection. To close
            # before, with a body unread, would also lose the answer on its way to the client.
            self.wfile.flush()
            while self.rfile.read1(READ_BYTES):
                pass

    def do_GET(self) -> None:
        sandbox = self.server.sandbox
        address = self._path()
        foreign = self._foreign(self._lowered_headers())
        if foreign is not None:
            self._send(Reply(foreign))
            return
        if address.path in ("/", "/calls.json"):
            limit = parse_qs(address.query).get("limit", ["100"])[-1]
            counted = limit.isdecimal() and len(limit) < LONGEST_NUMBER
            listing = json.dumps(sandbox.listing(int(limit))) if counted else None
            self._send(Reply(body=listing) if listing else Reply(HTTPStatus.BAD_REQUEST))
            return
        reply = Reply(HTTPStatus.METHOD_NOT_ALLOWED if address.path in ROUTES else HTTPStatus.NOT_FOUND)
        if settings := re.fullmatch(r"/v1/projects/([^/]+)/settings", address.path):
            known = unquote(settings[1]) not in sandbox.unknown_keys
            reply = Reply(body='{"integrations": {}}') if known else reply
        sandbox.note(Request("GET", address.path, self._lowered_headers(), b"", 0, reply.status))
        self._send(reply)

    def _foreign(self, headers: Mapping[str, str]) -> HTTPStatus | None:
        """The status for a request that a page of another site has a browser send; None for any other."""
        if not is_loopback(headers.get("host")):
            return HTTPStatus.MISDIRECTED_REQUEST
        own = is_own_origin(headers.get("origin"), self.server.server_address[1])
        return None if own else HTTPStatus.FORBIDDEN

    def _unreadable(self, headers: Mapping[str, str]) -> HTTPStatus | None:
        """The status for a request whose body is not read; None where it is."""
        foreign = self._foreign(headers)
        if foreign is not None:
            return foreign
        length = headers.get("content-length", "")
        if not length.isdecimal() or "transfer-encoding" in headers:
            return HTTPStatus.LENGTH_REQUIRED
        if len(length) >= LONGEST_NUMBER or int(length) > READ_LIMIT:
            return HTTPStatus.REQUEST_ENTITY_TOO_LARGE
        return None

    def _path(self) -> SplitResult:
        """The request's target, taken apart; an empty one where it is no URL."""
        try:
            return urlsplit(self.path)
        except ValueError:
            return urlsplit("")

    def _lowered_headers(self) -> dict[str, str]:
        return {name.lower(): value for name, value in self.headers.items()}

    def _send(self, reply: Reply, last: bool = False) -> None:
        usual = '{"success": true}' if reply.status == 200 else failure(f"answered {reply.status}")
        body = (usual if reply.body is None else reply.body).encode()
        reset = reply.retry_after if reply.status == HTTPStatus.TOO_MANY_REQUESTS else None
        fields = {
            "Retry-After": reply.retry_after,
            "X-RateLimit-Reset": reset,
            "Location": reply.location,
            "Connection": "close" if last else None,
        }
        self.send_response(reply.status)
        self.send_header("Content-Type", reply.content_type)
        self.send_header("Content-Length", str(len(body)))
        for name, value in fields.items():
            if value is not None:
                self.send_header(name, str(value))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any, **__: Any) -> None:
        """Say nothing; the listing tells."""
