"""The peers that the bench knows, and a measured step of one."""

import json
import re
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import duckdb

from bench.peers.task import DELTA, FIRST, NOTHING, PATH, PREPARE, STATE, Task
from bench.process import Ended, run_process
from bench.shop import Shop, changes
from bench.sink import Sink
from bench.venvs import NotInstalledError, python_of

LIMIT_SECONDS = 3600
"""No step lives longer."""

SLOW_SECONDS = 40
"""A peer whose steps take longer together is measured once."""

ALL_STEPS = (FIRST, NOTHING, DELTA)


@dataclass(frozen=True)
class Peer:
    """One way to do the work.

    Attributes:
        name: on the command line and in the results.
        title: in tables and the chart.
        module: in `bench.peers`.
        variant: for a module that knows several ways.
        about: what it does, for the page.
        packages: what pip installs for it; none for retl, which runs from the environment of the bench.
        warehouses: those that it can do the work for.
        steps: those that it can do; without a diff there is a first run alone.
        sends: whether it posts calls.
        bare: whether it is a limit, not a way to do the whole work.
        command: arguments of Python instead of the module, for a measured step.
    """

    name: str
    title: str
    module: str
    variant: str = ""
    about: str = ""
    packages: tuple[str, ...] = ()
    warehouses: tuple[str, ...] = ("duckdb", "postgres")
    steps: tuple[str, ...] = ALL_STEPS
    sends: bool = True
    bare: bool = False
    command: tuple[str, ...] = ()

    def python(self) -> Path:
        """The Python that it runs in, installed when first asked for.

        Raises:
            NotInstalledError: its packages cannot be installed here.
        """
        if not self.packages:
            return Path(sys.executable)
        return python_of(re.split(r"\W", self.packages[0])[0], self.packages)

    def expected(self, step: str, rows: int) -> int:
        """How many calls a step must deliver."""
        if not self.sends:
            return 0
        return {FIRST: rows, NOTHING: 0, DELTA: changes(rows)}[step]


DUCKDB = f"duckdb=={duckdb.__version__}"
"""The same DuckDB everywhere: the one that retl runs with."""

SCRIPT = (
    "segment-analytics-python==2.4.0",
    "pandas>=3.1,<4",
    "pyarrow>=26,<27",
    "sqlalchemy>=2.1,<3",
    "psycopg[binary]>=3.3,<4",
    DUCKDB,
)
DRT = ("drt-core[duckdb,postgres]==1.2.1", DUCKDB)
DLT = (
    "dlt[duckdb,sql-database]==1.31.0",
    "pandas>=3.1,<4",
    "pyarrow>=26,<27",
    "psycopg2-binary>=2.9",
    "requests>=2.34,<3",
    DUCKDB,
)
BARE = ("adbc-driver-postgresql>=1.13,<2", "adbc-driver-manager>=1.13,<2", "pyarrow>=26,<27", DUCKDB)

PEERS = (
    Peer(
        "retl",
        "retl",
        "retl",
        about="`retl run users`, with its defaults but for `events_per_second: 0`",
        command=("-m", "retl", "run", "users", "--json"),
    ),
    Peer(
        "bare-read",
        "the bare read",
        "bare_read",
        about="all columns as Arrow, thrown away: by ADBC from Postgres, by the same SELECT from DuckDB",
        packages=BARE,
        steps=(FIRST,),
        sends=False,
        bare=True,
    ),
    Peer(
        "bare-post",
        "the bare post",
        "bare_post",
        about="ready bodies of 475 kB over kept-alive connections: as much as the sink takes",
        packages=BARE,
        steps=(FIRST,),
        bare=True,
    ),
    Peer(
        "drt",
        "drt-core, batch mode",
        "drt",
        "batch",
        "its `rest_api` destination with 800 calls in a request, without its limit of ten requests a second; "
        "sends all users each time",
        DRT,
        steps=(FIRST,),
    ),
    Peer(
        "drt-diff",
        "drt-core, diff",
        "drt",
        "diff",
        "compares in Postgres, and keeps a copy of the users there; works for Postgres alone, and needs a "
        "destination of one's own, as `rest_api` cannot take part",
        DRT,
        warehouses=("postgres",),
    ),
    Peer(
        "dlt",
        "dlt, custom destination",
        "dlt",
        "plain",
        "batches of 800 as Parquet, where its documentation has ten; sends all users each time",
        DLT,
        steps=(FIRST,),
    ),
    Peer(
        "dlt-scd2",
        "dlt, scd2",
        "dlt",
        "scd2",
        "loads the users into a history in DuckDB, and posts what the last load opened or closed there, by "
        "SQL of one's own",
        DLT,
    ),
    Peer(
        "script-tuned",
        "script, tuned",
        "script",
        "tuned",
        "the script below with two threads, 800 calls in a batch, and a queue of 50,000",
        SCRIPT,
    ),
    Peer(
        "script-safe",
        "script, safe",
        "script",
        "safe",
        "pandas, a Parquet snapshot to compare with, and `segment-analytics-python` as it comes, but waiting "
        "while its queue is full: plain use loses most of the calls without a word",
        SCRIPT,
    ),
)


