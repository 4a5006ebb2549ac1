"""JSON as a person reads it: a value a line, indented, its parts marked by what they are."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

INDENT = "  "

DEEPEST = 40
"""Levels from which on nothing is indented further: no screen is so wide."""

_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|[{}\[\],:]|[^\s{}\[\],:"]+')


@dataclass(frozen=True)
class JsonPart:
    """A piece of the text.

    Attributes:
        text: as it is written, spaces and line ends included.
        kind: `name`, `string`, `number`, `constant`, or empty for punctuation.
    """

    text: str
    kind: str = ""


def pretty_parts(text: str) -> Iterator[JsonPart]:
    """The parts of a JSON text, laid out anew; strings and numbers keep each character that they have."""
    tokens = _TOKEN.findall(text)
    depth = 0
    for place, token in enumerate(tokens):
        following = tokens[place + 1] if place + 1 < len(tokens) else ""
        if token in "{[":
            is_empty = following in ("}", "]")
            depth += not is_empty
            yield JsonPart(token if is_empty else f"{token}\n{_indent(depth)}")
        elif token in "}]":
            was_empty = place > 0 and tokens[place - 1] in ("{", "[")
            depth -= not was_empty
            yield JsonPart(token if was_empty else f"\n{_indent(depth)}{token}")
        elif token == ",":
            yield JsonPart(f",\n{_indent(depth)}")
        elif token == ":":
            yield JsonPart(": ")
        else:
            yield JsonPart(token, _kind(token, following))


def pretty(text: str) -> str:
    """A JSON text, laid out anew."""
    return "".join(part.text for part in pretty_parts(text))


def _indent(depth: int) -> str:
    return INDENT * min(depth, DEEPEST)


def _kind(token: str, following: str) -> str:
    if token.startswith('"'):
        return "name" if following == ":" else "string"
    return "constant" if token in ("true", "false", "null") else "number"
