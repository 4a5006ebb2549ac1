"""Receivers at the sandbox: the requests that would reach them, and servers in their place."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
import urllib3
from posts import NOON, batch, call, post

from retl.receivers.settings import read_settings
from retl.sandbox.receivers_api import receiver_routes
from retl.sandbox.rehearsed import ReceiverRehearsal
from retl.sandbox.server import Sandbox
from retl.sandbox.stand_ins import StandIns

INSIDER = {"X-PARTNER-NAME": "myco", "X-REQUEST-TOKEN": "token-1"}
UPSERT = "/stand-ins/insider/api/user/v1/upsert"
SUPRSEND = "/stand-ins/suprsend/connector/segment/"


@pytest.fixture
def stand_ins() -> StandIns:
    """Give stand-ins, of which Insider's knows one key."""
    return StandIns({"insider": "token-1"})


@pytest.fixture
def sandbox(stand_ins: StandIns) -> Iterator[Sandbox]:
    """Give a sandbox with receivers, where it is always noon and Insider has opt-ins mapped."""
    settings = {"insider": read_settings("insider", {"optins": {"email_optin": "newsletter"}})}
    routes = (*receiver_routes(ReceiverRehearsal(settings)), *stand_ins.routes)
    with Sandbox(routes=routes, now=lambda: NOON) as started:
        yield started


def listing(http: urllib3.PoolManager, sandbox: Sandbox, path: str) -> Any:
    """The JSON at an address of the sandbox."""
    answer = http.request("GET", sandbox.url + path)
    assert 200 == answer.status, answer.data
    return answer.json()


def test_each_receiver_has_a_listing(http: urllib3.PoolManager, sandbox: Sandbox) -> None:
    """All receivers are named, each with the address of its listing."""
    told = listing(http, sandbox, "/receivers.json")

    assert ["datafly", "insider", "miso", "suprsend"] == [one["receiver"] for one in told]
    for one in told:
        assert [] == listing(http, sandbox, one["listing"])["calls"]


@pytest.mark.rule("B16")
def test_the_requests_of_an_accepted_call(http: urllib3.PoolManager, sandbox: Sandbox) -> None:
    """A call that was accepted is listed with the request that would reach Insider, by the settings there."""
    traits = {"email": "ada@example.com", "newsletter": True}
    post(http, sandbox, batch(call(traits=traits, timestamp="2026-02-28T09:30:00.000Z")))

    (told,) = listing(http, sandbox, "/receivers/insider.json")["calls"]

    assert (1, "identify", "u1") == (told["seq"], told["type"], told["user_id"])
    (request,) = told["requests"]
    assert "https://unification.useinsider.com/api/user/v1/upsert" == request["url"]
    user = {
        "identifiers": {"custom": {}, "uuid": "u1", "email": "ada@example.com"},
        "attributes": {"email": "ada@example.com", "email_optin": True},
        "not_append": True,
    }
    assert {"users": [user], "platform": "segment"} == request["body"]
    assert (None, False, []) == (told["why_nothing"], told["refused"], told["violations"])


def test_a_webhook_gets_the_call_as_segment_passes_it_on(http: urllib3.PoolManager, sandbox: Sandbox) -> None:
    """The body of SuprSend's request is the accepted call, with what Segment adds to it."""
    post(http, sandbox, batch(call(traits={"email": "ada@example.com"})))

    (told,) = listing(http, sandbox, "/receivers/suprsend.json")["calls"]

    assert sandbox.accepted == [told["requests"][0]["body"]]
    assert "2026-03-01T12:00:00.000Z" == told["requests"][0]["body"]["receivedAt"]


def test_discarded_and_repeated_calls_reach_nothing(http: urllib3.PoolManager, sandbox: Sandbox) -> None:
    """Calls that Segment throws away, and duplicates, are in no receiver's listing."""
    post(http, sandbox, batch(call(), call(), call("m2", userId="")))

    assert [1] == [one["seq"] for one in listing(http, sandbox, "/receivers/miso.json")["calls"]]


def test_a_refused_call_says_why(http: urllib3.PoolManager, sandbox: Sandbox) -> None:
    """Where Segment's destination refuses a call, there is no request, and the reason in words."""
    post(http, sandbox, batch(call(traits={"email": "ada@example.com", "age": "thirty"})))

    (told,) = listing(http, sandbox, "/receivers/insider.json")["calls"]

    assert (True, []) == (told["refused"], told["requests"])
    assert "Segment's destination refuses the call: `age` is no number" == told["why_nothing"]
    assert [("I15", "refused")] == [(one["rule"], one["effect"]) for one in told["violations"]]


@pytest.mark.rule("B16")
def test_a_sync_has_its_own_settings() -> None:
    """For the calls of a sync its own settings count, for those of others the sandbox's."""
    prefix = read_settings("suprsend", {"prefix": True})
    rehearsal = ReceiverRehearsal({}, {"orders": {"suprsend": prefix}})
    order = call(type="track", event="Order Completed")

    names = [
        rehearsal.outcome("suprsend", order, 100, sync).arrival.events[0]["event_name"]
        for sync in ("orders", "users", None)
    ]

    assert ["segment : Order Completed", "Order Completed", "Order Completed"] == names


