"""The translation of a call to a receiver's own user and events, by its data file."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jsonschema_rs

from retl.receivers.data_file import Becomes, FieldSource, Receiver, Targets, places
from retl.receivers.settings import Settings

MISSING = object()
"""The value at a place that a call does not have."""


@dataclass(frozen=True)
class Arrival:
    """A call as it arrives at a receiver; both are empty where nothing arrives.

    Attributes:
        user: fields of the user, nested.
        events: fields of each event, nested.
    """

    user: Mapping[str, Any]
    events: Sequence[Mapping[str, Any]]


def translate(receiver: Receiver, settings: Settings, call: Mapping[str, Any]) -> Arrival:
    """Translate a call to the user and events of a receiver.

    Args:
        receiver: the receiver.
        settings: what the customer set there.
        call: a Segment call, as it was parsed from JSON.
    """
    if call.get("type") == "identify" and receiver.identify:
        return Arrival(_Reading(receiver.blank, settings).tree(receiver.identify.user, call), ())
    event = call.get("event")
    becomes = receiver.becomes(event) if isinstance(event, str) else None
    if call.get("type") != "track" or becomes is None:
        return Arrival({}, ())
    assert isinstance(event, str)
    reading = _Reading((None,) if receiver.track.keeps_empty else receiver.blank, settings)
    name = {receiver.track.name_as: receiver.named(event, settings)}
    events = reading.events({**receiver.track.event, **becomes.event}, becomes, call)
    return Arrival(reading.tree(receiver.track.user, call), [{**name, **fields} for fields in events])


@dataclass(frozen=True)
class _Reading:
    blank: Sequence[Any]
    settings: Settings

    def events(
        self, common: Targets, becomes: Becomes, call: Mapping[str, Any]
    ) -> Iterator[Mapping[str, Any]]:
        """The fields of each event that a track call becomes: those of all, and those of each member."""
        members = value_at(call, becomes.each.split(".")) if becomes.each else MISSING
        if members is MISSING or members in (None, ""):
            yield self.tree(common, call)
            return
        for member in members if isinstance(members, list) else [members]:
            own = self.tree(becomes.item, member) if isinstance(member, dict) else {}
            yield over(own, self.tree(common, call))

    def tree(self, targets: Targets, call: Mapping[str, Any]) -> dict[str, Any]:
        """Fields of the receiver as nested mappings; what is missing or blank is left out."""
        tree: dict[str, Any] = {}
        for target, source in targets.items():
            for key, value in self._values(source, call):
                *outer, last = (key if part.startswith("<") else part for part in target.split("."))
                node = tree
                for part in outer:
                    node = node.setdefault(part, {})
                node[last] = value
        return tree

    def _values(self, source: FieldSource, call: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
        """The values of a field, by the setting's key where it has one: of each the first that is there."""
        found: dict[str, Any] = {}
        for path in source.from_:
            for key, where in places(path, self.settings):
                value = value_at(call, where)
                value = source.null if value is None else value
                if key not in found and not self._is_nothing(value, source):
                    found[key] = _cast(value, source)
        yield from ((key, value) for key, value in found.items() if value != "" or not source.filled)

    def _is_nothing(self, value: Any, source: FieldSource) -> bool:
        """Whether a value is as if it were not there."""
        if value is MISSING or value is None:
            return True
        if value == "" and source.null is None:
            return source.as_ == "number" or "" in self.blank
        return source.when is not None and not jsonschema_rs.is_valid(source.when, value)


def value_at(call: object, where: Sequence[str]) -> Any:
    """The value at a place, MISSING where there is none; after a `*` the list of what the members have."""
    value = call
    for depth, key in enumerate(where):
        if key == "*":
            if not isinstance(value, list | dict):
                return MISSING
            members = value if isinstance(value, list) else [value]
            found = [value_at(member, where[depth + 1 :]) for member in members]
            known = [None if one is MISSING else one for one in found]
            return known if any(one is not None for one in known) else MISSING
        if not isinstance(value, dict) or key not in value:
            return MISSING
        value = value[key]
    return value


def over(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Nested mappings as one; where both have a value, that of `above` counts."""
    merged = dict(below)
    for key, value in above.items():
        mine = merged.get(key)
        merged[key] = over(mine, value) if isinstance(mine, dict) and isinstance(value, dict) else value
    return merged


def _cast(value: Any, source: FieldSource) -> Any:
    """A value as the receiver takes it; as it is where it cannot be turned, for which there are rules."""
    if source.without and isinstance(value, dict):
        return {name: one for name, one in value.items() if name not in source.without}
    if source.as_ == "list":
        return value if isinstance(value, list) else [value]
    if source.as_ and isinstance(value, list) and len(value) == 1:
        value = value[0]
    if source.as_ == "texts":
        return [_text(value)]
    if source.as_ == "boolean":
        return {"true": True, "1": True, "false": False, "0": False}.get(str(value).lower(), value)
    if source.as_ in ("locale", "locales") and isinstance(value, str):
        return value.replace("-", "_", 1 if source.as_ == "locale" else -1)
    turn = {"text": _text, "number": _number}.get(source.as_ or "")
    return turn(value) if turn else value


def _text(value: Any) -> Any:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(value) if isinstance(value, int | float) else value


def _number(value: Any) -> Any:
    try:
        number = float(_decimal(value)) if isinstance(value, str | bool) else value
    except ValueError:
        return value
    if not isinstance(number, float) or not math.isfinite(number):
        return value if isinstance(number, float) else number
    return int(number) if number.is_integer() else number


def _decimal(value: str | bool) -> str | bool | int:
    """A text that Python reads as a number where JavaScript does, 0x1f included."""
    is_hexadecimal = isinstance(value, str) and value.strip().lower().startswith("0x")
    return int(value, 16) if is_hexadecimal and isinstance(value, str) else value
