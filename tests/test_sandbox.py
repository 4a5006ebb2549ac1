import base64
import gzip
import json
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from random import Random
from threading import Event
from typing import Any

import pytest
import urllib3
from hypothesis import example, given, settings
from hypothesis import strategies as st
from posts import NOON, batch, call, post

from retl.errors import ConfigError
from retl.sandbox.body import exceeds, json_bytes, strict_json
from retl.sandbox.failures import Failures, Reply
from retl.sandbox.ingestion import discard_code
from retl.sandbox.kept import Kept
from retl.sandbox.server import Sandbox

SUCCESS = {"success": True}


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    """Give a sandbox where it is always noon."""
    with Sandbox(now=lambda: NOON) as started:
        yield started


def codes(sandbox: Sandbox) -> list[str]:
    """List the discard codes in order of arrival."""
    return [code for code, _ in sandbox.discarded]


def basic(text: str) -> str:
    """Make the value of a header for Basic authentication."""
    return "Basic " + base64.b64encode(text.encode()).decode()


def test_batch_is_accepted_in_order(http: urllib3.PoolManager, sandbox: Sandbox) -> None:
    """A good batch gets Segment's success answer and its calls stand in the order they were sent."""
    answer = post(http, sandbox, batch(call("a"), call("b")))
    assert (200, SUCCESS) == (answer.status, answer.json())
    assert ["a", "b"] == [accepted["messageId"] for accepted in sandbox.accepted]


@pytest.mark.parametrize("type_", ["identify", "track", "page", "screen", "group", "alias"])
def test_single_routes_set_the_type(http: urllib3.PoolManager, sandbox: Sandbox, type_: str) -> None:
    """A single route takes its body as one call of the route's type, without the envelope's write key."""
    body = {"writeKey": "key", "userId": "u1", "event": "Seen", "groupId": "g1"}
    assert 200 == post(http, sandbox, body, path=f"/v1/{type_}").status
    (accepted,) = sandbox.accepted
    assert type_ == accepted["type"]
    assert "writeKey" not in accepted


@pytest.mark.parametrize(
    ("headers", "fields"),
    [
        ({"Authorization": basic("key:")}, {}),
        ({"Authorization": basic("key")}, {}),
        ({}, {"writeKey": "key"}),
        ({"Authorization": "Bearer token"}, {"writeKey": "key"}),
    ],
)
def test_ways_to_bring_the_write_key(
    http: urllib3.PoolManager, sandbox: Sandbox, headers: dict[str, str], fields: dict[str, Any]
) -> None:
    """Basic, with or without the colon, the body, and a bearer token with the body each name the source."""
    assert 200 == post(http, sandbox, {"batch": [call()], **fields}, **headers).status
    assert 1 == len(sandbox.accepted)


@pytest.mark.parametrize("authorization", ["", "Bearer token", "Basic ?", basic(":"), basic("strange:")])
def test_no_or_unknown_key_looks_like_success(http: urllib3.PoolManager, authorization: str) -> None:
    """Calls without a key, or with one that Segment does not know, are answered 200 and discarded."""
    with Sandbox(unknown_keys={"strange"}) as sandbox:
        assert 200 == post(http, sandbox, {"batch": [call()]}, Authorization=authorization).status
        assert [("project_not_found", call())] == sandbox.discarded


def test_gzip_body(http: urllib3.PoolManager, sandbox: Sandbox) -> None:
    """A gzip body is unpacked, and the request shows it so."""
    body = json.dumps(batch(call())).encode()
    assert 200 == post(http, sandbox, gzip.compress(body), Content_Encoding="gzip").status
    assert [body] == [request.body for request in sandbox.requests]
    assert 1 == len(sandbox.accepted)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b'{"batch": [{"type": "identify", "userId": "u1", "traits": {"n": NaN}}]}',
        b'{"batch": [{"type": "identify", "userId": "u1", "traits": {"n": -Infinity}}]}',
        b'{"batch": [{"type": "identify", "userId": "u1", "traits": {"n": 1e999}}]}',
        b'{"batch": ["\xff"]}',
        b"[" * 100_000,
        b"[]",
        b'{"batch": {}}',
    ],
)
def test_broken_json_is_400(http: urllib3.PoolManager, sandbox: Sandbox, body: bytes) -> None:
    """What is not JSON to the letter, or has not the shape of a batch, is refused and nothing is taken."""
    assert 400 == post(http, sandbox, body, Authorization=basic("key:")).status
    assert {"requests": 1, "accepted": 0, "duplicates": 0, "discarded": {}} == sandbox.summary()


