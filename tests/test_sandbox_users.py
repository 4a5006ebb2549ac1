"""Users and audiences of the sandbox as its page asks for them, on real calls in the store."""

from collections.abc import Sequence

import pytest
from sandbox_calls import identify, some_calls, store_of, track

from retl.sandbox.page import audience, person
from retl.sandbox.page.audience import Style
from retl.sandbox.store import Store

VIP = "VIP customers"


@pytest.fixture
def store() -> Store:
    """Give a store with calls of three users."""
    return some_calls()


def test_users_and_their_traits(store: Store) -> None:
    """A user has figures, a timeline with what each call changed, and the traits that the calls add up to."""
    ada = person.person(store, "ada")
    entries = person.timeline(store, "ada")

    assert ada is not None
    assert (4, 0, 2, ("orders", "users", "vip")) == (ada.accepted, ada.discarded, ada.duplicates, ada.syncs)
    assert [8, 6, 5, 4, 3, 1] == [one.call.seq for one in entries]
    assert ["plan"] == [one.name for one in entries[2].difference.fields if entries[2].difference]
    assert None is entries[-1].difference
    assert [("email", 1), ("plan", 5)] == [(one.name, one.seq) for one in person.traits(store, "ada")]
    assert ["anon-1", "ada", "linus", "grace"] == [one.user for one in person.users(store)]
    assert ["grace"] == [one.user for one in person.users(store, "rac")]
    assert None is person.person(store, "nobody")


def test_null_takes_a_trait_away() -> None:
    """As in Segment, a trait that is null is none."""
    store = store_of([identify("ada", plan="pro", phone="1"), identify("ada", phone=None)])

    assert ["plan"] == [one.name for one in person.traits(store, "ada")]


def names(found: Sequence[audience.Member]) -> list[str]:
    """The users of a list."""
    return [one.user for one in found]


@pytest.mark.parametrize(
    ("style", "entered", "exited"),
    [
        (Style.SEGMENT, "Segment Entered", "Segment Exited"),
        (Style.AUDIENCE, "Audience Entered", "Audience Exited"),
    ],
)
def test_events_tell_who_is_in(style: Style, entered: str, exited: str) -> None:
    """Who is in is what the last event about a user said, whichever name the events have."""
    moves = [("ada", entered), ("grace", entered), ("ada", exited), ("linus", exited), ("ken", entered)]
    field = {"segment_name": VIP} if style is Style.SEGMENT else {"audience_key": VIP}
    store = store_of([track(user, event, **field) for user, event in [*moves, ("grace", entered)]])
    (found,) = audience.audiences(store)

    assert (style, VIP, 2, 2) == (found.style, found.name, found.members, found.left)
    assert found == audience.audience(store, style, VIP)
    assert ["grace", "ken"] == names(audience.members(store, style, VIP, are_in=True))
    assert ["linus", "ada"] == names(audience.members(store, style, VIP, are_in=False))
    assert ["ken"] == names(audience.members(store, style, VIP, are_in=True, before=6))
    assert ["ada"] == names(audience.members(store, style, VIP, are_in=False, search="da"))
    assert [(VIP, False)] == [(one.name, one.is_in) for one in audience.audiences_of(store, "ada")]


def test_a_trait_that_is_true_is_an_audience() -> None:
    """True means in; false means left for who was in, and nothing for who never was."""
    said = [("ada", True), ("grace", False), ("ken", True), ("ada", True), ("ken", False), ("linus", "yes")]
    store = store_of([identify(user, **{"is vip": value, "email": "x"}) for user, value in said])
    (found,) = audience.audiences(store)

    assert (Style.TRAIT, "is vip", 1, 1) == (found.style, found.name, found.members, found.left)
    assert ["ada"] == names(audience.members(store, Style.TRAIT, "is vip", are_in=True))
    assert ["ken"] == names(audience.members(store, Style.TRAIT, "is vip", are_in=False))
    assert None is audience.audience(store, Style.TRAIT, 'x" or 1=1')


def test_nobody_is_in_an_empty_store() -> None:
    """All questions have an answer before the first call."""
    store = store_of([])

    assert [] == [*audience.audiences(store), *person.users(store), *audience.audiences_of(store, "ada")]
