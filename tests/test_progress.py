"""The progress of a run: bars in a terminal, lines in a pipe, JSON for machines."""

import json
import os
import pty
import re
import struct
import sys
from collections.abc import Iterator
from contextlib import suppress
from fcntl import ioctl
from io import StringIO
from pathlib import Path
from subprocess import Popen
from termios import TIOCSWINSZ
from typing import Any

import pyte
import pytest
from harness import SEGMENT_BY_VARIABLE, Retl, runner, two_syncs
from sqlalchemy.dialects import registry

from retl.cli.bars import Bars
from retl.cli.console import Steady
from retl.cli.log import LogAction
from retl.sandbox.failures import Reply
from retl.sandbox.server import Sandbox

PAGE = (Path(__file__).parent.parent / "docs/logs.md").read_text(encoding="utf-8")
ACTIONS = dict(re.findall(r"^\| `(\w+)` \| \w+ \| ([^|]*)\|", PAGE, re.MULTILINE))
"""The actions of the page, each with its fields."""


class Seconds:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.passed = 0.0

    def __call__(self) -> float:
        """Seconds since the beginning."""
        return self.passed


@pytest.fixture
def retl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Retl:
    """Run commands in a project with two syncs, whose Segment is at SEGMENT."""
    monkeypatch.chdir(two_syncs(tmp_path, SEGMENT_BY_VARIABLE))
    return runner(capsys)


@pytest.fixture
def bars() -> Iterator[tuple[Bars, Seconds]]:
    """Bars of a sync in a terminal of 80 columns."""
    seconds = Seconds()
    shown = Bars("users", Steady(force_terminal=True, width=80, file=StringIO()), seconds)
    yield shown, seconds
    shown.close()


def test_bars_show_each_turn(bars: tuple[Bars, Seconds]) -> None:
    """A terminal shows rows read, the changes, and calls delivered with the rate and the time left."""
    shown, seconds = bars
    shown.reading()
    seconds.passed = 2
    shown.rows_read(412_000)
    assert "users: reading rows, 412,000 so far, 206,000 a second, 2 s" == str(shown.view())
    shown.comparing()
    seconds.passed = 5
    assert "users: comparing 412,000 rows with the last run, 3 s" == str(shown.view())
    shown.diffed(20_000, 300, 12)
    found = "users: 412,000 rows read: 20,000 added, 300 changed, 12 removed"
    assert found == str(shown.view())
    shown.enqueuing()
    assert "users: making calls of the changes, 0 s" == str(shown.view())
    shown.delivering(20_312)
    assert [found, "  " + "─" * 24 + " 0 of 20,312 calls"] == str(shown.view()).splitlines()
    for _ in range(12):
        seconds.passed += 2
        shown.delivered(1_000)

    (_, bar) = str(shown.view()).splitlines()
    assert "  " + "━" * 14 + "─" * 10 + " 12,000 of 20,312 calls, 500 a second, 17 s left" == bar


def test_bars_show_a_wait_and_its_reason(bars: tuple[Bars, Seconds]) -> None:
    """While calls wait, the longest wait is shown with its reason, and no time left that it would belie."""
    shown, seconds = bars
    shown.delivering(10)
    seconds.passed = 1
    shown.delivered(5)
    shown.waiting("Segment asks to wait (429)", 30)
    shown.waiting("503", 1)
    seconds.passed = 4

    lines = str(shown.view()).splitlines()
    assert ["users: " + "━" * 12 + "─" * 12 + " 5 of 10 calls"] == lines[:1]
    assert ["  waiting 27 s: Segment asks to wait (429)"] == lines[1:]
    seconds.passed = 31
    assert 1 == len(str(shown.view()).splitlines())


def test_bars_are_no_wider_than_the_terminal(bars: tuple[Bars, Seconds]) -> None:
    """A long reason is cut at the edge, so that the lines above can be written anew."""
    shown, _ = bars
    shown.waiting("x" * 200, 30)

    (line,) = str(shown.view()).splitlines()
    assert (80, "…") == (len(line), line[-1])


def screens(process: "Popen[bytes]", terminal: int) -> Iterator[str]:
    """What a terminal of 80 columns shows, each time that it is written to."""
    screen = pyte.Screen(80, 24)
    stream = pyte.ByteStream(screen)
    while process.poll() is None:
        stream.feed(os.read(terminal, 65536))
        yield "\n".join(line.rstrip() for line in screen.display if line.strip())


