"""`retl run`: sends what changed, and prints how it went."""

import logging
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

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
from retl.cli.errors import to_report
from retl.cli.log import LogAction, json_logs, say
from retl.cli.options import (
    ALL,
    AS_JSON,
    BACKFILL,
    DEADLINE,
    FORCE,
    MEMORY_LIMIT,
    METRICS,
    MOST,
    QUIET,
    SKIP_IF_RUNNING,
    SOME_SYNCS,
    STATE_DIR,
    WAIT,
    chosen_files,
)
from retl.cli.outside import Outside
from retl.clock import SystemClock
from retl.config.project import check_names
from retl.delivery.rate_limit import RateLimiter
from retl.errors import Interrupted, LockedError
from retl.job import Options
from retl.launch import Launch, launch
from retl.lazy import lazy_module
from retl.orphans import find_orphans, orphans_sentence
from retl.planned import Planned
from retl.run import Run, Status, begin_run
from retl.session import Session, load_session

if TYPE_CHECKING:
    from retl.cli import rehearsing
    from retl.cli.rehearsing import RehearsalSandbox
else:
    rehearsing = lazy_module("retl.cli.rehearsing")


@dataclass(frozen=True)
class RunFlags:
    """The options of `retl run`.

    Attributes:
        backfill: whether the first pass of a track or audience sync is sent.
        full: whether every current row is sent again.
        yes: whether `full` needs no confirmation.
        forced: names of the guards to let pass.
        limit: how many calls may leave; None is all.
        rehearsal: whether the calls go to the sandbox.
        opens: whether the sandbox of the rehearsal stays up, and its page is opened.
        from_production: whether the rehearsal begins with a copy of the production state.
        expect_state: whether a missing state file is an error.
        wait: whether to wait for another run of the sync to end.
        skip_if_running: whether another run of the sync is a reason to do nothing.
        deadline: seconds after which a run stops.
        as_json: whether to print JSON.
        quiet: whether to print nothing but errors.
        metrics: the file that takes metrics; None for none.
        state_dir: the folder of state files, where the command line gave one.
        planned: the sync as a saved plan has it, of which nothing may have moved; None for any other run.
    """

    backfill: bool
    full: bool
    yes: bool
    forced: tuple[str, ...]
    limit: int | None
    rehearsal: bool
    opens: bool
    from_production: bool
    expect_state: bool
    wait: bool
    skip_if_running: bool
    deadline: float
    as_json: bool
    quiet: bool
    metrics: Path | None
    state_dir: Path | None
    planned: Planned | None = None

    @property
    def launch(self) -> Launch:
        """The options that the story of a run knows."""
        options = Options(
            backfill=self.backfill,
            forced=frozenset(self.forced),
            limit=self.limit,
            full=self.full,
            deadline_seconds=self.deadline,
            detected_at=self.planned.detected_at if self.planned else None,
            planned=self.planned,
        )
        return Launch(options, self.from_production, self.expect_state, self.wait)


@dataclass(frozen=True)
class _Shared:
    """The things that the syncs of one command share.

    Attributes:
        sandbox: the address of the local Segment of a rehearsal; None for any other run.
        outside: tells others of each run.
        rate_limiters: by destination, since syncs with one destination share one rate.
        paths: the files of the syncs so far, by the name of the sync.
        folders: of states, in which orphans were looked for.
    """

    sandbox: str | None
    outside: Outside
    rate_limiters: dict[str, RateLimiter] = field(default_factory=dict)
    paths: dict[str, Path] = field(default_factory=dict)
    folders: set[str] = field(default_factory=set)

    def refuse_same_name(self, session: Session, path: Path) -> None:
        """Raise a ConfigError where an earlier sync has the name of this one."""
        earlier = self.paths.setdefault(session.sync.name, path)
        if earlier != path:
            check_names([load_session(earlier, None, False).sync, session.sync])

    def tell_orphans(self, session: Session, flags: RunFlags) -> None:
        """Say once which state files of a folder belong to no sync; to fetch those of a bucket takes long."""
        if session.rehearsal or session.bucket is not None or str(session.folder) in self.folders:
            return
        self.folders.add(str(session.folder))
        orphans = find_orphans(session.project, session.folder, session.path.parent, thorough=False)
        if orphans:
            told = progress.observer_for("state", flags.quiet, console(stderr=True))
            told.notice(orphans_sentence(orphans, Printer(state_dir=flags.state_dir).flags))


@click.command("run")
@SOME_SYNCS
@ALL
@BACKFILL
@click.option("--full", is_flag=True, help="Send every current row again, changed or not; asks first.")
@click.option("--yes", is_flag=True, help="With --full: do not ask.")
@FORCE
@click.option(
    "--limit", type=click.IntRange(1, MOST), help="Send at most this many calls now; the rest stays pending."
)
@click.option(
    "--sandbox", "rehearsal", is_flag=True, help="Rehearse against a local Segment, with a state of its own."
)
@click.option(
    "--open",
    "opens",
    is_flag=True,
    help="With --sandbox: rehearse against a local Segment that stays up, and open its page in the browser.",
)
@click.option(
    "--from-production",
    is_flag=True,
    help="With --sandbox: rehearse what the next real run would send, on a copy of its state.",
)
@click.option(
    "--expect-state", is_flag=True, envvar="RETL_EXPECT_STATE", help="Stop where the state file is missing."
)
@WAIT
@SKIP_IF_RUNNING
@DEADLINE
@AS_JSON
@QUIET
@METRICS
@STATE_DIR
@MEMORY_LIMIT
def run_command(syncs: Sequence[str], every: bool, **given: Any) -> int:
    """Send what changed since the last run, and remember it.

    SYNC is a name, a file, or a folder: syncs/, or the project's own. Several run one after another; one that
    fails does not stop the next.

    Example: retl run syncs/users.yml --sandbox
    """
    flags = RunFlags(**given)
    for given_alone, option in ((flags.from_production, "--from-production"), (flags.opens, "--open")):
        if given_alone and not flags.rehearsal:
            raise click.UsageError(f"{option} goes with --sandbox")
    if flags.full and not flags.yes:
        click.confirm("--full sends every current row again; go on?", abort=True, err=True)
    paths = chosen_files(syncs, every)
    printer = Printer(flags.as_json, flags.quiet, flags.rehearsal, flags.state_dir, several=len(paths) > 1)
    return run_syncs([(path, flags) for path in paths], printer, flags.metrics)


