"""No secret is in anything that retl writes, whatever goes wrong, and with the log at its most talkative."""

import base64
import json
import re
import socket
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import quote, quote_plus

import duckdb
import psycopg
import pytest
import urllib3
from servers import Handled
from sqlalchemy.dialects import registry
from sqlalchemy.engine import URL, make_url
from sqlalchemy.engine.default import DefaultDialect

from retl.cli.main import execute
from retl.mask import masked, note_url, without
from retl.sandbox.failures import Reply
from retl.sandbox.page.page_routes import page_routes
from retl.sandbox.server import Sandbox
from retl.sandbox.store import Store

WRITE_KEY = "wk-Geheim/1+2:3=="
PASSWORD = "Passwort ü/@+%:'1"
PROXY_PASSWORD = "Proxy&wort/2"
SETTING = "Einstellung/3=="
HOOK = "Haken-4711-geheim-und-lang"
USER = "wache"

SYNC = """\
sql: {sql}
primary_key: user_id
identify: {{user_id: user_id, traits: {{n: n}}}}
allow_ids: ["1"]
warehouse: "{warehouse}"
segment: {segment}
"""
SQL = "SELECT 1 AS user_id, 2 AS n"


def spellings(secret: str) -> set[str]:
    """A secret as it is, and as URLs, headers, JSON and Python write it."""
    bytes_ = [secret.encode(), f"{secret}:".encode(), f":{secret}".encode(), f"{USER}:{secret}".encode()]
    encoded = {base64.b64encode(one).decode().rstrip("=") for one in bytes_}
    quoted = {quote(secret), quote(secret, safe=""), quote_plus(secret)}
    return {
        secret,
        *encoded,
        *quoted,
        *(one.lower() for one in quoted),
        *(quote(one, safe="") for one in encoded),
        json.dumps(secret)[1:-1],
        repr(secret)[1:-1],
        ascii(secret)[1:-1],
    }


NEEDLES = [
    one for secret in (WRITE_KEY, PASSWORD, PROXY_PASSWORD, SETTING, HOOK) for one in spellings(secret)
]


def leaks(text: str) -> list[str]:
    """The lines of a text that hold a secret."""
    return [line[:400] for line in text.splitlines() if any(needle in line for needle in NEEDLES)]


class Broken(DefaultDialect):
    """A kind of database whose driver fails in a way that nobody foresaw, and quotes its URL."""

    @classmethod
    def import_dbapi(cls) -> Any:
        """Any module will do."""
        return psycopg

    def create_connect_args(self, url: URL) -> Any:
        """Fail."""
        raise LookupError(f"{url.render_as_string(hide_password=False)} {url.password!r}")


class Proxy(Handled):
    """A proxy that lets nobody through, and quotes the request in its answer; `url` is where it is."""

    def __init__(self) -> None:
        class Handler(BaseHTTPRequestHandler):
            def do_CONNECT(self) -> None:
                said = f"{self.headers}".encode()
                self.send_response(407, self.headers["Proxy-Authorization"])
                self.send_header("Content-Length", str(len(said)))
                self.end_headers()
                self.wfile.write(said)

            def do_POST(self) -> None:
                self.do_CONNECT()

            def log_message(self, *_: Any) -> None:
                """Say nothing."""

        server = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"127.0.0.1:{server.server_address[1]}"
        super().__init__(server)


@pytest.fixture(scope="module")
def guarded(postgres_url: str) -> Iterator[URL]:
    """A Postgres that asks one user for a password; the URL has the right one."""
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        (file,) = connection.execute("SHOW hba_file").fetchone() or ("",)
        before = Path(file).read_text()
        Path(file).write_text(f"local all {USER} scram-sha-256\nhost all {USER} all scram-sha-256\n{before}")
        said = PASSWORD.replace("'", "''")
        connection.execute(f"CREATE ROLE {USER} LOGIN PASSWORD '{said}'".encode())
        connection.execute("SELECT pg_reload_conf()")
    yield make_url(postgres_url).set(username=USER, password=PASSWORD)
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        Path(file).write_text(before)
        connection.execute(f"DROP ROLE {USER}".encode())
        connection.execute("SELECT pg_reload_conf()")


