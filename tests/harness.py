"""A sync's whole world on a bench: real files, a real DuckDB, a real HTTP server, and a clock that stands."""

import json
import shutil
import threading
import webbrowser
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any

import duckdb
import pytest
from ruamel.yaml import YAML

from retl import sql
from retl.cli.main import execute
from retl.config.project import find_project, load_sync
from retl.config.sync import Sync
from retl.delivery import rejected
from retl.delivery.rate_limit import RateLimiter
from retl.delivery.rejection_list import RejectedCall, RejectedRow
from retl.delivery.response import RetryPolicy
from retl.delivery.segment import Segment, Source
from retl.job import Job, Options
from retl.model import make_model
from retl.observer import SilentObserver
from retl.pipeline import run
from retl.run import Run
from retl.sandbox.request import Request
from retl.sandbox.server import Sandbox
from retl.state import State
from retl.warehouse import Warehouse

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)

Rows = str | Sequence[Mapping[str, Any]]
"""A model's rows: one mapping each, or a SELECT where the database's types matter."""


Retl = Callable[..., tuple[int, str, str]]
"""Runs a command; gives exit code, stdout and stderr."""


TWO_SYNCS = """\
sql: SELECT 'u1' AS user_id, 'Zürich → 東京' AS city
warehouse: "duckdb://"
primary_key: user_id
identify: {user_id: user_id, traits: {city: city}}
"""


def two_syncs(folder: Path, more: str = "") -> Path:
    """Make a project of a folder, with two syncs `a` and `b` that are alike; gives the folder.

    `more` is what their files have besides.
    """
    (folder / "syncs").mkdir()
    for name in ("a", "b"):
        (folder / f"syncs/{name}.yml").write_text(TWO_SYNCS + more, encoding="utf-8")
    return folder


SEGMENT_BY_VARIABLE = "segment: {endpoint: '${SEGMENT:-http://127.0.0.1:9}', write_key: key, name: x}\n"
"""The block of a sync whose Segment is at the URL in SEGMENT."""


def csv_project(folder: Path, rows: str, /, **syncs: str) -> Path:
    """Make a project of a folder, of a model `users` over a CSV file; its calls go to a file."""
    for name in ("models", "syncs", "data"):
        (folder / name).mkdir()
    (folder / "models/users.sql").write_text("SELECT * FROM read_csv('data/users.csv')\n")
    (folder / "data/users.csv").write_text(rows)
    for name, text in syncs.items():
        (folder / f"syncs/{name}.yml").write_text(text)
    (folder / "retl.yml").write_text('warehouse: "duckdb://"\nsegment: {endpoint: "file:calls.ndjson"}\n')
    return folder


def edit(path: Path, old: str, new: str) -> None:
    """Change a file as a user would."""
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def project_to(folder: Path, url: str, sync: str) -> Path:
    """A project with a sync `users` that goes to a local Segment."""
    (folder / "syncs").mkdir()
    (folder / "syncs/users.yml").write_text(sync)
    settings = {"endpoint": url, "events_per_second": 0, "write_key": "key"}
    (folder / "retl.yml").write_text(f'warehouse: "duckdb://"\nsegment: {json.dumps(settings)}\n')
    return folder


def runner(capsys: pytest.CaptureFixture[str]) -> Retl:
    """Runs commands in the working folder, through the whole command line."""

    def run_command(*arguments: str) -> tuple[int, str, str]:
        capsys.readouterr()
        code = execute(arguments)
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return run_command


@cache
def read_yaml(path: Path) -> Any:
    """What a YAML file holds; several tests may use it, and to read it takes long."""
    return YAML(typ="safe", pure=True).load(path)


class StillClock:
    """A clock that stands still until it is moved; whoever waits moves it."""

    def __init__(self, start: datetime = NOON) -> None:
        self._start = self._now = start

    def now(self) -> datetime:
        """The moment, in UTC."""
        return self._now

    def monotonic(self) -> float:
        """Seconds since the clock was made."""
        return (self._now - self._start).total_seconds()

    def wait(self, seconds: float, stop: threading.Event) -> bool:
        """Move on by so many seconds; True where `stop` is set."""
        self.move(seconds)
        return stop.is_set()

    def move(self, seconds: float) -> None:
        """Move on."""
        self._now += timedelta(seconds=seconds)


@dataclass(frozen=True)
class Outcome:
    """What a run left behind.

    Attributes:
        run: its record.
        calls: what Segment accepted of it, in order of arrival.
        requests: the requests that it made.
        rejected_rows: as state keeps them.
        rejected_calls: those that it added to state.
    """

    run: Run
    calls: list[dict[str, Any]]
    requests: list[Request]
    rejected_rows: list[RejectedRow]
    rejected_calls: list[RejectedCall]


