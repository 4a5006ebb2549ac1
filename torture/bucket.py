"""A bucket of one's own: moto's S3 behind a real HTTP server, which takes one request at a time.

moto looks at a condition first and writes then, and two threads may come between: S3 does both at once.
"""

import logging
import socket
import threading
from collections.abc import Callable, Iterable
from datetime import timedelta
from typing import Any, Self

from moto.backends import get_backend
from moto.core.models import DEFAULT_ACCOUNT_ID
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import WSGIRequestHandler, make_server

BUCKET = "acme"

SETTINGS = {
    "AWS_ACCESS_KEY_ID": "AKIDTEST",
    "AWS_SECRET_ACCESS_KEY": "never-to-be-seen",
    "AWS_REGION": "us-east-1",
}
"""The variables with which a client reaches it, besides that of its URL."""

Fault = Callable[[str, str], str | None]
"""Gets method and key of a request; gives "lost" (done, without an answer), "dropped" (not done), the status
of an answer in place of the bucket's own, or None."""


class _Quiet(WSGIRequestHandler):
    def log(self, *_: Any) -> None:
        """Say nothing."""


class Bucket:
    """A bucket `acme` behind a URL of this machine.

    Attributes:
        url: where it is.
        requests: method and key of those that wrote something, in their order.
        fault: decides what goes wrong.
        is_conditional: whether it refuses a write whose condition does not hold.
    """

    def __init__(self) -> None:
        self._app = DomainDispatcherApplication(lambda service: create_backend_app("s3"))
        self._lock = threading.Lock()
        logging.getLogger("werkzeug").setLevel(logging.CRITICAL)
        self._server = make_server("127.0.0.1", 0, self._serve, threaded=True, request_handler=_Quiet)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self.requests: list[tuple[str, str]] = []
        self.fault: Fault = lambda method, key: None
        self.is_conditional = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))

    def __enter__(self) -> Self:
        self._store.reset()
        self._store.create_bucket(BUCKET, "us-east-1")
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    @property
    def settings(self) -> dict[str, str]:
        """The variables with which a client reaches it."""
        return {**SETTINGS, "AWS_ENDPOINT_URL": self.url}

    @property
    def objects(self) -> dict[str, bytes]:
        """The objects that it has."""
        with self._lock:
            return {key.name: key.value for key in self._store.buckets[BUCKET].keys.values()}

    def age(self, key: str, seconds: float) -> None:
        """Let an object be older by its own clock."""
        with self._lock:
            self._store.buckets[BUCKET].keys[key].last_modified -= timedelta(seconds=seconds)

    def put(self, key: str, content: bytes) -> None:
        """Write an object, as somebody else would."""
        with self._lock:
            self._store.put_object(BUCKET, key, content)

    def delete(self, key: str) -> None:
        """Delete an object, as somebody else would."""
        with self._lock:
            self._store.delete_object(BUCKET, key)

    @property
    def _store(self) -> Any:
        return get_backend("s3")[DEFAULT_ACCOUNT_ID]["aws"]

    def _serve(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        method, key = environ["REQUEST_METHOD"], environ["PATH_INFO"].removeprefix(f"/{BUCKET}/")
        fault = self.fault(method, key)
        if fault == "dropped":
            return _drop(environ)
        if fault is not None and fault.isdigit():
            return _refuse(environ, start_response, fault)
        if not self.is_conditional:
            for name in ("HTTP_IF_MATCH", "HTTP_IF_NONE_MATCH"):
                environ.pop(name, None)
        with self._lock:
            if method != "GET":
                self.requests.append((method, key))
            answer = list(self._app(environ, start_response))
        return _drop(environ) if fault == "lost" else answer


def _refuse(environ: dict[str, Any], start_response: Any, status: str) -> Iterable[bytes]:
    """Do nothing, and give this status."""
    environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
    body = b"<Error><Code>OfTheTest</Code></Error>"
    headers = [("Content-Type", "application/xml"), ("Content-Length", str(len(body)))]
    start_response(f"{status} Of The Test", headers)
    return [body] if environ["REQUEST_METHOD"] != "HEAD" else []


def _drop(environ: dict[str, Any]) -> Iterable[bytes]:
    """Break the connection, without an answer."""
    environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)
    raise ConnectionError
