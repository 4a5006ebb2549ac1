"""`retl run`: sends what changed, and prints how it went."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
from rich.console import Group, RenderableType
from rich.text import Text

from retl.cli import progress
from retl.cli.console import (
    SIGNS,
    Printer,
    as_json_line,
    console,
    count,
    despite_rules,
    duration,
    undated_sentence,
)
from retl.cli.options import AS_JSON, BACKFILL, STATE_DIR, SYNCS, seconds
from retl.cli.sandbox import sandbox_report
from retl.clock import SystemClock
from retl.config.project import check_names, find_syncs
from retl.delivery.rate_limit import RateLimiter
from retl.engine.guard import NAMES as GUARDS
from retl.errors import GuardError, Interrupted, LockedError, RetlError
from retl.pipeline import Job, Options, run
from retl.run import Run, Status, begin_run
from retl.sandbox.server import Sandbox
from retl.session import load_session


@click.command("run")
@SYNCS
@BACKFILL
@click.option("--full", is_flag=True, help="Send every current row again, changed or not; asks first.")
@click.option("--yes", is_flag=True, help="With --full: do not ask.")
@click.option(
    "--force", "forced", multiple=True, type=click.Choice(GUARDS), help="Let this guard pass, once."
)
@click.option(
    "--limit", type=click.IntRange(min=1), help="Let so many calls leave now; the rest stays pending."
)
@click.option(
    "--sandbox", "rehearsal", is_flag=True, help="Rehearse against a local Segment, with a state of its own."
)
@click.option(
    "--expect-state", is_flag=True, envvar="RETL_EXPECT_STATE", help="Stop where the state file is missing."
)
@click.option("--wait", is_flag=True, help="Wait for another run of the sync to end.")
@click.option(
    "--skip-if-running", is_flag=True, help="Do nothing where another run of the sync is under way."
)
@click.option(
    "--deadline", callback=seconds, default="12h", help="Stop after this long: 45s, 30m, 12h. [default: 12h]"
)
@AS_JSON
@click.option("--quiet", is_flag=True, help="Print nothing but errors.")
@STATE_DIR
def run_command(syncs: Sequence[str], **flags: Any) -> int:
    """Send what changed since the last run, and remember it.

    SYNC is a file, a folder of files, or a name. Several run one after another; one that fails does not
    stop the next.

    Example: retl run syncs/users.yml --sandbox
    """
    if flags["full"] and not flags["yes"]:
        click.confirm("--full sends every current row again; go on?", abort=True, err=True)
    printer = Printer(flags["as_json"], flags["quiet"], flags["rehearsal"], flags["state_dir"])
    codes: list[int] = []
    rate_limiters: dict[str, RateLimiter] = {}
    names: dict[str, Path] = {}
    with _sandbox_if(flags["rehearsal"]) as sandbox:
        for path in find_syncs(syncs, Path.cwd()):
            record = _run_one(path, names, sandbox, rate_limiters, flags)
            if record is None:
                continue
            codes.append(record.exit_code or 0)
            print_run(printer, record)
            if isinstance(record.error, Interrupted):
                break
        if sandbox is not None and sandbox.requests:
            print_sandbox(printer, sandbox.summary())
    return max(codes, default=0)


def _run_one(
    path: Path,
    names: dict[str, Path],
    sandbox: Sandbox | None,
    rate_limiters: dict[str, RateLimiter],
    flags: dict[str, Any],
) -> Run | None:
    """Run a sync; None where another run is under way and that is fine."""
    clock = SystemClock()
    began = begin_run(path.stem, clock.now(), flags["full"])
    observer = progress.observer_for(path.stem, flags["quiet"], console(stderr=True))
    options = Options(
        backfill=flags["backfill"],
        forced=frozenset(flags["forced"]),
        limit=flags["limit"],
        full=flags["full"],
        deadline_seconds=flags["deadline"],
    )
    timeout = {"timeout": flags["deadline"]} if flags["wait"] else {}
    try:
        session = load_session(path, flags["state_dir"], flags["rehearsal"])
        began = began.evolve(sync=session.sync.name)
        if names.setdefault(session.sync.name, path) != path:
            check_names([load_session(names[session.sync.name], None, False).sync, session.sync])
        if flags["expect_state"] and not session.state_path.exists():
            raise GuardError(
                "the state file is missing",
                where=str(session.state_path),
                hint="restore it, or run once without --expect-state to start anew",
            )
        model = session.model
        with (
            session.open_destination(sandbox, rate_limiters, clock) as destination,
            session.hold(clock, **timeout),
            session.open_state() as state,
        ):
            job = Job(session.sync, model, state, session.warehouse, options, clock, observer)
            return run(job, destination)
    except LockedError as error:
        if flags["skip_if_running"]:
            observer.notice(f"skipped: {error.message}")
            return None
        return began.failed(error)
    except RetlError as error:
        return began.failed(error)
    finally:
        observer.close()


@contextmanager
def _sandbox_if(rehearsal: bool) -> Iterator[Sandbox | None]:
    if not rehearsal:
        yield None
        return
    with Sandbox() as sandbox:
        yield sandbox


def print_run(printer: Printer, run: Run) -> None:
    """Print a run, and what went wrong."""
    if printer.as_json:
        print(as_json_line(run.as_json()))
    elif not printer.quiet and run.did_anything:
        console().print(run_report(run, printer.flags))
    if run.error is not None:
        printer.error(run.error)


def print_sandbox(printer: Printer, summary: dict[str, Any]) -> None:
    """Print what the sandbox made of a rehearsal."""
    if not printer.as_json and not printer.quiet:
        console().print(sandbox_report(summary))


def run_report(run: Run, flags: str = "") -> RenderableType:
    """A run in a line or a few; `flags` are repeated where a command is named."""
    lines = [_run_line(run)]
    if run.rejected_by:
        reasons = ", ".join(f"{reason} {rows:,}" for reason, rows in run.rejected_by.items())
        lines.append(Text(f"  {count(run.rejected_rows or 0, 'row')} rejected: {reasons}", "yellow"))
    if run.calls.rejected:
        lines.append(Text(f"  {count(run.calls.rejected, 'call')} rejected", "yellow"))
    if run.rejected_anything and run.status is not Status.GUARDED:
        lines.append(Text(f"  see: retl rejected {run.sync}{flags}", "dim"))
    if run.violations:
        lines.append(Text(f"  sent, {despite_rules(run.violations)}", "yellow"))
    if run.calls.undated:
        lines.append(Text(f"  {undated_sentence(run.calls.undated)}", "yellow"))
    if run.calls.unsure:
        lines.append(
            Text(f"  {count(run.calls.unsure, 'call')} went out twice, under the same message id", "yellow")
        )
    if run.calls.pending and (run.error is not None or run.rows_read is None):
        lines.append(
            Text(f"  {count(run.calls.pending, 'call')} pending; the next run delivers them first", "yellow")
        )
    return Group(*lines)


def _run_line(run: Run) -> Text:
    line = Text.assemble((run.sync, "bold"), ": ")
    if run.rows_read is None:
        delivered = run.calls.delivered or 0
        line.append(
            f"{count(delivered, 'call')} of an earlier run delivered" if delivered else "nothing was read"
        )
        return line
    line.append(f"{count(run.rows_read, 'row')} read, ")
    parts = [(run.added, "added"), (run.changed, "changed"), (run.removed, "removed")]
    changes = [(number, kind) for number, kind in parts if number]
    for place, (number, kind) in enumerate(changes):
        line.append(", " if place else "")
        line.append(f"{number:,} {kind}", SIGNS[kind][1])
    if not changes:
        line.append("nothing to send" if run.rejected_rows else "no changes")
    if run.full:
        line.append(", all sent again")
    if run.baseline and run.error is None:
        line.append(" as a silent baseline, nothing sent")
    elif run.calls.delivered:
        line.append(f" → {count(run.calls.delivered, 'call')} delivered")
    elif run.error is None and (changes or not run.rejected_rows):
        line.append(", nothing sent")
    if run.calls.pending and run.error is None:
        line.append(f", {run.calls.pending:,} held back")
    line.append(f" ({duration(run.seconds)})", "dim")
    return line
