"""The operating system's errors as retl's own: what happened, where, and what to do now."""

import errno
import os
from pathlib import Path

from retl.errors import ConfigError, ExternalError, RetlError, StorageError

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
    return kind(f"the system refuses: {reason(error)}", where=where or named, hint=hint)


def reason(error: OSError) -> str:
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


def _is_about_memory(error: ImportError) -> bool:
    return any(words in str(error).lower() for words in _MEMORY_WORDS)
