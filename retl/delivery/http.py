"""HTTP: requests bounded in size and in time; no redirects, no netrc, proxies as the environment has them.

urllib3 bounds the wait for each piece of an answer, and neither the number of pieces nor their size.
"""

import base64
import re
import socket
import ssl
import threading
import time
import traceback
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from http.client import HTTPResponse, RemoteDisconnected
from typing import Any, BinaryIO, cast
from urllib.parse import unquote, urlsplit
from urllib.request import getproxies, proxy_bypass

import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import (
    HTTPError,
    LocationValueError,
    ProtocolError,
)

from retl.errors import ConfigError
from retl.mask import note_url

TIMEOUT = urllib3.Timeout(connect=5, read=15)
"""Seconds; the official client's."""

MOST_SECONDS = 60.0
"""How long one request may take in all, whatever comes meanwhile."""

MOST_BYTES = 64 * 1024
"""How much of an answer is read."""

_LONG_ENOUGH = 3
"""Characters of the shortest password that is taken out of a text."""


NO_SUCH_NAME = frozenset({socket.EAI_NONAME, getattr(socket, "EAI_NODATA", socket.EAI_NONAME)})
"""The errors of a name server that answered: it knows no such host."""

INTERIM = range(102, 200)
"""Statuses of an answer behind which the real one comes; 101 is the last one on its connection."""

CUT_OFF = (ssl.SSLEOFError, ssl.SSLZeroReturnError, ssl.SSLSyscallError)
"""Errors of TLS where the connection broke, and nothing is wrong with TLS itself."""


Body = bytes | tuple[bytes | memoryview, ...]
"""A request's body, or its parts, one behind the other; a view is of bytes."""


class NoAnswer(Exception):
    """No answer came to a request, or none in time; its text says why.

    Attributes:
        left: whether the request may have gone out.
        lasting: whether a further request is expected to end in the same way.
    """

    def __init__(self, reason: str, left: bool, lasting: bool) -> None:
        super().__init__(reason)
        self.left = left
        self.lasting = lasting


class Http:
    """Kept-alive connections to one server."""

    def __init__(
        self,
        url: str,
        connections: int,
        ssl_cert: str | None = None,
        most_seconds: float = MOST_SECONDS,
        most_bytes: int = MOST_BYTES,
        direct: bool = False,
    ) -> None:
        """Connect when the first request is sent.

        Args:
            url: of the server.
            connections: that are kept.
            ssl_cert: a file of certificates to trust instead of the system's.
            most_seconds: how long one request may take in all.
            most_bytes: how much of an answer is read.
            direct: whether a proxy that the environment names is passed over.

        Raises:
            ConfigError: the URL is not one, or the environment names a proxy of an unknown kind.
        """
        self._watch = _Watch(most_seconds)
        self._pool = _pool(url, connections, ssl_cert, direct)
        self._most_bytes = most_bytes

    @property
    def secrets(self) -> list[str]:
        """The account at the proxy as requests carry it, and its password; answers may quote them."""
        headers = getattr(self._pool, "proxy_headers", None) or {}
        carried = headers.get("proxy-authorization", "").removeprefix("Basic ")
        login = base64.b64decode(carried).decode("latin-1")
        found = (carried, carried.rstrip("="), login, login.partition(":")[2])
        return [one for one in found if len(one) >= _LONG_ENOUGH]

    def close(self) -> None:
        """Close the connections; a request that is still under way is broken off."""
        self._pool.clear()
        self._watch.close()

    def request(
        self, method: str, url: str, headers: Mapping[str, str], body: Body | None
    ) -> tuple[int, Mapping[str, str], bytes]:
        """Send a request; gives status, headers and the beginning of the answer, unpacked.

        Raises:
            NoAnswer: no answer came, or none in time.
        """
        if isinstance(body, tuple):
            headers = {**headers, "Content-Length": str(sum(map(len, body)))}
        with self._watch.limit() as limit:
            try:
                response = self._pool.request(
                    method,
                    url,
                    headers=headers,
                    body=cast(Any, body),
                    retries=False,
                    redirect=False,
                    timeout=TIMEOUT,
                    preload_content=False,
                )
                answer = b"".join(_pieces(response, self._most_bytes))
                if limit.is_over:
                    raise ProtocolError("the answer took too long")
            except HTTPError as error:
                # What urllib3's frames and the error hold of each other holds the body, too.
                traceback.clear_frames(error.__traceback__)
                raise NoAnswer(_words(error), limit.was_connected, _is_lasting(error)) from error
        if len(answer) > self._most_bytes:
            response.close()  # the rest is not wanted
        else:
            response.release_conn()
        return response.status, response.headers, _unpacked(answer, response.headers, self._most_bytes)


