"""`retl init`: a new project."""

import os
from pathlib import Path
from textwrap import fill

import click
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from retl.cli.console import Ragged, console
from retl.new_project import EMBEDDED, WAREHOUSES, NewProject, make_project


@click.command("init")
@click.argument("folder", default=".", type=click.Path(path_type=Path, file_okay=False))
@click.option(
    "--warehouse",
    type=click.Choice(list(WAREHOUSES)),
    default=EMBEDDED,
    help="The database to read; duckdb reads a CSV file that comes along. [default: duckdb]",
)
def init_command(folder: Path, warehouse: str) -> int:
    """Make a new project in FOLDER, or here: a model, two syncs, and settings.

    No file is written over. With duckdb the project runs at once, against a local Segment.

    Example: retl init shop && cd shop && retl run users --sandbox
    """
    made = make_project(folder, warehouse)
    console().print(init_report(made))
    return 0


def init_report(made: NewProject) -> RenderableType:
    """The files that were made, and what to type next."""
    files = [name for name in made.files if not name.startswith("schemas/")] + ["schemas/"]
    listed = fill(f"made {made.folder.absolute().name}: {', '.join(files)}", 80, subsequent_indent="  ")
    where = os.path.relpath(made.folder)
    steps = [(f"cd {where}", "")] if where != "." else []
    if made.runs_at_once:
        plan = "after an edit of data/users.csv: what changed"
    else:
        plan = "what the next run would send"
        steps += [
            ("cp .env.example .env", "then write the URL of the warehouse into it"),
            ("retl check --connect", "are the files right, and is the warehouse there?"),
        ]
    steps += [
        ("retl run users --sandbox", "the whole way, against a local Segment"),
        ("retl plan users --sandbox", plan),
    ]
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    for command, about in steps:
        table.add_row("", Text(command, "bold"), Text(f"# {about}" if about else "", "dim"))
    return Group(Text(listed), Text("next:"), Ragged(table))
