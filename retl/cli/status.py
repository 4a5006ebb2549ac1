"""`retl status`: the last run of each sync, and what is pending and rejected; conditions for monitors."""

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import click
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from retl.cli.console import Printer, Ragged, as_json_line, console, count, with_flags
from retl.cli.errors import print_failure, unless_printed
from retl.cli.fold import fold_words
from retl.cli.options import AS_JSON, REHEARSAL, STATE_DIR, files_if_any
from retl.clock import SystemClock
from retl.config.project import find_project
from retl.errors import Interrupted, RetlError
from retl.monitor import CONDITIONS, FAILED, FailCondition, age, read_conditions, reasons, since
from retl.orphans import Orphan, find_orphans
from retl.session import Session, load_session
from retl.state_folder import state_folder
from retl.status import RUNNING, SyncStatus, sync_status

WIDE = 110
"""Columns from which on the table has the last success and the age of the oldest pending call, too."""


def _conditions(
    _context: click.Context, _option: click.Parameter, written: str | None
) -> tuple[FailCondition, ...]:
    """Read `failed,older-than=2h`."""
    try:
        return read_conditions(written or "")
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


STATUS_COLORS = {"succeeded": "green", RUNNING: "cyan", "partial": "yellow", "never": "dim"}
"""The colour of each status; of any other it is red."""


@click.command("status")
@click.argument("syncs", nargs=-1, metavar="[SYNC...]")
@click.option(
    "--fail-if",
    "conditions",
    callback=_conditions,
    metavar="CONDITIONS",
    help="Exit with 1 where one of these holds, and say which: "
    + ", ".join(CONDITIONS)
    + "; such as failed,rejected,older-than=2h.",
)
@AS_JSON
@REHEARSAL
@STATE_DIR
def status_command(
    syncs: Sequence[str],
    conditions: tuple[FailCondition, ...],
    as_json: bool,
    rehearsal: bool,
    state_dir: Path | None,
) -> int:
    """Show each sync's last run, and what is pending and rejected; without SYNC, of all in syncs/.

    It works during a run, too. Example: retl status --fail-if failed,older-than=2h
    """
    found = []
    own: dict[str, Path] = {}
    failures: list[RetlError] = []
    paths, none = files_if_any(syncs)
    for path in paths:
        try:
            session = load_session(path, state_dir, rehearsal)
            own[session.sync.name] = session.state_path
            found.append(_with_rehearsals(session))
        except Exception as error:
            failures.append(print_failure(Printer(as_json, several=len(paths) > 1), path.stem, error))
            if isinstance(failures[-1], Interrupted):
                break
    orphans: list[Orphan] = []
    with unless_printed(failures):
        orphans = [] if syncs or rehearsal else _orphans_around(state_dir, own)
    if none is not None and not orphans:
        raise none
    found += [orphan.status for orphan in orphans]
    now = SystemClock().now()
    failing = [(one, reasons(one, conditions, now)) for one in found]
    if as_json:
        for one, sentences in failing:
            added = {"failing": sentences} if conditions else {}
            click.echo(as_json_line({**one.as_json(), **added}))
    else:
        _print(found, orphans, now, Printer(rehearsal=rehearsal, state_dir=state_dir))
    for one, sentences in failing:
        for condition, sentence in sentences.items():
            console(stderr=True).print(Text(f"{condition}: {one.sync}: {sentence}", "red"))
    is_failing = any(sentences for _, sentences in failing)
    return max([int(is_failing), *(failure.exit_code for failure in failures)])


def _print(found: Sequence[SyncStatus], orphans: Sequence[Orphan], now: datetime, printer: Printer) -> None:
    """Print the syncs, the way out of orphans, and the rehearsals."""
    printed = console()
    printed.print(status_report(found, now, printed.width, printer))
    for orphan in orphans:
        printed.print(orphan_report(orphan, printed.width))
    rehearsals = [one.sandbox for one in found if one.sandbox is not None]
    if rehearsals:
        printed.print(Text("\nin the sandbox", "dim"))
        printed.print(status_report(rehearsals, now, printed.width, replace(printer, rehearsal=True)))


def _with_rehearsals(session: Session) -> SyncStatus:
    """The status of a sync with that of its rehearsals, where there were any."""
    status = sync_status(session)
    rehearsals = replace(session, rehearsal=True)
    if session.rehearsal or not rehearsals.has_state:
        return status
    return replace(status, sandbox=sync_status(rehearsals))


def _orphans_around(state_dir: Path | None, own: Mapping[str, Path]) -> list[Orphan]:
    """The orphans of the project around the working folder."""
    project = find_project(Path.cwd(), os.environ)
    return find_orphans(project, state_folder(project, state_dir), own=own)


def orphan_report(orphan: Orphan, width: int) -> RenderableType:
    """The way out of an orphan, in lines of at most `width` columns."""
    name = orphan.status.sync
    if orphan.is_source:
        what = "its calls wait for a source that the sync does not name now"
        way = "they leave with a run that has the `segment: {name: …}` of this file's name"
    else:
        loss = f" and loses {count(orphan.pending, 'call')} that never left" if orphan.pending else ""
        what = f"no sync file is named `{name}`"
        way = (
            f"to go on with it, bring its file back, or write `name: {name}` into the renamed one; "
            f"to delete it forgets what was sent{loss}"
        )
    lines = [*fold_words(f"{orphan.place}: {what}", width, ""), *fold_words(f"→ {way}", width)]
    return Text("\n".join(lines), "yellow")


