"""Addresses as people may see them: no user, no password and no setting is printed, logged or stored."""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, quote, quote_plus, unquote

if TYPE_CHECKING:  # a start without a database does not load it
    from sqlalchemy.engine import URL

_OPEN_SETTINGS = {"host", "hostaddr", "port", "unix_socket"}
"""Settings that say where a server is, as the part before the `?` does."""

_LONG_ENOUGH = 3
"""Characters of the shortest setting that may be a secret."""


_PARTS = re.compile(
    r"""
    (?P<drivername> [\w+]+ )://
    (?: (?P<username> [^:/]* ) (?: :(?P<password> [^@]* ) )? @ )?
    (?: \[(?P<ipv6> [^/?]+ )\] | (?P<ipv4> [^/:?]+ ) )?
    (?: :(?P<port> [^/?]* ) )?
    (?: /(?P<database> [^?]* ) )?
    (?: \?(?P<query> .* ) )?
    """,
    re.VERBOSE,
)


@dataclass(frozen=True)
class Address:
    """A URL in its parts, which are named, divided and unquoted as in SQLAlchemy's `URL`.

    SQLAlchemy takes a part of a second to load, and only some warehouses need it.

    Attributes:
        drivername: what stands before `://`.
        username: None where there is none, as for all other parts.
        password: in full.
        host: without the brackets of an IPv6 address.
        port: of the host.
        database: name, or path, of the database: what follows the `/` behind the host.
        query: the settings behind the `?`, where one that stands there several times is a tuple.
    """

    drivername: str
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    host: str | None = None
    port: int | None = None
    database: str | None = None
    query: Mapping[str, str | tuple[str, ...]] = field(default_factory=dict, repr=False)

    @property
    def backend(self) -> str:
        """The kind of database, without its driver."""
        return self.drivername.partition("+")[0]

    def render_as_string(self, hide_password: bool = True) -> str:
        """The URL, in SQLAlchemy's spelling."""
        password = "***" if hide_password else quote(self.password or "", safe=" +")
        user = "" if self.username is None else quote(self.username, safe=" +")
        user += "" if self.username is None or self.password is None else f":{password}"
        settings = "&".join(f"{quote_plus(key)}={quote_plus(one)}" for key, one in sorted(_pairs(self)))
        return (
            f"{self.drivername}://{user}{'' if self.username is None else '@'}{_host_and_port(self)}"
            + ("" if self.database is None else f"/{quote(self.database, safe=' +/')}")
            + (f"?{settings}" if settings else "")
        )


_SPARK_PARTS = re.compile(
    r"""
    (?P<drivername> sc )://
    (?: \[(?P<ipv6> [^\]]+ )\] | (?P<ipv4> [^/:;]+ ) )?
    (?: :(?P<port> \d+ ) )?
    (?: /(?P<database> [^;]* ) (?P<query> .* ) )?
    """,
    re.VERBOSE,
)
"""A URL of Spark Connect, whose settings follow a `;`, and may hold an `@`."""


def read_address(url: str) -> Address:
    """Take a URL apart, of a database's or of any other.

    Raises:
        ValueError: it is not one; the message may quote a secret.
    """
    if url.startswith("sc://"):
        return _spark_address(url)
    parts = _PARTS.match(url)
    if parts is None:
        raise ValueError("not a URL")
    query: dict[str, tuple[str, ...]] = {}
    for key, value in parse_qsl(parts["query"] or ""):
        query[key] = (*query.get(key, ()), value)
    username, password, database = (
        None if parts[name] is None else unquote(parts[name]) for name in ("username", "password", "database")
    )
    return Address(
        parts["drivername"],
        username,
        password,
        parts["ipv4"] or parts["ipv6"],
        None if parts["port"] is None else int(parts["port"]),
        database,
        {key: values if len(values) > 1 else values[0] for key, values in query.items()},
    )


