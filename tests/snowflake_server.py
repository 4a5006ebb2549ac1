"""A server for tests that takes itself for Snowflake: fakesnow, which is a DuckDB inside."""

import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from shutil import which

import pytest
from process import running
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
        pytest.skip(UNTESTED)
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
