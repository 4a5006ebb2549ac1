"""Servers of a few lines, for what a local Segment does not do: cut-off answers, slow ones, broken TLS."""

import json
import socket
import ssl
import struct
import threading
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self
from urllib.parse import parse_qsl, urlsplit

import trustme

from retl.sandbox.server import Sandbox


def ok() -> bytes:
    """Segment's usual answer."""
    return b"HTTP/1.1 200 OK\r\nContent-Length: 17\r\n\r\n" + b'{"success": true}'


class Handled:
    """A server of Python's, in a thread of its own for as long as it is entered."""

    def __init__(self, server: HTTPServer) -> None:
        self._server = server
        self._thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class Served:
    """A server of a few lines, in a thread of its own; `url` is where it is."""

    def __init__(self, host: str) -> None:
        self._server = socket.create_server(("127.0.0.1", 0))
        self.url = f"{host}:{self._server.getsockname()[1]}"
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.join()
        self._server.close()

    def _serve(self) -> None:
        raise NotImplementedError


class Recorder(Served):
    """A server that gives prepared answers and tells how it was spoken to.

    Attributes:
        url: where it is.
        heads: of the requests, as they came.
        connections: how many were made.
    """

    def __init__(self, answers: list[bytes]) -> None:
        self.heads: list[str] = []
        self.connections = 0
        self._answers = answers
        super().__init__("http://127.0.0.1")

    def _serve(self) -> None:
        while self._answers:
            connection, _ = self._server.accept()
            self.connections += 1
            with connection, suppress(OSError), connection.makefile("rwb") as stream:
                while self._answers and (line := stream.readline()):
                    head = [line, *iter(stream.readline, b"\r\n")]
                    fields = dict(part.decode().lower().split(": ", 1) for part in head[1:])
                    self.heads.append(b"".join(head).decode())
                    stream.read(int(fields.get("content-length", 0)))
                    stream.write(self._answers.pop(0))
                    stream.flush()


class Dripping(Served):
    """A server that begins an answer and sends a byte of its head now and then, until it is left."""

    def __init__(self, tls: Path | None, head: bytes) -> None:
        """`tls`: a folder for a certificate, where TLS is spoken; `head`: the end of the answer's head."""
        self._head = head
        self.certificate, self._tls = None, None
        if tls:
            authority = trustme.CA()
            self.certificate = str(tls / "authority.pem")
            authority.cert_pem.write_to_path(self.certificate)
            self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            authority.issue_cert("localhost").configure_cert(self._tls)
        super().__init__("https://localhost" if tls else "http://localhost")

    def _serve(self) -> None:
        connection, _ = self._server.accept()
        if self._tls:
            connection = self._tls.wrap_socket(connection, server_side=True)
        left = threading.Event()
        with connection, suppress(OSError):
            connection.sendall(b"HTTP/1.1 200 OK\r\n" + (self._head or b"X-Slow: "))
            while not left.wait(0.02):
                connection.sendall(b"x")


class Scripted(Served):
    """A server that does with each connection what a function says.

    Attributes:
        url: where it is.
    """

    def __init__(self, act: Callable[[socket.socket], None], scheme: str = "http") -> None:
        self._act = act
        super().__init__(f"{scheme}://127.0.0.1")

    def _serve(self) -> None:
        connection, _ = self._server.accept()
        with connection, suppress(OSError):
            self._act(connection)


def read_request(connection: socket.socket) -> None:
    """Read a request to its end."""
    with connection.makefile("rb") as stream:
        head = [*iter(stream.readline, b"\r\n")]
        fields = dict(line.decode().lower().split(": ", 1) for line in head[1:])
        stream.read(int(fields.get("content-length", 0)))


