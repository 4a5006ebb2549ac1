import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import duckdb
import pytest
from delivery import (
    NOON,
    Counted,
    FakeClock,
    fill,
    memory_state,
    numbers,
    pages,
    rows,
    segment,
    send,
    waiting,
)

from retl.config.settings import SegmentSettings
from retl.delivery import marks, outbox, receipts, rejected
from retl.delivery.deliver import WORKERS_AT_FIRST
from retl.delivery.response import RetryPolicy
from retl.delivery.segment import Segment
from retl.delivery.worker import MOST_REFUSED
from retl.errors import DeadlineError, DestinationError, Interrupted, SegmentError, StorageError
from retl.observer import SilentObserver
from retl.sandbox.failures import Failures, Reply
from retl.sandbox.server import Sandbox
from retl.state import State, open_state

LOST = Reply(lost=True)


@pytest.fixture
def clock() -> FakeClock:
    """Give a clock that nobody has to wait for."""
    return FakeClock()


@pytest.fixture
def sandbox(clock: FakeClock) -> Iterator[Sandbox]:
    """Give a local Segment that stamps arrivals by the fake clock."""
    with Sandbox(now=clock.now) as started:
        yield started


@pytest.fixture
def state() -> Iterator[State]:
    """Give a new state in memory."""
    with memory_state() as opened:
        yield opened


def refusing(*bad: int) -> Sandbox:
    """A local Segment that answers 400 to any request with one of these calls."""
    return Sandbox(reject_if=lambda call: call["properties"]["n"] in bad)


def seconds(call: dict[str, Any]) -> float:
    """When a call arrived."""
    return (datetime.fromisoformat(call["receivedAt"]) - NOON).total_seconds()


@pytest.mark.rule("L2")
def test_everything_arrives_and_the_outbox_is_empty(state: State, sandbox: Sandbox) -> None:
    """Calls arrive in the order of the outbox, are counted, and leave nothing behind but receipts."""
    fill(state, 30)
    with segment(sandbox.url) as to:
        delivery = send(state, to)
    assert list(range(30)) == numbers(sandbox.accepted)
    assert (30, 0, 0, 1, 0, None) == (
        delivery.delivered,
        delivery.rejected,
        delivery.unsure,
        delivery.batches,
        delivery.retries,
        delivery.error,
    )
    assert [] == waiting(state)
    assert [] == rows(state, "FROM state.mark")
    assert [("run-1", 0, 1, 30, 30, delivery.bytes, 0, 1, 200)] == rows(
        state, "SELECT * EXCLUDE answered_at FROM state.receipt"
    )


def test_an_empty_outbox_is_nothing_to_do(state: State, sandbox: Sandbox) -> None:
    """Without calls nobody is spoken to."""
    with segment(sandbox.url) as to:
        assert 0 == send(state, to).delivered
    assert [] == sandbox.requests


@pytest.mark.rule("O1")
def test_each_user_keeps_its_order_over_many_lanes(state: State, sandbox: Sandbox) -> None:
    """Lanes overtake each other, the calls of one user never do."""
    fill(state, 4_000, users=40, lanes=8)
    with segment(sandbox.url, connections=4) as to:
        delivery = send(state, to)
    assert 4_000 == delivery.delivered
    for user in range(40):
        assert list(range(user, 4_000, 40)) == numbers(sandbox.accepted, f"u{user}")


def test_more_lanes_than_connections_are_worked_off_in_turn(state: State, sandbox: Sandbox) -> None:
    """What a run with many connections left over, a run with one delivers."""
    fill(state, 60, users=6, lanes=6)
    with segment(sandbox.url, connections=1) as to:
        assert 60 == send(state, to).delivered
    assert [] == waiting(state)


def test_batches_keep_the_limits_however_large_the_calls(state: State, sandbox: Sandbox) -> None:
    """Calls of 32 KB are read page by page and packed below Segment's limit, none lost."""
    fill(state, 400, pad=32_000)
    with segment(sandbox.url) as to:
        assert 400 == send(state, to).delivered
    assert list(range(400)) == numbers(sandbox.accepted)
    assert all(400_000 < len(request.body) <= 475_000 for request in sandbox.requests[:8])


def test_a_page_holds_a_few_megabytes_even_where_sizes_differ(state: State) -> None:
    """Many small calls before large ones do not make a page of the large ones larger."""
    fill(state, 20_000)
    state.db.execute("UPDATE state.outbox SET body = body || repeat(' ', 30000) WHERE seq > 19000")
    state.db.execute("UPDATE state.outbox SET bytes = strlen(body)")
    found = list(pages(state))
    assert list(range(1, 20_001)) == [seq for page in found for seq in page.seqs]
    assert all(len(page.text) <= outbox.PAGE_BYTES + 32_768 for page in found)
    assert len(found) < 12


def test_a_batch_is_no_larger_than_a_second(state: State, sandbox: Sandbox, clock: FakeClock) -> None:
    """With a rate, batches hold a second's allowance at most and leave a second apart."""
    fill(state, 50)
    with segment(sandbox.url, clock, rate=20) as to:
        send(state, to, clock)
    assert [20, 20, 10] == [request.calls for request in sandbox.requests]
    assert [0.0, 1.0, 2.0] == sorted({seconds(call) for call in sandbox.accepted})


def test_throttling_pauses_every_lane(state: State, sandbox: Sandbox, clock: FakeClock) -> None:
    """After a 429 with Retry-After no lane sends until that time has passed, and then not all at once."""
    fill(state, 80, users=4, lanes=4)
    sandbox.script([Reply(429, retry_after=30)])
    clock.threads = 4
    with segment(sandbox.url, clock, rate=10, connections=4) as to:
        assert 80 == send(state, to, clock).delivered
    arrivals = sorted(seconds(call) for call in sandbox.accepted)
    assert 30 <= arrivals[0]
    # In a second leaves the batch that opens it, and no more than the rate of 10 allows besides.
    assert all(later - earlier >= 1 for earlier, later in zip(arrivals, arrivals[20:], strict=False))