def free_port() -> int:
    """A port on which nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


@pytest.fixture
def world(tmp_path: Path, guarded: URL, monkeypatch: pytest.MonkeyPatch) -> Iterator["World"]:
    """A project with syncs in which all goes well, or wrong, each in its own way."""
    registry.register("broken", __name__, "Broken")
    for name in ("syncs", "temp"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TMPDIR", str(tmp_path / "temp"))
    monkeypatch.setenv("RETL_LOG_LEVEL", "debug")
    monkeypatch.setenv("SEGMENT_WRITE_KEY", WRITE_KEY)
    with Sandbox(routes=page_routes(), store=Store()) as sandbox, Proxy() as proxy:
        yield World(tmp_path, sandbox, proxy, guarded, monkeypatch)


class World:
    """A project, and all that its syncs talk to."""

    def __init__(
        self, root: Path, sandbox: Sandbox, proxy: Proxy, guarded: URL, patch: pytest.MonkeyPatch
    ) -> None:
        self.root, self.sandbox, self.guarded, self.patch = root, sandbox, guarded, patch
        self.proxy = proxy
        pw = quote(PASSWORD, safe="")
        port = free_port()
        patch.setenv("HOOK", f"http://127.0.0.1:{port}/services/{HOOK}?token={quote_plus(SETTING)}")
        patch.setenv("OTHER", f"json://{USER}:{pw}@127.0.0.1:{port}/{HOOK}")
        (root / "retl.yml").write_text("notify: [{webhook: '${HOOK}'}, {apprise: '${OTHER}'}]\n")
        wrong = guarded.set(password=f"{PASSWORD}{PASSWORD}")
        at_server = {"endpoint": sandbox.url}
        self.syncs: dict[str, tuple[str, str, dict[str, Any]]] = {
            "good": (SQL, self.text(guarded), at_server),
            "wrong_password": (SQL, self.text(wrong), at_server),
            "no_table": ("SELECT * FROM nowhere", self.text(guarded), at_server),
            "quoted": (f"SELECT {PASSWORD!r} FROM nowhere".replace('"', "'"), self.text(guarded), at_server),
            "unreachable": (SQL, f"postgresql://{USER}:{pw}@127.0.0.1:{port}/shop", at_server),
            "unreachable_mysql": (SQL, f"mysql://{USER}:{pw}@127.0.0.1:{port}/shop", at_server),
            "setting": (SQL, f"duckdb://?no_such_setting={quote_plus(SETTING)}", at_server),
            "memory": (SQL, f"duckdb://?memory_limit={quote_plus(SETTING)}", at_server),
            "pg_setting": (
                SQL,
                f"postgresql:///x?host=/none&connect_timeout={quote_plus(SETTING)}",
                at_server,
            ),
            "no_url": (SQL, f"postgresql://{USER}:{PASSWORD}@[::1", at_server),
            "unknown": (SQL, f"nosuchbase://{USER}:{pw}@host/x", at_server),
            "bug": (SQL, f"broken://{USER}:{pw}@host/x?token={quote_plus(SETTING)}", at_server),
            "bad_key": (SQL, "duckdb://", at_server),
            "odd_answer": (SQL, "duckdb://", at_server),
            "proxied": (SQL, "duckdb://", {}),
            "proxied_http": (SQL, "duckdb://", {"endpoint": "http://segment.invalid"}),
        }
        for name, (sql, url, segment) in self.syncs.items():
            patch.setenv(f"URL_{name.upper()}", url)
            text = SYNC.format(sql=json.dumps(sql), warehouse=f"${{URL_{name.upper()}}}", segment=segment)
            (root / f"syncs/{name}.yml").write_text(text, encoding="utf-8")

    @staticmethod
    def text(url: URL) -> str:
        """A URL with its password."""
        return url.render_as_string(hide_password=False)

    def written(self) -> Iterator[tuple[str, str]]:
        """All files but the user's own, as text; states with the rows of their tables, too."""
        for path in self.root.rglob("*"):
            if path.is_file() and path.parent.name != "syncs":
                yield str(path), path.read_bytes().decode("utf-8", "replace")
                if path.suffix == ".duckdb":
                    yield f"{path} as tables", tables(path)