class Bench:
    """One sync, run again and again.

    Attributes:
        folder: the project folder.
        clock: the clock of all its runs.
        sandbox: the Segment that gets its calls.
        state: its state file, open as long as the bench is entered.
    """

    state: State

    def __init__(
        self,
        folder: Path,
        warehouse: Warehouse,
        clock: StillClock,
        state_file: Path,
        duck: duckdb.DuckDBPyConnection,
    ) -> None:
        """Put a sync on the bench; its state begins as a copy of `state_file`, attached to `duck`."""
        self.folder = folder
        self.clock = clock
        self.sandbox = Sandbox(now=clock.now)
        self._warehouse = warehouse
        self._duck = duck
        self._columns: list[str] = []
        self._loaded: dict[str, Sync] = {}
        self._rejected_calls = 0
        (folder / "models").mkdir()
        shutil.copy(state_file, folder / "sync.duckdb")

    def __enter__(self) -> "Bench":
        self.sandbox.__enter__()
        path = self.folder / "sync.duckdb"
        self._duck.execute(f"ATTACH {sql.text(str(path))} AS state")
        self.state = State(self._duck.cursor(), path)  # a connection of its own, and so TEMP tables
        self.state.db.execute("SET TimeZone = 'UTC'")
        return self

    def __exit__(self, *_: object) -> None:
        self.state.db.close()
        self._duck.execute("DETACH state")
        self.sandbox.__exit__()

    def run(self, sync: Mapping[str, Any], rows: Rows, options: Options | None = None) -> Outcome:
        """Run a sync, as its file would have it, over a model that yields such rows."""
        loaded = self._load(json.dumps({"model": "rows", **sync}))
        model = make_model("rows", self._select(rows), "models/rows.sql")
        seen_calls, seen_requests = len(self.sandbox.accepted), len(self.sandbox.requests)
        to = Source(self.sandbox.url, "a write key")
        retry_policy = RetryPolicy(base=0.001)
        job = Job(
            loaded, model, self.state, self._warehouse, options or Options(), self.clock, SilentObserver()
        )
        with Segment(to, RateLimiter(0, self.clock), retry_policy, connections=2) as segment:
            record = run(job, segment)
        rows = rejected.rejected_rows(self.state.db, 1_000)
        calls = rejected.rejected_calls(self.state.db, 1_000)
        known_calls, self._rejected_calls = self._rejected_calls, len(calls)
        return Outcome(
            record,
            self.sandbox.accepted[seen_calls:],
            self.sandbox.requests[seen_requests:],
            rows,
            calls[: len(calls) - known_calls],
        )

    def _load(self, text: str) -> Sync:
        """The sync of a file; the same text is read once."""
        if text not in self._loaded:
            path = self.folder / "sync.yml"
            path.write_text(text, encoding="utf-8")
            self._loaded[text] = load_sync(path, find_project(path, {}))
        return self._loaded[text]

    def _select(self, rows: Rows) -> str:
        if isinstance(rows, str):
            return rows
        columns = list(dict.fromkeys(column for row in rows for column in row)) or self._columns
        self._columns = columns
        # A column without any value is text: what type DuckDB gives it depends on its version.
        valued = {column for row in rows for column, value in row.items() if value is not None}
        shown = ((sql.name(one), "" if one in valued else "NULL::VARCHAR AS ") for one in columns)
        lines = (", ".join(_literal(row.get(one)) for one in columns) for row in rows or [{}])
        given = f"(VALUES ({'), ('.join(lines)})) AS given({', '.join(map(sql.name, columns))})"
        select = f"SELECT {', '.join(null + name for name, null in shown)} FROM {given}"
        return select if rows else f"{select} WHERE false"


def _literal(value: Any) -> str:
    """A value of a YAML file as SQL: lists and mappings are JSON, decimal points make DOUBLE."""
    if isinstance(value, bool | int | None):
        return "NULL" if value is None else str(value)
    if isinstance(value, float):
        return f"'{value!r}'::DOUBLE"
    if isinstance(value, datetime):
        return f"TIMESTAMP '{value:%Y-%m-%d %H:%M:%S.%f}'"
    if isinstance(value, date):
        return f"DATE '{value}'"
    if isinstance(value, list | dict):
        return sql.text(json.dumps(value)) + "::JSON"
    return sql.text(value)


def register_browser(folder: Path) -> Path:
    """Give this process a browser that writes the addresses which it opens into a file; gives the file.

    The variable BROWSER would do for one test alone: it is read once in a process.
    """
    script, opened = folder / "browser", folder / "opened"
    script.write_text(f'#!/bin/sh\necho "$1" >> {opened}\n')
    script.chmod(0o755)
    browser = webbrowser.GenericBrowser([str(script), "%s"])
    webbrowser.register(str(script), None, browser, preferred=True)
    return opened
