"""Webhooks on the command line: which calls may go where."""

import pytest
from rich.console import Console

from retl.cli.webhooks import WebhookOptions, read_webhooks, webhook_report
from retl.errors import ConfigError
from retl.mask import masked

OWN = "http://127.0.0.1:8765"
ENV = {
    "KEY": "key-of-suprsend",
    "HOOK": "https://dojo.example.com/hook/key-of-miso",
    "HOST": "elsewhere.example.com",
    "LOCAL": "http://localhost:9000/",
    "ACCENT": "clé",
}


def urls(*written: str, hosts: tuple[str, ...] = ()) -> list[str]:
    """The URLs of webhooks."""
    return [one.url for one in read_webhooks(WebhookOptions(written, hosts=hosts), ENV, OWN)]


@pytest.mark.parametrize(
    ("written", "url"),
    [
        ("http://127.0.0.1:9000/hook", "http://127.0.0.1:9000/hook"),
        ("http://[::1]:9000/", "http://[::1]:9000/"),
        ("${LOCAL}", "http://localhost:9000/"),
        ("https://hub.suprsend.com/connector/segment/", "https://hub.suprsend.com/connector/segment/"),
        ("https://dojo.example.com/${KEY}", "https://dojo.example.com/key-of-suprsend"),
        ("suprsend", f"{OWN}/stand-ins/suprsend/connector/segment/"),
        ("miso", f"{OWN}/stand-ins/miso/segment"),
    ],
)
def test_where_calls_may_go(written: str, url: str) -> None:
    """A host that the command line names, this machine, and stand-ins of the sandbox need no more words."""
    assert [url] == urls(written)


@pytest.mark.rule("B18")
@pytest.mark.parametrize(
    "written", ["${HOOK}", "https://${HOST}/hook", "https://x@${HOST}/", "${HOOK}#127.0.0.1"]
)
def test_no_variable_leads_calls_away(written: str) -> None:
    """A host that comes from a variable is refused, unless the command line names it as well."""
    with pytest.raises(ConfigError, match="which the command line does not name"):
        urls(written)

    assert 1 == len(urls(written, hosts=("dojo.example.com", "ELSEWHERE.example.com")))


@pytest.mark.parametrize(
    "written",
    ["", "nobody", "ftp://127.0.0.1/", "http://", "http://[::1/", "http://127.0.0.1/a b", "datafly"],
)
def test_a_webhook_is_a_url(written: str) -> None:
    """What is no URL of HTTP is refused, and so is a receiver that no webhook reaches."""
    with pytest.raises(ConfigError, match="webhook"):
        urls(written)


def test_there_are_at_most_five() -> None:
    """Segment's destination has up to five webhooks."""
    assert 5 == len(urls(*["miso"] * 5))
    with pytest.raises(ConfigError, match="more than 5"):
        urls(*["miso"] * 6)


def test_headers_of_one_webhook() -> None:
    """Headers are those of the only webhook; variables are filled in, and the values are masked."""
    options = WebhookOptions(["suprsend"], ["Authorization: Bearer ${KEY}", "X-Team:crm"], "${KEY}")

    (webhook,) = read_webhooks(options, ENV, OWN)

    assert {"Authorization": "Bearer key-of-suprsend", "X-Team": "crm"} == webhook.headers
    assert "key-of-suprsend" == webhook.secret
    assert "sent ***" == masked("sent Bearer key-of-suprsend")


def test_each_of_several_webhooks_has_its_headers() -> None:
    """Of several webhooks a header says which one it is for: by host, host and port, or receiver."""
    hooks = ["https://hub.suprsend.com/", "http://127.0.0.1:9000/", "miso"]
    headers = ["hub.suprsend.com=A: 1", "127.0.0.1:9000=B: 2", "miso=C: 3"]

    webhooks = read_webhooks(WebhookOptions(hooks, headers), ENV, OWN)

    assert [{"A": "1"}, {"B": "2"}, {"C": "3"}] == [one.headers for one in webhooks]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (WebhookOptions(["miso", "suprsend"], ["A: 1"]), "does not say which one"),
        (WebhookOptions(["miso"], ["suprsend=A: 1"]), "there is no webhook at suprsend"),
        (WebhookOptions(["miso"], ["A"]), "not written as"),
        (WebhookOptions(["miso"], ["A: ${ACCENT}"]), "other characters than ASCII"),
        (WebhookOptions(["miso"], ["A: x\r\nB: y"]), "not written as"),
        (WebhookOptions(["miso"], ["A: ${UNSET}"]), "UNSET is not set"),
        (WebhookOptions([], ["A: 1"]), "there is no webhook"),
        (WebhookOptions([], [], "secret"), "there is no webhook"),
        (WebhookOptions([], [], None, ["host"]), "there is no webhook"),
    ],
)
def test_options_that_are_wrong(options: WebhookOptions, message: str) -> None:
    """Each mistake is told in a sentence."""
    with pytest.raises(ConfigError, match=message):
        read_webhooks(options, ENV, OWN)


@pytest.mark.parametrize(
    ("told", "line"),
    [
        ({"delivered": 1}, "webhook http://h/…: 1 call delivered"),
        (
            {
                "delivered": 1200,
                "waiting": 3,
                "given_up": 2,
                "missed": 1,
                "retried": 4,
                "last_error": {"at": "2026-03-01T12:00:00+00:00", "error": "answered 503"},
            },
            "webhook http://h/…: 1,200 calls delivered, 3 waiting, 2 given up, 1 missed, tried again 4 times"
            "; the last error: answered 503",
        ),
    ],
)
def test_the_line_of_a_webhook(told: dict[str, object], line: str) -> None:
    """The counts are told in a line, without those that are nothing."""
    none = {
        "webhook": "http://h/…",
        "waiting": 0,
        "switched_off": 0,
        "given_up": 0,
        "missed": 0,
        "retried": 0,
        "last_error": None,
    }
    console = Console(width=200)

    with console.capture() as shown:
        console.print(webhook_report(none | told))

    assert line == shown.get().strip()
