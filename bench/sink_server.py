"""The sink where there is no C compiler: as `sink.c`, in several processes; it does not tell ids apart.

`python -m bench.sink_server LATENCY_MS` prints its port, and ends when its stdin is closed.
"""

import asyncio
import json
import mmap
import os
import re
import signal
import socket
import struct
import sys
import time
import zlib

LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
GZIP = re.compile(rb"\r\ncontent-encoding: *gzip", re.IGNORECASE)
COUNTS = struct.Struct("QQQdd")
"""Of one process: requests, calls, bytes, CPU seconds now, CPU seconds when the counts were last zero."""
PROCESSES = 2

shared = mmap.mmap(-1, COUNTS.size * PROCESSES)
"""The counts of all processes, each of which writes its own."""


def counts_of(process: int) -> tuple[int, int, int, float, float]:
    """The counts of one process."""
    requests, calls, size, cpu, before = COUNTS.unpack_from(shared, process * COUNTS.size)
    return requests, calls, size, cpu, before


def add(process: int, body: bytes, gzipped: bool) -> None:
    """Count a body."""
    requests, calls, size, _, before = counts_of(process)
    found = zlib.decompress(body, 31) if gzipped else body
    calls += found.count(b'"messageId"')
    now = (requests + 1, calls, size + len(body), time.process_time(), before)
    COUNTS.pack_into(shared, process * COUNTS.size, *now)


def forget() -> None:
    """Put all counts back to zero."""
    for process in range(PROCESSES):
        cpu = counts_of(process)[3]
        COUNTS.pack_into(shared, process * COUNTS.size, 0, 0, 0, cpu, cpu)


def told() -> bytes:
    """The counts of all processes together, as JSON."""
    requests, calls, size, cpu, before = map(sum, zip(*map(counts_of, range(PROCESSES)), strict=True))
    said = {"requests": requests, "calls": calls, "distinct": None, "bytes": size, "cpu_s": cpu - before}
    return json.dumps(said).encode()


class Connection(asyncio.Protocol):
    """A kept-alive connection: a POST is counted, a GET is told the counts, a DELETE sets them to zero."""

    def __init__(self, process: int, latency: float) -> None:
        self._process, self._latency = process, latency
        self._got, self._body, self._end, self._gzip = bytearray(), 0, 0, False

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client is there."""
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Answer a request once it is whole; the next one comes after the answer."""
        self._got += data
        if not self._end and (head := self._got.find(b"\r\n\r\n")) >= 0:
            length = LENGTH.search(self._got, 0, head)
            self._gzip = bool(GZIP.search(self._got, 0, head))
            self._body = head + 4
            self._end = self._body + (int(length[1]) if length else 0)
        if not self._end or len(self._got) < self._end:
            return
        if self._got.startswith(b"GET "):
            self.say(told())
        elif self._got.startswith(b"DELETE "):
            forget()
            self.say(b"{}")
        else:
            add(self._process, bytes(memoryview(self._got)[self._body : self._end]), self._gzip)
            if self._latency:
                asyncio.get_running_loop().call_later(self._latency, self.say, b'{"success":true}')
            else:
                self.say(b'{"success":true}')
        self._got, self._end = bytearray(), 0

    def say(self, text: bytes) -> None:
        """Answer with 200."""
        head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(text)
        self._transport.write(head + text)


async def serve(listener: socket.socket, process: int, latency: float) -> None:
    """Take connections for as long as the process lives."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Connection(process, latency), sock=listener, backlog=512)
    await server.serve_forever()


def main(latency_ms: str) -> None:
    """Listen on a free port of 127.0.0.1 until stdin is closed."""
    with socket.create_server(("127.0.0.1", 0), backlog=512) as listener:
        children = []
        for process in range(PROCESSES):
            child = os.fork()
            if not child:
                asyncio.run(serve(listener, process, int(latency_ms) / 1000))
            children.append(child)
        print(listener.getsockname()[1], flush=True)
        sys.stdin.read()
        for child in children:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)


if __name__ == "__main__":
    main(sys.argv[1])
