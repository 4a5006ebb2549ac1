"""Holding calls against what their receivers refuse, before they are sent.

The checks that apply to a kind of call, of all receivers together, are compiled to one JSON Schema: a call
that passes it is done with; only of another it is asked which checks it fails.
"""

import difflib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache
from itertools import groupby
from typing import Any, Protocol

import jsonschema_rs
from pydantic_core import to_json

from retl.receivers.data_file import Check, Effect, Receiver, Settings, known_receivers, places, receiver
from retl.receivers.translate import MISSING, value_at


@dataclass(frozen=True)
class Objection:
    """What a receiver has against a call.

    Attributes:
        receiver: its name.
        rule: the id of the rule.
        effect: what comes of it.
        says: what is wrong, in a sentence.
        do: what to change.
    """

    receiver: str
    rule: str
    effect: Effect
    says: str
    do: str

    def __hash__(self) -> int:
        return hash((self.receiver, self.rule, self.says))  # once a call, so that it has to be quick

    def as_json(self) -> dict[str, Any]:
        """As commands print it with `--json`."""
        return {**self.__dict__, "effect": self.effect.value}

    @property
    def code(self) -> str:
        """The reason code of a row that is rejected for it."""
        return f"{self.receiver}_{self.rule}"


Subject = tuple[str, str | None]
"""What a call is: Segment's type of call, and the name of the event if it is a track call."""


class Judge(Protocol):
    """Whoever has something against calls."""

    def objections(self, subject: Subject, call: Mapping[str, Any], size: int) -> Sequence[Objection]:
        """What there is against a call, as it was parsed from JSON, of so many bytes."""


class ReceiverJudge:
    """The judge that speaks for receivers, with the customer's settings at each."""

    def __init__(self, settings: Mapping[str, Settings]) -> None:
        self._asked = [(receiver(name), own) for name, own in settings.items()]
        rules = (rule for about, _ in self._asked for rule in about.rules.values())
        named = (name for rule in rules for check in rule.checks for name in check.on)
        self._named = known_events().union(named)
        self._nearly: dict[str, bool] = {}
        self._compiled: dict[Subject, _Compiled] = {}

    def objections(self, subject: Subject, call: Mapping[str, Any], size: int) -> Sequence[Objection]:
        """What the receivers have against a call."""
        compiled = self._compiled.get(subject)
        if compiled is None:
            alike = self._alike(subject)
            compiled = self._compiled.get(alike) or _Compiled(list(self._charges(alike)))
            self._compiled[alike] = compiled
        return compiled.objections(call, size)

    def _alike(self, subject: Subject) -> Subject:
        """What stands for all calls of which the same is asked: most events are unknown to all receivers."""
        kind, event = subject
        if event is None or event in self._named:
            return subject
        if event not in self._nearly and len(self._nearly) < MOST_NAMES:
            self._nearly[event] = any(near_name(event, about.name) for about, _ in self._asked)
        return subject if self._nearly.get(event) else (kind, OTHER)

    def _charges(self, subject: Subject) -> Iterator["Charge"]:
        for about, settings in self._asked:
            for charge in charges(about, settings, subject):
                if charge.objection.effect is not Effect.NOTE and not charge.of_file:
                    yield charge


@dataclass(frozen=True)
class Charge:
    """A check of a receiver, as it applies to one kind of call.

    Attributes:
        objection: what there is against a call that fails it.
        where: the places in the call that it looks at, with `*` for each member of a list.
        schema: JSON Schema of the calls that pass; None where none does, or where it is about a size.
        most_bytes: how large the value there may be, as JSON; 0 is no matter how large.
        needed: whether one of the places must have a value.
        of_file: whether it is about what a sync's file says, not about calls.
    """

    objection: Objection
    where: tuple[tuple[str, ...], ...] = ()
    schema: dict[str, Any] | None = None
    most_bytes: int = 0
    needed: bool = False
    of_file: bool = False


class _Compiled:
    """The charges that apply to one kind of call, compiled: all in one, each rule's, and each."""

    def __init__(self, charges: Sequence[Charge]) -> None:
        self._always = [one.objection for one in charges if one.schema is None and not one.most_bytes]
        self._sized = [one for one in charges if one.most_bytes]
        checked = [one for one in charges if one.schema is not None]
        self._pass_all = _passes(checked)
        by_rule = (list(its) for _, its in groupby(checked, key=lambda one: one.objection.code))
        self._rules = [(_passes(its), [(one.objection, _passes([one])) for one in its]) for its in by_rule]

    def objections(self, call: Mapping[str, Any], size: int) -> Sequence[Objection]:
        found = [one.objection for one in self._sized if size > one.most_bytes and not _fits(one, call)]
        if not self._pass_all(call):
            for passes_rule, each in self._rules:
                if not passes_rule(call):
                    found += [objection for objection, passes in each if not passes(call)]
        return [*self._always, *found] if self._always else found


def _passes(charges: Sequence[Charge]) -> Callable[[Mapping[str, Any]], bool]:
    """Whether a call passes all of some charges, as one schema."""
    return jsonschema_rs.validator_for(merged([one.schema or {} for one in charges])).is_valid


def _fits(charge: Charge, call: Mapping[str, Any]) -> bool:
    """Whether what is at a place has no more bytes than it may, as JSON."""
    values = (value_at(call, where) for where in charge.where)
    return all(len(to_json(one)) <= charge.most_bytes for one in values if one is not MISSING)


