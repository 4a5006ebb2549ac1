"""A model: one SELECT with a name."""

import re
from dataclasses import dataclass, replace
from pathlib import Path

from retl.errors import ModelError
from retl.sql import comment
from retl.system import read_file, system_words

LARGEST = 1_000_000
"""Bytes of a model's file."""

LONGEST_QUOTE = 60
"""Characters of what a message quotes of a model."""

_VOID = re.compile(r"(?:--[^\n]*|/\*.*?\*/|[\s;])*", re.DOTALL)
"""Comments, blanks and semicolons, and nothing else."""

_JINJA = re.compile(
    r"""
    '(?:[^'\\]|\\.)*' | "[^"]*" | `[^`]*` | \$(?P<tag>\w*)\$.*?\$(?P=tag)\$ | --[^\n]* | /\*.*?\*/
  | (?P<jinja> \{\{.*?\}\} | \{%.*?%\} | \{[{%] )
    """,
    re.VERBOSE | re.DOTALL,
)
"""Texts and comments of SQL, which may hold anything, and Jinja elsewhere, which no database takes."""


@dataclass(frozen=True)
class Model:
    """A query whose result is one row per thing.

    Attributes:
        name: as the sync names it; for SQL written in the sync itself, the sync's name.
        sql: its text, which is one SELECT; the warehouse sees to that.
        where: the file (and line of its first line, where it is not 1), for error messages.
        first_line: the line of `where` on which `sql` starts; 1-based.
        comment: SQL that says who reads it, for each statement with which it is read; empty for none.
    """

    name: str
    sql: str
    where: str
    first_line: int = 1
    comment: str = ""

    def asking(self, **parts: str) -> "Model":
        """The model with a comment that has these words, as `retl.sql.comment` spells them."""
        return replace(self, comment=comment(**parts))

    def said(self, statement: str, last: bool = False) -> str:
        """A statement with the comment; `last` puts it behind, where a database cuts off what is before."""
        if not self.comment:
            return statement
        return f"{statement}\n{self.comment}" if last else f"{self.comment} {statement}"


def read_model(path: Path, name: str, shown: str) -> Model:
    """Read a model from its file.

    Args:
        shown: the path as error messages show it.

    Raises:
        ModelError: the file cannot be read, or holds no SQL, or Jinja.
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
        ModelError: the text holds no SQL, or Jinja.
    """
    where = shown if first_line == 1 else f"{shown}:{first_line}"
    if _VOID.fullmatch(text):
        raise ModelError("there is no SQL here", where=where, hint="write one SELECT")
    _refuse_jinja(text, shown, first_line)
    return Model(name, text, where, first_line)


def _refuse_jinja(text: str, shown: str, first_line: int) -> None:
    """See that a text is SQL already, and not a template of it, as models of dbt are.

    Raises:
        ModelError: Jinja stands in it.
    """
    for found in _JINJA.finditer(text):
        if found["jinja"]:
            line = first_line + text.count("\n", 0, found.start("jinja"))
            jinja = " ".join(found["jinja"].split())
            shown_jinja = jinja if len(jinja) <= LONGEST_QUOTE else f"{jinja[:LONGEST_QUOTE]}…"
            raise ModelError(
                f"here is Jinja, `{shown_jinja}`; retl reads SQL as it is",
                where=f"{shown}:{line}",
                hint="for a model of dbt: read the table that it makes, `table: schema.name`, or "
                "copy its compiled SQL from target/compiled/",
            )
