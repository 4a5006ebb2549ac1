"""The sandbox's page over HTTP, without a browser: answers, headers, forms and escaping."""

import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from html import unescape
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import urllib3
from posts import NOON, batch, post
from sandbox_calls import arrived, identify, store_of, track

import retl
import retl.sandbox
from retl.sandbox.failures import Failures
from retl.sandbox.forwarding import ForwardLimits
from retl.sandbox.page.page_routes import page_routes
from retl.sandbox.page.reasons import REASONS, reason_in_words
from retl.sandbox.rehearsed import ReceiverRehearsal
from retl.sandbox.server import Sandbox
from retl.sandbox.store import Store
from retl.sandbox.webhook import Webhook
from retl.sandbox.webhooks import Webhooks

HOSTILE = """"'><img src=x onerror=alert(1)></script>"""

VIEWS = [
    "/",
    "/?call=1",
    "/?q=x&type=track&before=3&user=u",
    "/runs",
    "/users",
    "/user?id=ada",
    "/audiences",
    "/audience?style=segment&name=VIP&side=left",
    "/webhooks",
    "/failures",
    "/failures?once=429",
]


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    """Give a sandbox with the page."""
    with Sandbox(routes=page_routes(), store=Store()) as started:
        yield started


def send(http: urllib3.PoolManager, sandbox: Sandbox, *calls: dict[str, Any]) -> None:
    """Send calls to the sandbox, each under a message id of its own."""
    known = len(sandbox.accepted)
    numbered = [{"messageId": f"m{number}", **one} for number, one in enumerate(calls, known)]
    assert 200 == post(http, sandbox, batch(*numbered)).status


def page(http: urllib3.PoolManager, sandbox: Sandbox, path: str) -> str:
    """The text of a page, its markup included."""
    answer = http.request("GET", sandbox.url + path)
    assert 200 == answer.status, (path, answer.data)
    return answer.data.decode()


def text(html: str) -> str:
    """The words of a page."""
    return " ".join(unescape(re.sub(r"<[^>]*>", " ", html)).split())


@pytest.mark.rule("S9")
@pytest.mark.parametrize("path", VIEWS)
def test_each_view_answers(http: urllib3.PoolManager, sandbox: Sandbox, path: str) -> None:
    """Each view is one page of HTML that loads and runs nothing but the sandbox's own files."""
    send(http, sandbox, identify("ada", plan="pro"), track("ada", "Segment Entered", segment_name="VIP"))
    answer = http.request("GET", sandbox.url + path)
    policy = answer.headers["Content-Security-Policy"]
    html = answer.data.decode()

    assert (200, "text/html; charset=utf-8") == (answer.status, answer.headers["Content-Type"])
    assert "default-src 'none'" in policy
    assert not {"unsafe", "http:", "data:", "*"} & set(re.split(r"[ ;'-]", policy))
    assert ("no-store", "nosniff") == tuple(
        answer.headers[name] for name in ("Cache-Control", "X-Content-Type-Options")
    )
    assert not re.search(r"<script(?! src=)|<style| style=| on\w+=", html)
    assert {"/page/style.css", "/page/script.js", "/page/icon.svg"} == set(
        re.findall(r'(?:src|rel="[\w ]+" href)="([^"]*)"', html)
    )


@pytest.mark.parametrize(
    "path", ["/?call=99", "/user?id=nobody", "/audience?name=x", "/audience?style=y&name=x"]
)
def test_a_thing_that_is_not_there_is_404(http: urllib3.PoolManager, sandbox: Sandbox, path: str) -> None:
    """A page about a call, a user or an audience that the sandbox does not hold says so."""
    assert 404 == http.request("GET", sandbox.url + path).status


@pytest.mark.parametrize(
    "path",
    ["/?before=x&call=-1&q=%00%ff&type=%27%22", "/?user=" + "x" * 30_000, "/user?id=%00", "/pulse?after=9e9"],
)
def test_a_strange_address_is_no_error(http: urllib3.PoolManager, sandbox: Sandbox, path: str) -> None:
    """An address of nonsense gives a page, or says that there is none."""
    send(http, sandbox, identify("ada"))

    assert http.request("GET", sandbox.url + path).status in (200, 404)


