"""Access tokens of a service principal of Databricks', which OAuth gives for its id and its secret."""

import json
import time
from collections.abc import Mapping
from threading import Lock
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import urllib3
from urllib3.util import make_headers

_EARLIER = 60.0
"""Seconds before its end at which a token is not taken any more."""

_TIMEOUT = 30.0
"""Seconds for which the answer is awaited."""


class RefusedError(Exception):
    """Databricks gave no token."""


class ServicePrincipal:
    """A service principal and its token of now. Use it in any thread."""

    def __init__(self, url: str, client_id: str, secret: str, ca_file: str | None = None) -> None:
        """Ask for nothing yet.

        Args:
            url: of the workspace: scheme, host and port.
            client_id: the principal's application id.
            secret: an OAuth secret of it.
            ca_file: the authorities that are trusted, where they are not the machine's.
        """
        self._url = url
        self._basic = make_headers(basic_auth=f"{client_id}:{secret}")
        self._ca_file = ca_file
        self._token = ""
        self._ends = 0.0
        self._lock = Lock()

    def headers(self) -> Mapping[str, str]:
        """The headers of a request.

        Raises:
            RefusedError: there is no token to be had.
        """
        with self._lock:
            if time.monotonic() > self._ends - _EARLIER:
                self._token, seconds = self._asked()
                self._ends = time.monotonic() + seconds
            return {"Authorization": f"Bearer {self._token}"}

    def _asked(self) -> tuple[str, float]:
        """A new token, and the seconds for which it is good."""
        with _pool(self._url, self._ca_file) as pool:
            try:
                answer = pool.request(
                    "POST",
                    f"{self._url}/oidc/v1/token",
                    fields={"grant_type": "client_credentials", "scope": "all-apis"},
                    encode_multipart=False,
                    headers=self._basic,
                    redirect=False,
                    retries=2,
                    timeout=_TIMEOUT,
                )
            except urllib3.exceptions.HTTPError as error:
                raise RefusedError(f"no OAuth token could be asked for: {error}") from None
        try:
            found = json.loads(answer.data)
            return str(found["access_token"]), float(found.get("expires_in", 0))
        except (ValueError, KeyError, TypeError):
            # The answer may quote the secret.
            raise RefusedError(f"the service principal got no OAuth token: HTTP {answer.status}") from None


def _pool(url: str, ca_file: str | None) -> urllib3.PoolManager:
    """Connections to a host, through the proxy that the environment names for it."""
    proxy = proxy_to(urlsplit(url).hostname or "")
    if proxy:
        return urllib3.ProxyManager(proxy, ca_certs=ca_file)
    return urllib3.PoolManager(ca_certs=ca_file)


def proxy_to(host: str) -> str | None:
    """The proxy that the environment names for HTTPS to a host."""
    return None if proxy_bypass(host) else getproxies().get("https")
