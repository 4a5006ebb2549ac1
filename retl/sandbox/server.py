"""The sandbox: a local Segment, on 127.0.0.1 only.

A real HTTP server that behaves by the documented rules of Segment's Tracking API. It answers 200 to calls
that it then throws away and, unlike Segment, tells which and why. It fails when it is told to.
"""

import socket
import threading
from collections.abc import Sequence
from typing import Any

from retl.errors import ConfigError
from retl.sandbox.calls_api import CALLS_ROUTES
from retl.sandbox.http import Handler, Server
from retl.sandbox.local_segment import LocalSegment
from retl.sandbox.routes import Route

HOST = "127.0.0.1"


class Sandbox(LocalSegment):
    """A local Segment, for as long as it is entered; `url` is its address.

    Args:
        port: where to listen on 127.0.0.1; 0 takes any free port.
        routes: of pages, before those that every sandbox has.
        settings: of `LocalSegment`.
    """

    def __init__(self, port: int = 0, routes: Sequence[Route] = (), **settings: Any) -> None:
        super().__init__(**settings)
        self._port = port
        self._routes = (*routes, *CALLS_ROUTES)

    def __enter__(self) -> "Sandbox":
        """Start to listen.

        Raises:
            ConfigError: the port is taken, or not to be had.
        """
        try:
            self._server = Server((HOST, self._port), Handler)
        except (OSError, OverflowError) as error:
            message = f"the sandbox cannot listen on {HOST}:{self._port}: {error}"
            raise ConfigError(message, hint="choose another port; 0 takes any free one") from error
        self._server.sandbox, self._server.routes = self, self._routes
        self.url = f"http://{HOST}:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Stop at once, whatever is under way."""
        self.closing.set()
        # A last connection wakes the loop that waits for one; polling would be slower to close and busier.
        socket.create_connection((HOST, self._server.server_address[1])).close()
        self._thread.join()
        self._server.end_connections()
        self._server.server_close()
        self.close()

    def _serve(self) -> None:
        while not self.closing.is_set():
            self._server.handle_request()
