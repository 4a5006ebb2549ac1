"""The working folder: where DuckDB has a state of a bucket while a command works with it."""

import atexit
import os
import shutil
import tempfile
from contextlib import suppress
from pathlib import Path

from filelock import FileLock, Timeout

BEGINNING = f"retl-state-{os.getuid()}-" if hasattr(os, "getuid") else "retl-state-"
"""The beginning of the names of such folders, in the system's folder for temporary files."""

_IN_USE = ".in-use"

_folders: dict[str, Path] = {}
_locks: list[FileLock] = []


def working_folder(of: str) -> Path:
    """The folder of this process for the states of one place, made when it is first asked for."""
    if of not in _folders:
        _remove_left()
        _folders[of] = _make()
        atexit.register(shutil.rmtree, _folders[of], ignore_errors=True)
    return _folders[of]


def _make() -> Path:
    """A new folder that is locked; another process may find it before it is, and remove it."""
    while True:
        folder = Path(tempfile.mkdtemp(prefix=BEGINNING))
        lock = FileLock(folder / _IN_USE)
        with suppress(FileNotFoundError):
            lock.acquire()
            if (folder / _IN_USE).exists():
                _locks.append(lock)
                return folder


def _remove_left() -> None:
    """Remove the folders of killed processes, as rows are in them."""
    for folder in Path(tempfile.gettempdir()).glob(f"{BEGINNING}*"):
        if folder.is_symlink() or not (folder / _IN_USE).is_file():
            continue
        with suppress(Timeout, OSError), FileLock(folder / _IN_USE, timeout=0):
            shutil.rmtree(folder, ignore_errors=True)
