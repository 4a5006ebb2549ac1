"""`retl history`: the past runs of a sync."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import click
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from retl.cli.console import Printer, Ragged, as_json_line, console, count, duration, table_width, with_flags
from retl.cli.fold import fold_words
from retl.cli.options import MOST, ONE_SYNC, REHEARSAL, STATE_DIR
from retl.cli.status import STATUS_COLORS
from retl.clock import SystemClock
from retl.records import newest_records
from retl.session import find_sessions

SPARKS = "▁▂▃▄▅▆▇█"
"""The heights of a sparkline."""


@click.command("history")
@ONE_SYNC
@click.option("--limit", type=click.IntRange(1, MOST), default=20, help="Runs to show. [default: 20]")
@click.option("--json", "as_json", is_flag=True, help="Print JSON: the record of each run, on its own line.")
@REHEARSAL
@STATE_DIR
def history_command(sync: str, limit: int, as_json: bool, rehearsal: bool, state_dir: Path | None) -> int:
    """Show the past runs of a sync: what each did, how long it took, and why it failed.

    The newest is first. With --json the records are those that `retl run --json` printed.

    Example: retl history users --limit 50
    """
    for session in find_sessions([sync], state_dir, rehearsal):
        with session.peeked_state(SystemClock()) as state:
            runs = newest_records(state.db, most=limit)
        if as_json:
            for run in runs:
                click.echo(as_json_line(run))
        else:
            printed = console()
            flags = Printer(rehearsal=rehearsal, state_dir=state_dir).flags
            printed.print(history_report(session.sync.name, runs, printed.width, flags))
        if session.is_only_rehearsed:
            Printer(state_dir=state_dir).only_rehearsed(f"retl history {sync}")
    return 0


def history_report(
    sync: str, runs: Sequence[Mapping[str, Any]], width: int, flags: str = ""
) -> RenderableType:
    """The runs, a line each, why some of them failed, and how their numbers went.

    Args:
        sync: its name.
        runs: their records, the newest first.
        width: of the terminal, in columns.
        flags: options that are repeated after each command that a hint names.
    """
    if not runs:
        return Text(f"{sync}: no run yet")
    table = _table(runs, "{:,}".format)
    if table_width(table) > width:
        table = _table(runs, _rounded)
    lines: list[RenderableType] = [Ragged(table), *_reasons(runs, width, flags)]
    if len(runs) > 1:
        lines += [Text(), *_sparklines(list(reversed(runs)))]
    return Group(*lines)


def _table(runs: Sequence[Mapping[str, Any]], written: Callable[[int], str]) -> Table:
    """A line for each run; its numbers are `written`."""
    table = Table(box=None, pad_edge=False, padding=(0, 1), header_style="dim")
    for title in ("run (UTC)", "status", "took", "read", "+", "~", "-", "rejected", "sent"):
        table.add_column(title, justify="left" if title in ("run (UTC)", "status") else "right", no_wrap=True)
    for run in runs:
        calls = run["calls"]
        rejected = _sum(run["rejected_rows"], calls["rejected"])
        numbers = (
            run["rows_read"],
            run["added"],
            run["changed"],
            run["removed"],
            rejected,
            calls["delivered"],
        )
        table.add_row(
            run["run_id"],
            Text(run["status"], STATUS_COLORS.get(run["status"], "red")),
            "" if run["exit_code"] is None else duration(run["seconds"]),
            *("" if number is None else written(number) for number in numbers),
        )
    return table


def _reasons(runs: Sequence[Mapping[str, Any]], width: int, flags: str) -> Iterator[Text]:
    """Why runs did not send what they might have, each by the id of its run; a hint is given once."""
    given: set[str] = set()
    for place, run in enumerate(runs):
        if "discarded" in run:
            yield from map(Text, fold_words(f"{run['run_id']}: {_discarded(run['discarded'])}", width, ""))
        why = why_of(run, is_last=place == 0)
        if why is None:
            continue
        first, *others = f"{run['run_id']}: {why}".splitlines()
        yield from map(Text, fold_words(first, width, ""))
        for line in others:
            yield from map(Text, fold_words(line.strip(), width))
        hint = run["error"] and run["error"]["hint"]
        if hint and hint not in given:
            given.add(hint)
            yield from map(Text, fold_words(f"→ {with_flags(hint, flags)}", width))


def _discarded(discarded: Mapping[str, Any]) -> str:
    calls, moment = count(discarded["calls"], "call"), discarded["at"][:16].replace("T", " ")
    return f"{calls} discarded while waiting, by `retl discard --pending` at {moment}"


def why_of(run: Mapping[str, Any], is_last: bool) -> str | None:
    """The reason why a run did not send what it might have, in a sentence; None where it did.

    Args:
        run: its record.
        is_last: whether no run came after it.
    """
    if run["error"]:
        return str(run["error"]["message"])
    if run["exit_code"] is None:
        return f"ended suddenly; the next run {'goes' if is_last else 'went'} on"
    return "remembered the rows, and sent nothing: a silent baseline" if run["baseline"] else None


def _sparklines(runs: Sequence[Mapping[str, Any]]) -> list[RenderableType]:
    """How rows, changes and seconds went, from the oldest run to the newest."""
    changes = [_sum(run["added"], run["changed"], run["removed"]) for run in runs]
    series = {
        "rows": [run["rows_read"] for run in runs],
        "changes": changes,
        "seconds": [None if run["exit_code"] is None else run["seconds"] for run in runs],
    }
    title = Text(
        f"{count(len(runs), 'run')} from {runs[0]['started_at'][:10]} on, the newest at the right", "dim"
    )
    table = Table(box=None, pad_edge=False, padding=(0, 1), show_header=False)
    table.add_column(style="dim")
    table.add_column(style="cyan", no_wrap=True)
    table.add_column(no_wrap=True)
    for name, values in series.items():
        known = [value for value in values if value is not None]
        if known:
            table.add_row(name, sparkline(values), f"{_number(min(known))} to {_number(max(known))}")
    return [title, Ragged(table)]


def sparkline(values: Sequence[float | None]) -> str:
    """Numbers as a line of bars, the lowest bar for the least of them; a blank where there is none."""
    known = [value for value in values if value is not None]
    least, most = min(known), max(known)
    width = (most - least) or 1
    return "".join(
        " " if value is None else SPARKS[int((value - least) / width * (len(SPARKS) - 1))] for value in values
    )


def _rounded(number: int) -> str:
    """A number in five characters at most, for a table that is too wide otherwise: `12.3k`, `1.2M`."""
    if number < 10_000:
        return str(number)
    size, unit = (1_000, "k") if number < 1_000_000 else (1_000_000, "M")
    share = number / size
    return f"{share:.1f}{unit}" if share < 100 else f"{share:,.0f}{unit}"


def _number(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:,.1f}"


def _sum(*numbers: int | None) -> int | None:
    known = [number for number in numbers if number is not None]
    return sum(known) if known else None
