"""Starting: each command loads the modules that it needs, and no others."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

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
    """Those of the modules that take long to load, by the names of their packages."""
    return {name.split(".")[0] for name in modules} & {
        "asyncio",
        "dateutil",
        "dotenv",
        "duckdb",
        "filelock",
        "jsonschema_rs",
        "jwt",
        "numpy",
        "pandas",
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
    }


@pytest.mark.parametrize("arguments", [["--help"], ["--version"]])
def test_help_loads_no_library_but_click(arguments: list[str]) -> None:
    """`retl --help` and `retl --version` load click, a few modules of retl's, and nothing that is heavy."""
    found = loaded_by(*arguments)

    assert set() == heavy(found)
    assert len(found) < 200


@pytest.mark.parametrize(("words", "answer"), [("retl ru", "plain,run\n"), ("retl ", "plain,status\n")])
def test_completing_a_command_loads_no_library_but_click(words: str, answer: str) -> None:
    """The shell's completion of a command's name loads as little as the help."""
    program = "import atexit, sys; atexit.register(lambda: print(*sys.modules, file=sys.stderr));"
    done = subprocess.run(
        [sys.executable, "-c", f"{program} from retl.cli.main import main; main()"],
        env={**os.environ, "_RETL_COMPLETE": "bash_complete", "COMP_WORDS": words, "COMP_CWORD": "1"},
        capture_output=True,
        text=True,
        check=True,
    )

    assert done.stdout.endswith(answer)
    assert set() == heavy(set(done.stderr.split()))
    assert len(done.stderr.split()) < 220
