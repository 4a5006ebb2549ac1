"""A webhook as Segment calls it: one POST for each call, and the meaning of its answers.

By Segment's pages "Webhooks (Actions) Destination", "Webhooks Destination" (five seconds, four hours, the
signature) and "Destinations Overview" (a randomized exponential backoff), and by the code of its destinations
(which answers are retried). Where they are silent, the choice is marked as ours.
"""

import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from random import Random
from urllib.parse import urlsplit

MOST_WEBHOOKS = 5
"""Webhooks of one destination, or mappings of one."""

ANSWER_SECONDS = 5.0
"""How long a webhook may take to answer."""

RETRY_SECONDS = 4 * 60 * 60.0
"""How long a call is tried."""

FIRST_WAIT = 1.0
"""Seconds until a call is tried again; doubled each time. Our choice, as Segment says none."""

LONGEST_WAIT = 300.0
"""Most seconds between two attempts, also where the webhook asks for more by Retry-After. Our choice."""

RETRIED = frozenset({408, 423, 429, *range(500, 600)} - {501})
"""Answers after which a call is tried again; it is, too, where none comes."""


INTEGRATIONS = ("Webhooks (Actions)", "Webhook", "Webhooks")
"""Names of the destination in a call's `integrations`."""


class ForwardStep(StrEnum):
    """The next step for a call that was posted to a webhook."""

    DELIVERED = "delivered"
    RETRY = "retry"
    GIVE_UP = "give up"


@dataclass(frozen=True)
class Webhook:
    """A webhook, and how calls are posted to it.

    Attributes:
        url: may hold a key, so that it is shown in part only: see `shown`.
        headers: that the customer enters, by name.
        secret: shared with the webhook, to sign what is posted; None where nothing is signed.
        name: for people; None where it has none, and its host is shown.
    """

    url: str = field(repr=False)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    secret: str | None = field(default=None, repr=False)
    name: str | None = None

    @property
    def shown(self) -> str:
        """Its name, or the scheme, host and port of the URL; the rest may be secret."""
        if self.name is not None:
            return self.name
        address = urlsplit(self.url)
        host = f"[{address.hostname}]" if ":" in (address.hostname or "") else address.hostname
        return f"{address.scheme}://{host}{f':{address.port}' if address.port else ''}/…"

    def headers_for(self, body: bytes) -> dict[str, str]:
        """The headers of a request with that body."""
        headers = {"Content-Type": "application/json", "User-Agent": "Segment (Actions)", **self.headers}
        if self.secret is not None:
            digest = hmac.new(self.secret.encode(), body, hashlib.sha1)
            headers["X-Signature"] = digest.hexdigest()
        return headers


def is_meant(integrations: object) -> bool:
    """Whether a call with such `integrations` goes to webhooks; one without them does."""
    if not isinstance(integrations, dict):
        return True
    own = [integrations[name] for name in INTEGRATIONS if name in integrations]
    return any(value is not False for value in own or [integrations.get("All", True)])


def next_step(status: int | None) -> ForwardStep:
    """The next step after an answer with that status; None where there was no answer in time."""
    if status is None or status in RETRIED:
        return ForwardStep.RETRY
    return ForwardStep.DELIVERED if 200 <= status < 300 else ForwardStep.GIVE_UP


def wait_before(attempt: int, asked: float, first_wait: float, random: Random) -> float:
    """Seconds to wait before the next attempt.

    Args:
        attempt: how many attempts there were.
        asked: seconds that the webhook asks for by Retry-After; 0 where it does not.
        first_wait: the wait after the first attempt, at most.
        random: of the part of the wait that is by chance, half of it.
    """
    longest = min(first_wait * 2.0 ** min(attempt - 1, 30), LONGEST_WAIT)
    return max(longest * random.uniform(0.5, 1.0), min(asked, LONGEST_WAIT))
