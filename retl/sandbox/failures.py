"""Faults: what a local Segment does wrong when it is told to."""

import math
import re
from dataclasses import dataclass, replace
from random import Random

from retl.errors import ConfigError


@dataclass(frozen=True)
class Answer:
    """How to answer one POST; the plain one leaves it to Segment's rules.

    Attributes:
        status: an HTTP status. Only with 200 and no `body` is the request judged and are its calls taken.
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
        """Whether the request is judged by Segment's rules."""
        return self.status == 200 and self.body is None and not (self.refused or self.hang)

    @property
    def seen_status(self) -> int | None:
        """The status that the client gets to see; None where the connection closes without one."""
        return None if self.lost or self.refused or self.hang else self.status


@dataclass(frozen=True)
class Faults:
    """What goes wrong by chance.

    Attributes:
        chances: probabilities, together at most 1, each with the answer that it brings.
        latency: seconds that each POST waits before it is judged.
    """

    chances: tuple[tuple[float, Answer], ...] = ()
    latency: float = 0.0

    @classmethod
    def parse(cls, text: str) -> "Faults":
        """Read faults such as `429=0.05,500=0.02,hang=0.01,lost_answer=0.02,latency=30ms`.

        A 429 by chance asks for one second by `Retry-After`.

        Raises:
            ConfigError: a part of the text is unknown, or the probabilities exceed 1.
        """
        faults = cls()
        for part in filter(None, map(str.strip, text.split(","))):
            if latency := re.fullmatch(r"latency=(\d*\.?\d+)(ms|s)", part):
                faults = replace(faults, latency=float(latency[1]) / (1000 if latency[2] == "ms" else 1))
                continue
            chance = re.fullmatch(r"(hang|lost_answer|[45]\d\d)=(\d*\.?\d+)", part)
            if chance is None:
                hint = "write faults as 429=0.05,500=0.02,hang=0.01,lost_answer=0.02,latency=30ms"
                raise ConfigError(f"{part!r} is not a fault", where="faults", hint=hint)
            answer = _NAMED_ANSWERS[chance[1]] if chance[1] in _NAMED_ANSWERS else Answer(int(chance[1]))
            faults = replace(faults, chances=(*faults.chances, (float(chance[2]), answer)))
            if math.fsum(probability for probability, _ in faults.chances) > 1:
                raise ConfigError(f"with {part!r} the probabilities exceed 1", where="faults")
        return faults

    def draw(self, random: Random) -> Answer:
        """Draw the answer for one request."""
        point = random.random()
        for probability, answer in self.chances:
            if point < probability:
                return answer
            point -= probability
        return Answer()


_NAMED_ANSWERS = {
    "429": Answer(429, retry_after=1),
    "hang": Answer(hang=True),
    "lost_answer": Answer(lost=True),
}
