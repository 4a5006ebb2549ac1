"""One run of a sync at a time, from whatever process and by whatever path."""

from pathlib import Path
from subprocess import Popen

import pytest
import runs
from harness import edit
from runs import until, write_sync

from retl.sandbox.failures import Reply
from retl.sandbox.server import Sandbox

pytestmark = pytest.mark.slow


@pytest.fixture
def project(tmp_path: Path, sandbox: Sandbox) -> Path:
    """A project with one sync of 50 users."""
    return write_sync(tmp_path, sandbox.url)


def start(project: Path, *options: str) -> Popen[str]:
    """A run that says only what goes wrong."""
    return runs.start(project, "--quiet", *options)


def finish(process: Popen[str]) -> tuple[int, str]:
    """Wait for a run; its exit code, and its stderr."""
    _, said = process.communicate(timeout=120)
    return process.returncode, said


@pytest.mark.rule("G12")
def test_of_ten_processes_one_sends_and_the_others_wait_their_turn(project: Path, sandbox: Sandbox) -> None:
    """All end well, and each user has one call."""
    processes = [start(project, "--wait", "--deadline", "120s") for _ in range(10)]
    assert [(0, "")] * 10 == [finish(one) for one in processes]
    assert 50 == len(sandbox.accepted)
    assert [] == sandbox.duplicates


@pytest.mark.rule("G12")
def test_of_ten_processes_that_do_not_wait_those_too_late_say_so(project: Path, sandbox: Sandbox) -> None:
    """While one run is under way, others end with exit code 5 and name it, and nothing is sent twice."""
    sandbox.script([Reply(hang=True)] * 20)  # each for 15 seconds
    first = start(project)
    until(lambda: len(sandbox.requests) == 1)
    others = [start(project) for _ in range(9)]
    ended = [finish(one) for one in others]
    first.kill()
    finish(first)
    assert [(5, True)] * 9 == [(code, f"pid {first.pid}" in said) for code, said in ended]


@pytest.mark.rule("G12")
def test_a_killed_run_holds_nothing(project: Path, sandbox: Sandbox) -> None:
    """After `kill -9` the next run goes on at once, and delivers what was left."""
    sandbox.script([Reply(hang=True)])
    killed = start(project)
    until(lambda: len(sandbox.requests) == 1)
    killed.kill()
    finish(killed)
    assert (0, "") == finish(start(project))
    assert 50 == len(sandbox.accepted)


@pytest.mark.rule("G12")
@pytest.mark.parametrize("link", ["folder", "file"])
def test_one_state_by_two_paths_is_one_state(project: Path, sandbox: Sandbox, link: str) -> None:
    """Whoever comes by a symbolic link to the folder or to the file finds it held, too."""
    assert (0, "") == finish(start(project))
    folder = project / "elsewhere"
    if link == "folder":
        folder.symlink_to(project / "state")
    else:
        folder.mkdir()
        (folder / "users.duckdb").symlink_to(project / "state/users.duckdb")
    edit(project / "users.yml", "range(50)", "range(60)")
    sandbox.script([Reply(hang=True)])
    first = start(project)
    until(lambda: len(sandbox.requests) == 2)
    code, said = finish(start(project, "--state-dir", str(folder)))
    first.kill()
    finish(first)
    assert (5, True) == (code, "another" in said), said
    assert (0, "") == finish(start(project, "--state-dir", str(folder)))
    assert [] == list(project.rglob("*.wal"))  # the log of the run that was killed was read
    assert 60 == len(sandbox.accepted)
