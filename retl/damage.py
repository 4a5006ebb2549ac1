"""DuckDB's errors about a state file as retl's own: damage, and a disk or memory that is full."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import duckdb

from retl.errors import RetlError, StateError, StorageError
from retl.system import is_there

_OUTSIDE = re.compile(
    r"No space left|Disk quota|Permission denied|Read-only file system|Input/output error|Too many open files"
)
"""Words of the operating system in DuckDB's errors: the disk is at fault, and the file may well be whole."""

_LOG = re.compile(r"replaying WAL|WAL does not match")

_FILE = re.compile(r"corrupt|checksum|enough bytes|deserializ|serialization error", re.IGNORECASE)
"""Words of DuckDB for bytes that are not those which it wrote. DuckDB 1 raises IOException for them, and
DuckDB 2 the base class of all its errors, so that a class alone tells nothing."""

_ENCRYPTED = re.compile(r"^(\w+ )*(Error: )?Computed AES tag differs")
"""Words of DuckDB for encrypted bytes that are not those which it wrote."""

_OF_A_QUERY = (
    duckdb.BinderException,
    duckdb.CatalogException,
    duckdb.ConstraintException,
    duckdb.ConversionException,
    duckdb.InvalidInputException,
    duckdb.OutOfRangeException,
    duckdb.ParserException,
)
"""Errors of a query or of a value, which may quote whatever words."""

_FOREIGN = re.compile(r"not a valid DuckDB|Is a directory")


def storage_error(error: BaseException, path: Path | None = None) -> RetlError | None:
    """The error where DuckDB finds the state damaged, runs out of disk or memory, or cannot write.

    Args:
        error: as DuckDB raised it.
        path: the state file; without it only DuckDB's own sentence names the file.

    Returns:
        None for errors that have other causes.
    """
    is_full = is_out_of_memory(error)
    if not isinstance(error, duckdb.Error) and not is_full:
        return None
    text = str(error)
    if _ENCRYPTED.search(text):
        return _damaged_file(error, path)
    if isinstance(error, _OF_A_QUERY):
        return None
    if not _OUTSIDE.search(text) and not is_full:
        if _LOG.search(text):
            return _damaged_log(error, path)
        if _FOREIGN.search(text):
            return not_readable(error, path)
        if _FILE.search(text) or isinstance(error, duckdb.SerializationException):
            return _damaged_file(error, path)
        cannot_write = isinstance(error, duckdb.TransactionException) and "write" in text.lower()
        if not cannot_write and not isinstance(error, duckdb.IOException):
            return None
    # DuckDB runs out of memory, too, where it cannot go on in its temporary folder.
    way = "raise RETL_MEMORY_LIMIT, or " if is_full else ""
    return StorageError(
        f"the state cannot be written ({_first_line(error)})",
        where=str(path) if path else None,
        hint=f"{way}make room on its disk, then run it again; nothing is lost",
    )


def is_out_of_memory(error: BaseException) -> bool:
    """Whether DuckDB has used up its memory; where Arrow reads its rows, the error is Arrow's."""
    if isinstance(error, OSError):
        return str(error).startswith("Out of Memory Error")
    return isinstance(error, duckdb.OutOfMemoryException)


def not_readable(error: BaseException, path: Path | None) -> StateError:
    """The error where DuckDB does not take a file for its own."""
    return _unusable("this is not a state file that retl can read", error, path, "move it away")


def _damaged_file(error: BaseException, path: Path | None) -> StateError:
    # A reset needs no row of the snapshot, and keeps calls that wait and the source of message ids.
    way = "try `retl reset`, which keeps the calls that wait; if that fails too, move it away"
    return _unusable("the state file is damaged", error, path, way)


def _unusable(sentence: str, error: BaseException, path: Path | None, way: str) -> StateError:
    return StateError(
        f"{sentence} ({_first_line(error)})",
        where=str(path) if path else None,
        hint=f"restore it from a backup; without one, {way}, and its log (.wal) with it. Identify and group "
        "syncs then send every row once, track and audience syncs take a silent baseline",
    )


def _damaged_log(error: BaseException, path: Path | None) -> StateError:
    log = f"{path}.wal" if path else "the log"
    return StateError(
        f"the log beside the state is damaged, or is that of another file ({_first_line(error)})",
        where=log,
        hint=f"move the log away, and leave the state where it is: mv {log} {log}.damaged; the next run "
        "finds again what the log held, and calls of it that had left may leave twice",
    )


def _first_line(error: BaseException) -> str:
    return str(error).splitlines()[0]


@contextmanager
def own_errors(path: Path) -> Iterator[None]:
    """Turn DuckDB's errors about a state file into errors of this program, and let others pass."""
    try:
        yield
    except duckdb.Error as error:
        found = storage_error(error, path)
        if found is None:
            raise
        raise found from error


def state_exists(path: Path) -> bool:
    """Whether there is a state file.

    Raises:
        StateError: there was one and it is missing: its log is left, or a link to it leads nowhere.
    """
    if is_there(path):
        return True
    log = path.with_name(f"{path.name}.wal")
    if path.is_symlink():
        raise StateError(
            f"the state file is a link to {path.readlink()}, where nothing is",
            where=str(path),
            hint="put the file back, or mount its disk; to start anew, remove the link",
        )
    if log.exists():
        raise StateError(
            "the state file is missing, though its log is there",
            where=str(path),
            hint=f"put the file back, beside its log, or restore it from a backup; to start anew, move {log} "
            "away",
        )
    return False
