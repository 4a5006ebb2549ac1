"""The ledger of a round: its marks and receipts, kept in memory and written together.

A commit takes longer than a batch takes to leave: one for each attempt and one for each answer would be most
of the work of a large delivery. So the next calls of a lane are noted as attempted before the first of them
goes out, a stretch of them at a time; and one transaction writes what was accepted, and the next stretch of
every lane: when a lane is at the end of its own, before a long wait, or soon.

Whatever ends the process, each call that went out is noted as attempted or as delivered. After a sudden end
the whole stretch counts as attempted, though some of it was accepted already, or never left. At any other end
the marks are exact.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import duckdb

from retl.clock import Clock
from retl.delivery import marks, outbox, receipts
from retl.delivery.batch import Batch
from retl.delivery.marks import Mark
from retl.delivery.receipts import Receipt, Sent
from retl.state import transaction

UNWRITTEN_SECONDS = 0.5
"""How long answers stay unwritten while other batches go out; before a longer wait they are written."""


@dataclass(frozen=True)
class Progress:
    """How far a lane has got; all places are those of calls in the outbox, 0 where there is none.

    Attributes:
        attempted: up to which calls went out without a known answer.
        delivered: up to which calls were accepted in this round.
        leaving: the last one of the batch that is out now.
        stretch: up to which calls may leave with no further note.
        reach: how many places a stretch goes beyond the batch that leaves.
        last: that of the lane.
    """

    attempted: int = 0
    delivered: int = 0
    leaving: int = 0
    stretch: int = 0
    reach: int = 0
    last: int = 0

    def stretched(self, place: int) -> "Progress":
        """With a stretch that goes as far beyond a place as is allowed, at least up to it."""
        end = max(place, min(place + self.reach, self.last))
        return replace(self, stretch=max(self.stretch, end))

    def mark(self, lane: int) -> Mark:
        """The mark that tells this, whatever happens until the next one is written."""
        return Mark(lane, max(self.attempted, self.leaving, self.stretch), self.delivered)


class Ledger:
    """The marks and receipts of a round; for one thread at a time."""

    def __init__(self, lanes: Iterable[outbox.Lane], clock: Clock) -> None:
        self._clock = clock
        self._progress = {lane.number: Progress(lane.attempted, last=lane.last) for lane in lanes}
        self._written = {lane: progress.mark(lane) for lane, progress in self._progress.items()}
        self._receipts: list[Receipt] = []
        self._written_at = clock.monotonic()

    def attempted(self, lane: int) -> int:
        """The place in a lane up to which calls went out without a known answer."""
        return self._progress[lane].attempted

    def delivered(self, lane: int) -> int:
        """The place in a lane up to which calls were accepted in this round, written or not."""
        return self._progress[lane].delivered

    def is_out_behind(self, call: Batch) -> bool:
        """Whether a batch behind a call of its lane is out, or its answer came too late to be noted."""
        return self._progress[call.lane].leaving > call.last_seq

    def may_leave(self, batch: Batch, reach: int) -> bool:
        """Whether the file says that a batch may be out; else that is to be written before it leaves.

        Args:
            batch: the calls.
            reach: how many calls may leave soon after it.
        """
        if batch.last_seq <= self._written[batch.lane].attempted:
            return True
        progress = replace(self._progress[batch.lane], reach=reach)
        self._progress[batch.lane] = progress.stretched(batch.last_seq)
        return False

    def leave(self, batch: Batch) -> None:
        """Note that a batch is out now, and its answer is to come."""
        self._progress[batch.lane] = replace(self._progress[batch.lane], leaving=batch.last_seq)

    def fail(self, batch: Batch, unsure: bool) -> None:
        """Note that a batch was not accepted, as far as is known; `unsure` is whether it may have been."""
        progress = self._progress[batch.lane]
        attempted = max(progress.attempted, batch.last_seq) if unsure else progress.attempted
        self._progress[batch.lane] = replace(progress, attempted=attempted, leaving=0)

    def accept(self, batch: Batch, receipt: Receipt) -> None:
        """Note that a batch was accepted."""
        progress = self._progress[batch.lane]
        self._progress[batch.lane] = replace(progress, delivered=batch.last_seq, leaving=0)
        self._receipts.append(receipt)

    def rest(self, lane: int) -> None:
        """Note that no more of a lane goes out for a while."""
        self._progress[lane] = replace(self._progress[lane], stretch=0, reach=0)

    def close(self) -> None:
        """Note that nothing more goes out in this round."""
        for lane in self._progress:
            self.rest(lane)

    def is_old(self, wait: float = 0.0) -> bool:
        """Whether the last writing is long ago after so many seconds."""
        return self._clock.monotonic() + wait >= self._written_at + UNWRITTEN_SECONDS

    @property
    def unwritten(self) -> Sent:
        """The receipts that are not written yet, in sum."""
        return receipts.in_sum(self._receipts)

    def write(self, db: duckdb.DuckDBPyConnection) -> None:
        """Write what is not written yet."""
        if self._receipts or self._unwritten_marks():
            with self.writing(db):
                pass

    @contextmanager
    def writing(self, db: duckdb.DuckDBPyConnection) -> Iterator[None]:
        """A transaction in which all that is not written yet is written first."""
        for lane, progress in self._progress.items():
            if progress.reach and progress.leaving:
                self._progress[lane] = progress.stretched(progress.leaving)
        unwritten = self._unwritten_marks()
        with transaction(db):
            if unwritten:
                marks.note(db, unwritten)
            if self._receipts:
                receipts.keep(db, self._receipts)
            yield
        self._written.update({mark.lane: mark for mark in unwritten})
        self._receipts.clear()
        self._written_at = self._clock.monotonic()

    def _unwritten_marks(self) -> list[Mark]:
        now = [progress.mark(lane) for lane, progress in self._progress.items()]
        return [mark for mark in now if mark != self._written[mark.lane]]