def run_syncs(syncs: Sequence[tuple[Path, RunFlags]], printer: Printer, metrics: Path | None) -> int:
    """Run sync files one after another, each with its options; returns the exit code.

    Args:
        syncs: the files and options.
        printer: of the command.
        metrics: the file that takes metrics; None for none.
    """
    codes: list[int] = []
    with (
        _rehearsal(syncs, printer) as rehearsal,
        Outside(metrics, printer) as outside,
    ):
        shared = _Shared(rehearsal.url if rehearsal is not None else None, outside)
        for path, flags in syncs:
            record = _run_one(path, flags, shared)
            if record is None:
                continue
            codes.append(record.exit_code or 0)
            if rehearsal is not None:
                rehearsal.run_ids.append(record.run_id)
            print_run(printer, record)
            outside.ended(record)
            if isinstance(record.error, Interrupted):
                break
    return max(codes, default=0)


def _rehearsal(
    syncs: Sequence[tuple[Path, RunFlags]], printer: Printer
) -> AbstractContextManager["RehearsalSandbox | None"]:
    """The sandbox of a rehearsal; None where the runs are none."""
    if not printer.rehearsal:
        return nullcontext()
    stays_up = any(flags.opens for _, flags in syncs)
    return rehearsing.standing_sandbox(printer) if stays_up else rehearsing.own_sandbox(printer)


def _run_one(path: Path, flags: RunFlags, shared: _Shared) -> Run | None:
    """Run a sync; None where another run is under way and `--skip-if-running` allows for that."""
    began = begin_run(path.stem, SystemClock().now(), flags.full)
    shown = progress.observer_for(path.stem, flags.quiet, console(stderr=True))
    observer = shared.outside.begin(path, shown)
    try:
        session = load_session(path, flags.state_dir, flags.rehearsal)
        shared.outside.opened(session)
        began = began.evolve(sync=session.sync.name)
        shared.refuse_same_name(session, path)
        shared.tell_orphans(session, flags)
        return launch(session, flags.launch, observer, shared.sandbox, shared.rate_limiters)
    except LockedError as error:
        if flags.skip_if_running:
            observer.notice(f"skipped: {error.message}")
            return None
        return began.failed(error)
    except Exception as error:
        return began.failed(to_report(error))
    finally:
        observer.close()


def print_run(printer: Printer, run: Run) -> None:
    """Print the record of a run, and its error."""
    if json_logs() and not printer.quiet:
        about = {key: value for key, value in run.as_json().items() if key not in ("sync", "error")}
        say(logging.INFO, LogAction.FINISHED, str(_run_line(run)), run.sync, **about)
    if printer.as_json:
        print(as_json_line(run.as_json()))
    elif not printer.quiet and run.did_anything:
        console().print(run_report(run, printer.flags))
    if run.error is not None:
        printer.error(run.error, run.sync)


def run_report(run: Run, flags: str = "") -> RenderableType:
    """The record of a run for people, in one line or a few.

    Args:
        run: the record.
        flags: options that are repeated after each command that a line names.
    """
    lines = [_run_line(run)]
    if run.baseline and run.added and run.error is None:
        lines.append(Text("  a first run remembers the rows here; later ones send what changed", "dim"))
        lines.append(Text(f"  → to send the rows of today, too: retl run {run.sync}{flags} --full", "dim"))
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
        # Of several syncs, others may be through with their --full, and would start another.
        next_run = f"to go on, retl run {run.sync}{flags}" if run.full or run.resumed_full else "the next run"
        them = "it" if run.calls.pending == 1 else "them"
        lines.append(
            Text(f"  {count(run.calls.pending, 'call')} pending; {next_run} delivers {them} first", "yellow")
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
    of_earlier = "" if run.calls.enqueued else " of an earlier run"
    if not changes:
        sends_nothing = run.rejected_rows and not run.calls.delivered
        line.append("nothing to send" if sends_nothing else "no changes")
    if run.full:
        line.append(", all sent again")
    if run.baseline and run.error is None:
        line.append(" as a silent baseline, nothing sent")
    elif run.calls.delivered:
        line.append(f" → {count(run.calls.delivered, 'call')}{of_earlier} delivered")
    elif run.error is None and (changes or not run.rejected_rows):
        line.append(", nothing sent")
    if run.calls.pending and run.error is None:
        line.append(f", {run.calls.pending:,} held back")
    line.append(f" ({duration(run.seconds)})", "dim")
    return line
