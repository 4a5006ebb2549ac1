"""The calls of a sandbox as JSON, and what can be done about them over HTTP."""

import json
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlencode

import pytest
import urllib3
from posts import NOON, batch, call, post

from retl.sandbox.server import Sandbox
from retl.version import __version__


@pytest.fixture
def sandbox(http: urllib3.PoolManager) -> Iterator[Sandbox]:
    """Give a sandbox with a few calls of two syncs, which came at noon."""
    with Sandbox(now=lambda: NOON) as started:
        seen = call("m2", type="track", event="Seen", userId=None, anonymousId="a1")
        users = batch(
            call("m1", traits={"quote": 'say "Ä"'}), seen, call("m1"), sentAt="2026-03-01T11:59:00Z"
        )
        post(http, started, users, X_Retl_Sync="users", X_Retl_Run="r1")
        post(http, started, batch(call("m3", userId="u2"), "bad"), X_Retl_Sync="vip", X_Retl_Run="r2")
        post(http, started, batch(call("m4", userId="")))
        yield started


def seqs(http: urllib3.PoolManager, sandbox: Sandbox, query: str) -> list[int]:
    """The places of the calls that a query lists."""
    return [one["seq"] for one in http.request("GET", f"{sandbox.url}/calls.json?{query}").json()["calls"]]


@pytest.mark.parametrize("path", ["/", "/calls.json"])
def test_listing(http: urllib3.PoolManager, sandbox: Sandbox, path: str) -> None:
    """The listing has the counts and the newest calls, newest last, and is itself uncounted."""
    counts = {
        "requests": 3,
        "accepted": 3,
        "duplicates": 1,
        "discarded": {"bad_request": 1, "id_not_string": 1},
    }
    listed = http.request("GET", sandbox.url + path).json()
    assert counts == listed["summary"] == sandbox.summary()
    assert (6, 0, 6) == (listed["held"], listed["gone"], listed["last"])
    assert [1, 2, 3, 4, 5, 6] == [one["seq"] for one in listed["calls"]]
    assert [5, 6] == [
        one["seq"] for one in http.request("GET", f"{sandbox.url}{path}?limit=2").json()["calls"]
    ]
    assert [] == http.request("GET", f"{sandbox.url}{path}?limit=0").json()["calls"]


def test_a_call_of_the_listing(http: urllib3.PoolManager, sandbox: Sandbox) -> None:
    """A call has its columns by name, and its body as an object; one that was discarded is as it came."""
    first, *_, fifth, sixth = http.request("GET", f"{sandbox.url}/calls.json").json()["calls"]

    assert sandbox.accepted[0] == first.pop("body")
    assert first == {
        "seq": 1,
        "received_at": "2026-03-01T12:00:00.000Z",
        "outcome": "accepted",
        "reason": None,
        "type": "identify",
        "event": None,
        "user_id": "u1",
        "anonymous_id": None,
        "group_id": None,
        "message_id": "m1",
        "sync": "users",
        "run_id": "r1",
        "original_timestamp": None,
        "timestamp": "2026-03-01T12:00:00.000Z",
        "sent_at": "2026-03-01T11:59:00Z",
    }
    assert ("bad", "bad_request", None) == (fifth["body"], fifth["reason"], fifth["timestamp"])
    assert (call("m4", userId=""), None) == (sixth["body"], sixth["sync"])


FILTERS = {
    "after=4": [5, 6],
    "after=1&limit=2": [2, 3],
    "after=0&limit=2": [1, 2],
    "before=3": [1, 2],
    "before=5&limit=2": [3, 4],
    "user=u1": [1, 3],
    "user=a1": [2],
    "event=Seen": [2],
    "type=track": [2],
    "sync=users": [1, 2, 3],
    "run=r2": [4, 5],
    "outcome=accepted": [1, 2, 4],
    "outcome=duplicate": [3],
    "reason=id_not_string": [6],
    "sync=users&outcome=accepted&limit=1": [2],
    "q=SEEN": [2],
    "q=say+%22%C3%A4%22": [1],
    "q=%22messageId%22:%22m3%22": [4],
    "q=%25": [],
    "q=": [1, 2, 3, 4, 5, 6],
    "user=&event=&limit=": [1, 2, 3, 4, 5, 6],
    "event=%27+OR+true": [],
}