@pytest.mark.parametrize("depth", [900, 950, 970, 980, 985, 990, 995])
def test_deep_json_is_answered(http: urllib3.PoolManager, sandbox: Sandbox, depth: int) -> None:
    """However deep the JSON, there is an answer, and the listing still works."""
    body = '{"writeKey": "key", "batch": [' + "[" * depth + "]" * depth + "]}"
    assert post(http, sandbox, body.encode()).status in (200, 400)
    assert 200 == http.request("GET", sandbox.url).status


@pytest.mark.parametrize("body", [b"no gzip", gzip.compress(b"{}", mtime=0)[:-1]])
def test_broken_gzip_is_400(http: urllib3.PoolManager, sandbox: Sandbox, body: bytes) -> None:
    """A body that is no gzip, or ends too early, is refused."""
    assert 400 == post(http, sandbox, body, Content_Encoding="gzip").status


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
@pytest.mark.parametrize(("size", "status"), [(500_000, 200), (500_001, 400)])
def test_body_limit(
    http: urllib3.PoolManager, sandbox: Sandbox, pack: Callable[[bytes], bytes], size: int, status: int
) -> None:
    """A body of 500,000 bytes passes and one more is refused, counted unpacked."""
    body = json.dumps(batch(call())).encode().ljust(size)
    encoding = "identity" if pack is bytes else "gzip"
    assert status == post(http, sandbox, pack(body), Content_Encoding=encoding).status
    assert (status == 200) == bool(sandbox.accepted)


@pytest.mark.parametrize(("size", "status"), [(32_768, 200), (32_769, 400)])
def test_call_limit(http: urllib3.PoolManager, sandbox: Sandbox, size: int, status: int) -> None:
    """A call of 32,768 bytes of compact UTF-8 passes and one more sinks its whole batch."""
    frame = len(json.dumps(call(traits={"é": ""}), separators=(",", ":"), ensure_ascii=False).encode())
    large = call(traits={"é": "x" * (size - frame)})
    assert status == post(http, sandbox, batch(call("small"), large)).status
    assert (2 if status == 200 else 0) == len(sandbox.accepted)


def test_batch_count(http: urllib3.PoolManager, sandbox: Sandbox) -> None:
    """Of a batch of 2,501 calls the last is discarded, under a 200."""
    assert 200 == post(http, sandbox, batch(*(call(f"m{n}") for n in range(2501)))).status
    assert 2500 == len(sandbox.accepted)
    assert [("over_batch_count", call("m2500"))] == sandbox.discarded


@pytest.mark.parametrize(
    ("code", "bad"),
    [
        ("bad_request", "no object"),
        ("missing_type", call(type=None)),
        ("invalid_type", call(type="import")),
        ("invalid_type", call(type=["track"])),
        ("id_required", call(userId=None)),
        ("id_not_string", call(userId="")),
        ("id_not_string", call(userId=7)),
        ("id_not_string", call(anonymousId=False)),
        ("bad_request", call(messageId=7)),
        ("message_id_too_long", call(messageId="m" * 101)),
        ("event_not_defined", call(type="track")),
        ("event_not_defined", call(type="track", event="")),
        ("event_not_string", call(type="track", event=["Seen"])),
        ("properties_not_object", call(type="track", event="Seen", properties=[])),
        ("traits_not_object", call(traits="")),
        ("name_not_string", call(type="page", name="")),
        ("category_not_string", call(type="screen", category=1)),
        ("group_id_not_string", call(type="group")),
        ("group_id_not_string", call(type="group", groupId="")),
        ("group_id_not_string", call(context={"groupId": ""})),
        ("group_id_too_long", call(type="group", groupId="g" * 501)),
    ],
)
def test_discards(http: urllib3.PoolManager, sandbox: Sandbox, code: str, bad: Any) -> None:
    """A bad call is discarded by its code under a 200, and its neighbours are accepted."""
    assert code == discard_code(bad)
    assert 200 == post(http, sandbox, batch(call("before"), bad, call("after"))).status
    assert [(code, bad)] == sandbox.discarded
    assert ["before", "after"] == [accepted["messageId"] for accepted in sandbox.accepted]


