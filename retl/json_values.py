"""JSON as it is written: integers that every reader keeps, texts, and constants."""

import json
from typing import Any

SAFE_INTEGER = 2**53 - 1
"""The largest integer that every JSON reader keeps exactly (RFC 8259, section 6)."""


def json_string(text: str) -> str:
    """A text as a JSON string, Unicode kept as it is."""
    return json.dumps(text, ensure_ascii=False)


def json_constant(constant: Any) -> str:
    """A constant of a sync file as JSON text."""
    return json.dumps(constant, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
