"""`retl init`: a new project, which runs at once."""

import json
import re
from pathlib import Path

import jsonschema_rs
import pytest
from harness import Retl, read_yaml, runner

from retl.address import read_address
from retl.new_project import WAREHOUSES


@pytest.fixture
def retl(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Retl:
    """Runs commands; the working folder is empty."""
    monkeypatch.chdir(tmp_path)
    return runner(capsys)


def test_a_new_project_runs_at_once(retl: Retl, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After `retl init shop && cd shop` each command that it proposes works, and both syncs can be sent."""
    code, out, err = retl("init", "shop")
    assert (0, "") == (code, err)
    assert max(map(len, out.splitlines())) <= 80
    steps = [
        line.split("#")[0].strip() for line in out.splitlines() if line.startswith(" ") and "retl " in line
    ]
    assert ["retl run users --sandbox", "retl plan users --sandbox"] == steps
    monkeypatch.chdir(tmp_path / "shop")

    assert [0, 0] == [retl(*step.split()[1:])[0] for step in steps]
    assert (
        "sandbox: 5 calls accepted, 0 discarded" in retl("run", "plans", "--sandbox", "--initial-backfill")[1]
    )
    assert (0, "") == (retl("check")[0], retl("check")[2])


@pytest.mark.parametrize("warehouse", sorted(WAREHOUSES))
def test_a_project_for_each_database(
    retl: Retl, tmp_path: Path, warehouse: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its files are right as they are, fit the schemas that an editor finds, and hold the form of the URL."""
    assert 0 == retl("init", "--warehouse", warehouse)[0]

    code, out, err = retl("check")
    assert (0, "", 2) == (code, err, out.count(", fine"))
    written = (tmp_path / "retl.yml").read_text() + (tmp_path / ".env.example").read_text()
    assert WAREHOUSES[warehouse] in written
    kind = {"spark": "sc"}.get(warehouse, warehouse[:6])
    assert read_address(WAREHOUSES[warehouse]).backend.startswith(kind)
    for path in (tmp_path / "retl.yml", *(tmp_path / "syncs").iterdir()):
        hint = path.read_text().splitlines()[0].removeprefix("# yaml-language-server: $schema=")
        schema = json.loads((path.parent / hint).read_text())
        assert jsonschema_rs.validator_for(schema).is_valid(read_yaml(path))
    assert json.loads(retl("schema")[1]) == json.loads((tmp_path / "schemas/sync.json").read_text())
    files = {str(one.relative_to(tmp_path)) for one in tmp_path.rglob("*") if one.is_file()}
    assert files - {"README.md"} == set(re.findall(r"`([\w./]+)`", _listed(tmp_path))) - {"state/", ".env"}
    assert "state/\n" in (tmp_path / ".gitignore").read_text()
    assert [] == [
        path for path in tmp_path.rglob("*") if "{url}" in path.name or path.stat().st_mode & 0o444 != 0o444
    ]


def _listed(folder: Path) -> str:
    """The first column of the table of files in the README."""
    lines = (folder / "README.md").read_text().splitlines()
    return " ".join(line.split("|")[1] for line in lines if line.startswith("| `"))


def test_nothing_is_written_over(retl: Retl, tmp_path: Path) -> None:
    """Where one of the files is there, none is written; other files do not matter."""
    (tmp_path / "shop/syncs").mkdir(parents=True)
    (tmp_path / "shop/notes.txt").write_text("mine")
    (tmp_path / "shop/syncs/users.yml").write_text("mine")

    code, _, err = retl("init", "shop")

    assert (2, True) == (code, "there is a file syncs/users.yml already, and nothing was written" in err)
    assert ["notes.txt", "syncs"] == sorted(path.name for path in (tmp_path / "shop").iterdir())
    (tmp_path / "shop/syncs/users.yml").unlink()
    assert 0 == retl("init", "shop")[0]
    assert 2 == retl("init", "shop")[0]
    assert "mine" == (tmp_path / "shop/notes.txt").read_text()