@pytest.mark.parametrize(
    "good",
    [
        call(),
        call(userId=None, anonymousId="a1"),
        call(messageId="m" * 100),
        call(messageId=None, traits=None),
        call(traits={"email": None}),
        call(type="track", event="Seen", properties={}),
        call(type="page"),
        call(type="group", groupId="g" * 500),
    ],
)
def test_good_calls(good: dict[str, Any]) -> None:
    """A call at the edge of the rules has no discard code."""
    assert discard_code(good) is None


@pytest.mark.parametrize("body", [{"writeKey": "key"}, batch()])
def test_empty_batch(http: urllib3.PoolManager, sandbox: Sandbox, body: dict[str, Any]) -> None:
    """A batch of nothing is answered 200 and noted as such."""
    assert 200 == post(http, sandbox, body).status
    assert ["empty_batch"] == codes(sandbox)


def test_duplicates_within_24_hours(http: urllib3.PoolManager) -> None:
    """A message id counts once in 24 hours from its first arrival, whatever the call or the key."""
    clock = iter([NOON, NOON + timedelta(hours=23, minutes=59), NOON + timedelta(hours=24)])
    with Sandbox(now=lambda: next(clock)) as sandbox:
        for number, key in enumerate(["key", "other", "key"]):
            assert 200 == post(http, sandbox, batch(call("m1", userId=f"u{number}"), writeKey=key)).status
        assert ["u0", "u2"] == [accepted["userId"] for accepted in sandbox.accepted]
        assert ["m1"] == sandbox.duplicates


def test_discarded_calls_do_not_claim_their_message_id(http: urllib3.PoolManager, sandbox: Sandbox) -> None:
    """A call that was discarded can come again, fixed, under its message id."""
    post(http, sandbox, batch(call("m1", userId="")))
    post(http, sandbox, batch(call("m1"), call("m1")))
    assert (["id_not_string"], ["m1"]) == (codes(sandbox), sandbox.duplicates)
    assert 1 == len(sandbox.accepted)


def test_message_id_is_assigned(http: urllib3.PoolManager, sandbox: Sandbox) -> None:
    """Calls without a message id get one each, so that they are no duplicates."""
    bare = {"type": "identify", "userId": "u1"}
    post(http, sandbox, batch(bare, bare, bare | {"messageId": None}))
    assert 3 == len({accepted["messageId"] for accepted in sandbox.accepted})


def test_context_and_integrations_are_merged(http: urllib3.PoolManager, sandbox: Sandbox) -> None:
    """What a batch says for all its calls is in each of them; where both speak, the call wins."""
    own = call("b", context={"ip": "0.0.0.0"}, integrations={"All": True})
    post(
        http,
        sandbox,
        batch(call("a"), own, context={"ip": "1.2.3.4", "channel": "server"}, integrations={"All": False}),
    )
    first, second = sandbox.accepted
    assert (
        {"ip": "1.2.3.4", "channel": "server"},
        {"All": False},
    ) == (first["context"], first["integrations"])
    assert (
        {"ip": "0.0.0.0", "channel": "server"},
        {"All": True},
    ) == (second["context"], second["integrations"])


@pytest.mark.parametrize(
    ("sent_at", "timestamp", "computed"),
    [
        ("2026-03-01T10:00:00Z", "2026-03-01T09:00:00Z", "2026-03-01T11:00:00.000Z"),
        ("2026-03-01T12:00:00.000Z", "2026-03-01T10:00:00.123456+01:00", "2026-03-01T09:00:00.123Z"),
        (None, "2026-03-01T09:00:00", "2026-03-01T09:00:00.000Z"),
        ("2026-03-01T10:00:00Z", None, "2026-03-01T12:00:00.000Z"),
        ("soon", "2026-03-01T09:00:00Z", "2026-03-01T09:00:00.000Z"),
        ("9999-12-31T00:00:00Z", "0001-01-01T00:00:00Z", "2026-03-01T12:00:00.000Z"),
    ],
)
def test_timestamp(
    http: urllib3.PoolManager, sandbox: Sandbox, sent_at: str | None, timestamp: str | None, computed: str
) -> None:
    """The timestamp is the arrival less the time between the call and its sending; the sent one is kept."""
    stamp = {"timestamp": timestamp} if timestamp else {}
    post(http, sandbox, batch(call(**stamp), sentAt=sent_at))
    (accepted,) = sandbox.accepted
    assert (computed, "2026-03-01T12:00:00.000Z") == (accepted["timestamp"], accepted["receivedAt"])
    assert (timestamp, sent_at) == (accepted.get("originalTimestamp"), accepted.get("sentAt"))


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("POST", "/v2/batch", 404), ("POST", "/", 404), ("GET", "/v1/nothing", 404), ("GET", "/v1/batch", 405)],
)
def test_unknown_routes(
    http: urllib3.PoolManager, sandbox: Sandbox, method: str, path: str, status: int
) -> None:
    """What is no route is 404, and a route asked in the wrong way is 405."""
    headers = {"Content-Type": "application/json"}
    body = json.dumps(batch(call())).encode() if method == "POST" else None
    assert status == http.request(method, sandbox.url + path, body=body, headers=headers).status
    assert [] == sandbox.accepted


