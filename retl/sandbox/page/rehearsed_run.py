"""Queries about runs: which run sent what, side by side."""

from dataclasses import dataclass
from datetime import datetime

from retl.sandbox.page.calls import USER, utc
from retl.sandbox.store import Store

RUNS = 100
"""Runs of a list."""


@dataclass(frozen=True)
class RehearsedRun:
    """A run, and its calls that are kept.

    Attributes:
        run_id: of the run; None for all calls of which no run is known.
        sync: that ran; None as well.
        newest: the number of its newest call.
        first_at: when the first of its calls arrived.
        last_at: when the last one did.
        names: its events, or types of calls, the most frequent first.
        users: how many users its calls are about.
    """

    run_id: str | None
    sync: str | None
    newest: int
    first_at: datetime
    last_at: datetime
    names: tuple[str, ...]
    users: int
    accepted: int
    discarded: int
    duplicates: int


def runs(store: Store) -> list[RehearsedRun]:
    """The runs, the one with the newest call first; calls of other senders stand together."""
    rows = store.read(
        f"""
        WITH "named" AS (
            SELECT "run_id", "sync", coalesce("event", "type", 'no type') AS "name", count(*) AS "calls"
            FROM "call" GROUP BY ALL
        ),
        "names" AS (
            SELECT "run_id", "sync", list("name" ORDER BY "calls" DESC, "name") AS "names"
            FROM "named" GROUP BY ALL
        )
        SELECT "run_id", "sync", max("seq") AS "newest",
               {utc('min("received_at")')} AS "first_at", {utc('max("received_at")')} AS "last_at",
               (SELECT "names" FROM "names"
                WHERE "run_id" IS NOT DISTINCT FROM "call"."run_id"
                  AND "sync" IS NOT DISTINCT FROM "call"."sync") AS "names",
               count(DISTINCT {USER}) AS "users",
               count(*) FILTER ("outcome" = 'accepted') AS "accepted",
               count(*) FILTER ("outcome" = 'discarded') AS "discarded",
               count(*) FILTER ("outcome" = 'duplicate') AS "duplicates"
        FROM "call" GROUP BY "run_id", "sync" ORDER BY "newest" DESC LIMIT ?
        """,
        [RUNS],
    )
    return [RehearsedRun(**{**row, "names": tuple(row["names"])}) for row in rows]
