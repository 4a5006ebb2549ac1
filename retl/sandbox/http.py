"""The HTTP of the sandbox: connections, and the answers to requests."""

import re
import socket
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from socketserver import TCPServer, ThreadingMixIn
from typing import Any
from urllib.parse import SplitResult, unquote, urlsplit

from retl.sandbox.body import RefusalError, failure, is_loopback, is_own_origin
from retl.sandbox.failures import Reply
from retl.sandbox.ingestion import BODY_LIMIT, ROUTES
from retl.sandbox.local_segment import LocalSegment
from retl.sandbox.request import Request
from retl.sandbox.routes import STRICT, Asked, Page, PageAnswer, Route, find_page

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


class Server(ThreadingMixIn, TCPServer):
    """A thread for each connection; those that are open can be ended together.

    Attributes:
        sandbox: answers the requests.
        routes: of the pages.
    """

    allow_reuse_address = True
    request_queue_size = 128
    sandbox: LocalSegment
    routes: Sequence[Route] = ()

    def __init__(self, address: tuple[str, int], handler: type[BaseHTTPRequestHandler]) -> None:
        self._connections: set[Any] = set()
        self._lock = threading.Lock()
        super().__init__(address, handler)

    def get_request(self) -> tuple[socket.socket, Any]:
        """Accept a connection; see socketserver."""
        connection, address = super().get_request()
        with self._lock:
            self._connections.add(connection)
        return connection, address

    def verify_request(self, request: Any, client_address: Any) -> bool:
        """Whether there is room for a connection; see socketserver."""
        with self._lock:
            return len(self._connections) <= MOST_CONNECTIONS

    def shutdown_request(self, request: Any) -> None:
        """End a connection; see socketserver."""
        with self._lock:
            self._connections.discard(request)
        super().shutdown_request(request)

    def end_connections(self) -> None:
        """End all connections, which wakes every handler that waits for its client."""
        with self._lock:
            for connection in self._connections:
                with suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Show an error that is a bug; see socketserver."""
        # A client that goes away or falls asleep is everyday life.
        if not isinstance(sys.exc_info()[1], ConnectionError | TimeoutError):
            super().handle_error(request, client_address)


class Handler(BaseHTTPRequestHandler):
    """Reads the requests of one connection, and answers them."""

    protocol_version = "HTTP/1.1"
    server_version = "retl-sandbox"
    disable_nagle_algorithm = True
    wbufsize = -1
    timeout = IDLE_SECONDS
    server: Server

    def parse_request(self) -> bool:
        """Read the head of a request; see http.server."""
        self.server.sandbox.asked_at = time.monotonic()
        return super().parse_request()

    def do_POST(self) -> None:
        """Answer a POST: to Segment's routes as Segment does, or as it is told to fail."""
        address, headers = self._path(), self._lowered_headers()
        found = find_page(self.server.routes, "POST", address.path, address.query)
        if found is None:
            self._answer_calls(address.path, headers)
        else:
            self._answer_page(*found, headers)

    def do_DELETE(self) -> None:
        """Answer a DELETE: there are pages for it, and no other."""
        address, headers = self._path(), self._lowered_headers()
        found = find_page(self.server.routes, "DELETE", address.path, address.query)
        if found is None:
            self._refuse(self._unreadable(headers) or HTTPStatus.NOT_FOUND)
        else:
            self._answer_page(*found, headers)

    def do_GET(self) -> None:
        """Answer a GET: a page, or the question whether a write key is known."""
        sandbox = self.server.sandbox
        address, headers = self._path(), self._lowered_headers()
        found = find_page(self.server.routes, "GET", address.path, address.query)
        foreign = self._foreign(headers)
        if foreign is not None:
            self._send(Reply(foreign))
        elif found is not None:
            self._answer_page(*found, headers)
        else:
            reply = Reply(HTTPStatus.METHOD_NOT_ALLOWED if address.path in ROUTES else HTTPStatus.NOT_FOUND)
            if settings := re.fullmatch(r"/v1/projects/([^/]+)/settings", address.path):
                known = unquote(settings[1]) not in sandbox.unknown_keys
                reply = Reply(body='{"integrations": {}}') if known else reply
            sandbox.note(Request("GET", address.path, headers, b"", 0, reply.status))
            self._send(reply)

    def _answer_calls(self, path: str, headers: Mapping[str, str]) -> None:
        sandbox = self.server.sandbox
        reply = sandbox.next_reply()
        unreadable = self._unreadable(headers)
        if unreadable is None and not reply.refused:
            body = self._read_body(headers)
            if body is None or sandbox.closing.wait(sandbox.failures.latency):
                self.close_connection = True
                return
            reply = sandbox.receive(path, headers, body, reply)
        else:
            reply = reply if reply.refused or unreadable is None else Reply(unreadable)
            sandbox.note(Request("POST", path, headers, b"", 0, reply.seen_status, failure=reply.word))
        if reply.seen_status is not None:
            self._send(reply, last=unreadable is not None)
        if reply.seen_status is None or unreadable is not None:
            self.close_connection = True
        if reply.hang or (unreadable is not None and not reply.refused):
            self._drain()

    def _answer_page(self, page: Page, asked: Asked, headers: Mapping[str, str]) -> None:
        length = {} if asked.method == "POST" or "content-length" in headers else {"content-length": "0"}
        unreadable = self._unreadable({**headers, **length})
        if unreadable is not None:
            self._refuse(unreadable)
            return
        body = self._read_body({**headers, **length})
        if body is None:
            self.close_connection = True
            return
        try:
            answer = page(self.server.sandbox, replace(asked, body=body, headers=headers))
        except RefusalError as refusal:
            answer = PageAnswer(failure(str(refusal)), status=refusal.status)
        self._send_page(answer)

    def _read_body(self, headers: Mapping[str, str]) -> bytes | None:
        """The body of a request; None where the client goes away before its end."""
        length = int(headers["content-length"])
        body = self.rfile.read(length)
        return body if len(body) == length else None

    def _refuse(self, status: HTTPStatus) -> None:
        """Answer a request whose body is not read."""
        self._send(Reply(status), last=True)
        self.close_connection = True
        self._drain()

    def _drain(self) -> None:
        """Read on until the client gives up, or the closing sandbox ends the connection.

        To close before, with a body unread, would also lose the answer on its way to the client.
        """
        self.wfile.flush()
        while self.rfile.read1(READ_BYTES):
            pass

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

    def _send_page(self, answer: PageAnswer) -> None:
        whole = answer.body.encode() if isinstance(answer.body, str) else answer.body
        chunked = not isinstance(whole, bytes) and self.request_version != "HTTP/1.0"
        self.send_response(answer.status)
        for name, value in {**STRICT, "Content-Type": answer.content_type, **answer.headers}.items():
            self.send_header(name, value)
        if isinstance(whole, bytes):
            self.send_header("Content-Length", str(len(whole)))
        elif chunked:
            self.send_header("Transfer-Encoding", "chunked")
        else:
            self.close_connection = True  # which is the end of the answer
        self.end_headers()
        for piece in (whole,) if isinstance(whole, bytes) else filter(None, whole):
            self.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece) if chunked else piece)
        if chunked:
            self.wfile.write(b"0\r\n\r\n")

    def log_message(self, *_: Any, **__: Any) -> None:
        """Say nothing; the listing tells."""
