"""`python -m torture` lives lives under faults until time is up, and says whether a promise was broken."""

import os
import secrets
from collections.abc import Callable

import click

from torture.cloud import has_buckets
from torture.lives import Stop, live, live_on
from torture.record import Record
from torture.report import lines, write_page

SECONDS_BETWEEN = 60.0
"""The time between two lines that say how far the torture is."""


@click.command()
@click.option("--seed", type=click.IntRange(0), help="Of the first life; by chance where none is given.")
@click.option("--seconds", type=click.FloatRange(0), default=120.0, show_default=True, help="0 is no limit.")
@click.option("--faults", type=click.IntRange(0), default=0, help="Stop after so many; 0 is no limit.")
@click.option("--jobs", type=click.IntRange(1), default=os.cpu_count() or 1, help="Lives at a time.")
@click.option("--replay", type=click.IntRange(0), help="Live only the life of this seed, and tell it.")
@click.option("--page", is_flag=True, help="Write docs/torture.md.")
def main(seed: int | None, seconds: float, faults: int, jobs: int, replay: int | None, page: bool) -> None:
    """Run syncs under faults, and see that their calls tell what became of the rows."""
    if replay is not None:
        record = live(replay, click.echo)
    else:
        seed = secrets.randbelow(10**9) if seed is None else seed
        stop = Stop()
        with stop.heeded():
            click.echo(f"seed {seed}")
            if not has_buckets():
                click.echo("no state is in a bucket, as moto or obstore is not installed")
            record = live_on(seed, seconds, faults, jobs, stop, _telling())
    click.echo("\n".join(lines(record)))
    if record.stopped_by is not None:
        raise SystemExit(128 + record.stopped_by)
    if page and replay is None:
        write_page(record, seed or 0)
    raise SystemExit(1 if record.broken else 0)


def _telling() -> Callable[[Record], None]:
    """Say on stderr about once a minute what came of the lives so far."""
    told_at = 0.0

    def tell(record: Record) -> None:
        nonlocal told_at
        if record.seconds - told_at >= SECONDS_BETWEEN:
            told_at = record.seconds
            faults, lives = record.faults.total(), record.counts["lives"]
            click.echo(f"{record.seconds / 60:,.0f} min: {faults:,} faults in {lives:,} lives", err=True)

    return tell


if __name__ == "__main__":
    main()
