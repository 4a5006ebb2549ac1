"""drt-core: `drt run` with its `rest_api` destination in batch mode, and with its diff.

The diff works for Postgres alone, and `rest_api` does not take part in it ("requires
destination.upsert_key"); it needs a destination of one's own, which is here. Left as they are, drt's settings
send one call in a request and ten requests a second; here the limit is off and a request holds 800 calls.
"""

import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
from drt.cli.main import app
from drt.config.base import GenericDestinationConfig
from drt.connectors.registry import register_destination
from drt.destinations.base import SyncResult

from bench.peers.task import PREPARE, QUERY, Task, gone, identify, read_task

CALLS_IN_REQUEST = 800
CALLS_IN_LOAD = 16_000
"""A new HTTP client is made for each load."""

PROFILES = Path(".drt") / "profiles.yml"

CALL = """{"type":"identify","messageId":"{{ row.user_id }}-RUN","userId":{{ row.user_id|tojson_safe }},\
"traits":{\
"email":{{ row.email|tojson_safe }},"name":{{ row.name|tojson_safe }},\
"address":{"city":{{ row.city|tojson_safe }},"country":{{ row.country|tojson_safe }}},\
"plan":{{ row.plan|tojson_safe }},"balance":{{ row.balance }},"score":{{ row.score|tojson_safe }},\
"active":{{ row.active|tojson_safe }},"createdAt":{{ row.created_at|tojson_safe }},\
"preferences":{{ row.preferences if row.preferences is string else row.preferences|tojson_safe }}}}"""
BODY = '{"batch":[{% for row in rows %}' + CALL + "{% if not loop.last %},{% endif %}{% endfor %}]}"


class BenchConfig(GenericDestinationConfig):
    """The settings of the destination below."""

    type: str
    endpoint: str
    upsert_key: list[str]


class BenchDestination:
    """Posts what the diff finds: new and changed users, and at the end those that are gone."""

    def load(self, records: list[dict[str, Any]], config: Any, options: Any) -> SyncResult:
        """Send users that are new or have changed."""
        return self.post([identify(record) for record in records], config)

    def finalize_sync(self, config: Any, options: Any) -> SyncResult:
        """Send users that are gone; drt hands their keys over in a private attribute."""
        return self.post([gone(key["user_id"]) for key in options._diff_removed_keys or ()], config)

    def post(self, calls: list[dict[str, Any]], config: Any) -> SyncResult:
        """Post calls, a batch after the other."""
        result = SyncResult()
        with httpx.Client(timeout=30.0) as client:
            for batch in batches(calls):
                body = json.dumps({"batch": batch}, separators=(",", ":"))
                client.post(f"{config.endpoint}/v1/batch", content=body.encode()).raise_for_status()
                result.success += len(batch)
        return result


def batches(calls: list[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    """Calls with their message ids, in batches."""
    for start in range(0, len(calls), CALLS_IN_REQUEST):
        yield [{**call, "messageId": str(uuid4())} for call in calls[start : start + CALLS_IN_REQUEST]]


def prepare(task: Task) -> None:
    """Write the project and its profile; drt looks for the profile in the home folder, which is this one."""
    source: dict[str, Any] = {"type": "duckdb", "database": task.duckdb_path}
    if task.kind == "postgres":
        source = {"type": "postgres", "host": task.postgres_socket, "dbname": "postgres", "user": "postgres"}
    PROFILES.parent.mkdir()
    PROFILES.write_text(json.dumps({"bench": source}))
    Path("drt_project.yml").write_text(json.dumps({"name": "bench", "profile": "bench"}))
    options: dict[str, Any] = {"batch_size": CALLS_IN_LOAD, "rate_limit": {"requests_per_second": 0}}
    destination: dict[str, Any] = {
        "type": "rest_api",
        "url": f"{task.endpoint}/v1/batch",
        "headers": {"Content-Type": "application/json"},
        "body_mode": "batch",
        "batch_template": BODY.replace("RUN", str(uuid4())),
        "max_records_per_request": CALLS_IN_REQUEST,
    }
    if task.variant == "diff":
        options |= {"mode": "upsert", "incremental_strategy": "diff", "diff": {}}
        destination = {"type": "bench", "endpoint": task.endpoint, "upsert_key": ["user_id"]}
    sync = {"name": "users", "model": QUERY, "destination": destination, "sync": options}
    Path("syncs").mkdir()
    # JSON is YAML too.
    (Path("syncs") / "users.yml").write_text(json.dumps(sync))


def snapshot_bytes(task: Task) -> int | None:
    """The size of the tables that the diff keeps in Postgres."""
    if task.variant != "diff":
        return None
    # drt itself loads it late, and for Postgres only.
    import psycopg2

    with psycopg2.connect(task.url) as db, db.cursor() as cursor:
        cursor.execute(
            "SELECT coalesce(sum(pg_total_relation_size(c.oid)), 0)"
            " FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace"
            " WHERE n.nspname = '_drt' AND c.relkind = 'r'"
        )
        return int(cursor.fetchall()[0][0])


def main() -> None:
    """Be `drt run`."""
    task = read_task()
    if task.step == PREPARE:
        prepare(task)
        return
    os.environ["HOME"] = os.getcwd()
    register_destination("bench", BenchConfig, BenchDestination)
    sys.argv = ["drt", "run", "--output", "json"]
    try:
        app()
    finally:
        print(json.dumps({"state_bytes": snapshot_bytes(task)}))


if __name__ == "__main__":
    main()
