"""Webhooks at the sandbox: accepted calls are posted to them as Segment does."""

import hashlib
import hmac
import json
import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from itertools import islice
from random import Random
from typing import Any

import pytest
import urllib3
from posts import NOON, batch, call, post

from retl.sandbox.forwarding import ForwardLimits
from retl.sandbox.local_segment import LocalSegment
from retl.sandbox.received import CallOutcome, ReceivedCall
from retl.sandbox.routes import Asked, PageAnswer, Route
from retl.sandbox.server import Sandbox
from retl.sandbox.stand_ins import StandIns
from retl.sandbox.store import Store
from retl.sandbox.webhook import Webhook
from retl.sandbox.webhooks import Webhooks

QUICK = ForwardLimits(first_wait=0.01)
ENOUGH = 20.0
"""Seconds that a test waits at most for what takes a moment."""


class Target:
    """A webhook that notes what it gets.

    Attributes:
        url: where it is.
        got: the requests that it answered.
        answers: gives the status for a call; 200 where it is not set.
    """

    def __init__(self) -> None:
        self.url = ""
        self.got: list[Asked] = []
        self.answers: Callable[[dict[str, Any]], int] = lambda call: 200
        self.headers: dict[str, str] = {}

    def take(self, segment: LocalSegment, asked: Asked) -> PageAnswer:
        """Answer a request, and note it."""
        status = self.answers(json.loads(asked.body))
        self.got.append(asked)
        return PageAnswer(status=status, headers=self.headers)

    @property
    def calls(self) -> list[dict[str, Any]]:
        """The calls that it got."""
        return [json.loads(one.body) for one in self.got]

    @property
    def ids(self) -> list[str]:
        """The message ids of the calls that it got."""
        return [one["messageId"] for one in self.calls]


@pytest.fixture
def target() -> Iterator[Target]:
    """Give a webhook on this machine."""
    made = Target()
    with Sandbox(routes=[Route("POST", "/hook.*", made.take)]) as started:
        made.url = f"{started.url}/hook/key-in-the-path"
        yield made


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    """Give a sandbox where it is always noon."""
    with Sandbox(now=lambda: NOON) as started:
        yield started


@pytest.fixture
def forward(sandbox: Sandbox) -> Iterator[Callable[..., Webhooks]]:
    """Give a function that starts to pass the calls of the sandbox on, until the test ends."""
    with ExitStack() as opened:

        def start(*webhooks: Webhook, limits: ForwardLimits = QUICK) -> Webhooks:
            started = opened.enter_context(Webhooks(limits))
            started.start(webhooks, sandbox.store)
            return started

        yield start


Forward = Callable[..., Webhooks]


@pytest.mark.rule("B17")
def test_each_accepted_call_is_posted_once(
    http: urllib3.PoolManager, sandbox: Sandbox, target: Target, forward: Forward
) -> None:
    """A webhook gets each accepted call, as Segment passes it on; no discarded one, and no duplicate."""
    webhooks = forward(Webhook(target.url))
    post(http, sandbox, batch(call("a"), call("b"), call("a"), call("c", userId="")))

    assert webhooks.wait_until_done(ENOUGH)

    assert sandbox.accepted == target.calls
    assert ["a", "b"] == target.ids
    (told,) = webhooks.summary()
    assert (2, 0, 0, 0, 0) == tuple(
        told[key] for key in ("delivered", "waiting", "retried", "given_up", "missed")
    )


def test_calls_that_came_before_are_posted_too(
    http: urllib3.PoolManager, sandbox: Sandbox, target: Target, forward: Forward
) -> None:
    """A webhook begins with the oldest call that the sandbox has."""
    post(http, sandbox, batch(*(call(f"m{number}") for number in range(20))))

    assert forward(Webhook(target.url)).wait_until_done(ENOUGH)

    assert [f"m{number}" for number in range(20)] == target.ids


