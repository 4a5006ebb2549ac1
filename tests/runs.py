"""Runs of a sync of 50 users, each in a process of its own."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

SYNC = """\
sql: SELECT 'u' || n AS id, n FROM range(50) AS t (n)
warehouse: "duckdb://"
primary_key: id
identify: {{user_id: id, traits: {{n: n}}}}
segment: {{endpoint: "{url}", events_per_second: 0}}
"""
"""The sync, for a Segment at a URL."""


def write_sync(folder: Path, url: str, more: str = "") -> Path:
    """Make a project of a folder, with the sync and more keys of it; gives the folder."""
    (folder / "users.yml").write_text(SYNC.format(url=url) + more)
    return folder


def start(project: Path, *options: str, **env: str) -> subprocess.Popen[str]:
    """A run; `env` are variables of its environment."""
    return subprocess.Popen(
        [sys.executable, "-m", "retl", "run", "users.yml", *options],
        cwd=project,
        env={**os.environ, "SEGMENT_WRITE_KEY": "key", **env},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def until(happened: Callable[[], bool]) -> None:
    """Come back when something has happened in another process."""
    while not happened():
        os.sched_yield()