def test_a_newcomer_is_told_the_next_command(http: urllib3.PoolManager, sandbox: Sandbox) -> None:
    """Before the first call the page shows commands with the sandbox's own address."""
    shown = text(page(http, sandbox, "/"))

    assert f"curl {sandbox.url}/v1/track" in shown
    assert f"RETL_SANDBOX_PORT={sandbox.url.rpartition(':')[2]} retl run --all --sandbox --open" in shown


@pytest.mark.rule("S9")
@pytest.mark.parametrize("path", ["/", "/?call=1", "/?q=img", "/users", "/user?id={}", "/audiences"])
def test_values_are_text(http: urllib3.PoolManager, sandbox: Sandbox, path: str) -> None:
    """HTML in an id, an event, a trait, a name or a search is shown as it is written."""
    hostile = {HOSTILE: HOSTILE, "vip": True}
    send(
        http,
        sandbox,
        {**identify(HOSTILE, **hostile), "messageId": HOSTILE},
        track(HOSTILE, "Segment Entered", segment_name=HOSTILE),
        track(HOSTILE, HOSTILE, **hostile),
    )
    html = page(
        http,
        sandbox,
        path.format(quote(HOSTILE)),
    )

    assert "<img" not in html
    assert "onerror=alert(1)" in html


@pytest.mark.parametrize("path", ["/", "/?call=1", "/user?id=ada", "/receivers/insider?call=1", "/?call=2"])
def test_a_call_that_is_nested_without_end_is_shown(http: urllib3.PoolManager, path: str) -> None:
    """A call that is as deep as Segment's limits allow, or full of long texts, is no error on any page."""
    with Sandbox(routes=page_routes(ReceiverRehearsal()), store=Store()) as sandbox:
        body = json.dumps(batch(identify("ada", deep="here"))).replace(
            '"here"', '{"a":' * 960 + "1" + "}" * 960
        )
        assert 200 == post(http, sandbox, body.encode()).status
        send(http, sandbox, track("x" * 5_000, "y" * 9_000, **{"z" * 9_000: "v"}))

        assert len(page(http, sandbox, path)) < 300_000


def test_a_discarded_call_tells_why(http: urllib3.PoolManager, sandbox: Sandbox) -> None:
    """A call that Segment would discard has Segment's reason in words, in the list and where it is open."""
    send(http, sandbox, {"type": "track", "userId": "ada"})
    words = reason_in_words("event_not_defined")

    assert words in text(page(http, sandbox, "/"))
    assert f"Segment answered 200 and discarded the call. {words}" in text(page(http, sandbox, "/?call=1"))


def test_a_call_says_which_time_is_which(http: urllib3.PoolManager, sandbox: Sandbox) -> None:
    """An open call shows the four times, and by how much Segment corrected the call's own."""
    call = {**identify("ada"), "timestamp": "2026-03-01T12:00:00.000Z", "messageId": "m1"}
    post(http, sandbox, batch(call, sentAt="2026-03-01T12:00:05.000Z"))
    shown = text(page(http, sandbox, "/?call=1"))

    for name in (
        "originalTimestamp 2026-03-01T12:00:00.000Z",
        "sentAt 2026-03-01T12:00:05.000Z",
        "receivedAt",
    ):
        assert name in shown
    assert "timestamp = originalTimestamp + ( receivedAt" in shown


def test_the_pulse_counts_new_calls(http: urllib3.PoolManager, sandbox: Sandbox) -> None:
    """The page asks how many calls came after the newest that it has, and pass its filter."""
    send(http, sandbox, identify("ada"), track("ada", "Visit"), track("ada", "Order"))
    answer = http.request("GET", sandbox.url + "/pulse?after=1&type=track")

    assert {"newest": 3, "held": 3, "new": 2} == json.loads(answer.data)


