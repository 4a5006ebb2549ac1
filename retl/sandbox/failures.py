"""Failures that a local Segment makes on demand."""

import math
import re
from dataclasses import dataclass, replace
from random import Random

from retl.errors import ConfigError


@dataclass(frozen=True)
class Reply:
    """The reply to one POST; the plain one follows Segment's rules.

    Attributes:
        status: an HTTP status. Only with 200 and no `body` are Segment's rules followed and calls taken.
        retry_after: the value of `Retry-After`: seconds, or a date as HTTP writes it.
        body: in place of the usual JSON; what it claims to be is `content_type`.
        location: where a redirect leads.
        lost: take the calls, then close the connection without an answer.
        refused: close the connection before reading the body.
        hang: read the body, take nothing, answer nothing, until the client gives up or the sandbox closes.
    """

    status: int = 200
    retry_after: int | str | None = None
    body: str | None = None
    content_type: str = "application/json"
    location: str | None = None
    lost: bool = False
    refused: bool = False
    hang: bool = False

    @property
    def takes_calls(self) -> bool:
        """Whether Segment's rules decide about the request."""
        return self.status == 200 and self.body is None and not (self.refused or self.hang)

    @property
    def word(self) -> str | None:
        """The word for what is done wrong, as in the text of `Failures`; None for the plain reply."""
        if self.hang:
            return "hang"
        if self.refused:
            return "refused"
        if self.lost:
            return "lost_answer"
        return None if self == Reply() else str(self.status)

    @property
    def seen_status(self) -> int | None:
        """The status that the client gets to see; None where the connection closes without one."""
        return None if self.lost or self.refused or self.hang else self.status


@dataclass(frozen=True)
class Failures:
    """Failures by chance.

    Attributes:
        chances: probabilities, together at most 1, each with the reply that it brings.
        latency: seconds that each POST waits before it is looked at.
        calls_per_second: beyond which a POST is answered 429; 0 is without limit.
    """

    chances: tuple[tuple[float, Reply], ...] = ()
    latency: float = 0.0
    calls_per_second: int = 0

    @classmethod
    def parse(cls, text: str) -> "Failures":
        """Read failures such as `429=0.05,500=0.02,hang=0.01,lost_answer=0.02,latency=30ms`.

        A 429 by chance asks for one second by `Retry-After`. `rate=1000` answers 429 where more calls come in
        a second, and asks to wait until there is room.

        Raises:
            ConfigError: a part of the text is unknown, or the probabilities exceed 1.
        """
        failures = cls()
        for part in filter(None, map(str.strip, text.split(","))):
            if latency := re.fullmatch(r"latency=([0-9]{0,6}\.?[0-9]{1,6})(ms|s)", part):
                failures = replace(failures, latency=float(latency[1]) / (1000 if latency[2] == "ms" else 1))
                continue
            if rate := re.fullmatch(r"rate=([0-9]{1,6})", part):
                failures = replace(failures, calls_per_second=int(rate[1]))
                continue
            chance = re.fullmatch(r"(hang|lost_answer|[45][0-9]{2})=([0-9]*\.?[0-9]+)", part)
            if chance is None:
                hint = "write failures as 429=0.05,500=0.02,hang=0.01,lost_answer=0.02,latency=30ms,rate=1000"
                raise ConfigError(f"{part!r} is not a failure", where="failures", hint=hint)
            reply = _NAMED_REPLIES[chance[1]] if chance[1] in _NAMED_REPLIES else Reply(int(chance[1]))
            failures = replace(failures, chances=(*failures.chances, (float(chance[2]), reply)))
            if math.fsum(probability for probability, _ in failures.chances) > 1:
                raise ConfigError(f"with {part!r} the probabilities exceed 1", where="failures")
        return failures

    def __str__(self) -> str:
        """The failures as `parse` reads them."""
        parts = [f"{reply.word}={probability:g}" for probability, reply in self.chances]
        if self.latency:
            parts.append(f"latency={self.latency * 1000:g}ms")
        if self.calls_per_second:
            parts.append(f"rate={self.calls_per_second}")
        return ",".join(parts)

    def draw(self, random: Random) -> Reply:
        """Draw the reply for one request."""
        point = random.random()
        for probability, reply in self.chances:
            if point < probability:
                return reply
            point -= probability
        return Reply()


_NAMED_REPLIES = {
    "429": Reply(429, retry_after=1),
    "hang": Reply(hang=True),
    "lost_answer": Reply(lost=True),
}
