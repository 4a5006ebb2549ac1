"""The files and machines that a model in DuckDB may reach, as the settings in the URL say.

DuckDB reads any file that its process may read, and files of other machines, unless it is told otherwise.
Neither a model nor DuckDB itself can take the restriction back while the database is open.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb

from retl.address import Address, shown
from retl.errors import ConfigError

_FILES = ("allowed_directories", "allowed_paths")

SETTINGS = (*_FILES, "enable_external_access", "lock_configuration")
"""Settings that DuckDB takes only once its database is open, and in this order."""

_WORDS = {"true": True, "1": True, "on": True, "false": False, "0": False, "off": False}

HINT = (
    "The warehouse's URL says what it may read: enable_external_access, allowed_directories, allowed_paths."
)


@dataclass(frozen=True)
class Access:
    """Files and machines that DuckDB may reach.

    Attributes:
        is_restricted: whether only what is allowed; else all that the process may reach.
        allowed: absolute paths by setting: of folders, and of files.
        is_locked: whether no setting can be changed any more.
    """

    is_restricted: bool
    allowed: dict[str, list[str]]
    is_locked: bool

    def restrict(self, connection: duckdb.DuckDBPyConnection) -> None:
        """Have DuckDB hold to it, for as long as the database is open."""
        for setting, paths in self.allowed.items():
            connection.execute(f"SET GLOBAL {setting} = ?", [paths])
        if self.is_restricted:
            connection.execute("SET GLOBAL enable_external_access = false")
        if self.is_locked:
            connection.execute("SET GLOBAL lock_configuration = true")


def access_of(url: Address, root: Path) -> Access:
    """The access that the settings in a URL give to a model.

    Args:
        url: of the warehouse; a setting may stand there several times.
        root: the project folder, which relative paths start from.

    Raises:
        ConfigError: folders or files are allowed beside all others, or this DuckDB cannot keep to them.
    """
    said = {key.lower(): _several(value) for key, value in url.query.items() if key.lower() in SETTINGS}
    allowed = {
        setting: [os.path.normpath(root.absolute() / path) for path in said[setting]]
        for setting in _FILES
        if setting in said
    }
    external, locked = (
        [_is_on(setting, value, url) for value in said.get(setting, ())]
        for setting in ("enable_external_access", "lock_configuration")
    )
    if allowed and any(external):
        raise ConfigError(
            f"{next(iter(allowed))} allows nothing more beside enable_external_access=true",
            where=shown(url),
            hint="leave enable_external_access out, or write enable_external_access=false",
        )
    if allowed and not keeps_to_folders(duckdb.__version__):
        raise ConfigError(
            f"DuckDB {duckdb.__version__} lets a model leave allowed folders by links and by `.` in a path",
            where=shown(url),
            hint="pip install 'duckdb>=2', or write enable_external_access=false alone",
        )
    return Access(bool(allowed) or False in external, allowed, True in locked)


def keeps_to_folders(version: str) -> bool:
    """Whether that DuckDB looks at a path as the system does.

    1.4 lets a model leave an allowed folder by a link, and by `data/./../other`.
    """
    return int(version.partition(".")[0]) >= 2


def _is_on(setting: str, value: str, url: Address) -> bool:
    if value.lower() not in _WORDS:
        raise ConfigError(f"{setting} is neither true nor false", where=shown(url))
    return _WORDS[value.lower()]


def _several(value: Any) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else tuple(value)
