"""Encryption of state files: DuckDB's own, with a key from the environment.

It covers the file, its log, and what DuckDB spills to disk. DuckDB writes encrypted files only with OpenSSL,
which comes with its extension `httpfs`.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import duckdb

from retl import sql
from retl.errors import ConfigError, StateError
from retl.mask import note

VARIABLE = "RETL_STATE_KEY"
"""The variable that holds the key; without it states are not encrypted."""

FORMER = "RETL_STATE_OLD_KEY"
"""The variable that holds the key of before, for `retl encrypt`."""

SHORTEST = 16
"""Characters of a key."""

STORAGE_VERSION = "v1.4.0"
"""DuckDB's file format, kept readable by the oldest DuckDB that retl supports."""

_INSTALL = """python -c "import duckdb; duckdb.execute('INSTALL httpfs')" """.strip()


@dataclass(frozen=True)
class StateKey:
    """The key of an encrypted state; `text` is a secret."""

    text: str = field(repr=False)


def state_key(environ: Mapping[str, str], variable: str = VARIABLE) -> StateKey | None:
    """The key that the environment has; None where it has none.

    Raises:
        ConfigError: it is too short, or holds characters that DuckDB would read in its own way.
    """
    text = environ.get(variable, "")
    if not text:
        return None
    if len(text) < SHORTEST or not re.fullmatch(r"[!-\[\]-~]+", text):
        raise ConfigError(
            f"the key must have {SHORTEST} or more ASCII characters, no spaces and no backslash",
            where=variable,
            hint="make one: openssl rand -hex 32",
        )
    return StateKey(note(text))


def prepare(db: duckdb.DuckDBPyConnection) -> None:
    """Let a connection write encrypted files, and spill to disk in no other way; before it has spilled.

    Raises:
        ConfigError: DuckDB has no OpenSSL.
    """
    try:
        db.execute("LOAD httpfs")
    except duckdb.Error as error:
        raise ConfigError(
            "DuckDB encrypts only with its extension `httpfs`, which is not installed for this version "
            f"({duckdb.__version__})",
            where=VARIABLE,
            hint=f"install it once for the user that runs retl: {_INSTALL}",
        ) from error
    db.execute("SET temp_file_encryption = true")


def attach(
    db: duckdb.DuckDBPyConnection, path: Path, name: str, key: StateKey | None, new: bool = False
) -> None:
    """Attach a state file under a name; the key is bound, so that it is in no SQL.

    Args:
        db: the connection, after `prepare` where there is a key.
        path: the file.
        name: by which SQL knows it.
        key: None where the file is not encrypted.
        new: whether the file is made.
    """
    options = [f"STORAGE_VERSION {sql.text(STORAGE_VERSION)}"] if new else []
    options += ["ENCRYPTION_KEY ?"] if key else []
    said = f" ({', '.join(options)})" if options else ""
    db.execute(f"ATTACH {sql.text(str(path))} AS {sql.name(name)}{said}", [key.text] if key else [])


def key_error(error: duckdb.Error, path: Path) -> StateError | None:
    """The error where the key does not fit the file; None for errors that have other causes."""
    text = str(error)
    lost = "without the key nobody can read it: to start anew, move it away"
    if "without a key" in text:
        return StateError(
            f"this state is encrypted, and {VARIABLE} is not set",
            where=str(path),
            hint=f"set {VARIABLE} to the key of the state (for retl encrypt: {FORMER}); {lost}",
        )
    if "Wrong encryption key" in text:
        return StateError(
            f"{VARIABLE} is not the key of this state",
            where=str(path),
            hint=f"set it to the key of the state (for retl encrypt: {FORMER}); {lost}",
        )
    if "is not encrypted" in text:
        return StateError(
            f"this state is not encrypted, though {VARIABLE} is set",
            where=str(path),
            hint=f"encrypt it: retl encrypt SYNC; or unset {VARIABLE}",
        )
    return None


def rewrite(
    path: Path,
    old: StateKey | None,
    new: StateKey | None,
    finish: Callable[[duckdb.DuckDBPyConnection, Path], None],
) -> None:
    """Write a state file anew with another key, or without one; a half-written file never takes its place.

    Args:
        path: the file.
        old: its key.
        new: the key that it gets.
        finish: completes the new file before it takes the place; it gets a connection that has it as `anew`,
            and its path.

    Raises:
        duckdb.Error: the disk is full, or cannot be written.
    """
    unfinished = path.with_name(f"{path.name}.new")
    for leftover in (unfinished, unfinished.with_name(f"{unfinished.name}.wal")):
        leftover.unlink(missing_ok=True)
    with duckdb.connect(":memory:") as db:
        if old or new:
            prepare(db)
        attach(db, path, "state", old)
        attach(db, unfinished, "anew", new, new=True)
        db.execute("COPY FROM DATABASE state TO anew")
        finish(db, unfinished)
        db.execute("CHECKPOINT anew; DETACH anew; CHECKPOINT state; DETACH state")
    unfinished.chmod(0o600)
    unfinished.replace(path)
