"""Rows: a table of the user, all versions of each of its rows, and a warehouse that hands them out."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from random import Random
from types import TracebackType

import pyarrow as pa

from retl.errors import WarehouseError
from retl.model import Model
from retl.warehouse import Column

SCHEMA = pa.schema(
    [("id", pa.string()), ("owner", pa.string()), ("version", pa.int64()), ("note", pa.string())]
)


@dataclass(frozen=True)
class Row:
    """One version of a row.

    Attributes:
        version: a number that no other row and no other version has; later ones are greater.
        owner: the user of a track call.
        note: what an edit of the sync may add to the calls.
    """

    version: int
    owner: str
    note: str


@dataclass
class History:
    """A table, and how each of its rows was at any time.

    Attributes:
        keys: of rows that may be there.
        owners: users.
        current: the rows that are there now, by key.
        versions: each version that there ever was, by its number.
    """

    keys: list[str]
    owners: list[str]
    current: dict[str, Row] = field(default_factory=dict)
    versions: dict[int, tuple[str, Row]] = field(default_factory=dict)

    def change(self, random: Random, most: int) -> None:
        """Add, change, move and remove some rows; one is left at least."""
        for key in random.sample(self.keys, random.randint(1, min(most, len(self.keys)))):
            here = self.current.get(key)
            if here is not None and random.random() < 0.3 and len(self.current) > 1:
                del self.current[key]
                continue
            owner = here.owner if here is not None and random.random() < 0.8 else random.choice(self.owners)
            row = Row(len(self.versions) + 1, owner, random.choice(["", "ä", '"', "long " * 20]))
            self.current[key] = row
            self.versions[row.version] = (key, row)


class Warehouse:
    """A warehouse with the rows that are there now.

    Args:
        history: the rows.
        batch_rows: rows of a batch.
        breaks_after: batches after which the connection breaks; None is never.
        is_empty: whether it has no rows today, as after a load that failed.
    """

    def __init__(
        self,
        history: History,
        batch_rows: int,
        breaks_after: int | None = None,
        is_empty: bool = False,
    ) -> None:
        self._rows = {} if is_empty else dict(history.current)
        self._batch_rows = batch_rows
        self._breaks_after = breaks_after

    def columns(self, model: Model) -> tuple[Column, ...]:
        """The table's columns."""
        return tuple(Column(one.name, str(one.type)) for one in SCHEMA)

    def read(
        self, model: Model, columns: Collection[str] | None = None, batch_rows: int = 1_000
    ) -> Iterator[pa.RecordBatch]:
        """The rows in small batches."""
        rows = [
            {"id": key, "owner": row.owner, "version": row.version, "note": row.note}
            for key, row in self._rows.items()
        ]
        table = pa.Table.from_pylist(rows, schema=SCHEMA)
        if columns is not None:
            table = table.select(list(columns))
        batches = table.to_batches(self._batch_rows) or [pa.RecordBatch.from_pylist([], schema=table.schema)]
        for number, batch in enumerate(batches):
            if number == self._breaks_after:
                raise WarehouseError("the connection broke off")
            yield batch
        if self._breaks_after is not None:
            raise WarehouseError("the connection broke off")

    def cancel(self) -> None:
        """Nothing: the rows are there."""

    def close(self) -> None:
        """Nothing."""

    def __enter__(self) -> "Warehouse":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