def test_the_headers_are_segments_and_the_customers(
    http: urllib3.PoolManager, sandbox: Sandbox, target: Target, forward: Forward
) -> None:
    """A request is JSON from Segment, with the customer's headers; without a secret it is not signed."""
    webhooks = forward(Webhook(target.url, {"Authorization": "Bearer k", "X-Team": "crm"}))
    post(http, sandbox, batch(call()))
    assert webhooks.wait_until_done(ENOUGH)

    (got,) = target.got

    assert "application/json" == got.headers["content-type"]
    assert "Segment (Actions)" == got.headers["user-agent"]
    assert ("Bearer k", "crm") == (got.headers["authorization"], got.headers["x-team"])
    assert "x-signature" not in got.headers


def test_a_secret_signs_the_body(
    http: urllib3.PoolManager, sandbox: Sandbox, target: Target, forward: Forward
) -> None:
    """X-Signature is the hexadecimal HMAC-SHA1 of the body as it is sent."""
    webhooks = forward(Webhook(target.url, secret="s"))
    post(http, sandbox, batch(call(traits={"name": "Zoë"})))
    assert webhooks.wait_until_done(ENOUGH)

    (got,) = target.got

    assert hmac.new(b"s", got.body, hashlib.sha1).hexdigest() == got.headers["x-signature"]


@pytest.mark.rule("B17")
@pytest.mark.parametrize("status", [408, 423, 429, 500, 502, 503, 504, 599])
def test_a_call_is_tried_again(
    http: urllib3.PoolManager, sandbox: Sandbox, target: Target, forward: Forward, status: int
) -> None:
    """After a busy or failing answer a call is posted again, until it is taken."""
    answers = iter([status, status])
    target.answers = lambda call: next(answers, 200)
    webhooks = forward(Webhook(target.url))
    post(http, sandbox, batch(call("a")))

    assert webhooks.wait_until_done(ENOUGH)

    assert ["a", "a", "a"] == target.ids
    (told,) = webhooks.summary()
    assert (1, 2, 0) == (told["delivered"], told["retried"], told["given_up"])
    assert f"answered {status}" == told["last_error"]["error"]


@pytest.mark.rule("B17")
@pytest.mark.parametrize("status", [301, 400, 401, 403, 404, 410, 422, 501])
def test_a_call_is_given_up(
    http: urllib3.PoolManager, sandbox: Sandbox, target: Target, forward: Forward, status: int
) -> None:
    """After any other answer a call is not posted again; the next one of its user goes on."""
    target.answers = lambda call: status if call["messageId"] == "a" else 200
    webhooks = forward(Webhook(target.url))
    post(http, sandbox, batch(call("a"), call("b")))

    assert webhooks.wait_until_done(ENOUGH)

    assert ["a", "b"] == target.ids
    (told,) = webhooks.summary()
    assert (1, 0, 1) == (told["delivered"], told["retried"], told["given_up"])


def test_integrations_switch_webhooks_off(
    http: urllib3.PoolManager, sandbox: Sandbox, target: Target, forward: Forward
) -> None:
    """A call whose `integrations` switch all destinations off, or webhooks, is not posted, but counted."""
    webhooks = forward(Webhook(target.url))
    calls = (call("a", integrations={"All": False}), call("b", integrations={"Webhooks": False}), call("c"))
    post(http, sandbox, batch(*calls))

    assert webhooks.wait_until_done(ENOUGH)

    assert ["c"] == target.ids
    assert 2 == webhooks.summary()[0]["switched_off"]


@pytest.mark.rule("B18")
def test_no_redirect_is_followed(
    http: urllib3.PoolManager, sandbox: Sandbox, target: Target, forward: Forward
) -> None:
    """A webhook on this machine cannot lead the calls elsewhere."""
    target.answers, target.headers = lambda call: 307, {"Location": target.url + "/elsewhere"}
    webhooks = forward(Webhook(target.url))
    post(http, sandbox, batch(call()))

    assert webhooks.wait_until_done(ENOUGH)

    assert 1 == len(target.got)
    assert 1 == webhooks.summary()[0]["given_up"]


