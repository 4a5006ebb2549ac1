"""Calls that tests post to a sandbox themselves."""

import json
from datetime import UTC, datetime
from typing import Any

import urllib3

from retl.sandbox.server import Sandbox

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


def call(message_id: str = "m1", **fields: Any) -> dict[str, Any]:
    """Make a call that is good but for `fields`."""
    return {"type": "identify", "userId": "u1", "messageId": message_id, **fields}


def post(
    http: urllib3.PoolManager,
    sandbox: Sandbox,
    body: bytes | dict[str, Any],
    *,
    path: str = "/v1/batch",
    **headers: str,
) -> urllib3.BaseHTTPResponse:
    """Post a body as JSON; further keywords are headers."""
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    fields = {"Content-Type": "application/json"} | {
        name.replace("_", "-"): text for name, text in headers.items()
    }
    return http.request("POST", sandbox.url + path, body=raw, headers=fields, redirect=False)


def batch(*calls: Any, **fields: Any) -> dict[str, Any]:
    """Make a batch with a write key."""
    return {"writeKey": "key", "batch": list(calls), **fields}
