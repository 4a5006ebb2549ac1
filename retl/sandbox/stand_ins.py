"""Servers in the place of receivers, as routes of the sandbox; they answer as the receivers document it."""

import json
import threading
from collections import Counter, deque
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from retl.receivers.data_file import receiver
from retl.receivers.settings import known_receivers
from retl.receivers.stand_in import StandInAnswer, StandInRoute
from retl.sandbox.body import RefusalError, strict_json
from retl.sandbox.kept import Kept
from retl.sandbox.local_segment import LocalSegment
from retl.sandbox.routes import Asked, PageAnswer, Route

KEPT_REQUESTS = 1_000
"""Requests that are kept for each receiver, the newest."""

KEPT_BYTES = 10_000_000
"""Most bytes of these."""


@dataclass(frozen=True)
class Taken:
    """A request that arrived at a stand-in, and the answer that it got.

    Attributes:
        path: of the receiver.
        body: its JSON; None where it was none.
        answer: that it got.
    """

    path: str
    body: Any
    answer: StandInAnswer

    def as_json(self) -> dict[str, Any]:
        """As the listing has it; its headers hold a key, so that they are not in it."""
        return {"path": self.path, "body": self.body, "answer": self.answer._asdict()}


class StandIns:
    """The stand-ins of all receivers.

    Args:
        keys: that each receiver knows, by its name; one that is not there knows any.
    """

    def __init__(self, keys: Mapping[str, str] | None = None) -> None:
        self._keys = dict(keys or {})
        self._lock = threading.Lock()
        self._script: deque[int] = deque()
        self._taken: dict[str, Kept[Taken]] = {
            name: Kept(KEPT_REQUESTS, KEPT_BYTES) for name in known_receivers()
        }
        self._counts: Counter[str] = Counter()

    @property
    def routes(self) -> tuple[Route, ...]:
        """Their addresses: `/stand-ins/<name>` before each path of the receiver, and a listing."""
        return (
            Route("GET", r"/stand-ins/(?P<name>[\w-]+)\.json", self._listing),
            Route("POST", r"/stand-ins/(?P<name>[\w-]+)(?P<path>/.*)", self._take),
        )

    def script(self, statuses: Iterable[int]) -> None:
        """Line up answers of other statuses, one for each request to come; 200 is the usual answer."""
        with self._lock:
            self._script.extend(statuses)

    def taken(self, name: str) -> list[Taken]:
        """The newest requests that arrived at a receiver's stand-in, in order of arrival."""
        with self._lock:
            return self._taken[name].all()

    def _take(self, segment: LocalSegment, asked: Asked) -> PageAnswer:
        """Take a request in the place of a receiver."""
        name, path = asked.parts["name"], asked.parts["path"]
        route = _route(name, path)
        body = None
        with suppress(ValueError, RecursionError):
            body = strict_json(asked.body)
        with self._lock:
            status = self._script.popleft() if self._script else 200
        answer = StandInAnswer(status, None)
        if status == route.too_many.status:
            answer = StandInAnswer(status, route.too_many.body)
        elif status == 200:
            answer = route.answer(asked.headers, body, self._keys.get(name))
        with self._lock:
            self._counts[name] += 1
            self._taken[name].append(Taken(path, body, answer), len(asked.body))
        text = "" if answer.body is None else json.dumps(answer.body)
        return PageAnswer(text, status=answer.status)

    def _listing(self, segment: LocalSegment, asked: Asked) -> PageAnswer:
        """The requests that arrived at a stand-in, and its addresses."""
        name = asked.parts["name"]
        _known(name)
        told = {
            "receiver": name,
            "addresses": [f"/stand-ins/{name}{route.path}" for route in receiver(name).stand_in],
            "requests": self._counts[name],
            "taken": [one.as_json() for one in self.taken(name)],
        }
        return PageAnswer(json.dumps(told))


def _known(name: str) -> None:
    if name not in known_receivers():
        raise RefusalError(404, f"there is no receiver {name}")


def _route(name: str, path: str) -> StandInRoute:
    """The address of a receiver that has that path."""
    _known(name)
    for route in receiver(name).stand_in:
        if route.path == path:
            return route
    raise RefusalError(404, f"{receiver(name).title} has no such address")
