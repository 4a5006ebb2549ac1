"""Calls whose text is made when they leave."""

import json
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from delivery import IDENTIFY, TRACK, Shop, Table, pages, rows, segment, send
from harness import Retl, runner

from retl.calls.render import MAX_CALL_BYTES
from retl.delivery import outbox, unrendered
from retl.job import Options
from retl.sandbox.server import Sandbox
from retl.state import State, open_state

USERS = {"id": [f"u{n}" for n in range(1, 8)], "name": list("ABCDEFG"), "plan": ["free"] * 7}
NOT_NOW = Options(limit=0)
"""The run puts the calls into the outbox, and lets none leave."""


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    """Give a local Segment."""
    with Sandbox() as started:
        yield started


@pytest.fixture
def shop(tmp_path: Path, sandbox: Sandbox) -> Shop:
    """An identify sync to the sandbox."""
    return Shop(tmp_path, sandbox.url, IDENTIFY)


def texts(state: State) -> list[tuple[Any, ...]]:
    """The calls that wait as text."""
    return rows(state, "SELECT seq, message_id, body FROM state.outbox ORDER BY seq")


def waiting(state: State) -> list[str]:
    """The text of all calls that wait, lane by lane."""
    outbox.start_marks(state.db)
    return [
        bytes(page.part(number, number + 1).text).decode()
        for lane in outbox.lanes(state.db)
        for page in outbox.pages(state.db, lane)
        for number in range(page.calls)
    ]


def test_a_first_pass_keeps_no_text(shop: Shop) -> None:
    """Where each user has one call, the outbox holds places of the snapshot's rows, and no text."""
    run = shop.run(Table(USERS), NOT_NOW)
    with open_state(shop.state_path, "shop") as state:
        assert (7, 7) == (run.calls.enqueued, outbox.pending(state.db))
        assert [] == texts(state)
        assert [(1, 7)] == [(one.first_seq, one.last_seq) for one in unrendered.lanes(state.db)]


@pytest.mark.thorough
@pytest.mark.rule("L18")
def test_an_edit_of_the_sync_does_not_change_calls_that_wait(shop: Shop, sandbox: Sandbox) -> None:
    """Calls that were planned before an edit leave as they were planned, under their ids."""
    shop.run(Table(USERS), NOT_NOW)
    with open_state(shop.state_path, "shop") as state:
        planned = waiting(state)
    edited = Shop(shop.folder, sandbox.url, IDENTIFY.replace("name: name", "title: plan"))

    edited.run(Table(USERS), Options(limit=7))

    sent = [call for request in sandbox.requests for call in request.parsed["batch"]]
    assert sorted(json.dumps(json.loads(text)) for text in planned) == sorted(map(json.dumps, sent))


@pytest.mark.rule("L18")
def test_the_text_that_is_made_early_is_the_one_that_would_have_left(shop: Shop) -> None:
    """Before rows may change, the calls that wait become text, to the letter and under their ids."""
    shop.run(Table(USERS), NOT_NOW)
    with open_state(shop.state_path, "shop") as state:
        planned = waiting(state)
        with state.transaction():
            outbox.render_waiting(state.db)

        assert planned == [body for _, _, body in texts(state)] == waiting(state)
        assert () == unrendered.lanes(state.db)
        assert all(f'"messageId":"{message_id}"' in body for _, message_id, body in texts(state))


def in_order_of_rows(state: State) -> bool:
    """Whether each row of the snapshot has a later place than the row before it."""
    query = "SELECT bool_and(seq > before) FROM (SELECT seq, lag(seq) OVER () AS before FROM state.snapshot)"
    ((is_so,),) = rows(state, query)
    return bool(is_so)


@pytest.mark.thorough
def test_rows_of_a_first_pass_stand_in_the_order_of_their_places(shop: Shop) -> None:
    """However many threads take the rows in, the snapshot has them as they were read."""
    many = [f"u{n}" for n in range(300_000)]
    shop.run(Table({"id": many, "name": many, "plan": many}), NOT_NOW)
    with open_state(shop.state_path, "shop") as state:
        assert in_order_of_rows(state)


@pytest.mark.thorough
@pytest.mark.parametrize("moved", ["seq <= 5000", "seq > 5000"], ids=["first lane", "last lane"])
def test_calls_of_rows_in_another_order_leave_in_theirs(shop: Shop, moved: str) -> None:
    """Where the rows of a lane are not in the order of their places, its calls are, on all pages."""
    many = [f"u{n}" for n in range(10_000)]
    wide = [name + "x" * 2_000 for name in many]
    shop.run(Table({"id": many, "name": wide, "plan": many}), NOT_NOW)
    with open_state(shop.state_path, "shop") as state:
        planned = waiting(state)
        assert [5_000, 10_000] == [one.last_seq for one in unrendered.lanes(state.db)]
        order = f"seq > 5000, CASE WHEN {moved} THEN hash(seq) ELSE seq END"
        rows(state, f"CREATE TABLE state.other AS SELECT * FROM state.snapshot ORDER BY {order}")
        rows(state, "DROP TABLE state.snapshot")
        rows(state, "ALTER TABLE state.other RENAME TO snapshot")
        assert not in_order_of_rows(state)

        assert planned == waiting(state)


