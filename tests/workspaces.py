"""Workspaces for tests: the schema `retl_test` in a warehouse, and whether values are told apart in it."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from retl.warehouse import Workspace, open_workspace
from retl.warehouse.workspace import StoredColumn

Pairs = Mapping[str, tuple[str, str]]
"""Two values that are easily taken for each other, in SQL, by the name of a column."""


@contextmanager
def empty_workspace(url: str) -> Iterator[Workspace]:
    """The workspace in the warehouse at a URL, without a table."""
    with open_workspace(url, Path(), "retl_test") as opened:
        opened.prepare()
        opened.drop(opened.tables(""))
        yield opened


def assert_told_apart(workspace: Workspace, pairs: Pairs) -> None:
    """See that the two values of each pair differ, and that none differs from itself."""
    for table, place in (("one", 0), ("other", 1)):
        listed = ", ".join(f'{pair[place]} AS "{name}"' for name, pair in pairs.items())
        workspace.execute(f'CREATE TABLE "retl_test"."{table}" AS SELECT {listed}')
    assert list(pairs) == [column.name for column in workspace.columns("one")]
    assert len(pairs) == workspace.number(differences(workspace, "one", "other"))
    for table in ("one", "other"):
        assert 0 == workspace.number(differences(workspace, table, table))


def differences(workspace: Workspace, one: str, other: str) -> str:
    """The SELECT of how many columns differ between two tables of a row each."""
    told = " + ".join(
        f"CASE WHEN {' OR '.join(_differs(column, exact) for exact in column.exact)} THEN 1 ELSE 0 END"
        for column in workspace.columns("one")
    )
    return f'SELECT {told} AS n FROM "retl_test"."{one}" AS a CROSS JOIN "retl_test"."{other}" AS b'


def _differs(column: StoredColumn, exact: str) -> str:
    one, other = (exact.replace("{}", f'{side}."{column.name}"') for side in "ab")
    return f"{one} IS DISTINCT FROM {other}"
