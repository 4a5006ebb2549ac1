"""Pages that somebody adds to a sandbox."""

import json
from collections.abc import Iterator

import pytest
import urllib3
from posts import batch, call, post

from retl.sandbox.body import RefusalError
from retl.sandbox.failures import Reply
from retl.sandbox.local_segment import LocalSegment
from retl.sandbox.routes import Asked, PageAnswer, Route
from retl.sandbox.server import Sandbox


def start(segment: LocalSegment, asked: Asked) -> PageAnswer:
    """A page in place of the listing."""
    return PageAnswer("<h1>calls</h1>", "text/html; charset=utf-8", headers={"Cache-Control": "max-age=60"})


def user(segment: LocalSegment, asked: Asked) -> PageAnswer:
    """A page that tells what it was asked."""
    told = {"parts": asked.parts, "parameters": asked.parameters, "body": asked.body.decode()}
    return PageAnswer(json.dumps(told))


def many(segment: LocalSegment, asked: Asked) -> PageAnswer:
    """A page that is sent in pieces."""
    return PageAnswer((b"x" * size for size in (1, 0, 100_000)), "text/plain")


def refused(segment: LocalSegment, asked: Asked) -> PageAnswer:
    """A page that cannot be had."""
    raise RefusalError(409, "not now")


ROUTES = (
    Route("GET", "/", start),
    Route("GET", "/users/(?P<id>[^/]+)", user),
    Route("POST", "/users/(?P<id>[^/]+)", user),
    Route("DELETE", "/users/(?P<id>[^/]+)", user),
    Route("GET", "/many", many),
    Route("GET", "/refused", refused),
)


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    """Give a sandbox with pages."""
    with Sandbox(routes=ROUTES) as started:
        yield started


def test_a_page_is_served(http: urllib3.PoolManager, sandbox: Sandbox) -> None:
    """A page stands before what each sandbox has, with headers that let nothing in but what it asks for."""
    answer = http.request("GET", sandbox.url)

    assert (200, b"<h1>calls</h1>") == (answer.status, answer.data)
    assert "text/html; charset=utf-8" == answer.headers["Content-Type"]
    assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
    assert "nosniff" == answer.headers["X-Content-Type-Options"]
    assert "max-age=60" == answer.headers["Cache-Control"]


@pytest.mark.parametrize(("method", "body"), [("GET", ""), ("POST", "a=1"), ("DELETE", "")])
def test_a_page_hears_what_is_asked(
    http: urllib3.PoolManager, sandbox: Sandbox, method: str, body: str
) -> None:
    """The parts of the path, the query and the body reach the page, decoded."""
    url = f"{sandbox.url}/users/a%2Fb%20%C3%A9?tab=miso&q=&tab=insider"
    answer = http.request(method, url, body=body or None)

    parameters = {"tab": "insider", "q": ""}
    assert {"parts": {"id": "a/b é"}, "parameters": parameters, "body": body} == answer.json()


def test_a_page_in_pieces(http: urllib3.PoolManager, sandbox: Sandbox) -> None:
    """A page that is made piece by piece arrives whole, and the connection goes on."""
    answers = [http.request("GET", f"{sandbox.url}/many") for _ in range(2)]

    assert [100_001, 100_001] == [len(answer.data) for answer in answers]
    assert 1 == http.connection_from_url(sandbox.url).num_connections


def test_a_page_may_refuse(http: urllib3.PoolManager, sandbox: Sandbox) -> None:
    """A page that raises a refusal is answered by its status and its words."""
    answer = http.request("GET", f"{sandbox.url}/refused")

    assert (409, {"success": False, "message": "not now"}) == (answer.status, answer.json())


def test_failures_leave_pages_alone(http: urllib3.PoolManager, sandbox: Sandbox) -> None:
    """Pages are no requests of Segment: they are not counted, and do not use up a script."""
    sandbox.script([Reply(500)])
    assert 200 == http.request("POST", f"{sandbox.url}/users/a").status
    assert 500 == post(http, sandbox, batch(call())).status

    assert 1 == sandbox.summary()["requests"]


@pytest.mark.rule("S5")
@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
@pytest.mark.parametrize("path", ["/users/a", "/nothing"])
@pytest.mark.parametrize(
    ("headers", "status"), [({"Origin": "http://evil.example"}, 403), ({"Host": "evil.example"}, 421)]
)
def test_pages_are_for_this_machine_alone(
    http: urllib3.PoolManager, sandbox: Sandbox, method: str, path: str, headers: dict[str, str], status: int
) -> None:
    """A page of another site, and a foreign name of this machine, get no page by any method."""
    assert status == http.request(method, sandbox.url + path, headers=headers).status
