"""The sink that all runs of the bench send to: a process that counts calls and keeps nothing."""

import hashlib
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import urllib3

from bench.process import bare_environment
from bench.venvs import VENVS

SOURCE = Path(__file__).with_name("sink.c")


@dataclass(frozen=True)
class Counts:
    """All that arrived since the counts were zero.

    Attributes:
        requests: how many POSTs.
        calls: how often `"messageId"` stood in their bodies.
        distinct: how many different message ids; None where the sink does not tell them apart.
        bytes: of all bodies, as they came.
        cpu_s: CPU seconds of the sink.
    """

    requests: int
    calls: int
    distinct: int | None
    bytes: int
    cpu_s: float


@dataclass(frozen=True)
class Sink:
    """A sink that listens.

    Attributes:
        url: where to post to; any path will do.
        language: what it is written in.
    """

    url: str
    language: str

    def reset(self) -> None:
        """Put all counts back to zero."""
        urllib3.request("DELETE", self.url, retries=False)

    def counts(self) -> Counts:
        """All that arrived since the last reset."""
        return Counts(**urllib3.request("GET", self.url, retries=False).json())


@cache
def compiled() -> Path | None:
    """The sink in C, compiled once for each version of its source; None without a compiler or zlib."""
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    program = VENVS / f"bench-sink-{hashlib.sha256(SOURCE.read_bytes()).hexdigest()[:12]}"
    if not sys.platform.startswith("linux") or (compiler is None and not program.exists()):
        return None
    if not program.exists():
        VENVS.mkdir(exist_ok=True)
        command = [str(compiler), "-O2", "-o", str(program), str(SOURCE), "-lz"]
        if subprocess.run(command, capture_output=True, check=False).returncode:
            return None
    return program


@contextmanager
def running_sink(latency_ms: int = 0, in_python: bool = False) -> Iterator[Sink]:
    """A sink in processes of its own.

    Args:
        latency_ms: how long each answer waits.
        in_python: take the one in Python even where the one in C can be compiled.
    """
    program = None if in_python else compiled()
    command = [str(program)] if program else [sys.executable, "-m", "bench.sink_server"]
    pipe = subprocess.PIPE
    process = subprocess.Popen(
        [*command, str(latency_ms)], env=bare_environment(), stdin=pipe, stdout=pipe, text=True
    )
    assert process.stdin
    assert process.stdout
    try:
        url = f"http://127.0.0.1:{int(process.stdout.readline())}"
        yield Sink(url, "C" if program else "Python")
    finally:
        process.stdin.close()
        process.wait(timeout=30)
        process.stdout.close()
