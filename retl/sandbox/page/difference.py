"""CallDifference: in which traits or properties a call differs from the one before it."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum
from typing import Any

LONGEST_VALUE = 300
"""Characters of a value that a table shows; the call itself has all of it."""

_ABSENT = object()


class Kind(StrEnum):
    """How a field differs."""

    ADDED = "added"
    CHANGED = "changed"
    REMOVED = "removed"


@dataclass(frozen=True)
class FieldDifference:
    """One field that differs.

    Attributes:
        name: dotted, where objects are nested.
        kind: whether the field is new, has another value, or is gone.
        before: as JSON; None where the field is new.
        after: as JSON; None where the field is gone.
    """

    name: str
    kind: Kind
    before: str | None
    after: str | None


@dataclass(frozen=True)
class CallDifference:
    """The fields in which two calls of a user differ, and how many do not."""

    fields: tuple[FieldDifference, ...]
    unchanged: int


def read_call(text: str) -> Any:
    """A call as Python has it, the digits of its numbers kept; None where it is nested too deep for that."""
    try:
        return json.loads(text, parse_float=Decimal)
    except RecursionError:
        return None


def fields_of(call: Any) -> dict[str, Any]:
    """The traits or properties of a call by dotted name; empty where it has none that can be read."""
    if not isinstance(call, dict):
        return {}
    name = "traits" if call.get("type") in ("identify", "group") else "properties"
    found = call.get(name)
    return _flat(found) if isinstance(found, dict) else {}


def difference(before: Any, after: Any) -> CallDifference:
    """In what a call differs from an earlier one of the same kind.

    Args:
        before: the earlier call, as `read_call` gives it; None where there was none.
        after: the call.
    """
    return difference_of_fields(fields_of(before), fields_of(after))


def difference_of_fields(old: Mapping[str, Any], new: Mapping[str, Any]) -> CallDifference:
    """In what fields differ from earlier ones: in the order of the new ones, then those that are gone."""
    names = [*new, *(name for name in old if name not in new)]
    fields = [_field(name, old.get(name, _ABSENT), new.get(name, _ABSENT)) for name in names]
    differing = tuple(one for one in fields if one is not None)
    return CallDifference(differing, len(names) - len(differing))


def value_text(value: Any) -> str:
    """A value as JSON, cut where it is long."""
    try:
        text = _json(value)
    except RecursionError:
        return "nested too deep to be shown"
    return text if len(text) <= LONGEST_VALUE else f"{text[:LONGEST_VALUE]}\N{HORIZONTAL ELLIPSIS}"


def _field(name: str, before: Any, after: Any) -> FieldDifference | None:
    if before is _ABSENT:
        return FieldDifference(name, Kind.ADDED, None, value_text(after))
    if after is _ABSENT:
        return FieldDifference(name, Kind.REMOVED, value_text(before), None)
    if _is_same(before, after):
        return None
    return FieldDifference(name, Kind.CHANGED, value_text(before), value_text(after))


def _is_same(before: Any, after: Any) -> bool:
    """Whether two values are equal as JSON, where true is not 1, and 1.50 is 1.5."""
    try:
        return before == after and _json(before, as_written=False) == _json(after, as_written=False)
    except RecursionError:
        return False


def _flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, dict) and value and len(prefix) < LONGEST_VALUE:
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat


def _json(value: Any, as_written: bool = True) -> str:
    if isinstance(value, Decimal):
        return str(value if as_written else value.normalize())
    if isinstance(value, dict):
        pairs = (f"{_json(name)}: {_json(one, as_written)}" for name, one in value.items())
        return f"{{{', '.join(pairs if as_written else sorted(pairs))}}}"
    if isinstance(value, list):
        return f"[{', '.join(_json(one, as_written) for one in value)}]"
    return json.dumps(value, ensure_ascii=False)
