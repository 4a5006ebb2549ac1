"""`retl apply`: sends exactly what a saved plan says."""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from retl.cli.console import Printer
from retl.cli.options import (
    AS_JSON,
    DEADLINE,
    FORCE,
    MEMORY_LIMIT,
    METRICS,
    QUIET,
    SKIP_IF_RUNNING,
    STATE_DIR,
    WAIT,
)
from retl.cli.run import RunFlags, run_syncs
from retl.config.project import find_project
from retl.planned import Planned, read_plan


@click.command("apply")
@click.argument("plan", metavar="PLAN", type=click.Path(path_type=Path))
@FORCE
@WAIT
@SKIP_IF_RUNNING
@DEADLINE
@AS_JSON
@QUIET
@METRICS
@STATE_DIR
@MEMORY_LIMIT
def apply_command(plan: Path, forced: tuple[str, ...], **given: Any) -> int:
    """Send exactly what a saved plan says, or nothing where anything has moved since.

    PLAN is a file of `retl plan --save`. Where the sync, its model, retl.yml, the state or the result of the
    model is not as it was, the command ends with exit code 4 and says what moved.

    Example: retl plan users --save users.plan && retl apply users.plan
    """
    saved = read_plan(plan)
    flags = RunFlags(
        backfill=saved.backfill,
        full=saved.full,
        yes=True,
        forced=(*saved.forced, *forced),
        limit=None,
        rehearsal=saved.rehearsal,
        opens=False,
        from_production=False,
        expect_state=False,
        **given,
    )
    several = len(saved.syncs) > 1
    printer = Printer(flags.as_json, flags.quiet, flags.rehearsal, flags.state_dir, several)
    syncs = [(_sync_file(one), replace(flags, planned=one)) for one in saved.syncs]
    return run_syncs(syncs, printer, flags.metrics)


def _sync_file(planned: Planned) -> Path:
    """The sync file of a plan in the project around the working folder, else where it was planned."""
    here = find_project(Path.cwd(), os.environ).root / planned.path
    return here if here.is_file() else Path(planned.root) / planned.path
