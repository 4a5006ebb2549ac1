import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "retl"

FLOORS = [
    "__main__ cli",
    "retl notebook",
    "options report explain check suppose preview pipeline status run",
    "session project schema tables",
    "guard deliver segment",
    "hearing tracking_plan outlook judge translate",
    "snapshot call template diff cast mapping",
    "sync blocks settings receiver fields rules document",
    "warehouse warehouse.duckdb warehouse.sqlalchemy warehouse.mysql warehouse.postgres",
    "warehouse.untyped warehouse.texts warehouse.base",
    "model",
    "rejected outbox state value sql",
    "sandbox ingestion faults",
    "receipt batch pace",
    "progress watch signals errors",
    "clock version",
]

ORDER = [module for floor in FLOORS for module in floor.split()]
"""All modules, from the top of the house to its ground; each may import only what stands further down."""

HOMELESS = {"utils", "util", "core", "helpers", "helper", "manager", "common", "misc", "base_utils"}

MAY_IMPORT_INSIDE = {"warehouse.postgres"}
"""Drivers of which only one need be installed."""


def name_of(path: Path) -> str:
    """The name of a module of the package, without the package's own."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__") or "retl"


MODULES = {name_of(path): ast.parse(path.read_text(encoding="utf-8")) for path in PACKAGE.rglob("*.py")}


def imported(tree: ast.Module) -> Iterator[str]:
    """The modules of retl that a module imports, wherever in it."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are written in full"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            if name.split(".")[0] == "retl":
                yield nearest_module(name.removeprefix("retl").removeprefix("."))


def nearest_module(name: str) -> str:
    """The module that a name is, or is in."""
    while name and name not in MODULES:
        name = name.rpartition(".")[0]
    return name or "retl"


def test_every_module_has_its_place() -> None:
    """The order above names each module once and no other; a new module is put where its imports allow."""
    assert sorted(MODULES) == sorted(ORDER)


@pytest.mark.parametrize("module", sorted(MODULES))
def test_imports_go_down(module: str) -> None:
    """A module imports only modules below it, so that there is no circle and each can be read alone."""
    above = ORDER[: ORDER.index(module) + 1]
    assert [] == [one for one in imported(MODULES[module]) if one in above]


@pytest.mark.parametrize("module", sorted(set(MODULES) - MAY_IMPORT_INSIDE))
def test_imports_stand_at_the_top(module: str) -> None:
    """No function imports: what a module needs is to be seen on its first lines."""
    functions = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)
    inside = [
        ast.unparse(inner)
        for node in ast.walk(MODULES[module])
        if isinstance(node, functions)
        for inner in ast.walk(node)
        if isinstance(inner, (ast.Import, ast.ImportFrom))
    ]
    assert [] == inside


def test_no_module_is_a_drawer_for_the_rest() -> None:
    """Each module is named for a thing or a deed."""
    assert [] == [name for name in MODULES if set(name.split(".")) & HOMELESS]


def test_only_one_module_knows_the_official_client() -> None:
    """Segment's own package is imported in one place, to be pinned and replaced there."""
    users = [
        name
        for name, tree in MODULES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "segment"
    ]
    assert {"segment"} == set(users)
