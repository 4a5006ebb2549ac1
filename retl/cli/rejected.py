"""`retl rejected`: the rows and calls that could not be sent, and why."""

from collections.abc import Sequence
from pathlib import Path

import click
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from retl.cli.console import Printer, as_json_line, console
from retl.cli.options import AS_JSON, MOST, ONE_SYNC, REHEARSAL, STATE_DIR
from retl.cli.receivers import reason_meaning
from retl.clock import SystemClock
from retl.delivery.rejected import REASONS, RejectedCall, RejectedRow, rejected_calls, rejected_rows
from retl.reason import Reason
from retl.session import find_sessions


@click.command("rejected")
@ONE_SYNC
@click.option(
    "--limit", type=click.IntRange(1, MOST), default=50, help="Rows and calls to show. [default: 50]"
)
@AS_JSON
@REHEARSAL
@STATE_DIR
def rejected_command(sync: str, limit: int, as_json: bool, rehearsal: bool, state_dir: Path | None) -> int:
    """Show the rows and calls that could not be sent, and why."""
    for session in find_sessions([sync], state_dir, rehearsal):
        with session.peeked_state(SystemClock()) as state:
            rows = rejected_rows(state.db, limit)
            calls = rejected_calls(state.db, limit)
        if as_json:
            listed = {"rows": [row.as_json() for row in rows], "calls": [call.as_json() for call in calls]}
            click.echo(as_json_line({"sync": session.sync.name, **listed}))
        else:
            console().print(
                rejected_report(
                    session.sync.name, rows, calls, Printer(rehearsal=rehearsal, state_dir=state_dir)
                )
            )
    return 0


def rejected_report(
    sync: str, rows: Sequence[RejectedRow], calls: Sequence[RejectedCall], printer: Printer
) -> RenderableType:
    """Rejected rows and calls, the meaning of their reasons, and what can be done about the calls."""
    if not rows and not calls:
        return Text("nothing is rejected")
    parts: list[RenderableType] = []
    if rows:
        parts.append(_rows_table(rows))
    if calls:
        parts.append(_calls_table(calls))
    reasons = sorted({one.reason for one in rows} | {one.reason for one in calls})
    parts += [Text(f"{reason}: {reason_meaning(reason)}", "dim") for reason in reasons]
    if any(reason not in REASONS for reason in reasons):
        parts.append(Text("what it is of a row: retl explain SYNC KEY --receiver all", "dim"))
    if any(call.reason == Reason.REFUSED for call in calls) and not printer.rehearsal:
        parts.append(Text(f"to send refused calls again: retl retry {sync}{printer.flags}", "dim"))
    if calls:
        parts.append(Text(f"to forget the calls: retl discard {sync}{printer.flags}", "dim"))
    return Group(*parts)


def _rows_table(rows: Sequence[RejectedRow]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2), header_style="dim")
    for title in ("row", "reason", "since", "runs"):
        table.add_column(title, justify="right" if title == "runs" else "left")
    for row in rows:
        key = "(no key)" if row.key is None else row.key
        several = f" ({row.rows:,} rows)" if row.rows > 1 else ""
        table.add_row(f"{key}{several}", row.reason, f"{row.first_seen:%Y-%m-%d %H:%M}", f"{row.times:,}")
    return table


def _calls_table(calls: Sequence[RejectedCall]) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2), header_style="dim")
    for title in ("call for", "change", "reason", "at", "answer"):
        table.add_column(title)
    for call in calls:
        moment = f"{call.rejected_at:%Y-%m-%d %H:%M}"
        table.add_row(call.key, call.change, call.reason, moment, call.answer or "")
    return table
