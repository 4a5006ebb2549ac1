import base64
import gc
import gzip
import json
import re
import socket
import threading
import weakref
from datetime import UTC, datetime, timedelta, timezone
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from delivery import HURRIED, KEY, NOON, Shop, Table, segment
from segment.analytics import Client
from segment.analytics.consumer import BATCH_SIZE_LIMIT
from servers import Dripping, Recorder, ok

from retl.config.settings import SegmentSettings
from retl.delivery.batch import Batch
from retl.delivery.http import MOST_BYTES, Http, NoAnswer
from retl.delivery.rate_limit import RateLimiter
from retl.delivery.segment import (
    ENVELOPE_BYTES,
    LONGEST_WAIT,
    MAX_BATCH_BYTES,
    Segment,
    Source,
    iso,
    source_of,
)
from retl.errors import ConfigError, DestinationError
from retl.sandbox.failures import Reply
from retl.sandbox.request import Request
from retl.sandbox.server import Sandbox

CALL = b'{"type":"identify","userId":"u1","messageId":"m1","traits":{"name":"Zo\xc3\xab"}}'
PROXIES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in PROXIES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


def test_batches_are_as_large_as_the_official_clients() -> None:
    """A batch with its envelope has no more bytes than one of the official client, and no fewer."""
    assert BATCH_SIZE_LIMIT == MAX_BATCH_BYTES + ENVELOPE_BYTES


def batch(*calls: bytes) -> Batch:
    """A batch of the calls."""
    lengths = np.array([len(call) + 1 for call in calls], dtype=np.int64)
    seqs = np.arange(1, len(calls) + 1, dtype=np.int64)
    return Batch(0, seqs, np.cumsum(lengths) - 1, memoryview(b",".join(calls)))


def post(sandbox: Sandbox, *calls: bytes, retry: int = 0, key: str = KEY) -> Request:
    """Post a batch and give the request that arrived."""
    with segment(sandbox.url, key=key) as to:
        answer = to.post(batch(*calls or (CALL,)), NOON, retry)
    assert 200 == answer.status
    return sandbox.requests[-1]


