"""The sandbox: a local Segment, on 127.0.0.1 only.

A real HTTP server that behaves by the documented rules of Segment's Tracking API. It answers 200 to calls
that it then throws away and, unlike Segment, tells which and why. It fails when it is told to.

The rules come from Segment's public pages "HTTP API Source", "Spec: Common Fields", "Delivery Overview" (its
table of discards), "Handling Duplicate Data" and "Unify Product Limits". Where they are silent, the choice
is marked as ours.
"""

import base64
import gzip
import json
import math
import re
import socket
import sys
import threading
import uuid
import zlib
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from random import Random
from socketserver import TCPServer, ThreadingMixIn
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from retl.errors import ConfigError

HOST = "127.0.0.1"
TYPES = ("identify", "track", "page", "screen", "group", "alias")
ROUTES = ("/v1/batch", *(f"/v1/{type_}" for type_ in TYPES))

BODY_LIMIT = 500_000  # bytes; Segment says "500 KB", that it means these, unpacked, is our choice
CALL_LIMIT = 32_768  # bytes of compact UTF-8 JSON; Segment says "32 KB", that a 400 follows is our choice
BATCH_LIMIT = 2_500  # calls; the rest is discarded under a 200 (HTTP API Source, "Errors")
MESSAGE_ID_LIMIT = 100  # characters (Spec: Common Fields)
GROUP_ID_LIMIT = 500  # characters (Unify Product Limits)
DUPLICATE_WINDOW = timedelta(hours=24)  # the least that Segment promises (Handling Duplicate Data)


@dataclass(frozen=True)
class Answer:
    """How to answer one POST; the plain one leaves it to Segment's rules.

    Attributes:
        status: an HTTP status. Only with 200 and no `body` is the request judged and are its calls taken.
        retry_after: the value of `Retry-After`: seconds, or a date as HTTP writes it.
        body: in place of the usual JSON; what it claims to be is `content_type`.
        location: where a redirect leads.
        lost: take the calls, then close the connection without an answer.
        refused: close the connection before reading the body.
        hang: read the body, take nothing, answer nothing, until the client gives up or the sandbox closes.
    """

    status: int = 200
    retry_after: int | str | None = None
    body: str | None = None
    content_type: str = "application/json"
    location: str | None = None
    lost: bool = False
    refused: bool = False
    hang: bool = False

    @property
    def takes_calls(self) -> bool:
        """Whether the request is judged by Segment's rules."""
        return self.status == 200 and self.body is None and not (self.refused or self.hang)

    @property
    def seen_status(self) -> int | None:
        """The status that the client gets to see; None where the connection closes without one."""
        return None if self.lost or self.refused or self.hang else self.status


@dataclass(frozen=True)
class Faults:
    """What goes wrong by chance.

    Attributes:
        chances: probabilities, together at most 1, each with the answer that it brings.
        latency: seconds that each POST waits before it is judged.
    """

    chances: tuple[tuple[float, Answer], ...] = ()
    latency: float = 0.0

    @classmethod
    def parse(cls, text: str) -> "Faults":
        """Read faults such as `429=0.05,500=0.02,hang=0.01,lost_answer=0.02,latency=30ms`.

        A 429 by chance asks for one second by `Retry-After`.

        Raises:
            ConfigError: a part of the text is unknown, or the probabilities exceed 1.
        """
        faults = cls()
        for part in filter(None, map(str.strip, text.split(","))):
            if latency := re.fullmatch(r"latency=(\d*\.?\d+)(ms|s)", part):
                faults = replace(faults, latency=float(latency[1]) / (1000 if latency[2] == "ms" else 1))
                continue
            chance = re.fullmatch(r"(hang|lost_answer|[45]\d\d)=(\d*\.?\d+)", part)
            if chance is None:
                hint = "write faults as 429=0.05,500=0.02,hang=0.01,lost_answer=0.02,latency=30ms"
                raise ConfigError(f"{part!r} is not a fault", where="faults", hint=hint)
            answer = _NAMED_ANSWERS[chance[1]] if chance[1] in _NAMED_ANSWERS else Answer(int(chance[1]))
            faults = replace(faults, chances=(*faults.chances, (float(chance[2]), answer)))
            if math.fsum(probability for probability, _ in faults.chances) > 1:
                raise ConfigError(f"with {part!r} the probabilities exceed 1", where="faults")
        return faults

    def draw(self, random: Random) -> Answer:
        """Draw the answer for one request."""
        point = random.random()
        for probability, answer in self.chances:
            if point < probability:
                return answer
            point -= probability
        return Answer()


