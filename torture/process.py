"""A life of processes: the real command, really killed, against a real warehouse file and a local Segment.

When a process is killed is a matter of real time, so a seed does not live the same life again.
"""

import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from random import Random

import duckdb
import pyarrow as pa

from retl.engine.warehouse.tables import snapshot_table
from retl.sandbox.failures import Failures
from retl.sandbox.server import Sandbox
from retl.state import State, open_state
from torture.cloud import Cloud, has_buckets
from torture.promises import FLOOD, LEFT, LOST, WRONG, Broken, check_order, check_ways
from torture.record import Record
from torture.rows import SCHEMA, History
from torture.syncs import TRACK
from torture.turns import NOON, Turns

MORE = """\
warehouse: duckdb:///shop.duckdb
segment: {{endpoint: "{url}", events_per_second: 1500, concurrency: 4}}
"""
"""What the track sync of a life needs to run as a command."""

ENGINE = "engine: warehouse\n"

IN_CLOUD = "state: s3://acme/retl/\n"

FAILURES = "500=0.03,503=0.03,lost_answer=0.04,latency=5ms"

FAULTS = {
    "SIGKILL": "kill -9",
    "SIGTERM": "SIGTERM",
    "SIGINT": "SIGINT",
    "short disk": "no room for a file to grow",
    "two": "two runs at once",
}

MOST_RUNS_TO_END = 12


class ProcessLife:
    """One life of processes.

    Args:
        seed: of the rows and of the faults, but not of their moments.
        folder: for its files.
        trace: gets a sentence for each thing that happens.
    """

    def __init__(self, seed: int, folder: Path, trace: Callable[[str], None] = lambda _: None) -> None:
        self.record = Record()
        self._trace = trace
        self._random = Random(seed)
        self._folder = folder
        self._history = History(
            [f"k{number}" for number in range(6_000)], [f"u{number}" for number in range(500)]
        )
        self._sandbox = Sandbox(failures=Failures.parse(FAILURES), seed=seed)
        self._has_engine = self._random.random() < 0.5
        is_in_cloud = self._random.random() < 0.5 and has_buckets()
        self._cloud = Cloud(folder, Turns(self._random)) if is_in_cloud else None

    def live(self) -> None:
        """Live it.

        Raises:
            Broken: a promise is broken.
        """
        with self._sandbox, self._cloud or nullcontext():
            sync = TRACK.format(more="") + MORE.format(url=self._sandbox.url)
            sync += (ENGINE if self._has_engine else "") + (IN_CLOUD if self._cloud else "")
            (self._folder / "life.yml").write_text(sync, encoding="utf-8")
            for _ in range(self._random.randint(3, 5)):
                most = self._random.choice([50, 1_000, 6_000]) if self._history.current else 6_000
                self._history.change(self._random, most)
                self._load()
                self._run_with_a_fault()
            self._end()
        counts = self._sandbox.summary()
        failed = [one.status for one in self._sandbox.requests if one.status != 200]
        self.record.faults.update(f"answer: {status or 'answer lost'}" for status in failed)
        self.record.counts.update(
            lives=1, requests=counts["requests"], calls=counts["accepted"], repeats=counts["duplicates"]
        )
        self.record.counts.update({"engines": self._has_engine, "in buckets": self._cloud is not None})

    def _load(self) -> None:
        rows = [
            {"id": key, "owner": row.owner, "version": row.version, "note": row.note}
            for key, row in self._history.current.items()
        ]
        with duckdb.connect(self._folder / "shop.duckdb") as db:
            db.register("loaded", pa.Table.from_pylist(rows, schema=SCHEMA))
            db.execute("CREATE OR REPLACE TABLE users AS FROM loaded")

    def _run_with_a_fault(self) -> None:
        if self._random.random() < 0.7:  # else the lease of a killed run may keep this one out
            self._end_lease()
        kind = self._random.choice(["SIGKILL", "SIGKILL", *FAULTS])
        room = self._random.randint(300_000, 2_000_000) if kind == "short disk" else None
        process = self._start(room)
        other = self._start() if kind == "two" else None
        if kind.startswith("SIG"):
            time.sleep(self._random.uniform(0.2, 4.0))
            process.send_signal(signal.Signals[kind])
        self._finish(process, kind)
        if other is not None:
            self._finish(other, kind)
        self.record.faults[f"process: {FAULTS[kind]}"] += 1

    def _start(self, room: int | None = None) -> subprocess.Popen[str]:
        def limit() -> None:
            if room is not None:
                resource.setrlimit(resource.RLIMIT_FSIZE, (room, room))

        self.record.counts["runs"] += 1
        variables = {} if self._cloud is None else {**self._cloud.settings, "TMPDIR": str(self._folder)}
        return subprocess.Popen(
            [sys.executable, "-m", "retl", "run", "life.yml", "--deadline", "60s"],
            cwd=self._folder,
            env={
                **os.environ,
                **variables,
                "PYTHONPATH": os.pathsep.join(sys.path),
                "SEGMENT_WRITE_KEY": "a write key",
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            preexec_fn=limit,
        )

    def _finish(self, process: subprocess.Popen[str], kind: str) -> int:
        said, _ = process.communicate(timeout=120)
        self._trace(f"{kind}: exit {process.returncode}: {said[-300:]}")
        if process.returncode == 70 or "Traceback" in said:
            raise Broken(WRONG, f"a bug after {kind}: {said[-2_000:]}")
        return process.returncode

    def _end(self) -> None:
        self._sandbox.failures = Failures()
        for _ in range(MOST_RUNS_TO_END):
            self._end_lease()
            if self._finish(self._start(), "no fault") == 0:
                break
        else:
            raise Broken(LOST, f"{MOST_RUNS_TO_END} runs did not deliver all")
        before = self._sandbox.summary()["requests"]
        self._finish(self._start(), "no change")
        if self._sandbox.summary()["requests"] != before:
            raise Broken(FLOOD, "a run without changes sent calls")
        accepted = self._sandbox.accepted
        with self._looked_at() as state:
            needed = snapshot_table(state)
            left = state.db.execute(
                "SELECT (SELECT count(*) FROM state.outbox) + (SELECT count(*) FROM state.rejected_call)"
            ).fetchall()
        if left != [(0,)] or self._sandbox.discarded:
            raise Broken(LOST, f"{left} calls are left, {len(self._sandbox.discarded)} were thrown away")
        check_ways(self._history, accepted, [])
        check_order(accepted)
        tables = self._tables() - {needed.name if needed else None}
        if len(tables) > (self._cloud is not None):  # which keeps the one of before until the next run
            raise Broken(LEFT, f"in the warehouse are {sorted(map(str, tables))}, which no state needs")

    def _end_lease(self) -> None:
        """Let the lease of a killed run, where there is one, have run out."""
        if self._cloud is not None:
            self._cloud.end_lease()

    @contextmanager
    def _looked_at(self) -> Iterator[State]:
        """The state, when no process works with it."""
        if self._cloud is None:
            with open_state(self._folder / "state" / "life.duckdb", "life") as state:
                yield state
            return
        storage = self._cloud.machine(Turns(self._random)).storage("life.duckdb")
        with storage.look(NOON), open_state(storage.path, "life") as state:
            yield state

    def _tables(self) -> set[str | None]:
        """The tables of retl's in the warehouse."""
        with duckdb.connect(self._folder / "shop.duckdb", read_only=True) as db:
            found = db.execute("SELECT table_name FROM duckdb_tables() WHERE schema_name = 'retl'").fetchall()
        return {name for (name,) in found}
