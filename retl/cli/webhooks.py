"""Webhooks on the command line: where a sandbox passes calls on, and what became of them."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import wraps
from typing import Any
from urllib.parse import SplitResult, urlsplit

import click
from rich.text import Text

from retl.cli.console import count
from retl.delivery.address import is_local
from retl.errors import ConfigError
from retl.forms.yaml_file import interpolate
from retl.mask import note
from retl.receivers.data_file import receiver
from retl.receivers.settings import known_receivers
from retl.sandbox.webhook import MOST_WEBHOOKS, Webhook


@dataclass(frozen=True)
class WebhookOptions:
    """The options of webhooks, as they were written.

    Attributes:
        urls: of webhooks, or names of receivers.
        headers: each with its value, and the host before it where there are several webhooks.
        secret: to sign with; None for none.
        hosts: that are named apart from the URLs.
    """

    urls: Sequence[str] = ()
    headers: Sequence[str] = ()
    secret: str | None = None
    hosts: Sequence[str] = ()


_OPTIONS = (
    click.option(
        "--webhook",
        "urls",
        multiple=True,
        metavar="URL",
        help="Post each accepted call to this URL, as Segment's webhooks do. `suprsend` and `miso` are their "
        "stand-ins in this sandbox. Up to five.",
    ),
    click.option(
        "--webhook-header",
        "headers",
        multiple=True,
        metavar="TEXT",
        help="A header for the webhook: 'Authorization: Bearer ${SUPRSEND_KEY}'. Where there are several, "
        "for one host: 'hub.suprsend.com=Authorization: …'.",
    ),
    click.option(
        "--webhook-secret",
        "secret",
        metavar="TEXT",
        help="Sign what is posted, in the header X-Signature: '${SECRET}'.",
    ),
    click.option(
        "--webhook-host",
        "hosts",
        multiple=True,
        metavar="HOST",
        help="A host that a webhook may be at, where its URL has it from a variable.",
    ),
)


def takes_webhooks(command: Callable[..., int]) -> Callable[..., int]:
    """Give a command the options of webhooks, together as its argument `webhooks`."""

    @wraps(command)
    def collected(
        urls: Sequence[str], headers: Sequence[str], secret: str | None, hosts: Sequence[str], **given: Any
    ) -> int:
        return command(webhooks=WebhookOptions(urls, headers, secret, hosts), **given)

    decorated: Callable[..., int] = collected
    for option in reversed(_OPTIONS):
        decorated = option(decorated)
    return decorated


def read_webhooks(options: WebhookOptions, env: Mapping[str, str], own_url: str) -> list[Webhook]:
    """The webhooks that a command line names.

    A webhook is on this machine, or at a host that the command line names, in the URL as it was written there
    or by `--webhook-host`: no variable, and no file, can lead calls to another host.

    Args:
        options: as they were written; `${NAME}` in them comes from the environment.
        env: the environment.
        own_url: of the sandbox, for the stand-ins of receivers.

    Raises:
        ConfigError: a URL, a header or a host is wrong, or a host is not named.
    """
    if len(options.urls) > MOST_WEBHOOKS:
        raise ConfigError(f"there are more than {MOST_WEBHOOKS} webhooks", where="--webhook")
    if (options.headers or options.secret or options.hosts) and not options.urls:
        raise ConfigError("there is no webhook for these options", hint="name one: --webhook URL")
    secret = None if options.secret is None else note(interpolate(options.secret, env, "--webhook-secret"))
    names = [_known_as(written, env) for written in options.urls]
    headers = [_header(written, env, names) for written in options.headers]
    return [
        Webhook(
            _url(written, env, own_url, options.hosts),
            {name: value for host, name, value in headers if host in (None, *known)},
            secret,
            f"the stand-in of {receiver(written).title}" if written in known_receivers() else None,
        )
        for written, known in zip(options.urls, names, strict=True)
    ]


def _url(written: str, env: Mapping[str, str], own_url: str, hosts: Sequence[str]) -> str:
    if written in known_receivers():
        return own_url + _stand_in_path(written)
    url = interpolate(written, env, "--webhook")
    if url != written:
        note(url)
    address = _address(url)
    if address is None:
        raise ConfigError(
            "a webhook is no URL",
            where="--webhook",
            hint="write it as https://host/path, or suprsend, or miso",
        )
    literal = _address(written)
    named = {literal.hostname if literal else None, *(host.lower() for host in hosts)}
    if not is_local(url) and address.hostname not in named:
        raise ConfigError(
            f"a webhook leads to {address.hostname}, which the command line does not name",
            where="--webhook",
            hint=f"if that is where the calls may go: --webhook-host {address.hostname}",
        )
    return url


def _address(url: str) -> SplitResult | None:
    """A URL of HTTP, taken apart; None where it is none."""
    try:
        address = urlsplit(url)
        is_url = address.scheme in ("http", "https") and address.hostname and address.port != 0
    except ValueError:
        return None
    return address if is_url and not re.search(r"[\s\x00-\x1f]", url) else None


def _stand_in_path(name: str) -> str:
    """The path of the stand-in that takes calls as they are."""
    about = receiver(name)
    if about.requests[0].by != "Segment's webhook":
        raise ConfigError(
            f"no webhook of Segment leads to {about.title}",
            where="--webhook",
            hint="its requests are listed at /receivers",
        )
    return f"/stand-ins/{name}{about.stand_in[0].path}"


def _known_as(written: str, env: Mapping[str, str]) -> tuple[str, ...]:
    """The names by which a header may say that it is for a webhook."""
    address = _address(interpolate(written, env, "--webhook"))
    if address is None:
        return (written,)
    return (address.hostname or "", address.netloc.rpartition("@")[2])


_HEADER = re.compile(r"(?:(?P<host>[^\s=]+)=)?(?P<name>[A-Za-z0-9-]+):\s*(?P<value>\S.*)")


def _header(
    written: str, env: Mapping[str, str], names: Sequence[tuple[str, ...]]
) -> tuple[str | None, str, str]:
    """The host that a header is for, where it says one, its name, and its value."""
    where = "--webhook-header"
    found = _HEADER.fullmatch(written)
    if found is None:
        raise ConfigError("a header is not written as `Name: value`", where=where)
    value = note(interpolate(found["value"], env, where))
    if not re.fullmatch(r"[\x20-\x7e]+", value):
        raise ConfigError(f"the value of {found['name']} has other characters than ASCII", where=where)
    if found["host"] is None and len(names) > 1:
        raise ConfigError(
            f"there are several webhooks, and {found['name']} does not say which one it is for",
            where=where,
            hint=f"write the host before it: {names[0][0]}={found['name']}: …",
        )
    if found["host"] is not None and not any(found["host"] in known for known in names):
        raise ConfigError(f"there is no webhook at {found['host']}", where=where)
    return found["host"], found["name"], value


def webhook_report(told: Mapping[str, Any]) -> Text:
    """The outcome of the calls for one webhook, in a line.

    Args:
        told: as `Forwarding.summary` gives it.
    """
    line = Text.assemble(
        ("webhook", "bold"), f" {told['webhook']}: {count(told['delivered'], 'call')} delivered"
    )
    for name, words, style in (
        ("waiting", "waiting", "yellow"),
        ("switched_off", "switched off", ""),
        ("given_up", "given up", "red"),
        ("missed", "missed", "red"),
    ):
        if told[name]:
            line.append(f", {told[name]:,} {words}", style)
    if told["retried"]:
        line.append(f", tried again {count(told['retried'], 'time')}")
    if told["last_error"]:
        line.append(f"; the last error: {told['last_error']['error']}", "dim")
    return line
