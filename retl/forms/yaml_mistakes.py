"""The likely mistake where YAML cannot be read, in the words of whoever wrote the file.

The parser tells of its tokens. Most mistakes are of a dozen kinds, which its words and the line tell apart.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass

from ruamel.yaml.error import MarkedYAMLError
from ruamel.yaml.reader import ReaderError

from retl.errors import ConfigError


@dataclass(frozen=True)
class _Mistake:
    """A place in a text at which the parser gave up.

    Attributes:
        problem: its words.
        lines: the text by lines.
        line: 0-based.
        column: 0-based.
        begun: the line, 0-based, on which the list, mapping or text begins that it was reading.
    """

    problem: str
    lines: list[str]
    line: int
    column: int
    begun: int

    @property
    def text(self) -> str:
        """The line."""
        return self.lines[self.line] if self.line < len(self.lines) else ""

    @property
    def above(self) -> int:
        """The nearest line above that says something, 0-based."""
        found = (number for number in range(self.line - 1, -1, -1) if self._says(number))
        return next(found, self.line)

    def _says(self, number: int) -> bool:
        return bool(self.lines[number].strip()) and not self.lines[number].lstrip().startswith("#")


_Told = tuple[str, str | None]


def yaml_error(error: MarkedYAMLError, text: str, shown: str) -> ConfigError:
    """The error that says what is likely wrong, where the parser gave up.

    Args:
        error: the parser's.
        text: the whole file.
        shown: the file's path as error messages show it.
    """
    mark, begun = error.problem_mark or error.context_mark, error.context_mark or error.problem_mark
    problem = str(error.problem)
    if mark is None or begun is None:
        return ConfigError(f"not valid YAML: {problem}", where=shown)
    at = begun if _is_told_at_its_beginning(problem) else mark
    told = _Mistake(problem, text.splitlines(), at.line, at.column, begun.line)
    # The parser splits some sentences: "expected a single document in the stream" is context.
    words = f"{error.context}, {problem}" if problem.startswith("but ") else problem
    cause, hint = next((tell(told) for pattern, tell in _KINDS if re.search(pattern, words)), (words, None))
    return ConfigError(
        f"not valid YAML at column {told.column + 1}: {cause}", where=f"{shown}:{told.line + 1}", hint=hint
    )


def character_error(error: ReaderError, text: str, shown: str) -> ConfigError:
    """The error that says where a character stands that no YAML may have."""
    before = text[: error.position]
    line, column = before.count("\n") + 1, len(before) - before.rfind("\n")
    code = f"U+{ord(text[error.position]):04X}" if error.position < len(text) else "of control"
    return ConfigError(
        f"not valid YAML at column {column}: the character {code} must not stand in it",
        where=f"{shown}:{line}",
        hint='remove it; in double quotes an escape such as "\\x01" stands for it',
    )


def _is_told_at_its_beginning(problem: str) -> bool:
    """Whether what was begun is wrong, rather than the place that the parser got to."""
    return problem.startswith(("found unexpected end", "could not find expected ':'", "expected alphabetic"))


def _colon(told: _Mistake) -> _Told:
    before = told.text[: told.column]
    if re.search(r":\s", before):
        key = before.split(":")[0].strip().lstrip("-{[ ")
        return f"the value of `{key}` holds another `: `", "put the value in quotes"
    above = told.lines[told.above]
    if re.match(r"\s*[\w.-]+:[^\s/]", above) and not re.search(r":\s", above):
        return f"line {told.above + 1} has no space behind its colon", "write `key: value`"
    return (
        f"this line is indented as a part of line {told.above + 1}, which has a value already",
        f"begin it in the same column as line {told.above + 1}; a text of several lines begins with `key: |`",
    )


def _quoted(told: _Mistake) -> _Told:
    twice = "; a quote inside the text is written twice" if told.text[told.column :][:1] == "'" else ""
    return "the quote that begins here is not closed", f"close it{twice}"


def _inside(told: _Mistake) -> _Told:
    if "${" in told.text[max(0, told.column - 1) : told.column + 2]:
        return "`${…}` inside `[…]` or `{…}` needs quotes", 'write "${NAME}"'
    begun = f"of line {told.begun + 1} " if told.begun != told.line else ""
    return f"the `[` or `{{` {begun}is not closed before this, or a comma is missing", None


def _side_by_side(_told: _Mistake) -> _Told:
    return (
        "a list item and a key stand beside each other",
        "a mapping has lines of `key: value` alone, and a list lines of `- value`",
    )


def _column(told: _Mistake) -> _Told:
    return (
        f"this line begins in another column than the lines around it, from line {told.begun + 1} on",
        "begin lines that belong together in the same column",
    )


def _behind_quote(_told: _Mistake) -> _Told:
    return (
        "text stands behind a closing quote",
        "put the whole value in quotes; inside '…' a quote is written twice",
    )


def _first(told: _Mistake) -> _Told:
    character = told.text[told.column : told.column + 1]
    return f"a text must not begin with `{character}`", "put it in quotes"


def _alias(told: _Mistake) -> _Told:
    name = told.text[told.column :].split()[0]
    return (
        f"`{name}` stands for what is named `&{name[1:]}`, and nothing is",
        "put it in quotes if text is meant",
    )


_KINDS: tuple[tuple[str, Callable[[_Mistake], _Told]], ...] = (
    ("^mapping values are not allowed", _colon),
    (r"^found character '\\t'", lambda _: ("a tab stands where only spaces may", "indent with spaces")),
    ("^found character .* cannot start|alphabetic or numeric character", _first),
    ("^found undefined alias", _alias),
    ("^found unexpected end of stream", _quoted),
    (r"^expected ',' or", _inside),
    (
        "^could not find expected ':'",
        lambda _: ("a line without `key:` stands here", "write `key: value`, with a space behind the colon"),
    ),
    (
        "^sequence entries are not allowed",
        lambda _: (
            "a list item stands behind its key",
            "begin a line for each `- value`, or write `[value]`",
        ),
    ),
    (r"<block end>, but found '<scalar>'", _behind_quote),
    (r"<block end>, but found '[-?]'", _side_by_side),
    (r"<block end>, but found|<document start>", _column),
    ("^expected the node content", lambda told: (f"`{told.text[told.column :][:1]}` closes nothing", None)),
    (
        "single document",
        lambda _: ("`---` begins a second document, and a file has one", "write a file for each sync"),
    ),
    ("unknown escape character", lambda _: ("a `\\` in double quotes begins an escape", "use single quotes")),
    (
        "chomping or indentation",
        lambda _: ("text stands behind `|` or `>`", "begin it on the next line, indented"),
    ),
)
"""The kinds of mistakes by the parser's words, and what to say of each."""
