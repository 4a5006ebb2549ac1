"""Queries about requests: the answers that clients got of late."""

from dataclasses import dataclass
from datetime import datetime

from retl.sandbox.page.calls import utc
from retl.sandbox.store import Store

REQUESTS = 30
"""Requests of a list."""


@dataclass(frozen=True)
class AnsweredRequest:
    """A request that held calls, and its answer.

    Attributes:
        status: None where the connection was closed without an answer.
        failure: what the sandbox did wrong on purpose, by its word; None for nothing.
    """

    received_at: datetime
    path: str
    status: int | None
    calls: int
    bytes: int
    sync: str | None
    failure: str | None


def newest_requests(store: Store, limit: int = REQUESTS) -> list[AnsweredRequest]:
    """The newest requests, the newest first."""
    columns = ", ".join(f'"{name}"' for name in list(AnsweredRequest.__annotations__)[1:])
    rows = store.read(
        f"""
        SELECT {utc('"received_at"')} AS "at", {columns} FROM "request"
        WHERE "method" = 'POST' ORDER BY "received_at" DESC LIMIT ?
        """,
        [limit],
    )
    return [AnsweredRequest(row.pop("at"), **row) for row in rows]
