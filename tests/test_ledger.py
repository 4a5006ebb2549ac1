from collections.abc import Iterator

import duckdb
import pytest
from delivery import Counted, FakeClock, fill, memory_state, pages, rows, segment, send

from retl.delivery import outbox, receipts
from retl.delivery.batch import Batch
from retl.delivery.ledger import UNWRITTEN_SECONDS, Ledger
from retl.sandbox.server import Sandbox
from retl.state import State


@pytest.fixture
def state() -> Iterator[State]:
    """Give a state with 100 calls in a lane of which none went out."""
    with memory_state() as opened:
        fill(opened, 100)
        outbox.start_marks(opened.db)
        yield opened


@pytest.fixture
def page(state: State) -> Batch:
    """Give these calls as one batch."""
    (page,) = pages(state)
    return page


def ledger_of(state: State, clock: FakeClock | None = None) -> Ledger:
    """The ledger of a round over the outbox of a state."""
    return Ledger(outbox.lanes(state.db), clock or FakeClock())


def accept(ledger: Ledger, batch: Batch) -> None:
    """Let a batch go out, and be accepted."""
    ledger.leave(batch)
    ledger.accept(batch, receipts.accepted(batch, "run-1", 1, 200, FakeClock().now().replace(tzinfo=None)))


def marks(state: State) -> list[tuple[int, int]]:
    """What the file says of attempted and delivered."""
    return rows(state, "SELECT attempted, delivered FROM state.mark ORDER BY lane")


@pytest.mark.rule("D2")
def test_a_stretch_is_noted_before_its_first_call_leaves(state: State, page: Batch) -> None:
    """Batches of the stretch then leave without a further note, and the one behind it does not."""
    ledger = ledger_of(state)
    assert not ledger.may_leave(page.part(0, 10), 20)
    ledger.write(state.db)
    assert [(30, 0)] == marks(state)
    accept(ledger, page.part(0, 10))
    assert ledger.may_leave(page.part(10, 30), 20)
    accept(ledger, page.part(10, 30))
    assert [(30, 0)] == marks(state)
    assert not ledger.may_leave(page.part(30, 40), 20)
    ledger.write(state.db)
    assert [(60, 30)] == marks(state)
    assert [(10,), (20,)] == rows(state, "SELECT calls FROM state.receipt ORDER BY first_seq")


def test_one_transaction_notes_the_next_stretch_of_every_lane(state: State) -> None:
    """Lanes whose batches are out are noted further with another lane, up to their last call at most."""
    state.db.execute("DELETE FROM state.outbox")
    fill(state, 90, users=3, lanes=3)
    outbox.start_marks(state.db)
    ledger = ledger_of(state)
    calls = [page for lane in range(3) for page in pages(state, lane)]
    for page in calls[:2]:
        assert not ledger.may_leave(page.part(0, 5), 10)
        ledger.write(state.db)
        accept(ledger, page.part(0, 5))
    ledger.leave(calls[0].part(5, 15))
    ledger.leave(calls[1].part(5, 10))
    assert not ledger.may_leave(calls[2].part(0, 5), 100)
    ledger.write(state.db)
    assert [(25, 5), (50, 35), (90, 60)] == marks(state)


def test_marks_are_exact_at_the_end(state: State, page: Batch) -> None:
    """Of a stretch, only calls whose answer is not known stay attempted."""
    ledger = ledger_of(state)
    ledger.may_leave(page.part(0, 10), 100)
    ledger.write(state.db)
    accept(ledger, page.part(0, 10))
    ledger.leave(page.part(10, 20))
    ledger.fail(page.part(10, 20), unsure=True)
    ledger.leave(page.part(10, 30))
    ledger.fail(page.part(10, 30), unsure=False)
    ledger.close()
    ledger.write(state.db)
    assert [(20, 10)] == marks(state)


def test_a_batch_without_an_answer_stays_attempted_at_the_end(state: State, page: Batch) -> None:
    """A batch that is out while the round ends may arrive; the rest of its stretch does not."""
    ledger = ledger_of(state)
    ledger.may_leave(page.part(0, 10), 100)
    ledger.leave(page.part(0, 10))
    ledger.close()
    ledger.write(state.db)
    assert [(10, 0)] == marks(state)


def test_what_cannot_be_written_is_written_later(state: State, page: Batch) -> None:
    """A transaction that fails takes nothing out of the ledger."""
    ledger = ledger_of(state)
    accept(ledger, page.part(0, 10))
    with pytest.raises(duckdb.Error), ledger.writing(state.db):
        state.db.execute("SELECT * FROM state.missing")
    assert [(0, 0)] == marks(state)
    assert 10 == ledger.unwritten.calls
    ledger.write(state.db)
    assert [(10,)] == rows(state, "SELECT delivered FROM state.mark")
    assert 0 == ledger.unwritten.calls


def test_nothing_stays_unwritten_for_long(state: State) -> None:
    """After half a second, or before a wait that lasts so long, it is time to write."""
    clock = FakeClock()
    ledger = ledger_of(state, clock)
    assert [False, True] == [ledger.is_old(), ledger.is_old(UNWRITTEN_SECONDS)]
    clock.pass_to(UNWRITTEN_SECONDS)
    assert ledger.is_old()


@pytest.mark.thorough
@pytest.mark.parametrize(("rate", "per_batch"), [(0, 0), (10, 2)])
def test_commits_are_few_beside_batches(rate: int, per_batch: int) -> None:
    """Without a rate there is one for 4 MB, a page; at a rate, where there is time, two for each batch."""
    statements: list[str] = []
    clock = FakeClock()
    with memory_state() as state, Sandbox(now=clock.now) as sandbox:
        fill(state, 300, pad=30_000)
        counted = State(Counted(state.db, statements), None)  # type: ignore[arg-type]
        page_count = len(list(pages(state)))
        with segment(sandbox.url, clock, rate=rate) as to:
            delivery = send(counted, to, clock)
    assert 300 == delivery.delivered
    begin_and_end = 2
    most = begin_and_end + (per_batch * delivery.batches or page_count)
    assert page_count < statements.count("COMMIT") <= most
    assert len(statements) <= 4 * most + 22
