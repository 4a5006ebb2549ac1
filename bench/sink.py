"""A sink: takes batches, counts them, keeps nothing; prints its port, and ends when its stdin is closed."""

import asyncio
import json
import re
import sys
import time

LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
counts = {"requests": 0, "calls": 0, "bytes": 0}


class Sink(asyncio.Protocol):
    """A kept-alive connection: a POST is counted, a GET is told what was."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A client is there."""
        self._transport, self._got, self._body, self._end = transport, bytearray(), 0, 0

    def data_received(self, data: bytes) -> None:
        """Answer a request once it is whole; the next one comes after the answer."""
        self._got += data
        if not self._end and (head := self._got.find(b"\r\n\r\n")) >= 0:
            length = LENGTH.search(self._got, 0, head)
            self._body = head + 4
            self._end = self._body + (int(length[1]) if length else 0)
        if not self._end or len(self._got) < self._end:
            return
        said = b'{"success": true}'
        if self._got.startswith(b"GET "):
            said = json.dumps({**counts, "cpu_s": time.process_time()}).encode()
        else:
            counts["requests"] += 1
            counts["calls"] += self._got.count(b'"messageId"', self._body)
            counts["bytes"] += self._end - self._body
        self._transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(said), said))
        self._got, self._end = bytearray(), 0


async def serve() -> None:
    """Listen on a free port of 127.0.0.1 until stdin is closed."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Sink, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await loop.run_in_executor(None, sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(serve())
