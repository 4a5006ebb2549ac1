"""The calls of the sandbox as its page asks for them, on real ones in the store."""

from typing import Any

import pytest
from sandbox_calls import identify, some_calls, store_of

from retl.sandbox.page import calls, rehearsed_run
from retl.sandbox.page.filter import Filter
from retl.sandbox.store import Store


@pytest.fixture
def store() -> Store:
    """Give a store with calls of three users."""
    return some_calls()


def seqs(store: Store, limit: int = 100, before: int | None = None, q: str = "", **chosen: str) -> list[int]:
    """The numbers of the calls that pass a filter."""
    filter_ = Filter({name: tuple(text.split(",")) for name, text in chosen.items()}, q, before)
    found = [one.seq for one in calls.newest_calls(store, filter_, limit)]
    assert before is not None or limit < 9 or len(found) == calls.standing(store, filter_).matching
    return found


@pytest.mark.parametrize(
    ("chosen", "found"),
    [
        ({}, [9, 8, 7, 6, 5, 4, 3, 2, 1]),
        ({"limit": 2}, [9, 8]),
        ({"limit": 2, "before": 8}, [7, 6]),
        ({"before": 1}, []),
        ({"type": "track"}, [9, 7, 4, 3]),
        ({"type": "track", "outcome": "accepted"}, [9, 4, 3]),
        ({"outcome": "duplicate,discarded"}, [8, 7, 6]),
        ({"reason": "event_not_defined"}, [7]),
        ({"user": "ada", "sync": "orders,vip"}, [4, 3]),
        ({"user": "anon-1"}, [9]),
        ({"run": "run-of-vip"}, [4]),
        ({"q": "GRACE@"}, [2]),
        ({"q": 'ada "pro"'}, [8, 6, 5]),
        ({"q": "100%_'"}, []),
    ],
    ids=str,
)
def test_calls_are_filtered(store: Store, chosen: dict[str, Any], found: list[int]) -> None:
    """Values of a facet are alternatives, facets and words are all asked for, and the newest comes first."""
    assert found == seqs(store, **chosen)


def facet(store: Store, name: str, filter_: Filter) -> list[tuple[str, int]]:
    """The values of a facet and their calls."""
    (found,) = (one for one in calls.facets(store, filter_) if one.name == name)
    return [(one.value, one.calls) for one in found.values]


def test_a_value_is_counted_under_the_other_filters(store: Store) -> None:
    """Each count is what the list would have if that value were the facet's only one."""
    filter_ = Filter({"type": ("track",), "outcome": ("accepted",)}, "o")

    for name in ("outcome", "type", "event", "sync", "user"):
        for value, count in facet(store, name, filter_):
            one = Filter({**filter_.chosen, name: (value,)}, "o")
            assert count == calls.standing(store, one).matching, (name, value)
    assert [("identify", 3), ("track", 3)] == facet(store, "type", Filter({"outcome": ("accepted",)}))


def test_a_facet_lists_a_few_values() -> None:
    """The most frequent values are listed, the others are counted; one that is chosen is always there."""
    store = store_of([identify(f"u{number}") for number in range(20)] + [identify("u7")])
    filter_ = Filter({"user": ("u19", "gone")})
    (found,) = (one for one in calls.facets(store, filter_) if one.name == "user")

    assert ["u7", "u0"] == [one.value for one in found.values[:2]]
    assert [("u19", 1), ("gone", 0)] == [(one.value, one.calls) for one in found.values[-2:]]
    assert 20 == len(found.values) - 1 + found.more


def test_the_call_before_is_of_the_same_kind(store: Store) -> None:
    """A call is compared with the accepted one before it of that user, type, event and sync."""
    newest = calls.one_call(store, 5)
    assert newest is not None
    before = calls.call_before(store, newest)

    assert before is not None
    assert (1, "free") == (before.seq, "free" if '"free"' in before.body else "")
    assert None is calls.call_before(store, before)
    assert None is calls.one_call(store, 77)


def test_a_duplicate_leads_to_the_first_call(store: Store) -> None:
    """A duplicate knows the call that it repeats, and this one how often it came again."""
    first, again = calls.one_call(store, 5), calls.one_call(store, 8)

    assert first is not None
    assert again is not None
    assert (5, 2) == (calls.first_arrival(store, again), calls.repeats(store, first))


def test_runs_stand_side_by_side(store: Store) -> None:
    """Each run has its calls, users and names; calls of which no run is known stand together."""
    found = {one.sync: one for one in rehearsed_run.runs(store)}
    users = found["users"]

    assert [None, "users", "vip", "orders"] == list(found)
    assert (3, 1, 2) == (users.accepted, users.discarded, users.duplicates)
    assert (3, ("identify", "track")) == (users.users, users.names)
    assert ("run-of-vip", ("Segment Entered",)) == (found["vip"].run_id, found["vip"].names)
    assert ("Visit",) == found[None].names


def test_nothing_is_in_an_empty_store() -> None:
    """All questions have an answer before the first call."""
    store = store_of([])

    assert (0, []) == (calls.standing(store, Filter()).held, calls.newest_calls(store, Filter()))
    assert [()] * 7 == [one.values for one in calls.facets(store, Filter())]