@pytest.mark.thorough
@pytest.mark.rule("L20")
def test_a_429_pauses_every_lane_also_without_retry_after(
    state: State, sandbox: Sandbox, clock: FakeClock
) -> None:
    """A 429 says that calls come too fast, whichever lane they are of."""
    fill(state, 80, users=4, lanes=4)
    sandbox.script([Reply(429)] * 6)
    clock.threads = 4
    policy = RetryPolicy(jitter=0.0, base=10)
    with segment(sandbox.url, clock, rate=10, connections=4, retry_policy=policy) as to:
        assert 80 == send(state, to, clock).delivered
    assert all(seconds(call) >= 10 for call in sandbox.accepted)


USUAL = SegmentSettings()


@pytest.mark.thorough
@pytest.mark.rule("L20")
@pytest.mark.parametrize(
    ("limit", "most", "least"), [(1_000, 0.0, 1.0), (500, 0.01, 0.99), (400, 0.02, 0.7), (250, 0.05, 0.6)]
)
def test_the_default_rate_is_hardly_ever_too_fast(
    state: State, clock: FakeClock, limit: int, most: float, least: float
) -> None:
    """At Segment's own limit, and at half of it, 1 % of answers at most are 429.

    Where others use up the rest of the limit, the rate settles below what is left, and uses most of it.
    """
    fill(state, 40_000, users=1_000, lanes=16)
    failures = Failures(calls_per_second=limit)
    with (
        Sandbox(now=clock.now, failures=failures) as sandbox,
        segment(sandbox.url, clock, rate=USUAL.calls_per_second, connections=USUAL.concurrency) as to,
    ):
        assert 40_000 == send(state, to, clock, seconds=3_600).delivered
        answers = [request.status for request in sandbox.requests]
    assert answers.count(429) <= most * len(answers)
    assert set(answers) <= {200, 429}
    assert clock.seconds <= 40_000 / min(limit, 500) / least


@pytest.mark.thorough
def test_waits_that_segment_asks_for_are_not_counted(
    state: State, sandbox: Sandbox, clock: FakeClock
) -> None:
    """A server may put a batch off as often as it likes; only time ends that, and no retry is used up."""
    fill(state, 5)
    sandbox.script([*[Reply(429, retry_after=10)] * 40, Reply(500)])
    with segment(sandbox.url, clock, retry_policy=RetryPolicy(jitter=0.0, retries=1)) as to:
        delivery = send(state, to, clock)
    assert (5, 41, None) == (delivery.delivered, delivery.retries, delivery.error)
    assert 400.5 == clock.monotonic()


def test_a_failing_server_is_waited_for(state: State, sandbox: Sandbox, clock: FakeClock) -> None:
    """Waits before retries double, and the decision tells how many attempts it took."""
    fill(state, 5)
    sandbox.script([Reply(500), Reply(503), Reply(429)])
    with segment(sandbox.url, clock, retry_policy=RetryPolicy(jitter=0.0)) as to:
        delivery = send(state, to, clock)
    assert (5, 3, 0) == (delivery.delivered, delivery.retries, delivery.unsure)
    assert 0.5 + 1 + 2 == clock.monotonic()
    assert [(4,)] == rows(state, "SELECT attempts FROM state.receipt")
    assert ["0", "1", "2", "3"] == [request.headers.get("x-retry-count") for request in sandbox.requests]


@pytest.mark.rule("L5")
@pytest.mark.parametrize("bad", [0, 7, 15])
def test_a_refused_call_is_found_and_the_others_arrive_in_order(state: State, bad: int) -> None:
    """A 400 halves the batch until the one bad call is alone; it is kept, and the rest goes on in order."""
    fill(state, 16)
    with refusing(bad) as sandbox, segment(sandbox.url) as to:
        delivery = send(state, to)
    assert [n for n in range(16) if n != bad] == numbers(sandbox.accepted)
    assert (15, 1, 0, None) == (delivery.delivered, delivery.rejected, delivery.unsure, delivery.error)
    ((key, reason, body, answer),) = rows(state, "SELECT key, reason, body, answer FROM state.rejected_call")
    assert (f"k{bad}", "refused") == (key, reason)
    assert f'"n":{bad},' in body
    assert answer.startswith("400 ")
    assert [] == waiting(state)


def test_all_refused_calls_are_found(state: State) -> None:
    """Several bad calls cost only themselves."""
    bad = (0, 1, 8, 31, 32, 63)
    fill(state, 64, users=2, lanes=2)
    with refusing(*bad) as sandbox, segment(sandbox.url, connections=2) as to:
        delivery = send(state, to)
    assert (58, 6) == (delivery.delivered, delivery.rejected)
    assert sorted(bad) == sorted(
        int(key[1:]) for (key,) in rows(state, "SELECT key FROM state.rejected_call")
    )


def test_a_batch_that_is_too_large_for_something_in_between_is_split(state: State, sandbox: Sandbox) -> None:
    """A 413 halves the batch like a 400; the halves get through."""
    fill(state, 8)
    sandbox.script([Reply(413), Reply(200)] * 3 + [Reply(413)])
    with segment(sandbox.url) as to:
        delivery = send(state, to)
    assert [8, 4, 4, 2, 2, 1, 1] == [request.calls for request in sandbox.requests]
    assert (7, 1) == (delivery.delivered, delivery.rejected)
    assert list(range(7)) == numbers(sandbox.accepted)


@pytest.mark.thorough
@pytest.mark.rule("L5")
@pytest.mark.parametrize(("users", "tried"), [(100, 2 * MOST_REFUSED), (1, 100)])
def test_when_every_call_is_refused_it_is_not_the_calls(
    state: State, sandbox: Sandbox, users: int, tried: int
) -> None:
    """Where no call is accepted all stay pending; of many users, so many calls are tried and no more."""
    fill(state, 100, users=users)
    sandbox.reject_if = lambda _: True
    with segment(sandbox.url) as to:
        delivery = send(state, to)
    assert isinstance(delivery.error, SegmentError)
    assert f"{tried} calls were refused one by one" in str(delivery.error)
    assert (0, 0) == (delivery.delivered, delivery.rejected)
    assert list(range(100)) == waiting(state)
    assert len(sandbox.requests) <= 2 * tried + 10


