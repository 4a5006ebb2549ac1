"""Addresses as people may see them: no user, no password and no setting is printed, logged or stored."""

import json
import re
from collections.abc import Iterator
from urllib.parse import quote, quote_plus

from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

_OPEN_SETTINGS = {"host", "hostaddr", "port", "unix_socket"}
"""Settings that say where a server is, as the part before the `?` does."""

_LONG_ENOUGH = 3
"""Characters of the shortest setting that may be a secret."""


def shown(url: str | URL) -> str:
    """The scheme, host, port and path of a URL, of a database's or of any other.

    Its user, password, query and fragment may each be a secret, by whatever name; none is in the result.
    """
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        scheme = re.match(r"[\w+]+://", str(url))
        return f"{scheme[0] if scheme else ''}…"
    host = parsed.host or ""
    if ":" in host:
        host = f"[{host}]"
    port = "" if parsed.port is None else f":{parsed.port}"
    path = "" if parsed.database is None else "/" + re.sub("[;&#].*", "", parsed.database, flags=re.DOTALL)
    return f"{parsed.drivername}://{host}{port}{path}"


def without_secrets(text: str, url: URL) -> str:
    """A text of a driver's without what may be a secret in the URL that it was given, however it is spelled.

    The queries and users of other URLs in the text, such as a signed one of a file, are left out too.
    """
    text = text.replace(url.render_as_string(hide_password=False), shown(url))
    password = str(url.password or "")
    found = {*_settings(url), url.username or ""}
    secrets = {one for one in found if len(one) >= _LONG_ENOUGH} | ({password} - {""})
    for secret in sorted(secrets, key=len, reverse=True):
        pattern = "|".join(_spellings(secret))
        if secret != password or len(password) < _LONG_ENOUGH:
            pattern = rf"(?<!\w)({pattern})(?!\w)"
        text = re.sub(pattern, "***", text, flags=re.IGNORECASE)
    text = re.sub(r"(\w://)[^\s/'\"@]+@", r"\1", text)
    return re.sub(r"(\w://[^\s'\"?]*)\?[^\s'\"]+", r"\1?…", text)


def _settings(url: URL) -> Iterator[str]:
    """The values of the settings in a URL, and the values of settings inside of them: `Driver=x;Pwd=y`."""
    for name, value in url.query.items():
        for text in [value] if isinstance(value, str) else value:
            if name.lower() not in _OPEN_SETTINGS:
                yield text
                yield from (part.strip("{}'\" ") for part in re.findall(r"=([^;&]+)", text))
                yield from text.split()


def _spellings(secret: str) -> list[str]:
    """Patterns for a secret as it is, and as URLs, Python and JSON write it; the longest first."""
    ways = {secret, quote(secret), quote(secret, safe=""), quote_plus(secret)}
    ways |= {re.sub(r"(['\\])", r"\\\1", secret), json.dumps(secret)[1:-1]}
    return [re.escape(way) for way in sorted(ways, key=len, reverse=True)]
