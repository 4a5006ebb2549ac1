"""Quoted: an answer in a few words, without what it quotes of the calls that it answers.

Answers are printed and kept in the state; calls hold personal data.
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

_WORD = r"[^\s\"'`{}\[\]()<>,;:=]+"


def without_quotes(answer: str, batch: Batch) -> str:
    """The beginning of an answer, in which each word of the calls' values is replaced by an ellipsis."""
    try:
        calls = json.loads(b"[" + bytes(batch.text) + b"]", parse_int=str, parse_float=str)
        words = set(_words(calls))
    except RecursionError:  # nested too deeply to be looked through
        return "…"
    everything = "\n".join(words)

    def shown(match: re.Match[str]) -> str:
        word = match[0].strip(".!?").lower()
        # A value may be cut off in the answer, so that only its beginning is there.
        is_quoted = word in words or (len(word) > 3 and f"\n{word}" in f"\n{everything}")
        return "…" if word and is_quoted and word not in ORDINARY.split() else match[0]

    return re.sub(_WORD, shown, answer[:MOST_CHARACTERS])


def _words(value: Any) -> Iterator[str]:
    """The words in the values of a JSON document, and the values themselves; not its keys."""
    if isinstance(value, dict):
        for name, member in value.items():
            if name not in {"type", "library"}:
                yield from _words(member)
    elif isinstance(value, list):
        for member in value:
            yield from _words(member)
    elif value is not None and not isinstance(value, bool):
        text = str(value).lower()
        yield text
        yield from (word.strip(".!?") for word in re.findall(_WORD, text))
