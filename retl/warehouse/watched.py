"""A warehouse whose reading is observed, and ends with the run's deadline or with a signal.

A driver may wait for a server, or for itself, and miss both. So the warehouse is read in a thread
of its own, while whoever wants a batch looks at the clock. The thread reads a few batches ahead, so that
reading and what is done with the rows go on side by side.
"""

from collections import deque
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import Future, wait
from contextlib import suppress
from functools import partial
from queue import SimpleQueue
from threading import Thread
from typing import TYPE_CHECKING, Any, TypeVar

from retl import signals
from retl.clock import Clock
from retl.errors import DeadlineError
from retl.model import Model
from retl.observer import Observer
from retl.warehouse.base import BATCH_ROWS, Column, Warehouse

if TYPE_CHECKING:
    import pyarrow as pa

THREAD = "read of a warehouse"
"""The name of a thread that reads."""

LOOK_SECONDS = 0.1
"""The time between two looks at the clock while a batch is awaited."""

AHEAD_BATCHES = 3
"""The batches that are read, or being read, while another one is worked on; no more are in memory."""

YIELD_SECONDS = 0.05
"""The time that a read has to come to the end of a batch before it counts as given up."""

GRACE_SECONDS = 2.0
"""The time that a warehouse has to end a read that is given up; then its thread is left to itself."""

CANCEL_SECONDS = 0.5
"""The time after which such a read is cancelled once more."""

T = TypeVar("T")


class WatchedWarehouse(Warehouse):
    """Reads from another warehouse, tells an observer of the rows, and stops at a deadline or a signal.

    Attributes:
        deadline: on the clock's monotonic time, in seconds.
    """

    def __init__(self, warehouse: Warehouse, observer: Observer, clock: Clock, deadline: float) -> None:
        self._warehouse = warehouse
        self._observer = observer
        self._clock = clock
        self.deadline = deadline

    def columns(self, model: Model) -> tuple[Column, ...]:
        """The columns of a model; see `Warehouse.columns`.

        Raises:
            DeadlineError: the deadline has passed.
            Interrupted: a signal has come.
        """
        thread = ReadingThread()
        try:
            return self._awaited(thread.start(partial(self._warehouse.columns, model)))
        finally:
            self._end(thread, lambda: None)

    def read(
        self, model: Model, columns: Collection[str] | None = None, batch_rows: int = BATCH_ROWS
    ) -> "Iterator[pa.RecordBatch]":
        """The rows of a model; see `Warehouse.read`.

        Raises:
            DeadlineError: the deadline has passed.
            Interrupted: a signal has come.
        """
        self._observer.reading()
        thread = ReadingThread()
        reading = self._warehouse.read(model, columns, batch_rows)
        one_more = partial(thread.start, partial(next, reading, None))
        ahead = deque(one_more() for _ in range(AHEAD_BATCHES))
        try:
            while (batch := self._awaited(ahead.popleft())) is not None:
                ahead.append(one_more())
                self._observer.rows_read(batch.num_rows)
                yield batch
                del batch  # or it would be kept until the next one is there
            self._observer.comparing()
        finally:
            self._end(thread, getattr(reading, "close", lambda: None))

    def cancel(self) -> None:
        """Stop what the other warehouse reads."""
        self._warehouse.cancel()

    def close(self) -> None:
        """The other warehouse is closed by its owner."""

    def _awaited(self, work: "Future[T]") -> T:
        return awaited(work, self._clock, self.deadline)

    def _end(self, thread: "ReadingThread", close: Callable[[], None]) -> None:
        """End a thread, and have the warehouse stop where it is still at work."""
        is_given_up = thread.drop()
        closed = thread.start(close)
        thread.end()
        if is_given_up:
            Thread(target=self._cancel, args=[closed], daemon=True).start()
        wait([closed], GRACE_SECONDS)

    def _cancel(self, closed: "Future[None]") -> None:
        """Cancel until the read has ended, as it may be between two statements now."""
        for _ in range(round(GRACE_SECONDS / CANCEL_SECONDS)):
            with suppress(Exception):  # by now the read may be over, or the server gone
                self._warehouse.cancel()
            if wait([closed], CANCEL_SECONDS).done:
                return


def awaited(work: "Future[T]", clock: Clock, deadline: float) -> T:
    """The result of what a thread does, unless time is up or a signal comes before.

    Raises:
        DeadlineError: the deadline has passed.
        Interrupted: a signal has come.
    """
    while True:
        wait([work], LOOK_SECONDS)
        signals.check()
        if clock.monotonic() > deadline:
            raise DeadlineError("the time for this run is up", hint="run it again with a later --deadline")
        if work.done():
            return work.result()


class ReadingThread:
    """A thread that does one piece of work after the other; it keeps no process from ending."""

    def __init__(self) -> None:
        self._unfinished: list[Future[Any]] = []
        self._work: SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = SimpleQueue()
        Thread(target=self._run, name=THREAD, daemon=True).start()

    def start(self, work: Callable[[], T]) -> "Future[T]":
        """Have it do some work after all other."""
        future: Future[T] = Future()
        self._unfinished = [one for one in self._unfinished if not one.done()] + [future]
        self._work.put((future, work))
        return future

    def drop(self) -> bool:
        """Have it leave undone what it has not begun.

        Returns:
            Whether it is at some work all the same, and not about to end it.
        """
        begun = [future for future in self._unfinished if not future.cancel()]
        return bool(wait(begun, YIELD_SECONDS).not_done)

    def end(self) -> None:
        """Have it end after all work."""
        self._work.put(None)

    def _run(self) -> None:
        while (task := self._work.get()) is not None:
            future, work = task
            if not future.set_running_or_notify_cancel():
                continue
            try:
                future.set_result(work())
            except BaseException as error:
                future.set_exception(error)
            del task, future, work  # a batch and an error are the owner's alone
