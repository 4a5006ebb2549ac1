"""The filter of the sandbox's page, as an address says it."""

from urllib.parse import parse_qs, urlsplit

import pytest

from retl.sandbox.page.filter import Filter, place_of


def of(query: str) -> Filter:
    """Read a query string."""
    return Filter.of(parse_qs(query))


def test_an_address_and_its_filter_are_one() -> None:
    """The filter of an address gives that address again, with values of any letters."""
    filter_ = of("type=track&type=group&user=a%26b%3Dc+%C3%A9&q=+gold++Oslo&before=7&nonsense=1")

    assert {"type": ("track", "group"), "user": ("a&b=c é",)} == dict(filter_.chosen)
    assert ("gold Oslo", 7) == (filter_.search, filter_.before)
    assert filter_ == of(urlsplit(filter_.address(call=3)).query)
    assert filter_.address(call=3).endswith("&before=7&call=3")


def test_a_value_is_chosen_and_taken_back() -> None:
    """To toggle a value adds it to its facet, and once more takes it away again."""
    filter_ = of("type=track&before=9")
    more = filter_.toggled("type", "group")

    assert "/?type=track&type=group" == more.address()
    assert "/?type=track" == more.toggled("type", "group").address()
    assert more.toggled("type", "group").toggled("type", "track").is_empty
    assert "/" == Filter().address()


@pytest.mark.parametrize("text", ["", "x", "-1", "1.5", "٣", "9" * 19, "1" * 400])
def test_a_place_that_is_no_number_is_left_out(text: str) -> None:
    """A place that no call can have counts as none."""
    assert None is place_of({"before": [text]}, "before")


def test_an_address_of_any_length_makes_a_filter_of_some() -> None:
    """Values and searches without end are cut to a number that a query can bear."""
    filter_ = Filter.of({"user": [str(number) for number in range(1_000)], "q": ["x " * 1_000]})

    assert 50 == len(filter_.chosen["user"])
    assert 200 >= len(filter_.search)
