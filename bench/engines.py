"""`make bench-engines`: `engine: warehouse`, `engine: local` and a plain join, over one table.

Runs and joins alternate, so that other work on the machine falls on all; each line has seconds, CPU seconds
and peak memory of retl alone, and what it read.
"""

import json
import os
import subprocess
import sys
import time
from contextlib import ExitStack
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory

import click

from bench.engine_results import FIRST, LATER, Size, Taken, cell, save
from bench.engine_tables import TABLES, UsersTable
from bench.process import CHECKOUT, machine
from bench.report import write_all
from bench.results import load_results

SYNC = """\
sql: SELECT * FROM users
primary_key: id
track:
  user_id: user_id
  added: {event: Added}
  changed: {event: Changed, timestamp: updated_at, previous: true}
  removed: {event: Removed}
  properties: {email: email, mrr: mrr, plan: plan, seats: seats, token: token}
segment: {endpoint: 'file:out.ndjson'}
"""

CHILD = """
import json, re, resource, sys
from pathlib import Path
from retl.warehouse import watched
read, seen = watched.WatchedWarehouse.read, {"rows": 0, "bytes": 0}
def counted(self, *arguments, **options):
    for batch in read(self, *arguments, **options):
        seen["rows"] += batch.num_rows
        seen["bytes"] += batch.nbytes
        yield batch
watched.WatchedWarehouse.read = counted
from retl.__main__ import main
try:
    main()
except SystemExit:
    pass
used = resource.getrusage(resource.RUSAGE_SELF)
try:  # the other figure has the memory of the process that began this one, too
    peak = re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]
except OSError:
    peak = used.ru_maxrss
print(json.dumps({**seen, "mb": int(peak) // 1024, "cpu": round(used.ru_utime + used.ru_stime, 1)}))
"""


def project(folder: Path, engine: str) -> Path:
    """A project whose sync has that engine."""
    (folder / engine / "syncs").mkdir(parents=True)
    (folder / engine / "retl.yml").write_text(f"engine: {engine}\n")
    (folder / engine / "syncs/users.yml").write_text(SYNC)
    return folder / engine


def run(folder: Path, url: str, step: str) -> tuple[Taken, int]:
    """A run of a project, and how many rows it found changed."""
    began = time.monotonic()
    words = [sys.executable, "-c", CHILD, "run", "syncs/users.yml", "--json", "--quiet"]
    env = {**os.environ, "RETL_WAREHOUSE_URL": url, "PYTHONPATH": CHECKOUT}
    done = subprocess.run(words, cwd=folder, env=env, capture_output=True, text=True)
    seconds = time.monotonic() - began
    if done.returncode:
        raise click.ClickException(f"{done.stdout}\n{done.stderr}")
    record, used = map(json.loads, done.stdout.splitlines()[-2:])
    assert record["error"] is None, record["error"]
    way = f"`engine: {folder.name}`"
    taken = Taken(way, step, seconds, used["cpu"], used["mb"], used["rows"], used["bytes"] / 1e6)
    return shown(taken), record["changed"]


def compare_by_hand(users: UsersTable) -> Taken:
    """The same in SQL alone."""
    began = time.monotonic()
    users.compare()
    taken = Taken("copy and join by hand", LATER, time.monotonic() - began)
    users.keep()
    return shown(taken)


def shown(taken: Taken) -> Taken:
    """The same, printed."""
    figures = (cell(taken.cpu_s), cell(taken.peak_mb), cell(taken.rows), cell(taken.mb))
    cpu, peak, rows, mb = figures
    line = f"{taken.step}, {taken.way}: {taken.seconds:.1f} s, {cpu} s CPU, {peak} MB peak, "
    print(f"{line}{rows} rows and {mb} MB read", flush=True)
    return taken


def middle(steps: list[Taken]) -> Taken:
    """The step whose time is the median."""
    return sorted(steps, key=lambda one: one.seconds)[len(steps) // 2]


def measure(warehouse: str, rows: int, rounds: int) -> tuple[list[Taken], int]:
    """All that is found about a table of so many rows, and how many rows of it changed in a round."""
    with TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        folder.chmod(0o755)  # Postgres runs as another user than root
        users = stack.enter_context(TABLES[warehouse](folder))
        users.fill(rows)
        projects = [project(folder, engine) for engine in ("warehouse", "local")]
        found = [run(one, users.url, FIRST)[0] for one in projects]
        later: dict[str, list[Taken]] = {}
        changed = 0
        for number in range(rounds):
            users.touch(number)
            for one in projects:
                taken, changed = run(one, users.url, LATER)
                later.setdefault(taken.way, []).append(taken)
            by_hand = compare_by_hand(users)
            later.setdefault(by_hand.way, []).append(by_hand)
        return [*found, *map(middle, later.values())], changed


@click.command()
@click.argument("rows", type=click.IntRange(min=100))
@click.option("--warehouse", type=click.Choice(list(TABLES)), default="Postgres", show_default=True)
@click.option("--rounds", type=click.IntRange(min=1), default=3, help="After the first pass. [default: 3]")
@click.option("--dry", is_flag=True, help="Write nothing.")
def main(rows: int, warehouse: str, rounds: int, dry: bool) -> None:
    """Measure both engines on a table of ROWS rows, and write the page of the bench anew."""
    load_before = os.getloadavg()[0]
    taken, changed = measure(warehouse, rows, rounds)
    if not dry:
        made_of = {name: version(name) for name in ("duckdb", "retl", "pyarrow", *TABLES[warehouse].packages)}
        today = datetime.now(UTC).date().isoformat()
        save(Size(rows, changed, today, machine(), load_before, made_of, tuple(taken), warehouse))
        write_all(load_results())


if __name__ == "__main__":
    main()