_NAMED_ANSWERS = {
    "429": Answer(429, retry_after=1),
    "hang": Answer(hang=True),
    "lost_answer": Answer(lost=True),
}


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
        return _strict_json(self.body)


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


class Sandbox:
    """A local Segment, for as long as it is entered; `url` is its address.

    Args:
        port: where to listen on 127.0.0.1; 0 takes any free port.
        faults: what goes wrong by chance.
        now: the clock that stamps arrivals; must tell its zone.
        unknown_keys: write keys that Segment does not know. The settings question answers 404 for them;
            calls sent with one of them, or with none, are discarded under a 200.
        keep: how many calls of each kind are held in memory, the newest; counts go on beyond.
        reject_if: any request that holds such a call is answered 400.
        seed: of the chances of `faults`.
    """

    def __init__(
        self,
        port: int = 0,
        *,
        faults: Faults | None = None,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        unknown_keys: Iterable[str] = (),
        keep: int = 100_000,
        reject_if: Callable[[dict[str, Any]], bool] | None = None,
        seed: int = 0,
    ) -> None:
        self.url = ""
        self.faults = faults or Faults()
        self.unknown_keys = frozenset(unknown_keys)
        self.reject_if = reject_if
        self.closing = threading.Event()
        self._port = port
        self._now = now
        self._keep = keep
        self._random = Random(seed)
        self._lock = threading.Lock()
        self._script: deque[Answer] = deque()
        self._first_arrivals: dict[str, datetime] = {}
        self._requests: deque[Request] = deque()
        self._calls_in_requests = 0
        self._accepted: deque[dict[str, Any]] = deque(maxlen=keep)
        self._discarded: deque[tuple[str, Any]] = deque(maxlen=keep)
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

    def script(self, answers: Iterable[Answer]) -> None:
        """Line up answers, one for each POST to come; chance waits until they are used up."""
        with self._lock:
            self._script.extend(answers)

    @property
    def accepted(self) -> list[dict[str, Any]]:
        """The calls that Segment would pass on, as it would, in order of arrival."""
        with self._lock:
            return list(self._accepted)

    @property
    def discarded(self) -> list[tuple[str, Any]]:
        """The calls thrown away under a 200, each after its discard code, in order of arrival."""
        with self._lock:
            return list(self._discarded)

    @property
    def duplicates(self) -> list[str]:
        """The message ids that came again, in order of arrival."""
        with self._lock:
            return list(self._duplicates)

    @property
    def requests(self) -> list[Request]:
        """The newest requests, as many as hold `keep` calls together; those for the listing are left out."""
        with self._lock:
            return list(self._requests)

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

    def next_answer(self) -> Answer:
        """Take what the script, or else chance, has for the next POST."""
        with self._lock:
            return self._script.popleft() if self._script else self.faults.draw(self._random)

    def receive(self, path: str, headers: Mapping[str, str], body: bytes, answer: Answer) -> Answer:
        """Judge a POST, take its calls if `answer` lets it, note it; return the answer to give."""
        calls: list[Any] = []
        try:
            body = _unpacked(body, headers)
            envelope = _envelope(path, headers, body)
            calls = _calls(path, envelope)
            self._check(calls)
        except _RefusalError as refusal:
            if answer.takes_calls:
                answer = replace(answer, status=refusal.status, body=_failure(str(refusal)))
        if answer.takes_calls:
            self._take(calls, envelope, _write_key(headers, envelope))
        self.note(Request("POST", path, headers, body, len(calls), answer.seen_status))
        return answer

    def note(self, request: Request) -> None:
        """Remember a request."""
        with self._lock:
            self._counts["requests"] += 1
            self._requests.append(request)
            self._calls_in_requests += max(request.calls, 1)
            while self._requests and self._calls_in_requests > self._keep:
                self._calls_in_requests -= max(self._requests.popleft().calls, 1)

    def _check(self, calls: list[Any]) -> None:
        for call in calls:
            text = json.dumps(call, ensure_ascii=False, separators=(",", ":"))
            if len(text.encode("utf-8", "surrogatepass")) > CALL_LIMIT:
                raise _RefusalError(400, f"a call exceeds {CALL_LIMIT} bytes")
            if self.reject_if and isinstance(call, dict) and self.reject_if(call):
                raise _RefusalError(400, "a call is rejected")

    def _take(self, calls: list[Any], envelope: dict[str, Any], write_key: str | None) -> None:
        with self._lock:
            arrival = self._now().astimezone(UTC)
            if not calls:
                self._discard("empty_batch", envelope)
            for position, call in enumerate(calls):
                if write_key is None or write_key in self.unknown_keys:
                    self._discard("project_not_found", call)
                elif position >= BATCH_LIMIT:
                    self._discard("over_batch_count", call)
                elif code := discard_code(merged := _merged(call, envelope)):
                    self._discard(code, merged)
                else:
                    self._accept(_stamped(merged, envelope.get("sentAt"), arrival), arrival)

    def _discard(self, code: str, call: Any) -> None:
        self._discard_counts[code] += 1
        self._discarded.append((code, call))

    def _accept(self, call: dict[str, Any], arrival: datetime) -> None:
        message_id = call["messageId"]
        first_arrival = self._first_arrivals.get(message_id)
        if first_arrival is not None and arrival - first_arrival < DUPLICATE_WINDOW:
            self._counts["duplicates"] += 1
            self._duplicates.append(message_id)
            return
        self._first_arrivals[message_id] = arrival
        self._counts["accepted"] += 1
        self._accepted.append(call)


