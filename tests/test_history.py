"""The history of calls that a state keeps."""

from pathlib import Path
from typing import Any

import pytest
from delivery import IDENTIFY, NOON, TRACK, FakeClock, Shop, Table, fill, memory_state, rows, segment, send
from harness import Retl, runner

from retl.delivery import history, outbox
from retl.discard import discard_pending, discard_rejected
from retl.job import Job, Options
from retl.retry import retry
from retl.sandbox.failures import Reply
from retl.sandbox.server import Sandbox
from retl.state import State, open_state

USERS = {"id": [f"u{n}" for n in range(1, 8)], "name": list("ABCDEFG"), "plan": ["free"] * 7}


@pytest.fixture
def shop(tmp_path: Path, sandbox: Sandbox) -> Shop:
    """An identify sync to the sandbox."""
    return Shop(tmp_path, sandbox.url, IDENTIFY, clock=FakeClock())


def users(**names: str) -> Table:
    """The users, of whom some have another name."""
    known = dict(zip(USERS["id"], USERS["name"], strict=True))
    return Table({**USERS, "name": list((known | names).values())})


def written(state: State) -> int:
    """The calls that are written down, and not told by a statement."""
    return int(rows(state, "SELECT count(*) FROM state.delivered_call")[0][0])


def told(state: State) -> list[dict[str, Any]]:
    """The history of calls, in the order of their ids."""
    found = state.db.execute(f"SELECT * FROM ({history.delivered(state.db)}) ORDER BY message_id")
    names = [column[0] for column in found.description or ()]
    return [dict(zip(names, row, strict=True)) for row in found.fetchall()]


def sent(sandbox: Sandbox) -> list[tuple[str, str, str]]:
    """Id, user and kind or name of the calls that arrived, in the order of their ids."""
    return sorted(
        (one["messageId"], one["userId"], one.get("event", one["type"])) for one in sandbox.accepted
    )


def seen(state: State) -> list[tuple[str, str, str]]:
    """The same of the history."""
    return [(one["message_id"], one["user_id"], one["event"]) for one in told(state)]


def test_a_first_pass_is_told_without_a_row_for_each_call(shop: Shop, sandbox: Sandbox) -> None:
    """The calls of an unrendered first pass have their whole history, and none of them is written down."""
    run = shop.run(Table(USERS))
    with open_state(shop.state_path, "shop") as state:
        found = told(state)
        assert sent(sandbox) == seen(state)
        assert 0 == written(state)
    assert {(run.run_id, run.run_id, "added", 200)} == {
        (one["run_id"], one["delivered_in"], one["change"], one["status"]) for one in found
    }
    assert {NOON.replace(tzinfo=None)} == {one["moment"] for one in found}


@pytest.mark.thorough
def test_a_row_that_changes_has_its_first_call_written_down(shop: Shop, sandbox: Sandbox) -> None:
    """Of a first pass only the calls of rows that change or go are written, before they do."""
    shop.run(Table(USERS))
    changed = Shop(shop.folder, sandbox.url, IDENTIFY + "keep: 30d\n", clock=shop.clock)
    changed.run(users(u2="Bob"))
    gone = users(u2="Bob").table.slice(1).to_pydict()
    changed.run(Table(gone))
    with open_state(shop.state_path, "shop") as state:
        assert sent(sandbox) == seen(state)
        assert ["u1", "u2", "u2"] == [
            key for (key,) in rows(state, "SELECT key FROM state.delivered_call ORDER BY key")
        ]


@pytest.mark.thorough
@pytest.mark.parametrize("limit", [0, 3])
def test_what_waits_is_no_history(shop: Shop, sandbox: Sandbox, limit: int) -> None:
    """Calls that wait are told once they are delivered, by the run that made and the one that sent them."""
    first = shop.run(Table(USERS), Options(limit=limit))
    with open_state(shop.state_path, "shop") as state:
        assert limit == len(told(state))
    second = shop.run(users(u7="Gil"))
    with open_state(shop.state_path, "shop") as state:
        assert sent(sandbox) == seen(state)
        runs = [(one["run_id"], one["delivered_in"]) for one in told(state)]
    expected = {(first.run_id, second.run_id): 7 - limit, (second.run_id, second.run_id): 1}
    expected |= {(first.run_id, first.run_id): limit} if limit else {}
    assert expected == {one: runs.count(one) for one in runs}


