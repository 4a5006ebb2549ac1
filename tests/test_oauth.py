"""OAuth against a real token server, which checks the signature of each assertion with the public key."""

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self
from urllib.parse import parse_qs

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from delivery import HURRIED, FakeClock, fill, memory_state, send
from harness import Retl, runner
from segment.analytics.oauth_manager import OauthManager

from retl.clock import Clock, SystemClock
from retl.delivery.oauth import Application, NoToken, Tokens
from retl.delivery.rate_limit import RateLimiter
from retl.delivery.segment import Segment, Source
from retl.errors import ConfigError, DestinationError
from retl.mask import masked
from retl.sandbox.failures import Reply
from retl.sandbox.server import Sandbox

KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)
PEM = KEY.private_bytes(
    serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
).decode()
OTHER_PEM = (
    rsa.generate_private_key(public_exponent=65537, key_size=2048)
    .private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.TraditionalOpenSSL,
        serialization.NoEncryption(),
    )
    .decode()
)


class TokenServer:
    """A token server by Segment's rules; gives `token-1`, `token-2` and so on.

    Attributes:
        script: answers in place of its own, each a status, headers and a body.
        asked: claims, head and form of each assertion that it took.
        life: seconds of a token.
        ahead: by how much its clock goes before that of the machine.
    """

    def __init__(self) -> None:
        self.script: list[tuple[int, dict[str, str], Any]] = []
        self.asked: list[tuple[dict[str, Any], dict[str, Any], dict[str, str]]] = []
        self.life = 3_600
        self.ahead = timedelta()
        self.requests: list[str] = []
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                text = self.rfile.read(int(self.headers["Content-Length"])).decode()
                server.requests.append(text)
                status, headers, answer = server.answer(self.path, text)
                body = (answer if isinstance(answer, str) else json.dumps(answer)).encode()
                self.send_response_only(status)
                headers = {"Date": format_datetime(datetime.now(UTC) + server.ahead, usegmt=True), **headers}
                for name, value in {**headers, "Content-Length": str(len(body))}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def answer(self, path: str, text: str) -> tuple[int, dict[str, str], Any]:
        """The answer to a request."""
        if self.script:
            return self.script.pop(0)
        form = {name: one for name, (one,) in parse_qs(text, strict_parsing=True).items()}
        try:
            claims = jwt.decode(
                form["client_assertion"],
                KEY.public_key(),
                algorithms=["RS256"],
                audience=self.url,
                options={"verify_exp": False, "verify_iat": False},
            )
        except jwt.PyJWTError as error:
            said = {"error": "invalid_client", "error_description": f"{error}: {form['client_assertion']}"}
            return 401, {}, said
        now = (datetime.now(UTC) + self.ahead).timestamp()
        for wrong, words in (
            (claims["exp"] < now, "Token is expired"),
            (claims["iat"] > now, "Token used before issued"),
        ):
            if wrong:
                return 400, {}, {"error": "invalid_request", "error_description": words}
        assert path == "/token"
        self.asked.append((claims, jwt.get_unverified_header(form["client_assertion"]), form))
        token = {"access_token": f"token-{len(self.asked)}", "expires_in": self.life, "token_type": "Bearer"}
        return 200, {}, token

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def server() -> Iterator[TokenServer]:
    """A token server."""
    with TokenServer() as server:
        yield server


def application(server: TokenServer, pem: str = PEM) -> Application:
    """An application as a sync's settings have it."""
    return Application("the-client", "the-key", pem, server.url, "tracking_api:write", "syncs/users.yml:9")


def tokens(server: TokenServer, clock: Clock | None = None) -> Tokens:
    """The tokens of the application."""
    return Tokens(application(server), None, clock or SystemClock())


def test_an_assertion_says_what_that_of_the_official_client_says(server: TokenServer) -> None:
    """Claims, head and form are those of the client's token manager, but for the moment and the random id."""
    assert "token-1" == tokens(server).get()
    client = OauthManager("the-client", PEM, "the-key", server.url)
    assert "token-2" == client._request_token().json()["access_token"]

    (own, own_head, own_form), (theirs, their_head, their_form) = server.asked
    for claims in (own, theirs):
        assert 36 == len(claims.pop("jti"))
        issued = claims.pop("iat")
        assert 60 == claims.pop("exp") - issued
    assert own == theirs
    assert own_head == their_head
    assert own_form.pop("client_assertion") != their_form.pop("client_assertion")
    assert own_form == their_form


def test_a_token_is_kept_until_half_of_its_life_is_over(server: TokenServer) -> None:
    """One token serves many requests, and another one is asked for in time."""
    clock = FakeClock()
    clock.pass_to((datetime.now(UTC) - clock.now()).total_seconds())  # the server checks the moment
    began = clock.seconds
    kept = tokens(server, clock)
    assert ["token-1"] * 3 == [kept.get() for _ in range(3)]
    clock.pass_to(began + 1_799)
    assert "token-1" == kept.get()
    server.ahead = timedelta(seconds=1_800)
    clock.pass_to(began + 1_800)
    assert "token-2" == kept.get()


