"""`retl report`: the past runs of syncs as one HTML file."""

import os
import webbrowser
from collections.abc import Sequence
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

import click

from retl.cli.console import Printer, console, count
from retl.cli.errors import print_failure
from retl.cli.options import REHEARSAL, STATE_DIR, files_if_any
from retl.clock import SystemClock
from retl.config.project import find_project
from retl.errors import Interrupted
from retl.orphans import find_orphans
from retl.report.page import Report, render
from retl.reporting import orphan_sections, sync_section, unreadable_section
from retl.session import load_session
from retl.state_folder import state_folder
from retl.system import system_error

MOST_DAYS = 3_650


@click.command("report")
@click.argument("syncs", nargs=-1, metavar="[SYNC...]")
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    default=Path("retl-report.html"),
    help="The file to write. [default: retl-report.html]",
)
@click.option(
    "--days", type=click.IntRange(1, MOST_DAYS), default=30, help="How far back it goes. [default: 30]"
)
@click.option(
    "--show-values", is_flag=True, help="Show keys, user ids and calls of what was rejected: personal data."
)
@click.option("--open", "opens", is_flag=True, help="Open the file in the browser.")
@REHEARSAL
@STATE_DIR
def report_command(
    syncs: Sequence[str],
    out: Path,
    days: int,
    show_values: bool,
    opens: bool,
    rehearsal: bool,
    state_dir: Path | None,
) -> int:
    """Write past runs, trends, guards and rejections as one HTML file; without SYNC, of all in syncs/.

    The file needs no network and no other file. Keys and values of rows are left out unless --show-values is
    given.

    Example: retl report --days 7 --open
    """
    now = SystemClock().now()
    sections, codes = [], [0]
    own: dict[str, Path] = {}
    project = find_project(Path.cwd(), os.environ)
    paths, none = files_if_any(syncs)
    for path in paths:
        try:
            session = load_session(path, state_dir, rehearsal)
            own[session.sync.name] = session.state_path
            project = session.project
            sections.append(sync_section(session, now - timedelta(days=days), show_values))
        except Exception as error:
            failed = print_failure(Printer(), path.stem, error)
            if isinstance(failed, Interrupted):
                return failed.exit_code
            codes.append(failed.exit_code)
            sections.append(unreadable_section(path.stem, failed))
    orphans = (
        []
        if syncs or rehearsal
        else orphan_sections(find_orphans(project, state_folder(project, state_dir), own=own))
    )
    if none is not None and not orphans:
        raise none
    page = render(Report(project.root.resolve().name, now, days, show_values, rehearsal, sections, orphans))
    _write(out, page)
    told = count(len(sections) + len(orphans), "sync")
    console().print(f"{out}: {told}, {count(sum(len(one.runs) for one in sections), 'run')}")
    if opens:
        webbrowser.open(out.resolve().as_uri())
    return max(codes)


def _write(out: Path, page: str) -> None:
    """Write the page in place of an older one, whole or not at all.

    Raises:
        RetlError: it cannot be written.
    """
    unfinished = out.with_name(f"{out.name}.new")
    try:
        unfinished.write_text(page, encoding="utf-8")
        unfinished.replace(out)
    except OSError as error:
        with suppress(OSError):
            unfinished.unlink(missing_ok=True)
        raise system_error(error, str(out)) or error from error
