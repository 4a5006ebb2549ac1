"""Batches: calls that fit a destination's limits together."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from retl.lazy import lazy_module

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import pyarrow as pa
else:
    np = lazy_module("numpy")
    pa = lazy_module("pyarrow")


@dataclass(frozen=True)
class Batch:
    """Consecutive calls of one lane, ready to be posted.

    Attributes:
        lane: the lane.
        seqs: place of each call in the outbox, ascending.
        ends: where each call ends in `text`, ascending; a comma follows each but the last.
        text: the calls' JSON in UTF-8, joined by commas.
    """

    lane: int
    seqs: "npt.NDArray[np.int64]"
    ends: "npt.NDArray[np.int64]"
    text: memoryview

    @property
    def calls(self) -> int:
        """How many calls it holds."""
        return len(self.seqs)

    @property
    def last_seq(self) -> int:
        """The place of its last call."""
        return int(self.seqs[-1])

    @property
    def first_seq(self) -> int:
        """The place of its first call."""
        return int(self.seqs[0])

    def part(self, start: int, stop: int) -> "Batch":
        """Its calls from number `start` up to `stop`, without copying them."""
        begin = int(self.ends[start - 1]) + 1 if start else 0
        return Batch(
            self.lane,
            self.seqs[start:stop],
            self.ends[start:stop] - begin,
            self.text[begin : int(self.ends[stop - 1])],
        )

    def without(self, seqs: Collection[int]) -> "Batch | None":
        """Without the calls at these places; None where none is left."""
        kept = [number for number, seq in enumerate(self.seqs.tolist()) if seq not in seqs]
        if len(kept) == self.calls:
            return self
        if not kept:
            return None
        calls = [self.part(number, number + 1).text for number in kept]
        ends = np.cumsum([len(call) + 1 for call in calls]) - 1
        return Batch(self.lane, self.seqs[kept], ends, memoryview(b",".join(calls)))

    def halves(self) -> tuple["Batch", "Batch"]:
        """Two batches with half of the calls each; for two calls and more."""
        middle = self.calls // 2
        return self.part(0, middle), self.part(middle, self.calls)


def joined(lane: int, calls: "pa.Table") -> Batch:
    """The calls as one batch, whose text is the very memory in which Arrow has them side by side.

    Args:
        lane: their lane.
        calls: `seq` and `text`, each text with a comma at its end; at least one, nearly in their order.
    """
    # Buffers, as Arrow's ways from and to NumPy load pandas, where it is installed.
    column = calls.column("seq").combine_chunks()
    seqs = np.frombuffer(column.buffers()[1], np.int64, count=len(column), offset=8 * column.offset)
    if np.any(seqs[1:] < seqs[:-1]):
        order = np.argsort(seqs)
        places = pa.Array.from_buffers(pa.int64(), len(order), [None, pa.py_buffer(order)])
        seqs, calls = seqs[order], calls.take(places)
    text = calls.column("text").combine_chunks()
    _, offsets, characters = text.buffers()
    starts = np.frombuffer(offsets, np.int32, count=len(text) + 1, offset=4 * text.offset).astype(np.int64)
    first, last = int(starts[0]), int(starts[-1])
    return Batch(
        lane,
        seqs,
        starts[1:] - first - 1,
        memoryview(characters)[first : last - 1],
    )


def cut(ends: "npt.NDArray[np.int64]", max_bytes: int, max_calls: int) -> Iterator[tuple[int, int]]:
    """Cut consecutive calls into batches, each as full as the limits allow.

    Args:
        ends: where each call ends in the joined text, ascending, a comma between two calls.
        max_bytes: of a batch's joined text; a single call that is longer is a batch of its own.
        max_calls: of a batch.

    Yields:
        Number of the first call and of the one after the last.
    """
    start = 0
    while start < len(ends):
        begin = int(ends[start - 1]) + 1 if start else 0
        fitting = int(np.searchsorted(ends, begin + max_bytes, side="right"))
        stop = max(start + 1, min(fitting, start + max_calls))
        yield start, stop
        start = stop
