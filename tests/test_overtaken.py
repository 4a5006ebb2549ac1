"""Refused calls go again in their order, and none behind a newer one of its user that arrived."""

from pathlib import Path

import pytest
from delivery import IDENTIFY, NOON, TRACK, Shop, Table, rows
from test_discard import again, opened, people

from retl.delivery import marks, outbox, rejected
from retl.delivery.settle import doubt
from retl.discard import discard_pending
from retl.engine.snapshot import forget
from retl.job import Options
from retl.sandbox.failures import Reply
from retl.sandbox.server import Sandbox

pytestmark = [pytest.mark.thorough, pytest.mark.rule("L15")]


def plans(sandbox: Sandbox, after: int = 0) -> list[str]:
    """The plan in each call of ada that was accepted after so many calls."""
    return [call["traits"]["plan"] for call in sandbox.accepted[after:] if call["userId"] == "ada"]


def refused_one(tmp_path: Path, sandbox: Sandbox) -> Shop:
    """A shop of which the call with ada's plan "one" was refused."""
    shop = Shop(tmp_path, sandbox.url, IDENTIFY)
    sandbox.reject_if = lambda call: call["userId"] == "ada"
    assert 1 == shop.run(people(ada="one", bob="x")).calls.rejected
    sandbox.reject_if = None
    return shop


def killed_retry(shop: Shop, stale: bool) -> int:
    """A `retl retry` that was killed before its calls left; gives how many these are."""
    with opened(shop) as state, state.transaction():
        taken = rejected.take_again(state.db, stale=stale, run_id="again", now=NOON)
        outbox.enqueue_again(state.db)
        return taken


@pytest.mark.parametrize("breaks_off", [False, True])
def test_a_call_that_was_sent_stale_stays_overtaken(
    tmp_path: Path, sandbox: Sandbox, breaks_off: bool
) -> None:
    """Also where the newer one only waited when --stale was asked for, and arrived first."""
    shop = refused_one(tmp_path, sandbox)
    sandbox.reject_if = lambda _: True
    assert 3 == shop.run(people(ada="two", bob="y")).exit_code
    before = len(sandbox.accepted)
    sandbox.reject_if = lambda call: call["traits"]["plan"] == "one"
    if breaks_off:
        sandbox.reply_if = lambda _: Reply(401) if len(sandbox.accepted) > before + 1 else None
    again(shop, stale=True)
    sandbox.reject_if = sandbox.reply_if = None
    assert (1, ["two"]) == (again(shop).left.overtaken, plans(sandbox))


def test_a_refused_call_that_may_have_arrived_overtakes(tmp_path: Path, sandbox: Sandbox) -> None:
    """Segment may drop the newer one as a repeat: the older one, sent before it, would be the last."""
    shop = refused_one(tmp_path, sandbox)
    answers = iter([Reply(lost=True)])
    sandbox.reply_if = lambda call: next(answers, Reply(400)) if call["userId"] == "ada" else None
    assert 1 == shop.run(people(ada="two", bob="y")).calls.rejected
    sandbox.reply_if = None
    assert (1, ["two"]) == (again(shop).left.overtaken, plans(sandbox))


@pytest.mark.parametrize("discards", [False, True])
def test_a_killed_retry_leaves_a_stale_call_overtaken(
    tmp_path: Path, sandbox: Sandbox, discards: bool
) -> None:
    """Whether what it left is discarded, or goes out with the next run and is refused once more."""
    shop = refused_one(tmp_path, sandbox)
    shop.run(people(ada="two", bob="x"))
    assert 1 == killed_retry(shop, stale=True)
    if discards:
        with opened(shop) as state:
            discard_pending(state, NOON)
    else:
        sandbox.reject_if = lambda call: call["traits"]["plan"] == "one"
        assert 1 == shop.run(people(ada="two", bob="z")).calls.rejected
        sandbox.reject_if = None
    assert (1, ["two"]) == (again(shop).left.overtaken, plans(sandbox))


def test_a_newer_call_is_noted_where_the_state_is_doubted(tmp_path: Path, sandbox: Sandbox) -> None:
    """A run was killed when the newer one was delivered, and its state is not the last one of it."""
    shop = refused_one(tmp_path, sandbox)
    sandbox.reject_if = lambda _: True
    assert 3 == shop.run(people(ada="two", bob="y")).exit_code
    sandbox.reject_if = None
    with opened(shop) as state, state.transaction():
        outbox.start_marks(state.db)
        [(last,)] = rows(state, "SELECT max(seq) FROM state.outbox")
        marks.note(state.db, [marks.Mark(lane.number, last, last) for lane in outbox.lanes(state.db)])
        doubt(state.db)
        assert [(True,)] == rows(state, "SELECT overtaken FROM state.rejected_call")
        doubt(state.db)  # nothing waits any more
        assert 0 == outbox.pending(state.db)