def charges(about: Receiver, settings: Settings, subject: Subject) -> Iterator[Charge]:
    """What a receiver may have against such calls.

    Args:
        about: the receiver.
        settings: what the customer set there, and which rules are not to be looked at.
        subject: the calls; a track call without an event is any.
    """
    for charge in _charges(about, settings, subject):
        if charge.objection.rule not in settings.ignore:
            yield charge


def _charges(about: Receiver, settings: Settings, subject: Subject) -> Iterator[Charge]:
    kind, event = subject

    def against(rule: str, effect: Effect, says: str, do: str) -> Charge:
        return Charge(Objection(about.name, rule, effect, says, do))

    if kind not in about.calls.read:
        yield against(
            about.calls.rule,
            Effect.IGNORED,
            f"{kind} calls are not read",
            f"nothing, if {about.title} can do without; else send {' or '.join(about.calls.read)} calls",
        )
        return
    if kind == "track" and event is not None and event not in about.events:
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
            if _applies(check, about, settings, subject):
                yield from _as_charged(about, settings, rule, check)


def _applies(check: Check, about: Receiver, settings: Settings, subject: Subject) -> bool:
    """Whether a check is for such calls."""
    kind, event = subject
    names = {kind} if event is None or event in {*TYPES, OTHER} else {kind, event}
    if event is not None and event not in about.events:
        names.add(OTHER)
    is_set = (check.unless and settings.flag(check.unless)) or (check.unset and settings.flag(check.unset))
    return not check.names and not is_set and not names.isdisjoint(check.on)


def _as_charged(about: Receiver, settings: Settings, rule: str, check: Check) -> Iterator[Charge]:
    """A check with its places; where its sentence names the place, one for each."""
    where = tuple(place for path in check.at for _, place in places(path, settings))
    if check.at and not where:
        return
    for some in [(place,) for place in where] if "{it}" in check.says else [where]:
        says = check.says.replace("{it}", _called(some[0])) if some else check.says
        objection = Objection(about.name, rule, check.effect, says, check.do)
        schema = _schema(check, some, about.blank) if some and not check.most_bytes else None
        yield Charge(objection, some, schema, check.most_bytes, check.needed, of_file=bool(check.unset))


def _called(place: Sequence[str]) -> str:
    """A place by its name in the call's traits or properties; of a member of a list by its own name."""
    return place[-1] if "*" in place else ".".join(place[1:] or place)


TYPES = ("identify", "track", "page", "screen", "group", "alias")
OTHER = "other"
"""What checks call events that a receiver has not in its table."""


@cache
def known_events() -> frozenset[str]:
    """The events of all receivers' tables."""
    return frozenset(event for name in known_receivers() for event in receiver(name).events)


@lru_cache(maxsize=5_000)
def near_name(event: str, name: str) -> str | None:
    """The event of a receiver that a name means in another spelling: capitals, signs, order, endings."""
    spelled = {" ".join(_words(known)): known for known in reversed(receiver(name).events)}
    words = " ".join(_words(event))
    if event in receiver(name).events or words in spelled:
        return None if event in receiver(name).events else spelled[words]
    close = difflib.get_close_matches(words, spelled, n=1, cutoff=CLOSE)
    return spelled[close[0]] if close and event not in known_events() else None


MOST_NAMES = 100
"""Of so many names that no receiver knows it is found out whether they nearly are one: it takes a while."""

CLOSE = 0.9
"""How alike names are that are taken for one: `Order Complete` and `Order Completed`."""


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
    # Of each place it is only asked where those before it have nothing.
    schema = each[-1]
    for place, one in zip(reversed(where[:-1]), reversed(each[:-1]), strict=True):
        schema = {"if": _at(place, {"not": {"type": "null"}}, needed=True), "then": one, "else": schema}
    return schema


def _at(place: Sequence[str], value: dict[str, Any], needed: bool) -> dict[str, Any]:
    """The schema of an object in which a value stands at a place.

    What is needed of the members of a list is so where there is a list; an object counts as a list of itself.
    """
    if not place:
        return value
    key, inner = place[0], _at(place[1:], value, needed)
    if key == "*":
        return {"items": inner, "if": {"type": "object"}, "then": inner}
    schema: dict[str, Any] = {"properties": {key: inner}}
    return {"type": "object", "required": [key], **schema} if needed and "*" not in place else schema


def merged(schemas: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """One schema of several, which goes to each place of a call once."""
    properties: dict[str, list[dict[str, Any]]] = {}
    members: list[dict[str, Any]] = []
    required: dict[str, None] = {}
    others: list[dict[str, Any]] = []
    pending = list(schemas)
    while pending:
        schema = pending.pop(0)
        if schema.keys() == {"allOf"}:
            pending[:0] = schema["allOf"]
        elif schema.keys() == {"items", "if", "then"}:
            members.append(schema["items"])
        elif "properties" in schema and schema.keys() <= {"type", "required", "properties"}:
            required.update(dict.fromkeys(schema.get("required", ())))
            for key, inner in schema["properties"].items():
                properties.setdefault(key, []).append(inner)
        elif schema:
            others.append(schema)
    if members:
        inner = merged(members)
        others.append({"items": inner, "if": {"type": "object"}, "then": inner})
    whole: dict[str, Any] = {"type": "object", "required": list(required)} if required else {}
    if properties:
        whole["properties"] = {key: merged(inner) for key, inner in properties.items()}
    return {**whole, **({"allOf": others} if others else {})}
