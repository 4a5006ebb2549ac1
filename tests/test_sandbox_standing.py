"""Rehearsals against a sandbox that stays up."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import urllib3
from harness import Retl, register_browser, runner

from retl.errors import ConfigError
from retl.sandbox.server import Sandbox
from retl.sandbox.standing import (
    Announcement,
    StandingSandbox,
    announcement_file,
    find_standing,
    usual_port,
)

ANY = 0
"""The port of the environment: any free one, which other commands find by a file all the same."""

SYNC = """\
sql: SELECT 'u' || i AS id, 'x' AS plan FROM range(3) AS r(i)
primary_key: id
warehouse: duckdb://
identify: {user_id: id, traits: {plan: plan}}
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Give a project with two syncs, and a runtime folder in which nothing stands; all ends with the test."""
    (tmp_path / "syncs").mkdir()
    for name in ("users", "vip"):
        (tmp_path / f"syncs/{name}.yml").write_text(SYNC)
    register_browser(tmp_path)
    monkeypatch.setenv("BROWSER", "a browser with a window")
    (tmp_path / "runtime").mkdir()
    (tmp_path / "retl").mkdir()
    (tmp_path / "retl/__init__.py").write_text("raise SystemExit('not the program')")
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "runtime"))
    monkeypatch.setenv("RETL_SANDBOX_PORT", str(ANY))
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    standing = find_standing(ANY)
    if standing is not None:
        standing.stop()


@pytest.fixture
def retl(project: Path, capsys: pytest.CaptureFixture[str]) -> Retl:
    """Runs a command in the project; gives exit code, stdout and stderr."""
    return runner(capsys)


def listed(http: urllib3.PoolManager, url: str) -> list[tuple[str, str]]:
    """The syncs and users of the calls of a sandbox."""
    calls = http.request("GET", f"{url}/calls.json").json()["calls"]
    return [(one["sync"], one["user_id"]) for one in calls]


THREE = [("users", "u0"), ("users", "u1"), ("users", "u2")]


def test_a_rehearsal_in_a_sandbox_that_stays_up(project: Path, retl: Retl, http: urllib3.PoolManager) -> None:
    """With --open the calls can be looked at after the run, at the address that is printed and opened."""
    code, out, err = retl("run", "users", "--sandbox", "--open")

    standing = find_standing(ANY)
    assert standing is not None
    assert (0, "") == (code, err)
    assert "sandbox: 3 calls accepted, 0 discarded, 0 duplicates\n" in out
    assert f"look at the calls: {standing.url}\n" in out
    assert "retl sandbox --stop" in out.splitlines()[-1]
    assert standing.url == (project / "opened").read_text().strip()
    assert THREE == listed(http, standing.url)


@pytest.mark.thorough
def test_the_next_rehearsal_goes_to_the_same_sandbox(
    project: Path, retl: Retl, http: urllib3.PoolManager
) -> None:
    """A sandbox that stays up is found again; each command sums up its own runs alone."""
    retl("run", "users", "--sandbox", "--open")
    first = find_standing(ANY)
    code, out, _ = retl("run", "--all", "--sandbox", "--open")

    assert first == find_standing(ANY)
    assert first is not None
    assert 0 == code
    assert "sandbox: 3 calls accepted" in out
    assert [*THREE, ("vip", "u0"), ("vip", "u1"), ("vip", "u2")] == listed(http, first.url)
    assert "sandbox:" not in retl("run", "users", "--sandbox", "--open")[1]


@pytest.mark.thorough
def test_a_rehearsal_in_json_keeps_stdout_for_records(project: Path, retl: Retl) -> None:
    """With --json stdout has the record of each run, and the address is on stderr; --quiet says nothing."""
    _, out, err = retl("run", "users", "--sandbox", "--open", "--json")
    quiet = retl("run", "vip", "--sandbox", "--open", "--quiet")

    assert ["users"] == [json.loads(one)["sync"] for one in out.splitlines()]
    assert "look at the calls: http://127.0.0.1:" in err
    assert (0, "", "") == quiet


def test_a_running_sandbox_is_used(project: Path, retl: Retl) -> None:
    """A `retl sandbox` of the same user takes the rehearsal, whatever it was started for."""
    announcement = Announcement()
    with Sandbox(routes=announcement.routes) as sandbox, announcement.of(sandbox.url, ANY):
        out = retl("run", "users", "--sandbox", "--open")[1]
        assert 3 == len(sandbox.accepted)

    assert f"look at the calls: {sandbox.url}\n" in out


def test_a_taken_port_is_no_hindrance(
    project: Path, retl: Retl, http: urllib3.PoolManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where another program has the port, the sandbox that stays up takes any, and is found all the same."""
    with Sandbox() as other:
        port = int(other.url.rpartition(":")[2])
        monkeypatch.setenv("RETL_SANDBOX_PORT", str(port))
        assert 0 == retl("run", "users", "--sandbox", "--open")[0]
        standing = find_standing(port)
        assert standing is not None
        assert other.url != standing.url
        assert [] == other.accepted
        assert THREE == listed(http, standing.url)
        standing.stop()


