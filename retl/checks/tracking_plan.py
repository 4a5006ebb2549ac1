"""A Segment tracking plan: JSON Schema for each event, by which Segment Protocols checks calls.

Two forms of file are read: the rules that Segment's Public API lists (`type`, `key`, `version`,
`jsonSchema`), and the plan of its older Config API (`rules`: `events`, `global`, `identify`, `group`).
"""

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import jsonschema_rs

from retl.checks.static_check import Finding, outlines
from retl.config.sync import Sync
from retl.errors import ConfigError
from retl.nearest import did_you_mean
from retl.receivers.compiled_check import CallKind, Violation
from retl.receivers.data_file import Effect
from retl.system import read_file, system_words

CHECKER = "tracking_plan"

EVERY_CALL = CallKind("common", None)
"""The kind of rules that are for all calls."""


class TrackingPlan:
    """The rules of a tracking plan.

    Args:
        rules: the validators of each kind of call by version, the oldest first.
    """

    def __init__(self, rules: Mapping[CallKind, Mapping[int, jsonschema_rs.Validator]]) -> None:
        self._rules = rules
        self._planned = [name for kind, name in rules if kind == "track" and name]
        self._unplanned = lru_cache(maxsize=1_000)(self._unplanned_violation)

    def violations(self, kind: CallKind, call: Mapping[str, Any], size: int) -> Sequence[Violation]:
        """The rules of the plan that a call breaks; a rule is named for its place in the call."""
        versions = self._rules.get(kind)
        if versions is None and kind.type == "track":
            return [self._unplanned(kind.event or "")]
        validators = list(self._rules.get(EVERY_CALL, {}).values())
        if versions:
            validators.append(versions.get(_version(call), next(iter(versions.values()))))
        failed = (validator for validator in validators if not validator.is_valid(call))
        return list(dict.fromkeys(_violation(error) for one in failed for error in one.iter_errors(call)))

    def check_file(self, sync: Sync) -> list[Finding]:
        """The events of a sync that the plan lacks, as far as its file shows."""
        return [
            Finding(self._unplanned(outline.event), outline.name)
            for outline in outlines(sync)
            if outline.event is not None and CallKind("track", outline.event) not in self._rules
        ]

    def _unplanned_violation(self, event: str) -> Violation:
        do = did_you_mean(event, self._planned) or "add it to the plan, or take a name that is in it"
        return Violation(CHECKER, "event", Effect.DOUBTFUL, "the plan has no such event", do)


def _version(call: Mapping[str, Any]) -> int:
    """The version that a call asks for, else -1: then the oldest counts (Segment Protocols, versioning)."""
    protocols = call.get("context", {}).get("protocols")
    version = protocols.get("event_version") if isinstance(protocols, dict) else None
    return version if isinstance(version, int) else -1


def _violation(error: jsonschema_rs.ValidationError) -> Violation:
    place = ".".join("*" if isinstance(key, int) else key for key in error.instance_path)
    kind, about, said = error.kind.name, error.kind.as_dict(), error.message
    says = f"`{place or 'the call'}` {said.removeprefix(MASK).lstrip()}"
    if kind == "required":
        place = f"{place}.{about['property']}".lstrip(".")
        says = f"`{place}` is missing"
    elif kind == "additionalProperties":
        names = ", ".join(f"`{name}`" for name in about["unexpected"])
        says = f"{names} in `{place}` is not in the plan"
    return Violation(
        CHECKER, place, Effect.DOUBTFUL, says, "fix the mapping or the model, or change the plan"
    )


LARGEST = 50_000_000
"""Bytes of a plan's file."""

MASK = "it"
"""The word in messages that replaces a value."""

TYPES = {"track", "identify", "group", "page", "screen", "alias", "common"}


def read_tracking_plan(path: Path) -> TrackingPlan:
    """Read a tracking plan's file.

    Raises:
        ConfigError: it cannot be read, is not a tracking plan or not a whole one, or a schema of it is none.
    """
    try:
        written = json.loads(read_file(path, LARGEST).decode("utf-8-sig"))
    except OSError as error:
        raise ConfigError(f"cannot be read: {system_words(error)}", where=str(path)) from error
    except UnicodeDecodeError as error:
        raise ConfigError("is not UTF-8 text", where=str(path)) from error
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"is not JSON ({error})", where=str(path)) from error
    rules: dict[CallKind, dict[int, jsonschema_rs.Validator]] = defaultdict(dict)
    for kind, version, schema in sorted(_rules(written, path), key=lambda rule: rule[1]):
        try:
            rules[kind][version] = _validator(schema)
        except ValueError as error:
            name, reason = kind.event or kind.type, str(error).splitlines()[0]
            raise ConfigError(
                f"the rule of `{name}` is not a JSON Schema ({reason})", where=str(path)
            ) from error
    if not rules:
        raise ConfigError("this tracking plan has no rules", where=str(path), hint=HINT)
    return TrackingPlan(dict(rules))


def _validator(schema: Any) -> jsonschema_rs.Validator:
    # Formats are checked, as Segment's type "Date time" is one; values are kept out of messages.
    jsonschema_rs.validator_for(schema, retriever=_refuse)  # whose own errors may show the schema
    return jsonschema_rs.validator_for(schema, mask=MASK, validate_formats=True, retriever=_refuse)


def _refuse(address: str) -> Any:
    raise ValueError(f"it refers to {address}, and nothing is fetched")


HINT = "save what the Public API lists as its rules, all pages together: GET /tracking-plans/ID/rules"


def _rules(written: Any, path: Path) -> Iterator[tuple[CallKind, int, Any]]:
    """Each rule of a file: kind of call, version, JSON Schema."""
    found = written.get("data", written) if isinstance(written, dict) else written
    rules = found.get("rules") if isinstance(found, dict) else found
    pages = found.get("pagination") if isinstance(found, dict) else None
    if isinstance(pages, dict) and pages.get("next"):
        raise ConfigError(
            "this is one page of a tracking plan, and others follow", where=str(path), hint=HINT
        )
    try:
        yield from map(_public, rules) if isinstance(rules, list) else _config(rules)
    except (AttributeError, KeyError, TypeError, ValueError, OverflowError) as error:
        raise ConfigError("this is not a tracking plan of Segment", where=str(path), hint=HINT) from error


def _public(rule: Mapping[str, Any]) -> tuple[CallKind, int, Any]:
    kind, key = rule["type"].lower(), rule.get("key") or None
    if kind not in TYPES or not isinstance(key, str | None):
        raise ValueError(kind)
    event = key if kind == "track" else None
    return CallKind(kind, event), int(rule.get("version") or 1), rule["jsonSchema"]


def _config(rules: Any) -> Iterator[tuple[CallKind, int, Any]]:
    for event in rules.get("events") or ():
        yield CallKind("track", str(event["name"])), int(event.get("version") or 1), event.get("rules") or {}
    for key, kind in (("global", "common"), ("identify", "identify"), ("group", "group")):
        if rules.get(key):
            yield CallKind(kind, None), 1, rules[key]
