"""`retl plan`: what a run would send."""

import os
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click

from retl.address import spelled
from retl.cli import progress
from retl.cli.console import Printer, as_json_line, console
from retl.cli.errors import print_failure
from retl.cli.options import (
    ALL,
    AS_JSON,
    BACKFILL,
    DEADLINE,
    FORCE,
    MEMORY_LIMIT,
    SOME_SYNCS,
    STATE_DIR,
    WAIT,
    chosen_files,
)
from retl.cli.plan_markdown import error_markdown, plan_markdown
from retl.cli.plan_report import plan_report
from retl.clock import SystemClock
from retl.errors import GuardError, Interrupted
from retl.export import FORMATS, export_calls
from retl.job import Job, Options
from retl.lock import LOCK_TIMEOUT_SECONDS
from retl.orphans import refuse_former_name
from retl.planned import Planned, SavedPlan, save_plan
from retl.planning import Plan, make_plan, planned_sync
from retl.session import Session, load_session

MOST_SAMPLES = 1_000
"""The largest number of calls of a kind that are shown; all of them are for a file."""


@dataclass(frozen=True)
class PlanFlags:
    """The options of `retl plan`.

    Attributes:
        backfill: whether the first pass of a track or audience sync is sent.
        full: whether every current row is sent again.
        forced: names of the guards to let pass.
        rehearsal: whether the plan is of a rehearsal.
        samples: calls to show of each kind.
        out: the file that takes all calls; `{sync}` in its name stands for the sync's.
        save: the file that takes the plan, for `retl apply`.
        wait: whether to wait for a run of the sync to end.
        deadline: seconds after which to stop.
        as_json: whether to print JSON.
        form: "text", or "markdown" for a comment on a pull request.
        show_values: whether Markdown has keys and values of rows.
        state_dir: the folder of state files, where the command line gave one.
    """

    backfill: bool
    full: bool
    forced: tuple[str, ...]
    rehearsal: bool
    samples: int
    out: Path | None
    save: Path | None
    wait: bool
    deadline: float
    as_json: bool
    form: str
    show_values: bool
    state_dir: Path | None

    @property
    def options(self) -> Options:
        """The options of the run that is planned."""
        return Options(
            backfill=self.backfill,
            forced=frozenset(self.forced),
            full=self.full,
            deadline_seconds=self.deadline,
        )


def _known_format(_context: click.Context, _option: click.Parameter, written: Path | None) -> Path | None:
    """The path of a file, refused where its ending is of no known format."""
    if written is not None and written.suffix not in FORMATS:
        raise click.BadParameter(f"{str(written)!r} does not end in one of {', '.join(FORMATS)}")
    return written


@click.command("plan")
@SOME_SYNCS
@ALL
@BACKFILL
@click.option("--full", is_flag=True, help="Plan a run with --full.")
@FORCE
@click.option("--sandbox", "rehearsal", is_flag=True, help="Plan the next rehearsal.")
@click.option(
    "--calls",
    "--samples",
    "samples",
    type=click.IntRange(0, MOST_SAMPLES),
    default=1,
    metavar="N",
    help="Calls to show of each kind. [default: 1]",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    callback=_known_format,
    metavar="FILE",
    help="Write all calls to this .parquet, .csv or .jsonl; `{sync}` in it is the sync's name.",
)
@click.option(
    "--save",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="PLAN",
    help="Save the plan as a file, for `retl apply`; it holds counts and hashes, and no values.",
)
@WAIT
@DEADLINE
@AS_JSON
@click.option(
    "--format",
    "form",
    type=click.Choice(["text", "markdown"]),
    default="text",
    help="Markdown is for a comment on a pull request: tables, folded samples, no values. [default: text]",
)
@click.option("--show-values", is_flag=True, help="With --format markdown: show keys and values of samples.")
@STATE_DIR
@MEMORY_LIMIT
def plan_command(syncs: Sequence[str], every: bool, **given: Any) -> int:
    """Show what a run would send; nothing is sent, and nothing changes.

    Example: retl plan syncs/users.yml --calls 3
    """
    flags, paths = PlanFlags(**given), chosen_files(syncs, every)
    _refuse_contradictions(flags, len(paths))
    printer = Printer(
        flags.as_json, rehearsal=flags.rehearsal, state_dir=flags.state_dir, several=len(paths) > 1
    )
    codes, saved = [0], []
    for path in paths:
        try:
            session = load_session(path, flags.state_dir, flags.rehearsal)
            plan, planned = _plan_one(session, flags)
        except Exception as error:
            found = print_failure(printer, path.stem, error)
            codes.append(found.exit_code)
            if flags.form == "markdown":
                click.echo(error_markdown(path.stem, found))
            if isinstance(found, Interrupted):
                break
            continue
        codes.append(GuardError.exit_code if plan.is_stopped else 0)
        saved.append(planned)
        _print_plan(plan, printer, flags)
    if flags.save is not None:
        _save(flags, [one for one in saved if one], complete=len(saved) == len(paths))
    return max(codes)


