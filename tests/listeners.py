"""HTTP servers on this machine that take what retl tells others of its runs, and keep it."""

import gzip
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

from servers import Handled


@dataclass(frozen=True)
class Taken:
    """A request that came: its path, its headers by their names in lower case, and its body, unpacked."""

    path: str
    headers: dict[str, str]
    body: bytes


class Listener(Handled):
    """A server that answers each POST with one status.

    Attributes:
        url: where it is.
        status: of the next answers.
        taken: the requests that came.
    """

    def __init__(self, status: int = 200) -> None:
        self.status, self.taken = status, list[Taken]()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                headers = {name.lower(): value for name, value in self.headers.items()}
                body = self.rfile.read(int(headers.get("content-length", 0)))
                packed = headers.get("content-encoding") == "gzip"
                outer.taken.append(Taken(self.path, headers, gzip.decompress(body) if packed else body))
                self.send_response(outer.status)
                if 300 <= outer.status < 400:
                    self.send_header("Location", f"{outer.url}/elsewhere")
                self.send_header("Content-Length", "2")
                self.end_headers()
                self.wfile.write(b"{}")

            def log_message(self, *_: Any) -> None:
                """Say nothing."""

        server = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{server.server_address[1]}"
        super().__init__(server)
