"""`retl status`: what became of each sync, during a run too, and the conditions of monitors."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from harness import Retl, project_to, runner

from retl.progress_file import progress_path
from retl.sandbox.failures import Reply
from retl.sandbox.server import Sandbox

ROWS = "SELECT 'u' || i AS user_id, 'x' AS plan FROM range(2) AS r (i)"
IDENTIFY = f"""\
sql: {ROWS}
primary_key: user_id
identify: {{user_id: user_id, traits: {{plan: plan}}}}
"""


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    """A local Segment."""
    with Sandbox() as sandbox:
        yield sandbox


@pytest.fixture
def project(tmp_path: Path, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with a sync `users` that goes to the sandbox; the working folder of the test."""
    monkeypatch.chdir(tmp_path)
    return project_to(tmp_path, sandbox.url, IDENTIFY)


@pytest.fixture
def retl(project: Path, capsys: pytest.CaptureFixture[str]) -> Retl:
    """Runs a command in the project."""
    return runner(capsys)


def status(retl: Retl, *arguments: str) -> dict[str, Any]:
    """The JSON object of the sync `users`."""
    found: dict[str, Any] = json.loads(retl("status", "users", "--json", *arguments)[1])
    return found


@contextmanager
def waiting_run(project: Path, sandbox: Sandbox) -> Iterator[subprocess.Popen[str]]:
    """A run in a process of its own, whose calls wait until it is killed."""
    sandbox.script([Reply(status=503, retry_after=300)])
    command = [sys.executable, "-m", "retl", "run", "users"]
    with subprocess.Popen(command, cwd=project, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        while "again in" not in (line := process.stderr.readline()):
            assert line, "the run ended by itself"
        try:
            yield process
        finally:
            process.kill()


@pytest.mark.thorough
def test_a_failed_run_says_why_and_what_to_do(retl: Retl, sandbox: Sandbox) -> None:
    """Status repeats the sentence and the hint of the error that ended the last run, and what is left."""
    retl("run", "users")
    success = status(retl)["last_run"]
    sandbox.script([Reply(status=401)])
    retl("run", "users", "--full", "--yes")

    found = status(retl)
    assert ("failed", 2, 2, success) == (
        found["status"],
        found["exit_code"],
        found["pending"],
        found["last_success"],
    )
    assert (found["last_run"], "destination") == (found["pending_since"], found["error"]["code"])

    out = retl("status")[1]
    assert "users: " in out and "Segment refuses the write key" in out
    assert "→ check the write key" in out
    assert f"last success: {success[:16].replace('T', ' ')}" in out
    assert "2 calls wait, the oldest for" in out


def test_a_retry_says_nothing_of_the_model(retl: Retl, project: Path) -> None:
    """A failed run stays the last one for status and monitors, also after a retry, which reads nothing."""
    (project / "syncs/users.yml").write_text(IDENTIFY.replace("plan: plan", "plan: no_such_column"))
    assert 2 == retl("run", "users")[0]
    assert 0 == retl("retry", "users")[0]

    code, out, _ = retl("status", "users", "--json", "--fail-if", "failed")

    found = json.loads(out)
    assert (1, "failed", None) == (code, found["status"], found["last_success"])


@pytest.mark.thorough
def test_rejected_rows_are_counted_apart_from_calls(retl: Retl, project: Path) -> None:
    """A run with rejected rows is partial, went through, and names the command that says more."""
    (project / "syncs/users.yml").write_text(IDENTIFY.replace("'u' || i", "nullif('u' || i, 'u1')"))
    assert retl("run", "users")[0] == 1

    found = status(retl)
    assert ("partial", 1, 1, 0) == tuple(
        found[name] for name in ("status", "rejected", "rejected_rows", "rejected_calls")
    )
    assert found["last_success"] == found["last_run"]
    assert "1 row rejected; see: retl rejected users\n" in retl("status")[1]


@pytest.mark.thorough
def test_a_run_that_is_under_way(retl: Retl, project: Path, sandbox: Sandbox) -> None:
    """During a run another process sees its phase, its counts, and what was known before; then no trace."""
    retl("run", "users")
    success = status(retl)["last_run"]
    (project / "syncs/users.yml").write_text(IDENTIFY.replace("range(2)", "range(5)"))
    beside = progress_path(project / "state/users.duckdb")
    with waiting_run(project, sandbox) as process:
        found = status(retl)
        assert ("running", success, 2) == (found["status"], found["last_success"], found["rows"])
        told = found["running"]
        assert ("waiting", 5, 0, 3) == tuple(
            told[name] for name in ("phase", "rows_read", "delivered", "calls")
        )
        assert (process.pid, "succeeded") == (told["pid"], told["before"]["status"])
        assert 0o600 == beside.stat().st_mode & 0o777
        out = retl("status")[1]
        assert re.search(rf"users: waiting, 0 of 3 calls, for \d+ s \(pid {process.pid} on ", out)

        process.kill()
        process.wait()
        assert beside.exists()
        assert ("interrupted", 3) == (status(retl)["status"], status(retl)["pending"])
    assert not beside.exists()
    assert "the run was cut off; the next one goes on where it stopped" in retl("status")[1]


def test_rehearsals_are_a_section_of_their_own(retl: Retl) -> None:
    """Rehearsals are listed below the syncs, and are in the JSON of their sync."""
    assert status(retl)["sandbox"] is None
    retl("run", "users", "--sandbox")

    found = status(retl)
    assert ("never", "succeeded", 2) == (
        found["status"],
        found["sandbox"]["status"],
        found["sandbox"]["delivered"],
    )
    out = retl("status")[1]
    assert out.index("in the sandbox") < out.index("succeeded")


def test_a_rehearsal_that_failed_says_why(retl: Retl, project: Path) -> None:
    """The section of the rehearsals has the reason, and commands that stay with the sandbox."""
    (project / "syncs/users.yml").write_text(IDENTIFY.replace("'u' || i", "nullif('u' || i, 'u1')"))
    assert 1 == retl("run", "users", "--sandbox")[0]

    assert "users: 1 row rejected; see: retl rejected users --sandbox\n" in retl("status")[1]


@pytest.mark.parametrize("columns", ["80", "120"])
def test_the_table_fits_the_terminal(retl: Retl, monkeypatch: pytest.MonkeyPatch, columns: str) -> None:
    """At 80 columns no line of the table is broken; a wider one has the last success, too."""
    monkeypatch.setenv("COLUMNS", columns)
    retl("run", "users")

    out = retl("status")[1]
    assert max(map(len, out.splitlines())) <= int(columns)
    assert ("last success" in out) == (columns == "120")
    assert len(out.splitlines()) == 2


def test_a_long_error_is_folded(retl: Retl, project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error of a failed run is broken between words; one that read no row has a dash for rows."""
    monkeypatch.setenv("COLUMNS", "80")
    long = " OR ".join(f"no_such_column_{n} = {n}" for n in range(12))
    (project / "syncs/users.yml").write_text(IDENTIFY.replace(ROWS, f"{ROWS} WHERE {long}"))
    assert 2 == retl("run", "users")[0]

    lines = retl("status")[1].splitlines()

    assert max(map(len, lines)) <= 80
    assert re.search(r"failed +-", lines[1])
    assert status(retl)["rows"] is None


@pytest.mark.thorough
def test_a_monitor_is_told_each_reason(retl: Retl, project: Path, sandbox: Sandbox) -> None:
    """--fail-if exits with 1 and a line for each condition that holds; without any it is 0."""
    asked = ("--fail-if", "failed,rejected,pending,older-than=2h")
    code, _, err = retl("status", "users", *asked)
    assert (1, "older-than=2h: users: no run has gone through yet\n") == (code, err)

    retl("run", "users")
    assert (0, "") == retl("status", "users", *asked)[::2]
    assert {} == status(retl, *asked)["failing"]

    sandbox.script([Reply(status=401)])
    retl("run", "users", "--full", "--yes")
    code, out, err = retl("status", "users", "--json", *asked)
    assert (1, ["failed", "pending"]) == (code, list(json.loads(out)["failing"]))
    assert ["failed: users: ", "pending: users:"] == [line[:15] for line in err.splitlines()]


def test_a_condition_that_is_none(retl: Retl) -> None:
    """An unknown condition, one without its duration and one with a needless one are refused with words."""
    for written, words in (
        ("broken", "there is no condition `broken`"),
        ("older-than", "needs a duration, such as older-than=2h"),
        ("failed=2h", "takes no duration"),
    ):
        code, _, err = retl("status", "--fail-if", written)
        assert (2, True) == (code, words in " ".join(err.split()))