@pytest.mark.variants(1)
@pytest.mark.rule("L5", "L14")
@pytest.mark.parametrize(
    ("status", "users"),
    [(400, 50), (400, 1), (404, 1), (500, 50), (500, 1), pytest.param(None, 50, marks=pytest.mark.slow)],
)
@pytest.mark.parametrize("bad", [range(22), range(60, 82), range(128, 150)], ids=["first", "middle", "last"])
def test_bad_calls_side_by_side_let_the_others_pass(
    state: State, clock: FakeClock, bad: range, users: int, status: int | None
) -> None:
    """Whatever is answered to 22 bad calls, all others arrive once and in order; the bad ones are set aside.

    Where no call is behind them that could tell, they stay pending, and newer calls are to tell.
    """
    fill(state, 150, users=users)
    refusal = Reply(status) if status else LOST
    replies = Sandbox(
        now=clock.now, reply_if=lambda call: refusal if call["properties"]["n"] in bad else None
    )
    with replies as sandbox, segment(sandbox.url, clock) as to:
        delivery = send(state, to, clock, seconds=36_000, until_undecided=True)
    good = [n for n in range(150) if n not in bad]
    assert good == sorted(numbers(sandbox.accepted))
    for user in range(min(users, 50)):
        assert [n for n in good if n % users == user] == numbers(sandbox.accepted, f"u{user}")
    set_aside = [int(key[1:]) for (key,) in rows(state, "SELECT key FROM state.rejected_call ORDER BY key")]
    if bad.stop < 150:
        assert (list(bad), [], None) == (sorted(set_aside), waiting(state), delivery.error)
        assert (128, 22, 0) == (delivery.delivered, delivery.rejected, len(sandbox.duplicates))
    else:
        assert list(bad) == waiting(state)
        assert (3, True) == (getattr(delivery.error, "exit_code", None), delivery.undecided)


@pytest.mark.rule("L5")
def test_a_good_call_behind_a_bad_one_has_its_retries(state: State, clock: FakeClock) -> None:
    """A call that is put off once, while one before it is given up, is not taken for a bad one."""
    fill(state, 4)
    replies = {0: [Reply(404)] * 99, 1: [Reply(429, retry_after=5), Reply(503)]}

    def reply(call: dict[str, Any]) -> Reply | None:
        left = replies.get(call["properties"]["n"])
        return left.pop() if left else None

    with Sandbox(now=clock.now, reply_if=reply) as sandbox, segment(sandbox.url, clock) as to:
        delivery = send(state, to, clock)
    assert ([1, 2, 3], 1, None) == (numbers(sandbox.accepted), delivery.rejected, delivery.error)


def killed_behind_first(state: State, attempted: int) -> None:
    """Leave a state as a kill does after the first call was refused alone, with 404."""
    with state.transaction():
        outbox.start_marks(state.db)
        marks.note(state.db, [marks.Mark(0, attempted, 0)])
        alone = next(pages(state)).part(0, 1)
        receipts.keep(state.db, [receipts.refused(alone, "run-1", 404, NOON.replace(tzinfo=None))])


@pytest.mark.rule("L5")
@pytest.mark.parametrize(("calls", "users", "attempted"), [(1, 1, 1), (2, 1, 1), (2, 2, 2)])
def test_a_refused_call_that_none_of_its_user_passed_is_tried_again(
    state: State, calls: int, users: int, attempted: int
) -> None:
    """A kill alone, or a call of another user that went out behind it, is no reason to reject it."""
    fill(state, calls, users=users)
    killed_behind_first(state, attempted)
    with Sandbox() as sandbox, segment(sandbox.url) as to:
        delivery = send(state, to)
    assert (list(range(calls)), 0) == (numbers(sandbox.accepted), delivery.rejected)
    assert {} == receipts.refused_places(state.db)


class FullOnce(Counted):
    """A state's connection on whose disk there is no room for the first rejected call."""

    def execute(self, query: str, parameters: object = None) -> duckdb.DuckDBPyConnection:
        """Execute, but for that."""
        if "INSERT INTO state.rejected_call" in query and not self._statements:
            self._statements.append(query)
            raise duckdb.IOException("Could not write file: No space left on device")
        return self._db.execute(query, parameters)

    def cursor(self) -> "FullOnce":
        """A further connection to the same disk."""
        return FullOnce(self._db.cursor(), self._statements)


@pytest.mark.rule("L5")
def test_a_call_is_rejected_though_that_could_not_be_written_at_once(state: State) -> None:
    """The call behind it was accepted, and both are told together, or neither is."""
    fill(state, 2)
    full: list[str] = []
    with refusing(0) as sandbox, segment(sandbox.url) as to:
        delivery = send(State(FullOnce(state.db, full), None), to)  # type: ignore[arg-type]
    assert (1, True, [1]) == (len(full), isinstance(delivery.error, StorageError), numbers(sandbox.accepted))
    assert ([], 1) == (waiting(state), delivery.rejected)
    assert [("k0",)] == rows(state, "SELECT key FROM state.rejected_call")


