"""A new project: a small one that runs at once, or one that reads a database."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path

from retl.config.json_schema import project_schema, sync_schema
from retl.errors import ConfigError
from retl.system import system_error

WAREHOUSES: Mapping[str, str] = {
    "duckdb": "duckdb://",
    "postgres": "postgresql://user:password@host/database",
    "mysql": "mysql://user:password@host/database",
    "sqlite": "sqlite:///data/shop.db",
    "snowflake": "snowflake://user:password@organization-account/database/schema?warehouse=name",
    "bigquery": "bigquery://project/dataset?credentials_path=/path/to/key.json",
    "spark": "sc://host:15002",
}
"""The databases for which there is an example of a URL, by the name of each."""

EMBEDDED = "duckdb"
"""The one that needs no server: the example's rows are a file in the project."""

_DOTTED = {"env.example", "gitignore"}
"""Files whose names begin with a dot in a project."""


@dataclass(frozen=True)
class NewProject:
    """A project that was made.

    Attributes:
        folder: where it is.
        files: its files, from the folder on.
        runs_at_once: whether it needs nothing more to be rehearsed.
    """

    folder: Path
    files: tuple[str, ...]
    runs_at_once: bool


def make_project(folder: Path, warehouse: str) -> NewProject:
    """Write a new project into a folder, which may be there already; no file is written over.

    Args:
        folder: the project folder.
        warehouse: a key of `WAREHOUSES`.

    Raises:
        ConfigError: one of the files is there already; nothing was written then.
        StorageError: a file cannot be written.
    """
    files = _files(folder, warehouse)
    for name in files:
        if (folder / name).exists() or (folder / name).is_symlink():
            raise ConfigError(
                f"there is a file {name} already, and nothing was written",
                where=str(folder),
                hint="name a new folder: retl init shop",
            )
    try:
        for name, text in files.items():
            path = folder / name
            for above in reversed([one for one in path.parents if not one.exists()]):
                above.mkdir()
                above.chmod(0o755)
            path.write_text(text, encoding="utf-8")
            path.chmod(0o644)  # unlike a state, it is for everybody who works on the project
    except OSError as error:
        raise system_error(error, str(folder)) or error from error
    return NewProject(folder, tuple(files), warehouse == EMBEDDED)


def _files(folder: Path, warehouse: str) -> dict[str, str]:
    """The texts of all files, by their paths."""
    url = WAREHOUSES[warehouse]
    is_embedded = warehouse == EMBEDDED
    filled = {
        "{data}": "| `data/users.csv` | the rows that the model reads |\n" if is_embedded else "",
        "{name}": folder.absolute().name,
        "{warehouse}": url if is_embedded else "${RETL_WAREHOUSE_URL}",
        "{url}\n": ""
        if is_embedded
        else f"\n# SQLAlchemy URL of the warehouse, which is only read:\nRETL_WAREHOUSE_URL={url}\n",
    }
    templates = resources.files("retl").joinpath("templates")
    found = dict(_texts(templates.joinpath("any")))
    found |= dict(_texts(templates.joinpath("duckdb" if is_embedded else "server")))
    for name, text in found.items():
        for mark, value in filled.items():
            text = text.replace(mark, value)
        found[name] = text
    found["schemas/sync.json"] = json.dumps(sync_schema(), indent=1) + "\n"
    found["schemas/retl.json"] = json.dumps(project_schema(), indent=1) + "\n"
    return found


def _texts(folder: Traversable, outer: str = "") -> Iterator[tuple[str, str]]:
    """The texts of a folder of the package, by their paths in a project."""
    for one in sorted(folder.iterdir(), key=lambda found: found.name):
        if one.is_dir():
            yield from _texts(one, f"{outer}{one.name}/")
        else:
            yield f"{outer}{'.' if one.name in _DOTTED else ''}{one.name}", one.read_text(encoding="utf-8")
