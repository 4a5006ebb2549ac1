"""The rooms of the package, and which room may use which."""

import ast
import re
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path
from typing import TypeGuard

import pytest

from retl.state import OWNERS

PACKAGE = Path(__file__).parent.parent / "retl"

ROOMS = {
    "cli": "checks calls config delivery engine forms receivers report sandbox warehouse",
    "sandbox": "delivery page receivers",
    "report": "delivery page",
    "page": "",
    "checks": "forms receivers config calls",
    "delivery": "config",
    "calls": "forms config engine",
    "engine": "config warehouse",
    "config": "forms receivers",
    "receivers": "forms",
    "forms": "",
    "warehouse": "",
    "bucket": "",
}
"""Each package of retl, and the packages that its modules may import; the ground is open to all of them."""

GROUND = [
    "address",
    "aside",
    "clock",
    "damage",
    "encryption",
    "errors",
    "json_values",
    "lazy",
    "lock",
    "mask",
    "memory",
    "migrations",
    "model",
    "nearest",
    "notebook",
    "observer",
    "progress_file",
    "reason",
    "signals",
    "sql",
    "state",
    "storage",
    "system",
    "table",
    "version",
]
"""Modules at the top that know no package; each package may import them."""

STORIES = [
    "alert",
    "api",
    "check",
    "discard",
    "explain",
    "export",
    "history",
    "job",
    "launch",
    "lineage",
    "metrics",
    "model_check",
    "monitor",
    "move",
    "new_project",
    "notify",
    "orphans",
    "past",
    "past_run",
    "pipeline",
    "planned",
    "planning",
    "purge",
    "records",
    "rehearsal",
    "rejected_values",
    "reporting",
    "retry",
    "run",
    "session",
    "state_folder",
    "status",
    "tracing",
    "verify",
    "what_if",
]
"""Modules at the top that tell what a command does; only these and the command line may import them."""

MISNOMERS = {"utils", "util", "core", "helpers", "helper", "manager", "common", "misc", "base_utils"}

MAY_IMPORT_INSIDE = {
    "warehouse",
    *(f"warehouse.{one}" for one in ("bigquery", "postgres", "query", "snowflake")),
}
"""Drivers that need not be installed, and a parser that is slow to load and not always used."""


