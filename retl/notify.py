"""Sends alerts: to a webhook, or through apprise. The last that a channel was told stands beside the state.

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
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from retl.alert import Alert, Told, next_told
from retl.aside import Aside
from retl.config.folder import name_in
from retl.config.project import Project, channel_url, default_channels, find_project
from retl.config.settings import Channels, Notify
from retl.errors import Interrupted, RetlError
from retl.lazy import lazy_module
from retl.lock import ALERTS
from retl.mask import masked
from retl.run import Run
from retl.session import Session
from retl.state_folder import state_folder
from retl.storage import Storage

if TYPE_CHECKING:
    import apprise

    from retl.delivery import http
else:
    apprise = lazy_module("apprise", extra="apprise")
    http = lazy_module("retl.delivery.http")

MOST_SECONDS = 10.0
"""How long one channel may take in all."""


class NotToldError(Exception):
    """A channel did not take an alert; its text says why, without the channel's URL."""


@dataclass(frozen=True)
class Recipients:
    """The channels that are told of the runs of a sync.

    Attributes:
        project: whose environment has the URLs.
        channels: those that are told.
        storage: of the state, which has what they were told.
        unread: the same as it is taken to be while the sync file cannot be read.
    """

    project: Project
    channels: Channels
    storage: Storage
    unread: Storage


def recipients_of(session: Session) -> Recipients:
    """The recipients of a sync."""
    unread = session.folder.storage(f"{session.sync.name}.duckdb")
    return Recipients(session.project, session.sync.notify, session.storage, unread)


def recipients_of_unread(path: Path, state_dir: Path | None) -> tuple[Recipients, str]:
    """The recipients of a sync whose file cannot be read, and the sync's name.

    Args:
        path: the file.
        state_dir: the folder of state files, where the command line gives one.

    Raises:
        ConfigError: retl.yml cannot be read either.
    """
    project, name = find_project(path, os.environ), name_in(path) or path.stem
    unread = state_folder(project, state_dir).storage(f"{name}.duckdb")
    return Recipients(project, default_channels(project), unread, unread), name


def tell(recipients: Recipients, run: Run, flags: str = "") -> list[str]:
    """Tell channels what a run changed; gives what went wrong with that, in words.

    Args:
        recipients: who is told.
        run: how it went.
        flags: options that a command must repeat to mean the same state.
    """
    if not recipients.channels:
        return []
    storage, unread = recipients.storage, recipients.unread
    try:
        known = _read(storage)
        before = {**known, **_read(unread)}  # the newer one: a run that could read its file deletes it
    except RetlError as error:
        return [f"no alert was sent, as what was told last is not known: {error}"]
    after, doubts = dict(before), []
    for channel in recipients.channels:
        try:
            url = channel_url(channel, recipients.project)
            key = _fingerprint(channel, url)
            alert, now = next_told(channel, before.get(key, Told()), run)
            if alert is not None:
                _send(channel, url, alert, flags)
            after[key] = now  # only now: an alert that does not arrive is one for the next run
        except Interrupted:
            raise
        except (NotToldError, RetlError) as error:
            doubts.append(masked(f"an alert was not sent ({channel.kind}): {error}"))
    try:
        if after != known:
            _write(storage, after)
        if str(unread) != str(storage):
            unread.write_beside(ALERTS, None)
    except (OSError, RetlError) as error:
        words = error.strerror if isinstance(error, OSError) else error.message
        doubts.append(f"what was told cannot be noted in {storage}{ALERTS}: {words}")
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


def _read(storage: Storage) -> dict[str, Told]:
    """The last that each channel was told, by its fingerprint; nothing where that is not known."""
    with suppress(ValueError, TypeError, AttributeError):
        kept = json.loads(storage.beside(ALERTS) or "")
        return {key: Told(str(told["condition"]), told["since"]) for key, told in kept.items()}
    return {}


def _write(storage: Storage, told: Mapping[str, Told]) -> None:
    kept = {key: {"condition": one.condition, "since": one.since} for key, one in told.items()}
    storage.write_beside(ALERTS, json.dumps(kept))