@pytest.mark.parametrize(
    ("content_type", "status"), [("application/json; charset=utf-8", 200), ("text/plain", 415)]
)
def test_content_type(http: urllib3.PoolManager, sandbox: Sandbox, content_type: str, status: int) -> None:
    """A body must call itself JSON, with or without a charset."""
    assert status == post(http, sandbox, batch(call()), Content_Type=content_type).status


def test_length_is_required(http: urllib3.PoolManager, sandbox: Sandbox) -> None:
    """A body sent in chunks is refused, and the connection is not read on."""
    assert (
        411 == http.request("POST", f"{sandbox.url}/v1/batch", body=iter([b"{}", b"{}"]), chunked=True).status
    )
    assert 200 == post(http, sandbox, batch(call())).status


def exchange(sandbox: Sandbox, text: bytes) -> bytes:
    """Send bytes, then read until the connection is closed."""
    with socket.create_connection(("127.0.0.1", port_of(sandbox)), timeout=5) as connection:
        connection.sendall(text)
        connection.shutdown(socket.SHUT_WR)
        answer = b""
        with suppress(ConnectionError):
            while read := connection.recv(65_536):
                answer += read
    return answer


def port_of(sandbox: Sandbox) -> int:
    """The port of a sandbox."""
    return int(sandbox.url.rpartition(":")[2])


GOOD = b"POST /v1/batch HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"

ODD: dict[str, tuple[bytes, bytes]] = {
    "a larger body than is read": (GOOD + b"Content-Length: 2000001\r\n\r\n{", b" 413 "),
    "a length of many digits": (GOOD + b"Content-Length: " + b"9" * 5_000 + b"\r\n\r\n", b" 413 "),
    "a negative length": (GOOD + b"Content-Length: -5\r\n\r\n", b" 411 "),
    "a length in words": (GOOD + b"Content-Length: five\r\n\r\n", b" 411 "),
    "a length and chunks": (
        GOOD + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
        b" 411 ",
    ),
    "another host": (GOOD.replace(b"localhost", b"evil.example") + b"Content-Length: 2\r\n\r\n{}", b" 421 "),
    "a host like this one": (b"GET / HTTP/1.1\r\nHost: 127.0.0.1.evil.example\r\n\r\n", b" 421 "),
    "no host": (b"GET / HTTP/1.0\r\n\r\n", b" 200 "),
    "a target that is no URL": (b"GET http://[ HTTP/1.1\r\nHost: localhost\r\n\r\n", b" 404 "),
    "a limit of many digits": (
        b"GET /?limit=" + b"9" * 5_000 + b" HTTP/1.1\r\nHost: localhost\r\n\r\n",
        b" 400 ",
    ),
    "a long line": (b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\n\r\n", b" 414 "),
    "a long header": (b"GET / HTTP/1.1\r\nA: " + b"a" * 70_000 + b"\r\n\r\n", b" 431 "),
    "many headers": (b"GET / HTTP/1.1\r\n" + b"A: b\r\n" * 200 + b"\r\n", b" 431 "),
    "another method": (b"BREW / HTTP/1.1\r\nHost: localhost\r\n\r\n", b" 501 "),
    "no request": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", b"40"),
    "a byte that is no text": (b"GET /\xff HTTP/1.1\r\nHost: localhost\r\nA: \xff\r\n\r\n", b" 404 "),
    "nothing": (b"", b""),
    "half a line": (b"GET", b""),
}


@pytest.mark.rule("S5")
@pytest.mark.parametrize(("text", "status"), ODD.values(), ids=ODD)
def test_odd_requests_are_answered(
    sandbox: Sandbox, capfd: pytest.CaptureFixture[str], text: bytes, status: bytes
) -> None:
    """Whatever arrives gets a status, and breaks nothing: no traceback, and the next request is served."""
    answer = exchange(sandbox, text)

    assert status in answer.partition(b"\r\n")[0]
    assert b" 200 " in exchange(sandbox, b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
    assert capfd.readouterr().err == ""
    assert [] == sandbox.accepted


FOREIGN = (
    *("http://evil.example", "https://localhost:{port}", "http://localhost:1", "http://localhost"),
    *("http://127.0.0.1.evil.example:{port}", "http://evil.example:{port}", "null", "", "file://"),
)


@pytest.mark.rule("S5")
@pytest.mark.parametrize("origin", FOREIGN)
def test_a_page_of_another_site_is_refused(http: urllib3.PoolManager, sandbox: Sandbox, origin: str) -> None:
    """A browser that sends a request for a page of another site gets 403: no calls, and no look at them."""
    headers = {"Origin": origin.format(port=port_of(sandbox)), "Content-Type": "application/json"}
    body = json.dumps(batch(call())).encode()
    taken = http.request("POST", f"{sandbox.url}/v1/batch", headers=headers, body=body)
    listed = [http.request("GET", sandbox.url + path, headers=headers) for path in ("/", "/calls.json")]

    assert [403, 403, 403] == [answer.status for answer in (taken, *listed)]
    assert [] == sandbox.accepted
    assert all(name.lower() != "access-control-allow-origin" for answer in listed for name in answer.headers)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "LOCALHOST", "[::1]"])