def reset(connection: socket.socket) -> None:
    """Break a connection off, so that the other side gets a reset."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


LIMITS = {
    "MINUTE": (timedelta(hours=4), timedelta(hours=48)),
    "HOUR": (timedelta(days=14), timedelta(days=30)),
}
"""How long a question to the Public API may be, and how old, by the size of the buckets."""


class PublicApi(Handled):
    """Segment's Public API as far as it counts: what a sandbox took, by the documented form and limits.

    Attributes:
        url: where it is.
        asked: the query of each question.
        token: that it wants.
        source_id: that it knows.
        lost: gives the reason why a call that the sandbox took failed on ingest; "" loses it without a trace.
        filtered: gives the reason why a call is filtered at the source.
        script: answers in place of its own, each a status, headers and a body.
        page: counts on a page.
        now: its clock.
    """

    def __init__(self, sandbox: Sandbox, token: str = "a token", source_id: str = "a source") -> None:
        self.asked: list[dict[str, str]] = []
        self.token, self.source_id = token, source_id
        self.lost: Callable[[dict[str, Any]], str | None] = lambda _: None
        self.filtered: Callable[[dict[str, Any]], str | None] = lambda _: None
        self.script: list[tuple[int, dict[str, str], Any]] = []
        self.page = 100
        self.now = lambda: datetime.now(UTC)
        self._sandbox = sandbox
        api = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                status, headers, answer = api.answer(self.path, dict(self.headers.items()))
                body = (answer if isinstance(answer, str) else json.dumps(answer)).encode()
                self.send_response_only(status)
                for name, value in {**headers, "Content-Length": str(len(body))}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        server.daemon_threads = True
        self.url = f"http://127.0.0.1:{server.server_port}"
        super().__init__(server)

    def answer(self, target: str, headers: dict[str, str]) -> tuple[int, dict[str, str], Any]:
        """The answer to a question."""
        address = urlsplit(target)
        query = dict(parse_qsl(address.query, strict_parsing=True))
        self.asked.append({"path": address.path, **query})
        if self.script:
            return self.script.pop(0)
        if headers.get("Authorization") != f"Bearer {self.token}":
            return 401, {}, _errors(f"the token {headers.get('Authorization')} is not valid")
        if query["sourceId"] != self.source_id:
            return 404, {}, _errors("no such source")
        start, end = (datetime.fromisoformat(query[name]) for name in ("startTime", "endTime"))
        longest, oldest = LIMITS[query["granularity"]]
        if end - start > longest or start < self.now() - oldest:
            return 422, {}, _errors("the window is too long, or too old")
        return 200, {}, {"data": self._data(address.path, query, start, end)}

    def _data(self, path: str, query: dict[str, str], start: datetime, end: datetime) -> dict[str, Any]:
        dimensions = [one for name, one in query.items() if name.startswith("groupBy.")]
        counted: Counter[tuple[tuple[str, str | None], ...]] = Counter()
        for call, reason in self._calls(path):
            version = call.get("context", {}).get("app", {}).get("version")
            received_at = datetime.fromisoformat(call["receivedAt"])
            if start <= received_at < end and query.get("filter.appVersion.0", version) == version:
                known = {
                    "eventName": call.get("event"),
                    "eventType": call["type"],
                    "discardReason": reason,
                }
                counted[tuple((name, known[name]) for name in dimensions)] += 1
        first = int(query.get("pagination.cursor", "0"))
        page = list(counted.items())[first : first + min(self.page, int(query["pagination.count"]))]
        more = first + len(page) < len(counted)
        datasets = [{**dict(names), "total": calls, "series": []} for names, calls in page]
        pagination = {"next": str(first + len(page))} if more else {}
        return {"total": sum(counted.values()), "dataset": datasets, "pagination": pagination}

    def _calls(self, path: str) -> list[tuple[dict[str, Any], str | None]]:
        """The calls of a step, each with the reason why it came so far only."""
        lost = [(call, self.lost(call)) for call in self._sandbox.accepted]
        steps = {
            "successfully-received": [(call, None) for call, reason in lost if reason is None],
            "failed-on-ingest": [(call, reason) for call, reason in lost if reason],
            "filtered-at-source": [
                (call, why) for call, reason in lost if reason is None and (why := self.filtered(call))
            ],
        }
        return steps[path.removeprefix("/delivery-overview/")]


def _errors(message: str) -> dict[str, Any]:
    return {"errors": [{"type": "invalid", "message": message}]}
