"""`python -m bench.sandbox` measures how many calls a second `retl sandbox` takes."""

import base64
import http.client
import json
import subprocess
import sys
import threading
import time
from collections.abc import Sequence

import click
from rich.console import Console
from rich.table import Table

from bench.process import bare_environment, cpu_seconds, kilobytes

BATCH = 900
"""Calls in a request: as many of these as fit into it."""

HEADERS = {
    "Authorization": "Basic " + base64.b64encode(b"key:").decode(),
    "Content-Type": "application/json",
    "X-Retl-Sync": "users",
    "X-Retl-Run": "run",
}


def identify(number: int) -> dict[str, object]:
    """A call of some 400 bytes."""
    traits = {
        "name": f"Jane Doe {number}",
        "email": f"jane.{number}@example.com",
        "plan": "pro",
        "mrr": 12.5 + number % 7,
        "seats": number % 40,
        "country": "PT",
        "is_active": True,
        "signed_up_at": "2025-02-03T04:05:06.000Z",
        "settings": {"theme": "dark", "language": "pt"},
    }
    return {
        "type": "identify",
        "userId": f"user-{number}",
        "messageId": f"retl-{number:032x}",
        "timestamp": "2026-01-02T03:04:05.123Z",
        "traits": traits,
        "context": {"library": {"name": "retl", "version": "1"}},
    }


def bodies(calls: int) -> list[bytes]:
    """So many calls, in requests as large as Segment allows."""
    return [
        json.dumps(
            {
                "batch": [identify(one) for one in range(first, first + BATCH)],
                "sentAt": "2026-01-02T03:04:06.000Z",
            },
            separators=(",", ":"),
        ).encode()
        for first in range(0, calls, BATCH)
    ]


def post(port: int, requests: Sequence[bytes]) -> None:
    """Post requests over one connection, each after the answer to the one before."""
    connection = http.client.HTTPConnection("127.0.0.1", port)
    for body in requests:
        connection.request("POST", "/v1/batch", body, HEADERS)
        answer = connection.getresponse()
        answer.read()
        if answer.status != 200:
            raise click.ClickException(f"the sandbox answered {answer.status}")
    connection.close()


def summary(port: int) -> dict[str, int]:
    """What the sandbox counted."""
    connection = http.client.HTTPConnection("127.0.0.1", port)
    connection.request("GET", "/summary.json")
    found: dict[str, int] = json.loads(connection.getresponse().read())
    return found


def measure(requests: Sequence[bytes], connections: int) -> tuple[float, float, float]:
    """Calls a second, microseconds of CPU for each, and the most megabytes of memory."""
    command = [sys.executable, "-m", "retl", "sandbox", "--port", "0", "--json"]
    with subprocess.Popen(command, env=bare_environment(), stdout=subprocess.PIPE) as sandbox:
        try:
            assert sandbox.stdout is not None
            port = int(json.loads(sandbox.stdout.readline())["url"].rpartition(":")[2])
            cpu, began = cpu_seconds(sandbox.pid), time.monotonic()
            lanes = [
                threading.Thread(target=post, args=(port, requests[lane::connections]))
                for lane in range(connections)
            ]
            for lane in lanes:
                lane.start()
            for lane in lanes:
                lane.join()
            seconds, cpu = time.monotonic() - began, cpu_seconds(sandbox.pid) - cpu
            calls = len(requests) * BATCH
            if (accepted := summary(port)["accepted"]) != calls:
                raise click.ClickException(f"{accepted} of {calls} calls arrived")
            return calls / seconds, cpu / calls * 1e6, kilobytes(sandbox.pid, r"VmHWM:\s+(\d+)") / 1e3
        finally:
            sandbox.terminate()


@click.command()
@click.option("--calls", type=click.IntRange(min=BATCH), default=200_000, help="To send. [default: 200000]")
def main(calls: int) -> None:
    """Post calls to a sandbox over 1, 2, 4 and 8 connections; all have to arrive."""
    requests = bodies(calls)
    table = Table("connections", "calls/s", "CPU µs a call", "peak MB")
    for connections in (1, 2, 4, 8):
        rate, cpu, peak = measure(requests, connections)
        table.add_row(str(connections), f"{rate:,.0f}", f"{cpu:.1f}", f"{peak:,.0f}")
    Console().print(table)


if __name__ == "__main__":
    main()
