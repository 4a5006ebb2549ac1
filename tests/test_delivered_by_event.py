"""The delivered calls of a run by event, as the history has them."""

from collections import Counter
from typing import Any

import pytest
from harness import Bench

from retl.delivery import outbox
from retl.job import Options
from retl.run import Run
from retl.sandbox.failures import Reply

TRACK = {
    "primary_key": "id",
    "track": {
        "user_id": "id",
        "added": {"event": "Came"},
        "changed": {"event": "Moved"},
        "removed": {"event": "Left"},
        "properties": {"n": "n"},
    },
    "initial": "send",
    "guards": {"changed": "off", "removed": "off", "min_rows": 0},
}


def rows(*pairs: tuple[str, int]) -> list[dict[str, Any]]:
    """Rows with an id and a number."""
    return [{"id": key, "n": number} for key, number in pairs]


def delivered(bench: Bench, run: Run) -> dict[str, int]:
    """The calls that a run delivered, by event."""
    return outbox.delivered_in(bench.state.db, run.run_id)


def test_each_event_has_its_count(bench: Bench) -> None:
    """The history says of each event how many calls a run delivered."""
    first = bench.run(TRACK, rows(("a", 1), ("b", 1), ("c", 1)))
    second = bench.run(TRACK, rows(("a", 2), ("b", 1), ("d", 1), ("e", 1)))
    third = bench.run(TRACK, rows(("a", 2), ("b", 1), ("d", 1), ("e", 1)))

    assert {"Came": 3} == delivered(bench, first.run)
    assert {"Came": 2, "Moved": 1, "Left": 1} == delivered(bench, second.run)
    assert {} == delivered(bench, third.run)


@pytest.mark.thorough
def test_calls_that_an_earlier_run_left_over(bench: Bench) -> None:
    """A call that waited counts as delivered in the run in which it left, under its event."""
    bench.run(TRACK, rows(("a", 1), ("b", 1)))
    held = bench.run(TRACK, rows(("a", 2), ("c", 1)), Options(limit=2)).run
    later = bench.run(TRACK, rows(("a", 2), ("c", 1), ("d", 1))).run

    of_held, of_later = delivered(bench, held), delivered(bench, later)
    assert (2, 2) == (sum(of_held.values()), sum(of_later.values()))
    both = Counter(of_held) + Counter(of_later)
    assert {"Came": 2, "Moved": 1, "Left": 1} == both


@pytest.mark.thorough
@pytest.mark.parametrize("kind", ["track", "audience"])
def test_events_that_a_change_does_not_tell(bench: Bench, kind: str) -> None:
    """Where one change makes calls of several events, each call counts under its own."""
    by_column = {**TRACK, "track": {"user_id": "id", "added": {"event": {"column": "e"}}}}
    audience = {"primary_key": "key", "audience": {"user_id": "id", "name": "vip"}, "initial": "send"}
    if kind == "track":
        sync, data = by_column, [{"id": "a", "e": "X"}, {"id": "b", "e": "Y"}, {"id": "c", "e": "Y"}]
        names = {"X": 1, "Y": 2}
    else:
        sync = {**audience, "guards": {"changed": "off"}}
        bench.run(sync, [{"key": 1, "id": "a"}])
        data, names = [{"key": 1, "id": "b"}], {"Segment Exited": 1, "Segment Entered": 1}
    held = bench.run(sync, data, Options(limit=1)).run
    later = bench.run(sync, data).run

    first, second = Counter(delivered(bench, held)), Counter(delivered(bench, later))
    assert names == first + second
    assert 1 == first.total()


def test_refused_calls_are_not_delivered(bench: Bench) -> None:
    """A call that the destination refuses for good is not among the delivered ones of its event."""
    bench.sandbox.script([Reply(status=400), Reply(status=400)])
    run = bench.run(TRACK, rows(("a", 1), ("b", 1), ("c", 1))).run

    assert (2, 1) == (run.calls.delivered, run.calls.rejected)
    assert {"Came": 2} == delivered(bench, run)


def test_identify_has_the_name_of_its_type(bench: Bench) -> None:
    """Calls without an event are counted by their type."""
    sync = {"primary_key": "id", "identify": {"user_id": "id", "traits": {"n": "n"}}}
    run = bench.run(sync, rows(("a", 1), ("b", 1))).run

    assert {"identify": 2} == delivered(bench, run)
