"""Deciding what Segment's response to a batch means; nothing is touched."""

import json
from dataclasses import dataclass

from retl.delivery.destination import Action, Decision

RETRYABLE = frozenset({408, 410, 429, 460})
"""4xx to try again, beside most 5xx (Twilio support article 51769112022299; the official clients)."""

PERMANENT_5XX = frozenset({501, 505, 511})
"""5xx that a retry cannot fix (the same sources; 511 means a login page in between)."""

PERMANENT = frozenset({404, 405, 501, 505})
"""Answers of a server that does not know what is asked of it; something in between may mean one call."""


@dataclass(frozen=True)
class Response:
    """The result of one attempt: an HTTP response, or the reason why none came.

    Attributes:
        status: the HTTP status; None where no answer came.
        body: how the answer's text begins.
        retry_after: seconds that the server asks to wait; None where it does not.
        error: what broke, in words; None where an answer came.
        unsure: whether Segment may have taken the calls although no answer came.
        shown: the text to show and keep in place of the body; None is the body itself.
    """

    status: int | None
    body: str = ""
    retry_after: int | None = None
    error: str | None = None
    unsure: bool = False
    shown: str | None = None

    @property
    def is_success(self) -> bool:
        """Whether Segment took the calls."""
        return self.status is not None and 200 <= self.status < 300 and _is_success(self.body)


@dataclass(frozen=True)
class RetryPolicy:
    """The retries of a batch (the official clients' policy).

    Attributes:
        base: seconds before the first retry; doubles with each.
        cap: the longest such wait, in seconds.
        jitter: by how much of itself a wait is made longer at random.
        retries: counted retries of a batch before giving up. Waits that the server asks for are not
            counted; the run's deadline ends them.
    """

    base: float = 0.5
    cap: float = 60.0
    jitter: float = 0.1
    retries: int = 10

    def wait(self, retry: int, chance: float) -> float:
        """Seconds before retry number `retry`, 0-based; `chance` is in [0, 1)."""
        return float(min(self.base * 2**retry, self.cap) * (1 + self.jitter * chance))


def decide(response: Response, retry: int, retry_policy: RetryPolicy, chance: float) -> Decision:
    """Decide what to do after a response.

    Args:
        response: to the last attempt.
        retry: counted retries so far.
        retry_policy: the policy for waits.
        chance: a random number in [0, 1), for the jitter.
    """
    reason = describe(response)
    status = response.status
    if response.is_success:
        return Decision(Action.DELIVERED, reason)
    if status in {401, 403}:
        return Decision(Action.REFUSED, reason)
    if status is None or 200 <= status < 300 or is_retryable(status):
        if response.retry_after:
            return Decision(Action.RETRY, reason, float(response.retry_after), requested=True)
        if retry < retry_policy.retries:
            return Decision(Action.RETRY, reason, retry_policy.wait(retry, chance))
        reached = status is not None or response.unsure
        return Decision(Action.GIVE_UP if reached else Action.STOP, f"{reason}, {retry + 1} times")
    if status in PERMANENT:
        return Decision(Action.GIVE_UP, reason)
    return Decision(Action.SPLIT if 400 <= status < 500 and status != 407 else Action.STOP, reason)


def is_retryable(status: int) -> bool:
    """Whether an HTTP status may pass by itself."""
    return status in RETRYABLE or (500 <= status < 600 and status not in PERMANENT_5XX)


def _is_success(body: str) -> bool:
    """False for a login page in between, and for an answer that says it failed.

    Segment answers `{"success": true}`; Jitsu, which speaks its protocol, `{"ok": false, "errors": […]}`.
    """
    text = body.strip("\ufeff \t\r\n")
    if text.startswith("<"):
        return False
    try:
        said = json.loads(text or "{}")
    except (ValueError, RecursionError):
        return not text.startswith(("{", "["))
    if not isinstance(said, dict):
        return True
    denied = any(str(said.get(name)).lower() in {"false", "0"} for name in ("success", "ok"))
    failed = str(said.get("status")).lower() in {"error", "failed", "failure"}
    return not (denied or failed or said.get("error") or said.get("errors"))


def describe(response: Response) -> str:
    """A response in a few words."""
    if response.status is None:
        return response.error or "no answer"
    if 300 <= response.status < 400:
        return f"a redirect ({response.status}), which would lose the calls"
    text = response.body if response.shown is None else response.shown
    if 200 <= response.status < 300 and not response.is_success:
        return f"{response.status} without success: {_excerpt(text)}"
    return f"{response.status} {_excerpt(text)}".strip()


def _excerpt(body: str) -> str:
    return " ".join(body.split())[:120]