def test_a_call_is_given_up_when_its_time_is_over(
    http: urllib3.PoolManager, sandbox: Sandbox, target: Target, forward: Forward
) -> None:
    """A call is not tried longer than Segment does, which is four hours and here a moment."""
    target.answers = lambda call: 503
    webhooks = forward(Webhook(target.url), limits=ForwardLimits(first_wait=0.01, give_up_seconds=0.1))
    post(http, sandbox, batch(call()))

    assert webhooks.wait_until_done(ENOUGH)

    (told,) = webhooks.summary()
    assert (0, 1) == (told["delivered"], told["given_up"])
    assert len(target.got) == told["retried"] + 1


def test_an_answer_that_takes_too_long_is_none(
    http: urllib3.PoolManager, sandbox: Sandbox, target: Target, forward: Forward
) -> None:
    """A webhook that does not answer in time gets the call again."""
    release = threading.Event()
    first = iter([True])

    def answer(call: dict[str, Any]) -> int:
        if next(first, False):
            release.wait(ENOUGH)
        return 200

    target.answers = answer
    webhooks = forward(Webhook(target.url), limits=ForwardLimits(answer_seconds=0.2, first_wait=0.01))
    post(http, sandbox, batch(call()))

    assert webhooks.wait_until_done(ENOUGH)
    release.set()

    (told,) = webhooks.summary()
    assert (1, 1) == (told["delivered"], told["retried"])


@pytest.mark.rule("B17")
def test_calls_of_a_user_keep_their_order(
    http: urllib3.PoolManager, sandbox: Sandbox, target: Target, forward: Forward
) -> None:
    """Whatever fails in between, the calls of one user are taken in the order in which they came."""
    random, lock = Random(7), threading.Lock()
    taken: list[tuple[str, str]] = []

    def answer(call: dict[str, Any]) -> int:
        with lock:
            if random.random() < 0.3:
                return 503
            taken.append((call["userId"], call["messageId"]))
            return 200

    target.answers = answer
    webhooks = forward(Webhook(target.url), limits=ForwardLimits(first_wait=0.001))
    sent = [(f"u{random.randrange(7)}", f"m{number}") for number in range(150)]
    for start in range(0, 150, 30):
        calls = (call(id_, userId=user) for user, id_ in sent[start : start + 30])
        post(http, sandbox, batch(*calls))

    assert webhooks.wait_until_done(ENOUGH)

    for user in {user for user, _ in sent}:
        assert [id_ for one, id_ in sent if one == user] == [id_ for one, id_ in taken if one == user]
    assert webhooks.summary()[0]["retried"] > 0


class BusyStore(Store):
    """A store in which a call arrives whenever somebody is about to read, as long as there are some."""

    def __init__(self, coming: Iterable[str]) -> None:
        super().__init__()
        self._coming = iter(coming)
        self._seq = 0

    def arrive(self) -> None:
        """Take the next call."""
        for message_id in islice(self._coming, 1):
            self._seq += 1
            accepted = {**call(message_id), "timestamp": "2026-03-01T12:00:00.000Z"}
            self.add([ReceivedCall(self._seq, NOON, CallOutcome.ACCEPTED, None, accepted, None, None)], 100)

    def read(self, query: str, parameters: Sequence[Any] = ()) -> list[dict[str, Any]]:
        """Read, with the call that has just arrived."""
        self.arrive()
        return super().read(query, parameters)


def test_calls_that_arrive_meanwhile_are_posted_once(target: Target) -> None:
    """A call that arrives while others are read is posted, and not twice."""
    ids = [f"m{number}" for number in range(10)]
    store = BusyStore(ids)

    with Webhooks(QUICK) as webhooks:
        webhooks.start([Webhook(target.url)], store)
        for number in range(0, 10, 2):  # two at a time: one now, and one as it is read
            store.arrive()
            assert until(lambda so_far=number: webhooks.summary()[0]["delivered"] >= so_far + 2)
        assert webhooks.wait_until_done(ENOUGH)
    store.close()

    assert ids == target.ids


