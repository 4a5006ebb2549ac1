"""Calls as the sandbox's page shows them: laid out, and beside the call before."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retl.sandbox.page.difference import difference, fields_of, read_call, value_text
from retl.sandbox.page.json_text import pretty, pretty_parts

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inside: st.lists(inside, max_size=4) | st.dictionaries(st.text(), inside, max_size=4),
    max_leaves=20,
)


@given(JSON, st.sampled_from([None, (",", ":")]))
def test_json_laid_out_is_the_same_json(value: Any, separators: tuple[str, str] | None) -> None:
    """Whatever a text holds, laid out it holds the same, in a line for each value as Python lays it out."""
    text = json.dumps(value, separators=separators)

    assert json.loads(text) == json.loads(pretty(text))
    assert json.dumps(value, indent=2) == pretty(text)


def test_digits_are_kept() -> None:
    """A number is shown with the digits that it came with, and each part says what it is."""
    parts = list(pretty_parts('{"a":12345678901234567890.1230,"b":[true,"x"]}'))

    assert ["12345678901234567890.1230"] == [part.text for part in parts if part.kind == "number"]
    assert ["name", "number", "name", "constant", "string"] == [part.kind for part in parts if part.kind]


def changed(
    before: dict[str, Any] | None, after: dict[str, Any]
) -> list[tuple[str, str, str | None, str | None]]:
    """What differs between two identify calls with such traits."""
    calls = (None if one is None else {"type": "identify", "traits": one} for one in (before, after))
    found = difference(*(None if one is None else read_call(json.dumps(one)) for one in calls))
    return [(one.name, one.kind.value, one.before, one.after) for one in found.fields]


def test_fields_that_differ_are_told() -> None:
    """New, other and missing fields are told by their dotted name, and equal ones are not."""
    before = {
        "plan": "free",
        "old": 1,
        "address": {"city": "Oslo", "country": "NO"},
        "same": [1, {"a": None}],
    }
    after = {
        "plan": "pro",
        "address": {"city": "Rome", "country": "NO"},
        "same": [1, {"a": None}],
        "new": 0.10,
    }

    assert [
        ("plan", "changed", '"free"', '"pro"'),
        ("address.city", "changed", '"Oslo"', '"Rome"'),
        ("new", "added", None, "0.1"),
        ("old", "removed", "1", None),
    ] == changed(before, after)


@pytest.mark.parametrize(
    ("before", "after", "differs"), [(1, True, 1), (0, False, 1), (1, 1.0, 0), (None, 0, 1)]
)
def test_values_are_equal_as_json_has_them(before: Any, after: Any, differs: int) -> None:
    """True is not 1, and 1.0 is 1."""
    assert differs == len(changed({"x": before}, {"x": after}))


@pytest.mark.thorough
@given(st.dictionaries(st.text(), JSON, max_size=5))
def test_a_call_does_not_differ_from_itself(traits: dict[str, Any]) -> None:
    """Whatever the traits are, the same call again changes nothing."""
    assert [] == changed(traits, traits)


@pytest.mark.parametrize(
    "body", ['"text"', "[1]", "null", '{"type": "track", "properties": 5}', '{"traits": {}}']
)
def test_a_call_that_cannot_be_read_has_no_fields(body: str) -> None:
    """A discarded call may be anything; it then has no fields."""
    assert {} == fields_of(read_call(body))


def test_a_long_value_is_cut() -> None:
    """A value that fills a screen is cut, and one that is nested without end does not end the page."""
    deep: Any = 1
    for _ in range(900):
        deep = [deep]

    assert 301 == len(value_text("x" * 5_000))
    assert len(value_text(deep)) < 400
