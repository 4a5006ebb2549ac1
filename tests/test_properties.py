import shutil
import threading
from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from delivery import IDENTIFY, NOON, TRACK, FakeClock, Shop, Table, memory_state, rows, segment
from hypothesis import given, settings
from hypothesis import strategies as st

from retl.delivery.segment import Segment
from retl.job import Options
from retl.run import Run
from retl.sandbox.server import Sandbox
from retl.state import State, open_state

pytestmark = pytest.mark.slow

OWNERS = ["u1", "u2", "u3"]
KEYS = ["k1", "k2", "k3", "k4"]
VALUES = [None, "", "a", "ä", '"', "null", " "]

Picture = dict[str, tuple[str, str | None]]
"""A model's rows: key to owner and value."""

pictures = st.dictionaries(
    st.sampled_from(KEYS), st.tuples(st.sampled_from(OWNERS), st.sampled_from(VALUES)), max_size=4
)
histories = st.lists(pictures, min_size=1, max_size=3)
quickly = settings(max_examples=8, deadline=None)


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    """Give one local Segment to all tests."""
    with Sandbox() as started:
        yield started


@pytest.fixture(scope="module")
def shop(sandbox: Sandbox, tmp_path_factory: pytest.TempPathFactory) -> Shop:
    """Give one sync to all tests."""
    return Shop(tmp_path_factory.mktemp("shop"), sandbox.url, TRACK, clock=FakeClock())


@pytest.fixture(scope="module")
def to(sandbox: Sandbox) -> Iterator[Segment]:
    """Give one way to the local Segment to all tests."""
    with segment(sandbox.url, connections=2) as opened:
        yield opened


def table(picture: Mapping[str, tuple[str, str | None]]) -> Table:
    """A warehouse with the rows of a picture."""
    return Table(
        {
            "id": list(picture),
            "owner": [owner for owner, _ in picture.values()],
            "value": [value for _, value in picture.values()],
        }
    )


def snapshot(state: State) -> Picture:
    """The rows that the state remembers."""
    found = rows(state, "SELECT key, row['owner'], row['value'] FROM state.snapshot")
    return {key: (owner, value) for key, owner, value in found}


def applied(calls: list[dict[str, Any]], before: Picture) -> Picture:
    """What calls make of a picture; each must be a change of what stands there."""
    after = dict(before)
    for call in calls:
        key, new = call["properties"]["id"], (call["userId"], call["properties"].get("value"))
        match call["event"]:
            case "Added":
                assert key not in after
                after[key] = new
            case "Changed":
                assert after[key] != new
                after[key] = new
            case "Removed":
                assert after.pop(key) == new
    return after


class Step:
    """A run and the calls that it sent."""

    def __init__(self, shop: Shop, state: State, to: Segment, sandbox: Sandbox, rows: Table) -> None:
        before = len(sandbox.accepted)
        self.run: Run = shop.run_with(state, rows, to)
        self.calls = sandbox.accepted[before:]


@given(history=histories)
@quickly
def test_calls_turn_each_picture_into_the_next(
    shop: Shop, to: Segment, sandbox: Sandbox, history: list[Picture]
) -> None:
    """Applied to what was, a run's calls give what is; the snapshot is the model's rows; again, nothing."""
    known: Picture = {}
    with memory_state() as state:
        for picture in history:
            step = Step(shop, state, to, sandbox, table(picture))
            assert (0, len(step.calls)) == (step.run.exit_code, step.run.calls.delivered)
            known = applied(step.calls, known)
            assert picture == known == snapshot(state)
            again = Step(shop, state, to, sandbox, table(picture))
            assert ([], 0, len(picture)) == (again.calls, again.run.calls.enqueued, again.run.unchanged)


@pytest.mark.rule("D4")
@given(there=pictures, back=pictures)
@settings(max_examples=4, deadline=None)
def test_no_message_id_comes_twice(
    shop: Shop, to: Segment, sandbox: Sandbox, there: Picture, back: Picture
) -> None:
    """There and back again: each change has an id of its own, short enough for Segment."""
    duplicates = len(sandbox.duplicates)
    ids = []
    with memory_state() as state:
        for picture in (back, there, back, there):
            ids += [call["messageId"] for call in Step(shop, state, to, sandbox, table(picture)).calls]
    assert len(ids) == len(set(ids))
    assert all(len(one) <= 100 for one in ids)
    assert duplicates == len(sandbox.duplicates)


keys_at_fault = st.lists(
    st.tuples(
        st.sampled_from([None, *KEYS]), st.sampled_from([None, "", "0", *OWNERS]), st.sampled_from(VALUES)
    ),
    max_size=6,
)


@pytest.mark.rule("R1")
@given(history=st.lists(keys_at_fault, min_size=1, max_size=3))
@quickly
def test_every_row_is_accounted_for(
    shop: Shop, to: Segment, sandbox: Sandbox, history: list[list[tuple[Any, ...]]]
) -> None:
    """Each row that was read is unchanged, added, changed or rejected, and each call has ended somewhere."""
    with memory_state() as state:
        for picture in history:
            columns = {name: [row[at] for row in picture] for at, name in enumerate(("id", "owner", "value"))}
            step = Step(shop, state, to, sandbox, Table(columns))
            run, calls = step.run, step.run.calls
            assert len(picture) == run.rows_read
            parts = (run.unchanged, run.added, run.changed, run.rejected_rows)
            assert run.rows_read == sum(part or 0 for part in parts)
            assert run.rejected_rows == sum(run.rejected_by.values())
            assert run.exit_code == int(bool(run.rejected_rows or calls.rejected))
            assert calls.enqueued == calls.delivered == len(step.calls)
            assert 0 == calls.pending


