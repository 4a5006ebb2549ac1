"""What a purge leaves of a sync on the disk."""

import io
import os
from pathlib import Path

import pytest
from harness import Retl, runner

from retl.clock import SystemClock
from retl.lock import hold
from retl.sandbox.failures import Reply
from retl.sandbox.server import Sandbox

SECRET = b"ada.lovelace@example.com"


@pytest.fixture
def retl(tmp_path: Path, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch, capsys: object) -> Retl:
    """Runs a command in a project with one sync, whose one row is personal data."""
    assert isinstance(capsys, pytest.CaptureFixture)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SEGMENT_WRITE_KEY", "key")
    (tmp_path / "syncs").mkdir()
    (tmp_path / "syncs/users.yml").write_text(
        f"sql: SELECT 'u1' AS id, '{SECRET.decode()}' AS email\n"
        "warehouse: 'duckdb://'\nprimary_key: id\n"
        "identify: {user_id: id, traits: {email: email}}\n"
        f"segment: {{endpoint: '{sandbox.url}', events_per_second: 0}}\n"
    )
    return runner(capsys)


def files(folder: Path) -> list[str]:
    """The files in a folder of states, without the locks."""
    return sorted(
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.is_file() and path.suffix != ".lock"
    )


def holding(folder: Path, value: bytes) -> list[str]:
    """The files in a folder that hold a value."""
    return [
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.is_file() and value in path.read_bytes()
    ]


@pytest.mark.rule("P1")
def test_a_purge_leaves_nothing_of_a_sync(retl: Retl, tmp_path: Path) -> None:
    """State, log, spilled rows, a damaged log that was moved away, rehearsals: all are gone from the disk."""
    state = tmp_path / "state"
    retl("run", "users")
    retl("run", "users", "--sandbox")
    assert {"users.duckdb", "sandbox/users.duckdb"} <= set(holding(state, SECRET))
    for name in (
        "users.duckdb.wal.damaged",
        "users.duckdb.new",
        "users.duckdb.tmp/a",
        "sandbox/users.duckdb.new",
    ):
        (state / name).parent.mkdir(exist_ok=True)
        (state / name).write_bytes(SECRET)
    (state / "users.duckdb.warehouse.tmp").mkdir()
    (state / "users.duckdb.warehouse.tmp/b").write_bytes(SECRET)

    code, out, err = retl("reset", "users", "--purge", "--yes")

    assert (0, "") == (code, err)
    assert [] == files(state) == holding(state, SECRET)
    assert f"deleted {state / 'users.duckdb'}" in out
    assert "the next run is a first pass" in out
    assert all(lock.stat().st_size == 0 for lock in state.rglob("*.lock"))


@pytest.mark.thorough
def test_a_purge_leaves_the_states_of_other_syncs(retl: Retl, tmp_path: Path) -> None:
    """Only the files of the sync that is named are deleted."""
    syncs = tmp_path / "syncs"
    (syncs / "users.eu.yml").write_text((syncs / "users.yml").read_text())
    retl("run", "syncs")
    assert 0 == retl("reset", "users", "--purge", "--yes")[0]
    assert ["users.eu.duckdb"] == files(tmp_path / "state")


@pytest.mark.thorough
def test_after_a_purge_message_ids_do_not_repeat(retl: Retl, sandbox: Sandbox) -> None:
    """The next run is a first pass, whose calls Segment does not take for repeats."""
    retl("run", "users")
    retl("reset", "users", "--purge", "--yes")
    assert 0 == retl("run", "users")[0]
    assert 2 == len({call["messageId"] for call in sandbox.accepted})
    assert [] == sandbox.duplicates


@pytest.mark.thorough
def test_a_purge_of_rehearsals_leaves_the_state(retl: Retl, tmp_path: Path) -> None:
    """With --sandbox only the state of rehearsals is deleted."""
    retl("run", "users")
    retl("run", "users", "--sandbox")
    assert 0 == retl("reset", "users", "--purge", "--sandbox", "--yes")[0]
    assert ["users.duckdb"] == files(tmp_path / "state")


def test_a_purge_asks_first(retl: Retl, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without --yes and without an answer, nothing is deleted."""
    retl("run", "users")
    monkeypatch.setattr("sys.stdin", io.StringIO())  # nobody answers
    code, out, err = retl("reset", "users", "--purge")
    assert 2 == code
    assert "delete all that is kept of it, 1 row?" in out
    assert "nothing was done" in err
    assert ["users.duckdb"] == files(tmp_path / "state")


@pytest.mark.rule("P2")
def test_a_purge_is_refused_while_calls_wait(retl: Retl, tmp_path: Path, sandbox: Sandbox) -> None:
    """Calls that wait are lost only where that is asked for, and the error says how."""
    sandbox.script([Reply(status=401)])
    assert 2 == retl("run", "users")[0]

    code, _, err = retl("reset", "users", "--purge", "--yes")
    assert 2 == code
    assert "1 calls wait" in err
    assert "retl reset syncs/users.yml --purge --pending" in err.replace("\n", " ")
    assert ["users.duckdb"] == files(tmp_path / "state")

    assert 0 == retl("reset", "users", "--purge", "--pending", "--yes")[0]
    assert [] == files(tmp_path / "state")


def test_pending_is_for_a_purge_alone(retl: Retl) -> None:
    """A plain reset keeps the calls that wait, so it does not take the option."""
    code, _, err = retl("reset", "users", "--pending", "--yes")
    assert 2 == code
    assert "--pending goes with --purge" in err


@pytest.mark.thorough
def test_a_purge_deletes_the_target_of_a_link(retl: Retl, tmp_path: Path) -> None:
    """Where the state file is a link, what it leads to is deleted as well."""
    retl("run", "users")
    (tmp_path / "disk").mkdir()
    os.rename(tmp_path / "state/users.duckdb", tmp_path / "disk/users.duckdb")
    (tmp_path / "state/users.duckdb").symlink_to(tmp_path / "disk/users.duckdb")
    assert 0 == retl("reset", "users", "--purge", "--yes")[0]
    assert [] == files(tmp_path / "disk") == files(tmp_path / "state")


def test_a_purge_deletes_no_strangers_file(retl: Retl, tmp_path: Path) -> None:
    """A file of that name that is no state of this sync stays as it is."""
    (tmp_path / "state").mkdir()
    (tmp_path / "state/users.duckdb").write_bytes(b"id,name\n")
    code, _, _ = retl("reset", "users", "--purge", "--pending", "--yes")
    assert 2 == code
    assert ["users.duckdb"] == files(tmp_path / "state")


@pytest.mark.thorough
def test_a_purge_waits_for_nobody(retl: Retl, tmp_path: Path) -> None:
    """While a run holds the state, nothing is deleted."""
    retl("run", "users")
    with hold(tmp_path / "state/users.duckdb", SystemClock().now()):
        assert 5 == retl("reset", "users", "--purge", "--yes")[0]
    assert ["users.duckdb"] == files(tmp_path / "state")


def test_a_purge_of_nothing_says_so(retl: Retl) -> None:
    """Where there is no state there is nothing to delete."""
    code, out, _ = retl("reset", "users", "--purge", "--yes")
    assert 0 == code
    assert "there is nothing to delete" in out
