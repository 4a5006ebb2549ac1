"""What commands print: results for people, JSON for machines."""

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.table import Table
from rich.text import Text

from retl.errors import RetlError

SIGNS = {
    "added": ("+", "green"),
    "changed": ("~", "yellow"),
    "removed": ("-", "red"),
    "unchanged": ("=", "cyan"),
}


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
    """One object on one line."""
    return json.dumps(value, ensure_ascii=False, default=str)


def despite_rules(violations: Mapping[str, int]) -> str:
    """Rules of receivers that calls break though they are sent, with how many calls."""
    rules = ", ".join(f"{code} {calls:,}" for code, calls in violations.items())
    return f"though they break a rule of a receiver: {rules}"


def undated_sentence(calls: int) -> str:
    """How many calls take the moment of the run, and why."""
    whose = "its timestamp column is null" if calls == 1 else "their timestamp column is null"
    return f"{count(calls, 'call')} dated with this run's moment, as {whose}"


_COMMAND = re.compile(r"\bretl (run|plan|reset|rekey|rejected) [\w./-]+")


def error_report(error: RetlError, flags: str = "") -> RenderableType:
    """An error: what, where, and what to do now; `flags` are repeated where a command is named."""
    lines = [Text.assemble(("error", "bold red"), f": {error}")]
    if error.hint:
        hint = _COMMAND.sub(lambda command: command[0] + flags, error.hint)
        lines.append(Text(f"  → {hint}"))
    return Group(*lines)


@dataclass(frozen=True)
class Ragged:
    """A table whose lines end where their text does."""

    table: Table

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for line in console.render_lines(self.table, options, pad=False):
            text = Text.assemble(*((segment.text, segment.style or "") for segment in line))
            text.rstrip()
            yield text


def console(stderr: bool = False) -> Console:
    """A console that prints text as it is: no word of the data is taken for a colour or a picture."""
    printed = Console(stderr=stderr, highlight=False, soft_wrap=True, emoji=False, markup=False)
    if not printed.is_terminal and "COLUMNS" not in os.environ:
        printed.width = WIDE  # a line in a pipe is as long as it is
    return printed


WIDE = 100_000


@dataclass(frozen=True)
class Printer:
    """Prints what a command found.

    Attributes:
        as_json: whether as JSON; else for people.
        quiet: whether nothing but errors.
        rehearsal: whether it was about the sandbox.
        state_dir: the folder of state files, where the command line gave one.
    """

    as_json: bool = False
    quiet: bool = False
    rehearsal: bool = False
    state_dir: Path | None = None

    def failed(self, sync: str, error: RetlError) -> None:
        """Print what kept a command from its work on a sync."""
        if self.as_json:
            about = {"code": error.code, "message": str(error), "hint": error.hint}
            print(as_json_line({"sync": sync, "error": about}))
        self.error(error)

    def error(self, error: RetlError) -> None:
        """Print an error."""
        console(stderr=True).print(error_report(error, self.flags))

    @property
    def flags(self) -> str:
        """What a command must repeat to mean the same state."""
        folder = f" --state-dir {self.state_dir}" if self.state_dir else ""
        return (" --sandbox" if self.rehearsal else "") + folder
