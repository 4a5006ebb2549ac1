"""`retl status`: the last run of each sync, and what is pending and rejected."""

from collections.abc import Sequence
from pathlib import Path

import click
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from retl.cli.console import Printer, as_json_line, console
from retl.cli.options import AS_JSON, REHEARSAL, STATE_DIR, sync_files
from retl.errors import RetlError
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
    codes = [0]
    for path in sync_files(syncs):
        try:
            found.append(sync_status(load_session(path, state_dir, rehearsal)))
        except RetlError as error:
            Printer().error(error)
            codes.append(error.exit_code)
    if as_json:
        for one in found:
            click.echo(as_json_line(one.as_json()))
    else:
        console().print(status_report(found))
    return max(codes)


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
    return table
