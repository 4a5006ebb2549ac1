"""The tables of docs/answers.md are the cases; those of the way to Segment run over real sockets."""

import re
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, suppress
from dataclasses import dataclass, replace
from datetime import timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import NoReturn

import numpy as np
import pytest
import trustme
from delivery import KEY, NOON
from servers import Dripping, Recorder, Scripted, Served, read_request, reset

from retl.clock import SystemClock
from retl.delivery.batch import Batch
from retl.delivery.destination import Attempt
from retl.delivery.rate_limit import RateLimiter
from retl.delivery.response import Action, Response, RetryPolicy, decide
from retl.delivery.segment import Segment, Source

PAGE = Path(__file__).parents[1] / "docs/answers.md"
POLICY = RetryPolicy()
FIRST, LAST = 0, POLICY.retries


def table(letter: str) -> dict[str, list[str]]:
    """The rows of one of the page's tables, by their number, without it."""
    lines = re.findall(rf"^\| ({letter}\d+) \| (.*) \|$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    return {number: [cell.strip() for cell in rest.split("|")] for number, rest in lines}


ANSWERS, WAITS, RESETS, WAYS = table("A"), table("R"), table("X"), table("T")


def statuses(cell: str) -> Iterator[int]:
    """The statuses of a cell such as `404, 500-599`."""
    for part in cell.split(", "):
        first, _, last = part.partition("-")
        yield from range(int(first), int(last or first) + 1)


def decided(response: Response) -> tuple[str, str, str]:
    """Action, wait and end of the retries, in the words of the page."""
    decision = decide(response, FIRST, POLICY, 0.0)
    if decision.action is Action.DELIVERED:
        return "delivered", "", ""
    if decision.action is not Action.RETRY:
        return decision.action.value, "", "at once"
    wait = "as asked" if decision.requested else "counted"
    assert decision.requested or decision.wait == POLICY.base
    late = decide(response, LAST, POLICY, 0.0)
    assert late.may_pass == decision.may_pass
    ends = "at the deadline" if late.may_pass else "after 10 retries"
    if late.action is Action.RETRY:
        assert late.may_pass
    return "retry", wait + (", for all lanes" if decision.for_all else ""), ends


BAD_TEXTS = [
    "<html>Sign in to the hotel's network</html>",
    "\ufeff \n<!DOCTYPE html>",
    '{"success": false, "message": "no"}',
    '{"success": "False"}',
    '{"ok": false, "errors": ["Message ID: m1"], "receivedEvents": 1, "okEvents": 0}',
    '{"errors": ["unknown source"]}',
    '{"error": "unknown source"}',
    '{"status": "error"}',
    '{"message": "a long answer that was cut off',
    "[" * 10_000,
    '{"a":' * 10_000,
]

GOOD_TEXTS = [
    '{"success": true}',
    '{\n  "success": true\n}',
    "",
    "OK",
    "{}",
    '{"ok": true, "errors": [], "error": null, "status": "ok"}',
    '["taken"]',
]

TEXTS = {"A1": GOOD_TEXTS, "A2": BAD_TEXTS}


@pytest.mark.rule("L6")
@pytest.mark.parametrize("row", ANSWERS)
def test_each_answer_leads_to_what_the_page_says(row: str) -> None:
    """What follows from status and text is the row of the page, for each status of that row."""
    cell, _, *expected = ANSWERS[row]
    for status in statuses(cell):
        for text in TEXTS.get(row, ["", "<html>", '{"success": true}']):
            assert tuple(expected) == decided(Response(status, text)), (status, text)


def test_each_status_is_in_one_row() -> None:
    """No answer that HTTP knows is without a row, and none is in two but for its text."""
    listed = [status for row in ANSWERS if row != "A2" for status in statuses(ANSWERS[row][0])]
    assert list(range(100, 1_000)) == sorted(listed)
    assert ANSWERS["A1"][0] == ANSWERS["A2"][0]


RETRIED = [Response(200, "<html>"), Response(429), Response(503), Response(408)]


@pytest.mark.parametrize("response", RETRIED, ids=lambda response: str(response.status))
def test_retry_after_is_obeyed_where_a_retry_follows(response: Response) -> None:
    """It is taken as it is and holds for all lanes; it is counted only where it is not expected to help."""
    asked = replace(response, retry_after=3_600)
    decision = decide(asked, 0, POLICY, 0.9)
    assert (Action.RETRY, 3600.0, True) == (decision.action, decision.wait, decision.for_all)
    assert decision.requested == decision.may_pass
    assert (decide(asked, 1_000, POLICY, 0.9).action is Action.RETRY) == decision.may_pass


@pytest.mark.parametrize("row", [row for row in ANSWERS if ANSWERS[row][2] != "retry"])
def test_retry_after_means_nothing_where_no_retry_follows(row: str) -> None:
    """An answer that no retry follows has no wait, whatever the server says."""
    cell, _, *expected = ANSWERS[row]
    for status in statuses(cell):
        assert tuple(expected) == decided(Response(status, retry_after=60)), status


ANSWERED_AT = "Sun, 01 Mar 2026 12:00:00 GMT"

WRITTEN = {
    "R8": format_datetime(NOON + timedelta(minutes=2), usegmt=True),
    "R9": format_datetime(NOON + timedelta(days=10), usegmt=True),
    "R10": format_datetime(NOON - timedelta(seconds=1), usegmt=True),
    "R11": "9" * 100,
    "R12": "9" * 10_000,
}


@pytest.mark.parametrize("row", WAITS)
def test_each_retry_after_is_read_as_the_page_says(row: str) -> None:
    """Seconds are taken in full; a date counts from the answer's own date, whatever clock is wrong here."""
    cell, expected = WAITS[row]
    written = WRITTEN.get(row, cell.strip("`"))
    asked = "" if written == "none" else f"Retry-After: {written}\r\n"
    answer = f"HTTP/1.1 503 Busy\r\nDate: {ANSWERED_AT}\r\n{asked}Content-Length: 0\r\n\r\n"
    with Recorder([answer.encode()]) as server, way_to(server.url) as to:
        decision = decide(to.post(batch(), NOON, 0), FIRST, POLICY, 0.0)
    assert decision.requested == (expected != "counted")
    assert float(expected.removesuffix(" s").replace("counted", "0.5")) == decision.wait


@pytest.mark.parametrize("row", RESETS)
def test_each_rate_limit_reset_is_read_as_the_page_says(row: str) -> None:
    """The second header of a 429 has seconds to wait; it counts where the first one asks for none."""
    status, *written, expected = RESETS[row]
    names = ("Retry-After", "X-RateLimit-Reset")
    values = [re.sub(r"`(.*)`.*", r"\1", cell) for cell in written]
    asked = "".join(
        f"{name}: {value}\r\n" for name, value in zip(names, values, strict=True) if value != "none"
    )
    answer = f"HTTP/1.1 {status} Busy\r\n{asked}Content-Length: 0\r\n\r\n"
    with Recorder([answer.encode()]) as server, way_to(server.url) as to:
        decision = decide(to.post(batch(), NOON, 0), FIRST, POLICY, 0.0)
    assert decision.requested == (expected != "counted")
    assert float(expected.removesuffix(" s").replace("counted", "0.5")) == decision.wait


def batch() -> Batch:
    """A batch of one call of a megabyte, which no socket takes at once."""
    text = b'{"type":"identify","userId":"u1","messageId":"m1","traits":{"pad":"%s"}}' % (b"x" * 1_000_000)
    return Batch(0, np.array([1]), np.array([len(text)]), memoryview(text))


def way_to(url: str, ssl_cert: str | None = None, most_seconds: float = 5.0) -> Segment:
    """A way to a server, on which a request takes so many seconds at most."""
    source = Source(url, KEY, ssl_cert=ssl_cert)
    return Segment(source, RateLimiter(0, SystemClock()), POLICY, 1, most_seconds=most_seconds)


@dataclass(frozen=True)
class Way:
    """A server, and how it is spoken to."""

    url: str
    ssl_cert: str | None = None
    proxy: str | None = None
    most_seconds: float = 5.0


def closed_port() -> int:
    """A port on which nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
    return port


class Tls(Served):
    """A server with a certificate that nobody knows."""

    def _serve(self) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        trustme.CA().issue_cert("127.0.0.1").configure_cert(context)
        connection, _ = self._server.accept()
        with connection, suppress(OSError):
            context.wrap_socket(connection, server_side=True)


def _plain(connection: socket.socket) -> None:
    connection.recv(1)
    connection.sendall(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")


def _tls_cut(connection: socket.socket) -> None:
    connection.recv(65_536)


def _not_read(connection: socket.socket) -> None:
    connection.recv(1, socket.MSG_PEEK)
    reset(connection)


def _half_read(connection: socket.socket) -> None:
    connection.recv(1_000)
    reset(connection)


def _hanging(connection: socket.socket) -> None:
    read_request(connection)
    connection.recv(1)  # until the other side goes away


def _no_tunnel(connection: socket.socket) -> None:
    connection.recv(65_536)
    connection.sendall(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")


OK = b"HTTP/1.1 200 OK\r\n"
HTML = b"<!DOCTYPE html><title>Sign in</title>"
CHUNKS = b'7\r\n{"succe\r\n6\r\nss": t\r\n4\r\nrue}\r\n'

SAID = {
    "T10": b"",
    "T11": OK + b"Content-Le",
    "T12": OK + b'Content-Length: 17\r\n\r\n{"succ',
    "T13": OK + b"Transfer-Encoding: chunked\r\n\r\n" + CHUNKS,
    "T16": b"SSH-2.0-OpenSSH_9.2\r\n",
    "T17": OK + b"Transfer-Encoding: chunked\r\n\r\n" + CHUNKS + b"0\r\n\r\n",
    "T18": OK + b"\r\n" + b"x" * 300_000,
    "T19": b"HTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"
    + OK
    + b'Content-Length: 17\r\n\r\n{"success": true}',
    "T20": OK + b"Content-Type: text/html\r\nContent-Length: %d\r\n\r\n" % len(HTML) + HTML,
}

DONE: dict[str, tuple[Callable[[socket.socket], None], str]] = {
    "T5": (_plain, "https"),
    "T6": (_tls_cut, "https"),
    "T8": (_not_read, "http"),
    "T9": (_half_read, "http"),
    "T14": (_hanging, "http"),
}


RESOLVED = {"T1": socket.EAI_NONAME, "T2": socket.EAI_AGAIN}


def resolver(error: int) -> Callable[..., NoReturn]:
    """A name server that answers so; which one there is, differs from machine to machine."""

    def fail(*_: object, **__: object) -> NoReturn:
        raise socket.gaierror(error, "not resolved")

    return fail


def prepared(row: str, stack: ExitStack) -> Way:
    """The server of a row."""

    def started(server: AbstractContextManager[Served]) -> str:
        return stack.enter_context(server).url

    match row:
        case "T1" | "T2":
            return Way("http://segment.invalid")
        case "T3":
            return Way(f"http://127.0.0.1:{closed_port()}")
        case "T4":
            return Way(started(Tls("https://127.0.0.1")))
        case "T7":
            return Way("https://segment.invalid", proxy=started(Scripted(_no_tunnel)))
        case "T15":
            return Way(started(Dripping(None, b"\r\n")), most_seconds=0.2)
        case _ if row in SAID:
            return Way(started(Recorder([SAID[row]])))
    act, scheme = DONE[row]
    return Way(started(Scripted(act, scheme)), most_seconds=0.2 if row == "T14" else 5.0)


@pytest.mark.rule("L6", "L12")
@pytest.mark.parametrize("row", WAYS)
def test_each_way_there_ends_as_the_page_says(row: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What follows where the way to Segment breaks somewhere, and whether it may have the calls then."""
    _, action, arrived, ends = WAYS[row]
    with ExitStack() as stack:
        way = prepared(row, stack)
        if row in RESOLVED:  # the system's resolver is asked, which no test can make fail on loopback
            monkeypatch.setattr(socket, "getaddrinfo", resolver(RESOLVED[row]))
        if way.proxy:
            monkeypatch.setenv("https_proxy", way.proxy)
        with way_to(way.url, way.ssl_cert, way.most_seconds) as to:
            decision = to.send(batch(), Attempt(0, FIRST, NOON))
            assert (action, arrived) == (
                decision.action.value,
                "yes" if decision.may_have_arrived else "no",
            ), decision
    if action == "retry":
        assert ends == ("at the deadline" if decision.may_pass else "after 10 retries"), decision
        assert decision.wait >= POLICY.base


def test_an_answer_that_comes_late_is_not_that_of_the_next_request() -> None:
    """Behind a 103 the answer may take its time; it belongs to the request that it answers."""
    taken = threading.Event()

    def act(connection: socket.socket) -> None:
        read_request(connection)
        connection.sendall(b"HTTP/1.1 103 Early Hints\r\n\r\n")
        taken.set()
        connection.sendall(b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n")
        read_request(connection)
        connection.sendall(SAID["T19"])

    with Scripted(act) as server, way_to(server.url) as to:
        assert [503, 200] == [to.post(batch(), NOON, 0).status for _ in range(2)]
    assert taken.is_set()