@pytest.mark.rule("O1")
def test_a_call_that_was_refused_does_not_go_behind_a_newer_one_after_a_kill(state: State) -> None:
    """Before the next call of its user leaves, the state says so; the run that follows sends it no more."""
    fill(state, 3)
    noted: list[dict[int, int]] = []

    def reply(call: dict[str, Any]) -> Reply | None:
        if call["properties"]["n"]:
            noted.append(receipts.refused_places(state.db.cursor()))
        return Reply(404 if call["properties"]["n"] == 0 else 401)

    with Sandbox(reply_if=reply) as sandbox, segment(sandbox.url) as to:
        assert isinstance(send(state, to).error, DestinationError)
    assert [{1: 404}] == noted
    assert {} == receipts.refused_places(state.db)  # 401 says that the newer one did not arrive

    killed_behind_first(state, attempted=3)
    with Sandbox() as sandbox, segment(sandbox.url) as to:
        delivery = send(state, to)
    assert ([1, 2], 2, 1) == (numbers(sandbox.accepted), delivery.delivered, delivery.rejected)
    assert [("k0", "answered 404", True)] == rows(
        state, "SELECT key, answer, overtaken FROM state.rejected_call"
    )
    assert {} == receipts.refused_places(state.db)


@pytest.mark.rule("L5")
@pytest.mark.parametrize("status", [404, 500])
def test_calls_that_failed_alone_are_tried_again_by_the_next_run(
    state: State, clock: FakeClock, status: int
) -> None:
    """Also where the answer to both got lost before: none went out behind the other one after that."""
    fill(state, 2)
    answers = iter([LOST])
    with (
        Sandbox(now=clock.now, reply_if=lambda call: next(answers, Reply(status))) as sandbox,
        segment(sandbox.url, clock) as to,
    ):
        delivery = send(state, to, clock, until_undecided=True)
        assert (0, 0, True) == (delivery.delivered, delivery.rejected, delivery.error is not None)
    assert {} == receipts.refused_places(state.db)
    with Sandbox(now=clock.now) as sandbox, segment(sandbox.url, clock) as to:
        delivery = send(state, to, clock)
    assert ([0, 1], 2, 0) == (numbers(sandbox.accepted), delivery.delivered, delivery.rejected)


@pytest.mark.rule("L15")
def test_a_rejected_call_knows_that_a_newer_one_of_its_user_left(state: State) -> None:
    """That holds where the newer one left before its turn, and never for the calls of another user."""
    fill(state, 3, users=2)
    answers = {0: Reply(400), 1: Reply(404)}
    with (
        Sandbox(reply_if=lambda call: answers.get(call["properties"]["n"])) as sandbox,
        segment(sandbox.url) as to,
    ):
        assert (1, 2) == ((delivery := send(state, to)).delivered, delivery.rejected)
    found = "SELECT key, overtaken FROM state.rejected_call ORDER BY key"
    assert [("k0", True), ("k1", False)] == rows(state, found)
    state.db.execute("DELETE FROM state.rejected_call")
    fill(state, 6, users=3)
    with (
        Sandbox(reply_if=lambda call: answers.get(call["properties"]["n"])) as sandbox,
        segment(sandbox.url) as to,
    ):
        assert (4, 2) == ((delivery := send(state, to)).delivered, delivery.rejected)
    assert [("k0", True), ("k1", True)] == rows(state, found)


def lone(request: Any) -> set[int]:
    """The `n` of the call of a request that has one."""
    calls = request.parsed["batch"]
    return set(numbers(calls)) if len(calls) == 1 else set()


@pytest.mark.rule("D2")
def test_a_call_that_left_before_its_turn_without_an_answer_is_unsure(state: State, clock: FakeClock) -> None:
    """Its answer got lost, so that it goes out once more in its turn, and that is counted."""
    fill(state, 4, users=4)
    replies = {0: [Reply(404)] * 99, 1: [LOST], 2: [LOST], 3: [LOST]}

    def reply(call: dict[str, Any]) -> Reply | None:
        left = replies.get(call["properties"]["n"])
        return left.pop() if left else None

    with Sandbox(now=clock.now, reply_if=reply) as sandbox, segment(sandbox.url, clock) as to:
        first = send(state, to, clock)
        replies.clear()
        second = send(state, to, clock)
    assert 4 == first.delivered + first.rejected + second.delivered
    lost = [request for request in sandbox.requests if request.status is None]
    assert len(lost) == 3
    assert 0 < first.unsure + second.unsure <= 3
    assert outbox.may_have_arrived(state.db)


@pytest.mark.rule("D2")
def test_a_call_that_left_before_its_turn_in_an_earlier_run_is_unsure(state: State, clock: FakeClock) -> None:
    """It is counted when it goes out again, by whichever run, and once."""
    fill(state, 4, users=4)
    broken = True

    def reply(call: dict[str, Any]) -> Reply | None:
        return (LOST if call["properties"]["n"] else Reply(404)) if broken else None

    with Sandbox(now=clock.now, reply_if=reply) as sandbox, segment(sandbox.url, clock) as to:
        first = send(state, to, clock, until_undecided=True)
        ahead = {one for request in sandbox.requests if request.status is None for one in lone(request)}
        broken = False
        second = send(state, to, clock, run_id="run-2")
    assert (0, 4) == (first.delivered, second.delivered)
    assert 0 < len(ahead) == second.unsure


@pytest.mark.rule("D2")
def test_a_call_that_was_refused_after_an_attempt_without_an_answer_is_unsure(
    state: State, clock: FakeClock
) -> None:
    """A retry sends it once more, and that is counted; not so a call that was refused at once."""
    fill(state, 3, users=3)
    refused = {0: [Reply(400)] * 9, 1: [Reply(400)] * 9}

    def reply(call: dict[str, Any]) -> Reply | None:
        left = refused.get(call["properties"]["n"])
        return left.pop() if left else None

    with Sandbox(now=clock.now, reply_if=reply) as sandbox, segment(sandbox.url, clock) as to:
        refused[1].append(LOST)
        state.db.execute("UPDATE state.outbox SET body = body || repeat(' ', 30000)")
        assert (1, 2) == ((first := send(state, to, clock)).delivered, first.rejected)
        refused.clear()
        with state.transaction():
            assert 2 == rejected.take_again(state.db, stale=False, run_id="run-2", now=NOON)
            outbox.enqueue_again(state.db)
        assert (2, 1) == ((again := send(state, to, clock)).delivered, again.unsure)


