"""Folding of long lines at the width of a terminal: words, and JSON between its members."""

import re
from collections.abc import Iterator

from rich.cells import cell_len, chop_cells

LONGEST = 300
"""Characters of one text beyond which its middle is left out; a description may have thousands."""

_COMMAND = re.compile(r"\bretl [a-z]+(?: [\w./-]+)?(?: --[\w-]+(?: [\w./-]+(?=[,;)]|$| --))?)*")
"""A command of retl's in a sentence, with its options."""

_JOINT = "\ue000"
"""A character of no script, in place of the spaces in a command."""

_TOKENS = re.compile(r'"(?:[^"\\]|\\.)*"|\s+|[{}\[\]:,]|[^\s{}\[\]:,"]+|.', re.DOTALL)


def fold_words(text: str, width: int | None, indent: str = "  ") -> list[str]:
    """A text in lines that are no wider than `width`, broken between words; None leaves it whole.

    The lines after the first begin with two spaces more. A command that fits into a line stays in one, to be
    copied.
    """
    if width is None:
        return [indent + text]
    room = width - cell_len(indent) - 2
    text = _COMMAND.sub(lambda one: one[0].replace(" ", _JOINT) if len(one[0]) <= room else one[0], text)
    lines, line = [], indent
    for word in text.split(" "):
        joined = f"{line} {word}" if line.strip() else line + word
        if line.strip() and cell_len(joined) > width:
            lines.append(line)
            joined = f"{indent}  {word}"
        line = joined
    whole_lines = (one.replace(_JOINT, " ") for one in [*lines, line])
    return [part for whole in whole_lines for part in _chopped(whole, width, indent + "  ")]


def fold_json(text: str, width: int | None, indent: str = "  ") -> list[str]:
    """A JSON object in lines that are no wider than `width`, broken between members; None leaves it whole.

    Each member of the outermost object that is an object itself begins a line. The text is not parsed, which
    would cost digits.
    """
    if width is None:
        return [indent + text]
    lines, line = [], indent
    for depth, begins_line, piece in _pieces(text):
        if line.strip() and (begins_line or cell_len(line + piece) > width):
            lines.append(line)
            line = indent + (" " if depth <= 1 else "     ")
            piece = piece.lstrip()
        line += piece
    return [part for whole in [*lines, line] for part in _chopped(whole, width, indent + "     ")]


def shortened(text: str, most: int = LONGEST) -> str:
    """A text whose middle is left out where it is long; says how much is."""
    if len(text) <= most:
        return text
    half = most // 2
    return f"{text[:half]}… {len(text) - 2 * half:,} characters …{text[-half:]}"


def _pieces(text: str) -> Iterator[tuple[int, bool, str]]:
    """The pieces of a JSON text that are not broken: depth at the beginning, whether a line begins, piece."""
    depth, began, piece, last = 0, 0, "", ""
    begins_line = False
    for token in _TOKENS.findall(text):
        if token == "{" and depth == 1:
            # A member that is an object begins a line, and its own members follow.
            yield 1, True, piece + token
            depth, began, piece, begins_line = 2, 2, "", False
            continue
        depth += {"{": 1, "[": 1, "}": -1, "]": -1}.get(token, 0)
        piece += " " if token.isspace() else shortened(token)
        if token == ",":
            yield began, begins_line, piece
            began, piece, begins_line = depth, "", depth == 1 and last in "}]"
        last = token
    if piece:
        yield began, begins_line, piece


def _chopped(line: str, width: int, indent: str) -> Iterator[str]:
    """A line in parts that fit, where a single word or value is too wide."""
    if cell_len(line) <= width:
        yield line
        return
    room = max(20, width - cell_len(indent))
    first, *rest = chop_cells(line, width)
    yield first
    for part in chop_cells("".join(rest), room) if rest else ():
        yield indent + part
