"""A warehouse that is opened when it is read, so that calls can be delivered while it is out of reach."""

from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING

from retl.errors import WarehouseError
from retl.model import Model
from retl.warehouse.base import BATCH_ROWS, Column, Warehouse

if TYPE_CHECKING:  # it takes a part of a second to load
    import pyarrow as pa


class OpenedToRead(Warehouse):
    """Opens a warehouse for each read, and closes it behind it."""

    def __init__(self, opening: Callable[[], AbstractContextManager[Warehouse]]) -> None:
        """Open nothing yet.

        Args:
            opening: opens the warehouse.
        """
        self._opening = opening
        self._open: set[Warehouse] = set()
        self._is_cancelled = False

    def columns(self, model: Model) -> tuple[Column, ...]:
        """The columns of a model; see `Warehouse.columns`."""
        with self._opened() as warehouse:
            return warehouse.columns(model)

    def read(
        self, model: Model, columns: Collection[str] | None = None, batch_rows: int = BATCH_ROWS
    ) -> "Iterator[pa.RecordBatch]":
        """The rows of a model; see `Warehouse.read`."""
        with self._opened() as warehouse:
            yield from warehouse.read(model, columns, batch_rows)

    def cancel(self) -> None:
        """Stop what is being read; a warehouse that is just being opened is not read any more."""
        self._is_cancelled = True
        for warehouse in list(self._open):
            warehouse.cancel()

    def close(self) -> None:
        """Nothing is left open."""

    @contextmanager
    def _opened(self) -> Iterator[Warehouse]:
        with self._opening() as warehouse:
            self._open.add(warehouse)
            try:
                if self._is_cancelled:
                    raise WarehouseError("the read was given up")
                yield warehouse
            finally:
                self._open.discard(warehouse)