def test_a_stop_while_a_call_fails_is_not_due_to_the_call(state: State, sandbox: Sandbox) -> None:
    """Where the write key is refused in the end, newer calls could tell nothing of the failures before."""
    fill(state, 1)
    sandbox.script([*[Reply(500)] * 6, Reply(401)])
    with segment(sandbox.url) as to:
        delivery = send(state, to)
    assert (2, False) == (getattr(delivery.error, "exit_code", None), delivery.undecided)


def test_an_outage_of_refusals_in_the_middle_costs_no_call(state: State, sandbox: Sandbox) -> None:
    """Where Segment accepts calls and then refuses all, the refused ones stay pending and arrive later."""
    fill(state, 600, users=600)
    sandbox.reject_if = lambda call: call["properties"]["n"] >= 100
    with segment(sandbox.url) as to:
        first = send(state, to)
    assert (100, 0) == (first.delivered, first.rejected)
    assert list(range(100, 600)) == waiting(state)
    sandbox.reject_if = None
    with segment(sandbox.url) as to:
        assert 500 == send(state, to).delivered
    assert list(range(600)) == numbers(sandbox.accepted)


def test_a_lone_refused_call_is_held_until_segment_is_known(state: State, sandbox: Sandbox) -> None:
    """A single refused call is rejected only at a destination that has accepted others."""
    sandbox.reject_if = lambda call: call["properties"]["n"] == 0
    fill(state, 1)
    with segment(sandbox.url) as to:
        held = send(state, to)
        assert (0, [0]) == (held.rejected, waiting(state))
        assert isinstance(held.error, SegmentError)
        state.db.execute("DELETE FROM state.outbox")
        fill(state, 2)
        assert (1, 1) == ((known := send(state, to)).delivered, known.rejected)
        fill(state, 1)
        alone = send(state, to)
    assert (1, None, []) == (alone.rejected, alone.error, waiting(state))


@pytest.mark.variants(1)
@pytest.mark.parametrize(("status", "code"), [(401, 2), (403, 2), (404, 3), (302, 3), (501, 3), (422, 3)])
def test_answers_that_no_retry_can_mend_stop_at_once(
    state: State, sandbox: Sandbox, status: int, code: int
) -> None:
    """Such answers end delivery in every lane without a wait; all calls stay pending."""
    fill(state, 40, users=4, lanes=4)
    sandbox.script([Reply(status, retry_after=60)] * 1_000)
    with segment(sandbox.url, connections=4) as to:
        delivery = send(state, to)
    assert delivery.error is not None
    assert code == delivery.error.exit_code
    assert isinstance(delivery.error, DestinationError if code == 2 else SegmentError)
    assert len(sandbox.requests) <= (4 if status in {401, 403, 302} else 80)
    assert 40 == len(waiting(state))
    with Sandbox() as fixed, segment(fixed.url, connections=4) as to:
        again = send(state, to)
    assert (40, 0) == (again.delivered, again.unsure)


@pytest.mark.thorough
@pytest.mark.rule("L2")
def test_an_unreachable_segment_leaves_everything_pending(
    state: State, clock: FakeClock, sandbox: Sandbox
) -> None:
    """No connection up to the deadline: exit code 3, and the next delivery sends each call once."""
    fill(state, 10)
    with segment("http://127.0.0.1:1", clock, retry_policy=RetryPolicy(jitter=0.0)) as to:
        delivery = send(state, to, clock, seconds=3_600)
    assert isinstance(delivery.error, SegmentError)
    assert (3, True) == (delivery.error.exit_code, "the time for this run is up" in str(delivery.error))
    # Seven waits that double, 63.5 seconds together, and then one each minute; the last attempt is no retry.
    assert (0, 0, 7 + 58 + 1) == (delivery.delivered, delivery.unsure, delivery.retries)
    assert 3_540 < clock.monotonic() <= 3_600
    assert list(range(10)) == waiting(state)
    with segment(sandbox.url) as to:
        assert (10, 0) == (send(state, to).delivered, len(sandbox.duplicates))


HALF_A_DAY = 12 * 3_600


def patient(url: str, clock: FakeClock) -> Segment:
    """A way to a sandbox with the waits of a real run."""
    return segment(url, clock, connections=2, retry_policy=RetryPolicy(jitter=0.0))


OUTAGES = [
    (1, 1, Reply(503)),
    (20, 1, Reply(503)),
    (2_000, 2_000, Reply(503)),
    (30, 30, Reply(503, retry_after=45)),
    (30, 30, Reply(429)),
    (30, 30, Reply(refused=True)),
]


@pytest.mark.thorough
@pytest.mark.rule("L19")
@pytest.mark.parametrize(("calls", "users", "reply"), OUTAGES)
def test_an_outage_of_twenty_minutes_is_survived(
    state: State, clock: FakeClock, calls: int, users: int, reply: Reply
) -> None:
    """Whatever Segment answers meanwhile, and however few calls there are: soon after it all have arrived."""
    fill(state, calls, users=users, lanes=min(users, 2))

    def answer(_: object) -> Reply | None:
        return reply if clock.seconds < 1_200 else None

    with Sandbox(now=clock.now, reply_if=answer) as sandbox, patient(sandbox.url, clock) as to:
        delivery = send(state, to, clock, seconds=HALF_A_DAY)
        arrived = numbers(sandbox.accepted)
    assert (calls, 0, None) == (delivery.delivered, delivery.rejected, delivery.error)
    assert list(range(calls)) == (arrived if users == 1 else sorted(arrived))
    assert clock.seconds < 1_200 + 300
    assert len(sandbox.requests) < 600


LASTING = [Reply(200, body="<html>"), Reply(404), Reply(200, body="<html>", retry_after=20)]