@pytest.mark.thorough
def test_a_run_in_a_terminal(retl: Retl, tmp_path: Path) -> None:
    """In a real terminal of 80 columns a run shows why it waits, and leaves nothing but its error."""
    with Sandbox() as sandbox:
        sandbox.script([Reply(status=503, retry_after=300)])
        terminal, inside = pty.openpty()
        ioctl(inside, TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
        environment = {**os.environ, "SEGMENT": sandbox.url, "TERM": "xterm", "PYTHONUTF8": "1"}
        command = [sys.executable, "-m", "retl", "run", "a"]
        with Popen(command, cwd=tmp_path, env=environment, stdin=inside, stdout=inside, stderr=inside) as run:
            for shown in screens(run, terminal):
                if re.search(r"^  waiting (5 min \d s|4 min \d+ s): Segment asks to wait \(503", shown, re.M):
                    run.terminate()
                    break
        os.close(inside)
        left = os.read(terminal, 65536)
        os.close(terminal)

    assert "a: 1 row read: 1 added, 0 changed, 0 removed" in shown
    assert "─" * 24 + " 0 of 1 call" in shown
    assert b"stopped by a signal" in left
    assert 143 == run.returncode


@pytest.mark.thorough
def test_a_plan_in_a_terminal(retl: Retl, tmp_path: Path) -> None:
    """A plan shows how far it has got, too, and leaves nothing but itself; a log has the same turns."""
    assert ["reading", "comparing", "diffed", "enqueuing"] == [
        line["action"] for line in logged(retl, "plan", "a")
    ]
    terminal, inside = pty.openpty()
    ioctl(inside, TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    environment = {**os.environ, "TERM": "xterm", "PYTHONUTF8": "1"}
    command = [sys.executable, "-m", "retl", "plan", "a"]
    with Popen(command, cwd=tmp_path, env=environment, stdin=inside, stdout=inside, stderr=inside):
        os.close(inside)
        written = b""
        with suppress(OSError):  # so a terminal ends
            while some := os.read(terminal, 65536):
                written += some
    os.close(terminal)
    screen = pyte.Screen(80, 24)
    pyte.ByteStream(screen).feed(written)
    left = "\n".join(screen.display)

    assert b"making calls of the changes" in written
    assert "making calls" not in left
    assert "1 API call of 1 user" in left


def test_lines_have_their_time(retl: Retl, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a pipe each line begins with its time; a short run writes none for its turns."""
    with Sandbox() as sandbox:
        sandbox.script([Reply(status=503, retry_after=1)])
        monkeypatch.setenv("SEGMENT", sandbox.url)
        code, _, err = retl("run", "a")

    lines = [line for line in err.splitlines() if "on this machine" not in line]
    assert 0 == code
    assert [True] == [
        bool(re.fullmatch(r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\dZ a: Segment asks .*; again in 1.0 s", line))
        for line in lines
    ]


def logged(retl: Retl, *arguments: str) -> list[dict[str, Any]]:
    """The lines of stderr of a command, which are JSON."""
    return [json.loads(line) for line in retl("--log-format", "json", *arguments)[2].splitlines()]


def test_the_page_has_the_actions_of_the_program() -> None:
    """docs/logs.md names each action, and no other."""
    assert set(LogAction) == set(ACTIONS)


@pytest.mark.thorough
def test_json_lines_have_the_fields_of_the_page(retl: Retl, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each line of a run is JSON, has the fields that docs/logs.md gives its action, and no others."""
    with Sandbox() as sandbox:
        sandbox.script([Reply(status=429, retry_after=1)])
        monkeypatch.setenv("SEGMENT", sandbox.url)
        lines = logged(retl, "run", "a", "nowhere") + logged(retl, "run", "a") + logged(retl, "run")
        monkeypatch.setenv("RETL_LOG_LEVEL", "debug")
        lines += logged(retl, "run", "b")

    turns = ["reading", "comparing", "diffed", "enqueuing", "delivering", "waiting", "finished"]
    found = [line["action"] for line in lines]
    assert set(turns) | {"failed"} <= set(found)
    for line in lines:
        more = set(line) - {"time", "level", "message", "action", "sync"}
        if line["action"] != "finished":
            assert set(re.findall(r"`(\w+)`", ACTIONS[line["action"]])) == more, line


@pytest.mark.parametrize(
    ("arguments", "code", "exit_code"),
    [
        (["run", "a", "--expect-state"], "guard", 4),
        (["run", "nosuch"], "config", 2),
        (["plan", "nosuch"], "config", 2),
        (["run", "--no-such-option"], "usage", 2),
    ],
)
def test_the_last_json_line_is_the_error(retl: Retl, arguments: list[str], code: str, exit_code: int) -> None:
    """The error of a command is its last line, with a stable code, the hint and the exit code."""
    *_, last = logged(retl, *arguments)

    assert ("failed", "error", code, exit_code) == tuple(
        last[name] for name in ("action", "level", "code", "exit_code")
    )
    assert "hint" in last
    assert last["message"]


def test_a_bug_is_json_as_well(retl: Retl, tmp_path: Path) -> None:
    """The traceback of an error that nobody foresaw is one JSON line, before that of the error."""
    registry.register("broken", "test_secrets", "Broken")
    text = (tmp_path / "syncs/a.yml").read_text(encoding="utf-8")
    (tmp_path / "syncs/a.yml").write_text(text.replace("duckdb://", "broken://x:y@host/x"), encoding="utf-8")
    *_, trace, last = logged(retl, "plan", "a")

    assert ("bug", "failed", "bug", 70) == (trace["action"], last["action"], last["code"], last["exit_code"])
    assert "Traceback" in trace["message"]