def name_of(path: Path) -> str:
    """The name of a module of the package, without the package's own."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__") or "retl"


MODULES = {name_of(path): ast.parse(path.read_text(encoding="utf-8")) for path in PACKAGE.rglob("*.py")}


MAY_COMPOSE_NAMES = {"cli.commands"}
"""Modules that make the name of a lazy module from another: a command is in the module of its name."""


def is_lazy(node: ast.AST) -> TypeGuard[ast.Call]:
    """Whether a node is a call of `lazy_module`."""
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "lazy_module"


def imported(tree: ast.Module) -> Iterator[str]:
    """The modules of retl that a module imports, wherever in it, or loads when it uses them."""
    for node in ast.walk(tree):
        if is_lazy(node):
            names = [one.value for one in node.args if isinstance(one, ast.Constant)]
        elif isinstance(node, ast.Import):
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


def room_of(module: str) -> str:
    """The package that a module is in; empty for a module at the top."""
    return module.partition(".")[0] if module.partition(".")[0] in ROOMS else ""


def test_every_package_is_a_room() -> None:
    """The table above names each package of retl, and no other."""
    assert sorted(ROOMS) == sorted({path.parent.name for path in PACKAGE.glob("*/__init__.py")})


@pytest.mark.parametrize("room", sorted(ROOMS))
def test_a_room_imports_only_rooms_below_it(room: str) -> None:
    """A module of a package imports its own package and those that the table allows, no other."""
    used = {
        room_of(one) or one
        for module, tree in MODULES.items()
        if room_of(module) == room
        for one in imported(tree)
    }
    stories = STORIES if room == "cli" else []
    assert set() == used - {room, *ROOMS[room].split(), *GROUND, *stories}


def test_the_top_is_ground_and_stories() -> None:
    """A module at the top is named above, either as ground or as a story; nothing else stands there."""
    top = {module for module in MODULES if "." not in module and module not in ROOMS}
    assert {*GROUND, *STORIES, "retl", "__main__"} == top


@pytest.mark.parametrize("module", GROUND)
def test_the_ground_imports_only_ground(module: str) -> None:
    """Modules of the ground import no package and no story."""
    assert set() == set(imported(MODULES[module])) - set(GROUND)


@pytest.mark.parametrize("module", STORIES)
def test_stories_do_not_know_the_command_line(module: str) -> None:
    """A story can be told to a notebook as well: it imports nothing of the command line."""
    assert [] == [one for one in imported(MODULES[module]) if room_of(one) == "cli"]


def test_no_import_leads_back() -> None:
    """The imports of all modules have no circle, so that each can be read after those that it uses."""
    graph = {module: set(imported(tree)) - {module} for module, tree in MODULES.items()}
    TopologicalSorter(graph).prepare()


def test_imports_stand_at_the_top() -> None:
    """No function imports: what a module needs is to be seen on its first lines."""
    functions = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)
    inside = [
        (module, ast.unparse(inner))
        for module, tree in MODULES.items()
        if module not in MAY_IMPORT_INSIDE
        for node in ast.walk(tree)
        if isinstance(node, functions)
        for inner in ast.walk(node)
        if isinstance(inner, (ast.Import, ast.ImportFrom))
    ]
    assert [] == inside


def for_mypy(node: ast.stmt) -> dict[str, str]:
    """The modules by the names that they have below, of an import or of `name = lazy_module("module")`."""
    if isinstance(node, ast.Import):
        return {alias.asname or alias.name: alias.name for alias in node.names}
    if isinstance(node, ast.ImportFrom):
        return {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    assert isinstance(node, ast.Assign) and isinstance(node.value, ast.Call)
    return {ast.unparse(node.targets[0]): ast.literal_eval(node.value.args[0])}


def lazy_below_imports(tree: ast.Module) -> dict[str, str]:
    """The lazy modules that stand where an import would, below the same import for mypy."""
    return {
        name: of
        for node in tree.body
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for statement in node.orelse
        for name, of in for_mypy(statement).items()
        if (name, of) in [pair for one in node.body for pair in for_mypy(one).items()]
    }


def test_lazy_modules_stand_at_the_top() -> None:
    """A lazy module stands where an import would, below the same import for mypy."""
    elsewhere = [
        module
        for module, tree in MODULES.items()
        if module not in MAY_COMPOSE_NAMES
        and len(lazy_below_imports(tree)) != sum(map(is_lazy, ast.walk(tree)))
    ]
    assert [] == elsewhere


@pytest.mark.thorough
def test_one_module_loads_others_by_name() -> None:
    """Modules are loaded by name in one place; the package's own parts for notebooks aside."""
    users = [name for name, tree in MODULES.items() if "import_module(" in ast.unparse(tree)]
    assert ["lazy", "retl"] == sorted(users)


def test_no_module_is_named_for_leftovers() -> None:
    """Each module is named for a thing or for what it does."""
    assert [] == [name for name in MODULES if set(name.split(".")) & MISNOMERS]


@pytest.mark.thorough
def test_only_one_module_knows_the_official_client() -> None:
    """Segment's own package is imported in one place, to be pinned and replaced there."""
    users = [
        name
        for name, tree in MODULES.items()
        for node in ast.walk(tree)
        if (isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "segment")
        or (is_lazy(node) and ast.unparse(node).startswith("lazy_module('segment."))
    ]
    assert {"delivery.segment"} == set(users)


def test_each_table_of_the_state_has_one_module() -> None:
    """Only the module that owns a table names it in SQL; migrations, which are never changed, aside."""
    schema = (PACKAGE / "state.sql").read_text(encoding="utf-8")
    lasting = OWNERS.keys() - {"arriving"}  # which a first pass makes, and no file has at its beginning
    assert sorted(re.findall(r"CREATE TABLE state\.(\w+)", schema)) == sorted(lasting)
    tables = "|".join(OWNERS)
    strangers = [
        (module, table)
        for module, tree in MODULES.items()
        if module != "migrations"
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
        for table in re.findall(rf"(?:FROM|JOIN|INTO|UPDATE|USING|TABLE) state\.({tables})\b", node.value)
        if f"retl.{module}" != OWNERS[table]
    ]
    assert [] == strangers
