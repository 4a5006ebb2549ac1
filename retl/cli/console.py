"""Shared by the commands that print: consoles, numbers in words, errors, JSON lines."""

import json
import logging
import os
import re
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from retl.address import spelled
from retl.cli.fold import fold_words
from retl.cli.log import LogAction, json_logs, say
from retl.cli.output import takes_unicode, without_controls
from retl.errors import RetlError

SIGNS = {
    "added": ("+", "green"),
    "changed": ("~", "yellow"),
    "removed": ("-", "red"),
    "unchanged": ("=", "cyan"),
}
"""The sign and the colour of each kind of change."""


def count(number: int, noun: str) -> str:
    """A number and its noun: `1 call`, `2,000 calls`."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def duration(seconds: float) -> str:
    """Seconds in words: `0.4 s`, `3 min 20 s`, `2 h 5 min`."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def as_json_line(value: dict[str, Any]) -> str:
    """One object on one line, in ASCII where stdout cannot print every character."""
    return json.dumps(value, ensure_ascii=not takes_unicode(sys.stdout), default=str)


def despite_rules(violations: Mapping[str, int]) -> str:
    """The second half of a sentence about calls that are sent though they break rules of receivers.

    Args:
        violations: number of calls by the code of the rule.
    """
    rules = ", ".join(f"{code} {calls:,}" for code, calls in violations.items())
    return f"though they break a rule of a receiver: {rules}"


def undated_sentence(calls: int) -> str:
    """The sentence about calls whose timestamp is null, so that they take the moment of the run."""
    whose = "its timestamp column is null" if calls == 1 else "their timestamp column is null"
    return f"{count(calls, 'call')} dated with this run's moment, as {whose}"


_COMMAND = re.compile(r"\bretl (run|plan|reset|rekey|rejected) [\w./-]+")


def with_flags(text: str, flags: str) -> str:
    """A text in which options follow each command that it names."""
    return _COMMAND.sub(lambda command: command[0] + flags, text)


def error_report(
    error: RetlError, flags: str = "", sync: str | None = None, width: int | None = None
) -> RenderableType:
    """An error for people: the sentence with its place, and the hint.

    Args:
        error: the error.
        flags: options that are repeated after each command that the hint names.
        sync: the sync that it is of, to be named.
        width: columns at which long lines are folded; None leaves them whole.
    """
    name = f"{sync}: " if sync else ""
    sentence, *others = f"{name}error: {error}".splitlines()
    first, *rest = fold_words(sentence, width, "")
    head = Text(first)
    head.stylize("bold", 0, len(name))
    head.stylize("bold red", len(name), len(name) + len("error"))
    lines = [head, *map(Text, rest)]
    for line in others:  # what stands in one of a database's may be a mark below the line before
        is_short = width is None or cell_len(line) <= width
        lines += [Text(line)] if is_short else map(Text, fold_words(line, width, ""))
    if error.hint:
        lines += map(Text, fold_words(f"→ {with_flags(error.hint, flags)}", width))
    return Group(*lines)


@dataclass(frozen=True)
class Ragged:
    """A table without blanks at the ends of its lines."""

    table: Table

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for line in console.render_lines(self.table, options, pad=False):
            text = Text.assemble(*((segment.text, segment.style or "") for segment in line))
            text.rstrip()
            yield text


def table_width(table: Table) -> int:
    """The columns of the terminal that a table takes where no line of a cell is folded or cut."""
    measuring = Console(width=WIDE)
    return measuring.measure(table).maximum


class Steady(Console):
    """A console whose terminal obeys retl alone, and no text that is printed."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """The pieces of what is printed."""
        for piece in super().render(renderable, options):
            yield piece if piece.control else Segment(without_controls(piece.text), piece.style)


def console(stderr: bool = False) -> Console:
    """A console that prints text as it is, without markup, emoji codes or highlighting of the data."""
    printed = Steady(stderr=stderr, highlight=False, soft_wrap=True, emoji=False, markup=False)
    if not printed.is_terminal and "COLUMNS" not in os.environ:
        printed.width = WIDE
    return printed


WIDE = 100_000
"""Columns of a console that is not a terminal, so that no line in a pipe is cut or broken."""


@dataclass(frozen=True)
class Printer:
    """Prints the errors of a command, and holds the options that say how a command prints.

    Attributes:
        as_json: whether to print JSON; else text for people.
        quiet: whether to print nothing but errors.
        rehearsal: whether the command is about the sandbox.
        state_dir: the folder of state files, where the command line gave one.
        several: whether the command works on several syncs, so that an error names its own.
    """

    as_json: bool = False
    quiet: bool = False
    rehearsal: bool = False
    state_dir: Path | None = None
    several: bool = False

    def failed(self, sync: str, error: RetlError) -> None:
        """Print the error that kept a command from its work on a sync; with `as_json` also as JSON."""
        if self.as_json:
            about = {"code": error.code, "message": str(error), "hint": error.hint}
            print(as_json_line({"sync": sync, "error": about}))
        self.error(error, sync)

    def error(self, error: RetlError, sync: str | None = None) -> None:
        """Print an error on stderr, with the sync that it is of, where there are several, or JSON."""
        if json_logs():
            hint = with_flags(error.hint, self.flags) if error.hint else None
            about = {"code": error.code, "hint": hint, "exit_code": error.exit_code}
            say(logging.ERROR, LogAction.FAILED, str(error), sync, **about)
        else:
            printed = console(stderr=True)
            width = printed.width if printed.width < WIDE else None
            named = sync if self.several else None
            printed.print(error_report(error, self.flags, named, width))

    def only_rehearsed(self, command: str) -> None:
        """Say on stderr that a sync has no run but rehearsals, and which command is about these."""
        flags = replace(self, rehearsal=True).flags
        console(stderr=True).print(
            f"there are only rehearsals; to see them: {command}{flags}", style="yellow"
        )

    @property
    def flags(self) -> str:
        """The options that a command must repeat to mean the same state."""
        folder = f" --state-dir {spelled(self.state_dir)}" if self.state_dir else ""
        return (" --sandbox" if self.rehearsal else "") + folder
