"""A server for tests that takes itself for BigQuery: bqemulator, which is a DuckDB inside.

BigQuery's driver knows no address but Google's. It is led to the server by a proxy, which it takes from the
environment that its process is started in, and which has certificates of those names. So

    python tests/bigquery_server.py -m bigquery tests/test_bigquery.py

starts all of that and then pytest, with these arguments.
"""

import json
import os
import socket
import ssl
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from socketserver import StreamRequestHandler, ThreadingTCPServer
from tempfile import TemporaryDirectory
from threading import Thread

import trustme
from process import running

FOLDER = "RETL_TEST_BIGQUERY"
"""The variable that names the server's folder."""

_TOKEN = json.dumps({"access_token": "token", "token_type": "Bearer", "expires_in": 3600}).encode()


class Proxy(ThreadingTCPServer):
    """A proxy that leads to local ports what is meant for Google.

    Attributes:
        ports: of the servers, by the names that they stand for; whoever else is asked gives out tokens.
        contexts: of their TLS.
    """

    daemon_threads = True

    def __init__(self, ports: Mapping[str, int], authority: trustme.CA) -> None:
        super().__init__(("127.0.0.1", 0), _Connected)
        self.ports = ports
        names = [*ports, "oauth2.googleapis.com"]
        self.contexts = {name: ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER) for name in names}
        certificate = authority.issue_cert(*names)
        for name, context in self.contexts.items():
            certificate.configure_cert(context)
            context.set_alpn_protocols(["h2" if "storage" in name else "http/1.1"])


class _Connected(StreamRequestHandler):
    server: Proxy

    def handle(self) -> None:
        """Take a connection for the server that the client means, and carry its bytes both ways."""
        name = self.rfile.readline().split()[1].decode().partition(":")[0]
        while self.rfile.readline().strip():
            pass
        self.wfile.write(b"HTTP/1.1 200 OK\r\n\r\n")
        self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with self.server.contexts[name].wrap_socket(self.connection, server_side=True) as client:
            if name not in self.server.ports:
                client.recv(1 << 16)
                head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(_TOKEN)}"
                client.sendall(f"{head}\r\nConnection: close\r\n\r\n".encode() + _TOKEN)
                return
            with socket.create_connection(("127.0.0.1", self.server.ports[name])) as behind:
                behind.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                back = Thread(target=_carry, args=[behind, client], daemon=True)
                back.start()
                _carry(client, behind)
                back.join()


def _carry(one: socket.socket, other: socket.socket) -> None:
    """Carry the bytes of one to the other, until it ends."""
    with suppress(OSError):
        while data := one.recv(1 << 16):
            other.sendall(data)
    with suppress(OSError):
        other.shutdown(socket.SHUT_WR)


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


def _write_account(file: Path, authority: trustme.CA) -> None:
    """Write the key of a service account."""
    key = authority.issue_cert("retl", key_type=trustme.KeyType.RSA).private_key_pem.bytes().decode()
    account = {
        "type": "service_account",
        "project_id": "shop",
        "private_key_id": "1",
        "private_key": key,
        "client_email": "retl@shop.iam.gserviceaccount.com",
        "client_id": "1",
        "token_uri": "https://oauth2.googleapis.com/token",
    }
    file.write_text(json.dumps(account))


def main() -> int:
    """Start the server and the proxy, and run pytest."""
    authority = trustme.CA()
    ports = {"bigquery.googleapis.com": _free_port(), "bigquerystorage.googleapis.com": _free_port()}
    rest, storage = map(str, ports.values())
    with TemporaryDirectory() as name, Proxy(ports, authority) as proxy:
        folder = Path(name)
        authority.cert_pem.write_to_path(folder / "authority.pem")
        _write_account(folder / "account.json", authority)
        (folder / "refused").write_text("")
        (folder / "cut").write_text("0")
        emulator = [sys.executable, Path(__file__).with_name("bigquery_emulator.py"), folder]
        command = [*emulator, "start", "--project", "shop", "--rest-port", rest, "--grpc-port", storage]
        Thread(target=proxy.serve_forever, daemon=True).start()
        with running(command, b"grpc.listen", folder, {"HOME": name}):
            settings = {
                FOLDER: name,
                "HTTPS_PROXY": f"http://127.0.0.1:{proxy.server_address[1]}",
                "SSL_CERT_FILE": str(folder / "authority.pem"),
            }
            pytest = [sys.executable, "-m", "pytest", "-p", "no:bqemulator", *sys.argv[1:]]
            code = subprocess.run(pytest, env={**os.environ, **settings}, check=False).returncode
        proxy.shutdown()
        if code and "-v" in sys.argv:
            print((folder / "server.log").read_text()[-20000:])
    return code


if __name__ == "__main__":
    sys.exit(main())
