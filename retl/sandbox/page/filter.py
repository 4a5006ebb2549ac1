"""Filter: which calls a list shows, as the address of the page says it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any
from urllib.parse import urlencode

FACETS = MappingProxyType(
    {
        "outcome": '"outcome"',
        "reason": '"reason"',
        "type": '"type"',
        "event": '"event"',
        "sync": '"sync"',
        "run": '"run_id"',
        "user": 'coalesce("user_id", "anonymous_id")',
    }
)
"""The sides by which calls are filtered, each with its SQL; a user without an id is the anonymous one."""

MOST_VALUES = 50
"""Values of one facet that are taken from an address; more would only make a slow query."""

LONGEST_SEARCH = 200
"""Characters of a search; the rest is left out."""

LARGEST_PLACE = 2**63 - 1
"""The largest number that a call can have; one beyond is no number of a call."""


@dataclass(frozen=True)
class Filter:
    """Which calls are shown.

    Attributes:
        chosen: the values of a facet of which a call must have one; a facet that is not named takes all.
        search: words, all of which the text of a call must have somewhere, in capitals or not.
        before: the page begins with the newest call before this place; None begins with the newest of all.
    """

    chosen: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    search: str = ""
    before: int | None = None

    @classmethod
    def of(cls, query: Mapping[str, Sequence[str]]) -> "Filter":
        """The filter that a query string has, as `parse_qs` reads it; what makes no sense is left out."""
        chosen = {
            facet: tuple(dict.fromkeys(query[facet]))[:MOST_VALUES] for facet in FACETS if query.get(facet)
        }
        search = " ".join(query.get("q", [""])[-1][:LONGEST_SEARCH].split())
        return cls(chosen, search, place_of(query, "before"))

    @property
    def is_empty(self) -> bool:
        """Whether it takes all calls."""
        return not self.chosen and not self.search

    def has(self, facet: str, value: str) -> bool:
        """Whether a value is among those that a call may have."""
        return value in self.chosen.get(facet, ())

    def toggled(self, facet: str, value: str) -> "Filter":
        """The same with one value more, or one less where it had it; from the newest call on."""
        values = self.chosen.get(facet, ())
        kept = tuple(one for one in values if one != value) if value in values else (*values, value)
        chosen = {**self.chosen, facet: kept}
        return replace(self, chosen={name: one for name, one in chosen.items() if one}, before=None)

    def only(self, facet: str, value: str) -> "Filter":
        """A filter by one value and nothing else."""
        return Filter({facet: (value,)})

    def without_search(self) -> "Filter":
        """The same without the words."""
        return replace(self, search="", before=None)

    def older(self, before: int | None) -> "Filter":
        """The same, from another place on."""
        return replace(self, before=before)

    def address(self, path: str = "/", **more: Any) -> str:
        """The address of a page with this filter; a name of `more` that is None is left out."""
        pairs = [(facet, value) for facet, values in self.chosen.items() for value in values]
        pairs += [("q", self.search)] if self.search else []
        pairs += [("before", str(self.before))] if self.before is not None else []
        pairs += [(name, str(value)) for name, value in more.items() if value is not None]
        return f"{path}?{urlencode(pairs)}" if pairs else path

    @property
    def export(self) -> str | None:
        """The address of these calls as lines of JSON; None where that knows no such filter."""
        is_known = all(len(values) == 1 for values in self.chosen.values()) and " " not in self.search
        return self.older(None).address("/calls.ndjson") if is_known else None

    def facet_sql(self, facet: str) -> tuple[str, list[Any]]:
        """A condition on the values of one facet, with its parameters."""
        values = self.chosen.get(facet, ())
        return (f"list_contains(?, {FACETS[facet]})", [list(values)]) if values else ("true", [])

    def search_sql(self) -> tuple[str, list[Any]]:
        """A condition on the text, with its parameters."""
        words = self.search.lower().split()
        condition = " AND ".join(['contains(lower("body"::VARCHAR), ?)'] * len(words))
        return condition or "true", [*words]

    def sql(self) -> tuple[str, list[Any]]:
        """The condition on a call, wherever the page begins, with its parameters."""
        parts = [self.facet_sql(facet) for facet in self.chosen]
        parts += [self.search_sql()] if self.search else []
        if not parts:
            return "true", []
        return " AND ".join(f"({text})" for text, _ in parts), [one for _, values in parts for one in values]


def place_of(query: Mapping[str, Sequence[str]], name: str) -> int | None:
    """The number of a call that a query string has; None where it has none."""
    text = query.get(name, [""])[-1]
    if not (text.isascii() and text.isdigit() and len(text) < 20 and int(text) <= LARGEST_PLACE):
        return None
    return int(text)
