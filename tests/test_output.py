"""What retl prints never stops what it does."""

import json
import os
import subprocess
import sys
import threading
from io import BufferedWriter, FileIO
from pathlib import Path

import pytest
from harness import TWO_SYNCS, runner, two_syncs

from retl.cli import output
from retl.cli.console import Steady
from retl.cli.output import Outlet
from retl.sandbox.failures import Reply
from retl.sandbox.server import Sandbox


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project with two syncs, whose rows hold characters that few encodings have."""
    return two_syncs(tmp_path)


def start(project: Path, *arguments: str, shell: str = "", **environment: str) -> tuple[int, bytes, str]:
    """Run retl in a process of its own, its streams led by `shell`; gives code, stdout and stderr."""
    command = f'exec "$0" -m retl "$@" {shell}'
    done = subprocess.run(
        ["bash", "-c", command, sys.executable, *arguments],
        cwd=project,
        env={**os.environ, **environment},
        capture_output=True,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr.decode()


ESCAPES = "\x1b[2Jx\x9b1m\x07\x1b]0;title\x07"
"""Signs by which a terminal clears itself, changes colours, rings and takes a title."""


@pytest.mark.rule("S7")
def test_no_row_and_no_answer_steers_the_terminal(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Signs that a terminal obeys are spelled out, whether a key or the answer of a server holds them."""
    monkeypatch.chdir(project)
    retl = runner(capsys)
    codes = " || ".join(f"chr({ord(sign)})" for sign in ESCAPES)
    twice = f"SELECT {codes} AS user_id, 'x' AS city UNION ALL SELECT {codes}, 'y' UNION ALL SELECT 'u1', 'z'"
    with Sandbox() as sandbox:
        sandbox.script([Reply(401, body=f"key{ESCAPES}")])
        text = TWO_SYNCS.replace("SELECT 'u1' AS user_id, 'Zürich → 東京' AS city", twice)
        text += f"segment: {{endpoint: '{sandbox.url}', write_key: geheim}}\n"
        (project / "syncs/a.yml").write_text(text, encoding="utf-8")
        said = [retl("run", "a"), retl("rejected", "a"), retl("explain", "a", ESCAPES)]

    assert "key\\x1b[" in said[0][2]
    assert "\\x1b[2Jx" in said[1][1]
    assert [] == [text for _, *texts in said for text in texts if set("\x1b\x07\x9b") & set(text)]


def test_colours_are_not_spelled_out(capsys: pytest.CaptureFixture[str]) -> None:
    """On a terminal retl's own colours are the terminal's to obey."""
    printed = Steady(force_terminal=True, color_system="standard", width=40)
    printed.print("a\x1bb", style="red", highlight=False)

    assert "\x1b[31ma\\x1bb\x1b[0m\n" == capsys.readouterr().out


@pytest.mark.slow
def test_a_reader_that_goes_away_stops_no_sync(project: Path) -> None:
    """Where the reader of the output is gone, as with `| head`, all syncs run, and their code counts."""
    reading, writing = os.pipe()
    os.close(reading)

    done = subprocess.run(
        [sys.executable, "-m", "retl", "run", "syncs", "--sandbox", "--json"],
        cwd=project,
        env={**os.environ, "RETL_LOG_LEVEL": "debug"},
        stdout=writing,
        stderr=writing,
        check=False,
    )
    os.close(writing)

    assert done.returncode == 0
    assert {"a.duckdb", "b.duckdb"} <= {path.name for path in (project / "state/sandbox").iterdir()}


@pytest.mark.slow
def test_a_disk_without_room_for_the_output_is_said(project: Path) -> None:
    """Output that could not be written is said on stderr, with exit code 3 after a run that went well."""
    code, _, err = start(project, "run", "syncs", "--sandbox", "--json", shell="> /dev/full")

    assert code == output.LOST
    assert err == "error: the output could not be written in full (No space left on device)\n"
    assert {"a.duckdb", "b.duckdb"} <= {path.name for path in (project / "state/sandbox").iterdir()}


@pytest.mark.slow
def test_closed_streams_are_no_place_for_files(project: Path) -> None:
    """Started without stdin, stdout and stderr, retl works, and no file gets their numbers."""
    code, _, _ = start(project, "run", "syncs", "--sandbox", shell="<&- >&- 2>&-")

    assert code == 0
    assert start(project, "reset", "a", "--sandbox", shell="<&-")[0] == 2


@pytest.mark.slow
def test_an_encoding_that_lacks_characters_gets_others_in_their_place(project: Path) -> None:
    """Text that stdout cannot encode is spelled out; JSON stays the same JSON."""
    code, out, err = start(project, "plan", "a", PYTHONIOENCODING="cp1252")

    assert (0, "") == (code, err)
    assert b"  +  1  added  -> 1 identify" in out
    assert "Zürich -> \\u6771".encode("cp1252") in out

    code, out, err = start(project, "plan", "a", "--json", PYTHONIOENCODING="cp1252")

    assert "Zürich → 東京" in json.loads(out)["samples"][0]["call"]


def test_a_file_name_that_is_not_text_can_be_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A byte of a file's name that is not UTF-8 is printed as its code."""
    for name in ("stdin", "stdout", "stderr"):
        monkeypatch.setattr(sys, name, getattr(sys, name))  # so that they come back after `set_up`
    output.set_up()

    assert os.fsdecode(b"a\xff").encode("utf-8", "retl") == b"a\\udcff"


def test_an_outlet_takes_all_bytes_whatever_happens_to_them() -> None:
    """A closed reader is nothing to speak of, a full disk is remembered, and a full pipe is waited for."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    read: list[bytes] = []

    def read_all() -> None:
        with open(reading, "rb") as file:
            read.append(file.read())

    reader = threading.Thread(target=read_all)
    with FileIO(writing, "wb") as raw, BufferedWriter(Outlet(raw)) as stream:
        reader.start()
        stream.write(b"x" * 300_000)
        stream.flush()
    reader.join()
    assert [b"x" * 300_000] == read

    reading, writing = os.pipe()
    os.close(reading)
    with FileIO(writing, "wb") as raw:
        outlet = Outlet(raw)
        assert (3, None) == (outlet.write(b"abc"), outlet.lost)

    with FileIO("/dev/full", "wb") as raw:
        outlet = Outlet(raw)
        assert outlet.write(b"abc") == 3
        assert outlet.lost is not None