def test_many_threads_ask_for_one_token(server: TokenServer) -> None:
    """Threads that need a token at the same time share one, and drop it once when it is refused."""
    kept = tokens(server)
    found: list[str] = []
    threads = [threading.Thread(target=lambda: found.append(kept.get())) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert ["token-1"] * 8 == found
    kept.forget("token-1")
    assert "token-2" == kept.get()
    kept.forget("token-1")
    assert "token-2" == kept.get()


@pytest.mark.parametrize("hours", [-5, 5])
def test_a_clock_that_is_wrong_is_put_right_by_the_servers(server: TokenServer, hours: int) -> None:
    """Where the machine's clock is off, the assertion is made anew by the server's, as the client does it."""
    server.ahead = timedelta(hours=hours)
    assert "token-1" == tokens(server).get()
    assert 2 == len(server.requests)


@pytest.mark.parametrize(
    ("status", "headers", "body", "words", "wait"),
    [
        (500, {}, "", "500", None),
        (429, {"X-RateLimit-Reset": "7"}, {"error": "slow_down"}, "429 slow_down", 7),
        (503, {"Retry-After": "99999999"}, "<html>", "503", 3_600),
        (200, {}, {"token_type": "Bearer"}, "200", None),
        (200, {}, "<html>", "200", None),
    ],
)
def test_a_token_server_that_fails_is_asked_again_later(
    server: TokenServer, status: int, headers: dict[str, str], body: Any, words: str, wait: int | None
) -> None:
    """An answer that may pass is no refusal: the batch is tried again, when the server says."""
    server.script = [(status, headers, body)]
    kept = tokens(server)
    with pytest.raises(NoToken, match=f"gives no token \\({words}\\)") as caught:
        kept.get()
    assert wait == caught.value.retry_after
    assert "token-1" == kept.get()


@pytest.mark.parametrize("status", [301, 302, 400, 401, 403, 404, 415])
def test_a_token_server_that_refuses_is_an_error_of_the_settings(server: TokenServer, status: int) -> None:
    """The error names the settings and what to check; a redirect is not followed."""
    to = {"Location": f"{server.url}/token"}
    server.script = [(status, to, {"error": "invalid_client", "error_description": "no such key"})] * 2
    with pytest.raises(DestinationError) as caught:
        tokens(server).get()
    assert 2 == caught.value.exit_code
    if status >= 400:
        assert f"{status} invalid_client no such key" in str(caught.value)
    assert "syncs/users.yml:9" == caught.value.where
    assert "key_id" in (caught.value.hint or "")
    assert len(server.requests) <= 2


def test_a_server_that_cannot_be_reached_is_told_apart() -> None:
    """Without an answer there is no token now, in words without objects of the library."""
    with TokenServer() as gone:
        url = gone
    with pytest.raises(NoToken, match="cannot be reached") as caught:
        tokens(url).get()
    assert "object at" not in str(caught.value)


def test_keys_and_tokens_are_taken_out_of_tracebacks(server: TokenServer) -> None:
    """A bug's traceback may quote anything, but for the private key, assertions and tokens."""
    token = tokens(server).get()
    assertion = parse_qs(server.requests[-1])["client_assertion"][0]
    assert "*** *** ***" == masked(f"{token} {assertion} {PEM}").strip()


def test_what_the_server_quotes_is_hidden(server: TokenServer) -> None:
    """An answer that quotes the assertion is shown without it."""
    refused = Tokens(application(server, OTHER_PEM), None, SystemClock())
    with pytest.raises(DestinationError, match="Signature verification failed: …") as caught:
        refused.get()
    assert "eyJ" not in str(caught.value)


@pytest.mark.parametrize("text", ["", "nonsense", PEM[:300], KEY.public_key().public_bytes(
    serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
).decode()])  # fmt: skip
def test_what_is_no_private_key_is_refused_unquoted(server: TokenServer, text: str) -> None:
    """A key that cannot sign stops before anything is sent; the error does not quote it."""
    with pytest.raises(ConfigError, match="not a private RSA key") as caught:
        Tokens(application(server, text), None, SystemClock())
    assert not text or text not in f"{caught.value} {caught.value.hint}"
    assert "-----BEGIN" in (caught.value.hint or "")


def test_a_library_that_is_missing_is_named(server: TokenServer) -> None:
    """Without the library of the extra `oauth`, the error says what to install."""
    program = (
        "import sys; sys.modules['cryptography'] = None\n"
        "from retl.clock import SystemClock\nfrom retl.delivery.oauth import Application, Tokens\n"
        f"Tokens(Application('a', 'b', {PEM!r}, {server.url!r}, 's', 'users.yml:9'), None, SystemClock())"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert "retl.errors.ConfigError: users.yml:9: OAuth needs a library that is not installed" in done.stderr


SYNC = """\
sql: SELECT 'u1' AS id, 'Ada' AS name
warehouse: "duckdb://"
primary_key: id
identify: {{user_id: id, traits: {{name: name}}}}
segment:
  endpoint: {segment}
  events_per_second: 0
  oauth: {{client_id: the-client, key_id: the-key, {key}, auth_server: "{auth}"}}
"""


@pytest.fixture
def retl(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    server: TokenServer,
    sandbox: Sandbox,
) -> Retl:
    """Runs a command in a project whose source wants access tokens."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SEGMENT_WRITE_KEY", "key")
    monkeypatch.setenv("RETL_LOG_LEVEL", "debug")
    monkeypatch.setenv("OAUTH_KEY", PEM.replace("\n", "\\n"))
    (tmp_path / "syncs").mkdir()
    settings = {"segment": sandbox.url, "auth": server.url, "key": 'private_key: "${OAUTH_KEY}"'}
    (tmp_path / "syncs/users.yml").write_text(SYNC.format(**settings))
    return runner(capsys)


def secrets(folder: Path) -> list[str]:
    """The files of a folder that hold a token, an assertion or a part of the private key."""
    marks = [b"token-", b"eyJ", PEM.splitlines()[3].encode()]
    return [
        one.name for one in folder.rglob("*") if one.is_file() and any(m in one.read_bytes() for m in marks)
    ]


@pytest.mark.thorough
@pytest.mark.rule("A1")
def test_a_run_sends_with_a_token(retl: Retl, sandbox: Sandbox, tmp_path: Path) -> None:
    """Calls leave with the token in place of the write key's header, and neither is printed nor kept."""
    code, out, err = retl("run", "users", "--json")
    assert 0 == code
    assert ["Bearer token-1"] == [
        one.headers["authorization"] for one in sandbox.requests if one.method == "POST"
    ]
    assert ["Ada"] == [call["traits"]["name"] for call in sandbox.accepted]
    assert [] == secrets(tmp_path / "state")
    assert "token-" not in out + err
    assert PEM.splitlines()[3] not in out + err


def test_a_key_from_a_file(retl: Retl, sandbox: Sandbox, server: TokenServer, tmp_path: Path) -> None:
    """`private_key_file` is a path from the project folder; a missing file is an error that names the key."""
    settings = {"segment": sandbox.url, "auth": server.url, "key": "private_key_file: oauth.pem"}
    (tmp_path / "syncs/users.yml").write_text(SYNC.format(**settings))
    code, _, err = retl("run", "users")
    assert 2 == code
    assert "segment.oauth.private_key_file" in err
    (tmp_path / "oauth.pem").write_text(PEM)
    assert 0 == retl("run", "users")[0]


@pytest.mark.rule("A1")
def test_a_refused_token_is_renewed_once(retl: Retl, sandbox: Sandbox, server: TokenServer) -> None:
    """After a 401 the batch goes out again with another token; a second 401 ends the run, all pending."""
    sandbox.script([Reply(status=401)])
    assert 0 == retl("run", "users")[0]
    assert 2 == len(server.asked)
    assert 1 == len(sandbox.accepted)
    assert [] == sandbox.duplicates


@pytest.mark.thorough
@pytest.mark.rule("A1")
def test_a_source_that_refuses_each_token_ends_the_run(
    retl: Retl, sandbox: Sandbox, server: TokenServer
) -> None:
    """Exit code 2 with what to check, after two requests; the calls stay and leave with the next run."""
    sandbox.script([Reply(status=401)] * 2)
    code, out, err = retl("run", "users")
    assert 2 == code
    assert "Segment refuses the access token" in err
    assert "sources of the OAuth application" in " ".join(err.split())
    assert "token-" not in out + err
    assert 2 == len(server.asked)
    assert 0 == retl("run", "users")[0]
    assert 1 == len(sandbox.accepted)


@pytest.mark.rule("A2")
def test_a_refused_application_ends_the_run_at_once(
    retl: Retl, sandbox: Sandbox, server: TokenServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A private key that is not the application's is told before anything is read or sent."""
    monkeypatch.setenv("OAUTH_KEY", OTHER_PEM)
    code, out, err = retl("run", "users")
    assert 2 == code
    assert "the token server refuses the OAuth application" in err
    assert [] == sandbox.requests
    assert "eyJ" not in out + err


@pytest.mark.rule("A2")
def test_a_token_server_that_stays_away_ends_delivery_in_time(server: TokenServer, sandbox: Sandbox) -> None:
    """A token is asked for once for each attempt, up to the deadline; no thread of its own goes on."""
    server.script = [(500, {}, "")] * 1_000
    before = set(threading.enumerate())
    source = Source(sandbox.url, "key", application=application(server))
    clock = FakeClock()
    with Segment(source, RateLimiter(0, clock), HURRIED, 1) as to:
        state = memory_state()
        fill(state, 3)
        found = send(state, to, clock, seconds=600)
    assert found.error is not None
    assert "the token server gives no token (500)" in str(found.error)
    assert 3 == state.db.execute("SELECT count(*) FROM state.outbox").fetchone()[0]
    assert 0 == found.unsure
    assert len(server.requests) == found.retries == 25
    state.db.close()
    assert not {one for one in threading.enumerate() if "Timer" in type(one).__name__} - before