def closed_port() -> int:
    """A port on which nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
    return port


def test_body_is_one_batch_of_the_calls_as_they_are(sandbox: Sandbox) -> None:
    """The calls' bytes stand untouched between the envelope's parts."""
    request = post(sandbox, CALL, CALL.replace(b"m1", b"m2"))
    assert "/v1/batch" == request.path
    assert CALL + b"," + CALL.replace(b"m1", b"m2") in request.body
    assert {"batch", "sentAt", "writeKey"} == set(request.parsed)
    assert ["m1", "m2"] == [call["messageId"] for call in sandbox.accepted]


@pytest.mark.parametrize("key", [KEY, 'k"e\\y', "schlüssel"])
def test_the_key_goes_in_header_and_body(sandbox: Sandbox, key: str) -> None:
    """Basic auth is base64 of the key and a colon, and the body names the key as well."""
    request = post(sandbox, key=key)
    assert "Basic " + base64.b64encode(f"{key}:".encode()).decode() == request.headers["authorization"]
    assert key == request.parsed["writeKey"]
    assert [] == sandbox.discarded


def test_headers_say_what_comes_and_from_whom(sandbox: Sandbox) -> None:
    """The content is JSON, and the user agent names retl and the client whose rules it follows."""
    headers = post(sandbox).headers
    assert "application/json" == headers["content-type"]
    assert headers["user-agent"].startswith("retl/")
    assert " analytics-python/" in headers["user-agent"]


def test_retry_count_begins_at_0(sandbox: Sandbox) -> None:
    """`X-Retry-Count` tells how many attempts came before, 0 on the first one."""
    sent = [post(sandbox, retry=retry).headers.get("x-retry-count") for retry in (0, 1, 12)]
    assert ["0", "1", "12"] == sent


def test_sent_at_is_of_the_attempt(sandbox: Sandbox) -> None:
    """Each attempt is stamped anew, in UTC with milliseconds."""
    with segment(sandbox.url) as to:
        for seconds in (0, 61.25):
            to.post(batch(CALL), NOON + timedelta(seconds=seconds), 0)
    stamps = [request.parsed["sentAt"] for request in sandbox.requests]
    assert ["2026-03-01T12:00:00.000Z", "2026-03-01T12:01:01.250Z"] == stamps


def test_iso_cuts_to_milliseconds() -> None:
    """A moment never moves into the future by rounding."""
    assert "2026-03-01T12:00:00.999Z" == iso(datetime(2026, 3, 1, 12, 0, 0, 999_999, tzinfo=UTC))


def test_bodies_can_be_compressed(sandbox: Sandbox) -> None:
    """With gzip on, the same body travels compressed, and says so."""
    with Segment(Source(sandbox.url, KEY, gzip=True), RateLimiter(0, NOWHEN), HURRIED, 1) as to:
        assert 200 == to.post(batch(*[CALL] * 50), NOON, 0).status
    (request,) = sandbox.requests
    assert "gzip" == request.headers["content-encoding"]
    assert int(request.headers["content-length"]) < len(request.body)
    assert 50 == len(request.parsed["batch"])


def test_connections_are_kept() -> None:
    """Several posts share one connection."""
    with Recorder([ok(), ok(), ok()]) as server, segment(server.url) as to:
        assert [200] * 3 == [to.post(batch(CALL), NOON, 0).status for _ in range(3)]
    assert 1 == server.connections


@pytest.mark.rule("L6", "S1")
def test_redirects_are_not_followed(sandbox: Sandbox) -> None:
    """A redirect is an answer like another: the batch goes nowhere else, and certainly not as a GET."""
    sandbox.script([Reply(status, location=f"{sandbox.url}/elsewhere") for status in (301, 302, 307)])
    with segment(sandbox.url) as to:
        assert [301, 302, 307] == [to.post(batch(CALL), NOON, 0).status for _ in range(3)]
    assert ["/v1/batch"] * 3 == [request.path for request in sandbox.requests]
    assert [] == sandbox.accepted


@pytest.mark.rule("S1")
def test_netrc_is_ignored(sandbox: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An account in .netrc does not take the write key's place."""
    netrc = tmp_path / ".netrc"
    netrc.write_text("machine 127.0.0.1 login foo password bar\ndefault login foo password bar\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(netrc))
    assert "Basic " + base64.b64encode(b"key:").decode() == post(sandbox).headers["authorization"]


@pytest.mark.parametrize("variable", ["http_proxy", "ALL_PROXY"])
@pytest.mark.parametrize("scheme", ["http://", ""])
def test_proxy_of_the_environment_is_used(
    monkeypatch: pytest.MonkeyPatch, variable: str, scheme: str
) -> None:
    """A request for a host that does not exist arrives at the proxy, with the proxy's account."""
    with Recorder([ok()]) as proxy:
        address = proxy.url.removeprefix("http://")
        monkeypatch.setenv(variable, f"{scheme}me:p%40ss@{address}")
        with segment("http://segment.invalid") as to:
            assert 200 == to.post(batch(CALL), NOON, 0).status
    head = proxy.heads[0]
    assert head.startswith("POST http://segment.invalid/v1/batch ")
    assert "basic " + base64.b64encode(b"me:p@ss").decode().lower() in head.lower()


def test_no_proxy_of_the_environment_is_obeyed(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """A host that NO_PROXY lists is spoken to directly."""
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{closed_port()}")
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    post(sandbox)


def test_unreachable_proxy_is_not_unsure(monkeypatch: pytest.MonkeyPatch) -> None:
    """Calls that did not get past the proxy cannot have reached Segment."""
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{closed_port()}")
    with segment("http://segment.invalid") as to:
        answer = to.post(batch(CALL), NOON, 0)
    assert (None, False) == (answer.status, answer.unsure)
    assert "proxy" in (answer.error or "")


@pytest.mark.parametrize("proxy", ["socks5://me:secret@localhost:1", "http://", "http://me:secret@"])
def test_unusable_proxy_is_a_setting_to_fix(monkeypatch: pytest.MonkeyPatch, proxy: str) -> None:
    """A SOCKS proxy, or one without a host, is refused in a sentence that does not tell its password."""
    monkeypatch.setenv("all_proxy", proxy)
    with pytest.raises(ConfigError) as caught:
        segment("http://segment.invalid")
    assert "secret" not in f"{caught.value} {caught.value.hint}"


@pytest.mark.parametrize(
    ("settings", "endpoint", "asks"),
    [
        ({}, "https://api.segment.io", True),
        ({"region": "us"}, "https://api.segment.io", True),
        ({"region": "eu"}, "https://events.eu1.segmentapis.com", True),
        ({"endpoint": "https://in.example.com"}, "https://in.example.com", False),
        ({"endpoint": "https://in.example.com/v1"}, "https://in.example.com", False),
        ({"endpoint": "https://in.example.com/v1/"}, "https://in.example.com", False),
        ({"endpoint": "https://in.example.com/segment/v1/batch"}, "https://in.example.com/segment", False),
    ],
)
def test_settings_name_the_destination(settings: dict[str, Any], endpoint: str, asks: bool) -> None:
    """A region stands for its URL, an endpoint may end in /v1; only Segment's own hosts know about keys."""
    to = source_of(SegmentSettings(**settings), KEY)
    assert endpoint == to.endpoint
    assert asks == (to.settings_url is not None)


def test_the_same_source_has_the_same_hash() -> None:
    """The way an endpoint is written does not make it another; key, region and sandbox do."""
    ways = [{"endpoint": "https://api.segment.io"}, {"endpoint": "https://api.segment.io/v1/"}, {}]
    assert 1 == len({source_of(SegmentSettings(**way), KEY).hash for way in ways})
    others = [
        source_of(SegmentSettings(), KEY),
        source_of(SegmentSettings(), "other"),
        source_of(SegmentSettings(region="eu"), KEY),
        Source("http://127.0.0.1:1", KEY, known_as="sandbox"),
    ]
    assert 4 == len({other.hash for other in others})
    moved = Source("http://127.0.0.1:2", KEY, known_as="sandbox")
    assert moved.hash == others[3].hash


def test_an_endpoint_must_be_a_url() -> None:
    """An address without a host is refused when the way is opened, not when calls are due."""
    with pytest.raises(ConfigError):
        segment("localhost:8080")


def asking(sandbox: Sandbox, key: str, url: str | None = None) -> Segment:
    """A way to a sandbox that can be asked about the key."""
    settings_url = f"{url or sandbox.url}/v1/projects/{key}/settings"
    return Segment(Source(sandbox.url, key, settings_url), RateLimiter(0, NOWHEN), HURRIED, 1)


def test_a_known_key_raises_no_doubt() -> None:
    """Segment knows the key: nothing to say."""
    with Sandbox(unknown_keys=["bad"]) as sandbox, asking(sandbox, "good") as to:
        assert to.check() is None


@pytest.mark.rule("R11")
def test_an_unknown_key_is_an_error_without_the_key() -> None:
    """Segment would answer 200 and drop every call, so the run must not begin."""
    unknowing = Sandbox(unknown_keys=["bad-key"])
    with unknowing, asking(unknowing, "bad-key") as to, pytest.raises(DestinationError) as caught:
        to.check()
    assert 2 == caught.value.exit_code
    assert "bad-key" not in f"{caught.value} {caught.value.hint}"


def test_a_question_without_answer_is_only_a_doubt(sandbox: Sandbox) -> None:
    """Where nobody can be asked the run goes on, and says so without telling the key."""
    with asking(sandbox, "my-key", f"http://127.0.0.1:{closed_port()}") as to:
        doubt = to.check()
    assert doubt is not None
    assert "could not ask Segment" in doubt
    assert "refused" in doubt
    assert "my-key" not in doubt


def test_a_forbidding_gateway_is_only_a_doubt() -> None:
    """A 403 comes from something in between that blocks the host; it says nothing about the key."""
    with Recorder([b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n"]) as gateway:
        there = Source(gateway.url, KEY, f"{gateway.url}/settings")
        to = Segment(there, RateLimiter(0, NOWHEN), HURRIED, 1)
        with to:
            assert "HTTP 403" in (to.check() or "")


def test_an_unreachable_endpoint_is_not_unsure() -> None:
    """No connection, no calls: Segment cannot have them."""
    with segment(f"http://127.0.0.1:{closed_port()}") as to:
        answer = to.post(batch(CALL), NOON, 0)
    assert (None, False) == (answer.status, answer.unsure)
    assert re.fullmatch(
        r"Failed to establish a new connection: \[Errno \d+\] Connection refused", answer.error or ""
    )


def test_a_name_without_address_is_not_unsure() -> None:
    """A host that cannot be found has not got the calls."""
    with segment("http://segment.invalid") as to:
        answer = to.post(batch(CALL), NOON, 0)
    assert (None, False) == (answer.status, answer.unsure)


def test_a_request_without_an_answer_lets_go_of_its_body(sandbox: Sandbox) -> None:
    """Nothing keeps the calls in memory until Python looks for objects that hold each other."""
    sandbox.script([Reply(lost=True)])
    http, calls = Http(sandbox.url, 1), memoryview(b'{"batch": []}')
    kept = weakref.ref(calls)
    gc.disable()
    try:
        with pytest.raises(NoAnswer):
            http.request("POST", f"{sandbox.url}/v1/batch", {}, (calls,))
        del calls
        assert kept() is None
    finally:
        gc.enable()
        http.close()


@pytest.mark.parametrize("answer", [Reply(lost=True), Reply(refused=True)], ids=["lost", "refused"])
def test_a_connection_that_breaks_after_the_request_is_unsure(sandbox: Sandbox, answer: Reply) -> None:
    """Once the request is out, nobody can know whether Segment took the calls."""
    sandbox.script([answer])
    with segment(sandbox.url) as to:
        found = to.post(batch(CALL), NOON, 0)
    assert (None, True) == (found.status, found.unsure)
    assert "object at" not in (found.error or "")


@pytest.mark.rule("L6")
@pytest.mark.parametrize(
    "half",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{",
        b"HTTP/1.1 200 OK\r\nContent-Le",
        b"HTTP/1.1 200 OK\r\n",
        b"HTTP/1.1 200",
    ],
)
def test_an_answer_cut_off_in_the_middle_is_unsure(half: bytes) -> None:
    """Half an answer is none, wherever it was cut."""
    with Recorder([half]) as server, segment(server.url) as to:
        found = to.post(batch(CALL), NOON, 0)
    assert (None, True) == (found.status, found.unsure)


HUGE = [
    b"HTTP/1.1 200 OK\r\nContent-Length: 900000000\r\n\r\n" + b"x" * 300_000,
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"493e0\r\n" + b"x" * 300_000 + b"\r\n",
    b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + b"x" * 300_000,
]


@pytest.mark.rule("L12")
@pytest.mark.parametrize("answer", HUGE, ids=["announced", "chunked", "until it closes"])
def test_of_a_huge_answer_only_the_beginning_is_read(answer: bytes) -> None:
    """Whatever a server sends, no more than 64 KB of it is read, and the next request is whole."""
    next_answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"
    with Recorder([answer, next_answer]) as server, segment(server.url) as to:
        found = to.post(batch(CALL), NOON, 0)
        assert (200, "x" * MOST_BYTES) == (found.status, found.body)
        assert "{}" == to.post(batch(CALL), NOON, 0).body
    assert 2 == server.connections


@pytest.mark.thorough
def test_a_packed_answer_is_unpacked_within_bounds() -> None:
    """A gzip bomb of 100 MB takes 64 KB, and what is broken is taken as it is."""
    bomb = gzip.compress(b"x" * 100_000_000)
    assert len(bomb) > MOST_BYTES
    head = b"HTTP/1.1 500 No\r\nContent-Encoding: gzip\r\nContent-Length: %d\r\n\r\n"
    answers = [head % len(text) + text for text in (bomb, gzip.compress(b"busy"), b"not gzip")]
    with Recorder(answers) as server, segment(server.url) as to:
        bodies = [to.post(batch(CALL), NOON, 0).body for _ in range(3)]
    assert ["x" * MOST_BYTES, "busy", "not gzip"] == bodies


@pytest.mark.rule("L12")
@pytest.mark.parametrize("tls", [False, True], ids=["http", "https"])
@pytest.mark.parametrize("head", [b"", b"Connection: close\r\n\r\n"], ids=["in the head", "in the body"])
def test_an_answer_that_never_ends_is_broken_off(tmp_path: Path, tls: bool, head: bytes) -> None:
    """A server that sends a byte now and then, in the head or in the body, is left after a limit in all."""
    with Dripping(tmp_path if tls else None, head) as server:
        http = Http(server.url, 1, server.certificate, most_seconds=0.2)
        with pytest.raises(NoAnswer) as caught:
            http.request("POST", server.url, {}, b"{}")
        http.close()
    assert caught.value.left


@pytest.mark.rule("E12")
def test_the_key_is_in_no_text(sandbox: Sandbox) -> None:
    """Neither a repr nor what a gateway quotes from the request gives the write key away."""
    to = source_of(SegmentSettings(write_key="wk-secret"), "wk-secret")
    sandbox.script([Reply(400, body="bad request: writeKey=wk-secret")])
    with segment(sandbox.url, key="wk-secret") as way:
        answer = way.post(batch(CALL), NOON, 0)
        assert "bad request: writeKey=…" == answer.body
        assert "wk-secret" not in f"{to!r} {to} {way!r} {way.source!r} {answer!r}"


@pytest.mark.parametrize(
    ("written", "seconds"),
    [
        (None, None),
        (0, 0),
        (7, 7),
        (300, 300),
        (3_600, 3_600),
        (10**30, LONGEST_WAIT),
        (-5, 0),
        ("soon", None),
        (format_datetime(datetime(2020, 1, 1, tzinfo=UTC)), 0),
        (format_datetime(datetime(2100, 1, 1, tzinfo=UTC)), LONGEST_WAIT),
    ],
)
def test_retry_after_is_read(sandbox: Sandbox, written: int | str | None, seconds: int | None) -> None:
    """Seconds are taken in full, a date as the official client takes it, anything else as not said."""
    sandbox.script([Reply(429, retry_after=written)])
    with segment(sandbox.url) as to:
        assert seconds == to.post(batch(CALL), NOON, 0).retry_after


MEANING = (
    "type",
    "userId",
    "anonymousId",
    "groupId",
    "event",
    "traits",
    "properties",
    "messageId",
    "integrations",
)

SYNCS = {
    "identify": """\
sql: SELECT 1
primary_key: id
identify:
  user_id: id
  anonymous_id: device
  traits: {name: name, address.city: city, score: score, vip: vip, tags: {column: tags, as: json}}
  timestamp: at
  message_id: message
  integrations: {All: true, Miso: false}
""",
    "track": """\
sql: SELECT 1
primary_key: id
initial: send
track:
  user_id: id
  anonymous_id: device
  added: {event: Order Completed, timestamp: at, message_id: message}
  properties: {name: name, address.city: city, score: score, vip: vip, tags: {column: tags, as: json}}
  integrations: {All: true, Miso: false}
""",
    "group": """\
sql: SELECT 1
primary_key: id
group:
  user_id: id
  anonymous_id: device
  group_id: company
  traits: {name: name, address.city: city, score: score, vip: vip, tags: {column: tags, as: json}}
  timestamp: at
  message_id: message
  integrations: {All: true, Miso: false}
""",
}

PEOPLE = [
    {
        "id": "u1",
        "device": "d1",
        "company": "c1",
        "name": 'Zoë "Z" O\\Neil\n',
        "city": "Köln",
        "score": 10.5,
        "vip": True,
        "tags": ["a", {"b": None}],
        "at": datetime(2026, 1, 2, 3, 4, 5, 678_000, tzinfo=UTC),
        "message": "m-1",
    },
    {
        "id": "2",
        "device": "d2",
        "company": "77",
        "name": "\U0001f600 </script>",
        "city": "東京",
        "score": -0.25,
        "vip": False,
        "tags": [],
        "at": datetime(2025, 7, 1, 23, 30, tzinfo=timezone(timedelta(hours=-7))),
        "message": "m-2",
    },
]


def meaning(call: dict[str, Any]) -> dict[str, Any]:
    """What a call says, whoever sent it and when."""
    found = {name: call[name] for name in MEANING if name in call}
    return {**found, "instant": datetime.fromisoformat(call["originalTimestamp"])}


@pytest.mark.parametrize("kind", SYNCS)
def test_means_the_same_as_the_official_client(tmp_path: Path, kind: str) -> None:
    """A call through retl's pipeline and the same one through Segment's own client mean the same."""
    with Sandbox() as official, Sandbox() as ours:
        client = Client(KEY, host=official.url, max_retries=0, upload_interval=0.01)
        for person in PEOPLE:
            common = {
                "anonymous_id": person["device"],
                "timestamp": person["at"],
                "integrations": {"All": True, "Miso": False},
                "message_id": person["message"],
            }
            fields = {
                "name": person["name"],
                "address": {"city": person["city"]},
                "score": person["score"],
                "vip": person["vip"],
                "tags": person["tags"],
            }
            if kind == "track":
                client.track(person["id"], "Order Completed", fields, **common)
            elif kind == "group":
                client.group(person["id"], person["company"], fields, **common)
            else:
                client.identify(person["id"], fields, **common)
        client.shutdown()
        people: dict[str, list[Any]] = {
            name: [person[name] for person in PEOPLE] for name in PEOPLE[0] if name != "tags"
        }
        people["at"] = [moment.astimezone(UTC) for moment in people["at"]]
        people["tags"] = [json.dumps(person["tags"]) for person in PEOPLE]
        record = Shop(tmp_path, ours.url, SYNCS[kind]).run(Table(people))
        assert (0, 2) == (record.exit_code, record.calls.delivered)
        assert [] == official.discarded + ours.discarded
        theirs = {call["messageId"]: meaning(call) for call in official.accepted}
        assert theirs == {call["messageId"]: meaning(call) for call in ours.accepted}
        (envelope, *_), (own, *_) = official.requests, ours.requests
    assert set(envelope.parsed) == set(own.parsed)
    for name in ("content-type", "authorization"):
        assert envelope.headers[name] == own.headers[name]


class _Nowhen:
    """A clock for ways that do not wait."""

    def now(self) -> datetime:
        return NOON

    def monotonic(self) -> float:
        return 0.0

    def wait(self, seconds: float, stop: threading.Event) -> bool:
        raise AssertionError("nobody should wait here")


NOWHEN = _Nowhen()