@pytest.mark.parametrize(("query", "expected"), FILTERS.items(), ids=FILTERS)
def test_filters(http: urllib3.PoolManager, sandbox: Sandbox, query: str, expected: list[int]) -> None:
    """Each parameter leaves the calls that fit it, all of them together those that fit each."""
    assert expected == seqs(http, sandbox, query)


def test_new_calls_are_followed(http: urllib3.PoolManager, sandbox: Sandbox) -> None:
    """Whoever asks again for what came after the last call misses none and sees none twice."""
    seen: list[int] = []
    for _ in range(5):
        seen += seqs(http, sandbox, f"limit=2&after={seen[-1] if seen else 0}")
        post(http, sandbox, batch(call(f"n{len(seen)}")))

    assert list(range(1, 11)) == seen


@pytest.mark.parametrize(
    "query",
    [
        *("limit=all", "limit=-1", "limit=1.5", "after=x", "before=²", "outcome=lost", "limit=" + "9" * 19),
        *("evnt=Seen", "nothing=1"),
    ],
)
def test_queries_that_mean_nothing(http: urllib3.PoolManager, sandbox: Sandbox, query: str) -> None:
    """A parameter that is no number, or no outcome, or that there is none of, is refused and named."""
    answer = http.request("GET", f"{sandbox.url}/calls.json?{query}")

    assert 400 == answer.status
    assert query.partition("=")[0] in answer.json()["message"]


def test_export(http: urllib3.PoolManager, sandbox: Sandbox) -> None:
    """The export has a line for each call that fits, all of them unless a limit is asked for."""
    listed = http.request("GET", f"{sandbox.url}/calls.json").json()["calls"]
    exported = http.request("GET", f"{sandbox.url}/calls.ndjson")
    last = http.request("GET", f"{sandbox.url}/calls.ndjson?outcome=accepted&limit=1")

    assert listed == [json.loads(line) for line in exported.data.splitlines()]
    assert "application/x-ndjson" == exported.headers["Content-Type"]
    assert "attachment" in exported.headers["Content-Disposition"]
    assert [4] == [json.loads(line)["seq"] for line in last.data.splitlines()]


def test_an_export_without_calls_is_empty(http: urllib3.PoolManager) -> None:
    """Before the first call the listing has none, and the export no line."""
    with Sandbox() as sandbox:
        assert [] == http.request("GET", f"{sandbox.url}/calls.json").json()["calls"]
        assert b"" == http.request("GET", f"{sandbox.url}/calls.ndjson").data


def test_many_calls_are_listed(http: urllib3.PoolManager) -> None:
    """More calls than are read at a time come whole and in order."""
    with Sandbox() as sandbox:
        post(http, sandbox, batch(*(call(f"m{n}") for n in range(2_500))))
        listed = http.request("GET", f"{sandbox.url}/calls.json?limit=10000").json()["calls"]
        exported = http.request("GET", f"{sandbox.url}/calls.ndjson").data.splitlines()

    assert [f"m{n}" for n in range(2_500)] == [one["message_id"] for one in listed]
    assert listed == [json.loads(line) for line in exported]


def test_summary(http: urllib3.PoolManager, sandbox: Sandbox) -> None:
    """The summary has all counts, those of each run, and how the sandbox stands."""
    summary = http.request("GET", f"{sandbox.url}/summary.json").json()

    assert sandbox.started_at.year == int(summary.pop("started_at")[:4])
    at_noon = {"first_at": "2026-03-01T12:00:00.000Z", "last_at": "2026-03-01T12:00:00.000Z"}
    assert summary == {
        **sandbox.summary(),
        "held": 6,
        "gone": 0,
        "last": 6,
        "runs": [
            {**at_noon, "sync": "users", "run_id": "r1", "accepted": 2, "discarded": 0, "duplicates": 1},
            {**at_noon, "sync": "vip", "run_id": "r2", "accepted": 1, "discarded": 1, "duplicates": 0},
        ],
        "failures": "",
        "version": __version__,
    }


