"""The checks of a receiver, compiled to JSON Schema for one kind of call."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache, lru_cache
from typing import Any, NamedTuple

from retl.nearest import nearest_name
from retl.receivers.data_file import Check, Effect, Receiver, places, receiver
from retl.receivers.settings import Settings, known_receivers


@dataclass(frozen=True)
class Violation:
    """A rule of a receiver that a call breaks, or something to know about it.

    Attributes:
        receiver: its name.
        rule: the id of the rule.
        effect: how bad it is.
        says: what is wrong, in a sentence.
        do: what to change.
        stops: whether Segment's destination refuses the call, so that no request leaves for the receiver.
    """

    receiver: str
    rule: str
    effect: Effect
    says: str
    do: str
    stops: bool = field(default=False, compare=False)

    def __hash__(self) -> int:
        return hash((self.receiver, self.rule, self.says))  # computed for each call, so it must be quick

    def as_json(self) -> dict[str, Any]:
        """As commands print it with `--json`."""
        told = {key: value for key, value in self.__dict__.items() if key != "stops"}
        return {**told, "effect": self.effect.value}

    @property
    def code(self) -> str:
        """The reason code of a row that is rejected for it."""
        return f"{self.receiver}_{self.rule}"


class CallKind(NamedTuple):
    """The calls that the same checks are for.

    Attributes:
        type: Segment's type of call: "identify", "track" or "group".
        event: name of the event of a track call; None for other types, and for track calls of any name.
    """

    type: str
    event: str | None


@dataclass(frozen=True)
class CompiledCheck:
    """A check of a receiver, as it applies to one kind of call.

    Attributes:
        violation: the violation by a call that fails it.
        where: the places in the call that it looks at, with `*` for each member of a list.
        schema: JSON Schema of the calls that pass; None where none does, or where it is about a size.
        most_bytes: how large the value there may be, as JSON; 0 is no matter how large.
        needed: whether one of the places must have a value.
        of_file: whether it is about what a sync's file says, not about calls.
    """

    violation: Violation
    where: tuple[tuple[str, ...], ...] = ()
    schema: dict[str, Any] | None = None
    most_bytes: int = 0
    needed: bool = False
    of_file: bool = False


def compiled_checks(about: Receiver, settings: Settings, kind: CallKind) -> Iterator[CompiledCheck]:
    """All checks of a receiver for one kind of call, without the rules that the settings ignore.

    Args:
        about: the receiver.
        settings: the customer's settings there.
        kind: the kind of call.
    """
    for check in _compiled_checks(about, settings, kind):
        if check.violation.rule not in settings.ignore:
            yield check


def _compiled_checks(about: Receiver, settings: Settings, kind: CallKind) -> Iterator[CompiledCheck]:
    event = kind.event

    def against(rule: str, effect: Effect, says: str, do: str) -> CompiledCheck:
        return CompiledCheck(Violation(about.name, rule, effect, says, do))

    if kind.type not in about.calls.read:
        yield against(
            about.calls.rule,
            Effect.IGNORED,
            f"{kind.type} calls are not read",
            f"nothing, if {about.title} can do without; else send {' or '.join(about.calls.read)} calls",
        )
        return
    if kind.type == "track" and event is not None and event not in about.events:
        near = near_name(event, about.name)
        if near and about.near_names:
            says = f"this is not the event `{near}`"
            yield against(about.near_names, Effect.IGNORED, says, f"name it `{near}`")
        elif about.no_other_events:
            names = ", ".join(f"`{name}`" for name in list(about.events)[:2])
            do = f"nothing, if {about.title} can do without; else use a name of its table, such as {names}"
            yield against(about.no_other_events, Effect.IGNORED, "there is no place for this event", do)
        if about.becomes(event) is None:
            return
    for rule, about_rule in about.rules.items():
        for check in about_rule.checks:
            if _applies(check, about, settings, kind):
                yield from _compile(about, settings, rule, check)


def _applies(check: Check, about: Receiver, settings: Settings, kind: CallKind) -> bool:
    """Whether a check is for such calls."""
    event = kind.event
    names = {kind.type} if event is None or event in {*TYPES, OTHER} else {kind.type, event}
    if event is not None and event not in about.events:
        names.add(OTHER)
    is_set = (check.unless and settings.flag(check.unless)) or (check.unset and settings.flag(check.unset))
    return not check.names and not is_set and not names.isdisjoint(check.on)


def _compile(about: Receiver, settings: Settings, rule: str, check: Check) -> Iterator[CompiledCheck]:
    """A check with its places; where its sentence names the place, one for each."""
    where = tuple(place for path in check.at for _, place in places(path, settings))
    if check.at and not where:
        return
    for some in [(place,) for place in where] if "{it}" in check.says else [where]:
        says = check.says.replace("{it}", _called(some[0])) if some else check.says
        violation = Violation(about.name, rule, check.effect, says, check.do, check.stops)
        schema = _schema(check, some, about.blank) if some and not check.most_bytes else None
        yield CompiledCheck(
            violation, some, schema, check.most_bytes, check.needed, of_file=bool(check.unset)
        )


def _called(place: Sequence[str]) -> str:
    """A place by its name in the call's traits or properties; of a member of a list by its own name."""
    return place[-1] if "*" in place else ".".join(place[1:] or place)