@pytest.mark.parametrize(
    ("query", "exported"),
    [
        ("", 3),
        ("?type=track", 2),
        ("?type=track&q=visit", 1),
        ("?type=track&type=group", None),
        ("?q=a+b", None),
    ],
)
def test_the_calls_of_a_filter_are_exported(
    http: urllib3.PoolManager, sandbox: Sandbox, query: str, exported: int | None
) -> None:
    """The calls that are listed can be had as lines of JSON, where the export knows such a filter."""
    send(http, sandbox, identify("ada"), track("ada", "Visit b"), track("ada", "Order"))
    found = re.search(r'href="(/calls.ndjson[^"]*)"', page(http, sandbox, f"/{query}"))
    lines = len(page(http, sandbox, unescape(found[1])).splitlines()) if found else None

    assert exported == lines


def form(http: urllib3.PoolManager, sandbox: Sandbox, path: str, body: str, **headers: str) -> Any:
    """Send a form, as a page of the sandbox does where no other headers are given."""
    fields = {"Content-Type": "application/x-www-form-urlencoded", "Origin": sandbox.url, **headers}
    return http.request("POST", sandbox.url + path, body=body.encode(), headers=fields, redirect=False)


def test_all_calls_are_cleared(http: urllib3.PoolManager, sandbox: Sandbox) -> None:
    """The button forgets all calls, and leads back to a list that waits for the first."""
    send(http, sandbox, identify("ada"))
    answer = form(http, sandbox, "/calls/clear", "")

    assert (303, "/") == (answer.status, answer.headers["Location"])
    assert "Waiting for the first call" in page(http, sandbox, "/")


@pytest.mark.rule("S9")
@pytest.mark.parametrize("path", ["/calls/clear", "/failures", "/failures/once"])
@pytest.mark.parametrize(
    ("headers", "status"),
    [({"Origin": "http://evil.example"}, 403), ({"Origin": "null"}, 403), ({"Host": "evil.example"}, 421)],
    ids=str,
)
def test_a_foreign_page_can_do_nothing(
    http: urllib3.PoolManager, sandbox: Sandbox, path: str, headers: dict[str, str], status: int
) -> None:
    """A form of another site, or one that reached the sandbox by another name, is refused."""
    send(http, sandbox, identify("ada"))

    assert status == form(http, sandbox, path, "500=100&name=500", **headers).status
    assert (1, Failures()) == (len(sandbox.store.read('SELECT * FROM "call"')), sandbox.failures)


def test_failures_are_switched(http: urllib3.PoolManager, sandbox: Sandbox) -> None:
    """The form sets what goes wrong by chance, shows it, and takes it back."""
    values = "429=5&500=2.5&lost_answer=0&hang=&latency=30&rate=1000&others=503%3D0.1"
    answer = form(http, sandbox, "/failures", values)

    assert (303, "/failures") == (answer.status, answer.headers["Location"])
    assert Failures.parse("429=0.05,500=0.025,latency=30ms,rate=1000,503=0.1") == sandbox.failures
    shown = page(http, sandbox, "/failures")
    for name, value in (
        ("429", "5"),
        ("500", "2.5"),
        ("latency", "30"),
        ("rate", "1000"),
        ("others", "503=0.1"),
    ):
        assert re.search(rf'name="{name}" value="{value}"', shown), name
    form(http, sandbox, "/failures", "")
    assert Failures() == sandbox.failures


@pytest.mark.parametrize(
    "values", ["500=80&429=30", "500=x", "500=-3", "others=abc", "latency=1e9", "rate=nan"]
)
def test_failures_that_cannot_be_are_refused(
    http: urllib3.PoolManager, sandbox: Sandbox, values: str
) -> None:
    """A form that makes no sense changes nothing, and says why."""
    answer = form(http, sandbox, "/failures", values)

    assert (400, Failures()) == (answer.status, sandbox.failures)
    assert "Nothing was changed." in text(answer.data.decode())


def test_the_next_request_fails_once(http: urllib3.PoolManager, sandbox: Sandbox) -> None:
    """A failure for the next request comes to that one, and not to the one after it."""
    assert 303 == form(http, sandbox, "/failures/once", "name=500").status
    statuses = [post(http, sandbox, batch(identify("ada"))).status for _ in range(2)]

    assert [500, 200] == statuses
    assert 400 == form(http, sandbox, "/failures/once", "name=nothing").status
    assert re.search(r" 200 1 .* 500 on purpose 1 ", text(page(http, sandbox, "/failures")))


