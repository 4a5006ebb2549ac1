"""A read ends with the deadline or with a signal, whatever the warehouse does."""

import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pyarrow as pa
import pytest
from harness import Retl, StillClock, runner
from warehouses import model, mysql_database, rows

from retl.errors import DeadlineError, WarehouseError
from retl.model import Model
from retl.observer import SilentObserver
from retl.warehouse import Warehouse, open_warehouse
from retl.warehouse.watched import AHEAD_BATCHES, THREAD, WatchedWarehouse

SLOW = {
    "duckdb": "SELECT count(*) AS n FROM range(1000000) a, range(1000000) b WHERE a.range * b.range = -1",
    "sqlite": "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) AS n FROM n",
    "adbc": "SELECT pg_sleep(600)::text AS n",
    "psycopg": "SELECT pg_sleep(600)::text AS n",
    "psycopg2": "SELECT pg_sleep(600)::text AS n",
    "mysql": "SELECT SLEEP(600) AS n",
}
"""Models that take far longer than any test."""


class HastyClock(StillClock):
    """A clock on which a second passes from one look to the next."""

    def monotonic(self) -> float:
        """Seconds since the clock was made."""
        self.move(1)
        return super().monotonic()


HIDDEN = {
    "psycopg": ["adbc_driver_postgresql"],
    "psycopg2": ["adbc_driver_postgresql", "psycopg"],
}
"""The modules that are not installed where Postgres is read through a driver; ADBC is taken first."""


def url_of(request: pytest.FixtureRequest, kind: str, folder: Path) -> str:
    """The URL of a database of that kind; a driver of Postgres is taken as if there were no better one."""
    for name in HIDDEN.get(kind, []):
        request.getfixturevalue("monkeypatch").setitem(sys.modules, name, None)
    if kind in ("adbc", *HIDDEN):
        url: str = request.getfixturevalue("postgres_url")
        return url
    sqlite3.connect(folder / "a.db").execute("CREATE TABLE a (i)").connection.close()
    return {"duckdb": "duckdb://", "sqlite": "sqlite:///a.db"}[kind]


@pytest.fixture(
    params=[pytest.param(kind, marks=pytest.mark.mysql if kind == "mysql" else ()) for kind in SLOW]
)
def slow(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Warehouse, str]]:
    """A warehouse of each kind, with each driver, and a slow model of it."""
    sql = SLOW[request.param]
    if request.param == "mysql":
        with mysql_database() as url, open_warehouse(url, tmp_path) as warehouse:
            yield warehouse, sql
        return
    with open_warehouse(url_of(request, request.param, tmp_path), tmp_path) as warehouse:
        yield warehouse, sql


@pytest.mark.rule("W8")
def test_a_deadline_ends_a_read(slow: tuple[Warehouse, str]) -> None:
    """A read that gives no row ends with the deadline; the database has stopped, and can be read again."""
    warehouse, sql = slow
    watched = WatchedWarehouse(warehouse, SilentObserver(), HastyClock(), deadline=5)
    with pytest.raises(DeadlineError):
        list(watched.read(model(sql)))
    for thread in threading.enumerate():
        if thread.name == THREAD:
            thread.join(timeout=60)
            assert not thread.is_alive()

    assert [{"one": 1}] == rows(warehouse, "SELECT 1 AS one")


def test_a_deadline_ends_a_look_at_the_columns(tmp_path: Path) -> None:
    """The columns are awaited no longer than the rows; SQLite runs the model to know them."""
    sqlite3.connect(tmp_path / "a.db").execute("CREATE TABLE a (i)").connection.close()
    with open_warehouse("sqlite:///a.db", tmp_path) as warehouse:
        watched = WatchedWarehouse(warehouse, SilentObserver(), HastyClock(), deadline=3)
        with pytest.raises(DeadlineError):
            watched.columns(model(SLOW["sqlite"]))


def test_a_read_that_is_left(tmp_path: Path) -> None:
    """A read that is left in its midst is over then, and so is its thread."""
    with open_warehouse("duckdb://", tmp_path) as warehouse:
        watched = WatchedWarehouse(warehouse, SilentObserver(), StillClock(), deadline=3)
        reading = watched.read(model("SELECT range AS i FROM range(1000000000000)"), batch_rows=2048)
        assert 2048 == next(reading).num_rows
        reading.close()  # type: ignore[attr-defined]
        assert [{"one": 1}] == rows(warehouse, "SELECT 1 AS one")


class CountedWarehouse(Warehouse):
    """A warehouse of five batches of one row, which breaks off where it shall; it counts what was read."""

    def __init__(self, breaks_at: int | None = None) -> None:
        self.breaks_at = breaks_at
        self.read_so_far = 0
        self.has_read_ahead = threading.Event()

    def read(self, model: Model, columns: Any = None, batch_rows: int = 1) -> Iterator[pa.RecordBatch]:
        """The batches, each with its number."""
        for number in range(5):
            if number == self.breaks_at:
                raise WarehouseError("broke off")
            self.read_so_far += 1
            if self.read_so_far == 1 + AHEAD_BATCHES:
                self.has_read_ahead.set()
            yield pa.record_batch({"n": [number]})


