"""The statements of `engine: warehouse`, as SQL that Postgres and DuckDB take as it is.

`retl.warehouse.spelling` writes them for other warehouses. Four tables are made, each named by the run:

    copy        the model's rows of this run, in the columns that the sync needs
    candidates  for each key that may have changed its row in the last snapshot table (columns o0, o1, …) and
                in the copy (n0, n1, …), with a number; and rows that differ in what is not compared alone
    exceptions  numbers of candidates whose new row does not become part of the snapshot
    merged      the next snapshot table, where that is not the copy itself

A snapshot table has each key once and none that is null. That two values are not the same is never missed, as
`StoredColumn.exact` promises; what cannot be told is a candidate.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from retl import sql
from retl.warehouse.workspace import StoredColumn

NUMBER = "retl_number"
"""The column that numbers the rows of a copy."""

MOST_VALUES = 5_000
"""Numbers that one INSERT takes."""


@dataclass(frozen=True)
class Sides:
    """The two tables that are compared.

    Attributes:
        new: the copy of the model's rows, quoted and with its schema.
        old: the last snapshot table; None where there is none.
        columns: of both, which have the same types.
        key: the columns of the key.
        compared: the columns that make a row changed.
    """

    new: str
    old: str | None
    columns: Sequence[StoredColumn]
    key: Sequence[StoredColumn]
    compared: Sequence[StoredColumn]


def copy_model(copy: str, query: str, columns: Iterable[str], numbered: bool) -> str:
    """Make the copy of the columns of a model; the model's lines stay where they are.

    Args:
        copy: the table.
        query: the model's SQL in brackets.
        columns: by their names.
        numbered: whether the rows get a number, too.
    """
    listed = ", ".join(map(sql.name, columns))
    number = f"row_number() OVER () AS {sql.name(NUMBER)}, " if numbered else ""
    return f"CREATE TABLE {copy} AS SELECT {number}{listed} FROM {query}"


def number_copy(numbered: str, copy: str) -> str:
    """Make a copy of the copy whose rows have a number."""
    return (
        f"CREATE TABLE {numbered} AS SELECT row_number() OVER () AS {sql.name(NUMBER)}, * FROM {copy} AS copy"
    )


def find_candidates(candidates: str, sides: Sides, shared: bool = True) -> str:
    """Make the table of candidates.

    Args:
        candidates: the table.
        sides: what is compared.
        shared: whether rows that share a key are looked for; `share_keys` tells whether they must be.
    """
    doubts = [*_doubts(sides), *(["shared.k0 IS NOT NULL"] if shared else [])]
    images = [f"new.{sql.name(column.name)} AS n{place}" for place, column in enumerate(sides.columns)]
    if sides.old is None:
        has_no_key = [f"new.{sql.name(column.name)} IS NULL" for column in sides.key]
        return f"""\
CREATE TABLE {candidates} AS
{_shared(sides)}
SELECT row_number() OVER () AS n, true AS ships, false AS old_here, true AS new_here, {", ".join(images)}
FROM {sides.new} AS new
{_join_shared(sides)}
WHERE {_any(has_no_key + doubts)}"""
    images += [f"old.{sql.name(column.name)} AS o{place}" for place, column in enumerate(sides.columns)]
    on_key = _all(f"{key_of(column, 'old')} = {key_of(column, 'new')}" for column in sides.key)
    first = sql.name(sides.key[0].name)
    is_new = f"(new.{first} IS NOT NULL OR old.{first} IS NULL)"
    differ = [_differs(column) for column in dict.fromkeys([*sides.key, *sides.compared])]
    ships = _any([f"old.{first} IS NULL", f"new.{first} IS NULL", *doubts, *differ])
    rest = [_differs(column) for column in sides.columns if column not in (*sides.key, *sides.compared)]
    joined = f"{sides.new} AS new\nFULL JOIN {sides.old} AS old ON {on_key}"
    return f"""\
