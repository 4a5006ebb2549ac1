"""The body of a request: unpacked, read as JSON, and taken apart into calls."""

import base64
import gzip
import json
import math
import zlib
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from retl.sandbox.ingestion import BODY_LIMIT, ROUTES


class RefusalError(Exception):
    """A request that is answered with an error status."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def failure(message: str) -> str:
    """The body of a refusal."""
    return json.dumps({"success": False, "message": message})


def unpacked(body: bytes, headers: Mapping[str, str]) -> bytes:
    """A body without its compression."""
    try:
        return gzip.decompress(body) if headers.get("content-encoding", "").lower() == "gzip" else body
    except (OSError, EOFError, zlib.error) as error:
        raise RefusalError(400, f"broken gzip: {error}") from error


def read_envelope(path: str, headers: Mapping[str, str], body: bytes) -> dict[str, Any]:
    """The JSON object of a request."""
    if path not in ROUTES:
        raise RefusalError(404, "no such route")
    # Segment requires the type but does not say how it refuses another; 415 is what HTTP itself has for it.
    if headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise RefusalError(415, "Content-Type must be application/json")
    if len(body) > BODY_LIMIT:
        raise RefusalError(400, f"a body of {len(body)} bytes exceeds {BODY_LIMIT}")
    try:
        envelope = strict_json(body)
    except (ValueError, RecursionError) as error:
        raise RefusalError(400, f"invalid JSON: {error}") from error
    if not isinstance(envelope, dict):
        raise RefusalError(400, "the body must be an object")
    return envelope


def strict_json(body: bytes) -> Any:
    """Read JSON as the standard has it: no NaN, no Infinity, also none by way of 1e999."""

    def finite(text: str) -> float:
        if not math.isfinite(number := float(text)):
            raise ValueError(f"{text} is not a number")
        return number

    return json.loads(body.decode(), parse_constant=finite, parse_float=finite)


def read_calls(path: str, envelope: dict[str, Any]) -> list[Any]:
    """The calls in a request."""
    if path != "/v1/batch":
        call = {key: value for key, value in envelope.items() if key not in ("writeKey", "sentAt")}
        return [call | {"type": path.removeprefix("/v1/")}]
    calls = envelope.get("batch", [])
    if not isinstance(calls, list):
        raise RefusalError(400, "batch must be an array")
    return calls


def read_write_key(headers: Mapping[str, str], envelope: dict[str, Any]) -> str | None:
    """Read the key from Basic, or else the body (HTTP API Source, "Authentication"); any bearer will do."""
    scheme, _, credentials = headers.get("authorization", "").partition(" ")
    key = envelope.get("writeKey")
    if scheme.lower() == "basic":
        with suppress(ValueError):
            key = base64.b64decode(credentials, validate=True).decode().partition(":")[0]
    return key if isinstance(key, str) and key else None