TYPES = ("identify", "track", "page", "screen", "group", "alias")
OTHER = "other"
"""The name in checks for all events that are not in a receiver's table."""


@cache
def known_events() -> frozenset[str]:
    """The events of all receivers' tables."""
    return frozenset(event for name in known_receivers() for event in receiver(name).events)


@lru_cache(maxsize=5_000)
def near_name(event: str, name: str) -> str | None:
    """The event of a receiver whose name differs from this one only in capitals, signs, order or endings."""
    spelled = {" ".join(_words(known)): known for known in reversed(receiver(name).events)}
    words = " ".join(_words(event))
    if event in receiver(name).events or words in spelled:
        return None if event in receiver(name).events else spelled[words]
    close = nearest_name(words, spelled, CLOSE)
    return spelled[close] if close is not None and event not in known_events() else None


MOST_NAMES = 100
"""How many unknown event names are compared with the known ones, which is slow; later ones are not."""

CLOSE = 0.9
"""From this likeness on, 0 to 1, two names are taken for one: `Order Complete` and `Order Completed`."""


def _words(name: str) -> list[str]:
    apart = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", name)
    return sorted(re.findall(r"[^\W_]+", apart.lower()))


def _schema(check: Check, where: Sequence[tuple[str, ...]], blank: Sequence[Any]) -> dict[str, Any]:
    """The JSON Schema of calls that pass a check."""
    if check.needed:
        value: dict[str, Any] = {"not": {"enum": list(blank)}}
        if check.is_ is not None:
            value = {"allOf": [value, check.is_]}
        found = [_at(place, value, needed=True) for place in where]
        return found[0] if len(found) == 1 else {"anyOf": found}
    value = check.is_ or {}
    if not check.blank_too:
        value = {"anyOf": [{"enum": list(blank)}, value]}
    each = [_at(place, value, needed=False) for place in where]
    if not check.first:
        return {"allOf": each}
    # A place is checked only where the places before it have no value.
    schema = each[-1]
    for place, one in zip(reversed(where[:-1]), reversed(each[:-1]), strict=True):
        schema = {"if": _at(place, {"not": {"type": "null"}}, needed=True), "then": one, "else": schema}
    return schema


def _at(place: Sequence[str], value: dict[str, Any], needed: bool) -> dict[str, Any]:
    """The schema of an object in which a value stands at a place.

    A value is needed in each member of a list, where there is a list; an object counts as a list of itself.
    """
    if not place:
        return value
    key, inner = place[0], _at(place[1:], value, needed)
    if key == "*":
        return {"items": inner, "if": {"type": "object"}, "then": inner}
    schema: dict[str, Any] = {"properties": {key: inner}}
    return {"type": "object", "required": [key], **schema} if needed and "*" not in place else schema
