"""Calls go only to a server that proves who it is."""

import json
import ssl
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
import trustme
from harness import Retl, runner
from servers import Handled

from retl.delivery.http import Http, NoAnswer

PAST = datetime(2020, 1, 1, tzinfo=UTC)


class Guarded(Handled):
    """A server that speaks TLS and takes whatever is posted.

    Attributes:
        url: where it is, as `localhost`.
        certificate: the file of the authority that vouches for it.
        bodies: that were posted.
    """

    def __init__(self, folder: Path, name: str = "localhost", ends: datetime | None = None) -> None:
        """`name` and `ends`: what its certificate says."""
        self.bodies: list[bytes] = []
        bodies = self.bodies

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                bodies.append(self.rfile.read(int(self.headers["Content-Length"])))
                self.send_response(200)
                self.end_headers()
                self.wfile.write(b'{"success": true}')

            def log_message(self, *_: Any) -> None:
                """Say nothing."""

        authority = trustme.CA()
        self.certificate = folder / "authority.pem"
        authority.cert_pem.write_to_path(str(self.certificate))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert(name, not_after=ends).configure_cert(context)
        server = Quiet(("127.0.0.1", 0), Handler)
        server.socket = context.wrap_socket(server.socket, server_side=True)
        self.url = f"https://localhost:{server.server_address[1]}"
        super().__init__(server)


class Quiet(HTTPServer):
    """A server that clients may leave during the handshake."""

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing."""


def posted(server: Guarded, ssl_cert: Path | None) -> int:
    """The status of a request to the server."""
    http = Http(server.url, 1, str(ssl_cert) if ssl_cert else None)
    try:
        return http.request("POST", server.url, {}, b"{}")[0]
    finally:
        http.close()


@pytest.mark.rule("S1")
@pytest.mark.parametrize(
    ("name", "ends", "trusts"),
    [("localhost", None, False), ("elsewhere.example", None, True), ("localhost", PAST, True)],
    ids=["of an unknown authority", "of another host", "out of date"],
)
def test_a_certificate_that_proves_nothing(
    tmp_path: Path, name: str, ends: datetime | None, trusts: bool
) -> None:
    """A server whose certificate is unknown, of another host or out of date gets nothing."""
    with (
        Guarded(tmp_path, name, ends) as server,
        pytest.raises(NoAnswer, match="certificate verify failed") as caught,
    ):
        posted(server, server.certificate if trusts else None)

    assert not caught.value.left
    assert caught.value.lasting
    assert [] == server.bodies


def test_a_trusted_certificate(tmp_path: Path) -> None:
    """A server with a certificate of the authority in `ssl_cert` is spoken to."""
    with Guarded(tmp_path) as server:
        assert 200 == posted(server, server.certificate)

    assert [b"{}"] == server.bodies


def test_a_run_trusts_the_certificates_of_its_sync(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A run delivers to a server whose authority is in the `ssl_cert` of the sync, beside the project."""
    monkeypatch.chdir(tmp_path)
    retl: Retl = runner(capsys)
    sync = "sql: SELECT 1 AS id\nprimary_key: id\nidentify: {user_id: id}\nwarehouse: 'duckdb://'\n"
    with Guarded(tmp_path) as server:
        segment = {"endpoint": server.url, "write_key": "k", "ssl_cert": server.certificate.name}
        Path("users.yml").write_text(f"{sync}segment: {json.dumps(segment)}\n", encoding="utf-8")
        code, _, _ = retl("run", "users.yml")

    assert (0, 1) == (code, len(server.bodies))
