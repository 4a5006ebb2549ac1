"""Folding: lines fit the window, and nothing is lost on the way."""

import json
import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.cells import cell_len

from retl.cli.fold import LONGEST, fold_json, fold_words, shortened

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text('aé東 "\\{}[]:,\n', max_size=60),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text("ab東", max_size=20), inner, max_size=4)
    ),
    max_leaves=20,
)


def bare(text: str) -> str:
    """A text without white space."""
    return re.sub(r"\s", "", text)


@pytest.mark.thorough
@settings(deadline=None)
@given(st.dictionaries(st.text("abc", min_size=1, max_size=8), VALUES, max_size=6), st.integers(40, 100))
def test_a_folded_call_fits_and_is_whole(call: dict[str, Any], width: int) -> None:
    """Every line of a call fits the window, and together they are the call."""
    text = json.dumps(call, ensure_ascii=False)

    lines = fold_json(text, width, "    ")

    assert width >= max(map(cell_len, lines))
    assert bare(text) == bare("".join(lines))


@settings(deadline=None)
@given(st.text("ab東 -", max_size=200), st.integers(40, 100))
def test_a_folded_sentence_fits_and_is_whole(text: str, width: int) -> None:
    """Every line of a sentence fits the window, and together they are the sentence."""
    lines = fold_words(text, width)

    assert width >= max(map(cell_len, lines))
    assert bare(text) == bare("".join(lines))


def test_a_command_stays_in_one_line() -> None:
    """A command is not broken where it fits into a line, so that it can be copied."""
    sentence = (
        "if this is right: retl run syncs/users.yml --sandbox --force min_rows, once; or see retl plan users"
    )

    assert [
        "  if this is right:",
        "    retl run syncs/users.yml --sandbox --force min_rows, once; or",
        "    see retl plan users",
    ] == fold_words(sentence, 66)
    assert "  if this is right: retl run" == fold_words(sentence, 30)[0]


def test_objects_of_a_call_begin_lines() -> None:
    """Members that are objects begin a line, their members go on below it, and what follows begins anew."""
    call = '{"type":"track","properties":{"plan":"pro","mrr":29},"context":{"ip":1},"timestamp":"now"}'

    assert [
        '{"type":"track",',
        ' "properties":{"plan":"pro",',
        '     "mrr":29},',
        ' "context":{"ip":1},',
        ' "timestamp":"now"}',
    ] == fold_json(call, 30, "")


def test_without_a_window_nothing_is_folded() -> None:
    """In a pipe a call is one line, as long as it may be."""
    call = json.dumps({"a": "x" * 1_000})

    assert [f"  {call}"] == fold_json(call, None)
    assert [f"  {call}"] == fold_words(call, None)


@pytest.mark.parametrize(("length", "shown"), [(LONGEST, LONGEST), (LONGEST + 1_000, LONGEST + 20)])
def test_a_very_long_text_says_how_much_is_left_out(length: int, shown: int) -> None:
    """A text that would fill the screen is shown by its beginning and its end."""
    found = shortened("x" * length)

    assert shown == len(found)
    assert (length > LONGEST) == ("… 1,000 characters …" in found)
