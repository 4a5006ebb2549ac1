"""The webhooks of a sandbox, together: started over its calls, counted, waited for."""

import json
import time
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

from retl.sandbox.forwarding import Forwarding, ForwardLimits
from retl.sandbox.local_segment import LocalSegment
from retl.sandbox.routes import Asked, PageAnswer, Route
from retl.sandbox.store import Store
from retl.sandbox.webhook import Webhook


class Webhooks:
    """Passes accepted calls on to webhooks, each on its own, as mappings of Webhooks (Actions) are.

    Args:
        limits: of attempts, and of what is held.
    """

    def __init__(self, limits: ForwardLimits | None = None) -> None:
        self._limits = limits
        self._forwarding: list[Forwarding] = []
        self._open = ExitStack()

    def start(self, webhooks: Sequence[Webhook], store: Store) -> None:
        """Begin to pass calls on, with the oldest one of the store.

        Raises:
            ConfigError: a URL is not one, or the environment names a proxy of an unknown kind.
        """
        made = [Forwarding(webhook, store, self._limits) for webhook in webhooks]
        self._forwarding = [self._open.enter_context(one) for one in made]

    def __enter__(self) -> "Webhooks":
        return self

    def __exit__(self, *_: object) -> None:
        """End at once; see `Forwarding`."""
        self._open.close()

    def wait_until_done(self, seconds: float) -> bool:
        """Wait until all calls that came are delivered or given up, at most so long; whether they are."""
        ends_at = time.monotonic() + seconds
        return all(one.wait_until_done(max(0.0, ends_at - time.monotonic())) for one in self._forwarding)

    def summary(self) -> list[dict[str, Any]]:
        """The counts of each webhook; see `Forwarding.summary`."""
        return [one.summary() for one in self._forwarding]

    @property
    def routes(self) -> tuple[Route, ...]:
        """The address of the summary: `/webhooks.json`."""
        return (Route("GET", r"/webhooks\.json", self._listing),)

    def _listing(self, segment: LocalSegment, asked: Asked) -> PageAnswer:
        """The counts of all webhooks."""
        return PageAnswer(json.dumps(self.summary()))
