"""Every promise has a test that shows it."""

import ast
import re
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest
from harness import read_yaml

from retl.delivery.rejected import REASONS

TESTS = Path(__file__).parent
PROMISES = TESTS.parent / "docs" / "promises"


def numbered() -> list[str]:
    """The rules that the pages of docs/promises number, such as `C3`."""
    pages = (page.read_text(encoding="utf-8") for page in sorted(PROMISES.glob("*.md")))
    return [rule for page in pages for rule in re.findall(r"^- \*\*([A-Z]\d+)\.\*\* ", page, re.MULTILINE)]


@cache
def shown() -> frozenset[str]:
    """The rules that cases and tests say they show."""
    return frozenset([*shown_by_cases(), *shown_by_tests()])


def shown_by_cases() -> Iterator[str]:
    """The rules that cases name."""
    for path in TESTS.glob("cases/*.yml"):
        for case in read_yaml(path)["cases"]:
            yield from case["rules"]


def shown_by_tests() -> Iterator[str]:
    """The rules that tests name, in `pytest.mark.rule`."""
    for path in TESTS.glob("test_*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "pytest.mark.rule":
                yield from (ast.literal_eval(argument) for argument in node.args)


RULES = numbered()


@pytest.mark.parametrize("rule", RULES)
def test_every_rule_is_shown(rule: str) -> None:
    """A numbered rule of the docs has a case, or a test, that names it."""
    assert rule in shown()


def test_every_rule_is_one() -> None:
    """No number stands for two rules, and no test names a rule that is not there."""
    assert [] == [rule for rule, times in Counter(RULES).items() if times > 1]
    assert set() == shown() - set(RULES)


def test_the_table_of_codes_is_the_programs() -> None:
    """The docs list each reason for which a row or call is rejected, with its meaning, and no other."""
    page = (PROMISES / "silent-200.md").read_text(encoding="utf-8")

    assert list(REASONS.items()) == re.findall(r"^\| `(\w+)` \| (.*) \|$", page, re.MULTILINE)


def test_every_page_is_listed() -> None:
    """The list of promises leads to each page."""
    listed = re.findall(r"\((\S+\.md)\)", (PROMISES / "README.md").read_text(encoding="utf-8"))

    assert sorted(page.name for page in PROMISES.glob("*.md")) == sorted({*listed, "README.md"})