@pytest.mark.thorough
def test_calls_that_are_rendered_early_are_told_once(shop: Shop, sandbox: Sandbox) -> None:
    """Where a part of a first pass was sent and the rest becomes text, each call is told once."""
    shop.run(Table(USERS), Options(limit=3))
    with open_state(shop.state_path, "shop") as state:
        with state.transaction():
            outbox.render_waiting(state.db)
        assert 3 == len(told(state))
    shop.run(Table(USERS))
    with open_state(shop.state_path, "shop") as state:
        assert (sent(sandbox), 4) == (seen(state), written(state))


def test_a_refused_call_is_no_history_and_one_ahead_of_its_turn_is(shop: Shop, sandbox: Sandbox) -> None:
    """Where a call is refused and another one goes ahead, the history has what arrived."""
    sandbox.reject_if = lambda call: call["userId"] == "u1"
    shop.run(Table(USERS))
    with open_state(shop.state_path, "shop") as state:
        assert sent(sandbox) == seen(state)
        assert "u1" not in {user for _, user, _ in seen(state)}


@pytest.mark.thorough
@pytest.mark.parametrize("edit", ["reset", "mapping", "full"])
def test_the_history_outlives_the_rows(
    shop: Shop,
    sandbox: Sandbox,
    edit: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """After a reset, an edit of the mapping, and --full the first calls are still there, and the new ones."""
    monkeypatch.chdir(shop.folder)
    retl: Retl = runner(capsys)
    shop.run(Table(USERS))
    options = Options(full=edit == "full")
    if edit == "reset":
        assert 0 == retl("reset", "shop.yml", "--yes", "--state-dir", str(shop.folder))[0]
    text = IDENTIFY.replace("plan: plan", "tier: plan") if edit == "mapping" else IDENTIFY
    Shop(shop.folder, sandbox.url, text, clock=shop.clock).run(Table(USERS), options)
    with open_state(shop.state_path, "shop") as state:
        assert sent(sandbox) == seen(state)


@pytest.mark.thorough
def test_calls_that_were_taken_back_are_no_history(shop: Shop, sandbox: Sandbox) -> None:
    """Where a part of a first pass was sent and the rest discarded, the history has what arrived."""
    shop.run(Table(USERS), Options(limit=3))
    with open_state(shop.state_path, "shop") as state:
        assert 4 == discard_pending(state, NOON)
        assert sent(sandbox) == seen(state)
    shop.run(users(u1="Ann", u7="Gil"))
    with open_state(shop.state_path, "shop") as state:
        assert sent(sandbox) == seen(state)


@pytest.mark.thorough
def test_rendered_calls_are_told_when_they_left(tmp_path: Path, sandbox: Sandbox) -> None:
    """Calls that waited as text are told with their own users and events, once they have left."""
    shop = Shop(tmp_path, sandbox.url, TRACK, clock=FakeClock())
    shop.run(Table({"id": [1, 2, 3], "owner": ["a", "b", "a"], "value": ["x", "y", "z"]}))
    shop.run(Table({"id": [1, 2], "owner": ["a", "b"], "value": ["x", "Y"]}))
    with open_state(shop.state_path, "shop") as state:
        assert sent(sandbox) == seen(state)
        assert 5 == written(state)
        events = rows(state, "SELECT event, count(*) FROM state.delivered_call GROUP BY event")
    assert {"Added": 3, "Changed": 1, "Removed": 1} == dict(events)


def test_a_call_that_left_ahead_of_its_turn_has_its_own_answer() -> None:
    """A call that was sent before its turn is told with its own receipt, and those around it with theirs."""
    with memory_state() as state, Sandbox(reject_if=lambda call: call["messageId"] == "m0") as sandbox:
        fill(state, 60, users=6)
        with segment(sandbox.url) as to:
            assert 59 == send(state, to).delivered
        assert {one["messageId"] for one in sandbox.accepted} == {one["message_id"] for one in told(state)}
        assert 59 == written(state)


@pytest.mark.parametrize(
    "message_id",
    [
        "retl-0123456789abcdef0123456789abcdef",
        "retl-0123456789ABCDEF0123456789ABCDEF",
        "retl-0123456789abcdef0123456789abcdeg",
        "retl-01234567-89ab-cdef-0123-456789ab",
        "retl-",
        "é",
    ],
)
def test_a_message_id_is_told_to_the_letter(message_id: str) -> None:
    """Whatever an id looks like, the history has it as it was sent."""
    with memory_state() as state, Sandbox() as sandbox:
        fill(state, 2)
        state.db.execute("UPDATE state.outbox SET message_id = ? WHERE seq = 1", [message_id])
        with segment(sandbox.url) as to:
            assert 2 == send(state, to).delivered
        assert {message_id, "m1"} == {one["message_id"] for one in told(state)}


@pytest.mark.thorough
def test_places_do_not_begin_anew(shop: Shop, sandbox: Sandbox) -> None:
    """An outbox that was empty goes on numbering, so that an older receipt is of no newer call."""
    shop.run(Table(USERS))
    sandbox.script([Reply(status=401)])
    shop.run(users(u3="Cid"))
    with open_state(shop.state_path, "shop") as state:
        assert [(8,)] == rows(state, "SELECT seq FROM state.outbox")


def rejections(state: State) -> list[tuple[Any, ...]]:
    """Reason, column, value and end of the rejections that are over."""
    return rows(
        state,
        "SELECT key, reason, at_fault, value, times, how FROM state.ended_rejection ORDER BY key, ended_at",
    )


def test_a_rejected_row_is_kept_with_its_user_and_the_value_at_fault(
    tmp_path: Path, sandbox: Sandbox
) -> None:
    """An open rejection names the column and the value; a row without a key the row."""
    shop = Shop(tmp_path, sandbox.url, TRACK.replace("value: value", "value: {column: value, as: json}"))
    shop.run(Table({"id": [1, 2, 3, None], "owner": ["a", "null", "c", "d"], "value": ["1", "1", "{", "7"]}))
    with open_state(shop.state_path, "shop") as state:
        assert [
            ("2", "null", "blocked_id", "owner", "null"),
            ("3", "c", "bad_json", "value", "{"),
            (None, None, "null_key", None, "{'id': NULL, 'owner': d, 'value': 7}"),
        ] == rows(
            state,
            "SELECT key, user_id, reason, at_fault, value FROM state.rejected_row ORDER BY key NULLS LAST",
        )


@pytest.mark.thorough
def test_a_rejection_that_is_over_keeps_a_line(tmp_path: Path, sandbox: Sandbox) -> None:
    """Rows that were fixed and sent, fixed to what they were, or are gone, tell so, with since when."""
    shop = Shop(tmp_path, sandbox.url, TRACK, clock=FakeClock())
    shop.run(Table({"id": [1, 2, 3], "owner": ["a", "b", "0"], "value": ["x", "y", "z"]}))
    shop.run(Table({"id": [1, 2, 3, 4], "owner": ["0", "0", "0", "-1"], "value": ["x", "y", "z", "w"]}))
    last = shop.run(Table({"id": [1, 2, 3], "owner": ["a", "b", "c"], "value": ["x", "Y", "z"]}))
    with open_state(shop.state_path, "shop") as state:
        assert [
            ("1", "blocked_id", "owner", "0", 1, "fixed"),
            ("2", "blocked_id", "owner", "0", 1, "sent"),
            ("3", "blocked_id", "owner", "0", 2, "sent"),
            ("4", "blocked_id", "owner", "-1", 1, "gone"),
        ] == rejections(state)
        assert [(last.run_id,)] == rows(state, "SELECT DISTINCT ended_in FROM state.ended_rejection")
        assert [] == rows(state, "FROM state.rejected_row")


@pytest.mark.thorough
def test_a_refused_call_that_is_sent_later_or_discarded_keeps_a_line(
    tmp_path: Path, sandbox: Sandbox
) -> None:
    """A retry ends a rejection, unless the call is refused again; a discard ends all others."""
    shop = Shop(tmp_path, sandbox.url, IDENTIFY, clock=FakeClock())
    sandbox.reject_if = lambda call: call["userId"] in ("u1", "u2")
    shop.run(Table(USERS))
    sandbox.reject_if = lambda call: call["userId"] == "u1"
    with open_state(shop.state_path, "shop") as state, segment(shop.url, shop.clock) as to:
        job = Job(shop.sync, shop.model, state, Table(USERS), Options(), shop.clock, shop.observer)
        again = retry(job, to, stale=False).run
        assert [("u2", "sent", again.run_id)] == rows(
            state, "SELECT key, how, ended_in FROM state.ended_rejection"
        )
        assert 1 == discard_rejected(state, NOON)
        assert [("u1", "refused", None, None, 1, "discarded"), ("u2", "refused", None, None, 1, "sent")] == (
            rejections(state)
        )
        assert sent(sandbox) == seen(state)
