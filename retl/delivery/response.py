"""Deciding what Segment's response to a batch means; nothing is touched.

The decisions are a table in docs/answers.md, whose rows are the cases of tests/test_answers.py.
"""

import json
from dataclasses import dataclass

from retl.delivery.destination import Action, Decision

RETRYABLE = frozenset({408, 410, 429, 460})
"""4xx to try again, beside most 5xx (Twilio support article 51769112022299; the official clients)."""

PERMANENT_5XX = frozenset({501, 505, 511})
"""5xx that a retry cannot fix (the same sources; 511 means a login page in between)."""

PERMANENT = frozenset({404, 405, 501, 505})
"""Answers of a server that does not know what is asked of it; something in between may mean one call."""


MOST_DOUBLINGS = 60
"""Retries after which a wait has long come to its cap; a number that doubles further grows too large."""


@dataclass(frozen=True)
class Response:
    """The result of one attempt: an HTTP response, or the reason why none came.

    Attributes:
        status: the HTTP status; None where no answer came.
        body: how the answer's text begins.
        retry_after: seconds that the server asks to wait; None where it does not.
        error: what broke, in words; None where an answer came.
        unsure: whether Segment may have taken the calls although no answer came.
        lasting: where no answer came, whether a retry is expected to end in the same way.
        shown: the text to show and keep in place of the body; None is the body itself.
    """

    status: int | None
    body: str = ""
    retry_after: int | None = None
    error: str | None = None
    unsure: bool = False
    lasting: bool = False
    shown: str | None = None

    @property
    def is_success(self) -> bool:
        """Whether Segment took the calls."""
        return self.status is not None and 200 <= self.status < 300 and _is_success(self.body)

    @property
    def may_pass(self) -> bool:
        """Whether it is a failure that may pass by itself, as an outage of Segment does."""
        return not self.lasting if self.status is None else is_retryable(self.status)


@dataclass(frozen=True)
class RetryPolicy:
    """The retries of a batch (the official clients' policy).

    Attributes:
        base: seconds before the first retry; doubles with each.
        cap: the longest such wait, in seconds.
        jitter: by how much of itself a wait is made longer at random.
        retries: counted retries of a batch, about four minutes, before it is given up; what may pass by
            itself is waited for all the same, up to the run's deadline. Waits that the server asks for are
            not counted.
    """

    base: float = 0.5
    cap: float = 60.0
    jitter: float = 0.1
    retries: int = 10

    def wait(self, retry: int, chance: float) -> float:
        """Seconds before retry number `retry`, 0-based; `chance` is in [0, 1)."""
        doubled = self.base * 2 ** min(retry, MOST_DOUBLINGS)
        return float(min(doubled, self.cap) * (1 + self.jitter * chance))


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
        return _again(response, retry, retry_policy, chance)
    if status in PERMANENT:
        return Decision(Action.GIVE_UP, reason)
    return Decision(Action.SPLIT if 400 <= status < 500 and status != 407 else Action.STOP, reason)


def _again(response: Response, retry: int, retry_policy: RetryPolicy, chance: float) -> Decision:
    """Decide after a response that a retry may help against; the arguments are those of `decide`."""
    reason, may_pass, asked = describe(response), response.may_pass, float(response.retry_after or 0)
    if asked and may_pass:
        return Decision(Action.RETRY, reason, asked, requested=True, for_all=True, may_pass=True)
    reached = response.status is not None or response.unsure
    if retry < retry_policy.retries or (may_pass and not reached):
        wait = asked or retry_policy.wait(retry, chance)
        for_all = asked > 0 or response.status == 429
        return Decision(Action.RETRY, reason, wait, for_all=for_all, may_pass=may_pass)
    action = Action.GIVE_UP if reached else Action.STOP
    return Decision(action, f"{reason}, {retry + 1} times", may_pass=may_pass)


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