@pytest.mark.thorough
def test_calls_of_any_size_leave_once_and_in_order(shop: Shop) -> None:
    """However large calls are, before and behind others, each lane gives each of its calls, in order."""
    widths = [n // 700 % 3 * 3_300 + n * 7919 % 1_100 for n in range(12_000)]  # about the size of a large one
    many = [f"u{n}" for n in range(12_000)]
    shop.run(Table({"id": many, "name": ["x" * width for width in widths], "plan": many}), NOT_NOW)
    with open_state(shop.state_path, "shop") as state:
        pages = [page for lane in outbox.lanes(state.db) for page in outbox.pages(state.db, lane)]
    assert list(range(1, 12_001)) == [int(seq) for page in pages for seq in page.seqs]


@pytest.mark.thorough
def test_a_reset_makes_the_text_of_calls_that_wait(
    shop: Shop, sandbox: Sandbox, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reset forgets the snapshot, and the calls that wait are still the ones that were planned."""
    monkeypatch.chdir(shop.folder)
    retl: Retl = runner(capsys)
    shop.run(Table(USERS), NOT_NOW)
    with open_state(shop.state_path, "shop") as state:
        planned = waiting(state)
    assert 0 == retl("reset", "shop.yml", "--yes", "--state-dir", str(shop.folder))[0]
    with open_state(shop.state_path, "shop") as state:
        assert planned == [body for _, _, body in texts(state)]
        assert [] == rows(state, "SELECT key FROM state.snapshot")


@pytest.mark.thorough
def test_a_lane_begins_behind_what_was_delivered(shop: Shop, sandbox: Sandbox) -> None:
    """After a run that sends a part, the outbox holds the rest, and each call leaves once."""
    shop.run(Table(USERS), Options(limit=3))
    with open_state(shop.state_path, "shop") as state:
        assert (4, [(4, 7)]) == (
            outbox.pending(state.db),
            [(one.first_seq, one.last_seq) for one in unrendered.lanes(state.db)],
        )
    shop.run(Table(USERS))

    assert sorted(USERS["id"]) == sorted(call["userId"] for call in sandbox.accepted)
    assert 0 == len(sandbox.duplicates)


def test_a_call_that_leaves_ahead_of_its_turn_leaves_once(shop: Shop, sandbox: Sandbox) -> None:
    """Where a call fails alone and another is tried ahead of its turn, that one is not sent again."""
    shop.run(Table(USERS), NOT_NOW)
    sandbox.reject_if = lambda call: call["userId"] == "u1"
    with open_state(shop.state_path, "shop") as state, segment(shop.url) as to:
        delivery = send(state, to)
        assert (6, 1, 0) == (delivery.delivered, delivery.rejected, outbox.pending(state.db))
        assert outbox.is_empty(state.db)
    assert sorted(USERS["id"][1:]) == sorted(call["userId"] for call in sandbox.accepted)


def test_rows_without_an_id_keep_no_text_of_others(shop: Shop, sandbox: Sandbox) -> None:
    """Rows that have no user, and so are rejected, are not taken for several rows of one user."""
    track = Shop(shop.folder / "track", sandbox.url, TRACK)
    orders = {"id": [1, 2, 3], "owner": ["a", None, None], "value": ["x", "y", "z"]}
    run = track.run(Table(orders), NOT_NOW)
    with open_state(track.state_path, "shop") as state:
        assert ([], 1) == (texts(state), outbox.pending(state.db))
    assert {"no_id": 2} == run.rejected_by


@pytest.mark.thorough
def test_a_lane_whose_last_rows_were_rejected_ends(shop: Shop, sandbox: Sandbox) -> None:
    """Where the last places of a lane hold no call, nothing is left of it once the others are delivered."""
    users = {"id": [f"u{n}" for n in range(4_000)], "name": ["x"] * 4_000, "plan": ["free"] * 4_000}
    users["id"][1_999] = "null"  # the last place of the first lane of two
    run = shop.run(Table(users))
    with open_state(shop.state_path, "shop") as state:
        assert 3_999 == run.calls.delivered
        assert outbox.is_empty(state.db)


def test_a_lane_whose_last_call_left_ahead_ends(shop: Shop, sandbox: Sandbox) -> None:
    """Where the last call of a lane left ahead of its turn, nothing is left once the others are delivered."""
    shop.run(Table(USERS), NOT_NOW)
    with open_state(shop.state_path, "shop") as state, segment(shop.url) as to:
        (lane,) = unrendered.lanes(state.db)
        with state.transaction():
            outbox.start_marks(state.db)
            (page,) = pages(state, lane.lane)
            outbox.note_delivered_ahead(state.db, page.part(6, 7))
        assert 6 == send(state, to).delivered
        assert outbox.is_empty(state.db)


def test_calls_of_a_user_with_several_rows_are_rendered_at_once(shop: Shop, sandbox: Sandbox) -> None:
    """Where a user has two calls, they have to be put in order: all calls wait as text."""
    track = Shop(shop.folder / "track", sandbox.url, TRACK)
    orders = {"id": [1, 2, 3], "owner": ["a", "b", "a"], "value": ["x", "y", "z"]}
    track.run(Table(orders), NOT_NOW)
    with open_state(track.state_path, "shop") as state:
        assert (3, ()) == (len(texts(state)), unrendered.lanes(state.db))


def test_rows_that_cannot_be_sent_may_share_an_id(shop: Shop, sandbox: Sandbox) -> None:
    """Rows without a user, or with the same blocked id, make no call, and the others wait unrendered."""
    track = Shop(shop.folder / "track", sandbox.url, TRACK.replace("guards: {", "guards: {rejected: off, "))
    orders = {"id": [1, 2, 3, 4, 5], "owner": [None, "null", "a", None, "null"], "value": ["x"] * 5}
    run = track.run(Table(orders), NOT_NOW)
    with open_state(track.state_path, "shop") as state:
        assert ({"blocked_id": 2, "no_id": 2}, []) == (run.rejected_by, texts(state))
        assert 1 == outbox.pending(state.db)


@pytest.mark.thorough
@pytest.mark.rule("R10")
@pytest.mark.parametrize("letter", ["x", "\x01", "é", "\U0001f600", '"'], ids=ascii)
def test_a_row_is_rejected_by_the_size_of_its_call_whatever_its_letters(shop: Shop, letter: str) -> None:
    """The bytes of the JSON count, to the last one, though the text of few rows is made to know them."""
    cost = len(json.dumps(letter, ensure_ascii=False).encode()) - 2
    shop.run(Table({"id": ["u"], "name": ["x"], "plan": ["p"]}), NOT_NOW)
    with open_state(shop.state_path, "shop") as state:
        room = MAX_CALL_BYTES - len(waiting(state)[0].encode()) + 1
    names = [letter * (room // cost) + "x" * (room % cost), letter * (room // cost) + "x" * (room % cost + 1)]
    fits = Shop(shop.folder / "fits", shop.url, IDENTIFY)
    users = {"id": ["a", "b"], "name": names, "plan": ["p", "p"]}

    run = fits.run(Table(users))

    assert ({"too_large": 1}, 1) == (run.rejected_by, run.calls.delivered)


def test_a_run_that_failed_leaves_no_rows_behind(shop: Shop) -> None:
    """Rows of a first pass that a guard stopped are not kept."""
    text = IDENTIFY.replace("added: off", "added: 3")
    stopped = Shop(shop.folder / "stopped", shop.url, text)
    assert 4 == stopped.run(Table(USERS)).exit_code
    with open_state(stopped.state_path, "shop") as state:
        tables = rows(state, "SELECT table_name FROM duckdb_tables() WHERE database_name = 'state'")
    assert ("arriving",) not in tables


@pytest.mark.thorough
@pytest.mark.rule("O1")
def test_many_calls_stand_in_the_order_of_each_user(shop: Shop, sandbox: Sandbox) -> None:
    """However many calls there are, a user's stand in the order of time, and in one lane."""
    text = TRACK.replace("{event: Added}", "{event: Added, timestamp: at}")
    track = Shop(shop.folder / "track", sandbox.url, text)
    ids = list(range(150_000))
    moments = [datetime(2026, 1, 1) + timedelta(seconds=n * 7919 % 150_001) for n in ids]
    orders = {"id": ids, "owner": [f"u{n % 1_000}" for n in ids], "value": ids, "at": moments}
    track.run(Table(orders), NOT_NOW, connections=4)
    with open_state(track.state_path, "shop") as state:
        found = rows(
            state,
            """
            SELECT count(*), count(*) FILTER (sent < earlier), count(*) FILTER (lane <> other_lane)
            FROM (
                SELECT lane, sent, lag(sent) OVER of_user AS earlier, lag(lane) OVER of_user AS other_lane
                FROM (
                    SELECT *, body ->> '$.userId' AS user_id, body ->> '$.timestamp' AS sent
                    FROM state.outbox
                )
                WINDOW of_user AS (PARTITION BY user_id ORDER BY seq)
            )
            """,
        )
    assert [(150_000, 0, 0)] == found
