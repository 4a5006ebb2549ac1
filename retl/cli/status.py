"""`retl status`: the last run of each sync, and what is pending and rejected."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import click
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from retl.cli.console import Printer, Ragged, as_json_line, console, count
from retl.cli.errors import print_failure
from retl.cli.options import AS_JSON, REHEARSAL, STATE_DIR, sync_files
from retl.config.project import find_project
from retl.errors import ConfigError, Interrupted
from retl.orphans import Orphan, find_orphans
from retl.session import load_session
from retl.status import SyncStatus, sync_status


@click.command("status")
@click.argument("syncs", nargs=-1, metavar="[SYNC...]")
@AS_JSON
@REHEARSAL
@STATE_DIR
def status_command(syncs: Sequence[str], as_json: bool, rehearsal: bool, state_dir: Path | None) -> int:
    """Show each sync's last run, and what is pending and rejected; without SYNC, of all in syncs/."""
    found = []
    own: dict[str, Path] = {}
    codes = [0]
    none: ConfigError | None = None
    try:
        paths = sync_files(syncs)
    except ConfigError as error:
        if syncs:
            raise
        paths, none = [], error
    for path in paths:
        try:
            session = load_session(path, state_dir, rehearsal)
            own[session.sync.name] = session.state_path
            found.append(sync_status(session))
        except Exception as error:
            failed = print_failure(Printer(as_json, several=len(paths) > 1), path.stem, error)
            codes.append(failed.exit_code)
            if isinstance(failed, Interrupted):
                break
    orphans = [] if syncs or rehearsal else _orphans_around(state_dir, own)
    if none is not None and not orphans:
        raise none
    found += [orphan.status for orphan in orphans]
    if as_json:
        for one in found:
            click.echo(as_json_line(one.as_json()))
    else:
        console().print(status_report(found))
        for orphan in orphans:
            console().print(orphan_report(orphan))
    return max(codes)


def _orphans_around(state_dir: Path | None, own: Mapping[str, Path]) -> list[Orphan]:
    """The orphans of the project around the working folder."""
    project = find_project(Path.cwd(), os.environ)
    return find_orphans(project, project.state_dir(state_dir).absolute(), own=own)


def orphan_report(orphan: Orphan) -> RenderableType:
    """The way out of an orphan."""
    name = orphan.status.sync
    if orphan.is_source:
        return Text(
            f"{orphan.path}: its calls wait for a source that the sync does not name now\n"
            "  → they leave with a run that has the `segment: {name: …}` of this file's name",
            "yellow",
        )
    loss = f" and loses {count(orphan.pending, 'call')} that never left" if orphan.pending else ""
    return Text(
        f"{orphan.path}: no sync file is named `{name}`\n"
        f"  → to go on with it, bring its file back, or write `name: {name}` into the renamed one; "
        f"to delete it forgets what was sent{loss}",
        "yellow",
    )


def status_report(syncs: Sequence[SyncStatus]) -> RenderableType:
    """The syncs, a line each: last run, what is pending, and what is rejected."""
    table = Table(box=None, pad_edge=False, padding=(0, 1), header_style="dim")
    numbers = ("rows", "sent", "pending", "rejected")
    for title in ("sync", "last run (UTC)", "status", *numbers):
        table.add_column(title, justify="right" if title in numbers else "left", no_wrap=True)
    colors = {"succeeded": "green", "running": "cyan", "partial": "yellow", "never": "dim"}
    for one in syncs:
        counts = (one.rows, one.delivered, one.pending, one.rejected)
        table.add_row(
            Text(one.sync, "bold"),
            (one.last_run or "")[:16].replace("T", " "),
            Text(one.status, colors.get(one.status, "red")),
            *("" if number is None else f"{number:,}" for number in counts),
        )
    return Ragged(table)
