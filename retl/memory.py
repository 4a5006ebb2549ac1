"""The memory that DuckDB may take; beyond it, DuckDB goes on in a temporary folder."""

import os
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from retl.errors import ConfigError

if TYPE_CHECKING:
    import duckdb

VARIABLE = "RETL_MEMORY_LIMIT"

MOST = 1_000_000_000
"""Bytes that are taken where nothing is said, however much there is."""

LEAST = 128_000_000
"""Bytes with which DuckDB gets nowhere."""

WAREHOUSE_SHARE = 0.15
"""The part of the limit that goes to a warehouse that is DuckDB, too."""

UNDER_WAY = 64_000_000
"""Bytes of the limit that are left to rows and calls on their way, which DuckDB does not count."""

CANDIDATES = 64_000_000
"""Bytes that are taken for a state where nothing is said and only candidates are read, however many."""

CANDIDATES_AT_ONCE = 300_000
"""How many candidates DuckDB has room for. It works on 2,048 at a time, but in many steps at once, each with
a copy of its own: rows of 640 bytes need 96 MB, those of 1.4 kB 128 MB."""

_UNITS = {"": 1, "k": 1_000, "m": 1_000_000, "g": 1_000_000_000, "ki": 1 << 10, "mi": 1 << 20, "gi": 1 << 30}

_GROUP_LIMITS = (
    Path("/sys/fs/cgroup/memory.max"),  # version 2
    Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
)


def memory_limit(environ: Mapping[str, str]) -> int:
    """The bytes that DuckDB may take: as the environment says, else half of what there is, at most `MOST`.

    Raises:
        ConfigError: the environment says something else than a size, or too little.
    """
    written = environ.get(VARIABLE, "").strip()
    return parsed(written) if written else min(MOST, available() // 2)


def state_memory(limit: int) -> int:
    """The bytes of the limit that DuckDB may take for a state, of which it needs the most."""
    return max(limit // 2, limit - UNDER_WAY - warehouse_memory(limit))


def is_said(environ: Mapping[str, str]) -> bool:
    """Whether the environment says how much memory DuckDB may take."""
    return bool(environ.get(VARIABLE, "").strip())


def hold_to_candidates(db: "duckdb.DuckDBPyConnection", most: int, row_bytes: float) -> None:
    """Let DuckDB take little memory from now on, as it is about to look at candidates alone.

    Wide rows need more. One thread does the work, as each one needs memory of its own.

    Args:
        db: a connection to the state that is not busy.
        most: bytes that it may take in any case.
        row_bytes: the width of a candidate, about.
    """
    wanted = max(CANDIDATES, int(row_bytes * CANDIDATES_AT_ONCE))
    db.execute("SET memory_limit = ?", [f"{min(most, wanted)}B"])
    db.execute("SET threads = 1")


def hold_to(db: "duckdb.DuckDBPyConnection", most: int) -> None:
    """Let DuckDB take so many bytes again, and all threads."""
    db.execute("SET memory_limit = ?", [f"{most}B"])
    db.execute("RESET threads")


def allowed(db: "duckdb.DuckDBPyConnection") -> int:
    """The bytes that DuckDB may take, as it is set."""
    ((limit,),) = db.execute("SELECT current_setting('memory_limit')").fetchall()
    number, unit = limit.split()
    return int(float(number) * (1 << 10 * ("bytes", "KiB", "MiB", "GiB", "TiB").index(unit)))


def warehouse_memory(limit: int) -> int:
    """The bytes of the limit that DuckDB may take for a warehouse."""
    return int(limit * WAREHOUSE_SHARE)


def parsed(written: str) -> int:
    """The bytes of `512MB`, `1GB` or `750MiB`.

    Raises:
        ConfigError: it is no size, or less than `LEAST`.
    """
    match = re.fullmatch(r"([0-9]{1,12})\s*([kmg]?i?)b?", written, re.IGNORECASE)
    unit = match and _UNITS.get(match[2].lower())
    if match is None or unit is None:
        raise ConfigError(
            f"{written!r} is not a size of memory", where=VARIABLE, hint="write 512MB, 1GB or 750MiB"
        )
    size = int(match[1]) * unit
    if size < LEAST:
        raise ConfigError(
            f"{written!r} is too little memory",
            where=VARIABLE,
            hint=f"give DuckDB {LEAST // 1_000_000}MB or more; it goes on in a temporary folder beyond it",
        )
    return size


def available() -> int:
    """The bytes of this machine, or of the container, if that has a limit."""
    limits = (
        [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")] if hasattr(os, "sysconf") else [MOST * 2]
    )
    for path in _GROUP_LIMITS:
        with suppress(OSError, ValueError):  # no such file, or "max"
            limits.append(int(path.read_text(encoding="ascii")))
    return min(limits)


@dataclass(frozen=True)
class Room:
    """The memory and the disk that DuckDB may take for a warehouse.

    Attributes:
        memory: in bytes.
        scratch: the folder in which it goes on beyond that; made when it is needed, and removed.
        encrypted: whether what is written there is encrypted.
    """

    memory: int
    scratch: Path
    encrypted: bool = False