def test_the_end_of_a_list_says_what_it_is(http: urllib3.PoolManager, sandbox: Sandbox) -> None:
    """Below the last line stands that it was the first call, or under filters the first that passes them."""
    send(http, sandbox, identify("ada", plan="pro"), identify("grace", plan="free"))

    assert "That was the first call." in text(page(http, sandbox, "/"))
    assert "No earlier call passes the filters." in text(page(http, sandbox, "/?user=ada"))
    assert "no calls yet" not in text(page(http, sandbox, "/?q=nobody"))


def test_older_calls_that_are_gone_are_counted(http: urllib3.PoolManager) -> None:
    """Where older calls had to make room, the end of the list says how many."""
    with Sandbox(routes=page_routes(), store=Store(keep=50)) as sandbox:
        for _ in range(4):
            send(http, sandbox, *(identify(f"u{number}") for number in range(20)))
        shown = text(page(http, sandbox, "/"))
        gone = sandbox.store.holdings()["gone"]

        assert gone > 0
        assert f"has let go of {gone}" in shown


@pytest.mark.parametrize("path", ["/", "/receivers/insider", "/user?id=ada"])
def test_calls_of_other_days_have_a_date(http: urllib3.PoolManager, path: str) -> None:
    """Above the first call of each day but today a list says the date, as its lines have the time alone."""
    day = 24 * 60 * 60
    since = [0, day, day, 2 * day, (datetime.now(UTC) - NOON).total_seconds()]
    calls = [arrived(seq, identify("ada", n=seq), seconds=seconds) for seq, seconds in enumerate(since, 1)]
    with Sandbox(routes=page_routes(ReceiverRehearsal()), store=store_of(calls)) as sandbox:
        shown = page(http, sandbox, path)

    dates = [f"{moment.day} {moment:%B %Y}" for moment in (NOON + timedelta(days=n) for n in (2, 1, 0))]
    assert dates == re.findall(r'class="day">.*?(\d{1,2} [A-Z][a-z]+ 20\d\d)<', shown)


def test_webhooks_have_a_view(http: urllib3.PoolManager) -> None:
    """Where calls go on to a webhook, there is a view of its counts and its last error, without its key."""
    limits = ForwardLimits(first_wait=0.01, give_up_seconds=0)
    with Webhooks(limits) as webhooks, Sandbox(routes=page_routes(webhooks=webhooks)) as sandbox:
        assert "/webhooks" not in page(http, sandbox, "/")
        webhooks.start([Webhook("http://127.0.0.1:1/key-in-the-path")], sandbox.store)
        send(http, sandbox, identify("ada", plan="pro"))
        assert webhooks.wait_until_done(20)

        shown = page(http, sandbox, "/webhooks")

        assert 'href="/webhooks"' in page(http, sandbox, "/")
    assert "http://127.0.0.1:1/…" in shown
    assert '<td data-label="Given up" class="num">1</td>' in shown
    assert "refused" in text(shown)
    assert "key-in-the-path" not in shown


def test_a_receivers_answer_is_shown(http: urllib3.PoolManager) -> None:
    """A request that Insider would turn down under a 200 is shown with the answer that says so."""
    with Sandbox(routes=page_routes(ReceiverRehearsal()), store=Store()) as sandbox:
        send(http, sandbox, identify("ada", email="nobody"))

        shown = text(page(http, sandbox, "/receivers/insider?call=1"))

    assert "Insider answers 200" in shown
    assert "not a valid email address: nobody" in shown


def test_each_reason_of_segment_has_words() -> None:
    """Each code that the sandbox gives has a sentence, and no other code has one."""
    folder = Path(retl.sandbox.__file__).parent
    rules = (folder / "ingestion.py").read_text(encoding="utf-8")
    given = set(re.findall(r'(?:return|else) "(\w+)"', rules))
    texts = "".join(one.read_text(encoding="utf-8") for one in folder.glob("*.py"))

    assert given
    assert given <= set(REASONS)
    assert set(REASONS) <= set(re.findall(r'"(\w+)"', texts))
    assert "Segment's reason is new_one." == reason_in_words("new_one")
