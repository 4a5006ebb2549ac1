"""Quoted: an answer in a few words, without what it quotes of the calls that it answers.

Answers are printed and kept in the state; calls hold personal data, and an answer may spell them otherwise.
So a word is shown only if it cannot be of a call, in whatever spelling.
"""

import json
import re
from collections.abc import Iterator
from typing import Any

from retl.delivery.batch import Batch

MOST_CHARACTERS = 2_000
"""How much of an answer is looked at."""

ORDINARY = (
    "a an and are as at be been by can for from has have in is it must no not of on or than that the this to "
    "was with"
)
"""Words that are shown although a value has them, too."""

_WORD = r"[^\W_]+"

_PLAIN = re.compile(r"[a-z]{1,20}|[A-Z][a-z]{0,20}|[A-Z]{1,20}|\d{1,7}")
"""A word that is not in a code such as base64 or hexadecimal digits."""


def without_quotes(answer: str, batch: Batch, status: int | None) -> str:
    """The beginning of an answer; an ellipsis stands for each word that may be of the calls' values.

    The answer's status is told anyway, and stays.
    """
    try:
        calls = json.loads(b"[" + bytes(batch.text) + b"]", parse_int=str, parse_float=str)
        values = list(_values(calls))
        names = set(_names(calls))
    except RecursionError:  # nested too deeply to be looked through
        return "…"
    plain = {*ORDINARY.split(), str(status)}
    together = "\n".join(re.sub(r"[\W_]+", "", value) for value in values)
    parts = {part for value in values for part in re.findall(_WORD, value) if len(part) > 3}

    def shown(match: re.Match[str]) -> str:
        word = match[0].lower()
        if word in plain or match[0] in names:
            return match[0]
        is_strange = not _PLAIN.fullmatch(match[0])
        is_quoted = len(word) > 1 and (word in together or any(part in word for part in parts))
        return "…" if is_strange or is_quoted else match[0]

    return re.sub(_WORD, shown, answer[:MOST_CHARACTERS])


def _values(value: Any) -> Iterator[str]:
    """The values of a JSON document in small letters, but for what is the same in all calls."""
    if isinstance(value, dict):
        for name, member in value.items():
            if name not in {"type", "library"}:
                yield from _values(member)
    elif isinstance(value, list):
        for member in value:
            yield from _values(member)
    elif value is not None and not isinstance(value, bool):
        yield str(value).lower()


def _names(value: Any) -> Iterator[str]:
    """The names of members in a JSON document."""
    if isinstance(value, dict):
        yield from value
        for member in value.values():
            yield from _names(member)
    elif isinstance(value, list):
        for member in value:
            yield from _names(member)
