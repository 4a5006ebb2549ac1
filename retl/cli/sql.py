"""`retl sql`: one SELECT over the history of a sync."""

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from retl.cli.console import Printer, Ragged, as_json_line, console, table_width
from retl.cli.fold import fold_words
from retl.cli.options import ONE_SYNC, REHEARSAL, STATE_DIR
from retl.clock import SystemClock
from retl.history import Answer, query
from retl.session import find_sessions


@click.command("sql")
@ONE_SYNC
@click.argument("select")
@click.option("--json", "as_json", is_flag=True, help="Print JSON: one object for each row, on its own line.")
@click.option("--csv", "as_csv", is_flag=True, help="Print CSV, the names of the columns first.")
@REHEARSAL
@STATE_DIR
def sql_command(
    sync: str, select: str, as_json: bool, as_csv: bool, rehearsal: bool, state_dir: Path | None
) -> int:
    """Ask the history of a sync by one SELECT.

    It reads the views runs, calls, rejections and rows, whose columns are in docs/state.md. Nothing changes,
    and no file is reached.

    Example: retl sql users "select event, count(*) from calls group by event"
    """
    if as_json and as_csv:
        raise click.UsageError("--json and --csv exclude each other")
    for session in find_sessions([sync], state_dir, rehearsal):
        with session.peeked_state(SystemClock()) as state:
            found = query(state, select)
        if as_json:
            for row in found.as_json():
                click.echo(as_json_line(row))
        elif as_csv:
            click.echo(as_csv_text(found), nl=False)
        else:
            printed = console()
            printed.print(found_report(found, printed.width))
        if found.elsewhere:
            note = (
                f"the view rows lacks those that the warehouse has, in {found.elsewhere} (engine: warehouse)"
            )
            console(stderr=True).print(Text(note, "dim"))
        if session.is_only_rehearsed:
            Printer(state_dir=state_dir).only_rehearsed(f'retl sql {sync} "…"')
    return 0


def as_csv_text(found: Answer) -> str:
    """The rows as CSV."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(found.columns)
    writer.writerows([None if value is None else _cell(value) for value in row] for row in found.rows)
    return text.getvalue()


def found_report(found: Answer, width: int) -> RenderableType:
    """The rows as a table, whose numbers are at the right; as blocks where that is wider than the terminal.

    Args:
        found: the columns and rows.
        width: of the terminal, in columns.
    """
    table = Table(box=None, pad_edge=False, padding=(0, 1), header_style="dim")
    for place, name in enumerate(found.columns):
        are_numbers = all(
            isinstance(row[place], (int, float)) for row in found.rows if row[place] is not None
        )
        table.add_column(name, justify="right" if are_numbers and found.rows else "left", overflow="fold")
    for row in found.rows:
        table.add_row(*map(_cell, row))
    if table_width(table) <= width:
        return Group(Ragged(table), *([] if found.rows else [Text("0 rows", "dim")]))
    if not found.rows:
        return Group(*map(Text, fold_words(", ".join(found.columns), width, "")), Text("0 rows", "dim"))
    return Group(*_blocks(found, width))


def _blocks(found: Answer, width: int) -> Iterator[Text]:
    """The rows below each other, a line for each column, and a blank line between two rows."""
    for place, row in enumerate(found.rows):
        if place:
            yield Text()
        for name, value in zip(found.columns, row, strict=True):
            first, *others = _cell(value).splitlines() or [""]
            lines = fold_words(f"{name}: {first}".rstrip(), width, "")
            lines += [line for other in others for line in fold_words(other, width)]
            yield Text.assemble((lines[0][: len(name) + 1], "dim"), lines[0][len(name) + 1 :])
            yield from map(Text, lines[1:])


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (dict, list)):
        return json.dumps(value, ensure_ascii=False, default=str)
    return str(value)
