"""The folders and sync files of a project, found by their names alone, before anything in them is read."""

import os
import re
from contextlib import suppress
from pathlib import Path

from retl.system import read_file

ENDINGS = (".yml", ".yaml")
"""The endings of sync files."""

MARKS = ("retl.yml", "syncs", "models")
"""Names of which one in a folder makes it a project folder."""

_LARGEST = 1_000_000
"""Bytes of a sync file; see `retl.forms.nodes`."""


def absolute(path: Path) -> Path:
    """A path from the root on; links are kept, as a mounted sync file may lead out of the project."""
    return Path(os.path.abspath(path))


def root_of(path: Path) -> Path:
    """The project folder that a file or a folder belongs to; see `retl.config.project.find_project`."""
    start = absolute(path)
    folder = start if start.is_dir() else start.parent
    around = [folder, *folder.parents]
    for place in around:
        if (place / "retl.yml").is_file():
            return place
    for inside in ("syncs", "models"):  # in this order: the models above may be those of dbt
        for place in around:
            if (place / inside).is_dir():
                return place
    return folder


def files_in(folder: Path) -> list[Path]:
    """The sync files that a folder holds, sorted; none where there is no such folder."""
    if not folder.is_dir():
        return []
    return sorted(
        path
        for path in folder.iterdir()
        if path.suffix in ENDINGS and path.is_file() and path.name != "retl.yml" and path.name[0] != "."
    )


def name_in(path: Path) -> str | None:
    """The name that a sync file gives to its sync, though the rest may be wrong; None where it is none."""
    with suppress(OSError, UnicodeDecodeError):
        text = read_file(path, _LARGEST).decode("utf-8-sig")
        if not re.search(r"^(track|audience|identify|group):", text, re.MULTILINE):
            return None
        written = re.search(r"^name:(.*)$", text, re.MULTILINE)
        if written is None:
            return path.stem
        name = re.fullmatch(r"\s*(['\"]?)([\w.-]+)\1\s*(?:\s#.*)?", written[1])
        return name[2] if name else None
    return None