@pytest.mark.variants(1)
@pytest.mark.rule("L19")
@pytest.mark.parametrize("reply", LASTING, ids=["a web page", "404", "a web page that asks to wait"])
@pytest.mark.parametrize(("calls", "users"), [(1, 1), (30, 1), (2_000, 2_000)])
def test_what_no_retry_can_mend_is_given_up_in_minutes(
    state: State, sandbox: Sandbox, clock: FakeClock, calls: int, users: int, reply: Reply
) -> None:
    """An answer that will be the same next time ends the run long before its deadline."""
    fill(state, calls, users=users)
    sandbox.script([reply] * 5_000)
    with patient(sandbox.url, clock) as to:
        delivery = send(state, to, clock, seconds=HALF_A_DAY)
    assert 3 == getattr(delivery.error, "exit_code", None)
    assert (0, calls) == (delivery.delivered, outbox.pending(state.db))
    assert clock.seconds < 30 * 60


@pytest.mark.rule("D1", "D2")
def test_a_lost_answer_is_asked_for_again_with_the_same_ids(state: State, sandbox: Sandbox) -> None:
    """Calls whose answer got lost go again under their ids, so that Segment knows them, and are counted."""
    fill(state, 10)
    sandbox.script([LOST])
    with segment(sandbox.url) as to:
        delivery = send(state, to)
    assert (10, 10, 1) == (delivery.delivered, delivery.unsure, delivery.retries)
    assert [f"m{n}" for n in range(10)] == sandbox.duplicates
    assert list(range(10)) == numbers(sandbox.accepted)


@pytest.mark.rule("D2")
def test_calls_are_unsure_when_they_go_out_again_not_before(
    state: State, sandbox: Sandbox, clock: FakeClock
) -> None:
    """A lost answer in one run is counted by the run that sends the calls again, whatever fails between."""
    fill(state, 30)
    sandbox.script([Reply(200), LOST, Reply(401)])
    with segment(sandbox.url, clock, rate=10) as to:
        first = send(state, to, clock)
    assert (10, 0) == (first.delivered, first.unsure)
    with segment("http://127.0.0.1:1", clock) as to:
        second = send(state, to, clock, seconds=0.1)
    assert (0, 0) == (second.delivered, second.unsure)
    with segment(sandbox.url, clock) as to:
        third = send(state, to, clock)
    assert (20, 10) == (third.delivered, third.unsure)
    assert [f"m{n}" for n in range(10, 20)] == sandbox.duplicates


def test_an_answer_that_says_no_leaves_no_doubt(state: State, sandbox: Sandbox) -> None:
    """Calls that Segment answered to refuse, or to put off, are not unsure in the next run."""
    fill(state, 10)
    sandbox.script([Reply(500), Reply(503), Reply(401)])
    with segment(sandbox.url) as to:
        assert send(state, to).error is not None
    with segment(sandbox.url) as to:
        assert (10, 0) == ((again := send(state, to)).delivered, again.unsure)


def test_doubt_outlives_a_later_refusal(state: State, sandbox: Sandbox) -> None:
    """A batch without an answer that is then put off, or split, may still have arrived the first time."""
    fill(state, 8)
    sandbox.script([LOST, Reply(503), Reply(413)])
    with segment(sandbox.url) as to:
        delivery = send(state, to)
    assert (8, 8, 2) == (delivery.delivered, delivery.unsure, delivery.batches)
    fill(state, 8)
    sandbox.script([LOST, Reply(503), Reply(401)])
    with segment(sandbox.url) as to:
        assert 0 == send(state, to).unsure
    with segment(sandbox.url) as to:
        assert 8 == send(state, to).unsure


def test_half_of_a_split_batch_is_not_unsure_by_the_other(
    state: State, sandbox: Sandbox, clock: FakeClock
) -> None:
    """When delivery stops between two halves, the half that did not go out alone is not counted later."""
    fill(state, 8)
    sandbox.script([Reply(400), Reply(200), Reply(401)])
    with segment(sandbox.url) as to:
        assert (4, 2) == ((first := send(state, to)).delivered, getattr(first.error, "exit_code", None))
    assert [4, 5, 6, 7] == waiting(state)
    with segment(sandbox.url) as to:
        assert (4, 0) == ((second := send(state, to)).delivered, second.unsure)


def test_a_deadline_ends_a_wait_at_once(state: State, sandbox: Sandbox, clock: FakeClock) -> None:
    """A wait that would go beyond the deadline is not begun."""
    fill(state, 10)
    sandbox.script([Reply(429, retry_after=3_600)])
    with segment(sandbox.url, clock) as to:
        delivery = send(state, to, clock, seconds=600)
    assert isinstance(delivery.error, SegmentError)
    assert "time for this run is up" in str(delivery.error)
    assert 0.0 == clock.monotonic()
    assert 10 == len(waiting(state))


@pytest.mark.rule("L20")
def test_a_pause_holds_for_the_next_sync_to_the_same_source(
    state: State, tmp_path: Path, sandbox: Sandbox, clock: FakeClock
) -> None:
    """What Segment asks of one sync of a process, the next one keeps to, though it got no such answer."""
    fill(state, 10)
    sandbox.script([Reply(429, retry_after=3_600)])
    with segment(sandbox.url, clock) as to, open_state(tmp_path / "next.duckdb", "next") as other:
        fill(other, 5)
        send(state, to, clock, seconds=600)
        next_one = Segment(to.source, to.rate_limiter, RetryPolicy(), connections=1)
        with next_one:
            assert 5 == send(other, next_one, clock, seconds=7_200).delivered
    assert {3_600.0} == {seconds(call) for call in sandbox.accepted}


def test_a_deadline_ends_a_low_rate_in_time(state: State, sandbox: Sandbox, clock: FakeClock) -> None:
    """What fits before the deadline is delivered, the rest stays pending."""
    fill(state, 100)
    with segment(sandbox.url, clock, rate=10) as to:
        delivery = send(state, to, clock, seconds=4.5)
    assert isinstance(delivery.error, DeadlineError)
    assert (3, 50) == (delivery.error.exit_code, delivery.delivered)
    assert list(range(50, 100)) == waiting(state)
    assert clock.monotonic() <= 4.5


