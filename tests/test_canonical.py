"""Spelling: what a value becomes as JSON and as text, for any value of its type."""

import json
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import duckdb
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retl.engine.canonical import canonical, json_text, plain_text, valid_json
from retl.json_values import SAFE_INTEGER

quick = settings(max_examples=100, deadline=None)


def spelled(value: Any, kind: str) -> tuple[str, str]:
    """JSON and plain text of a value that comes from a warehouse as the given type."""
    source = duckdb.sqltype(kind)
    found = canonical(source, f"$1::{kind}", "UTC")
    assert found is not None
    texts = (json_text(found.type, found.expression), plain_text(found.type, found.expression))
    row = duckdb.execute(f"SELECT {', '.join(texts)}", [value]).fetchone()
    assert row is not None
    return row


@quick
@given(st.integers(-(2**127), 2**127 - 1))
def test_integers(number: int) -> None:
    """An integer keeps its digits; as JSON it is a number only where every reader keeps it."""
    as_json, as_text = spelled(str(number), "HUGEINT")
    assert (number if abs(number) <= SAFE_INTEGER else str(number)) == json.loads(as_json)
    assert str(number) == as_text


@quick
@given(st.floats(allow_nan=False, allow_infinity=False))
def test_floats(number: float) -> None:
    """A float is read back as the same float, and has no point where it is whole."""
    as_json, as_text = spelled(number, "DOUBLE")
    assert number == json.loads(as_json)
    assert as_json == as_text
    if number.is_integer() and abs(number) <= SAFE_INTEGER:
        assert str(int(number)) == as_text


@quick
@given(st.data(), st.integers(1, 38))
def test_decimals(data: st.DataObject, precision: int) -> None:
    """A decimal is read back with the same digits, and ends in no zero after the point."""
    scale = data.draw(st.integers(0, precision), "scale")
    unscaled = data.draw(st.integers(-(10**precision) + 1, 10**precision - 1), "digits")
    number = Decimal(f"{unscaled}e-{scale}")
    as_json, as_text = spelled(format(number, "f"), f"DECIMAL({precision}, {scale})")
    assert number == Decimal(as_text)
    assert not ("." in as_text and as_text.endswith(("0", ".")))
    assert number == Decimal(json.loads(as_json, parse_float=Decimal))


@quick
@given(st.text(st.characters(codec="utf-8")))
def test_texts(text: str) -> None:
    """Any text is read back from its JSON."""
    as_json, as_text = spelled(text, "VARCHAR")
    assert text == json.loads(as_json)
    assert text == as_text


@pytest.mark.parametrize(
    ("value", "instant"),
    [
        ("1970-01-01 00:00:00.0019+00", "1970-01-01T00:00:00.001Z"),
        ("1969-12-31 23:59:59.9996+00", "1969-12-31T23:59:59.999Z"),
        ("2026-07-01 00:30:00+02", "2026-06-30T22:30:00.000Z"),
        ("0001-01-01 00:00:00+00", "0001-01-01T00:00:00.000Z"),
        ("9999-12-31 23:59:59.999999+00", "9999-12-31T23:59:59.999Z"),
        ("infinity", None),
        ("-infinity", None),
        (None, None),
    ],
)
def test_instants_in_a_zone(value: str | None, instant: str | None) -> None:
    """An instant is sent in UTC with the whole milliseconds that have passed; an infinite one is null."""
    as_json, as_text = spelled(value, "TIMESTAMP WITH TIME ZONE")
    assert (instant, instant and f'"{instant}"') == (as_text, as_json)


@pytest.mark.thorough
@quick
@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(), st.lists, max_leaves=8))
def test_json_is_valid(document: Any) -> None:
    """Whatever is JSON is taken for JSON, whatever words stand in its texts."""
    for text in (json.dumps(document), json.dumps({"NaN,]": document}, ensure_ascii=False, indent=1)):
        assert (True,) == duckdb.execute(f"SELECT {valid_json('$1')}", [text]).fetchone()


@dataclass(frozen=True)
class Geometry:
    """What DuckDB says of a type that no JSON can spell; not every version of DuckDB has one."""

    id: str = "geometry"


@pytest.mark.rule("W6")
def test_a_type_without_a_spelling() -> None:
    """A type that is not known has no canonical form, rather than a wrong one."""
    assert canonical(Geometry(), "shape", "UTC") is None  # type: ignore[arg-type]
