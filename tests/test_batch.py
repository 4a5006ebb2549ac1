from collections.abc import Sequence

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from retl.delivery.batch import Batch, cut

texts = st.lists(st.binary(min_size=1, max_size=40), min_size=1, max_size=60)
limits = st.integers(min_value=1, max_value=120)


def joined(calls: Sequence[bytes], first_seq: int = 1) -> Batch:
    """A batch of the calls."""
    lengths = np.array([len(call) + 1 for call in calls], dtype=np.int64)
    seqs = np.arange(first_seq, first_seq + len(calls), dtype=np.int64)
    return Batch(3, seqs, np.cumsum(lengths) - 1, memoryview(b",".join(calls)))


def split_up(batch: Batch) -> list[bytes]:
    """The calls of a batch, found by its ends."""
    starts = [0, *(int(end) + 1 for end in batch.ends[:-1])]
    return [bytes(batch.text[start:end]) for start, end in zip(starts, batch.ends, strict=True)]


@given(texts, limits, st.integers(min_value=1, max_value=20))
def test_cut_loses_nothing_and_keeps_order(calls: list[bytes], max_bytes: int, max_calls: int) -> None:
    """Batches follow each other without a gap, from the first call to the last."""
    cuts = list(cut(joined(calls).ends, max_bytes, max_calls))
    assert [0, *(stop for _, stop in cuts[:-1])] == [start for start, _ in cuts]
    assert len(calls) == cuts[-1][1]


@given(texts, limits, st.integers(min_value=1, max_value=20))
def test_cut_keeps_the_limits(calls: list[bytes], max_bytes: int, max_calls: int) -> None:
    """No batch is over a limit, but for a single call that is too long by itself."""
    for start, stop in cut(joined(calls).ends, max_bytes, max_calls):
        assert stop - start <= max_calls
        assert stop - start == 1 or len(b",".join(calls[start:stop])) <= max_bytes


@given(texts, limits, st.integers(min_value=1, max_value=20))
def test_cut_fills_each_batch(calls: list[bytes], max_bytes: int, max_calls: int) -> None:
    """The call after a batch would not have fitted into it."""
    for start, stop in cut(joined(calls).ends, max_bytes, max_calls):
        if stop < len(calls):
            assert stop - start == max_calls or len(b",".join(calls[start : stop + 1])) > max_bytes


@given(texts, st.data())
def test_part_holds_exactly_its_calls(calls: list[bytes], data: st.DataObject) -> None:
    """A part, also one of a part, has the bytes, the places and the ends of its own calls."""
    batch, expected = joined(calls, first_seq=100), calls
    for _ in range(2):
        start = data.draw(st.integers(0, len(expected) - 1))
        stop = data.draw(st.integers(start + 1, len(expected)))
        batch, expected = batch.part(start, stop), expected[start:stop]
        assert b",".join(expected) == bytes(batch.text)
        assert expected == split_up(batch)
        assert len(expected) == batch.calls == batch.last_seq - batch.first_seq + 1


@given(st.lists(st.binary(min_size=1, max_size=40), min_size=2, max_size=60))
def test_halves_share_all_calls(calls: list[bytes]) -> None:
    """Two halves differ by one call at most and hold, in order, what the whole held."""
    first, second = joined(calls).halves()
    assert calls == split_up(first) + split_up(second)
    assert first.calls in (second.calls, second.calls - 1)
    assert first.last_seq + 1 == second.first_seq
    assert 3 == first.lane == second.lane


def test_one_call_in_a_thousand_batches() -> None:
    """A limit of one byte makes each call a batch of its own; none is left behind."""
    calls = [b"x" * 10] * 1_000
    assert [(n, n + 1) for n in range(1_000)] == list(cut(joined(calls).ends, 1, 2_500))


def test_no_calls_make_no_batch() -> None:
    """Nothing to send is no batch, not an empty one, which Segment would note as a fault."""
    assert [] == list(cut(np.array([], dtype=np.int64), 100, 100))
