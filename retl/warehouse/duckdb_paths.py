"""The files that a model in DuckDB names, by paths that start from the project folder.

DuckDB looks for a relative path in the working folder of the process first, which is not the project's and
may hold another file of that name; and no thread can have a working folder of its own. So the paths that
stand in a model's SQL are made absolute. One that the model composes, or that a view of the database has, is
looked for in the working folder, then in the project folder.
"""

import json
import re
from collections.abc import Iterator
from glob import escape
from pathlib import Path
from typing import Any

_READS_FILES = re.compile(
    r"read_\w+|glob|sniff_csv|parquet_\w+|(arrow|delta|iceberg|lance|sqlite)_scan|iceberg_\w+|st_read\w*|shapefile_meta",
    re.IGNORECASE,
)
"""Functions whose first argument is a path, or a list of paths."""

_LISTS = {"list_value", "array_value", "list_pack"}

_FILE = re.compile(
    r".*\.(csv|tsv|parquet|json|jsonl|ndjson|xlsx|arrow|arrows|ipc)(\.(gz|zst))?", re.IGNORECASE
)
"""Names in place of a table that DuckDB takes for a file."""

_NOT_RELATIVE = re.compile(r"[a-z][a-z0-9+.-]+:|[/\\~]|[a-z]:[/\\]", re.IGNORECASE)
"""The beginning of an absolute path, of one below the home folder, and of an address."""

_QUOTED = re.compile(rb"""'(?:[^']|'')*'|"(?:[^"]|"")*"|\$\$[^$]*\$\$""")


def with_absolute_paths(sql: str, tree: str, root: Path) -> str:
    """A query whose relative paths start from a folder.

    Args:
        sql: one SELECT.
        tree: the same as DuckDB's `json_serialize_sql` has it.
        root: the folder.
    """
    try:
        found = list(_paths(json.loads(tree)))
    except RecursionError:  # a thousand expressions deep, which DuckDB can follow
        return sql
    text = sql.encode()
    for place in sorted(set(found), reverse=True):
        written = _QUOTED.match(text, place) if place < len(text) else None
        if written is not None:
            text = text[:place] + _absolute(written[0].decode(), root).encode() + text[written.end() :]
    return text.decode()


def _absolute(written: str, root: Path) -> str:
    """A quoted path, or a quoted name that is one, as an absolute path in quotes."""
    quote = '"' if written[0] == '"' else "'"
    path = written[2:-2] if written[0] == "$" else written[1:-1].replace(quote * 2, quote)
    if not path or _NOT_RELATIVE.match(path) or (quote == '"' and not _FILE.fullmatch(path)):
        return written
    # What is a sign of patterns in a folder's own name is none.
    absolute = f"{escape(str(root.absolute()))}/{path}"
    return quote + absolute.replace(quote, quote * 2) + quote


def _paths(node: Any) -> Iterator[int]:
    """The places, in bytes, where a path may stand in the text of a query."""
    if isinstance(node, list):
        for one in node:
            yield from _paths(one)
    elif isinstance(node, dict):
        if (
            node.get("type") == "BASE_TABLE"
            and not node["schema_name"]
            and _FILE.fullmatch(node["table_name"])
        ):
            yield node["query_location"]
        if node.get("type") == "TABLE_FUNCTION":
            function = node["function"]
            if _READS_FILES.fullmatch(function["function_name"]):
                yield from _texts(_arguments(function)[:1])
        for one in node.values():
            yield from _paths(one)


def _arguments(function: dict[str, Any]) -> list[Any]:
    """The arguments of a function, of which DuckDB 2 has the names as well."""
    if "arguments" in function:
        return [one["expression"] for one in function["arguments"]]
    return list(function.get("children", ()))


def _texts(arguments: list[Any]) -> Iterator[int]:
    """The places of the texts in arguments, and in lists among them."""
    for argument in arguments:
        if argument["class"] in ("CONSTANT", "COLUMN_REF"):
            yield argument["query_location"]
        elif argument.get("function_name") in _LISTS or argument.get("type") == "ARRAY_CONSTRUCTOR":
            yield from _texts(_arguments(argument))
