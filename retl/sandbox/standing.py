"""A sandbox that stays up: other processes of its user find it by a file, and know it by a secret.

Any program may listen on the port, and a rehearsal may hold personal data. So a process that finds an address
in the file asks whoever listens there for a proof that it knows the secret beside it.
"""

import hashlib
import hmac
import json
import os
import secrets
import stat
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from getpass import getuser
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from retl.errors import ConfigError
from retl.sandbox.body import RefusalError
from retl.sandbox.local_segment import LocalSegment
from retl.sandbox.routes import Asked, PageAnswer, Route
from retl.version import __version__

USUAL_PORT = 8765
"""The port of a sandbox where nothing else is said."""

PORT_VARIABLE = "RETL_SANDBOX_PORT"

MOST_PORT = 65_535

ANSWER_SECONDS = 5.0
"""How long an answer of a sandbox on this machine is waited for."""


def usual_port() -> int:
    """The port of a sandbox where the command line says none.

    Raises:
        ConfigError: the environment has no port under the name.
    """
    written = os.environ.get(PORT_VARIABLE, "").strip()
    if written and not (written.isascii() and written.isdecimal() and int(written) <= MOST_PORT):
        raise ConfigError(
            f"{written!r} is not a port", where=PORT_VARIABLE, hint="write a number up to 65535"
        )
    return int(written or USUAL_PORT)


@dataclass(frozen=True)
class StandingSandbox:
    """A sandbox of another process of the same user.

    Attributes:
        url: its address.
        pid: its process.
        secret: by which it is known.
        version: of retl.
    """

    url: str
    pid: int
    secret: str
    version: str = __version__

    def summary(self) -> dict[str, Any] | None:
        """The counts, as `/summary.json` has them; None where it has ended."""
        answer = _ask(self.url, "GET", "/summary.json")
        found: dict[str, Any] | None = json.loads(answer) if answer is not None else None
        return found

    def stop(self) -> None:
        """End it, and wait until it has let go of its port."""
        _ask(self.url, "POST", "/stop", _proof(self.secret, "stop"), until_closed=True)

    @property
    def is_up(self) -> bool:
        """Whether it is really this one that listens at its address."""
        challenge = secrets.token_hex(16)
        answer = _ask(self.url, "GET", f"/identity?challenge={challenge}")
        expected = _proof(self.secret, challenge).encode()
        return answer is not None and hmac.compare_digest(expected, answer.strip())


class Announcement:
    """Makes a sandbox known to the other processes of its user.

    Attributes:
        stop_asked: set when one of them wants it to end.
    """

    def __init__(self) -> None:
        self.stop_asked = threading.Event()
        self._secret = secrets.token_urlsafe(32)

    @property
    def routes(self) -> tuple[Route, ...]:
        """The routes by which the sandbox proves itself, and is ended."""
        return Route("GET", "/identity", self._prove), Route("POST", "/stop", self._stop)

    @contextmanager
    def of(self, url: str, port: int) -> Iterator[None]:
        """Announce the sandbox at this address for a port, for as long as the context lasts."""
        path = announcement_file(port)
        mine = StandingSandbox(url, os.getpid(), self._secret)
        unfinished = path.with_name(f"{path.name}.{os.getpid()}")
        with os.fdopen(os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            json.dump(asdict(mine), file)
        unfinished.replace(path)
        try:
            yield
        finally:
            if _announced(port) == mine:  # another one may have taken its place
                path.unlink(missing_ok=True)

    def _prove(self, segment: LocalSegment, asked: Asked) -> PageAnswer:
        return PageAnswer(_proof(self._secret, asked.parameters.get("challenge", "")), "text/plain")

    def _stop(self, segment: LocalSegment, asked: Asked) -> PageAnswer:
        if not hmac.compare_digest(_proof(self._secret, "stop").encode(), asked.body):
            raise RefusalError(HTTPStatus.FORBIDDEN, "only its user may end the sandbox")
        self.stop_asked.set()
        return PageAnswer("", "text/plain")


def find_standing(port: int) -> StandingSandbox | None:
    """The sandbox of this user that was started for a port, and is up; None where there is none.

    Raises:
        ConfigError: the folder of the files is not this user's alone.
    """
    found = _announced(port)
    return found if found is not None and found.is_up else None


def announcement_file(port: int) -> Path:
    """The file by which the sandbox for a port is found.

    Raises:
        ConfigError: its folder is not this user's alone.
    """
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    if runtime and Path(runtime).is_dir():
        folder = Path(runtime, "retl")
    else:
        folder = Path(tempfile.gettempdir(), f"retl-{getuser()}")
    with suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    found = folder.lstat()
    is_own = not hasattr(os, "getuid") or (found.st_uid == os.getuid() and not found.st_mode & 0o077)
    if not (stat.S_ISDIR(found.st_mode) and is_own):
        raise ConfigError("it is not a folder of yours alone", where=str(folder), hint="delete it")
    return folder / f"sandbox-{port}.json"


def _announced(port: int) -> StandingSandbox | None:
    with suppress(OSError, ValueError, TypeError):
        return StandingSandbox(**json.loads(announcement_file(port).read_text(encoding="utf-8")))
    return None


def _proof(secret: str, challenge: str) -> str:
    return hmac.new(secret.encode(), challenge.encode(), hashlib.sha256).hexdigest()


def _ask(
    url: str, method: str, path: str, body: str | None = None, until_closed: bool = False
) -> bytes | None:
    """The body of an answer with a 200; None where there is no such answer."""
    connection = HTTPConnection(urlsplit(url).netloc, timeout=ANSWER_SECONDS)
    try:
        connection.request(method, path, body)
        answer = connection.getresponse()
        text = answer.read()
        if until_closed and connection.sock is not None:
            connection.sock.recv(1)
        return text if answer.status == HTTPStatus.OK else None
    except (OSError, HTTPException):
        return None
    finally:
        connection.close()
