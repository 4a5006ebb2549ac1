"""A warehouse whose reading is observed, and ends with the run's deadline."""

from collections.abc import Collection, Iterator

import pyarrow as pa

from retl.clock import Clock
from retl.errors import DeadlineError
from retl.model import Model
from retl.observer import Observer
from retl.warehouse.base import BATCH_ROWS, Column, Warehouse


class WatchedWarehouse(Warehouse):
    """Reads from another warehouse, tells an observer of the rows, and stops at a deadline.

    Attributes:
        deadline: on the clock's monotonic time, in seconds.
    """

    def __init__(self, warehouse: Warehouse, observer: Observer, clock: Clock, deadline: float) -> None:
        self._warehouse = warehouse
        self._observer = observer
        self._clock = clock
        self.deadline = deadline

    def columns(self, model: Model) -> tuple[Column, ...]:
        """The columns of a model; see `Warehouse.columns`."""
        return self._warehouse.columns(model)

    def read(
        self, model: Model, columns: Collection[str] | None = None, batch_rows: int = BATCH_ROWS
    ) -> Iterator[pa.RecordBatch]:
        """The rows of a model; see `Warehouse.read`.

        Raises:
            DeadlineError: the deadline has passed.
        """
        for batch in self._warehouse.read(model, columns, batch_rows):
            if self._clock.monotonic() > self.deadline:
                raise DeadlineError(
                    "the time for this run is up", hint="run it again with a later --deadline"
                )
            self._observer.rows_read(batch.num_rows)
            yield batch

    def close(self) -> None:
        """The other warehouse is closed by its owner."""