def test_batches_are_read_ahead() -> None:
    """While a batch is worked on the next ones are read, and no more than are allowed."""
    warehouse = CountedWarehouse()
    watched = WatchedWarehouse(warehouse, SilentObserver(), StillClock(), deadline=3)
    reading = watched.read(model("SELECT n"))
    next(reading)
    assert warehouse.has_read_ahead.wait(timeout=60)
    reading.close()  # type: ignore[attr-defined]

    assert 1 + AHEAD_BATCHES == warehouse.read_so_far


def test_a_read_ahead_that_breaks_off() -> None:
    """What was read before an error is handed over before the error is."""
    watched = WatchedWarehouse(CountedWarehouse(breaks_at=3), SilentObserver(), StillClock(), deadline=3)
    reading = watched.read(model("SELECT n"))

    assert [0, 1, 2] == [next(reading)["n"][0].as_py() for _ in range(3)]
    with pytest.raises(WarehouseError, match="broke off"):
        next(reading)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with one sync; its model is yet to be written."""
    for folder in ("models", "syncs", "elsewhere"):
        (tmp_path / folder).mkdir()
    (tmp_path / "syncs/users.yml").write_text(
        "model: users\nprimary_key: n\nidentify: {user_id: n, traits: {n: n}}\n"
    )
    monkeypatch.chdir(tmp_path / "elsewhere")
    return tmp_path


@pytest.mark.slow
@pytest.mark.rule("W8")
@pytest.mark.parametrize("scheme", ["postgresql", pytest.param("mysql", marks=pytest.mark.mysql)])
def test_a_server_that_never_answers(
    scheme: str, project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Connecting, too, is awaited no longer than the deadline; the working folder is as it was."""
    retl: Retl = runner(capsys)
    (project / "models/users.sql").write_text("SELECT 1 AS n")
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setenv("RETL_WAREHOUSE_URL", f"{scheme}://u:hush@127.0.0.1:{server.getsockname()[1]}/x")
        code, out, _ = retl("run", "../syncs/users.yml", "--sandbox", "--json", "--deadline", "1s")

    assert (3, "deadline") == (code, json.loads(out)["error"]["code"])
    assert project / "elsewhere" == Path.cwd()


@pytest.mark.slow
@pytest.mark.rule("W8")
@pytest.mark.parametrize(
    ("driver", "number", "code"),
    [
        ("adbc", signal.SIGINT, 130),
        ("psycopg", signal.SIGINT, 130),
        pytest.param("psycopg2", signal.SIGTERM, 143, marks=pytest.mark.slow),
    ],
)
def test_a_signal_ends_a_read(
    driver: str, number: signal.Signals, code: int, project: Path, postgres_url: str
) -> None:
    """A signal ends a run that waits for Postgres, which stops the query; nothing counts as a bug."""
    (project / "models/users.sql").write_text("SELECT pg_sleep(600)::text AS n")
    running = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'"
    with (
        psycopg.connect(postgres_url, autocommit=True) as other,
        start(project, driver, postgres_url) as process,
    ):
        while other.execute(running).fetchone() == (0,):
            assert process.poll() is None, process.communicate()
        process.send_signal(number)
        out, err = process.communicate(timeout=60)
        assert other.execute(running).fetchone() == (0,)

    assert (code, "interrupted") == (process.returncode, json.loads(out)["status"])
    assert "Traceback" not in err


@pytest.mark.slow
@pytest.mark.rule("W8")
def test_a_signal_ends_a_read_that_cannot_be_cancelled(project: Path) -> None:
    """A signal ends a run that waits for a file, of which DuckDB cannot be called back."""
    os.mkfifo(project / "never.csv")
    (project / "models/users.sql").write_text(
        "SELECT n FROM read_csv('never.csv', header = true, columns = {'n': 'INT'}, auto_detect = false)"
    )
    with (
        start(project, "psycopg", "duckdb://") as process,
        (project / "never.csv").open("w"),  # waits until somebody reads
    ):
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=60)

    assert (143, "interrupted") == (process.returncode, json.loads(out)["status"])
    assert "Traceback" not in err


def start(project: Path, driver: str, url: str) -> "subprocess.Popen[str]":
    """A run in a process of its own, which reads Postgres through that driver."""
    hide = "".join(f"sys.modules['{name}'] = None; " for name in HIDDEN.get(driver, []))
    program = f"import sys; {hide}from retl.cli.main import main; main()"
    return subprocess.Popen(
        [sys.executable, "-c", program, "run", "users", "--sandbox", "--json"],
        cwd=project,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "RETL_WAREHOUSE_URL": url},
    )
