"""What a peer is told, and what it tells. It runs in every peer's environment: Python's own library only."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlparse

PREPARE, FIRST, NOTHING, DELTA = "prepare", "first", "nothing", "delta"
"""The steps: write whatever files a run needs, which is not measured; every user is new; nothing has changed
since; 2 % have changed since."""

PATH = Path("task.json")
STATE = Path("state")

QUERY = "SELECT * FROM users"
TEXT_QUERY = "SELECT * REPLACE (preferences::VARCHAR AS preferences) FROM users"
POSTGRES_TEXT_QUERY = """
SELECT
    user_id, email, name, city, country, plan, balance, score, active, created_at,
    preferences::text AS preferences
FROM users
"""


@dataclass(frozen=True)
class Task:
    """One step of one peer.

    Attributes:
        step: one of the steps above.
        kind: of the warehouse: `duckdb` or `postgres`.
        url: of the warehouse, as SQLAlchemy reads it.
        endpoint: where to post to.
        rows: how many users version 1 has.
        latency_ms: how long each answer takes; so that a peer can be set up for it.
        variant: which one of the ways that the module knows.
    """

    step: str
    kind: str
    url: str
    endpoint: str
    rows: int
    latency_ms: int
    variant: str

    @property
    def duckdb_path(self) -> str:
        """The file of the DuckDB warehouse."""
        return self.url.removeprefix("duckdb:///")

    @property
    def postgres_socket(self) -> str:
        """The folder of the Postgres server's socket."""
        return parse_qs(urlparse(self.url).query)["host"][0]


def read_task() -> Task:
    """The task of this process."""
    return Task(**json.loads(PATH.read_text(encoding="utf-8")))


def say(calls: int, **more: Any) -> None:
    """Print how many calls were delivered, as this process believes."""
    print(json.dumps({"calls": calls, **more}))


def identify(row: dict[str, Any]) -> dict[str, Any]:
    """The call of a user, less its message id: the same that the sync of the bench makes.

    Args:
        row: the user, in Python's own types; preferences as they were parsed, or as their text.
    """
    preferences, created = row["preferences"], row["created_at"]
    if isinstance(preferences, str):
        preferences = json.loads(preferences)
    traits = {
        "email": row["email"],
        "name": row["name"],
        "address": {"city": row["city"], "country": row["country"]},
        "plan": row["plan"],
        "balance": float(row["balance"]),
        "score": row["score"],
        "active": row["active"],
        "createdAt": created if isinstance(created, str) else created.isoformat(),
        "preferences": preferences,
    }
    return {"type": "identify", "userId": row["user_id"], "traits": traits}


def gone(user_id: str) -> dict[str, Any]:
    """The call of a user that is gone."""
    return {"type": "identify", "userId": user_id, "traits": {"plan": "gone"}}
