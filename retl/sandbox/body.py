"""The body of a request: unpacked, read as JSON, and taken apart into calls."""

import base64
import gzip
import json
import math
import re
import zlib
from collections.abc import Mapping
from contextlib import suppress
from io import BytesIO
from typing import Any

import orjson

from retl.sandbox.ingestion import BODY_LIMIT, ROUTES


class RefusalError(Exception):
    """A request that is answered with an error status."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


_LONGER_NUMBER = len("1e+16,") / len("1e16,")

_SIMPLER = bytes.maketrans(b"123456789-,[ \t\r\n", b"0000000000::::::")
_LONG_INTEGER = b":" + b"0" * 19
"""In JSON, made simpler, that holds an integer beyond 64 bits; hardly ever in other JSON."""

_LOOPBACK = re.compile(r"(localhost|127(\.\d{1,3}){3}|\[::1\])(?::(?P<port>\d*))?", re.IGNORECASE)


def is_loopback(host: str | None) -> bool:
    """Whether the Host of a request is a name of this machine; one that says none is let in.

    A web page may lead a name of its own to 127.0.0.1, and read what the sandbox holds: the Host tells.
    """
    return host is None or _LOOPBACK.fullmatch(host) is not None


def is_own_origin(origin: str | None, port: int) -> bool:
    """Whether a request comes from a page of the sandbox on that port, or from no page at all.

    A browser says in Origin which page made a request, and sends many requests of foreign pages unasked.
    """
    if origin is None:
        return True
    scheme, _, host = origin.partition("://")
    found = _LOOPBACK.fullmatch(host)
    return scheme.lower() == "http" and found is not None and (found["port"] or "80") == str(port)


def exceeds(call: Any, limit: int) -> bool:
    """Whether a call is larger than so many bytes as compact JSON.

    Raises:
        RefusalError: the call is nested too deep to be written.
    """
    try:
        # orjson leaves out the sign of a positive exponent, and that alone.
        if len(orjson.dumps(call)) * _LONGER_NUMBER <= limit:
            return False
    except TypeError:
        pass
    try:
        text = json.dumps(call, ensure_ascii=False, separators=(",", ":"))
    except RecursionError as error:
        raise RefusalError(400, "a call is nested too deep") from error
    return len(text.encode("utf-8", "surrogatepass")) > limit


def json_bytes(value: Any) -> bytes:
    """A value as compact JSON that every reader takes.

    Half a surrogate pair becomes a question mark, and what is nested too deep to be written a text.
    """
    try:
        return orjson.dumps(value)
    except TypeError:  # an integer beyond 64 bits, half a pair, or nested deep
        pass
    try:
        text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    except RecursionError:
        return b'"nested too deep"'
    return text.encode("utf-8", "replace")


def failure(message: str) -> str:
    """The body of a refusal."""
    return json.dumps({"success": False, "message": message})


def unpacked(body: bytes, headers: Mapping[str, str]) -> bytes:
    """A body without its compression."""
    try:
        if headers.get("content-encoding", "").lower() != "gzip":
            return body
        with gzip.GzipFile(fileobj=BytesIO(body)) as file:
            return file.read(BODY_LIMIT + 1)  # enough to see that it is too large
    except (OSError, EOFError, zlib.error) as error:
        raise RefusalError(400, f"broken gzip: {error}") from error


def read_envelope(path: str, headers: Mapping[str, str], body: bytes) -> dict[str, Any]:
    """The JSON object of a request."""
    if path not in ROUTES:
        raise RefusalError(404, "no such route")
    # Segment requires the type but does not say how it refuses another; 415 is what HTTP itself has for it.
    if content_type(headers) != "application/json":
        raise RefusalError(415, "Content-Type must be application/json")
    if len(body) > BODY_LIMIT:
        raise RefusalError(400, f"the body exceeds {BODY_LIMIT} bytes")
    try:
        envelope = strict_json(body)
    except (ValueError, RecursionError) as error:
        raise RefusalError(400, f"invalid JSON: {error}") from error
    if not isinstance(envelope, dict):
        raise RefusalError(400, "the body must be an object")
    return envelope


def content_type(headers: Mapping[str, str]) -> str:
    """The kind of a body, in lower case, without its parameters; empty where nothing is said."""
    return headers.get("content-type", "").partition(";")[0].strip().lower()


def strict_json(body: bytes) -> Any:
    """Read JSON as the standard has it: no NaN, no Infinity, also none by way of 1e999.

    orjson reads most of it. It makes floats of integers beyond 64 bits, and refuses half a surrogate pair;
    Python's own reader, which is slower, keeps both.
    """
    if _LONG_INTEGER not in b":" + body.translate(_SIMPLER):
        with suppress(orjson.JSONDecodeError):
            return orjson.loads(body)

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


def told_run(headers: Mapping[str, str]) -> tuple[str | None, str | None]:
    """The sync and the run that send a request, as retl tells a local Segment; None where nothing is told."""
    return headers.get("x-retl-sync") or None, headers.get("x-retl-run") or None
