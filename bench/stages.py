"""`python -m bench.stages` shows where the time of `retl run` goes, with users in a DuckDB file."""

import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import click
import duckdb
from rich.console import Console
from rich.table import Table

from bench.process import bare_environment
from bench.shop import changes, make_project
from bench.sink import Sink, running_sink
from retl import __version__

LIMIT_SECONDS = 900
"""No run lives longer."""


def child(what: str, root: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Run a child to its end; returns what it printed, and its report."""
    path = root / "report.json"
    launched = time.monotonic()
    command = [sys.executable, "-m", "bench.child", what, str(path), str(launched), "syncs/users.yml"]
    done = subprocess.run(
        command, cwd=root, env=bare_environment(), stdout=subprocess.PIPE, timeout=LIMIT_SECONDS
    )
    wall = time.monotonic() - launched
    if done.returncode:
        raise click.ClickException(f"`retl run` ended with {done.returncode}: {done.stdout.decode()}")
    report = json.loads(path.read_bytes())
    report["stages"]["the rest"] += wall - sum(report["stages"].values())
    return json.loads(done.stdout), {"wall_s": wall, **report}


def measure(name: str, root: Path, sink: Sink, expected: int) -> dict[str, Any]:
    """Measure one run, and see that exactly the expected calls arrived."""
    bare = statistics.median(child("read", root)[1]["stages"]["read"] for _ in range(3))
    sink.reset()
    record, report = child("run", root)
    arrived = sink.counts()
    seen = {**record["calls"], "arrived": arrived.calls}
    if {seen["enqueued"], seen["delivered"], seen["arrived"]} != {expected}:
        raise click.ClickException(f"{name}: {expected:,} calls should have arrived, but: {seen}")
    work = report["wall_s"] - report["stages"]["start-up"]
    figures = {
        "calls_per_s": expected / work,
        "rows_per_s": record["rows_read"] / work,
        "wall_s": report["wall_s"],
        "cpu_s": report["cpu_s"],
        "bare_reads": work / bare,
        "peak_mb": report["peak_mb"],
        "state_mb": (root / "state" / "users.duckdb").stat().st_size / 1e6,
        "requests": arrived.requests,
        "bytes_per_call": arrived.bytes / expected if expected else 0,
    }
    besides = {"calls": expected, "bare_read_s": bare, "sink_cpu_s": arrived.cpu_s}
    return {"name": name, "figures": figures, "stages": report["stages"], **besides}


def tables(found: list[dict[str, Any]]) -> tuple[Table, Table]:
    """What the runs did and took, and where the time went."""
    heads = (
        name.replace("_per_", "/").replace("_mb", " MB").replace("_", " ") for name in found[0]["figures"]
    )
    runs = Table("retl run", *heads)
    for column in runs.columns[1:]:
        column.justify = "right"
    for one in found:
        numbers = one["figures"].values()
        runs.add_row(one["name"], *(f"{number:,.{int(number % 1 and number < 100)}f}" for number in numbers))
    stages = Table("wall s", *(one["name"] for one in found))
    for stage in found[0]["stages"]:
        parts = [(one["stages"][stage], one["stages"][stage] / sum(one["stages"].values())) for one in found]
        stages.add_row(stage, *(f"{took:6.2f} [cyan]{'█' * round(20 * part):20}[/]" for took, part in parts))
    return runs, stages


@click.command()
@click.option("--rows", type=click.IntRange(min=1000), default=1_000_000, help="Users. [default: 1000000]")
@click.option("--connections", type=click.IntRange(1, 64), default=16, help="As `concurrency`. [default: 16]")
@click.option("--keep", is_flag=True, help="Leave the folder with warehouse and state, and say where it is.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
def main(rows: int, connections: int, keep: bool, as_json: bool) -> None:
    """Measure a first run, one without changes and one with 2 % of changes, against a local sink."""
    load = round(os.getloadavg()[0], 1)
    about = {"rows": rows, "connections": connections, "cores": os.cpu_count(), "load": load}
    made_of = {"retl": __version__, "duckdb": duckdb.__version__, "python": platform.python_version()}
    root = Path(tempfile.mkdtemp(prefix="retl-bench-"))
    try:
        with Console(stderr=True).status(f"measuring, in {root}"), running_sink() as sink:
            shop = make_project(root, rows, sink.url, connections)
            found = [measure("first run", root, sink, rows), measure("no changes", root, sink, 0)]
            shop.show(2)
            found.append(measure("2 % changes", root, sink, changes(rows)))
    finally:
        if keep:
            click.echo(f"warehouse and state are in {root}", err=True)
        else:
            shutil.rmtree(root)
    if as_json:
        click.echo(json.dumps({**about, **made_of, "runs": found}))
        return
    out = Console() if sys.stdout.isatty() else Console(width=110)
    out.print(", ".join(f"{what} {value}" for what, value in {**about, **made_of}.items()))
    out.print(*tables(found), sep="\n")


if __name__ == "__main__":
    main()
