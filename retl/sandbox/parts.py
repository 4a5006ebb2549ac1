"""A table in parts, of which the oldest is dropped as a whole to make room.

Rows that are deleted one by one would leave their memory taken. A part that is full is compressed, to a fifth
of its size.
"""

from collections import deque
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

import duckdb

from retl.sql import name as quoted

if TYPE_CHECKING:
    import pyarrow as pa

COMPRESSED = "kept"
"""The database, in memory, that compresses its tables when it is told to; it must be attached."""

PARTS = 10
"""Tables that a view is over: so much of what is kept goes at a time."""

WORTH_COMPRESSING = 2_048
"""Rows of a part that is not compressed if it has fewer."""


@dataclass
class _Part:
    table: str
    rows: int = 0
    bytes: int = 0


class Parts:
    """A view over a few tables, within two limits; one thread at a time may change it.

    Attributes:
        gone: rows that made room.

    Args:
        db: where the view is; `COMPRESSED` has the tables.
        name: of the view.
        columns: their types by name.
        keep: how many rows there may be.
        most_bytes: how large they may be together.
    """

    def __init__(
        self,
        db: duckdb.DuckDBPyConnection,
        name: str,
        columns: Mapping[str, str],
        keep: int,
        most_bytes: int,
    ) -> None:
        self.gone = 0
        self._db = db
        self._name = name
        self._columns = ", ".join(f"{quoted(column)} {type_}" for column, type_ in columns.items())
        self._keep = keep
        self._most_bytes = most_bytes
        self._parts: deque[_Part] = deque()
        self._leaving: list[_Part] = []
        self._made = 0
        self._begin_part()

    @property
    def rows(self) -> int:
        """The rows that are held."""
        return sum(part.rows for part in self._parts)

    def insert(self, rows: "pa.Table", size: int, select: str = "*") -> None:
        """Add rows of so many bytes as text, of which `select` makes the columns; the oldest make room."""
        if rows.num_rows > self._keep:
            size = size * self._keep // rows.num_rows
            self.gone += rows.num_rows - self._keep
            rows = rows.slice(rows.num_rows - self._keep)
        step = max(1, self._keep // PARTS)
        for start in range(0, rows.num_rows, step):
            some = rows.slice(start, step)
            self._insert(some, size * some.num_rows // rows.num_rows, select)

    def clear(self) -> None:
        """Drop all rows; none of them counts as gone to make room."""
        former = list(self._parts)
        self._parts.clear()
        self._begin_part()
        self._leaving.extend(former)
        self._drop_leaving()
        self.gone = 0

    def _insert(self, rows: "pa.Table", size: int, select: str) -> None:
        part = self._parts[-1]
        with self._db.cursor() as cursor:
            cursor.register("arrived", rows)
            cursor.execute(f"INSERT INTO {part.table} SELECT {select} FROM arrived")
        part.rows += rows.num_rows
        part.bytes += size
        if part.rows >= self._keep // PARTS or part.bytes >= self._most_bytes // PARTS:
            self._begin_part()
            if part.rows >= WORTH_COMPRESSING:
                self._compress()

    def _begin_part(self) -> None:
        """Begin another table, and drop the oldest ones where there is no room for its rows."""
        self._drop_leaving()
        self._made += 1
        part = _Part(f"{COMPRESSED}.{quoted(f'{self._name}_{self._made}')}")
        self._db.execute(f"CREATE TABLE {part.table} ({self._columns})")
        self._parts.append(part)
        self._show()
        while len(self._parts) > 1 and (
            self.rows > self._keep - self._keep // PARTS
            or sum(one.bytes for one in self._parts) > self._most_bytes - self._most_bytes // PARTS
        ):
            self.gone += self._parts[0].rows
            self._leaving.append(self._parts.popleft())
            self._show()

    def _compress(self) -> None:
        with suppress(duckdb.TransactionException):  # somebody reads; the next part takes this one along
            self._db.execute(f"CHECKPOINT {COMPRESSED}")

    def _drop_leaving(self) -> None:
        """Drop the parts that left the view with the part before: nobody has just begun to read them."""
        for part in self._leaving:
            self._db.execute(f"DROP TABLE {part.table}")
        self._leaving.clear()

    def _show(self) -> None:
        tables = " UNION ALL ".join(f"FROM {part.table}" for part in self._parts)
        self._db.execute(f"CREATE OR REPLACE VIEW {quoted(self._name)} AS {tables}")
