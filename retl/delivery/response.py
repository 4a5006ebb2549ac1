"""Receipts: what Segment's answer to a batch means, decided without touching anything."""

import json
from dataclasses import dataclass
from enum import StrEnum

RETRYABLE = frozenset({408, 410, 429, 460})
"""4xx to try again, beside most 5xx (Twilio support article 51769112022299; the official clients)."""

PERMANENT_5XX = frozenset({501, 505, 511})
"""5xx that a retry cannot mend (the same sources; 511 means a login page in between)."""


class Verdict(StrEnum):
    """What to do next with a batch."""

    DELIVERED = "delivered"  # Segment has it
    RETRY = "retry"  # wait, then the same batch again
    SPLIT = "split"  # a call in it is refused: halve it until that one is alone
    REFUSED = "refused"  # write key or token refused: stop, the user must act
    STOP = "stop"  # no retry can help: stop with all calls pending


@dataclass(frozen=True)
class Answer:
    """What came back for one attempt.

    Attributes:
        status: the HTTP status; None where no answer came.
        body: how the answer's text begins.
        retry_after: seconds that the server asks to wait; None where it does not.
        error: what broke, in words; None where an answer came.
        unsure: whether Segment may have taken the calls although no answer came.
    """

    status: int | None
    body: str = ""
    retry_after: int | None = None
    error: str | None = None
    unsure: bool = False


@dataclass(frozen=True)
class Patience:
    """How a batch is tried again (the official clients' policy).

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


@dataclass(frozen=True)
class Receipt:
    """What an answer means.

    Attributes:
        verdict: what to do next.
        reason: the answer in a few words.
        wait: with RETRY, seconds before the next attempt.
        directed: with RETRY, whether the server asked for the wait; it then holds for every lane.
    """

    verdict: Verdict
    reason: str
    wait: float = 0.0
    directed: bool = False


def judge(answer: Answer, retry: int, patience: Patience, chance: float) -> Receipt:
    """Decide what an answer means.

    Args:
        answer: what came back.
        retry: counted retries so far.
        patience: the policy for waits.
        chance: a random number in [0, 1), for the jitter.
    """
    reason = describe(answer)
    status = answer.status
    if status is not None and 200 <= status < 300 and _is_success(answer.body):
        return Receipt(Verdict.DELIVERED, reason)
    if status in {400, 413}:
        return Receipt(Verdict.SPLIT, reason)
    if status in {401, 403}:
        return Receipt(Verdict.REFUSED, reason)
    if status is None or 200 <= status < 300 or is_retryable(status):
        if answer.retry_after:
            return Receipt(Verdict.RETRY, reason, float(answer.retry_after), directed=True)
        if retry >= patience.retries:
            return Receipt(Verdict.STOP, f"{reason}, {retry + 1} times")
        return Receipt(Verdict.RETRY, reason, patience.wait(retry, chance))
    return Receipt(Verdict.STOP, reason)


def is_retryable(status: int) -> bool:
    """Whether an HTTP status may pass by itself."""
    return status in RETRYABLE or (500 <= status < 600 and status not in PERMANENT_5XX)


def _is_success(body: str) -> bool:
    """False for a login page in between, and for an answer that says it failed."""
    text = body.strip("\ufeff \t\r\n")
    if text.startswith("<"):
        return False
    try:
        said = json.loads(text or "{}")
    except ValueError:
        return not text.startswith("{")
    return not (isinstance(said, dict) and said.get("success") is False)


def describe(answer: Answer) -> str:
    """An answer in a few words."""
    if answer.status is None:
        return answer.error or "no answer"
    if 300 <= answer.status < 400:
        return f"a redirect ({answer.status}), which would lose the calls"
    if 200 <= answer.status < 300 and not _is_success(answer.body):
        return f"{answer.status} without success: {_excerpt(answer.body)}"
    return f"{answer.status} {_excerpt(answer.body)}".strip()


def _excerpt(body: str) -> str:
    return " ".join(body.split())[:120]