@pytest.mark.rule("L13")
def test_a_deadline_ends_the_wait_for_an_answer(state: State, sandbox: Sandbox) -> None:
    """A server that takes the calls and answers nothing is left soon after the deadline; they are unsure."""
    fill(state, 10)
    sandbox.script([Reply(hang=True)])
    with segment(sandbox.url) as to:
        delivery = send(state, to, seconds=0.1, grace=0.1)
    assert isinstance(delivery.error, DeadlineError)
    assert list(range(10)) == waiting(state)
    with segment(sandbox.url) as to:
        assert (10, 10) == ((again := send(state, to)).delivered, again.unsure)


def test_a_limit_is_of_calls_that_arrive(state: State) -> None:
    """Bad calls at the head do not use it up."""
    fill(state, 10, users=10)
    with refusing(0, 1) as sandbox, segment(sandbox.url) as to:
        delivery = send(state, to, limit=1)
    assert ([2], 1, 2) == (numbers(sandbox.accepted), delivery.delivered, delivery.rejected)


@pytest.mark.variants(1)
@pytest.mark.parametrize("limit", [0, 1, 7, 25, 30, 31])
def test_a_limit_lets_exactly_so_many_leave(state: State, sandbox: Sandbox, limit: int) -> None:
    """`--limit` is a canary: so many calls leave and no more; the rest goes later, each call once."""
    fill(state, 30, users=3, lanes=3)
    with segment(sandbox.url, connections=3) as to:
        canary = send(state, to, limit=limit)
        assert (min(limit, 30), None) == (canary.delivered, canary.error)
        assert 30 - min(limit, 30) == len(waiting(state))
        rest = send(state, to)
    assert (30 - min(limit, 30), 0) == (rest.delivered, rest.unsure)
    assert 30 == len(sandbox.accepted)
    for user in range(3):
        assert list(range(user, 30, 3)) == numbers(sandbox.accepted, f"u{user}")


def test_delivery_goes_on_where_it_stopped(state: State, sandbox: Sandbox, clock: FakeClock) -> None:
    """After a stop in the middle the next delivery sends only what is left."""
    fill(state, 30)
    sandbox.script([Reply(200), Reply(401)])
    with segment(sandbox.url, clock, rate=10) as to:
        assert 10 == send(state, to, clock).delivered
    assert list(range(10, 30)) == waiting(state)
    with segment(sandbox.url, clock, rate=10) as to:
        assert 20 == send(state, to, clock).delivered
    assert list(range(30)) == numbers(sandbox.accepted)
    assert [] == sandbox.duplicates


def test_new_calls_after_old_ones_have_fresh_marks(state: State, sandbox: Sandbox) -> None:
    """Places in the outbox begin again when it was empty; no old mark hides a new call."""
    for total, (calls, lanes) in enumerate([(12, 4), (9, 1), (20, 5)], 1):
        fill(state, calls, users=lanes, lanes=lanes)
        assert list(range(calls)) == sorted(waiting(state))
        with segment(sandbox.url, connections=2) as to:
            assert calls == send(state, to).delivered
        assert 0 == outbox.pending(state.db)
        assert total == len(rows(state, "SELECT DISTINCT last_seq FROM state.receipt WHERE lane = 0"))


def test_pending_is_right_before_delivered_calls_are_taken_out(state: State) -> None:
    """Right after a crash, when only the marks tell, delivered calls do not count as pending."""
    fill(state, 30, users=3, lanes=3)
    outbox.start_marks(state.db)
    (first, *_) = pages(state, 1)
    marks.note(state.db, [marks.Mark(1, 16, first.part(0, 4).last_seq)])
    assert 26 == outbox.pending(state.db)
    outbox.settle(state.db)
    outbox.start_marks(state.db)
    assert 26 == outbox.pending(state.db) == len(rows(state, "FROM state.outbox"))
    assert [0, 16, 20] == [lane.attempted for lane in outbox.lanes(state.db)]


def test_few_calls_share_a_lane() -> None:
    """Lanes are as many as are worth it, at least one, and never more than connections."""
    assert [1, 1, 1, 2, 4, 4] == [outbox.lane_count(n, 4) for n in (0, 1, 3_999, 4_000, 8_000, 10**7)]
    assert 1 == outbox.lane_count(10**7, 1)


class _Told(SilentObserver):
    """Remembers what it is told."""

    def __init__(self) -> None:
        self.calls = 0
        self.arrived = 0
        self.waits: list[tuple[str, float]] = []

    def delivering(self, calls: int) -> None:
        self.calls += calls

    def delivered(self, calls: int) -> None:
        self.arrived += calls

    def waiting(self, reason: str, seconds: float) -> None:
        self.waits.append((reason, seconds))


class _Threads(SilentObserver):
    """Remembers which threads delivered."""

    def __init__(self) -> None:
        self.seen: set[int] = set()

    def delivered(self, calls: int) -> None:
        self.seen.add(threading.get_ident())


@pytest.mark.thorough
@pytest.mark.parametrize(("slow", "rate"), [(True, 0), (False, 0), (False, 100)])
def test_more_connections_are_used_where_answers_take_long(
    state: State, clock: FakeClock, slow: bool, rate: int
) -> None:
    """Beyond the first four, only while most of the time goes by with waiting for answers."""
    fill(state, 3_200, users=16, lanes=16)

    def answer(_: object) -> None:
        if slow:
            clock.pass_to(clock.seconds + 0.03)

    threads = _Threads()
    with (
        Sandbox(now=clock.now, reply_if=answer) as sandbox,
        segment(sandbox.url, clock, rate=rate, connections=16) as to,
    ):
        assert 3_200 == send(state, to, clock, observer=threads).delivered
    assert (len(threads.seen) > WORKERS_AT_FIRST) == slow


