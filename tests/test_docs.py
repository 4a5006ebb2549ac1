"""The docs say what the program does."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from retl.cli.commands import command_of
from retl.cli.main import cli
from retl.errors import RetlError

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
EXAMPLE = ("models", "syncs", "data", "retl.yml")


def block(language: str, number: int = 0) -> str:
    """A fenced block of the README, by its language and its place among those."""
    found: list[str] = re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
    return found[number]


def without_times(text: str) -> str:
    """Text in which every duration is the same, and every moment."""
    text = re.sub(r"\(\d+\.\d s\)", "(0.0 s)", text)
    return re.sub(r'"timestamp":"[^"]*"', '"timestamp":"now"', text)


@pytest.fixture
def example(tmp_path: Path) -> Path:
    """A copy of the example project."""
    for name in EXAMPLE:
        source = ROOT / name
        (shutil.copytree if source.is_dir() else shutil.copy)(source, tmp_path / name)
    return tmp_path


@pytest.mark.thorough
def test_the_session_on_the_first_screen_prints_what_it_says(example: Path) -> None:
    """Each command of the README's first session prints, in the example project, exactly what follows it."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = {"PATH": path, "HOME": str(example), "COLUMNS": "80", "LANG": "C.UTF-8", "PYTHONUTF8": "1"}
    printed = ""
    for line in block("console").splitlines():
        if line.startswith("$ "):
            done = subprocess.run(
                ["bash", "-c", line[2:]],
                cwd=example,
                env=environment,
                capture_output=True,
                text=True,
                check=False,
            )
            assert done.returncode == 0, done.stderr
            printed += f"{line}\n{done.stdout}"

    assert without_times(block("console")) == without_times(printed)


@pytest.mark.parametrize(("language", "path"), [("sql", "models/users.sql"), ("yaml", "syncs/users.yml")])
def test_the_files_on_the_first_screen_are_those_of_the_example(language: str, path: str) -> None:
    """The model and the sync that the README shows are the example's, to the letter."""
    title, text = block(language).split("\n", 1)

    assert title.endswith(f" {path}")
    assert (ROOT / path).read_text(encoding="utf-8") == text


@pytest.mark.parametrize("name", sorted(cli.commands))
def test_every_command_is_in_the_readme(name: str) -> None:
    """The README's table of commands names each command."""
    assert re.search(rf"^\| `retl {name}\b", README, re.MULTILINE), name


@pytest.mark.parametrize("name", sorted(cli.commands))
def test_every_command_and_option_has_help(name: str) -> None:
    """Each command says what it does, and so does each of its options."""
    command = command_of(name)

    assert command.help
    for parameter in command.params:
        assert not isinstance(parameter, click.Option) or parameter.help, parameter.name


def test_every_dependency_has_its_reason() -> None:
    """The README gives a reason for each dependency of pyproject.toml, and for no other."""
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    listed = re.search(r"^dependencies = \[\n(.*?)^\]", project, re.MULTILINE | re.DOTALL)
    assert listed is not None
    required = set(re.findall(r'"([a-z0-9.-]+)', listed[1]))
    table = README.split("## Dependencies")[1].split("\nExtras ")[0]
    reasons = set(re.findall(r"^\| `([a-z0-9.-]+)` \| ", table, re.MULTILINE))

    assert required == reasons


def test_every_extra_has_its_reason_and_can_be_installed() -> None:
    """The README gives a reason for each extra of users; docs and hints name none that is not there."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    extras = set(project["project"]["optional-dependencies"])
    table = README.split("## Dependencies")[1].split("\nExtras ")[1]
    reasons = {
        one
        for row in re.findall(r"^\| (`[a-z`, ]+) \| .+ \| .+ \|$", table, re.MULTILINE)
        for one in re.findall(r"`(\w+)`", row)
    }
    pages = [
        ROOT / "README.md",
        ROOT / "CHANGELOG.md",
        *(ROOT / "docs").rglob("*.md"),
        *(ROOT / "retl").rglob("*.py"),
    ]
    named = {
        one
        for page in pages
        for names in re.findall(r"'(?:\.|retl)\[([a-z0-9,-]+)\]'", page.read_text(encoding="utf-8"))
        for one in names.split(",")
    }

    assert extras - {"browser", "lint", "test"} == reasons
    assert set() == named - extras


def errors_below(kind: type[RetlError]) -> Iterator[type[RetlError]]:
    """A class of errors, and all that are made of it."""
    yield kind
    for one in kind.__subclasses__():
        yield from errors_below(one)


def test_the_table_of_failures_has_the_programs_codes() -> None:
    """docs/failures.md names every error code but those of groups, each with the exit code that it has."""
    page = (ROOT / "docs/failures.md").read_text(encoding="utf-8")
    listed = set(re.findall(r"^\| [^|]+ \| (\d+)[\d, ]* \| `(\w+)` \|", page, re.MULTILINE))
    known = {(str(one.exit_code), one.code) for one in errors_below(RetlError)}

    assert listed - {("130", "interrupted")} <= known
    assert {code for _, code in listed} == {one.code for one in errors_below(RetlError)} - {"error"}


def test_links_of_the_docs_lead_somewhere() -> None:
    """Each relative link in README and docs names a file that is there."""
    for page in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))):
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name}: {target}"
