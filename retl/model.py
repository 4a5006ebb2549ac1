"""A model: one SELECT with a name."""

import re
from dataclasses import dataclass
from pathlib import Path

from retl.errors import ModelError
from retl.system import read_file, system_words

LARGEST = 1_000_000
"""Bytes of a model's file."""

_VOID = re.compile(r"(?:--[^\n]*|/\*.*?\*/|[\s;])*", re.DOTALL)
"""Comments, blanks and semicolons, and nothing else."""


@dataclass(frozen=True)
class Model:
    """A query whose result is one row per thing.

    Attributes:
        name: as the sync names it; for SQL written in the sync itself, the sync's name.
        sql: its text, which is one SELECT; the warehouse sees to that.
        where: the file (and line of its first line, where it is not 1), for error messages.
        first_line: the line of `where` on which `sql` starts; 1-based.
    """

    name: str
    sql: str
    where: str
    first_line: int = 1


def read_model(path: Path, name: str, shown: str) -> Model:
    """Read a model from its file.

    Args:
        shown: the path as error messages show it.

    Raises:
        ModelError: the file cannot be read or holds no SQL.
    """
    try:
        text = read_file(path, LARGEST).decode("utf-8-sig")
    except OSError as error:
        raise ModelError(f"cannot be read: {system_words(error)}", where=shown) from error
    except UnicodeDecodeError as error:
        raise ModelError("is not UTF-8 text", where=shown) from error
    return make_model(name, text, shown)


def make_model(name: str, text: str, shown: str, first_line: int = 1) -> Model:
    """A model of SQL text, whose first line is the given one of the file.

    Raises:
        ModelError: the text holds no SQL.
    """
    where = shown if first_line == 1 else f"{shown}:{first_line}"
    if _VOID.fullmatch(text):
        raise ModelError("there is no SQL here", where=where, hint="write one SELECT")
    return Model(name, text, where, first_line)
