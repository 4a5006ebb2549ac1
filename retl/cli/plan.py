"""`retl plan`: what a run would send."""

import os
from collections.abc import Sequence
from pathlib import Path

import click
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

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
from retl.cli.errors import print_failure
from retl.cli.options import ALL, AS_JSON, BACKFILL, MEMORY_LIMIT, MOST, SOME_SYNCS, STATE_DIR, chosen_files
from retl.cli.receivers import reason_meaning
from retl.clock import SystemClock
from retl.delivery import outbox
from retl.engine.edits import unsent_sentence
from retl.errors import GuardError, Interrupted
from retl.job import Job, Options
from retl.observer import SilentObserver
from retl.orphans import refuse_former_name
from retl.planning import Plan, make_plan
from retl.session import Session, load_session


@click.command("plan")
@SOME_SYNCS
@ALL
@BACKFILL
@click.option("--full", is_flag=True, help="Plan a run with --full.")
@click.option("--sandbox", "rehearsal", is_flag=True, help="Plan the next rehearsal.")
@click.option(
    "--samples", type=click.IntRange(0, MOST), default=2, help="Calls to show of each kind. [default: 2]"
)
@AS_JSON
@STATE_DIR
@MEMORY_LIMIT
def plan_command(
    syncs: Sequence[str],
    every: bool,
    backfill: bool,
    full: bool,
    rehearsal: bool,
    samples: int,
    as_json: bool,
    state_dir: Path | None,
) -> int:
    """Show what a run would send; nothing is sent, and nothing changes."""
    options = Options(backfill=backfill, full=full)
    paths = chosen_files(syncs, every)
    printer = Printer(as_json, rehearsal=rehearsal, state_dir=state_dir, several=len(paths) > 1)
    codes = [0]
    for path in paths:
        try:
            plan = _plan_one(load_session(path, state_dir, rehearsal), options, samples)
        except Exception as error:
            found = print_failure(printer, path.stem, error)
            codes.append(found.exit_code)
            if isinstance(found, Interrupted):
                break
            continue
        codes += [GuardError.exit_code for guard in plan.guards if guard.tripped]
        if as_json:
            click.echo(as_json_line(plan.as_json()))
        else:
            _print_plan(plan)
    return max(codes)


def _plan_one(session: Session, options: Options, samples: int) -> Plan:
    clock = SystemClock()
    refuse_former_name(session)
    with session.peeked_state(clock) as state:
        job = Job(session.sync, session.model, state, session.warehouse, options, clock, SilentObserver())
        return make_plan(job, outbox.pending(state.db), session.limits, session.file, samples)


def _print_plan(plan: Plan) -> None:
    """Print a plan; samples are cut at the width of a terminal, and are whole in a pipe."""
    terminal = console()
    width = terminal.width if terminal.is_terminal or "COLUMNS" in os.environ else None
    terminal.print(plan_report(plan, width))


def plan_report(plan: Plan, width: int | None) -> RenderableType:
    """A plan for people: the changes and their calls, samples, guards that stop it, and the cost.

    Args:
        plan: the plan.
        width: columns at which samples are cut; None leaves them whole.
    """
    lines: list[RenderableType] = [
        Text.assemble((plan.sync, "bold"), f": {count(plan.diff.rows_read, 'row')} read")
    ]
    if plan.pending:
        run = "--full go first, and complete it" if plan.resumed_full else "run go first"
        lines.append(Text(f"  {count(plan.pending, 'call')} of an earlier {run}", "yellow"))
    lines.append(_changes_table(plan))
    if plan.diff.by_column:
        lines.append(Text("  differing in: " + _by_column(plan.diff.by_column), "dim"))
    if plan.advice.found:
        lines.append(Text(f"  {plan.advice.found}", "yellow"))
    if plan.advice.instead:
        lines.append(Text(f"  → {plan.advice.instead}"))
    if plan.unsent:
        lines.append(Text(f"  {unsent_sentence(plan.unsent)}", "yellow"))
    if plan.undated:
        lines.append(Text(f"  {undated_sentence(plan.undated)}", "yellow"))
    if plan.violations:
        lines.append(Text(f"  to be sent, {despite_rules(plan.violations)}", "yellow"))
    for reason, rows in plan.diff.rejected_by.items():
        lines.append(Text(f"  {count(rows, 'row')} rejected: {reason_meaning(reason)} ({reason})", "yellow"))
    lines += [_sample_line(sample.change, sample.call, width) for sample in plan.samples]
    lines += [
        Text(f"  guard {guard.name} stops this: {guard.value:,} rows, the limit is {guard.limit}", "red")
        for guard in plan.guards
        if guard.tripped and not guard.forced
    ]
    lines.append(Text("  " + _cost(plan)))
    return Group(*lines)


def _changes_table(plan: Plan) -> Table:
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 1))
    for change, (sign, color) in SIGNS.items():
        rows: int = plan.diff.resent if change == "unchanged" else getattr(plan.diff, change)
        calls = {name: calls for (kind, name), calls in plan.calls.items() if kind == change}
        if not plan.sends and rows:
            outcome = "a silent baseline: remembered, not sent"
        else:
            outcome = ", ".join(f"{calls:,} {name}" for name, calls in calls.items()) or "no call"
        if rows:
            table.add_row(
                "", Text(sign, color), Text(f"{rows:,}", color, justify="right"), change, f"→ {outcome}"
            )
    if not table.row_count:
        table.add_row("", "no changes")
    return table


def _by_column(by_column: dict[str, int], most: int = 6) -> str:
    ranked = sorted(by_column.items(), key=lambda item: -item[1])
    named = ", ".join(f"{name} {rows:,}" for name, rows in ranked[:most])
    return named if len(ranked) <= most else f"{named}, and {len(ranked) - most} more"


def _sample_line(change: str, call: str, width: int | None) -> Text:
    sign, color = SIGNS[change]
    line = Text.assemble("  ", (sign, color), f" {call}", no_wrap=True)
    if width is not None:
        line.truncate(width, overflow="ellipsis")
    return line


def _cost(plan: Plan) -> str:
    if not plan.total_calls:
        return "nothing would be sent"
    if plan.file is not None:
        return f"{count(plan.total_calls, 'call')} to {plan.file}"
    cost = f"{count(plan.total_calls, 'API call')} in {count(plan.requests, 'request')}"
    if not plan.calls_per_second:
        return f"{cost}, without a rate limit"
    time = "under a second" if plan.seconds < 1 else duration(plan.seconds)
    return f"{cost}, {time} at {plan.calls_per_second:,} calls/s"