CREATE TABLE {candidates} AS
{_shared(sides) if shared else ""}
SELECT
    row_number() OVER () AS n, ({ships}) AS ships, old.{first} IS NOT NULL AS old_here, {is_new} AS new_here,
    {", ".join(images)}
FROM {joined}
{_join_shared(sides) if shared else ""}
WHERE {_any([ships, *rest])}"""


def _shared(sides: Sides) -> str:
    """The keys that several new rows have."""
    return f"""\
WITH shared AS (
    SELECT {_parts(sides.key, "new", _shared_names(sides))}
    FROM {sides.new} AS new
    WHERE {_all(f"new.{sql.name(column.name)} IS NOT NULL" for column in sides.key)}
    GROUP BY {_parts(sides.key, "new")}
    HAVING count(*) > 1
)"""


def _join_shared(sides: Sides) -> str:
    names = _shared_names(sides)
    parts = (f"{key_of(one, 'new')} = shared.{name}" for one, name in zip(sides.key, names, strict=True))
    return f"LEFT JOIN shared ON {_all(parts)}"


def _shared_names(sides: Sides) -> list[str]:
    return [f"k{place}" for place in range(len(sides.key))]


def count_candidates(candidates: str) -> Mapping[str, str]:
    """The queries that count candidates: those without an old row, without a new one, and those not read."""
    return {
        "added": f"SELECT count(*) FROM {candidates} AS c WHERE NOT old_here",
        "removed": f"SELECT count(*) FROM {candidates} AS c WHERE NOT new_here",
        "kept": f"SELECT count(*) FROM {candidates} AS c WHERE NOT ships",
    }


def share_keys(new_rows: int, old_rows: int, added: int, removed: int) -> bool:
    """Whether several new rows share a key that an old row has, each of whose keys is its own.

    Rows that share a key which no old row has are candidates in any case.
    """
    return new_rows - added != old_rows - removed


def key_of(column: StoredColumn, table: str) -> str:
    """The part of a key by which rows are joined."""
    assert column.key is not None, "rows are joined by keys that can be"
    return column.key.replace("{}", f"{table}.{sql.name(column.name)}")


def _parts(key: Sequence[StoredColumn], table: str, names: Sequence[str] | None = None) -> str:
    parts = [key_of(column, table) for column in key]
    return ", ".join(parts if names is None else map(" AS ".join, zip(parts, names, strict=True)))


def _doubts(sides: Sides) -> list[str]:
    """The conditions that a new row has to be looked at, whatever it was."""
    odd = [(column.odd, column) for column in sides.key]
    faults = [(column.at_fault, column) for column in sides.columns]
    # Of a value that is NULL most conditions are NULL, which is neither true nor false to who asks later.
    return [
        f"coalesce({condition.replace('{}', f'new.{sql.name(column.name)}')}, false)"
        for condition, column in [*odd, *faults]
        if condition is not None
    ]


def _differs(column: StoredColumn) -> str:
    name = sql.name(column.name)
    return _any(
        f"{one.replace('{}', f'new.{name}')} IS DISTINCT FROM {one.replace('{}', f'old.{name}')}"
        for one in column.exact
    )


def _all(conditions: Iterable[str]) -> str:
    return " AND ".join(conditions)


def _any(conditions: Iterable[str]) -> str:
    return f"({sql.join_lines(list(conditions), ' OR', indent=' ' * 4)})"


def select_new(candidates: str, columns: Sequence[StoredColumn], number: str) -> str:
    """The SELECT of the new rows of candidates, with their numbers under that name."""
    images = ", ".join(f"n{place} AS {sql.name(one.name)}" for place, one in enumerate(columns))
    return f"SELECT n AS {sql.name(number)}, {images} FROM {candidates} AS c WHERE ships AND new_here"


def select_old(candidates: str, columns: Sequence[StoredColumn], number: str) -> str:
    """The SELECT of the old rows of candidates, likewise; by a key that is shared a row comes repeatedly."""
    images = ", ".join(f"o{place} AS {sql.name(one.name)}" for place, one in enumerate(columns))
    return f"SELECT n AS {sql.name(number)}, {images} FROM {candidates} AS c WHERE ships AND old_here"


def select_all(table: str, columns: Iterable[str], number: str | None = None, in_order: bool = False) -> str:
    """The SELECT of all rows of a table; `number` names the column of those of a copy."""
    listed = ", ".join(map(sql.name, columns))
    numbered = f"{sql.name(NUMBER)} AS {sql.name(number)}, " if number else ""
    order = f" ORDER BY {sql.name(NUMBER)}" if in_order else ""
    return f"SELECT {numbered}{listed} FROM {table} AS t{order}"


def count_rows(table: str) -> str:
    """The query that counts a table's rows."""
    return f"SELECT count(*) FROM {table} AS t"


