"""A model in DuckDB reads no more than the settings in the warehouse's URL let it read."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import pytest
from warehouses import rows

from retl.errors import ConfigError, ModelError
from retl.warehouse import open_warehouse
from retl.warehouse.duckdb_access import keeps_to_folders

SCHEMES = ("duckdb://", "duckdb:///data/shop.duckdb")

Read = Callable[[str, str], list[dict[str, Any]]]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A project folder with files inside and outside of `data/`, and a link from it to the outside."""
    for name in ("data", "database", "other"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.csv").write_text(f"place\n{name}\n", encoding="utf-8")
    (tmp_path / "data/link.csv").symlink_to(tmp_path / "other/a.csv")
    (tmp_path / "data/away").symlink_to(tmp_path / "other")
    with duckdb.connect(tmp_path / "data/shop.duckdb") as db:
        db.execute("CREATE TABLE users AS SELECT 1 AS user_id")
    return tmp_path


@pytest.fixture
def read(root: Path, monkeypatch: pytest.MonkeyPatch) -> Read:
    """Reads the rows of a model through a URL; the working folder is not the project's, but looks alike."""
    shutil.copytree(root, root / "elsewhere", symlinks=True)
    monkeypatch.chdir(root / "elsewhere")

    def read_rows(url: str, sql: str) -> list[dict[str, Any]]:
        with open_warehouse(url, root) as warehouse:
            return rows(warehouse, sql)

    return read_rows


READS = {
    "a file": "SELECT * FROM read_csv('other/a.csv')",
    "a file by its name": "SELECT * FROM 'other/a.csv'",
    "an absolute path": "SELECT content FROM read_text('{root}/other/a.csv')",
    "a file of the system": "SELECT content FROM read_text('/etc/passwd')",
    "bytes": "SELECT octet_length(content) AS n FROM read_blob('other/a.csv')",
    "names of files": "SELECT * FROM glob('other/*')",
    "another machine": "SELECT content FROM read_text('http://127.0.0.1:1/a')",
    "the way back": "SELECT * FROM read_csv('data/../other/a.csv')",
    "the way back, hidden": "SELECT * FROM read_csv('data/./../other/a.csv')",
    "a folder that begins alike": "SELECT * FROM read_csv('database/a.csv')",
    "a link to a file": "SELECT * FROM read_csv('data/link.csv')",
    "a link to a folder": "SELECT * FROM read_csv('data/away/a.csv')",
    "a pattern that meets a link": "SELECT * FROM read_csv('data/*.csv')",
    "a file in a subquery": "SELECT 1 AS n WHERE EXISTS (SELECT * FROM read_csv('other/a.csv'))",
}


@pytest.mark.rule("W10")
@pytest.mark.parametrize("sql", READS.values(), ids=READS)
@pytest.mark.parametrize("scheme", SCHEMES)
def test_nothing_outside(read: Read, root: Path, scheme: str, sql: str) -> None:
    """With `enable_external_access=false` a model reads no file and no other machine; the hint says why."""
    with pytest.raises(ModelError, match="Permission Error") as error:
        read(f"{scheme}?enable_external_access=false", sql.format(root=root))

    assert "enable_external_access" in str(error.value.hint)


@pytest.mark.rule("W10")
@pytest.mark.parametrize("sql", READS.values(), ids=READS)
@pytest.mark.parametrize("scheme", SCHEMES)
def test_nothing_outside_of_allowed_folders(read: Read, root: Path, scheme: str, sql: str) -> None:
    """Beside allowed folders and files nothing can be read, neither by a link nor by `..`."""
    with pytest.raises(ModelError, match="Permission Error"):
        read(f"{scheme}?allowed_directories=data&allowed_paths=other/b.csv", sql.format(root=root))


@pytest.mark.rule("W10")
@pytest.mark.parametrize(
    "setting",
    [
        "allowed_directories=data",
        "allowed_directories=database&allowed_directories=data",
        "allowed_paths=data/a.csv",
        "enable_external_access=false&Allowed_Directories={root}/data&lock_configuration=true",
    ],
)
@pytest.mark.parametrize("scheme", SCHEMES)
def test_what_is_allowed_is_read(read: Read, root: Path, scheme: str, setting: str) -> None:
    """Allowed folders and files are read, by paths relative to the project and by absolute ones."""
    for path in ("data/a.csv", f"{root}/data/a.csv"):
        found = read(f"{scheme}?{setting.format(root=root)}", f"SELECT * FROM read_csv('{path}')")
        assert [{"place": "data"}] == found


@pytest.mark.thorough
@pytest.mark.parametrize("setting", ["enable_external_access=false", "lock_configuration=true"])
def test_the_database_itself_is_read(read: Read, setting: str) -> None:
    """A restricted DuckDB file is read as any other, and goes on to disk beyond its memory."""
    url = f"duckdb:///data/shop.duckdb?{setting}&memory_limit=60MB"

    assert [{"user_id": 1}] == read(url, "SELECT * FROM users") == read(url, "SELECT * FROM users")
    long = "SELECT i || repeat('x', 99) AS v FROM range(1000000) AS r (i) ORDER BY v"
    large = f"SELECT max(v)[1:1] AS v FROM ({long})"
    assert [{"v": "9"}] == read(url, large)


@pytest.mark.rule("W10")
@pytest.mark.parametrize("scheme", SCHEMES)
def test_nobody_takes_it_back(root: Path, scheme: str) -> None:
    """Even a statement that no check has looked at cannot lift the restriction, nor unlock the settings."""
    restricted = open_warehouse(f"{scheme}?enable_external_access=false", root)
    locked = open_warehouse(f"{scheme}?lock_configuration=true", root)
    with restricted, locked:
        for warehouse, name in ((restricted, "enable_external_access"), (locked, "lock_configuration")):
            for way in ("SET {} = {}", "RESET {}", "SET GLOBAL {} = {}"):
                value = "true" if warehouse is restricted else "false"
                with pytest.raises(duckdb.Error):
                    warehouse._connection.execute(way.format(name, value))  # type: ignore[attr-defined]


@pytest.mark.parametrize("others", ["enable_external_access=true&", "enable_external_access=1&"])
def test_allowed_beside_all(root: Path, others: str) -> None:
    """Allowed folders beside full access would restrict nothing, and are refused."""
    with pytest.raises(ConfigError, match="allowed_directories allows nothing more"):
        open_warehouse(f"duckdb://?{others}allowed_directories=data", root)


@pytest.mark.parametrize("setting", ["enable_external_access", "lock_configuration"])
def test_a_restriction_that_is_not_understood(root: Path, setting: str) -> None:
    """A value that is neither true nor false does not leave the warehouse open, and is not shown."""
    with pytest.raises(ConfigError, match=f"{setting} is neither true nor false") as error:
        open_warehouse(f"duckdb://?{setting}=fales", root)

    assert "fales" not in str(error.value)


@pytest.mark.parametrize(("version", "keeps"), [("1.4.0", False), ("1.5.1", False), ("2.0.1", True)])
def test_an_older_duckdb_is_not_trusted(version: str, keeps: bool) -> None:
    """Folders are allowed only with a DuckDB that does not let a model leave them."""
    assert keeps is keeps_to_folders(version)