@pytest.mark.parametrize(("method", "path"), [("DELETE", "/calls"), ("POST", "/calls/clear")])
def test_clearing(http: urllib3.PoolManager, sandbox: Sandbox, method: str, path: str) -> None:
    """Cleared over HTTP, the sandbox has seen no call, and the places of the next calls go on."""
    assert {"success": True} == http.request(method, sandbox.url + path).json()

    listed = http.request("GET", f"{sandbox.url}/calls.json").json()
    assert ([], 0, 0) == (listed["calls"], listed["held"], listed["summary"]["accepted"])
    post(http, sandbox, batch(call("m1")))
    assert [7] == seqs(http, sandbox, "outcome=accepted")


WORDS = "503=1,latency=5ms"
SET = {
    "json": (json.dumps({"failures": WORDS}), "application/json; charset=utf-8"),
    "text": (f" {WORDS}\n", "text/plain"),
    "nothing said": (WORDS, ""),
}


@pytest.mark.parametrize(("body", "kind"), SET.values(), ids=SET)
def test_failures_are_switched(http: urllib3.PoolManager, sandbox: Sandbox, body: str, kind: str) -> None:
    """The words of `--failures` change what goes wrong, and are read again; none means that nothing does."""
    url = f"{sandbox.url}/faults"
    told = {"failures": WORDS, "chances": {"503": 1.0}, "latency_ms": 5.0, "rate": 0}
    none = {"failures": "", "chances": {}, "latency_ms": 0.0, "rate": 0}
    assert none == http.request("GET", url).json()

    assert told == http.request("POST", url, body=body, headers={"Content-Type": kind} if kind else {}).json()
    assert told == http.request("GET", url).json()
    assert 503 == post(http, sandbox, batch(call("late"))).status
    assert none == http.request("POST", url, body="").json()
    assert 200 == post(http, sandbox, batch(call("late"))).status


@pytest.mark.parametrize(
    ("path", "fields"), [("/faults", {"failures": WORDS}), ("/calls/clear", {})], ids=["faults", "clear"]
)
def test_a_form_leads_back(
    http: urllib3.PoolManager, sandbox: Sandbox, path: str, fields: dict[str, str]
) -> None:
    """A browser that sends a form, without any script, is led back to the start."""
    headers = {"Content-Type": "application/x-www-form-urlencoded"}
    answer = http.request("POST", sandbox.url + path, body=urlencode(fields), headers=headers, redirect=False)

    assert (303, "/") == (answer.status, answer.headers["Location"])
    assert (WORDS if fields else "") == str(sandbox.failures)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ('{"failures": "200=1"}', "'200=1' is not a failure; write failures as"),
        ('{"failures": "500=1,502=1"}', "exceed 1"),
        ('{"failures": 5}', 'a text "failures"'),
        ("[]", 'a text "failures"'),
        ("{", "cannot be read"),
        (b'{"failures": "\xff"}', "cannot be read"),
    ],
)
def test_failures_that_there_are_not(
    http: urllib3.PoolManager, sandbox: Sandbox, body: Any, words: str
) -> None:
    """What is no failure is refused with a hint, and those that were set stay."""
    sandbox.fail(sandbox.failures.parse("503=0.5"))
    headers = {"Content-Type": "application/json"}
    answer = http.request("POST", f"{sandbox.url}/faults", body=body, headers=headers)

    assert 400 == answer.status
    assert words in answer.json()["message"]
    assert "503=0.5" == str(sandbox.failures)


@pytest.mark.rule("S5")
@pytest.mark.parametrize(
    ("method", "path"),
    [
        *(("GET", path) for path in ("/calls.json", "/calls.ndjson", "/summary.json", "/faults")),
        *(("POST", path) for path in ("/calls/clear", "/faults")),
        ("DELETE", "/calls"),
    ],
)
@pytest.mark.parametrize(
    ("headers", "status"), [({"Origin": "http://evil.example"}, 403), ({"Host": "evil.example"}, 421)]
)
def test_other_sites_get_nothing(
    http: urllib3.PoolManager, sandbox: Sandbox, method: str, path: str, headers: dict[str, str], status: int
) -> None:
    """A page of another site can neither look at the calls, nor clear them, nor switch failures."""
    assert status == http.request(method, sandbox.url + path, headers=headers).status
    assert (3, "") == (len(sandbox.accepted), str(sandbox.failures))