def test_a_page_of_the_sandbox_itself_is_served(
    http: urllib3.PoolManager, sandbox: Sandbox, host: str
) -> None:
    """The sandbox's own origin, by whichever name of this machine, is let in."""
    headers = {"Origin": f"http://{host}:{port_of(sandbox)}", "Host": f"{host}:{port_of(sandbox)}"}

    assert 200 == http.request("GET", f"{sandbox.url}/calls.json", headers=headers).status


def test_noise_is_answered(sandbox: Sandbox, capfd: pytest.CaptureFixture[str]) -> None:
    """Good requests with bytes changed at random break nothing."""
    random = Random(7)
    body = json.dumps(batch(call(timestamp="2026-03-01T12:00:00Z", traits={"a": [1, {"b": 1.5}]}))).encode()
    for _ in range(300):
        text = bytearray(GOOD + b"Content-Length: %d\r\n\r\n" % len(body) + body)
        for _ in range(random.randint(1, 8)):
            text[random.randrange(len(text))] = random.randrange(256)
        exchange(sandbox, bytes(text))

    assert b" 200 " in exchange(sandbox, b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
    assert capfd.readouterr().err == ""


def test_a_small_body_that_unpacks_to_a_large_one(http: urllib3.PoolManager, sandbox: Sandbox) -> None:
    """A gzip body is unpacked no further than shows that it is too large."""
    bomb = gzip.compress(b"0" * 50_000_000)

    assert 400 == post(http, sandbox, bomb, Content_Encoding="gzip").status
    assert [] == [request for request in sandbox.requests if len(request.body) > 500_001]


def test_what_is_kept_has_a_limit_in_bytes() -> None:
    """The newest things are kept, as many as fit by number and by size."""
    kept: Kept[str] = Kept(3, most_bytes=10)
    for thing, size in (("a", 1), ("b", 1), ("c", 1), ("d", 1)):
        kept.append(thing, size)
    assert ["b", "c", "d"] == kept.all()

    kept.append("e", 9)
    assert ["d", "e"] == kept.all()
    kept.append("f", 11)
    assert [] == kept.all()


def test_requests_are_kept(http: urllib3.PoolManager, sandbox: Sandbox) -> None:
    """Each request shows its path, its headers in lower case, its body, its calls and what it got."""
    body = batch(call("a"), call("b"))
    post(http, sandbox, body, X_Retry_Count="2")
    post(http, sandbox, b"{", path="/v1/batch?x=1")
    first, second = sandbox.requests
    assert ("POST", "/v1/batch", "2", body) == (
        first.method,
        first.path,
        first.headers["x-retry-count"],
        first.parsed,
    )
    assert (2, 200) == (first.calls, first.status)
    assert ("/v1/batch", b"{", 0, 400) == (second.path, second.body, second.calls, second.status)


def test_connections_are_kept_alive(sandbox: Sandbox) -> None:
    """A connection stays open after an answer, whether the calls were taken or refused."""
    connection = urllib3.connection.HTTPConnection("127.0.0.1", int(sandbox.url.rpartition(":")[2]))
    connection.connect()
    opened = connection.sock
    for body in (json.dumps(batch(call())).encode(), b"{", b"{}"):
        connection.request("POST", "/v1/batch", body=body, headers={"Content-Type": "application/json"})
        connection.getresponse().read()
        assert connection.sock is opened
    connection.close()


def test_script(http: urllib3.PoolManager, sandbox: Sandbox) -> None:
    """Scripted answers are given one per POST, take no calls, and then the rules are back."""
    page = "<html>sign in</html>"
    sandbox.script(
        [
            Reply(429, retry_after=7),
            Reply(529),
            Reply(307, location="/elsewhere"),
            Reply(200, body=page, content_type="text/html"),
        ]
    )
    throttled, overloaded, moved, portal = (post(http, sandbox, batch(call())) for _ in range(4))
    assert (429, "7", "7") == (
        throttled.status,
        throttled.headers["Retry-After"],
        throttled.headers["X-RateLimit-Reset"],
    )
    assert (529, None) == (overloaded.status, overloaded.headers.get("Retry-After"))
    assert (307, "/elsewhere") == (moved.status, moved.headers["Location"])
    assert (200, "text/html", page) == (portal.status, portal.headers["Content-Type"], portal.data.decode())
    assert [] == sandbox.accepted
    assert SUCCESS == post(http, sandbox, batch(call())).json()
    assert [429, 529, 307, 200, 200] == [request.status for request in sandbox.requests]
    assert (1, []) == (len(sandbox.accepted), sandbox.duplicates)


def test_plain_answer_follows_the_rules(http: urllib3.PoolManager, sandbox: Sandbox) -> None:
    """A plain answer in a script lets its request through to the rules; any other stands above them."""
    sandbox.script([Reply(), Reply(), Reply(500)])
    assert [200, 400, 500] == [post(http, sandbox, body).status for body in (batch(call()), b"{", b"{")]
    assert 1 == len(sandbox.accepted)


def test_lost_answer(http: urllib3.PoolManager, sandbox: Sandbox) -> None:
    """With a lost answer the client sees a broken connection although the calls were taken."""
    sandbox.script([Reply(lost=True)])
    with pytest.raises(urllib3.exceptions.ProtocolError):
        post(http, sandbox, batch(call()))
    assert 1 == len(sandbox.accepted)
    assert 200 == post(http, sandbox, batch(call())).status
    assert (["m1"], [None, 200]) == (sandbox.duplicates, [request.status for request in sandbox.requests])


def test_refused_connection(http: urllib3.PoolManager, sandbox: Sandbox) -> None:
    """With a refused request the client sees a broken connection and nothing was taken."""
    sandbox.script([Reply(refused=True)])
    with pytest.raises(urllib3.exceptions.ProtocolError):
        post(http, sandbox, batch(call()))
    assert [] == sandbox.accepted
    assert [(b"", None)] == [(request.body, request.status) for request in sandbox.requests]


def test_body_cut_off_is_not_taken(sandbox: Sandbox) -> None:
    """A client that dies in the middle of its body has sent nothing."""
    body = json.dumps(batch(call())).encode()
    with socket.create_connection(("127.0.0.1", int(sandbox.url.rpartition(":")[2]))) as connection:
        head = "POST /v1/batch HTTP/1.1\r\nContent-Type: application/json\r\n"
        connection.sendall(f"{head}Content-Length: {len(body) + 1}\r\n\r\n".encode() + body)
        connection.shutdown(socket.SHUT_WR)
        assert b"" == connection.recv(1)
    assert 0 == sandbox.summary()["requests"]


def test_reject_if(http: urllib3.PoolManager) -> None:
    """A batch is answered 400 for the one call in it that is to be rejected, and passes without it."""
    with Sandbox(reject_if=lambda found: found["userId"] == "bad") as sandbox:
        assert 400 == post(http, sandbox, batch(call("a"), call("b", userId="bad"))).status
        assert 200 == post(http, sandbox, batch(call("a"))).status
        assert ["a"] == [accepted["messageId"] for accepted in sandbox.accepted]


def test_a_rate_is_kept_by_429(http: urllib3.PoolManager) -> None:
    """Calls beyond the rate are answered 429 with a wait, after which there is room; they are not taken."""
    moments = [datetime(2026, 3, 1, tzinfo=UTC)]
    with Sandbox(failures=Failures.parse("rate=10"), now=lambda: moments[-1]) as sandbox:
        calls = [call(f"m{n}") for n in range(25)]
        assert [200, 429] == [post(http, sandbox, batch(*calls)).status for _ in range(2)]
        moments.append(moments[-1] + timedelta(seconds=1))
        again = post(http, sandbox, batch(call("late")))
        assert (429, "1") == (again.status, again.headers["Retry-After"])
        moments.append(moments[-1] + timedelta(seconds=1))
        assert 200 == post(http, sandbox, batch(call("late"))).status
        assert 26 == len(sandbox.accepted)


def test_faults_text() -> None:
    """Each part of a failures text is understood, and no text means no failures."""
    text = "429=0.05, 503=.5,hang=0.01,lost_answer=0,latency=30ms"
    chances = (
        (0.05, Reply(429, retry_after=1)),
        (0.5, Reply(503)),
        (0.01, Reply(hang=True)),
        (0.0, Reply(lost=True)),
    )
    assert Failures(chances, latency=0.03) == Failures.parse(text)
    assert Failures(latency=1.5) == Failures.parse("latency=1.5s")
    assert Failures(calls_per_second=1_000) == Failures.parse("rate=1000")
    assert Failures() == Failures.parse("")


@pytest.mark.parametrize(
    "bad", ["200=0.1", "429", "429=often", "500=-0.1", "latency=30", "hang=1s", "slow=1", "500=2"]
)
def test_bad_faults_text(bad: str) -> None:
    """A part that is not a failure, or asks for more than certainty, is named."""
    with pytest.raises(ConfigError, match=f"'{bad}'"):
        Failures.parse(f"429=0.1,{bad}")


def test_faults_are_drawn_by_their_chances() -> None:
    """Each answer comes about as often as its probability says, and the same seed draws the same."""
    failures = Failures.parse("429=0.5,500=0.25")
    drawn = [failures.draw(random).status for random in [Random(1)] for _ in range(1000)]
    assert 450 < drawn.count(429) < 550
    assert 200 < drawn.count(500) < 300
    assert drawn == [failures.draw(random).status for random in [Random(1)] for _ in range(1000)]


def test_faults_are_given(http: urllib3.PoolManager) -> None:
    """Drawn failures are answered over HTTP, after the script is used up."""
    with Sandbox(failures=Failures.parse("429=1,latency=1ms")) as sandbox:
        sandbox.script([Reply()])
        assert 200 == post(http, sandbox, batch(call())).status
        answer = post(http, sandbox, batch(call()))
        assert (429, "1") == (answer.status, answer.headers["Retry-After"])


class WatchedFailures(Failures):
    """Failures that tell when a request has arrived."""

    drawn = Event()

    def draw(self, random: Random) -> Reply:
        """Draw as usual, and tell."""
        self.drawn.set()
        return super().draw(random)


@pytest.mark.parametrize("text", ["hang=1", "latency=1000s"])
def test_closing_ends_what_is_under_way(http: urllib3.PoolManager, text: str) -> None:
    """Closing ends idle connections and waiting requests, and nothing of those was taken."""
    failures = WatchedFailures.parse(text)
    assert isinstance(failures, WatchedFailures)
    failures.drawn.clear()
    with ThreadPoolExecutor(1) as threads:
        with Sandbox(failures=failures) as sandbox:
            idle = socket.create_connection(("127.0.0.1", int(sandbox.url.rpartition(":")[2])), timeout=5)
            waiting = threads.submit(post, http, sandbox, batch(call()))
            assert failures.drawn.wait(5)
        with pytest.raises(urllib3.exceptions.ProtocolError):
            waiting.result()
    with idle:
        assert b"" == idle.recv(1)
    assert [] == sandbox.accepted


def test_client_gives_up_on_hanging_request(http: urllib3.PoolManager) -> None:
    """A client can give up on a hanging request and go on over another connection."""
    with Sandbox() as sandbox:
        sandbox.script([Reply(hang=True)])
        with pytest.raises(urllib3.exceptions.TimeoutError):
            http.request(
                "POST",
                f"{sandbox.url}/v1/batch",
                body=b"{}",
                headers={"Content-Type": "application/json"},
                timeout=urllib3.Timeout(connect=5, read=0.05),
            )
        assert 200 == post(http, sandbox, batch(call())).status
        assert [None, 200] == [request.status for request in sandbox.requests]


def test_settings_question(http: urllib3.PoolManager) -> None:
    """The settings of a known key are there, those of an unknown key are not."""
    with Sandbox(unknown_keys={"a/b"}) as sandbox:
        known = http.request("GET", f"{sandbox.url}/v1/projects/key/settings")
        unknown = http.request("GET", f"{sandbox.url}/v1/projects/a%2Fb/settings")
        assert (200, {"integrations": {}}) == (known.status, known.json())
        assert 404 == unknown.status
        assert [
            ("GET", 200),
            ("GET", 404),
        ] == [(request.method, request.status) for request in sandbox.requests]


def test_keep(http: urllib3.PoolManager) -> None:
    """Only the newest calls and requests are held, while the counts and the duplicates go on."""
    with Sandbox(keep=2) as sandbox:
        for number in range(3):
            post(http, sandbox, batch(call(f"m{number}")))
        post(http, sandbox, batch(call("m0")))
        assert ["m1", "m2"] == [accepted["messageId"] for accepted in sandbox.accepted]
        assert (2, ["m0"]) == (len(sandbox.requests), sandbox.duplicates)
        assert {"requests": 4, "accepted": 3, "duplicates": 1, "discarded": {}} == sandbox.summary()


def test_many_clients_at_once(http: urllib3.PoolManager, sandbox: Sandbox) -> None:
    """Of calls that many clients send at once each is counted exactly once."""
    with ThreadPoolExecutor(8) as threads:
        bodies = [batch(*(call(f"{number % 20}-{n}") for n in range(10))) for number in range(40)]
        assert {200} == {
            answer.status for answer in threads.map(lambda body: post(http, sandbox, body), bodies)
        }
    assert {"requests": 40, "accepted": 200, "duplicates": 200, "discarded": {}} == sandbox.summary()


def test_port_in_use(sandbox: Sandbox) -> None:
    """A port that is taken, or is none, is an error that says what to do."""
    for port in (int(sandbox.url.rpartition(":")[2]), 70_000):
        with pytest.raises(ConfigError, match=f"127.0.0.1:{port}") as caught, Sandbox(port):
            pass
        assert caught.value.hint


@pytest.mark.rule("S5")
def test_only_loopback(sandbox: Sandbox) -> None:
    """The sandbox cannot be reached by another address than 127.0.0.1, not even another of the loopback."""
    port = int(sandbox.url.removeprefix("http://127.0.0.1:"))
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.2", port), timeout=5)


STRICT = {
    "an integer of 64 bits": "18446744073709551615",
    "an integer beyond 64 bits": "18446744073709551616",
    "a negative integer beyond 64 bits": "-9223372036854775809",
    "a long integer after a space": " 123456789012345678901234567890",
    "a long integer in a list": "[1,\n123456789012345678901234567890]",
    "a long number with a fraction": "123456789012345678901234567890.5",
    "long digits in a text": '"a 123456789012345678901234567890"',
    "half a surrogate pair": '"\\ud800"',
    "a name twice": '{"a": 1, "a": 2}',
    "a small number": "1e-999",
    "a float": "1e22",
    "minus zero": "-0.0",
}


@pytest.mark.parametrize("text", STRICT.values(), ids=STRICT)
def test_json_is_read_as_python_reads_it(text: str) -> None:
    """What is quick to read and what is not come out as the same values, of the same types."""
    body = f'{{"value":{text}}}'

    assert repr(json.loads(body)) == repr(strict_json(body.encode()))


FLOATS = st.floats(allow_nan=False, allow_infinity=False)


@pytest.mark.thorough
@settings(max_examples=100, deadline=None)
@example(-(2**63) - 1)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | FLOATS | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
        max_leaves=20,
    )
)
def test_any_json_is_read_and_measured(value: Any) -> None:
    """JSON of any kind is read as it was written, and its size is that of its compact text."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    size = len(text.encode())

    assert repr(value) == repr(strict_json(text.encode()))
    assert [True, False] == [exceeds(value, limit) for limit in (size - 1, size)]
    assert value == json.loads(json_bytes(value))