def _is_lasting(error: BaseException) -> bool:
    """Whether the way to the server is wrong, rather than broken for a while.

    So it is where there is no such host, where no TLS can be spoken with it, or where a proxy refuses.
    """
    if isinstance(error, socket.gaierror):
        return error.errno in NO_SUCH_NAME
    if isinstance(error, LocationValueError):
        return True
    if isinstance(error, ssl.SSLError) and not isinstance(error, CUT_OFF):
        return True
    if "Tunnel connection failed: 4" in str(error):
        return True
    causes = (*error.args[-1:], error.__cause__)
    return any(_is_lasting(cause) for cause in causes if isinstance(cause, Exception))


def _words(error: BaseException) -> str:
    """A network error in a few words, without the connection objects that urllib3 prints."""
    if isinstance(error, HTTPError) and error.args and isinstance(error.args[-1], Exception):
        head = error.args[0] if isinstance(error.args[0], str) else ""
        return f"{head} {_words(error.args[-1])}".strip()
    return re.sub(r"^(<.*?>|\w+\(host=.*?\)): ", "", str(error)) or type(error).__name__


def _pieces(response: urllib3.BaseHTTPResponse, most: int) -> Iterator[bytes]:
    """The beginning of an answer as it comes, and one byte more where there is more."""
    left = most + 1
    while left and (piece := response.read(left, decode_content=False)):
        left -= len(piece)
        yield piece


def _unpacked(answer: bytes, headers: Mapping[str, str], most: int) -> bytes:
    """At most so many bytes of an answer, which a server may pack though nobody asked for it."""
    if headers.get("Content-Encoding", "").strip().lower() in {"gzip", "x-gzip", "deflate"}:
        with suppress(zlib.error):
            return zlib.decompressobj(wbits=zlib.MAX_WBITS | 32).decompress(answer, most)
    return answer[:most]


class _Limit:
    """A limit on the time of what its thread requests; afterwards the connection is broken off.

    Attributes:
        ends_at: on the monotonic clock.
        is_over: whether the time was up.
        was_connected: whether a request could go out.
    """

    of_thread = threading.local()

    def __init__(self, ends_at: float) -> None:
        self.ends_at = ends_at
        self.is_over = False
        self.was_connected = False
        self._socket: socket.socket | None = None

    def hold(self, connected: socket.socket) -> None:
        """Take the socket that is in use; it is broken off at once where the time is over already."""
        # Python forgets the socket of a connection that the server will close, before the answer is read.
        self._socket = connected
        self.was_connected = True
        if self.is_over:
            self.break_off()

    def break_off(self) -> None:
        """End the request: its thread finds the connection closed."""
        self.is_over = True
        if self._socket is not None:
            with suppress(OSError):
                socket.socket.shutdown(self._socket, socket.SHUT_RDWR)  # past TLS, which would wait


