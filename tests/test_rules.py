"""Every promise has a test that shows it."""

import ast
import re
from collections import Counter
from collections.abc import Iterator, Mapping
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
def shown() -> Mapping[str, bool]:
    """The rules that cases and tests say they show; and whether one of these is quick."""
    found: dict[str, bool] = {}
    for rule, is_quick in (*shown_by_cases(), *shown_by_tests()):
        found[rule] = found.get(rule, False) or is_quick
    return found


def shown_by_cases() -> Iterator[tuple[str, bool]]:
    """The rules that cases name; `make test` runs a case of each."""
    for path in TESTS.glob("cases/*.yml"):
        for case in read_yaml(path)["cases"]:
            yield from ((rule, True) for rule in case["rules"])


def shown_by_tests() -> Iterator[tuple[str, bool]]:
    """The rules that tests name, in `pytest.mark.rule`; and whether `make test` runs them."""
    for path in TESTS.glob("test_*.py"):
        module = ast.parse(path.read_text(encoding="utf-8"))
        of_all = [one.value for one in module.body if isinstance(one, ast.Assign)]  # `pytestmark` among them
        for statement in module.body:
            marks = [*of_all, *getattr(statement, "decorator_list", [])]
            is_quick = not any(is_mark(mark, name) for mark in marks for name in LEFT_OUT)
            for node in ast.walk(statement):
                if isinstance(node, ast.Call) and is_mark(node.func, "rule"):
                    yield from ((ast.literal_eval(argument), is_quick) for argument in node.args)


LEFT_OUT = ("slow", "thorough", "browser", "mysql", "spark", "snowflake", "bigquery")
"""Marks of tests that `make test` does not run."""


def is_mark(node: ast.AST, name: str) -> bool:
    """Whether this is `pytest.mark.` with a name."""
    return isinstance(node, ast.Attribute) and node.attr == name and ast.unparse(node.value) == "pytest.mark"


RULES = numbered()

AT_LENGTH = {"Q3", "X4"}
"""Rules that only a run shows which is killed, at each of its steps or with its process."""


@pytest.mark.parametrize("rule", RULES)
def test_every_rule_is_shown(rule: str) -> None:
    """A numbered rule of the docs has a case, or a test, that names it."""
    assert rule in shown()


def test_make_test_shows_every_rule() -> None:
    """`make test` runs a case or a test that shows the rule, but for those that take long to show."""
    assert AT_LENGTH == {rule for rule, is_quick in shown().items() if not is_quick}


def test_every_rule_is_one() -> None:
    """No number stands for two rules, and no test names a rule that is not there."""
    assert [] == [rule for rule, times in Counter(RULES).items() if times > 1]
    assert set() == shown().keys() - set(RULES)


def test_the_table_of_codes_is_the_programs() -> None:
    """The docs list each reason for which a row or call is rejected, with its meaning, and no other."""
    page = (PROMISES / "silent-200.md").read_text(encoding="utf-8")

    assert list(REASONS.items()) == re.findall(r"^\| `(\w+)` \| (.*) \|$", page, re.MULTILINE)


def test_every_page_is_listed() -> None:
    """The list of promises leads to each page."""
    listed = re.findall(r"\((\S+\.md)\)", (PROMISES / "README.md").read_text(encoding="utf-8"))

    assert sorted(page.name for page in PROMISES.glob("*.md")) == sorted({*listed, "README.md"})
