"""Files that retl makes are for their owner alone, whoever starts it and however."""

import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

import retl
from retl.cli.main import execute
from retl.lock import hold
from retl.state import open_state

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
SYNC = """\
sql: SELECT i AS user_id, 'x' AS email FROM range(20) AS r (i)
primary_key: user_id
identify: {user_id: user_id, traits: {email: email}}
allow_ids: ["0"]
warehouse: "duckdb://"
segment: {endpoint: "file:calls.ndjson"}
"""


@pytest.fixture
def open_to_all() -> Iterator[None]:
    """A process whose new files anybody may read and write."""
    before = os.umask(0)
    yield
    os.umask(before)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with a sync whose calls go to a file; the working folder of the test."""
    (tmp_path / "syncs").mkdir()
    (tmp_path / "syncs/users.yml").write_text(SYNC, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def loose(*folders: Path) -> list[str]:
    """Files and folders in and below some folders that others than their owner have rights on."""
    found = [path for folder in folders for path in (folder, *folder.rglob("*"))]
    return [str(path) for path in found if stat.S_IMODE(path.stat().st_mode) & 0o077]


@pytest.mark.thorough
@pytest.mark.rule("S3")
@pytest.mark.usefixtures("open_to_all")
def test_command_line(project: Path) -> None:
    """A run whose shell makes files for all makes its own for the owner alone, the calls' file included."""
    done = subprocess.run([sys.executable, "-m", "retl", "run", "users"], check=False, capture_output=True)

    assert (0, True) == (done.returncode, (project / "calls.ndjson").exists())
    assert [] == loose(project / "state")
    assert 0o600 == stat.S_IMODE((project / "calls.ndjson").stat().st_mode)
    assert 0o600 == stat.S_IMODE((project / "calls.ndjson.lock").stat().st_mode)


@pytest.mark.rule("S3")
@pytest.mark.usefixtures("open_to_all")
def test_log_and_spilled_data(tmp_path: Path) -> None:
    """DuckDB's log of a state, and the folder to which it spills, are the owner's too, from any program."""
    path = tmp_path / "state/users.duckdb"
    with hold(path, NOW), open_state(path, "users", 30_000_000) as state:
        state.db.execute(
            "CREATE TABLE state.big AS SELECT i, repeat('x', 200) AS v FROM range(1000) AS r (i)"
        )
        state.db.execute("SET threads = 1")
        state.db.execute("CREATE TEMP TABLE large AS SELECT random() FROM range(5000000)")
        assert {"users.duckdb", "users.duckdb.wal", "users.duckdb.tmp", "users.duckdb.holder"} <= set(
            os.listdir(path.parent)
        )
        assert [] == loose(path.parent)
    assert 0 == os.umask(0)


@pytest.mark.rule("S3")
@pytest.mark.usefixtures("open_to_all")
def test_notebook(project: Path) -> None:
    """A plan in a notebook leaves nothing for others either, and the process as it was."""
    path = project / "state/users.file.duckdb"
    open_state(path, "users").db.close()
    path.chmod(0o644)
    retl.plan("users")

    assert [] == loose(path.parent)
    assert 0 == os.umask(0)


@pytest.mark.usefixtures("open_to_all")
def test_several_states(tmp_path: Path) -> None:
    """Whichever of several states is let go first, files are private until the last one is."""
    first, second = (hold(tmp_path / f"state/{name}.duckdb", NOW) for name in "ab")
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    (tmp_path / "private").touch()
    second.__exit__(None, None, None)
    (tmp_path / "open").touch()

    assert [0o600, 0o666] == [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("private", "open")]


@pytest.mark.parametrize("ending", ["", ".wal", ".lock"])
def test_a_state_that_others_can_read(project: Path, ending: str) -> None:
    """A state that was copied for all to read is the owner's alone after the next command."""
    path = project / "state/users.duckdb"
    with hold(path, NOW), open_state(path, "users"):
        pass
    beside = path.with_name(path.name + ending)
    beside.touch()
    beside.chmod(0o666)
    with hold(path, NOW):
        pass

    assert 0o600 == stat.S_IMODE(beside.stat().st_mode)


def test_a_file_of_calls_that_is_there_keeps_its_rights(project: Path) -> None:
    """Whoever made the file of calls said who may read it."""
    (project / "calls.ndjson").touch(mode=0o644)

    assert 0 == execute(["run", "users"])
    assert 20 == (project / "calls.ndjson").read_text().count("\n")
    assert 0o644 == stat.S_IMODE((project / "calls.ndjson").stat().st_mode)
