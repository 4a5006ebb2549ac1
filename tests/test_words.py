"""The words of the project: docs/glossary.md has them; these are words that it gave up."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent

RETIRED = {
    "judge": "checker",
    "charge": "compiled check",
    "objection": "violation",
    "verdict": "decision, action, or check report",
    "hearing": "call check",
    "heard": "checked",
    "heed": "check",
    "docket": "tally",
    "outlook": "static check",
    "foresee": "check the sync file",
    "foretell": "show",
    "foretold": "shown",
    "suppose": "what if",
    "suspect": "refused alone",
    "hopeless": "all refused",
    "farewell": "removed fields",
    "phantom": "suspicious column",
    "patience": "retry policy",
    "pace": "rate limiter",
    "preview": "plan",
}
"""Each retired word, and the word that took its place."""

FORMS = re.compile(
    rf"\b({'|'.join(one.rstrip('e') for one in RETIRED)})(e|es|s|d|ed|en|ing)?\b", re.IGNORECASE
)

VAGUE = {
    "Those",
    "These",
    "What",
    "Whatever",
    "Who",
    "Whoever",
    "So",
    "It",
    "They",
    "He",
    "She",
    "This",
    "That",
}
"""First words of a docstring that do not name the thing."""

PACKAGE = sorted((ROOT / "retl").rglob("*.py"))
TESTS = sorted({*(ROOT / "tests").glob("*.py"), *(ROOT / "bench").glob("*.py")} - {Path(__file__)})
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
    *sorted((ROOT / "retl").rglob("*.sql")),
    *sorted((ROOT / "retl").rglob("*.yml")),
]


def path_of(path: Path) -> str:
    """A path as a failure shows it."""
    return path.relative_to(ROOT).as_posix()


def docstrings(path: Path) -> Iterator[str]:
    """The docstrings of a module, its classes and functions, and the texts below its constants."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            yield from [node.value.value] if isinstance(node.value.value, str) else []


def test_no_retired_word_comes_back() -> None:
    """Code, docs and messages use the glossary's words, and none that it gave up."""
    found = {}
    for path in [*PACKAGE, *TESTS, *PAGES]:
        # The words of a name such as `ReceiverChecker` or `rate_limiter` are looked at one by one.
        text = re.sub(r"_|(?<=[a-z])(?=[A-Z])", " ", path.read_text(encoding="utf-8"))
        found[path] = {match[0] for match in FORMS.finditer(text)}

    assert {} == {path_of(path): words for path, words in found.items() if words}


def test_docstrings_begin_with_the_thing() -> None:
    """A docstring begins with a name for the thing that it describes, not with a pronoun."""
    all_of = [(path, text) for path in PACKAGE for text in docstrings(path)]
    vague = [(path, text) for path, text in all_of if re.split(r"\W", text, maxsplit=1)[0] in VAGUE]
    assert [] == [(path_of(path), text) for path, text in vague]


def test_public_classes_have_names_of_their_own() -> None:
    """No two public classes of the package share a name."""
    names = [
        node.name
        for path in PACKAGE
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_")
    ]
    assert [] == sorted({name for name in names if names.count(name) > 1})
