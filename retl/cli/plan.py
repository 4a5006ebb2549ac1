"""`retl plan`: what a run would send."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

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
from retl.cli.plan_report import plan_report
from retl.clock import SystemClock
from retl.errors import GuardError, Interrupted
from retl.export import FORMATS, export_calls
from retl.job import Job, Options
from retl.lock import LOCK_TIMEOUT_SECONDS
from retl.observer import SilentObserver
from retl.orphans import refuse_former_name
from retl.planning import Plan, make_plan
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
        wait: whether to wait for a run of the sync to end.
        deadline: seconds after which to stop.
        as_json: whether to print JSON.
        state_dir: the folder of state files, where the command line gave one.
    """

    backfill: bool
    full: bool
    forced: tuple[str, ...]
    rehearsal: bool
    samples: int
    out: Path | None
    wait: bool
    deadline: float
    as_json: bool
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
@WAIT
@DEADLINE
@AS_JSON
@STATE_DIR
@MEMORY_LIMIT
def plan_command(syncs: Sequence[str], every: bool, **given: Any) -> int:
    """Show what a run would send; nothing is sent, and nothing changes.

    Example: retl plan syncs/users.yml --calls 3
    """
    flags = PlanFlags(**given)
    paths = chosen_files(syncs, every)
    if flags.out is not None and len(paths) > 1 and "{sync}" not in str(flags.out):
        raise click.UsageError("with several syncs, --out needs a name with {sync} in it")
    printer = Printer(
        flags.as_json, rehearsal=flags.rehearsal, state_dir=flags.state_dir, several=len(paths) > 1
    )
    codes = [0]
    for path in paths:
        try:
            plan = _plan_one(load_session(path, flags.state_dir, flags.rehearsal), flags)
        except Exception as error:
            found = print_failure(printer, path.stem, error)
            codes.append(found.exit_code)
            if isinstance(found, Interrupted):
                break
            continue
        codes.append(GuardError.exit_code if plan.is_stopped else 0)
        _print_plan(plan, printer)
    return max(codes)


def _plan_one(session: Session, flags: PlanFlags) -> Plan:
    clock = SystemClock()
    refuse_former_name(session)
    hint = "give it more time with --deadline" if flags.wait else "use --wait"
    timeout = flags.deadline if flags.wait else LOCK_TIMEOUT_SECONDS
    with session.peeked_state(clock, timeout, hint) as state:
        job = Job(
            session.sync, session.model, state, session.warehouse, flags.options, clock, SilentObserver()
        )
        plan = make_plan(job, session.limits, session.file, flags.samples)
        if flags.out is not None:
            path = Path(str(flags.out).replace("{sync}", session.sync.name)).absolute()
            export_calls(state.db, path, own_ids_only=state.path is None)
        return plan


def _print_plan(plan: Plan, printer: Printer) -> None:
    """Print a plan; long lines are folded at the width of a terminal, and are whole in a pipe."""
    if printer.as_json:
        click.echo(as_json_line(plan.as_json()))
        return
    terminal = console()
    width = terminal.width if terminal.is_terminal or "COLUMNS" in os.environ else None
    terminal.print(plan_report(plan, width, printer.flags))
