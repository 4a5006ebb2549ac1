"""`retl verify`: Segment's counts of a run, next to what was sent."""

import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import click
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from retl.cli.console import Printer, Ragged, as_json_line, console, count
from retl.cli.errors import print_failure
from retl.cli.options import AS_JSON, STATE_DIR, sync_files
from retl.clock import Clock, SystemClock
from retl.delivery.public_api import HOUR, moments
from retl.errors import ConfigError, Interrupted, LockedError
from retl.session import Session, load_session
from retl.verify import (
    ALL,
    SentRun,
    Verification,
    complete_at,
    open_api,
    sent_run,
    source_id,
    verify,
)

RUN_ID = re.compile(r"[0-9]{8}T[0-9]{6}-[0-9a-f]{6}")
"""A run's id, as `retl.run.begin_run` makes it."""

EARLY = 3
"""Exit code where Segment's counts differ and may not be complete yet: ask again."""


@click.command("verify")
@click.argument("what", nargs=-1, metavar="[RUN | SYNC...]")
@click.option("--source", help="Id of the source at Segment; default: `source_id` in the sync or retl.yml.")
@click.option("--wait", is_flag=True, help="Wait until Segment's counts are complete, about 5 minutes.")
@AS_JSON
@STATE_DIR
def verify_command(
    what: Sequence[str], source: str | None, wait: bool, as_json: bool, state_dir: Path | None
) -> int:
    """Compare what a run sent with what Segment says that it received.

    RUN is a run's id; of a SYNC, or of all in syncs/, it is the last run that delivered calls. It needs a
    Public API token in SEGMENT_PUBLIC_API_TOKEN.
    """
    printer, clock = Printer(as_json, state_dir=state_dir), SystemClock()
    codes, asked_at = [0], moments()
    for session, run in _runs(what, state_dir, printer, codes):
        try:
            if run is None:
                _say_nothing_sent(printer, session.sync.name)
                continue
            of = source_id(session, source)
            with open_api(session, clock, asked_at) as api:
                wait_for_counts(run, clock, wait)
                result = verify(run, api, of, clock)
        except Exception as error:
            failed = print_failure(printer, session.sync.name, error)
            codes.append(failed.exit_code)
            if isinstance(failed, Interrupted):
                break
            continue
        if as_json:
            click.echo(as_json_line(result.as_json()))
        else:
            console().print(verification_report(result))
        codes.append(0 if result.matches else EARLY if result.is_early else 1)
    return max(codes)


def _runs(
    what: Sequence[str], state_dir: Path | None, printer: Printer, codes: list[int]
) -> Iterator[tuple[Session, SentRun | None]]:
    """The runs that the arguments mean, each with its sync; None is a sync that sent nothing yet."""
    run_ids = [one for one in what if RUN_ID.fullmatch(one)]
    syncs = [one for one in what if one not in run_ids]
    for run_id in run_ids:
        yield _find_run(run_id, state_dir)
    for path in sync_files(syncs) if syncs or not run_ids else ():
        try:
            session = load_session(path, state_dir, rehearsal=False)
            with session.peeked_state(SystemClock()) as state:
                run = sent_run(state.db, session.sync.kind, None)
        except Exception as error:
            codes.append(print_failure(printer, path.stem, error).exit_code)
            continue
        yield session, run


def _find_run(run_id: str, state_dir: Path | None) -> tuple[Session, SentRun]:
    """The sync that a run was of.

    Raises:
        ConfigError: no state knows the run.
        LockedError: no other state knows it than one that is in use.
    """
    locked: LockedError | None = None
    for path in sync_files(()):
        session = load_session(path, state_dir, rehearsal=False)
        try:
            with session.peeked_state(SystemClock()) as state:
                run = sent_run(state.db, session.sync.kind, run_id)
        except LockedError as error:
            locked = error
            continue
        if run is not None:
            return session, run
    if locked is not None:
        raise locked
    raise ConfigError(
        f"no sync of this project has a run {run_id}", hint="`retl status --json` has the id of the last runs"
    )


def wait_for_counts(run: SentRun, clock: Clock, wait: bool) -> None:
    """Wait until Segment's counts of a run are complete, where `wait` asks for it."""
    seconds = (complete_at(run) - clock.now()).total_seconds()
    if wait and seconds > 0:
        console(stderr=True).print(
            f"{run.sync}: Segment's counts lag by about 5 minutes; asking at {complete_at(run):%H:%M:%S} UTC"
        )
        clock.wait(seconds, threading.Event())


def _say_nothing_sent(printer: Printer, sync: str) -> None:
    if printer.as_json:
        click.echo(as_json_line({"sync": sync, "run_id": None}))
    else:
        click.echo(f"{sync}: no run that is kept has delivered calls")


def verification_report(result: Verification) -> RenderableType:
    """The counts of both sides, a line for each event, and what follows from them."""
    run, time = result.run, result.time
    asked = "by its run mark" if run.marked else "all calls of these events"
    head = Text.assemble(
        (run.sync, "bold"),
        f": run {run.run_id}, {time.start:%Y-%m-%d %H:%M} to {time.end:%H:%M} UTC, {asked}",
    )
    table = Table(box=None, pad_edge=False, padding=(0, 1), header_style="dim")
    for title in ("event", "sent", "received", "difference"):
        table.add_column(title, justify="left" if title == "event" else "right", no_wrap=title != "event")
    table.add_column("failed on ingest", overflow="fold")
    for one in result.events:
        difference = Text(f"{one.difference:,}" if one.difference else "", "yellow")
        name = "all calls" if (one.type, one.event) == ALL else one.event or one.type
        failed = Text(_by_reason(one.failed), "red")
        table.add_row(name, f"{one.sent:,}", f"{one.received:,}", difference, failed)
    return Group(head, Text(""), Ragged(table), Text(""), *_conclusions(result), Text(""))


def _by_reason(calls: Mapping[str, int]) -> str:
    return ", ".join(f"{number:,} {reason}" for reason, number in calls.items())


def _conclusions(result: Verification) -> Iterator[Text]:
    run = result.run
    if result.matches:
        yield Text("Segment has what was sent.", "green")
    else:
        nowhere = max(0, result.missing - result.failed)
        parts = [
            (result.failed, "failed on ingest"),
            (nowhere, "counted nowhere"),
            (result.surplus, "too many"),
        ]
        yield Text(
            "Segment does not have just what was sent: "
            + ", ".join(f"{count(number, 'call')} {words}" for number, words in parts if number),
            "red",
        )
    doubtful = run.unsure + run.pending
    if doubtful and (result.missing or result.surplus):
        yield Text(
            f"{count(doubtful, 'call')} went out twice or may have arrived without an answer, so that the "
            "counts may differ by as many.",
            "yellow",
        )
    if result.is_early and not result.matches:
        yield Text(
            "Segment's counts lag by about 5 minutes: ask again after "
            f"{complete_at(run):%H:%M} UTC, or with --wait.",
            "yellow",
        )
    if result.surplus > doubtful and not run.marked:
        yield Text(
            "The source may have other traffic with these events in these minutes; "
            "`segment: {mark_runs: true}` tells runs apart.",
            "yellow",
        )
    if result.time.granularity is HOUR:
        yield Text("The run is older than 48 hours, so Segment counts by whole hours.", "dim")
    for one in result.events:
        if one.filtered:
            yield Text(
                f"{one.event or one.type}: filtered at the source by the workspace's own rules: "
                f"{_by_reason(one.filtered)}",
                "yellow",
            )
