"""Servers of a few lines, for what a local Segment does not do: cut-off answers, slow ones, broken TLS."""

import socket
import ssl
import struct
import threading
from collections.abc import Callable
from contextlib import suppress
from http.server import HTTPServer
from pathlib import Path
from typing import Self

import trustme


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
