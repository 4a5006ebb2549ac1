"""The operating system's errors as retl's own: what happened, where, and what to do now."""

import errno
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from retl.errors import ConfigError, ExternalError, RetlError, StorageError

T = TypeVar("T", str, Path)

_NO_ROOM = "make room on its disk (space, inodes or quota), then run it again; nothing is lost"
_RIGHTS = "correct the rights of it and its folder, or take another place, then run it again"
_PATH = "correct the path"
_OPEN_FILES = "raise the limit of open files (`ulimit -n`), then run it again"
_MEMORY = "give it more memory (`ulimit -v`, the container's limit), then run it again; nothing is lost"
_DEVICE = "see to the disk or the system, then run it again; nothing is lost"

_HINTS: tuple[tuple[type[RetlError], str, tuple[str, ...]], ...] = (
    (StorageError, _NO_ROOM, ("ENOSPC", "EDQUOT", "EFBIG")),
    (StorageError, _RIGHTS, ("EACCES", "EPERM", "EROFS", "ETXTBSY")),
    (StorageError, _MEMORY, ("ENOMEM",)),
    (ExternalError, _OPEN_FILES, ("EMFILE", "ENFILE")),
    (
        ConfigError,
        _PATH,
        ("ENOENT", "ENOTDIR", "EISDIR", "ELOOP", "ENAMETOOLONG", "EEXIST", "EINVAL", "EILSEQ", "ENXIO"),
    ),
)
"""The class of error and the hint for each error number, by its name in errno(3)."""

_BY_NUMBER = {
    getattr(errno, name): (kind, hint)
    for kind, hint, names in _HINTS
    for name in names
    if hasattr(errno, name)  # EDQUOT is not on every system
}

_MEMORY_WORDS = ("cannot allocate memory", "failed to map segment", "not enough memory")
"""Words of the loader of shared libraries in an ImportError where memory is short."""


def system_error(error: BaseException, where: str | None = None) -> RetlError | None:
    """The error to report where the operating system is the cause; None for any other.

    Args:
        where: the place to name; None takes the file that the error itself names.
    """
    if isinstance(error, MemoryError) or (isinstance(error, ImportError) and _is_about_memory(error)):
        return StorageError("there is not enough memory", where=where, hint=_MEMORY)
    if not isinstance(error, OSError):
        return None
    kind, hint = _BY_NUMBER.get(
        error.errno or 0, (StorageError if error.filename else ExternalError, _DEVICE)
    )
    if error.errno == errno.ENOENT and error.filename is None:  # os.getcwd alone names no file
        return ConfigError("the working folder is gone", where=where, hint="change to one that exists")
    named = os.fsdecode(error.filename) if isinstance(error.filename, str | bytes) else None
    return kind(f"the system refuses: {system_words(error)}", where=where or named, hint=hint)


def unloaded(error: ImportError | MemoryError | OSError, extra: str | None = None) -> RetlError:
    """The error to report where a library cannot be loaded; `extra` is the extra of retl that installs it."""
    if extra and isinstance(error, ModuleNotFoundError):
        return ConfigError(
            f"a library is missing that comes with an extra ({error})", hint=f"pip install 'retl[{extra}]'"
        )
    return system_error(error) or ConfigError(
        f"a library is missing or broken ({error})",
        hint="install retl anew: pip install --force-reinstall retl",
    )


def system_words(error: OSError) -> str:
    """The system's own sentence for an error, without number and path."""
    return error.strerror or str(error) or type(error).__name__


def is_there(path: Path) -> bool:
    """Whether there is something at a path.

    Raises:
        RetlError: that cannot be told, as the path is too long, leads through a file, or may not be read.
    """
    try:
        path.stat()
    except FileNotFoundError:
        return False
    except OSError as error:
        raise system_error(error, str(path)) or error from error
    return True


def is_file(path: Path) -> bool:
    """Whether there is a file at a path; a name that is too long is that of none.

    Raises:
        ConfigError: the way to it may not be read.
    """
    return _found(path, stat.S_ISREG)


def is_folder(path: Path) -> bool:
    """Whether there is a folder at a path; as `is_file`."""
    return _found(path, stat.S_ISDIR)


def _found(path: Path, is_kind: Callable[[int], bool]) -> bool:
    try:
        return is_kind(path.stat().st_mode)
    except (FileNotFoundError, NotADirectoryError, ValueError):  # ValueError: a character of code 0
        return False
    except OSError as error:
        if error.errno in (errno.ENAMETOOLONG, errno.ELOOP):
            return False
        raise ConfigError(f"cannot be read: {system_words(error)}", where=str(path), hint=_RIGHTS) from error


def expanded(path: Path) -> Path:
    """A path with the home folder in place of `~`.

    Raises:
        ConfigError: there is no such user, or no home folder.
    """
    try:
        return path.expanduser()
    except RuntimeError as error:
        raise ConfigError(
            "there is no home folder to put in place of `~`", where=str(path), hint=_PATH
        ) from error


def in_utf8(text: T, what: str = "this path") -> T:
    """A path or another text of the system as it is, where it is Unicode; DuckDB takes no other.

    Args:
        what: the word for it in the error.

    Raises:
        ConfigError: a byte of it is not UTF-8.
    """
    try:
        str(text).encode()
    except UnicodeEncodeError as error:
        raise ConfigError(f"{what} is not UTF-8 text", where=str(text), hint="take another") from error
    return text


def read_file(path: Path, most: int) -> bytes:
    """The bytes of a file; a pipe or a device, which may never end, is not read.

    Args:
        most: bytes that it may have.

    Raises:
        OSError: it cannot be read, is not a file, or is larger.
    """
    # Opened without waiting: a pipe would wait for somebody who writes to it.
    with open(os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0)), "rb") as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError(errno.EINVAL, "it is not a file", str(path))
        read = file.read(most + 1)
    if len(read) > most:
        raise OSError(errno.EFBIG, f"it is larger than {most:,} bytes", str(path))
    return read


def _is_about_memory(error: ImportError) -> bool:
    return any(words in str(error).lower() for words in _MEMORY_WORDS)
