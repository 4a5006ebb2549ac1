"""HTTP: one request; no redirects, no netrc, proxies as the environment has them."""

import re
import ssl
from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote, urlsplit
from urllib.request import getproxies, proxy_bypass

import urllib3
from urllib3.exceptions import (
    ConnectTimeoutError,
    HTTPError,
    LocationValueError,
    NewConnectionError,
    ProxyError,
    SSLError,
)

from retl.errors import ConfigError

TIMEOUT = urllib3.Timeout(connect=5, read=15)
"""Seconds; the official client's."""


class Http:
    """Kept-alive connections to one server."""

    def __init__(self, url: str, connections: int, ssl_cert: str | None = None) -> None:
        """`ssl_cert`: a file of certificates to trust instead of the system's.

        Raises:
            ConfigError: the URL is not one, or the environment names a proxy of an unknown kind.
        """
        self._pool = _pool(url, connections, ssl_cert)

    def close(self) -> None:
        """Close the connections."""
        self._pool.clear()

    def request(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes | None
    ) -> tuple[int, Mapping[str, str], bytes]:
        """Send a request; gives status, headers and body of the answer.

        Raises:
            urllib3.exceptions.HTTPError: no answer came.
        """
        response = self._pool.request(
            method, url, headers=headers, body=body, retries=False, redirect=False, timeout=TIMEOUT
        )
        return response.status, response.headers, response.data


def never_left(error: HTTPError) -> bool:
    """Whether a request failed before it went out, so that the server cannot have seen it."""
    return isinstance(error, (ConnectTimeoutError, NewConnectionError, ProxyError, LocationValueError)) or (
        isinstance(error, SSLError) and isinstance(error.args[0], ssl.SSLCertVerificationError)
    )


def words(error: BaseException) -> str:
    """A network error in a few words, without the connection objects that urllib3 prints."""
    if isinstance(error, HTTPError) and error.args and isinstance(error.args[-1], Exception):
        head = error.args[0] if isinstance(error.args[0], str) else ""
        return f"{head} {words(error.args[-1])}".strip()
    return re.sub(r"^(<.*?>|HTTPS?Connection(Pool)?\(.*?\)): ", "", str(error)) or type(error).__name__


def _pool(url: str, connections: int, ssl_cert: str | None) -> urllib3.PoolManager:
    options: dict[str, Any] = {"num_pools": 4, "maxsize": connections, "ca_certs": ssl_cert}
    address = urlsplit(url)
    if address.scheme not in {"http", "https"} or not address.hostname:
        raise ConfigError(f"`{url}` is not a URL", where="segment.endpoint")
    proxy = _proxy(address.scheme, address.hostname)
    if proxy is None:
        return urllib3.PoolManager(**options)
    account = urlsplit(proxy)
    if account.scheme not in {"http", "https"}:
        raise ConfigError(
            f"a proxy is set for {address.hostname} in the environment, of a kind that retl does not speak",
            hint="use an http:// or https:// proxy, or list the host in NO_PROXY",
        )
    if account.username is not None:
        login = f"{unquote(account.username)}:{unquote(account.password or '')}"
        options["proxy_headers"] = urllib3.make_headers(proxy_basic_auth=login)
    return urllib3.ProxyManager(proxy, **options)


def _proxy(scheme: str, host: str) -> str | None:
    """The URL of the proxy that the environment names for a host, as other programs read it."""
    found = getproxies()
    proxy = found.get(scheme) or found.get("all")
    if not proxy or proxy_bypass(host):
        return None
    return proxy if "://" in proxy else f"http://{proxy}"
