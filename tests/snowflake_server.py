"""A server for tests that takes itself for Snowflake: fakesnow, which is a DuckDB inside."""

import gzip
import json
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from pathlib import Path
from shutil import which
from typing import Any

import pytest
from process import running
from servers import Handled
from sqlalchemy.engine import make_url

from retl.warehouse import snowflake
from retl.warehouse.adbc import ColumnConnection

UNTESTED = "Snowflake's driver is NOT tested: make test-snowflake does"

PASSWORD = "Passwort-4711"


@contextmanager
def snowflake_server(folder: Path) -> Iterator[str]:
    """The URL of a database in a server that has just been started; it is ended in the end."""
    program = which("fakesnow", path=str(Path(sys.executable).parent))
    if program is None or find_spec("adbc_driver_snowflake") is None:
        pytest.skip(UNTESTED)  # it has an environment of its own, which CI makes
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with running([program, "-s", "-p", str(port)], b"Uvicorn running on", folder, {}):
        url = served_at(port)
        in_snowflake(url, "CREATE SCHEMA IF NOT EXISTS CRM")  # the login made the database
        yield url


def served_at(port: int) -> str:
    """The URL of a database in a server of Snowflake's protocol at that port."""
    own = {"protocol": "http", "host": "127.0.0.1", "port": str(port)}
    settings = "&".join(f"adbc.snowflake.sql.uri.{name}={value}" for name, value in own.items())
    return f"snowflake://retl:{PASSWORD}@account/SHOP/CRM?{settings}"


def in_snowflake(url: str, *statements: str) -> None:
    """Run these statements in Snowflake, outside of retl."""
    connection = ColumnConnection(lambda: snowflake.SERVICE.connect(snowflake.options(make_url(url))))
    for statement in statements:
        connection.execute(statement)
    connection.close()


class Refusing(Handled):
    """A server between the driver and fakesnow, where the role may not do all; fakesnow knows no rights.

    Attributes:
        url: of the database, through it.
        refused: how the statements begin that are answered as Snowflake answers who may not.
        said: the statements that came.
    """

    def __init__(self, url: str) -> None:
        self.refused, self.said = "", list[str]()
        outer, behind = self, make_url(url).query["adbc.snowflake.sql.uri.port"]

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("content-length", 0)))
                packed = self.headers.get("content-encoding") == "gzip"
                query = str(json.loads(gzip.decompress(body) if packed else body or b"{}").get("sqlText", ""))
                outer.said += [query] if query else []
                if outer.refused and query.startswith(outer.refused):
                    self._answer(200, json.dumps(NOT_ALLOWED).encode())
                    return
                connection = HTTPConnection("127.0.0.1", int(str(behind)))
                connection.request("POST", self.path, body, dict(self.headers))
                answer = connection.getresponse()
                self._answer(answer.status, answer.read())
                connection.close()

            def _answer(self, status: int, body: bytes) -> None:
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                """Say nothing."""

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = served_at(server.server_address[1])
        super().__init__(server)


NOT_ALLOWED = {
    "data": {"errorCode": "003001", "sqlState": "42501"},
    "code": "003001",
    "message": "SQL access control error:\nInsufficient privileges to operate on schema 'retl_test'.",
    "success": False,
}
"""Snowflake's answer to a role that may not."""