def test_refused_calls_of_a_user_go_in_their_order(tmp_path: Path, sandbox: Sandbox) -> None:
    """Also where a retry got an answer to the first of them only, which is noted later than the others."""
    shop = refused_one(tmp_path, sandbox)
    sandbox.reject_if = lambda call: call["userId"] in {"ada", "cat"}
    assert 2 == shop.run(people(ada="two", bob="y", cat="x")).calls.rejected
    before = len(sandbox.accepted)
    sandbox.reject_if = lambda call: call["userId"] == "ada" and len(sandbox.accepted) == before
    sandbox.reply_if = lambda _: Reply(401) if len(sandbox.accepted) > before else None
    assert 2 == again(shop).run.exit_code
    sandbox.reject_if = sandbox.reply_if = None
    assert 0 == again(shop).run.exit_code
    assert ["one", "two"] == plans(sandbox)


def test_calls_of_a_killed_retry_keep_their_order(tmp_path: Path, sandbox: Sandbox) -> None:
    """All were refused at a time; what a killed retry left is discarded, and goes once more."""
    shop = Shop(tmp_path, sandbox.url, TRACK)
    shop.run(Table({"id": ["0"], "owner": ["eve"], "value": [0]}))
    sandbox.reject_if = lambda call: call["userId"] == "ada"
    ids = [str(number) for number in range(10, 30)]
    owners = ["eve", *["ada"] * len(ids), "zoe"]
    shop.run(Table({"id": ["0", *ids, "99"], "owner": owners, "value": [0] * len(owners)}))
    assert len(ids) == killed_retry(shop, stale=False)
    with opened(shop) as state:
        discard_pending(state, NOON)
    sandbox.reject_if = None
    again(shop)
    assert ids == [call["properties"]["id"] for call in sandbox.accepted if call["userId"] == "ada"]


def test_a_call_is_found_by_more_than_an_id_of_its_own(tmp_path: Path, sandbox: Sandbox) -> None:
    """A row may bring a message id that a refused call had; the newer call overtakes it all the same."""
    shop = Shop(tmp_path, sandbox.url, TRACK.replace("  properties", "  message_id: mid\n  properties"))
    sandbox.reject_if = lambda call: call["userId"] == "ada"
    owners = {"owner": ["eve", "ada"], "value": [0, 0]}
    assert 1 == shop.run(Table({"id": ["0", "1"], **owners, "mid": ["e", "a"]})).calls.rejected
    sandbox.reject_if = None
    assert 1 <= (shop.run(Table({"id": ["0", "2"], **owners, "mid": ["e", "a"]})).calls.delivered or 0)
    with opened(shop) as state:
        assert [("1", True)] == rows(state, "SELECT key, overtaken FROM state.rejected_call")


def test_a_full_pass_overtakes(tmp_path: Path, sandbox: Sandbox) -> None:
    """A call of it that was refused does not, and goes again behind the older one."""
    shop = Shop(tmp_path, sandbox.url, IDENTIFY)
    sandbox.reject_if = lambda call: call["userId"] in {"ada", "bob"}
    assert 2 == shop.run(people(ada="one", bob="one", eve="x")).calls.rejected
    sandbox.reject_if = lambda call: call["userId"] == "ada"
    assert 2 == shop.run(people(ada="two", bob="one", eve="x"), Options(full=True)).calls.delivered
    sandbox.reject_if = None
    assert (2, 1) == ((goes := again(shop)).run.calls.delivered, goes.left.overtaken)
    assert ["one", "two"] == plans(sandbox)


def test_a_first_pass_overtakes(tmp_path: Path, sandbox: Sandbox) -> None:
    """Its calls, whose text is made when they leave, come after those that waited while it was reset."""
    shop = refused_one(tmp_path, sandbox)
    sandbox.reject_if = lambda _: True
    assert 3 == shop.run(people(ada="two", bob="y")).exit_code
    with opened(shop) as state, state.transaction():
        outbox.render_waiting(state.db)
        forget(state)
        rejected.overtake_all(state.db)
    sandbox.reject_if = lambda call: call["traits"]["plan"] == "two"
    assert (1, 3) == ((run := shop.run(people(ada="new", bob="z"))).calls.rejected, run.calls.delivered)
    sandbox.reject_if = None
    assert (2, ["new"]) == (again(shop).left.overtaken, plans(sandbox))


def test_a_retry_sends_nothing_that_it_was_refused_itself(tmp_path: Path, sandbox: Sandbox) -> None:
    """Of calls that waited, one that is refused stays for the next retry, and is counted once."""
    shop = refused_one(tmp_path, sandbox)
    sandbox.reject_if = lambda _: True
    assert 3 == shop.run(people(ada="one", bob="y", cat="z", dan="w")).exit_code
    sandbox.reject_if = lambda call: call["userId"] == "cat"
    goes = again(shop)
    assert (1, 1, 2, 3) == (
        goes.run.calls.enqueued,
        goes.run.calls.rejected,
        goes.waited,
        goes.run.calls.delivered,
    )
