"""Checking calls against the rules of their receivers, before they are sent.

The checks that apply to a kind of call, of all receivers together, are compiled to one JSON Schema: a call
that passes this schema passes all checks. Only a call that fails it is checked one rule at a time.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any, Protocol

import jsonschema_rs
from pydantic_core import to_json

from retl.receivers.compiled_check import (
    MOST_NAMES,
    OTHER,
    CallKind,
    CompiledCheck,
    Violation,
    compiled_checks,
    known_events,
    near_name,
)
from retl.receivers.data_file import Effect, Receiver, receiver
from retl.receivers.settings import Settings, known_receivers
from retl.receivers.translate import MISSING, value_at


class Checker(Protocol):
    """A set of rules for calls: those of receivers, or of a tracking plan."""

    def violations(self, kind: CallKind, call: Mapping[str, Any], size: int) -> Sequence[Violation]:
        """The rules that a call breaks.

        Args:
            kind: its type and event.
            call: the call, parsed from JSON.
            size: its size as JSON, in bytes.
        """


class ReceiverChecker:
    """The rules of several receivers, with the customer's settings at each."""

    def __init__(self, settings: Mapping[str, Settings]) -> None:
        self._asked = [(receiver(name), own) for name, own in settings.items()]
        rules = (rule for about, _ in self._asked for rule in about.rules.values())
        named = (name for rule in rules for check in rule.checks for name in check.on)
        self._named = known_events().union(named)
        self._nearly: dict[str, bool] = {}
        self._compiled: dict[CallKind, _CheckSet] = {}

    def violations(self, kind: CallKind, call: Mapping[str, Any], size: int) -> Sequence[Violation]:
        """The rules of the receivers that a call breaks; see `Checker`."""
        compiled = self._compiled.get(kind)
        if compiled is None:
            alike = self._alike(kind)
            compiled = self._compiled.get(alike) or _CheckSet(list(self._checks_of(alike)))
            self._compiled[alike] = compiled
        found, chosen = compiled.violations(call, size), call.get("integrations")
        if not found or not chosen:
            return found
        return [one for one in found if not is_switched_off(receiver(one.receiver), chosen)]

    def _alike(self, kind: CallKind) -> CallKind:
        """One kind for all calls with the same checks: most events are unknown to all receivers."""
        event = kind.event
        if event is None or event in self._named:
            return kind
        if event not in self._nearly and len(self._nearly) < MOST_NAMES:
            self._nearly[event] = any(near_name(event, about.name) for about, _ in self._asked)
        return kind if self._nearly.get(event) else CallKind(kind.type, OTHER)

    def _checks_of(self, kind: CallKind) -> Iterator[CompiledCheck]:
        for about, settings in self._asked:
            for check in compiled_checks(about, settings, kind):
                if check.violation.effect is not Effect.NOTE and not check.of_file:
                    yield check


def is_switched_off(about: Receiver, chosen: Mapping[str, Any]) -> bool:
    """Whether the `integrations` of a call, or of a sync, keep calls from a receiver."""
    if about.integration is None:
        return False
    name = about.integration.name
    if name is not None:
        return chosen.get(name, chosen.get("All", True)) is False
    # It is some webhook of the customer, which one is not known here.
    others = {one.integration.name for one in map(receiver, known_receivers()) if one.integration}
    return chosen.get("All") is False and not any(
        value is not False for key, value in chosen.items() if key != "All" and key not in others
    )


class _CheckSet:
    """The checks of one kind of call as schemas: one for all, one for each rule, one for each check."""

    def __init__(self, checks: Sequence[CompiledCheck]) -> None:
        self._always = [one.violation for one in checks if one.schema is None and not one.most_bytes]
        self._sized = [one for one in checks if one.most_bytes]
        checked = [one for one in checks if one.schema is not None]
        self._pass_all = _passes(checked)
        by_rule = (list(its) for _, its in groupby(checked, key=lambda one: one.violation.code))
        self._rules = [(_passes(its), [(one.violation, _passes([one])) for one in its]) for its in by_rule]

    def violations(self, call: Mapping[str, Any], size: int) -> Sequence[Violation]:
        found = [one.violation for one in self._sized if size > one.most_bytes and not _fits(one, call)]
        if not self._pass_all(call):
            for passes_rule, each in self._rules:
                if not passes_rule(call):
                    found += [violation for violation, passes in each if not passes(call)]
        return [*self._always, *found] if self._always else found


def _passes(checks: Sequence[CompiledCheck]) -> Callable[[Mapping[str, Any]], bool]:
    """Whether a call passes all of some checks, which become one schema."""
    return jsonschema_rs.validator_for(merged([one.schema or {} for one in checks])).is_valid


def _fits(check: CompiledCheck, call: Mapping[str, Any]) -> bool:
    """Whether what is at a place has no more bytes than it may, as JSON."""
    values = (value_at(call, where) for where in check.where)
    return all(len(to_json(one)) <= check.most_bytes for one in values if one is not MISSING)


def merged(schemas: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """One schema that stands for several, so that each place of a call is visited once."""
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