class _RefusalError(Exception):
    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def _failure(message: str) -> str:
    return json.dumps({"success": False, "message": message})


def _unpacked(body: bytes, headers: Mapping[str, str]) -> bytes:
    try:
        return gzip.decompress(body) if headers.get("content-encoding", "").lower() == "gzip" else body
    except (OSError, EOFError, zlib.error) as error:
        raise _RefusalError(400, f"broken gzip: {error}") from error


def _envelope(path: str, headers: Mapping[str, str], body: bytes) -> dict[str, Any]:
    if path not in ROUTES:
        raise _RefusalError(404, "no such route")
    # Segment requires the type but does not say how it refuses another; 415 is what HTTP itself has for it.
    if headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise _RefusalError(415, "Content-Type must be application/json")
    if len(body) > BODY_LIMIT:
        raise _RefusalError(400, f"a body of {len(body)} bytes exceeds {BODY_LIMIT}")
    try:
        envelope = _strict_json(body)
    except (ValueError, RecursionError) as error:
        raise _RefusalError(400, f"invalid JSON: {error}") from error
    if not isinstance(envelope, dict):
        raise _RefusalError(400, "the body must be an object")
    return envelope


def _strict_json(body: bytes) -> Any:
    """Read JSON as the standard has it: no NaN, no Infinity, also none by way of 1e999."""

    def finite(text: str) -> float:
        if not math.isfinite(number := float(text)):
            raise ValueError(f"{text} is not a number")
        return number

    return json.loads(body.decode(), parse_constant=finite, parse_float=finite)


def _calls(path: str, envelope: dict[str, Any]) -> list[Any]:
    if path != "/v1/batch":
        call = {key: value for key, value in envelope.items() if key not in ("writeKey", "sentAt")}
        return [call | {"type": path.removeprefix("/v1/")}]
    calls = envelope.get("batch", [])
    if not isinstance(calls, list):
        raise _RefusalError(400, "batch must be an array")
    return calls


