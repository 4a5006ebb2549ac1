"""Texts about errors that nobody foresaw, without the secrets that this process has used.

A text of which the origin is known, as the words of a driver, is rid of its secrets where it comes in. The
traceback of a bug may quote anything, and is written where nobody knows what was in use.
"""

import base64
import re
from functools import lru_cache

from retl.address import read_address, secrets_in, spellings

_noted: set[str] = set()

_LONG = 8
"""Characters from which on a secret is taken out also within a word."""


def note(secret: str) -> str:
    """Have a secret taken out of tracebacks and of the log; gives it back."""
    if secret.strip():
        _noted.add(secret)
    return secret


def note_url(url: str) -> str:
    """The same for what may be secret in a URL: its password, and its settings."""
    try:
        address = read_address(url)
    except ValueError:
        note(url)
        return url
    for secret in secrets_in(address):
        note(secret)
    if address.password:
        note(f"{address.username or ''}:{address.password}")
    return url


def masked(text: str) -> str:
    """A text without the secrets that were noted."""
    return without(text, frozenset(_noted))


def without(text: str, secrets: frozenset[str]) -> str:
    """A text without some secrets, however they are spelled; a short one goes where it is a whole word."""
    for pattern in _patterns(secrets):
        text = pattern.sub("***", text)
    return text


@lru_cache(maxsize=1)
def _patterns(secrets: frozenset[str]) -> list[re.Pattern[str]]:
    patterns = []
    for secret in sorted(secrets, key=len, reverse=True):
        ways = "|".join((*spellings(secret), *_encoded(secret)))
        whole = ways if len(secret) >= _LONG else rf"(?<!\w)(?:{ways})(?!\w)"
        patterns.append(re.compile(whole, re.IGNORECASE))
    return patterns


def _encoded(secret: str) -> list[str]:
    """Patterns for a secret as HTTP's Basic scheme writes it: alone, or as one half of an account."""
    halves = (f"{secret}:", f":{secret}", secret)  # the longest first
    return [re.escape(base64.b64encode(half.encode()).decode().rstrip("=")) + "=*" for half in halves]
