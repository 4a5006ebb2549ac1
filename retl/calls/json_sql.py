"""JSON objects spliced in SQL, out of members that are JSON text already.

The values are never parsed and written again, which would cost digits. Functions take SQL expressions that
yield JSON text, NULL where there is nothing to say, and give SQL expressions that yield JSON text.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from retl import sql
from retl.forms.dotted import path
from retl.json_values import json_string


def json_object(fields: Mapping[str, str]) -> str:
    """The SQL of a JSON object, its members in the order of the fields.

    Args:
        fields: dotted names, which build nested objects (`retl.forms.dotted`), to the SQL of their values,
            which is best a name: it is there several times, and DuckDB computes it once anyway.

    Returns:
        An expression that is never NULL: a field whose value is NULL is left out, and so is a nested object
        without members, while the outermost is then `{}`.
    """
    return f"concat({', '.join(_object(_tree(fields)))})"


def members(values: Mapping[str, str]) -> list[str]:
    """Parts for a concat: `,"name":value` for each SQL of a value, and nothing where that is NULL."""
    return list(_members(values, behind=None))


def object_member(name: str, fields: Mapping[str, str]) -> list[str]:
    """Parts for a concat: `,"name":{…}` with an object as `json_object` makes it."""
    return [sql.text(f",{json_string(name)}:"), *_object(_tree(fields))]


def _tree(fields: Mapping[str, str]) -> dict[str, Any]:
    """The values by the parts of their dotted names."""
    tree: dict[str, Any] = {}
    for name, value in fields.items():
        *outer, last = path(name)
        node = tree
        for part in outer:
            node = node.setdefault(part, {})
        node[last] = value
    return tree


MOST_ASKING = 12
"""Members of an object that each ask whether one is there before it; of more, the first comma is cut off."""


def _object(tree: Mapping[str, Any]) -> list[str]:
    """Parts for a concat: an object in braces. To cut a comma off takes another copy of its text."""
    if not tree:
        return ["'{}'"]
    if len(tree) > MOST_ASKING:
        return ["'{'", f"ltrim(concat({', '.join(_members(tree, behind=None))}), ',')", "'}'"]
    return ["'{'", *_members(tree, behind=()), "'}'"]


def _members(tree: Mapping[str, Any], behind: Sequence[str] | None) -> Iterator[str]:
    """Parts for a concat, which passes over those that are NULL: members, with commas between them.

    The name of a member is a part of its own, since each `||` would copy the value once more.

    Args:
        tree: the members.
        behind: the values that may stand before the first member; None where there is always one.
    """
    for name, node in tree.items():
        if isinstance(node, dict):
            leaves = list(_leaves(node))
            is_there = f"coalesce({', '.join(leaves)}) IS NOT NULL"
            _, *content, _ = _object(node)
            yield from (_name(name, is_there, behind), _if(is_there, "{"), *content, _if(is_there, "}"))
        else:
            leaves = [node]
            yield from (_name(name, f"{node} IS NOT NULL", behind), node)
        behind = None if behind is None else [*behind, *leaves]


def _leaves(tree: Mapping[str, Any]) -> Iterator[str]:
    """The values of an object and of those within it."""
    for node in tree.values():
        if isinstance(node, dict):
            yield from _leaves(node)
        else:
            yield node


def _name(name: str, is_there: str, behind: Sequence[str] | None) -> str:
    """The SQL of a member's name, with a comma where a value stands before it; NULL where it is not there."""
    first, later = f"{json_string(name)}:", f",{json_string(name)}:"
    if behind is None:
        return _if(is_there, later)
    if not behind:
        return _if(is_there, first)
    is_later = " OR ".join(f"{value} IS NOT NULL" for value in behind)
    texts = f"WHEN {is_later} THEN {sql.text(later)} ELSE {sql.text(first)}"
    return f"CASE WHEN NOT ({is_there}) THEN NULL {texts} END"


def _if(condition: str, text: str) -> str:
    return f"CASE WHEN {condition} THEN {sql.text(text)} END"