def _write_key(headers: Mapping[str, str], envelope: dict[str, Any]) -> str | None:
    """Read the key from Basic, or else the body (HTTP API Source, "Authentication"); any bearer will do."""
    scheme, _, credentials = headers.get("authorization", "").partition(" ")
    key = envelope.get("writeKey")
    if scheme.lower() == "basic":
        with suppress(ValueError):
            key = base64.b64decode(credentials, validate=True).decode().partition(":")[0]
    return key if isinstance(key, str) and key else None


def _merged(call: Any, envelope: dict[str, Any]) -> Any:
    """Add what the batch says for all its calls; where both speak the call wins, which is our choice."""
    if isinstance(call, dict):
        for key in ("context", "integrations"):
            shared, own = envelope.get(key), call.get(key)
            if isinstance(shared, dict) and _is_object(own):
                call = call | {key: shared | (own or {})}
    return call


def _stamped(call: dict[str, Any], sent_at: Any, arrival: datetime) -> dict[str, Any]:
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
        # A client that goes away in the middle is everyday life; anything else is a bug and shows.
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_version = "retl-sandbox"
    disable_nagle_algorithm = True
    wbufsize = -1
    server: _Server

    def do_POST(self) -> None:
        sandbox = self.server.sandbox
        path, headers = urlsplit(self.path).path, self._lowered_headers()
        answer = sandbox.next_answer()
        length = headers.get("content-length", "")
        readable = length.isdecimal()
        if readable and not answer.refused:
            body = self.rfile.read(int(length))
            if len(body) < int(length) or sandbox.closing.wait(sandbox.faults.latency):
                self.close_connection = True
                return
            answer = sandbox.receive(path, headers, body, answer)
        else:
            answer = answer if answer.refused else Answer(HTTPStatus.LENGTH_REQUIRED)
            sandbox.note(Request("POST", path, headers, b"", 0, answer.seen_status))
        if answer.seen_status is not None:
            self._send(answer)
        if answer.seen_status is None or not readable:
            self.close_connection = True
        if answer.hang or not (readable or answer.refused):
            # The end comes when the client gives up or the closing sandbox ends the connection. To close
            # before, with a body unread, would also tear the answer out of the client's hands.
            self.wfile.flush()
            while self.rfile.read(1):
                pass

    def do_GET(self) -> None:
        sandbox = self.server.sandbox
        address = urlsplit(self.path)
        if address.path in ("/", "/calls.json"):
            limit = parse_qs(address.query).get("limit", ["100"])[-1]
            listing = json.dumps(sandbox.listing(int(limit))) if limit.isdecimal() else None
            self._send(Answer(body=listing) if listing else Answer(HTTPStatus.BAD_REQUEST))
            return
        answer = Answer(HTTPStatus.METHOD_NOT_ALLOWED if address.path in ROUTES else HTTPStatus.NOT_FOUND)
        if settings := re.fullmatch(r"/v1/projects/([^/]+)/settings", address.path):
            known = unquote(settings[1]) not in sandbox.unknown_keys
            answer = Answer(body='{"integrations": {}}') if known else answer
        sandbox.note(Request("GET", address.path, self._lowered_headers(), b"", 0, answer.status))
        self._send(answer)

    def _lowered_headers(self) -> dict[str, str]:
        return {name.lower(): value for name, value in self.headers.items()}

    def _send(self, answer: Answer) -> None:
        usual = '{"success": true}' if answer.status == 200 else _failure(f"answered {answer.status}")
        body = (usual if answer.body is None else answer.body).encode()
        reset = answer.retry_after if answer.status == HTTPStatus.TOO_MANY_REQUESTS else None
        fields = {
            "Retry-After": answer.retry_after,
            "X-RateLimit-Reset": reset,
            "Location": answer.location,
            "Connection": "close" if answer.status == HTTPStatus.LENGTH_REQUIRED else None,
        }
        self.send_response(answer.status)
        self.send_header("Content-Type", answer.content_type)
        self.send_header("Content-Length", str(len(body)))
        for name, value in fields.items():
            if value is not None:
                self.send_header(name, str(value))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any, **__: Any) -> None:
        """Say nothing; the listing tells."""