def test_one_users_failure_holds_nobody_else_back(
    http: urllib3.PoolManager, sandbox: Sandbox, target: Target, forward: Forward
) -> None:
    """While a call of one user fails again and again, those of others are delivered."""
    others = threading.Event()

    def answer(call: dict[str, Any]) -> int:
        if call["messageId"] == "last":
            others.set()
        return 500 if call["userId"] == "poor" and not others.is_set() else 200

    target.answers = answer
    webhooks = forward(Webhook(target.url), limits=ForwardLimits(first_wait=0.001))
    calls = [call("a", userId="poor"), call("b", userId="poor")]
    calls += [call(f"m{number}", userId=f"u{number}") for number in range(20)] + [call("last")]
    post(http, sandbox, batch(*calls))

    assert webhooks.wait_until_done(ENOUGH)

    assert 23 == webhooks.summary()[0]["delivered"]
    assert target.ids.index("last") < target.ids.index("b")


def test_several_webhooks_do_not_wait_for_each_other(
    http: urllib3.PoolManager, sandbox: Sandbox, target: Target, forward: Forward
) -> None:
    """Each webhook gets all calls; one that cannot be reached takes nothing from the other."""
    limits = ForwardLimits(first_wait=0.01, give_up_seconds=0.1)
    webhooks = forward(Webhook(f"http://127.0.0.1:{closed_port()}/key"), Webhook(target.url), limits=limits)
    post(http, sandbox, batch(call("a"), call("b")))

    assert webhooks.wait_until_done(ENOUGH)

    assert ["a", "b"] == target.ids
    down, up = webhooks.summary()
    assert (0, 2, 2, 0) == (down["delivered"], down["given_up"], up["delivered"], up["given_up"])
    assert "refused" in down["last_error"]["error"]
    assert up["last_error"] is None


def closed_port() -> int:
    """A port at which nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


@pytest.mark.rule("B18")
def test_no_secret_is_shown(http: urllib3.PoolManager, sandbox: Sandbox, forward: Forward) -> None:
    """Summary, error and the webhook as text have neither the URL's key, a header nor the secret."""
    url = f"http://user:password-1@127.0.0.1:{closed_port()}/key-in-the-path?token=key-in-the-query"
    webhook = Webhook(url, {"Authorization": "Bearer key-in-a-header"}, "shared-secret")
    webhooks = forward(webhook, limits=ForwardLimits(first_wait=0.01, give_up_seconds=0.01))
    post(http, sandbox, batch(call()))
    assert webhooks.wait_until_done(ENOUGH)

    told = json.dumps(webhooks.summary())

    assert webhooks.summary()[0]["last_error"] is not None
    for secret in ("key-in", "password-1", "shared-secret"):
        assert secret not in told + repr(webhook)
    assert '"webhook": "http://127.0.0.1:' in told


