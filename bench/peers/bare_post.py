"""The bare post: ready bodies of full size over kept-alive connections. No delivery can be quicker.

The bodies are all alike, so the sink finds fewer message ids in them than calls.
"""

import http.client
import json
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from itertools import count
from urllib.parse import urlparse

from bench.peers.task import PREPARE, Task, identify, read_task, say

BODY_BYTES = 475_000
CONNECTIONS = {False: 4, True: 16}
"""How many, without latency and with it."""

USER = {
    "user_id": "user-00000000",
    "email": "9410a95d.00000000@mail.example.com",
    "name": "Björn Name-44670",
    "city": "São Paulo",
    "country": "BR",
    "plan": "team",
    "balance": 3814.81,
    "score": 81714.428571428,
    "active": True,
    "created_at": datetime(2024, 12, 8, 7, 58, 15, 809000, UTC),
    "preferences": {"news": True, "theme": "light", "visits": 9},
}


def body_of(calls: int) -> bytes:
    """A body with so many calls."""
    call = identify(USER)
    batch = [{**call, "messageId": f"retl-{number:032x}"} for number in range(calls)]
    return json.dumps({"batch": batch}, ensure_ascii=False, separators=(",", ":")).encode()


def post_all(task: Task) -> int:
    """Post bodies until all users are covered; returns how many calls were answered with 200."""
    size = BODY_BYTES * 100 // len(body_of(100))
    full, numbers, last = body_of(size), count(), task.rows // size
    rest = body_of(task.rows - last * size)

    def post_some() -> int:
        connection, delivered = http.client.HTTPConnection(urlparse(task.endpoint).netloc), 0
        while (number := next(numbers)) <= last:
            connection.request("POST", "/v1/batch", full if number < last else rest)
            answer = connection.getresponse()
            answer.read()
            if answer.status == 200:
                delivered += size if number < last else task.rows - last * size
        return delivered

    workers = CONNECTIONS[task.latency_ms > 0]
    with ThreadPoolExecutor(workers) as pool:
        return sum(pool.map(lambda _: post_some(), range(workers)))


def main() -> None:
    """Post, and count."""
    task = read_task()
    if task.step != PREPARE:
        say(post_all(task))


if __name__ == "__main__":
    main()
