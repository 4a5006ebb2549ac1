"""The calls of a run by event, as its record has them."""

from typing import Any

import pytest
from harness import Bench

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


def events(run: Run) -> dict[str, tuple[int, int, int | None]]:
    """What waited, what entered and what was delivered, by event."""
    assert run.events is not None
    return {one.event or one.type: (one.waiting, one.enqueued, one.delivered) for one in run.events}


def test_each_event_has_its_counts(bench: Bench) -> None:
    """A run's record says of each event how many calls entered the outbox and were delivered."""
    first = bench.run(TRACK, rows(("a", 1), ("b", 1), ("c", 1)))
    second = bench.run(TRACK, rows(("a", 2), ("b", 1), ("d", 1), ("e", 1)))
    third = bench.run(TRACK, rows(("a", 2), ("b", 1), ("d", 1), ("e", 1)))

    assert {"Came": (0, 3, 3)} == events(first.run)
    assert {"Came": (0, 2, 2), "Moved": (0, 1, 1), "Left": (0, 1, 1)} == events(second.run)
    assert {} == events(third.run)


def test_calls_that_an_earlier_run_left_over(bench: Bench) -> None:
    """What waited and leaves in a later run counts as delivered in that one, under its event."""
    bench.run(TRACK, rows(("a", 1), ("b", 1)))
    held = bench.run(TRACK, rows(("a", 2), ("c", 1)), Options(limit=2)).run
    assert (3, 2) == (held.calls.enqueued, held.calls.delivered)
    counts = events(held)
    assert {"Came": 1, "Moved": 1, "Left": 1} == {name: one[1] for name, one in counts.items()}
    assert 2 == sum(one[2] or 0 for one in counts.values())
    (left,) = [name for name, one in counts.items() if one[2] == 0]

    later = bench.run(TRACK, rows(("a", 2), ("c", 1), ("d", 1)))
    assert {left: (1, 1 if left == "Came" else 0, 2 if left == "Came" else 1)}[left] == events(later.run)[
        left
    ]
    assert 2 == sum(one[2] or 0 for one in events(later.run).values())


@pytest.mark.parametrize("kind", ["track", "audience"])
def test_events_that_a_change_does_not_tell(bench: Bench, kind: str) -> None:
    """Where one change makes calls of several events, those that wait are told by their text."""
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

    assert names == {name: enqueued for name, (_, enqueued, _) in events(held).items()}
    delivered = [{name: one[2] or 0 for name, one in events(run).items()} for run in (held, later)]
    assert names == {name: sum(one.get(name, 0) for one in delivered) for name in names}
    assert 1 == sum(delivered[0].values())


def test_refused_calls_are_not_delivered(bench: Bench) -> None:
    """A call that the destination refuses for good is not among the delivered ones of its event."""
    bench.sandbox.script([Reply(status=400), Reply(status=400)])
    run = bench.run(TRACK, rows(("a", 1), ("b", 1), ("c", 1))).run

    assert (2, 1) == (run.calls.delivered, run.calls.rejected)
    assert {"Came": (0, 3, 2)} == events(run)


def test_an_event_for_each_row_is_not_counted(bench: Bench) -> None:
    """A run with very many events keeps none of their names."""
    sync = {**TRACK, "track": {"user_id": "id", "added": {"event": {"column": "e"}}}}
    run = bench.run(sync, [{"id": f"u{number}", "e": f"e{number}"} for number in range(101)]).run

    assert (101, None) == (run.calls.delivered, run.events)


def test_identify_has_the_name_of_its_type(bench: Bench) -> None:
    """Calls without an event are counted by their type, removed rows included."""
    sync = {"primary_key": "id", "identify": {"user_id": "id", "traits": {"n": "n"}}}
    run = bench.run(sync, rows(("a", 1), ("b", 1))).run

    assert [("identify", None, 2)] == [(one.type, one.event, one.delivered) for one in run.events or ()]