@given(first=pictures, second=pictures)
@settings(max_examples=4, deadline=None)
def test_a_run_repeated_from_an_older_state_sends_the_same_ids(
    shop: Shop, to: Segment, sandbox: Sandbox, first: Picture, second: Picture
) -> None:
    """Restored from a backup, a sync finds the same changes and names them by the same ids, later or not."""
    path, backup = shop.state_path, shop.folder / "backup.duckdb"
    path.unlink(missing_ok=True)
    with open_state(path, "shop") as state:
        Step(shop, state, to, sandbox, table(first))
    shutil.copy(path, backup)
    with open_state(path, "shop") as state:
        sent = Step(shop, state, to, sandbox, table(second)).calls
    shutil.copy(backup, path)
    seen = len(sandbox.duplicates)
    later = Shop(shop.folder, shop.url, TRACK, clock=FakeClock())
    later.clock.wait(3_600, threading.Event())
    with open_state(path, "shop") as state:
        repeated = Step(later, state, to, sandbox, table(second))
    assert ([], 0) == (repeated.calls, repeated.run.exit_code)
    assert sorted(call["messageId"] for call in sent) == sorted(sandbox.duplicates[seen:])


ORDERED = TRACK.replace("added: {event: Added}", "added: {event: Added, timestamp: at}").replace(
    "changed: {event: Changed}", "changed: {event: Changed, timestamp: at}"
)

RANK = {"Removed": 0, "Added": 1, "Changed": 2}

moments = st.sampled_from([None, *(NOON + timedelta(hours=hours) for hours in (-1, 0, 1))])
timed = st.dictionaries(
    st.sampled_from(KEYS), st.tuples(st.sampled_from(OWNERS), st.sampled_from("ab"), moments), max_size=4
)


@pytest.mark.rule("O1")
@given(history=st.lists(timed, min_size=2, max_size=3))
@quickly
def test_each_user_gets_calls_in_the_promised_order(
    sandbox: Sandbox,
    to: Segment,
    tmp_path_factory: pytest.TempPathFactory,
    history: list[dict[str, tuple[str, str, datetime | None]]],
) -> None:
    """Within a run a user's calls go by timestamp, then removed before added before changed, then key."""
    shop = Shop(tmp_path_factory.mktemp("ordered"), sandbox.url, ORDERED, clock=FakeClock())
    with memory_state() as state:
        for picture in history:
            people = table({key: (owner, value) for key, (owner, value, _) in picture.items()}).table
            at = Table({"at": [moment for _, _, moment in picture.values()]}).table
            timed_table = Table({**people.to_pydict(), **at.to_pydict()})
            calls = Step(shop, state, to, sandbox, timed_table).calls
            for owner in OWNERS:
                places = [
                    (call["originalTimestamp"], RANK[call["event"]], call["properties"]["id"])
                    for call in calls
                    if call["userId"] == owner
                ]
                assert sorted(places) == places


@pytest.mark.rule("O1")
def test_order_holds_over_many_lanes_and_connections(tmp_path: Path) -> None:
    """With thousands of calls over several connections each user's calls still come in order, each once."""
    count = 9_000
    with Sandbox() as sandbox, memory_state() as state, segment(sandbox.url, connections=4) as to:
        shop = Shop(tmp_path, sandbox.url, TRACK, clock=FakeClock())
        ids = [f"k{number:05}" for number in range(count)]
        owners = [f"u{number % 50}" for number in range(count)]
        everything = Table({"id": ids, "owner": owners, "value": ["x"] * count})
        assert count == Step(shop, state, to, sandbox, everything).run.calls.delivered
        assert 4 <= len(rows(state, "SELECT DISTINCT lane FROM state.receipt"))
        by_user: dict[str, list[str]] = {}
        for call in sandbox.accepted:
            by_user.setdefault(call["userId"], []).append(call["properties"]["id"])
        assert 50 == len(by_user)
        assert all(sorted(keys) == keys for keys in by_user.values())
        assert count == sum(map(len, by_user.values()))


@pytest.mark.rule("K16")
def test_a_canary_holds_back_the_rest_and_the_next_run_finishes(tmp_path: Path) -> None:
    """`--limit` lets so many calls leave in a run; no new rows are read before the rest is delivered."""
    with Sandbox() as sandbox:
        shop = Shop(tmp_path, sandbox.url, IDENTIFY, clock=FakeClock())
        people = Table({"id": ["u1", "u2", "u3"], "name": ["a", "b", "c"], "plan": ["x"] * 3})
        canary = shop.run(people, Options(limit=2))
        assert (0, 2, 1) == (canary.exit_code, canary.calls.delivered, canary.calls.pending)
        rest = shop.run(people)
        assert (0, 1, 0) == (rest.exit_code, rest.calls.delivered, rest.calls.pending)
        assert ["u1", "u2", "u3"] == sorted(call["userId"] for call in sandbox.accepted)
