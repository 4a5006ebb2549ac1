"""`retl rejected`: the rows and calls that could not be sent, by reason, and how they can be."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click
import duckdb

from retl import sql
from retl.check import looking_job
from retl.cli.console import Printer, as_json_line, console, count
from retl.cli.ended_report import Ended, ended_report
from retl.cli.options import AS_JSON, MOST, ONE_SYNC, REHEARSAL, STATE_DIR
from retl.cli.rejected_report import TEXTS, Rejected, rejected_report
from retl.clock import SystemClock
from retl.damage import storage_error
from retl.delivery.ended import count_ended, ended_rejections
from retl.delivery.rejected import counts_by_reason, rejected_calls, rejected_rows
from retl.errors import StorageError
from retl.past_run import last_run
from retl.rejected_values import find_values
from retl.run import Status
from retl.session import Session, find_sessions

ENDINGS = {".csv": "csv", ".parquet": "parquet"}
"""The forms of `--out`, by the ending of the file."""


def _out(_context: click.Context, _option: click.Parameter, path: Path | None) -> Path | None:
    """A file whose ending says its form."""
    if path is not None and path.suffix.lower() not in ENDINGS:
        raise click.BadParameter(f"{path} must end in {' or '.join(ENDINGS)}")
    return path


@click.command("rejected")
@ONE_SYNC
@click.option(
    "--limit", type=click.IntRange(1, MOST), default=50, help="Rows and calls to show. [default: 50]"
)
@click.option("--reason", "reasons", multiple=True, metavar="CODE", help="Only those with this reason.")
@click.option(
    "--inspect", is_flag=True, help="Read the model again: the rows as they are now, in all columns at fault."
)
@click.option("--show-values", is_flag=True, help="Show the values at fault, too, and refused calls whole.")
@click.option("--ended", is_flag=True, help="Show the rejections that are over instead: until when, and how.")
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    callback=_out,
    help="Write all of them to FILE.csv or FILE.parquet.",
)
@AS_JSON
@REHEARSAL
@STATE_DIR
def rejected_command(
    sync: str,
    limit: int,
    reasons: Sequence[str],
    inspect: bool,
    show_values: bool,
    ended: bool,
    out: Path | None,
    as_json: bool,
    rehearsal: bool,
    state_dir: Path | None,
) -> int:
    """Show the rows and calls that could not be sent, by reason, and what to do about them.

    The state keeps the user of each row, the column at fault and the beginning of its value. The form of the
    value is shown, and with --show-values the value. --inspect reads the model again.
    """
    if ended and (inspect or out is not None):
        raise click.UsageError("--ended goes with neither --inspect nor --out; retl sql --csv writes a file")
    for session in find_sessions([sync], state_dir, rehearsal):
        if ended:
            _show_ended(session, reasons, limit, show_values, as_json)
            continue
        with session.peeked_state(SystemClock()) as state:
            most = MOST if out else limit
            last = last_run(state.db)
            found = Rejected(
                session.sync,
                counts_by_reason(state.db, reasons),
                rejected_rows(state.db, most, reasons),
                rejected_calls(state.db, most, reasons),
                show_values,
                count_ended(state.db, reasons),
                reasons=reasons,
                stopped=last.rejected_by if last and last.status == Status.GUARDED else {},
            )
            if inspect and found.rows:
                found = found.with_values(find_values(looking_job(session, state), found.rows))
        if out is not None:
            _write(out, found.records())
        if as_json:
            click.echo(as_json_line(found.as_json()))
        elif out is not None:
            click.echo(f"{out}: {count(len(found.rows), 'row')} and {count(len(found.calls), 'call')}")
        else:
            printed = console()
            flags = Printer(rehearsal=rehearsal, state_dir=state_dir).flags
            printed.print(rejected_report(found, flags, printed.width))
    return 0


def _show_ended(
    session: Session, reasons: Sequence[str], limit: int, show_values: bool, as_json: bool
) -> None:
    with session.peeked_state(SystemClock()) as state:
        rejections = ended_rejections(state.db, limit, reasons)
        found = Ended(session.sync.name, count_ended(state.db, reasons), rejections, show_values)
    if as_json:
        click.echo(as_json_line(found.as_json()))
    else:
        console().print(ended_report(found))


def _write(path: Path, records: Sequence[Mapping[str, Any]]) -> None:
    """Write lines to a CSV or a Parquet file.

    Raises:
        StorageError: it cannot be written.
    """
    columns = [f"{name} VARCHAR" for name in TEXTS]
    columns += ["rows BIGINT", "runs BIGINT", "first_seen TIMESTAMP", "last_seen TIMESTAMP"]
    with duckdb.connect(":memory:") as db:
        db.execute(f"CREATE TABLE lines ({', '.join(columns)})")
        if records:
            db.execute("INSERT INTO lines BY NAME SELECT unnest(?, recursive := true)", [list(records)])
        form = ENDINGS[path.suffix.lower()]
        try:
            db.execute(f"COPY lines TO {sql.text(str(path))} (FORMAT {form})")
        except duckdb.Error as error:
            raise storage_error(error) or StorageError(
                f"cannot be written: {error}", where=str(path)
            ) from error