def _refuse_contradictions(flags: PlanFlags, syncs: int) -> None:
    """Raise a usage error where options do nothing beside each other."""
    if flags.as_json and flags.form != "text":
        raise click.UsageError("--json and --format do not go together")
    if flags.show_values and flags.form != "markdown":
        raise click.UsageError("--show-values goes with --format markdown; elsewhere values are shown")
    if flags.out is not None and syncs > 1 and "{sync}" not in str(flags.out):
        raise click.UsageError("with several syncs, --out needs a name with {sync} in it")


def _save(flags: PlanFlags, planned: Sequence[Planned], complete: bool) -> None:
    """Save the plans of all syncs as one file; without one of them it would not be the plan."""
    assert flags.save is not None
    if not complete:
        console(stderr=True).print("the plan was not saved, as it is not whole")
        return
    plan = SavedPlan(tuple(planned), flags.backfill, flags.full, flags.forced, flags.rehearsal)
    save_plan(plan, flags.save.absolute())
    if not flags.as_json and flags.form == "text":
        folder = f" --state-dir {spelled(flags.state_dir)}" if flags.state_dir else ""
        console().print(f"saved; to send exactly this: retl apply {flags.save}{folder}")


def _plan_one(session: Session, flags: PlanFlags) -> tuple[Plan, Planned | None]:
    """The plan of a sync; and what is to be saved of it, if it is."""
    clock = SystemClock()
    refuse_former_name(session)
    hint = "give it more time with --deadline" if flags.wait else "use --wait"
    timeout = flags.deadline if flags.wait else LOCK_TIMEOUT_SECONDS
    observer = progress.PlanObserver(session.sync.name, console(stderr=True))
    with session.peeked_state(clock, timeout, hint) as state, closing(observer):
        options = replace(flags.options, detected_at=clock.now())
        job = Job(
            session.sync,
            session.model,
            state,
            session.warehouse,
            options,
            clock,
            observer,
            workspace=session.open_workspace,
        )
        plan = make_plan(job, session.limits, session.file, flags.samples)
        if flags.out is not None:
            path = Path(str(flags.out).replace("{sync}", session.sync.name)).absolute()
            export_calls(state.db, path, own_ids_only=state.path is None and not flags.save)
        return plan, planned_sync(job, plan, session.project.root) if flags.save else None


def _print_plan(plan: Plan, printer: Printer, flags: PlanFlags) -> None:
    """Print a plan; long lines are folded at the width of a terminal, and are whole in a pipe."""
    if printer.as_json:
        click.echo(as_json_line(plan.as_json()))
        return
    if flags.form == "markdown":
        click.echo(plan_markdown(plan, flags.show_values, printer.flags))
        return
    terminal = console()
    width = terminal.width if terminal.is_terminal or "COLUMNS" in os.environ else None
    terminal.print(plan_report(plan, width, printer.flags))
