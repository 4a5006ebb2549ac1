"""Servers of others, each a process that is ended in the end."""

import os
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Thread

START_SECONDS = 120
"""The time that a server has to start."""

END_SECONDS = 30
"""The time that it has to end."""


@contextmanager
def running(
    command: Sequence[str | Path], said: bytes, folder: Path, env: Mapping[str, str]
) -> Iterator[None]:
    """A server, from the line on in which it says that it has started.

    Args:
        command: that starts it.
        said: words of that line.
        folder: where it works, and where its log is.
        env: variables of its environment, besides those of this process.
    """
    server = subprocess.Popen(
        command, cwd=folder, env={**os.environ, **env}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    started, log = Event(), folder / "server.log"
    Thread(target=_read_log, args=[server, said, started, log], daemon=True).start()
    try:
        assert started.wait(START_SECONDS) and server.poll() is None, log.read_text()[-4000:]
        yield
    finally:
        server.terminate()
        try:
            server.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            server.kill()


def _read_log(server: subprocess.Popen[bytes], said: bytes, started: Event, file: Path) -> None:
    """Keep a server's log, and tell when it has started; or that it will not."""
    assert server.stdout is not None
    with server.stdout as lines, file.open("wb", buffering=0) as log:
        for line in lines:
            log.write(line)
            if said in line:
                started.set()
    started.set()