def test_a_program_that_only_has_the_address_gets_no_call(project: Path, retl: Retl) -> None:
    """A file that is left over, at whose address another program listens now, leads no rehearsal there."""
    with Sandbox() as other:
        left_over = StandingSandbox(other.url, os.getpid(), "secret")
        path = announcement_file(ANY)
        path.write_text(json.dumps(vars(left_over)))

        assert find_standing(ANY) is None
        assert 0 == retl("run", "users", "--sandbox", "--open")[0]
        assert [] == other.accepted


@pytest.mark.thorough
def test_a_sandbox_of_another_version_is_replaced(project: Path, retl: Retl) -> None:
    """One that another version of retl started is ended, and another takes its place."""
    retl("run", "users", "--sandbox", "--open")
    path = announcement_file(ANY)
    older = find_standing(ANY)
    assert older is not None
    path.write_text(json.dumps({**vars(older), "version": "0.0.1"}))

    retl("run", "vip", "--sandbox", "--open")

    assert not older.is_up
    assert find_standing(ANY) is not None


def test_a_process_that_stays_up_has_no_secret_of_the_project(
    project: Path, retl: Retl, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The write key and the warehouse's URL of the environment do not go on in the sandbox's process."""
    monkeypatch.setenv("SEGMENT_WRITE_KEY", "geheim")
    monkeypatch.setenv("RETL_WAREHOUSE_URL", "duckdb:///geheim")
    retl("run", "users", "--sandbox", "--open")

    standing = find_standing(ANY)
    assert standing is not None
    environment = Path(f"/proc/{standing.pid}/environ")
    assert not environment.exists() or b"geheim" not in environment.read_bytes()


@pytest.mark.parametrize("option", ["--open", "--from-production"])
def test_options_of_a_rehearsal_alone(retl: Retl, option: str) -> None:
    """Whoever asks for what only a rehearsal has, without one, is told so."""
    code, _, err = retl("run", "users", option)

    assert 2 == code
    assert f"{option} goes with --sandbox" in err


@pytest.mark.rule("S5")
def test_only_its_user_ends_a_sandbox(project: Path, http: urllib3.PoolManager) -> None:
    """A program without the secret can neither end a sandbox nor pass for it; the file is its user's."""
    announcement = Announcement()
    with Sandbox(routes=announcement.routes) as sandbox, announcement.of(sandbox.url, ANY):
        found = find_standing(ANY)
        assert found is not None
        assert 0o600 == announcement_file(ANY).stat().st_mode & 0o777
        assert 403 == http.request("POST", f"{sandbox.url}/stop", body=b"stop").status
        assert not StandingSandbox(sandbox.url, found.pid, "another").is_up
        assert not announcement.stop_asked.is_set()
    assert find_standing(ANY) is None
    assert found.summary() is None


@pytest.mark.parametrize("mode", [0o755, 0o777])
def test_a_folder_that_others_can_read_is_refused(project: Path, mode: int) -> None:
    """Announcements are not looked for where somebody else could have put them."""
    folder = announcement_file(ANY).parent
    folder.chmod(mode)

    with pytest.raises(ConfigError, match="not a folder of yours alone"):
        find_standing(ANY)
    folder.chmod(0o700)


@pytest.mark.parametrize("written", ["x", "-1", "65536", "²"])
def test_a_port_of_the_environment_that_is_none(
    project: Path, monkeypatch: pytest.MonkeyPatch, written: str
) -> None:
    """RETL_SANDBOX_PORT is a port, or an error that names it."""
    monkeypatch.setenv("RETL_SANDBOX_PORT", written)

    with pytest.raises(ConfigError, match="RETL_SANDBOX_PORT"):
        usual_port()
