"""A request as it arrived at the sandbox, and the answer that it got."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from retl.sandbox.body import strict_json


@dataclass(frozen=True)
class Request:
    """A request that arrived, and what it got.

    Attributes:
        path: without the query.
        headers: by name in lower case.
        body: its bytes, unpacked where that was possible.
        calls: how many calls it held; 0 where it could not be read.
        status: as answered; None where there was no answer.
        received_at: when its answer was decided.
        failure: the word for what was done wrong on purpose; None where nothing was.
    """

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes
    calls: int
    status: int | None
    received_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    failure: str | None = None

    @property
    def parsed(self) -> Any:
        """The body as JSON; a ValueError where it is none."""
        return strict_json(self.body)
