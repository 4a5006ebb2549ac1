"""JSON objects spliced in SQL, out of members that are JSON text already.

The values are never parsed and written again, which would cost digits. Functions take SQL expressions that
yield JSON text, NULL where there is nothing to say, and give SQL expressions that yield JSON text.
"""

from collections.abc import Mapping
from typing import Any

from retl import sql
from retl.forms.dotted import path
from retl.json_values import json_string


def json_object(fields: Mapping[str, str]) -> str:
    """The SQL of a JSON object, its members in the order of the fields.

    Args:
        fields: dotted names, which build nested objects (`retl.forms.dotted`), to the SQL of their values.

    Returns:
        An expression that is never NULL: a field whose value is NULL is left out, and so is a nested object
        without members, while the outermost is then `{}`.
    """
    tree: dict[str, Any] = {}
    for name, value in fields.items():
        *outer, last = path(name)
        node = tree
        for part in outer:
            node = node.setdefault(part, {})
        node[last] = value
    return f"concat('{{', {_members(tree)}, '}}')"


def json_member(name: str, value: str) -> str:
    """The SQL of `"name":value`; NULL where the value is NULL."""
    return f"{sql.text(json_string(name) + ':')} || ({value})"


def text_member(name: str, text: str) -> str:
    """The SQL of `"name":"text"` for an SQL expression that yields plain text; NULL where it is NULL."""
    return json_member(name, f"to_json({text})::VARCHAR")


def _members(tree: Mapping[str, Any]) -> str:
    """The SQL of an object's members with commas between; empty text where there are none."""
    members = []
    for name, node in tree.items():
        if isinstance(node, dict):
            members.append(json_member(name, f"'{{' || {_some(node)} || '}}'"))
        else:
            members.append(json_member(name, node))
    return f"concat_ws(',', {', '.join(members)})" if members else "''"


def _some(tree: Mapping[str, Any]) -> str:
    """The SQL of an object's members; NULL where there are none.

    DuckDB reads `nullif(x, '')` as a CASE in which x stands twice, which over levels would double with each.
    """
    members = _members(tree)
    if any(isinstance(node, dict) for node in tree.values()):
        return f"list_filter([{members}], lambda one: one <> '')[1]"
    return f"nullif({members}, '')"