def test_the_watch_is_told(state: State, sandbox: Sandbox, clock: FakeClock) -> None:
    """Whoever watches learns how much is due, each success, and why a batch waits."""
    fill(state, 30)
    sandbox.script([Reply(503, retry_after=5, body="busy")])
    told = _Told()
    with segment(sandbox.url, clock) as to:
        send(state, to, clock, observer=told)
    assert (30, 30, [("Segment asks to wait (503 busy)", 5.0)]) == (told.calls, told.arrived, told.waits)


class _Bug(Exception):
    """Not one of ours."""


class _Failing(SilentObserver):
    """Raises an error when calls arrive for the n-th time."""

    def __init__(self, error: BaseException, at: int = 1) -> None:
        self.error = error
        self.left = at

    def delivered(self, calls: int) -> None:
        self.left -= 1
        if self.left == 0:
            raise self.error


def test_a_bug_in_a_thread_is_raised_and_the_outbox_stands(
    state: State, sandbox: Sandbox, clock: FakeClock
) -> None:
    """An error that nobody expected is no silence: it comes out, and what was accepted stays noted."""
    fill(state, 60, users=2, lanes=2)
    with segment(sandbox.url, clock, rate=10, connections=2) as to, pytest.raises(_Bug):
        send(state, to, clock, observer=_Failing(_Bug(), at=3))
    delivered = len(sandbox.accepted)
    assert 30 <= delivered < 60
    assert 60 - delivered == outbox.pending(state.db)
    with segment(sandbox.url) as to:
        again = send(state, to)
    assert (60 - delivered, 0) == (again.delivered, again.unsure)
    assert [] == sandbox.duplicates


def test_a_full_disk_ends_delivery_with_what_was_delivered(
    state: State, sandbox: Sandbox, clock: FakeClock
) -> None:
    """Where the state cannot be written any more, the calls that were noted before are still counted."""
    fill(state, 40)
    full = duckdb.OutOfMemoryException("failed to offload data block")
    with segment(sandbox.url, clock, rate=10) as to:
        delivery = send(state, to, clock, observer=_Failing(full, at=2))
    assert isinstance(delivery.error, StorageError)
    assert (20, 20) == (delivery.delivered, outbox.pending(state.db))


class _Stopping(SilentObserver):
    """Sends this process a signal when calls arrive for the n-th time, from whatever thread."""

    def __init__(self, at: int) -> None:
        self.left = at

    def delivered(self, calls: int) -> None:
        self.left -= 1
        if self.left == 0:
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR1)


@pytest.fixture
def _signals() -> Iterator[None]:
    def stop(number: int, _: object) -> None:
        raise Interrupted(number)

    before = signal.signal(signal.SIGUSR1, stop)
    yield
    signal.signal(signal.SIGUSR1, before)


@pytest.mark.usefixtures("_signals")
def test_a_signal_ends_delivery_in_good_order(state: State, sandbox: Sandbox) -> None:
    """A signal is an end like another: counted, noted, and the next delivery sends only the rest."""
    fill(state, 4_000, users=2, lanes=2, pad=500)
    with segment(sandbox.url, connections=2) as to:
        stopped = send(state, to, observer=_Stopping(at=2))
    assert isinstance(stopped.error, Interrupted)
    assert len(sandbox.accepted) == stopped.delivered < 4_000
    assert 4_000 - stopped.delivered == outbox.pending(state.db)
    with segment(sandbox.url, connections=2) as to:
        rest = send(state, to)
    assert (4_000 - stopped.delivered, 0) == (rest.delivered, rest.unsure)
    assert [] == sandbox.duplicates


@pytest.mark.usefixtures("_signals")
def test_a_signal_ends_a_long_wait(state: State, sandbox: Sandbox) -> None:
    """Nobody has to sit out the hour that Segment asked for."""
    fill(state, 10)
    sandbox.script([Reply(429, retry_after=3_600)])

    class _Impatient(SilentObserver):
        def waiting(self, reason: str, seconds: float) -> None:
            signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGUSR1)

    with segment(sandbox.url) as to:
        stopped = send(state, to, seconds=7_200, observer=_Impatient())
    assert isinstance(stopped.error, Interrupted)
    assert list(range(10)) == waiting(state)


INTERRUPTED = """
import signal, sys
from pathlib import Path
from delivery import fill, segment, send
from retl.errors import Interrupted
from retl.state import open_state
from retl.observer import SilentObserver

def stop(number, _):
    raise Interrupted(number)

class Telling(SilentObserver):
    def delivered(self, calls):
        print(calls, flush=True)
        sys.stdin.readline()

signal.signal(signal.SIGTERM, stop)
with open_state(Path(sys.argv[1]), "shop") as state:
    fill(state, 1000, pad=5000)
    with segment(sys.argv[2], rate=int(sys.argv[3])) as to:
        delivery = send(state, to, observer=Telling())
sys.exit(delivery.error.exit_code)
"""


@pytest.mark.variants(1)
@pytest.mark.rule("L7")
@pytest.mark.parametrize("rate", [0, 50], ids=["within a stretch", "at a rate"])
def test_sigterm_ends_a_process_with_the_answers_noted(tmp_path: Path, sandbox: Sandbox, rate: int) -> None:
    """A process that is told to end exits with 143, and its successor sends only what is left."""
    path = tmp_path / "shop.duckdb"
    process = subprocess.Popen(
        [sys.executable, "-c", INTERRUPTED, str(path), sandbox.url, str(rate)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert process.stdout is not None
    assert int(process.stdout.readline()) == len(sandbox.accepted)
    process.terminate()
    process.communicate()
    assert 143 == process.returncode
    arrived = len(sandbox.accepted)
    assert 0 < arrived < 1_000
    with open_state(path, "shop") as state, segment(sandbox.url) as to:
        assert 1_000 - arrived == outbox.pending(state.db)
        assert (1_000 - arrived, 0) == ((rest := send(state, to)).delivered, rest.unsure)
    assert list(range(1_000)) == numbers(sandbox.accepted)
    assert [] == sandbox.duplicates