def create_exceptions(exceptions: str) -> str:
    """Make the table of exceptions, empty."""
    return f"CREATE TABLE {exceptions} (n BIGINT, takes_old BOOLEAN)"


def insert_exceptions(exceptions: str, taken: Mapping[int, bool]) -> Iterable[str]:
    """The statements that fill the table: by their numbers, whether candidates keep their old row."""
    rows = [f"({number}, {'true' if takes_old else 'false'})" for number, takes_old in taken.items()]
    for start in range(0, len(rows), MOST_VALUES):
        yield f"INSERT INTO {exceptions} VALUES {', '.join(rows[start : start + MOST_VALUES])}"


def merge(merged: str, candidates: str, exceptions: str, sides: Sides) -> str:
    """Make the next snapshot table of the rows that are as they were, and of candidates.

    A candidate becomes its new row; an exception its old row or none; a row that differs in what is not
    compared alone, its old row, as the last known values are those of the last change.
    """
    names = [sql.name(column.name) for column in sides.columns]
    old = ", ".join(f"c.o{place} AS {name}" for place, name in enumerate(names))
    new = ", ".join(f"c.n{place} AS {name}" for place, name in enumerate(names))
    places = {column.name: place for place, column in enumerate(sides.columns)}
    key = _all(
        f"{one.key.replace('{}', f'c.n{places[one.name]}')} = {key_of(one, 'new')}"
        for one in sides.key
        if one.key is not None
    )
    has_key = _all(f"new.{sql.name(column.name)} IS NOT NULL" for column in sides.key)
    parts = [
        f"""\
SELECT {", ".join(f"new.{name} AS {name}" for name in names)}
FROM {sides.new} AS new
LEFT JOIN {candidates} AS c ON c.new_here AND {key}
WHERE c.n IS NULL AND {has_key}""",
        f"""\
SELECT {new}
FROM {candidates} AS c
LEFT JOIN {exceptions} AS x ON x.n = c.n
WHERE c.ships AND c.new_here AND x.n IS NULL""",
    ]
    if sides.old is not None:
        parts.append(
            f"""\
SELECT {old}
FROM {candidates} AS c
LEFT JOIN {exceptions} AS x ON x.n = c.n
WHERE c.old_here AND (NOT c.ships OR x.takes_old)"""
        )
    return f"CREATE TABLE {merged} AS\n" + "\nUNION ALL\n".join(parts)


def leave_out(merged: str, copy: str, exceptions: str, columns: Iterable[str]) -> str:
    """Make the next snapshot table of a copy with numbers, without the exceptions."""
    names = list(map(sql.name, columns))
    return f"""\
CREATE TABLE {merged} AS
SELECT {", ".join(f"c.{name} AS {name}" for name in names)}
FROM {copy} AS c
LEFT JOIN {exceptions} AS x ON x.n = c.{sql.name(NUMBER)}
WHERE x.n IS NULL"""
