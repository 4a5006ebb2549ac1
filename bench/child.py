"""What the bench starts in a process of its own: a `retl run` under a stopwatch, or a bare read.

`python -m bench.child run|read REPORT LAUNCHED SYNC`: the report goes into the file REPORT as JSON;
LAUNCHED is when the bench started this process, on the monotonic clock, which all processes share.

The stopwatch sits around the functions that tell the story of a run; retl knows nothing of it. At any
moment exactly one stage is running, so the stages add up to the whole.
"""

import json
import re
import resource
import sys
import time
from importlib import import_module
from pathlib import Path
from typing import Any

from retl.__main__ import main as command_line
from retl.engine.mapping import read_mapping
from retl.session import find_sessions

STEPS: tuple[tuple[str, str, str | None], ...] = (
    ("retl.launch:run", "the rest", "the rest"),
    ("retl.engine.local:stage", "read", None),
    ("retl.engine.diff:diff", "diff", None),
    ("retl.pipeline:make_calls", "render", None),
    ("retl.delivery.outbox:enqueue", "enqueue", "commit"),
    ("retl.engine.local:LocalEngine.promote", "promote", "enqueue"),
    ("retl.pipeline:deliver", "deliver", "the rest"),
    ("retl.delivery.outbox:settle", "settle", "settle"),
    ("retl.delivery.outbox:lanes", "settle", "deliver"),
    ("retl.state:State.__exit__", "close", None),
)
"""A function, its stage, and the stage after it where that is not the one before. A test looks for each."""

STAGES = ("start-up", "read", "diff", "render", "enqueue", "promote", "commit", "deliver", "settle", "close")
"""In the order of a run; what there is besides is the rest."""


class Stopwatch:
    """Wall seconds by stage."""

    def __init__(self, began: float) -> None:
        self.seconds = dict.fromkeys((*STAGES, "the rest"), 0.0)
        self._stage, self._began = "start-up", began

    def turn(self, stage: str) -> str:
        """Begin a stage; returns the one that ends."""
        now, ended = time.monotonic(), self._stage
        self.seconds[ended] += now - self._began
        self._stage, self._began = stage, now
        return ended

    def watch(self, owner: Any, name: str, stage: str, then: str | None) -> None:
        """Make each call of a function a stage."""
        plain = getattr(owner, name)

        def watched(*args: Any, **kwargs: Any) -> Any:
            before = self.turn(stage)
            try:
                return plain(*args, **kwargs)
            finally:
                self.turn(then or before)

        setattr(owner, name, watched)


def find_function(where: str) -> tuple[Any, str]:
    """The module or class that a function is looked up in when it is called, and its name there."""
    module, _, path = where.partition(":")
    owner: Any = import_module(module)
    *classes, name = path.split(".")
    for one in classes:
        owner = getattr(owner, one)
    return owner, name


def retl_run(stopwatch: Stopwatch, sync: str) -> None:
    """Be `retl run SYNC --json`."""
    for where, stage, then in STEPS:
        stopwatch.watch(*find_function(where), stage, then)
    sys.argv = ["retl", "run", sync, "--json"]
    command_line()


def bare_read(stopwatch: Stopwatch, sync: str) -> None:
    """Stream the rows that a run would read, and throw them away."""
    (session,) = find_sessions([sync], None, rehearsal=False)
    columns = read_mapping(session.sync).columns
    stopwatch.turn("read")
    with session.open_warehouse() as warehouse:
        print(sum(batch.num_rows for batch in warehouse.read(session.model, columns)))


def peak_mb() -> float:
    """The most memory that this process held; on Linux `ru_maxrss` would begin with the parent's."""
    status = Path("/proc/self/status")
    if status.exists() and (found := re.search(r"VmHWM:\s+(\d+) kB", status.read_text())):
        return int(found[1]) / 1000
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e6 if sys.platform == "darwin" else 1e3)


def main(what: str, report: str, launched: str, sync: str) -> None:
    """Do it, and report however it ends."""
    stopwatch = Stopwatch(float(launched))
    try:
        (retl_run if what == "run" else bare_read)(stopwatch, sync)
    finally:
        stopwatch.turn("the rest")
        said = {"stages": stopwatch.seconds, "peak_mb": peak_mb(), "cpu_s": time.process_time()}
        Path(report).write_text(json.dumps(said), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