@pytest.mark.parametrize(
    ("query", "seqs"),
    [
        ("", [1, 2, 3, 4, 5]),
        ("?limit=2", [4, 5]),
        ("?after=2", [3, 4, 5]),
        ("?after=1&limit=2", [2, 3]),
        ("?user=u2", [2, 4]),
        ("?user=a5", [5]),
        ("?user=u2&after=2", [4]),
        ("?after=5", []),
        ("?limit=0", []),
    ],
)
def test_pages_of_a_listing(http: urllib3.PoolManager, sandbox: Sandbox, query: str, seqs: list[int]) -> None:
    """A listing is of the newest calls, or of those after one, and of one user where that is asked."""
    post(http, sandbox, batch(*(call(f"m{number}", userId=f"u{2 - number % 2}") for number in range(1, 5))))
    post(http, sandbox, batch({"type": "track", "event": "Seen", "anonymousId": "a5", "messageId": "m5"}))

    told = listing(http, sandbox, f"/receivers/insider.json{query}")

    assert seqs == [one["seq"] for one in told["calls"]]


def test_the_next_listing_begins_where_one_ended(http: urllib3.PoolManager, sandbox: Sandbox) -> None:
    """`after` of a listing leads through all calls, page by page."""
    post(http, sandbox, batch(*(call(f"m{number}") for number in range(7))))

    found, after = [], 0
    while page := (told := listing(http, sandbox, f"/receivers/miso.json?limit=3&after={after}"))["calls"]:
        found += [one["seq"] for one in page]
        after = told["after"]

    assert [1, 2, 3, 4, 5, 6, 7] == found


@pytest.mark.parametrize(
    ("path", "status"),
    [("/receivers/nobody.json", 404), ("/receivers/miso.json?limit=x", 400), ("/stand-ins/nobody.json", 404)],
)
def test_a_wrong_question(http: urllib3.PoolManager, sandbox: Sandbox, path: str, status: int) -> None:
    """An unknown receiver, and a number that is none, are refused."""
    assert status == http.request("GET", sandbox.url + path).status


@pytest.mark.rule("B16")
def test_insiders_stand_in_takes_the_request_that_is_listed(
    http: urllib3.PoolManager, sandbox: Sandbox, stand_ins: StandIns
) -> None:
    """A listed request is taken by the stand-in, one with a bad email is not, and the listing says so."""
    emails = ["ada@example.com", "nobody"]
    post(http, sandbox, batch(*(call(one, traits={"email": one}) for one in emails)))
    calls = listing(http, sandbox, "/receivers/insider.json")["calls"]
    bodies = [told["requests"][0]["body"] for told in calls]

    answers = [http.request("POST", sandbox.url + UPSERT, json=body, headers=INSIDER) for body in bodies]

    assert [200, 200] == [answer.status for answer in answers]
    assert [told["requests"][0]["answer"]["body"] for told in calls] == [answer.json() for answer in answers]
    assert {"data": {"successful": {"count": 1}, "fail": {}}} == answers[0].json()
    assert ["not a valid email address: nobody"] in answers[1].json()["data"]["fail"]["errors"].values()
    assert bodies == [taken.body for taken in stand_ins.taken("insider")]


@pytest.mark.parametrize(
    ("headers", "body", "status", "answer"),
    [
        ({**INSIDER, "X-REQUEST-TOKEN": "another"}, "{}", 403, {"success": False}),
        ({}, "{}", 403, {"success": False}),
        (INSIDER, "{}", 400, {"error": "users must be defined: bad request"}),
        (INSIDER, "no JSON", 400, {"error": "users must be defined: bad request"}),
    ],
)
def test_insiders_refusals(
    http: urllib3.PoolManager, sandbox: Sandbox, headers: Any, body: str, status: int, answer: Any
) -> None:
    """A bad key and a body without users get the answers of Insider's page."""
    answered = http.request("POST", sandbox.url + UPSERT, body=body, headers=headers)

    assert status == answered.status
    assert answer.items() <= answered.json().items()


def test_a_stand_in_answers_otherwise_when_told(
    http: urllib3.PoolManager, sandbox: Sandbox, stand_ins: StandIns
) -> None:
    """Answers that are lined up come first: Insider's 429 has its own words, a 500 has none."""
    stand_ins.script([429, 500])

    answers = [
        http.request("POST", sandbox.url + UPSERT, json={"users": []}, headers=INSIDER) for _ in range(3)
    ]

    assert [429, 500, 200] == [answer.status for answer in answers]
    assert {"error": "rejected: too many requests"} == answers[0].json()


def test_what_a_stand_in_took_is_listed_without_its_key(http: urllib3.PoolManager, sandbox: Sandbox) -> None:
    """A stand-in's listing has the requests with their answers, and no header."""
    http.request("POST", sandbox.url + SUPRSEND, json=call(), headers={"Authorization": "Bearer very-secret"})

    told = listing(http, sandbox, "/stand-ins/suprsend.json")

    assert [SUPRSEND] == told["addresses"]
    expected = {"path": "/connector/segment/", "body": call(), "answer": {"status": 200, "body": None}}
    assert [expected] == told["taken"]
    assert "very-secret" not in json.dumps(told)


def test_a_stand_in_has_the_addresses_of_its_receiver_alone(
    http: urllib3.PoolManager, sandbox: Sandbox
) -> None:
    """Another path is answered 404, and so is a receiver that is not known; nothing of it reaches Segment."""
    for path in ("/stand-ins/suprsend/elsewhere", "/stand-ins/nobody/"):
        assert 404 == http.request("POST", sandbox.url + path, json={}).status
    assert 0 == sandbox.summary()["requests"]
