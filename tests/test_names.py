"""A name never leads out of the folder of the states."""

import json
import os
from pathlib import Path

import pytest
from harness import Retl, runner
from hypothesis import example, given
from hypothesis import strategies as st

from retl.config.project import find_project, load_sync
from retl.errors import ConfigError
from retl.session import Session

SYNC = """\
sql: SELECT 'u1' AS id
primary_key: id
identify: {user_id: id}
warehouse: "duckdb://"
"""

ESCAPES = [
    *(
        "../../x",
        "../x",
        "/tmp/retl-must-not-write",
        "a/b",
        "a\\b",
        "..\\x",
        "C:x",
        "C:\\x",
        "\\\\host\\share",
    ),
    *(
        "..",
        ".",
        "...",
        "",
        " ",
        "a b",
        "~",
        "~root",
        "$HOME",
        "${x}",
        "a\0b",
        "a\nb",
        "a\n",
        "\x1b[2J",
        "a\u200bb",
    ),
    *(
        "\u2024\u2024/x",
        "\uff0e\uff0e\uff0fx",
        "a\u2215b",
        "\u202egnp",
        "e\u0301",
        "\ud83d\ude00",
        "users\u00a0",
        "a*",
        "?",
    ),
    *(
        "con",
        "NUL",
        "aux.eu",
        "Com1",
        "lpt9.a.b",
        "a" * 101,
        "sandbox/users",
        "users.duckdb/x",
        "users:stream",
    ),
]


@pytest.mark.rule("S4")
@pytest.mark.parametrize("key", ["name", "segment"])
@pytest.mark.parametrize("name", ESCAPES)
def test_a_name_that_leads_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str, key: str
) -> None:
    """A name with a path, a device or an odd sign is refused, and nothing is written."""
    (tmp_path / "project/syncs").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "project")
    written = json.dumps(name if key == "name" else {"name": name})
    Path("syncs/users.yml").write_text(f"{SYNC}{key}: {written}\n", encoding="utf-8")
    retl: Retl = runner(capsys)
    code, _, err = retl("run", "syncs/users.yml", "--sandbox")

    assert (2, True) == (code, "syncs/users.yml:5" in err)
    assert ["project", "syncs", "users.yml"] == sorted(path.name for path in tmp_path.rglob("*"))
    assert not Path("/tmp/retl-must-not-write").exists()


@pytest.mark.rule("S4")
@given(name=st.text(st.sampled_from("./\\:~aZ0_- \0\n\u2024\u2215"), max_size=12), rehearsal=st.booleans())
@example(name="a..b", rehearsal=True)
def test_each_name_that_is_taken_stays_in_its_folder(
    tmp_path_factory: pytest.TempPathFactory, name: str, rehearsal: bool
) -> None:
    """The state of whatever name is taken lies in the folder of the states, or in that of the rehearsals."""
    root = tmp_path_factory.getbasetemp() / "names"
    path = root / "syncs/users.yml"
    path.parent.mkdir(parents=True, exist_ok=True)
    text = f"{SYNC}name: {json.dumps(name)}\nsegment: {{name: {json.dumps(name)}}}\n"
    path.write_text(text, encoding="utf-8")
    project = find_project(path, {})
    folder = root / "state"
    try:
        state = Session(project, load_sync(path, project), rehearsal, folder).state_path
    except ConfigError:
        return

    assert str(folder / "sandbox" if rehearsal else folder) == os.path.dirname(os.path.normpath(state))