class _Watch:
    """Breaks off requests that take too long. It is one thread for all: a timer is a thread for each."""

    def __init__(self, most_seconds: float) -> None:
        self.most_seconds = most_seconds
        self._limits: set[_Limit] = set()
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None

    @contextmanager
    def limit(self) -> Iterator[_Limit]:
        """Limit the time of what this thread requests meanwhile."""
        limit = _Limit(time.monotonic() + self.most_seconds)
        with self._lock:
            self._limits.add(limit)
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, daemon=True)
                self._thread.start()
        _Limit.of_thread.limit = limit
        try:
            yield limit
        finally:
            _Limit.of_thread.limit = None
            with self._lock:
                self._limits.discard(limit)

    def close(self) -> None:
        """Break off what is still under way, and end."""
        self._closed.set()
        with self._lock:
            for limit in self._limits:
                limit.break_off()

    def _work(self) -> None:
        wait = self.most_seconds
        while not self._closed.wait(wait):
            with self._lock:
                now = time.monotonic()
                for limit in self._limits:
                    if limit.ends_at <= now:
                        limit.break_off()
                # A limit that is set while this thread waits ends after that wait.
                ends = (limit.ends_at for limit in self._limits if not limit.is_over)
                wait = min(ends, default=now + self.most_seconds) - now


class _Lines:
    """A stream that knows the last line which was read from it."""

    def __init__(self, stream: BinaryIO) -> None:
        self.stream = stream
        self.last = b""

    def readline(self, limit: int) -> bytes:
        """Read a line."""
        self.last = self.stream.readline(limit)
        return self.last

    def close(self) -> None:
        """Close the stream."""
        self.stream.close()


class _WholeHead(HTTPResponse):
    """An answer whose head has come to its end: Python takes a connection that breaks in it for that end.

    Of the answers that say that another one will follow, Python passes over 100 alone.
    """

    def begin(self) -> None:
        """Read the head; see http.client."""
        self._read_head()
        while self.status in INTERIM:
            cast(Any, self).headers = None
            self._read_head()

    def _read_head(self) -> None:
        stream = self.fp
        lines = _Lines(stream)
        self.fp = cast(Any, lines)
        try:
            super().begin()
        finally:
            if cast(Any, self.fp) is lines:
                self.fp = stream
        if not lines.last:
            raise RemoteDisconnected("the connection broke off within the head of the answer")


class _Limited(HTTPConnection):
    """A connection that can be broken off at the limit of the thread that uses it."""

    response_class = _WholeHead

    def connect(self) -> None:
        """Connect; see urllib3."""
        super().connect()
        self._hold()

    def request(self, *args: Any, **options: Any) -> None:
        """Send a request; see urllib3."""
        self._hold()
        super().request(*args, **options)

    def _hold(self) -> None:
        limit = getattr(_Limit.of_thread, "limit", None)
        if limit is not None and self.sock is not None:
            limit.hold(self.sock)


class _LimitedTls(_Limited, HTTPSConnection):
    """The same, over TLS."""


class _Pool(HTTPConnectionPool):
    ConnectionCls = _Limited


class _TlsPool(HTTPSConnectionPool):
    ConnectionCls = _LimitedTls


def _pool(url: str, connections: int, ssl_cert: str | None, direct: bool) -> urllib3.PoolManager:
    options: dict[str, Any] = {"num_pools": 4, "maxsize": connections, "ca_certs": ssl_cert}
    address = urlsplit(url)
    if address.scheme not in {"http", "https"} or not address.hostname:
        raise ConfigError(f"`{url}` is not a URL", where="segment.endpoint")
    proxy = None if direct else _proxy(address.scheme, address.hostname)
    pool = _direct_or_proxied(proxy, address.hostname, options)
    pool.pool_classes_by_scheme = {"http": _Pool, "https": _TlsPool}
    return pool


def _direct_or_proxied(proxy: str | None, host: str, options: dict[str, Any]) -> urllib3.PoolManager:
    if proxy is None:
        return urllib3.PoolManager(**options)
    account = urlsplit(proxy)
    if account.scheme not in {"http", "https"} or not account.hostname:
        raise ConfigError(
            f"a proxy is set for {host} in the environment without a host, or of a kind that retl does "
            "not speak",
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
    return note_url(proxy if "://" in proxy else f"http://{proxy}")
