"""JSON objects spliced in SQL, out of members that are JSON text already.

The values are never parsed and written again, which would cost digits. Functions take SQL expressions that
yield JSON text, NULL where there is nothing to say, and give SQL expressions that yield JSON text.
"""

from collections.abc import Iterator, Mapping
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
    return list(_members(values))


def object_member(name: str, fields: Mapping[str, str]) -> list[str]:
    """Parts for a concat: `,"name":{…}` with an object as `json_object` makes it."""
    return [_name(name), *_object(_tree(fields))]


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


def _object(tree: Mapping[str, Any]) -> list[str]:
    """Parts for a concat: an object in braces."""
    if not tree:
        return ["'{}'"]
    return ["'{'", f"ltrim(concat({', '.join(_members(tree))}), ',')", "'}'"]


def _members(tree: Mapping[str, Any]) -> Iterator[str]:
    """Parts for a concat, which passes over those that are NULL: members, each behind a comma.

    The name of a member is a part of its own, since each `||` would copy the value once more.
    """
    for name, node in tree.items():
        if isinstance(node, dict):
            is_there = f"coalesce({', '.join(_leaves(node))}) IS NOT NULL"
            begin, content, end = _object(node)
            yield from (_if(is_there, _name(name)), _if(is_there, begin), content, _if(is_there, end))
        else:
            yield from (_if(f"{node} IS NOT NULL", _name(name)), node)


def _leaves(tree: Mapping[str, Any]) -> Iterator[str]:
    """The values of an object and of those within it."""
    for node in tree.values():
        if isinstance(node, dict):
            yield from _leaves(node)
        else:
            yield node


def _name(name: str) -> str:
    return sql.text(f",{json_string(name)}:")


def _if(condition: str, text: str) -> str:
    return f"CASE WHEN {condition} THEN {text} END"