def _spark_address(url: str) -> Address:
    parts = _SPARK_PARTS.fullmatch(url)
    if parts is None:
        raise ValueError("not a URL of Spark Connect")
    settings = [one.partition("=") for one in (parts["query"] or "").split(";") if one]
    return Address(
        parts["drivername"],
        host=parts["ipv4"] or parts["ipv6"],
        port=int(parts["port"]) if parts["port"] else None,
        database=parts["database"] or None,
        query={name: unquote(value) for name, _, value in settings},
    )


def shown(url: "str | Address | URL") -> str:
    """The scheme, host, port and path of a URL, of a database's or of any other.

    Its user, password, query and fragment may each be a secret, by whatever name; none is in the result.
    """
    try:
        parts = read_address(url) if isinstance(url, str) else url
    except ValueError:
        scheme = re.match(r"[\w+]+://", str(url))
        return f"{scheme[0] if scheme else ''}…"
    path = "" if parts.database is None else "/" + re.sub("[;&#].*", "", parts.database, flags=re.DOTALL)
    return f"{parts.drivername}://{_host_and_port(parts)}{path}"


def _host_and_port(url: "Address | URL") -> str:
    host = url.host or ""
    return (f"[{host}]" if ":" in host else host) + ("" if url.port is None else f":{url.port}")


def without_secrets(text: str, url: "Address | URL") -> str:
    """A text of a driver's without what may be a secret in the URL that it was given, however it is spelled.

    The queries and users of other URLs in the text, such as a signed one of a file, are left out too.
    """
    text = text.replace(url.render_as_string(hide_password=False), shown(url))
    password = str(url.password or "")
    user = url.username or ""
    secrets = secrets_in(url) | ({user} if len(user) >= _LONG_ENOUGH else set())
    for secret in sorted(secrets, key=len, reverse=True):
        pattern = "|".join(spellings(secret))
        if secret != password or len(password) < _LONG_ENOUGH:
            pattern = rf"(?<!\w)({pattern})(?!\w)"
        text = re.sub(pattern, "***", text, flags=re.IGNORECASE)
    text = re.sub(r"(\w://)[^\s/'\"@]+@", r"\1", text)
    return re.sub(r"(\w://[^\s'\"?]*)\?[^\s'\"]+", r"\1?…", text)


def secrets_in(url: "Address | URL") -> set[str]:
    """The password of a URL, and those of its settings that are long enough to be secret."""
    password = str(url.password or "")
    return {one for one in _settings(url) if len(one) >= _LONG_ENOUGH} | ({password} - {""})


def _pairs(url: "Address | URL") -> Iterator[tuple[str, str]]:
    """The settings of a URL, each with one value."""
    for name, value in url.query.items():
        yield from ((name, one) for one in ([value] if isinstance(value, str) else value))


def _settings(url: "Address | URL") -> Iterator[str]:
    """The values of the settings in a URL, and the values of settings inside of them: `Driver=x;Pwd=y`."""
    for name, text in _pairs(url):
        if name.lower() not in _OPEN_SETTINGS:
            yield text
            yield from (part.strip("{}'\" ") for part in re.findall(r"=([^;&]+)", text))
            yield from text.split()


def spellings(secret: str) -> list[str]:
    """Patterns for a secret as it is, and as URLs, Python and JSON write it; the longest first."""
    ways = {secret, quote(secret), quote(secret, safe=""), quote_plus(secret)}
    ways |= {re.sub(r"(['\\])", r"\\\1", secret), json.dumps(secret)[1:-1], ascii(secret)[1:-1]}
    return [re.escape(way) for way in sorted(ways, key=len, reverse=True)]


def is_bucket(text: str) -> bool:
    """Whether a folder of states is meant as that of a bucket; a Path has one slash behind the colon."""
    return re.match(r"[A-Za-z][A-Za-z0-9]+:/", text) is not None


def spelled(folder: Path) -> str:
    """The folder of states as it is written on a command line."""
    return re.sub(r"^([a-z0-9]{2,}):/(?!/)", r"\1://", str(folder))