def tables(path: Path) -> str:
    """The rows of all tables of a state, as text."""
    with duckdb.connect(":memory:") as db:
        db.execute(f"ATTACH '{path}' AS state (READ_ONLY)")
        names = db.execute("SELECT table_name FROM duckdb_tables() WHERE database_name = 'state'").fetchall()
        return "\n".join(
            str(row) for (name,) in names for row in db.execute(f"SELECT * FROM state.{name}").fetchall()
        )


BASIC = base64.b64encode(f"{WRITE_KEY}:".encode()).decode()

COMMANDS = [
    *(
        ("run", "good"),
        ("run", "good", "--json"),
        ("plan", "good"),
        ("status", "good"),
        ("explain", "good", "1"),
    ),
    *(("check", "good", "--connect"), ("run", "good", "--sandbox", "--json"), ("status", "--json")),
    *(("--log-format", "json", "run", "good", "--full", "--yes"), ("rejected", "good"), ("rekey", "good")),
]


@pytest.mark.filterwarnings("ignore:'imghdr' is deprecated:DeprecationWarning")  # by apprise
@pytest.mark.rule("E12", "S2")
def test_no_secret_is_written(world: World, capfd: pytest.CaptureFixture[str]) -> None:
    """Neither output nor log, state, traceback, sandbox or temporary file holds a secret, in any spelling."""
    said: list[str] = []
    codes: dict[str, int] = {}

    def ran(*arguments: str) -> int:
        code = execute(arguments)
        printed = capfd.readouterr()
        said.append(f"$ retl {' '.join(arguments)}\n{printed.out}{printed.err}")
        return code

    for arguments in COMMANDS:
        codes[" ".join(arguments)] = ran(*arguments)
    for name in world.syncs:
        if name == "bad_key":
            world.sandbox.script([Reply(401, body=f"no key {WRITE_KEY} {BASIC} {quote(WRITE_KEY, safe='')}")])
        if name == "odd_answer":
            world.sandbox.script([Reply(400, body=f'{{"key": "{WRITE_KEY}", "auth": "Basic {BASIC}"}}')])
        if name.startswith("proxied"):
            proxy = f"http://{USER}:{quote(PROXY_PASSWORD, safe='')}@{world.proxy.url}"
            world.patch.setenv("HTTPS_PROXY", proxy)
            world.patch.setenv("HTTP_PROXY", proxy)
        codes[name] = ran("run", name, "--json", "--deadline", "1s")
        if name in ("wrong_password", "bug", "proxied"):
            ran("plan", name, "--json")
            ran("check", name, "--connect")
    pages = [
        urllib3.request("GET", world.sandbox.url + path).data.decode()
        for path in (
            "/calls.json",
            "/calls.ndjson",
            "/summary.json",
            "/",
            "/?call=1",
            "/users",
            "/runs",
            "/failures",
        )
    ]
    assert all(pages)

    assert {"good": 0, "wrong_password": 3, "bug": 70, "bad_key": 2} == {
        name: codes[name] for name in ("good", "wrong_password", "bug", "bad_key")
    }
    assert "Traceback" in "\n".join(said)
    assert {"webhook", "apprise"} == set(re.findall(r"an alert was not sent \((\w+)\)", "\n".join(said)))
    assert [] == leaks("\n".join(said))
    assert [] == leaks("\n".join(pages))
    for name, text in world.written():
        assert [] == leaks(text), name


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("KeyError: 'hunter22x'", "KeyError: '***x'"),
        ("open kayak k1 k", "open kayak k1 ***"),
        ("aHVudGVyMjI= aHVudGVyMjI6 a%3Ab%2FC", "*** *** ***"),
        ("nothing to hide", "nothing to hide"),
    ],
)
def test_masked(text: str, expected: str) -> None:
    """A long secret is taken out wherever it stands, a short one where it is a word, encoded or not."""
    assert expected == without(text, frozenset({"hunter22", "k", "a:b/c"}))


def test_what_is_noted_of_a_url() -> None:
    """Of a URL, password and settings are taken out; of a text that is none, all."""
    for url in ("some+db://bob:hunter33@host/x?token=hunter44", "hunter55 is no url"):
        assert url == note_url(url)

    assert "bob *** *** ***" == masked("bob hunter33 hunter44 hunter55 is no url")