@pytest.mark.rule("B18")
def test_a_webhook_of_this_machine_needs_no_proxy(
    http: urllib3.PoolManager,
    sandbox: Sandbox,
    target: Target,
    forward: Forward,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A proxy of the environment, which would be another host, does not get calls for this machine."""
    monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{closed_port()}")
    webhooks = forward(Webhook(target.url))
    post(http, sandbox, batch(call("a")))

    assert webhooks.wait_until_done(ENOUGH)

    assert ["a"] == target.ids


@pytest.mark.rule("B17")
def test_closing_ends_at_once(
    http: urllib3.PoolManager, sandbox: Sandbox, target: Target, forward: Forward
) -> None:
    """Closing breaks off requests that hang, leaves calls that wait, and ends every thread."""
    hangs, release = threading.Event(), threading.Event()

    def answer(call: dict[str, Any]) -> int:
        hangs.set()
        release.wait(ENOUGH)
        return 200

    target.answers = answer
    webhooks = forward(Webhook(target.url))
    post(http, sandbox, batch(*(call(f"m{number}", userId=f"u{number}") for number in range(50))))
    assert hangs.wait(ENOUGH)

    webhooks.__exit__()

    (told,) = webhooks.summary()
    assert (0, 50) == (told["delivered"], told["waiting"])
    assert not webhooks.wait_until_done(0)
    release.set()
    assert not [one for one in threading.enumerate() if one.name == "webhook"]


def test_closing_ends_a_wait_for_the_next_attempt(
    http: urllib3.PoolManager, sandbox: Sandbox, target: Target, forward: Forward
) -> None:
    """A call that would be tried again in an hour does not hold the end up."""
    target.answers = lambda call: 503
    webhooks = forward(Webhook(target.url), limits=ForwardLimits(first_wait=3600))
    post(http, sandbox, batch(call()))
    assert until(lambda: webhooks.summary()[0]["retried"] == 1)

    webhooks.__exit__()

    assert 1 == webhooks.summary()[0]["waiting"]


def until(is_so: Callable[[], bool], looks: int = 2_000) -> bool:
    """Look until something is so, at most so often."""
    moment = threading.Event()
    return any(is_so() or moment.wait(0.01) for _ in range(looks))


def test_what_is_held_is_bounded(
    http: urllib3.PoolManager, sandbox: Sandbox, target: Target, forward: Forward
) -> None:
    """Of many calls only some are held; the others stay in the store, and are posted all the same."""
    busy = threading.Event()
    target.answers = lambda call: 200 if busy.wait(ENOUGH) else 500
    webhooks = forward(Webhook(target.url), limits=ForwardLimits(held=20))
    post(http, sandbox, batch(*(call(f"m{number}") for number in range(70))))
    assert until(lambda: webhooks.summary()[0]["waiting"] == 20)
    busy.set()

    assert webhooks.wait_until_done(ENOUGH)

    assert [f"m{number}" for number in range(70)] == target.ids


def test_calls_that_the_sandbox_let_go_are_counted(http: urllib3.PoolManager, target: Target) -> None:
    """Calls that made room for others before they could be posted are counted as missed."""
    with Sandbox(store=Store(keep=100)) as sandbox:
        for start in range(0, 300, 50):
            post(http, sandbox, batch(*(call(f"m{start + number}") for number in range(50))))
        with Webhooks(QUICK) as webhooks:
            webhooks.start([Webhook(target.url)], sandbox.store)
            assert webhooks.wait_until_done(ENOUGH)

    (told,) = webhooks.summary()
    assert 300 == told["delivered"] + told["missed"]
    assert 0 < told["delivered"] <= 100


def test_the_counts_are_listed(http: urllib3.PoolManager, target: Target) -> None:
    """The sandbox has the counts of its webhooks at an address."""
    webhooks = Webhooks(QUICK)
    with Sandbox(routes=webhooks.routes) as sandbox, webhooks:
        webhooks.start([Webhook(target.url)], sandbox.store)
        post(http, sandbox, batch(call()))
        assert webhooks.wait_until_done(ENOUGH)
        told = http.request("GET", f"{sandbox.url}/webhooks.json").json()

    assert webhooks.summary() == told
    assert 1 == told[0]["delivered"]


def test_a_stand_in_is_a_webhook(http: urllib3.PoolManager) -> None:
    """Calls reach SuprSend's stand-in of the same sandbox with the key that it knows, and with no other."""
    stand_ins = StandIns({"suprsend": "k"})
    with Sandbox(routes=stand_ins.routes) as sandbox, Webhooks(QUICK) as webhooks:
        url = f"{sandbox.url}/stand-ins/suprsend/connector/segment/"
        keys = ({"Authorization": "Bearer k"}, {"Authorization": "Bearer another"})
        webhooks.start([Webhook(url, headers) for headers in keys], sandbox.store)
        post(http, sandbox, batch(call("a")))
        assert webhooks.wait_until_done(ENOUGH)

    told = [(one["delivered"], one["given_up"]) for one in webhooks.summary()]
    assert [(1, 0), (0, 1)] == told
    assert Counter([200, 401]) == Counter(taken.answer.status for taken in stand_ins.taken("suprsend"))
