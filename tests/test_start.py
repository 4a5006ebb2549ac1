"""Starting: each command loads the modules that it needs, and no others."""

import json
import os
import subprocess
import sys
from pathlib import Path

import duckdb
import pytest

from retl.sandbox.server import Sandbox

PROGRAM = """
import json, sys
from retl.cli.main import execute
code = execute(sys.argv[1:])
print(json.dumps([code, sorted(sys.modules)]), file=sys.stderr)
"""


def loaded_by(*arguments: str, cwd: Path | None = None, **env: str) -> set[str]:
    """The modules that a process has when a command is through, whose last line on stderr they are."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, *arguments],
        cwd=cwd,
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        check=True,
    )
    code, modules = json.loads(done.stderr.splitlines()[-1])
    assert code == 0, done.stderr
    return set(modules)


def heavy(modules: set[str]) -> set[str]:
    """Packages that take long to load, or are needed by some commands alone, among those of the modules."""
    return {name.split(".")[0] for name in modules} & {
        "apprise",
        "asyncio",
        "dateutil",
        "dotenv",
        "duckdb",
        "filelock",
        "jinja2",
        "jsonschema_rs",
        "jwt",
        "numpy",
        "openlineage",
        "opentelemetry",
        "pandas",
        "prometheus_client",
        "pyarrow",
        "pydantic",
        "requests",
        "rich",
        "ruamel",
        "segment",
        "sqlalchemy",
        "sqlglot",
        "sqlite3",
        "ssl",
        "urllib3",
        "vl_convert",
    }


@pytest.mark.parametrize("arguments", [["--help"], ["--version"]])
def test_help_loads_no_library_but_click(arguments: list[str]) -> None:
    """`retl --help` and `retl --version` load click, a few modules of retl's, and nothing that is heavy."""
    found = loaded_by(*arguments)

    assert set() == heavy(found)
    assert len(found) < 200


def completed(words: str, cwd: Path | None = None) -> tuple[list[str], set[str]]:
    """The words that a shell proposes for the last one, and the modules that this takes."""
    program = "import atexit, sys; atexit.register(lambda: print(*sys.modules, file=sys.stderr));"
    number = str(len(words.split()) - (not words.endswith(" ")))
    done = subprocess.run(
        [sys.executable, "-c", f"{program} from retl.cli.main import main; main()"],
        env={**os.environ, "_RETL_COMPLETE": "bash_complete", "COMP_WORDS": words, "COMP_CWORD": number},
        cwd=cwd,
        capture_output=True,
        text=True,
        check=True,
    )
    return [line.partition(",")[2] for line in done.stdout.split()], set(done.stderr.split())


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        ("retl ru", ["run"]),
        ("retl run ", ["b", "users"]),
        ("retl plan b u", ["users"]),
        ("retl explain x", []),
    ],
)
def test_completing_a_name_loads_no_library_but_click(words: str, answer: list[str], project: Path) -> None:
    """The shell's completion of a command's name, or of a sync's, loads as little as the help."""
    (project / "syncs/other.yml").write_text("name: b\nidentify: {}\n")
    (project / "syncs/notes.yml").write_text("no: sync\n")

    found, modules = completed(words, project / "syncs")

    assert answer == found
    assert set() == heavy(modules)
    assert len(modules) < 230


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("words", "answer"),
    [
        ("retl run users --sk", ["--skip-if-running"]),
        ("retl run --force re", ["rejected", "removed"]),
        ("retl run users --json u", []),
        ("retl schema --p", ["--project"]),
    ],
)
def test_options_are_completed_too(words: str, answer: list[str], project: Path) -> None:
    """The options of a command are completed, and what they take; no sync is proposed twice."""
    assert answer == completed(words, project)[0]


