"""OAuth of Segment: access tokens, asked for with a signed assertion, kept until half of their life is over.

As the official client's token manager does it, whose claims and form the tests compare. That itself is not
used: it follows redirects, reads `.netrc`, trusts other certificates than the sync says, waits without end
where the server is busy, and goes on in a thread after the last call.
"""

import json
import re
import threading
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from retl.clock import Clock
from retl.delivery.http import Http, NoAnswer
from retl.errors import ConfigError, DestinationError
from retl.lazy import lazy_module
from retl.mask import note

if TYPE_CHECKING:
    import jwt
    from jwt import algorithms
else:
    jwt = lazy_module("jwt")
    algorithms = lazy_module("jwt.algorithms")

AUTH_SERVERS = {"us": "https://oauth2.segment.io", "eu": "https://oauth2.eu1.segmentapis.com"}
"""Segment's token servers by region (Segment docs, "OAuth 2.0")."""

ASSERTION_TYPE = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"

SECONDS_VALID = 55
"""Of an assertion; Segment takes less than 60."""

SECONDS_WITHOUT_WORD = 120
"""The life of a token of which the server does not say how long it lives; the client renews such at half."""

LONGEST_WAIT = 3_600
"""Seconds that a busy token server can ask for."""


@dataclass(frozen=True)
class Application:
    """An OAuth application of a Segment workspace.

    Attributes:
        client_id: its id.
        key_id: of the public key that Segment has.
        private_key: the private key as PEM; a secret.
        auth_server: base URL of the token server.
        scope: what a token is for.
        where: the place of the settings, for errors.
    """

    client_id: str
    key_id: str
    private_key: str = field(repr=False)
    auth_server: str
    scope: str
    where: str


class NoToken(Exception):
    """The token server gives no token now, and may give one later.

    Attributes:
        retry_after: seconds that it asks to wait; None where it does not.
    """

    def __init__(self, message: str, retry_after: int | None = None) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class Tokens:
    """The access tokens of an application; for any number of threads."""

    def __init__(self, application: Application, ssl_cert: str | None, clock: Clock) -> None:
        """Take an application.

        Raises:
            ConfigError: its key is not a private RSA key, or the library for that is not installed.
        """
        self._application = application
        self._server = application.auth_server.rstrip("/")
        self._clock = clock
        self._http = Http(self._server, 1, ssl_cert)
        self._lock = threading.Lock()
        self._token: str | None = None
        self._renew_at = 0.0
        self._skew = timedelta()
        self._shown: set[str] = {note(application.private_key)}
        self._key = _private_key(application)

    def get(self) -> str:
        """A token that is valid, asked for where there is none or half of its life is over.

        Raises:
            DestinationError: the server refuses the application.
            NoToken: it cannot be reached, or is busy.
        """
        with self._lock:
            if self._token is None or self._clock.monotonic() >= self._renew_at:
                self._token = self._ask()
            return self._token

    def forget(self, token: str) -> None:
        """Ask for another token next, as Segment refuses this one; one that came meanwhile stays."""
        with self._lock:
            if self._token == token:
                self._token = None

    def close(self) -> None:
        """Close the connection; a request that is under way is broken off."""
        self._http.close()

    def hide(self, text: str) -> str:
        """A text from outside without the tokens, assertions and keys that it may quote."""
        for secret in sorted(self._shown, key=len, reverse=True):
            text = text.replace(secret, "…")
        return text

    def _ask(self) -> str:
        """A new token; once more where the server says that its clock is another one."""
        for is_last in (False, True):
            status, headers, body = self._post()
            said = _object(body)
            if status == 200 and isinstance(said.get("access_token"), str) and said["access_token"]:
                self._renew_at = self._clock.monotonic() + _life(said.get("expires_in")) / 2
                token: str = said["access_token"]
                self._shown.add(note(token))
                return token
            if status == 400 and not is_last and self._is_skewed(headers):
                continue
            break
        shown = self.hide(f"{status} {said.get('error') or ''} {said.get('error_description') or ''}").strip()
        shown = " ".join(shown.split())[:160]
        if status == 200 or status in {408, 429} or status >= 500:
            raise NoToken(f"the token server gives no token ({shown})", _wait(headers))
        raise DestinationError(
            f"the token server refuses the OAuth application ({shown})",
            where=self._application.where,
            hint="check client_id, key_id, the private key, scope and region; the calls stay pending",
        )

    def _post(self) -> tuple[int, Mapping[str, str], bytes]:
        form = {
            "grant_type": "client_credentials",
            "client_assertion_type": ASSERTION_TYPE,
            "client_assertion": self._assertion(),
            "scope": self._application.scope,
        }
        headers = {"Content-Type": "application/x-www-form-urlencoded"}
        try:
            return self._http.request("POST", f"{self._server}/token", headers, urlencode(form).encode())
        except NoAnswer as none:
            raise NoToken(f"the token server cannot be reached ({self.hide(str(none))})") from None

    def _assertion(self) -> str:
        """The claim to be the application, signed with its private key."""
        now = int((self._clock.now() - self._skew).timestamp())
        claims = {
            "iss": self._application.client_id,
            "sub": self._application.client_id,
            "aud": self._server,
            "iat": now - 5,
            "exp": now + SECONDS_VALID,
            "jti": str(uuid.uuid4()),
        }
        made = jwt.encode(claims, self._key, algorithm="RS256", headers={"kid": self._application.key_id})
        self._shown.add(note(made))
        return made

    def _is_skewed(self, headers: Mapping[str, str]) -> bool:
        """Whether the server's clock is another one than was thought; from then on it is known."""
        try:
            skew = self._clock.now() - parsedate_to_datetime(headers.get("Date", ""))
        except (TypeError, ValueError):
            return False
        differs = abs(skew - self._skew) > timedelta(seconds=2)
        self._skew = skew
        return differs


def _private_key(application: Application) -> Any:
    if not algorithms.has_crypto:
        raise ConfigError(
            "OAuth needs a library that is not installed",
            where=application.where,
            hint="pip install 'retl[oauth]'",
        )
    try:
        key: Any = algorithms.RSAAlgorithm(algorithms.RSAAlgorithm.SHA256).prepare_key(
            application.private_key
        )
        jwt.encode({}, key, algorithm="RS256")
    except (ValueError, TypeError, AttributeError, jwt.PyJWTError):
        # The library's own words may quote the key.
        raise ConfigError(
            "this is not a private RSA key",
            where=application.where,
            hint="give it as PEM, `-----BEGIN PRIVATE KEY-----`, without a password",
        ) from None
    return key


def _life(said: object) -> float:
    """Seconds that a token lives by the server's word."""
    if isinstance(said, int | float | str) and re.fullmatch(r"[0-9]{1,9}(\.[0-9]*)?", str(said)):
        return float(said)
    return SECONDS_WITHOUT_WORD


def _object(body: bytes) -> dict[str, Any]:
    """The JSON object of an answer; empty where it is none."""
    try:
        said = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return said if isinstance(said, dict) else {}


def _wait(headers: Mapping[str, str]) -> int | None:
    """Seconds that the server asks to wait: Segment's has a header of its own for that."""
    for name in ("X-RateLimit-Reset", "Retry-After"):
        written = headers.get(name, "").strip()
        if re.fullmatch(r"[0-9]{1,9}", written):
            return min(int(written), LONGEST_WAIT)
    return None