def find_peer(name: str) -> Peer:
    """A peer by its name."""
    return next(peer for peer in PEERS if peer.name == name)


@dataclass(frozen=True)
class Measured:
    """One step of one peer, measured once.

    Attributes:
        wall_s: seconds from launch to exit.
        cpu_s: CPU seconds of the peer and its children.
        peak_mb: the most memory that they held.
        warehouse_cpu_s: CPU seconds of the warehouse's own processes, where it has any.
        sink_cpu_s: CPU seconds of the sink.
        requests: how many came to the sink.
        sent_mb: bytes of their bodies, in millions.
        expected: how many calls should have come.
        arrived: how many came.
        distinct: how many different message ids they had, if the sink tells.
        state_mb: what the peer keeps for the next run, in millions of bytes.
        problem: why there are no figures, or what is wrong with them; None where all is well.
    """

    wall_s: float
    cpu_s: float
    peak_mb: float
    warehouse_cpu_s: float | None
    sink_cpu_s: float
    requests: int
    sent_mb: float
    expected: int
    arrived: int
    distinct: int | None
    state_mb: float | None
    problem: str | None


def last_json(text: str) -> dict[str, Any]:
    """The last line of a text that is a JSON object; empty where none is."""
    for line in reversed(text.splitlines()):
        if line.startswith("{"):
            try:
                found = json.loads(line)
            except ValueError:
                continue
            if isinstance(found, dict):
                return found
    return {}


def folder_bytes(folder: Path) -> int:
    """The size of all files below a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def start(peer: Peer, task: Task, folder: Path, command: tuple[str, ...] = ()) -> Ended:
    """Run a step of a peer in its folder."""
    (folder / PATH).write_text(json.dumps(asdict(task)), encoding="utf-8")
    arguments = command or ("-m", f"bench.peers.{peer.module}")
    return run_process([str(peer.python()), *arguments], folder, LIMIT_SECONDS)


def prepare(peer: Peer, shop: Shop, sink: Sink, rows: int, latency_ms: int, folder: Path) -> None:
    """Write a peer's files into an empty folder, and forget all that it knew.

    Raises:
        NotInstalledError: the peer's packages cannot be installed, or do not work here.
    """
    shop.forget_peers()
    folder.mkdir()
    task = Task(PREPARE, shop.kind, shop.url, sink.url, rows, latency_ms, peer.variant)
    ended = start(peer, task, folder)
    if ended.code:
        raise NotInstalledError(ended.err.strip().rpartition("\n")[2] or f"exit code {ended.code}")


def measure(
    peer: Peer, shop: Shop, sink: Sink, rows: int, latency_ms: int, step: str, folder: Path
) -> Measured:
    """Measure one step of a peer, and see that exactly the expected calls arrived."""
    shop.show(2 if step == DELTA else 1)
    sink.reset()
    before = shop.cpu_s()
    task = Task(step, shop.kind, shop.url, sink.url, rows, latency_ms, peer.variant)
    ended = start(peer, task, folder, peer.command)
    after, counts = shop.cpu_s(), sink.counts()
    expected, problem = peer.expected(step, rows), None
    if ended.code:
        problem = f"exit code {ended.code}: {ended.err.strip().rpartition(chr(10))[2]}"
    elif counts.calls != expected:
        problem = f"{counts.calls:,} calls arrived instead of {expected:,}"
    elif counts.distinct not in (None, expected) and not peer.bare:
        problem = f"{counts.distinct:,} different calls arrived instead of {expected:,}"
    state = last_json(ended.out).get("state_bytes") or folder_bytes(folder / STATE)
    return Measured(
        wall_s=ended.usage.wall_s,
        cpu_s=ended.usage.cpu_s,
        peak_mb=ended.usage.peak_mb,
        warehouse_cpu_s=None if before is None or after is None else after - before,
        sink_cpu_s=counts.cpu_s,
        requests=counts.requests,
        sent_mb=counts.bytes / 1e6,
        expected=expected,
        arrived=counts.calls,
        distinct=counts.distinct,
        state_mb=state / 1e6 or None,
        problem=problem,
    )
