"""What a process took: wall seconds, CPU seconds of it and its children, and the most memory it held."""

import os
import platform
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

CHECKOUT = str(Path(__file__).parent.parent)
SAMPLE_SECONDS = 0.05
CHILDREN, HELD, MOST_HELD = "/proc/{0}/task/{0}/children", r"VmRSS:\s+(\d+) kB", r"VmHWM:\s+(\d+) kB"
TICKS = os.sysconf("SC_CLK_TCK") if hasattr(os, "sysconf") else 100


def machine() -> str:
    """The machine in words."""
    try:
        model = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text(encoding="utf-8"))
    except OSError:
        model = None
    name = model[1] if model else platform.processor() or platform.machine()
    try:
        memory = f", {os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') / 2**30:.0f} GB"
    except (ValueError, OSError):
        memory = ""
    return f"{os.cpu_count()} cores ({name}){memory}, {platform.system()}"


@dataclass(frozen=True)
class Usage:
    """What a process took.

    Attributes:
        wall_s: from launch to exit.
        cpu_s: of itself and its children.
        peak_mb: the most memory that it and its children held at one time.
    """

    wall_s: float
    cpu_s: float
    peak_mb: float


@dataclass(frozen=True)
class Ended:
    """A process that has ended.

    Attributes:
        code: its exit code; negative for a signal.
        out: its stdout.
        err: the end of its stderr.
        usage: what it took.
    """

    code: int
    out: str
    err: str
    usage: Usage


def bare_environment() -> dict[str, str]:
    """The environment less whatever would change a run, and with all telemetry off."""
    others = re.compile("RETL_|PYTHON|VIRTUAL_ENV$|.*_proxy$", re.IGNORECASE)
    plain = {name: value for name, value in os.environ.items() if not others.match(name)}
    silent = {"DO_NOT_TRACK": "1", "RUNTIME__DLTHUB_TELEMETRY": "false"}
    quiet = {"RUNTIME__LOG_LEVEL": "ERROR", "RETL_LOG_LEVEL": "error"}
    return {**plain, **silent, **quiet, "PYTHONPATH": CHECKOUT, "SEGMENT_WRITE_KEY": "bench"}


def read(path: str) -> str:
    """The text of a file of /proc; empty where there is none."""
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def tree(pid: int) -> Iterator[int]:
    """A process and all below it."""
    yield pid
    for child in read(CHILDREN.format(pid)).split():
        yield from tree(int(child))


def kilobytes(pid: int, pattern: str) -> int:
    """A figure of a process's memory."""
    found = re.search(pattern, read(f"/proc/{pid}/status"))
    return int(found[1]) if found else 0


def cpu_seconds(pid: int) -> float:
    """CPU seconds of a process, of its children that live, and of those that it waited for."""
    total = 0
    for one in tree(pid):
        fields = read(f"/proc/{one}/stat").rpartition(")")[2].split()
        total += sum(map(int, fields[11:15]))
    return total / TICKS


class MemoryWatch(threading.Thread):
    """Looks at a process's memory until it is stopped.

    What `wait4` says of memory would begin with that of the bench, from which the process was forked.
    """

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self._pid, self._stop_now, self.peak_kb = pid, threading.Event(), 0

    def run(self) -> None:
        """Look, and wait a little."""
        while not self._stop_now.wait(SAMPLE_SECONDS):
            processes = list(tree(self._pid))
            together = sum(kilobytes(one, HELD) for one in processes)
            self.peak_kb = max(self.peak_kb, together, kilobytes(self._pid, MOST_HELD))

    def stop(self) -> None:
        """End the looking."""
        self._stop_now.set()
        self.join()


def run_process(command: list[str], folder: Path, limit_seconds: float) -> Ended:
    """Run a process to its end; one that lives too long is killed."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        launched = time.monotonic()
        process = subprocess.Popen(command, cwd=folder, env=bare_environment(), stdout=out, stderr=err)
        watch = MemoryWatch(process.pid)
        watch.start()
        killer = threading.Timer(limit_seconds, process.kill)
        killer.start()
        _, status, resources = os.wait4(process.pid, 0)
        wall = time.monotonic() - launched
        killer.cancel()
        watch.stop()
        process.returncode = os.waitstatus_to_exitcode(status)
        texts = []
        for stream in (out, err):
            stream.seek(0)
            texts.append(stream.read().decode(errors="replace"))
    peak_kb = watch.peak_kb or resources.ru_maxrss / (1024 if sys.platform == "darwin" else 1)
    usage = Usage(wall, resources.ru_utime + resources.ru_stime, peak_kb * 1024 / 1e6)
    return Ended(process.returncode, texts[0], texts[1][-2000:], usage)