def test_bash_completes(project: Path) -> None:
    """The line of the README makes bash complete the names of syncs; zsh and fish get theirs."""
    readme = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    line = 'eval "$(_RETL_COMPLETE=bash_source retl)"'
    script = f"{line}; COMP_WORDS=(retl run us); COMP_CWORD=2; _retl_completion retl; echo ${{COMPREPLY[@]}}"
    done = subprocess.run(
        ["bash", "-c", script],
        cwd=project,
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        check=True,
    )

    assert "users\n" == done.stdout
    assert all(one in readme for one in (line, "zsh_source", "_RETL_COMPLETE=fish_source retl | source"))


NEEDED = {"dotenv", "duckdb", "filelock", "pydantic", "rich", "ruamel"}
"""Packages that every command loads that reads a sync and its state, and prints."""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Give a project whose one sync reads a DuckDB file, and sends to the Segment of the environment."""
    with duckdb.connect(tmp_path / "shop.duckdb") as shop:
        shop.execute("CREATE TABLE users AS SELECT 'u1' AS user_id, 'a@x.com' AS email, now() AS seen_at")
    (tmp_path / "syncs").mkdir()
    (tmp_path / "syncs/users.yml").write_text(
        """\
sql: SELECT * FROM users
primary_key: user_id
warehouse: duckdb:///shop.duckdb
segment: {endpoint: "${ENDPOINT:-file:calls.ndjson}", write_key: key}
receivers: {insider: {language: email}, miso: {}}
identify: {user_id: user_id, traits: {email: email, seen: seen_at}}
"""
    )
    return tmp_path


@pytest.mark.thorough
def test_status_loads_no_warehouse_and_no_destination(project: Path) -> None:
    """`retl status` loads what reads a sync and its state, and nothing that moves rows or calls."""
    loaded_by("run", "users", cwd=project)

    found = loaded_by("status", cwd=project)

    assert NEEDED == heavy(found)
    assert not {"retl.pipeline", "retl.delivery.file", "retl.warehouse.duckdb", "rich.progress"} & found
    assert len(found) < 520


@pytest.mark.thorough
def test_a_run_over_duckdb_loads_no_other_warehouse(project: Path) -> None:
    """A run over DuckDB in which nothing changed loads Arrow, and neither SQLAlchemy, a parser nor checks."""
    loaded_by("run", "users", cwd=project)

    found = loaded_by("run", "users", cwd=project)

    assert {*NEEDED, "numpy", "pyarrow"} == heavy(found)
    assert not {"pyarrow.compute", "retl.receivers.data_file", "retl.sandbox.server", "rich.progress"} & found
    assert len(found) < 640


@pytest.mark.thorough
def test_a_run_loads_no_client_unless_segment_asks_to_wait(project: Path) -> None:
    """Segment's client, and all that it brings along, is loaded for a `Retry-After` that is no number."""
    with Sandbox() as sandbox:
        sends = loaded_by("run", "users", cwd=project, ENDPOINT=sandbox.url)
        sends_nothing = loaded_by("run", "users", cwd=project, ENDPOINT=sandbox.url)

    assert {"jsonschema_rs"} == heavy(sends) - heavy(sends_nothing)
    assert {"ssl", "urllib3"} == heavy(sends_nothing) - {*NEEDED, "numpy", "pyarrow"}
    assert len(sends_nothing) < 680


def test_a_command_hardly_looks_for_garbage(project: Path) -> None:
    """Python looks through the objects of a command for garbage a few times at most, and not at its exit."""
    program = """
import atexit, gc, sys
looks = []
gc.callbacks.append(lambda phase, info: looks.append(phase))
atexit.register(lambda: print(looks.count("start"), gc.get_freeze_count(), file=sys.stderr))
from retl.__main__ import main
main()
"""
    done = subprocess.run(
        [sys.executable, "-c", program, "check", "users"], cwd=project, capture_output=True, text=True
    )

    looks, frozen = map(int, done.stderr.splitlines()[-1].split())

    assert looks < 10
    assert frozen > 50_000
