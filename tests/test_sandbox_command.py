"""`retl sandbox` in a process of its own."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import urllib3
from harness import Retl, runner
from posts import batch, call

from retl.sandbox.standing import (
    announcement_file,
)

ANY = 0
"""A port, for any free one."""

Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give a folder of the test's own, in which sandboxes are announced, too."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def retl(project: Path, capsys: pytest.CaptureFixture[str]) -> Retl:
    """Runs a command in the project; gives exit code, stdout and stderr."""
    return runner(capsys)


@pytest.fixture
def start(project: Path) -> Iterator[Start]:
    """Start `retl sandbox` in a process of its own, which ends with the test at the latest."""
    with ExitStack() as stack:

        def started(*arguments: str) -> subprocess.Popen[str]:
            process = subprocess.Popen(
                [sys.executable, "-m", "retl", "sandbox", *arguments],
                cwd=project,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            stack.enter_context(process)
            stack.callback(process.kill)
            return process

        yield started


def line(process: subprocess.Popen[str]) -> dict[str, Any]:
    """The next line of a process, as JSON."""
    assert process.stdout is not None
    read: dict[str, Any] = json.loads(process.stdout.readline())
    return read


@pytest.mark.thorough
def test_a_sandbox_for_some_seconds(start: Start) -> None:
    """With --seconds it ends by itself, and --json tells the beginning and the end, with the counts."""
    process = start("--port", "0", "--seconds", "0.1", "--json")
    started = line(process)
    out, err = process.communicate(timeout=60)

    url = started["url"]
    told = {"event": "listening", "url": url, "calls": f"{url}/calls.json", "webhooks": []}
    assert {**told, "pid": process.pid} == started
    counts = {"requests": 0, "accepted": 0, "duplicates": 0, "discarded": {}, "webhooks": []}
    assert {"event": "ended", "reason": "seconds", **counts} == json.loads(out)
    assert (0, "") == (process.returncode, err)


def test_a_sandbox_that_nobody_asks_ends(start: Start) -> None:
    """With --idle it ends after so long without a request."""
    out, err = start("--port", "0", "--idle", "0.1", "--json").communicate(timeout=60)

    assert ("idle", "") == (json.loads(out.splitlines()[-1])["reason"], err)


def test_a_sandbox_is_ended_by_another_command(start: Start, retl: Retl) -> None:
    """With --stop the sandbox of a port ends in good order, and its announcement is gone."""
    process = start("--port", "0", "--json")
    url = line(process)["url"]
    port = url.rpartition(":")[2]

    assert (0, f"the sandbox on {url} has ended\n", "") == retl("sandbox", "--stop", "--port", port)
    out, err = process.communicate(timeout=60)
    assert ("stopped", 0, "") == (json.loads(out)["reason"], process.returncode, err)
    assert not announcement_file(int(port)).exists()
    assert f"there is no sandbox of yours for port {port}\n" == retl("sandbox", "--stop", "--port", port)[1]
    assert {"event": "stopped", "url": None} == json.loads(
        retl("sandbox", "--stop", "--json", "--port", port)[1]
    )


@pytest.mark.thorough
def test_a_second_sandbox_on_the_port_says_how_to_end_the_first(start: Start, retl: Retl) -> None:
    """Where a sandbox of the user has the port already, the error says so."""
    process = start("--port", "0", "--json")
    port = line(process)["url"].rpartition(":")[2]

    code, _, err = retl("sandbox", "--port", port)

    assert 2 == code
    assert "retl sandbox --stop ends it" in err
    retl("sandbox", "--stop", "--port", port)
    process.communicate(timeout=60)


@pytest.mark.thorough
def test_what_a_sandbox_keeps_is_bounded(start: Start, http: urllib3.PoolManager, retl: Retl) -> None:
    """With --keep no more calls are held, and it is told how many are gone."""
    process = start("--port", "0", "--keep", "100", "--json")
    url = line(process)["url"]
    body = json.dumps(batch(*(call(f"m{n}") for n in range(250)))).encode()
    http.request("POST", f"{url}/v1/batch", body=body, headers={"Content-Type": "application/json"})

    summary = http.request("GET", f"{url}/summary.json").json()
    assert (250, 250) == (summary["accepted"], summary["held"] + summary["gone"])
    assert 90 <= summary["held"] <= 100
    retl("sandbox", "--stop", "--port", url.rpartition(":")[2])
    process.communicate(timeout=60)


def test_a_sandbox_works_where_it_cannot_be_announced(start: Start) -> None:
    """A runtime folder that is not the user's alone is a notice; `retl sandbox` itself goes on."""
    folder = announcement_file(ANY).parent
    folder.chmod(0o755)
    process = start("--port", "0", "--seconds", "0.1", "--json")
    started = line(process)
    out, err = process.communicate(timeout=60)

    assert started["url"].startswith("http://127.0.0.1:")
    assert "other commands will not find it" in err
    assert ("seconds", 0) == (json.loads(out)["reason"], process.returncode)
    folder.chmod(0o700)


@pytest.mark.thorough
def test_the_address_of_a_sandbox_is_a_page(start: Start, http: urllib3.PoolManager) -> None:
    """Whoever opens the address sees a page, with a view for each receiver; lists are beside it."""
    process = start("--port", "0", "--json")
    url = line(process)["url"]

    kinds = [
        http.request("GET", url + path).headers["Content-Type"]
        for path in ("/", "/receivers/insider", "/receivers/insider.json", "/webhooks.json", "/calls.json")
    ]

    page, told = "text/html; charset=utf-8", "application/json"
    assert [page, page, told, told, told] == kinds
