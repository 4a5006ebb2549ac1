"""Sends alerts: to a webhook, or through apprise. What a channel was told last stands beside the state.

The file is apart from the state, as an alert may well be about a state that cannot be opened. A channel that
could not be reached is told by the next run.
"""

import hashlib
import json
import logging
import os
import socket
from collections.abc import Mapping
from contextlib import closing, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from retl.alert import Alert, Told, next_told
from retl.aside import Aside
from retl.config.project import Project, channel_url
from retl.config.settings import Notify
from retl.config.sync import Sync
from retl.errors import RetlError
from retl.lazy import lazy_module
from retl.mask import masked
from retl.run import Run

if TYPE_CHECKING:
    import apprise

    from retl.delivery import http
else:
    apprise = lazy_module("apprise")
    http = lazy_module("retl.delivery.http")

ENDING = ".alerts"
"""The file's name, behind that of the state file."""

MOST_SECONDS = 10.0
"""How long one channel may take in all."""


class NotToldError(Exception):
    """A channel did not take an alert; its text says why, without the channel's URL."""


def tell(project: Project, sync: Sync, state_path: Path, run: Run, flags: str = "") -> list[str]:
    """Tell each channel of a sync what a run changed; gives what went wrong with that, in words.

    Args:
        project: whose environment has the URLs.
        sync: the sync.
        state_path: its state file.
        run: how it went.
        flags: options that a command must repeat to mean the same state.
    """
    if not sync.notify:
        return []
    path = state_path.with_name(state_path.name + ENDING)
    before, doubts = _read(path), []
    after = dict(before)
    for number, channel in enumerate(sync.notify):
        try:
            url = channel_url(sync, project, number)
            key = _fingerprint(channel, url)
            alert, now = next_told(channel, before.get(key, Told()), run)
            if alert is not None:
                _send(channel, url, alert, flags)
            after[key] = now  # only now: an alert that does not arrive is one for the next run
        except (NotToldError, RetlError) as error:
            doubts.append(masked(f"an alert was not sent ({channel.kind}): {error}"))
    if after != before:
        try:
            _write(path, after)
        except OSError as error:
            doubts.append(f"what was told cannot be noted in {path}: {error.strerror}")
    return doubts


def _send(channel: Notify, url: str, alert: Alert, flags: str) -> None:
    """Send an alert.

    Raises:
        NotToldError: the channel did not take it.
    """
    text = masked(alert.text(flags))
    if channel.webhook is not None:
        _post(url, {"text": _for_slack(text), "retl": {**alert.as_json(), "host": socket.gethostname()}})
    else:
        _through_apprise(url, text)


def _post(url: str, message: Mapping[str, object]) -> None:
    address = urlsplit(url)
    if address.scheme not in ("http", "https") or not address.hostname:
        raise NotToldError("its URL does not begin with https:// and a host")
    body = masked(json.dumps(message, default=str)).encode()
    headers = {"Content-Type": "application/json", "User-Agent": "retl"}
    with closing(http.Http(url, connections=1, most_seconds=MOST_SECONDS)) as client:
        try:
            status, *_ = client.request("POST", url, headers, body)
        except http.NoAnswer as error:
            raise NotToldError(f"no answer ({error})") from None
    if not 200 <= status < 300:
        what = "a redirect, which is not followed" if 300 <= status < 400 else "a refusal"
        raise NotToldError(f"the answer was {status}, {what}")


def _for_slack(text: str) -> str:
    """A text in which Slack sees no link, and nobody to call, that somebody wrote into a row or an answer."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _through_apprise(url: str, text: str) -> None:
    if find_spec("apprise") is None:
        raise NotToldError("it needs a package: pip install 'retl[apprise]'")
    own = logging.getLogger("apprise")  # it writes URLs, tokens and all
    own.handlers[:], own.propagate = [logging.NullHandler()], False
    title, _, body = text.partition("\n")
    aside = Aside()
    aside.put(lambda: _deliver(url, title, body or title))
    for error in aside.finish(MOST_SECONDS):
        raise NotToldError(str(error) or type(error).__name__) from None


def _deliver(url: str, title: str, body: str) -> None:
    channel = apprise.Apprise()
    if not channel.add(url):
        raise NotToldError("apprise does not know such a URL")
    if not channel.notify(title=title, body=body):
        raise NotToldError("apprise could not deliver it")


def _fingerprint(channel: Notify, url: str) -> str:
    """The name of a channel in the file, from which its URL cannot be read; an edit makes another of it."""
    text = f"channel\n{url}\n{','.join(sorted(channel.on))}\n{channel.rejected}"
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _read(path: Path) -> dict[str, Told]:
    """The last that each channel was told, by its fingerprint; nothing where that is not known."""
    with suppress(OSError, ValueError, TypeError, AttributeError):
        kept = json.loads(path.read_text(encoding="utf-8"))
        return {key: Told(str(told["condition"]), told["since"]) for key, told in kept.items()}
    return {}


def _write(path: Path, told: Mapping[str, Told]) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    unfinished = path.with_name(f"{path.name}.{os.getpid()}")
    kept = {key: {"condition": one.condition, "since": one.since} for key, one in told.items()}
    try:
        unfinished.write_text(json.dumps(kept), encoding="utf-8")
        unfinished.chmod(0o600)
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)