def status_report(
    syncs: Sequence[SyncStatus], now: datetime, width: int, printer: Printer | None = None
) -> RenderableType:
    """The syncs, a line each, and what there is to say of those that need somebody.

    Args:
        syncs: their statuses.
        now: UTC.
        width: of the terminal, in columns.
        printer: has the options that are repeated after each command that a line names.
    """
    flags = (printer or Printer()).flags
    remarks = [line for one in syncs for line in _remarks(one, now, flags, width)]
    return Group(_table(syncs, now, width), *([Text("")] * bool(remarks)), *remarks)


def _table(syncs: Sequence[SyncStatus], now: datetime, width: int) -> RenderableType:
    table = Table(box=None, pad_edge=False, padding=(0, 1), header_style="dim")
    numbers = ("rows", "sent", "pending", "rejected")
    titles = ["sync", "last run (UTC)", "status", *numbers]
    if width >= WIDE:
        titles[3:3] = ["last success"]
        titles.insert(titles.index("pending") + 1, "oldest pending")
    for title in titles:
        table.add_column(title, justify="right" if title in numbers else "left", no_wrap=True)
    for one in syncs:
        cells: dict[str, str | Text] = {
            "sync": Text(one.sync, "bold"),
            "last run (UTC)": _minute(one.last_run),
            "status": Text(one.status, STATUS_COLORS.get(one.status, "red")),
            "last success": _ago(one.last_success, now),
            "oldest pending": _ago(one.pending_since, now) if one.pending else "",
        }
        counts = (one.rows, one.delivered, one.pending, one.rejected)
        unknown = "-" if one.last_run else ""
        for title, number in zip(numbers, counts, strict=True):
            cells[title] = unknown if number is None else f"{number:,}"
        table.add_row(*(cells[title] for title in titles))
    return Ragged(table)


def _minute(moment: str | None) -> str:
    return (moment or "")[:16].replace("T", " ")


def _ago(moment: str | None, now: datetime) -> str:
    return f"{age(since(moment, now))} ago" if moment else ""


def _remarks(status: SyncStatus, now: datetime, flags: str, width: int) -> Iterator[RenderableType]:
    """The lines on a sync below the table; none where its last run went through and nothing is left."""
    said = [*_running(status, now), *_failure(status, now, flags), *_left(status, now, flags)]
    for place, text in enumerate(said):
        name = f"{status.sync}: " if place == 0 else ""
        whole = f"{name}{text.plain}"
        first, *others = fold_words(whole, width, "" if place == 0 else "  ")
        yield Text.assemble((first[: len(name)], "bold"), (first[len(name) :], text.style))
        yield from (Text(line, text.style) for line in others)


def _running(status: SyncStatus, now: datetime) -> Iterator[Text]:
    if status.status != RUNNING:
        return
    told = status.running
    if told is None:
        yield Text("another process holds it", "cyan")
        return
    so_far = {"reading": f", {count(told.rows_read, 'row')} so far", "starting": ""}
    delivered = f", {told.delivered:,} of {count(told.calls or 0, 'call')}"
    line = f"{told.phase}{so_far.get(told.phase, delivered if told.calls is not None else '')}"
    yield Text(f"{line}, for {age(since(told.since, now))} (pid {told.pid} on {told.host})", "cyan")
    if told.waiting_for:
        yield Text(f"waits: {told.waiting_for}", "yellow")


def _failure(status: SyncStatus, now: datetime, flags: str) -> Iterator[Text]:
    if status.status not in FAILED:
        return
    if status.error is not None:
        yield from (Text(line.strip(), "red") for line in str(status.error["message"]).splitlines())
        if status.error["hint"]:
            yield Text(f"→ {with_flags(status.error['hint'], flags)}")
    else:
        yield Text("the run was cut off; the next one goes on where it stopped", "red")
    when = f"{_minute(status.last_success)} ({_ago(status.last_success, now)})"
    yield Text(f"last success: {when if status.last_success else 'none yet'}", "dim")


def _left(status: SyncStatus, now: datetime, flags: str) -> Iterator[Text]:
    if status.status in {RUNNING, "orphaned"}:
        return
    if status.pending:
        oldest = f", the oldest for {age(since(status.pending_since, now))}" if status.pending_since else ""
        verb = "waits" if status.pending == 1 else "wait"
        first = f"the next run delivers {'it' if status.pending == 1 else 'them'} first"
        yield Text(f"{count(status.pending, 'call')} {verb}{oldest}; {first}", "yellow")
    if status.rejected:
        rows, calls = status.rejected_rows or 0, status.rejected_calls or 0
        kinds = [count(rows, "row")] * bool(rows) + [count(calls, "call")] * bool(calls)
        yield Text(f"{' and '.join(kinds)} rejected; see: retl rejected {status.sync}{flags}", "yellow")
