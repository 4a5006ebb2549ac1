"""State files of syncs that were renamed or deleted: they are named, with their calls and the way out."""

import json
import shutil
from datetime import UTC, datetime
from pathlib import Path

import pytest
from harness import Retl, runner

from retl.lock import hold
from retl.sandbox.failures import Reply
from retl.sandbox.server import Sandbox

TRACK = """\
sql: SELECT * FROM (VALUES ('a', 1), ('b', 2)) AS t(id, n)
primary_key: id
track: {user_id: id, added: Seen, changed: Moved, properties: {n: n}}
initial: send
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with the syncs `old` and `other`; the working folder of the test."""
    (tmp_path / "syncs").mkdir()
    (tmp_path / "syncs/old.yml").write_text(TRACK)
    # With another key this one could not go on with the state of `old`.
    (tmp_path / "syncs/other.yml").write_text(TRACK.replace("primary_key: id", "primary_key: n"))
    monkeypatch.setenv("SEGMENT_WRITE_KEY", "key")
    monkeypatch.delenv("RETL_STATE_DIR", raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def retl(project: Path, capsys: pytest.CaptureFixture[str]) -> Retl:
    """Runs a command in the project."""
    return runner(capsys)


def leave_calls(retl: Retl, project: Path, sandbox: Sandbox) -> None:
    """Leave two calls pending in the state of `old`."""
    (project / "retl.yml").write_text(f'warehouse: duckdb://\nsegment: {{endpoint: "{sandbox.url}"}}\n')
    sandbox.script([Reply(status=401)])
    assert retl("run", "old")[0] == 2


@pytest.mark.thorough
@pytest.mark.rule("E9")
@pytest.mark.parametrize("by", ["file", "name"])
def test_a_renamed_sync_does_not_begin_anew_while_its_calls_wait(retl: Retl, project: Path, by: str) -> None:
    """With calls pending under its former name a sync is refused, until these have left."""
    old, new = project / "syncs/old.yml", project / "syncs/new.yml"
    with Sandbox() as sandbox:
        leave_calls(retl, project, sandbox)
        old.rename(new)
        if by == "name":
            new.rename(old).write_text(f"name: new\n{TRACK}")
        file = "new" if by == "file" else "old"

        for command in ("plan", "run"):
            code, _, err = retl(command, file)
            assert (2, True) == (code, "2 calls wait in the state of `old`" in err)
            assert f"write `name: old` into syncs/{file}.yml" in err
        assert not (project / "state/new.duckdb").exists()
        assert retl("run", file, "--sandbox")[0] == 0

        (project / f"syncs/{file}.yml").write_text(f"name: old\n{TRACK}")
        assert retl("run", file)[0] == 0
        assert len(sandbox.accepted) == 2
        (project / f"syncs/{file}.yml").write_text(f"name: new\n{TRACK}")
        code, _, err = retl("run", file)
        assert (0, True) == (code, "begins anew; if it was `old` before" in err)
        assert "begins anew" not in retl("run", file)[2]


@pytest.mark.rule("E15")
def test_the_state_of_a_deleted_sync_is_named(retl: Retl, project: Path) -> None:
    """Run and check say in one line that calls of a deleted sync wait; status lists it, with the way out."""
    with Sandbox() as sandbox:
        leave_calls(retl, project, sandbox)
        assert "state file" not in retl("run", "other")[2]
        (project / "syncs/old.yml").unlink()
        sentence = (
            "state: no sync file leads to 1 state file: old.duckdb (2 calls pending); retl status says more"
        )

        assert retl("run", "syncs")[2].count(sentence) == 1
        assert sentence in retl("check")[2]
        assert sentence not in retl("run", "other", "--quiet")[2]
        assert "state file" not in retl("run", "other", "--sandbox")[2]
        code, out, _ = retl("status", "--json")
        other, orphan = map(json.loads, out.splitlines())
        assert (0, "succeeded", "orphaned") == (code, other["status"], orphan["status"])
        assert ("old", 2, 2) == (orphan["sync"], orphan["pending"], orphan["rows"])
        assert orphan["last_run"]
        out = retl("status")[1]
        assert f"{project}/state/old.duckdb: no sync file is named `old`" in out
        assert "loses 2 calls" in out
        assert "orphaned" not in retl("status", "other")[1]
        (project / "syncs/other.yml").unlink()
        assert "no sync file is named `old`" in retl("status")[1]


@pytest.mark.thorough
@pytest.mark.rule("E15")
def test_other_files_in_the_folder_are_no_orphans(retl: Retl, project: Path) -> None:
    """Sources of a sync, rehearsals, files beside states, syncs elsewhere and states in use are not named."""
    with Sandbox() as sandbox:
        leave_calls(retl, project, sandbox)
        retl("run", "old")
        retl("run", "old", "--sandbox")
        (project / "jobs").mkdir()
        (project / "jobs/nightly.yml").write_text(TRACK)
        retl("run", "jobs/nightly.yml")
        (project / "retl.yml").write_text((project / "retl.yml").read_text().replace("}", ", name: eu}"))
        retl("run", "old")
        foreign = project / "state/foreign.duckdb"
        foreign.write_text("opened by nobody")
        for ending in (".lock", ".new", ".new.wal"):
            (project / f"state/gone.duckdb{ending}").touch()
        (project / "state/gone.duckdb.tmp").mkdir()
        found = sorted(one.stem for one in project.glob("state/*.duckdb"))
        assert ["foreign", "nightly", "old", "old.eu"] == found
        assert "state file" not in retl("check")[2] + retl("run", "other")[2] + retl("status")[1]
        assert [] == list(project.glob("state/foreign.duckdb.*"))

        (project / "state/damaged.duckdb").write_text("no database")
        (project / "state/damaged.duckdb.lock").touch()
        shutil.rmtree(project / "jobs")
        assert "leads to 2 state files: damaged.duckdb, nightly.duckdb;" in retl("check")[2]
        with hold(project / "state/nightly.duckdb", datetime.now(UTC)):
            assert "leads to 1 state file: damaged.duckdb;" in retl("run", "other")[2]


@pytest.mark.rule("E15")
def test_calls_for_a_former_source_are_named(retl: Retl, project: Path) -> None:
    """Where a sync has another source now, status and check name the calls that wait for the former one."""
    with Sandbox() as sandbox:
        leave_calls(retl, project, sandbox)
        settings = (project / "retl.yml").read_text()
        for name in ("eu", "us"):
            (project / "retl.yml").write_text(settings.replace("}", f", name: {name}}}"))
            sandbox.script([Reply(status=401)] if name == "eu" else [])
            retl("run", "old")
        assert "state file" not in retl("run", "old")[2]
        named = "old.duckdb (2 calls pending), old.eu.duckdb (2 calls pending)"
        assert f"leads to 2 state files: {named};" in retl("check")[2]
        out = retl("status")[1]
        assert f"{project}/state/old.eu.duckdb: its calls wait for a source" in out
        assert "old.us.duckdb" not in out


@pytest.mark.rule("E15")
def test_states_of_another_project_are_no_orphans(
    retl: Retl, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a folder that projects share, only the states whose sync file is gone are named."""
    monkeypatch.setenv("RETL_STATE_DIR", str(project / "shared"))
    (project / "b/syncs").mkdir(parents=True)
    with Sandbox() as sandbox:
        leave_calls(retl, project, sandbox)
        shutil.copy(project / "retl.yml", project / "b")
        (project / "syncs/other.yml").rename(project / "b/syncs/other.yml")
        assert "state file" not in retl("run", "b/syncs/other.yml")[2]
        (project / "syncs/old.yml").unlink()
        assert "old.duckdb (2 calls pending)" in retl("run", "b/syncs/other.yml")[2]
