"""Checking a sync file by the rules of its receivers, before any row is read.

An **outline** is what all calls of one template have in common: type, event, and the places that have a
value. Rules of receivers are checked on outlines as they are on calls.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from retl.calls.template import Template, templates
from retl.config.fields import EVERY
from retl.config.sync import Sync
from retl.forms.dotted import path
from retl.forms.form import nearest
from retl.nearest import nearest_name
from retl.receivers.checker import is_switched_off
from retl.receivers.compiled_check import CallKind, CompiledCheck, Violation, compiled_checks
from retl.receivers.data_file import Effect, Receiver, places, receiver
from retl.receivers.settings import Setting, Settings

Place = tuple[str, ...]
"""The keys that lead to a place in a call."""


@dataclass(frozen=True)
class Outline:
    """The common part of all calls of a template.

    Attributes:
        type: Segment's type of call.
        event: name of the event; None where there is none, or each row has its own.
        names_itself: whether each row has its own name of the event.
        places: what has a value: all of them in the mapping.
        open: whether columns are sent that only the model tells (`all`).
    """

    type: str
    event: str | None
    names_itself: bool
    places: frozenset[Place]
    open: bool

    @property
    def name(self) -> str:
        """How such a call is told of."""
        return self.event or ("events of a column" if self.names_itself else self.type)

    def has(self, place: Place) -> bool:
        """Whether a call may have a value at a place; `*` stands for each member of a list."""
        return (self.open and place[0] == self.body) or _is_among(place, self.places)

    @property
    def body(self) -> str:
        """Where such a call has what it says: `properties` or `traits`."""
        return body_of(self.type)


def body_of(kind: str) -> str:
    """Where a type of call has what it says."""
    return "properties" if kind == "track" else "traits"


def outlines(sync: Sync) -> list[Outline]:
    """The outlines of a sync's calls, each once."""
    return list(dict.fromkeys(_outline(sync, template) for template in templates(sync)))


def _outline(sync: Sync, template: Template) -> Outline:
    block = sync.block
    ids = {"userId": block.user_id, "anonymousId": block.anonymous_id}
    places: set[Place] = {(name,) for name, column in ids.items() if column}
    places |= {("timestamp",), ("messageId",)} | ({("event",)} if template.type == "track" else set())
    places |= {(body_of(template.type), *path(name)) for name in template.fields if name != EVERY}
    places |= {("context", *path(name)) for name in block.context}
    event = template.event
    return Outline(
        type=template.type,
        event=event.name if event else None,
        names_itself=bool(event and event.column),
        places=frozenset(places),
        open=EVERY in template.fields,
    )


@dataclass(frozen=True)
class Finding:
    """A violation by calls of a sync.

    Attributes:
        violation: what it is.
        call: the event of the calls, or their type.
        rows: how many rows have such a call, of the kind of change with the most; None where the file tells.
        example: the key of one of them.
    """

    violation: Violation
    call: str
    rows: int | None = None
    example: str | None = None

    def as_json(self) -> dict[str, Any]:
        """As `retl check --json` prints it."""
        told = {"call": self.call, "rows": self.rows, "example": self.example}
        return {**self.violation.as_json(), **told}


def check_file(sync: Sync, settings: Mapping[str, Settings]) -> list[Finding]:
    """The rules of receivers that a sync's calls break, as far as its file shows.

    Args:
        sync: the sync.
        settings: the customer's settings of each receiver, by its name.
    """
    found: dict[Finding, None] = {}
    for name, own in settings.items():
        for outline in outlines(sync):
            for violation in _violations(sync, receiver(name), own, outline):
                if violation.rule not in own.ignore:
                    found[Finding(violation, outline.name)] = None
    return list(found)


def receivers_reached(sync: Sync, settings: Mapping[str, Settings]) -> dict[str, Settings]:
    """The receivers that a sync's calls go to: those that its `integrations` do not switch off."""
    return {
        name: own
        for name, own in settings.items()
        if not is_switched_off(receiver(name), sync.block.integrations)
    }


def _violations(sync: Sync, about: Receiver, settings: Settings, outline: Outline) -> Iterator[Violation]:
    yield from _switched_off(sync, about)
    if is_switched_off(about, sync.block.integrations):
        return
    unread = list(_not_read(about, settings, outline))
    shown = {violation.rule for violation in unread}
    for check in compiled_checks(about, settings, CallKind(outline.type, outline.event)):
        if _is_certain(check, outline) and not (check.of_file and check.violation.rule in shown):
            yield check.violation
    if outline.type in about.calls.read and (outline.event is None or about.becomes(outline.event)):
        yield from _to_set_up(about, outline)
        yield from _badly_named(about, outline)
        yield from unread
        yield from _not_sent(sync, about, outline)


def _is_certain(check: CompiledCheck, outline: Outline) -> bool:
    """True where all such calls will fail a check; a file does not show the members of a list."""
    if not check.where:
        return True
    lacks = not any(map(outline.has, check.where)) and not any("*" in place for place in check.where)
    return (check.needed and lacks) or (check.violation.effect is Effect.NOTE and not lacks)


def _switched_off(sync: Sync, about: Receiver) -> Iterator[Violation]:
    """Where the calls' `integrations` keep them from the receiver, or name it wrongly."""
    if about.integration is None:
        return
    name, rule = about.integration.name, about.integration.rule
    if is_switched_off(about, sync.block.integrations):
        do = f"nothing, or write `{name}: true`" if name else "nothing, or name the webhook there as well"
        yield Violation(about.name, rule, Effect.IGNORED, "`integrations` keeps the calls from it", do)
    for key in sync.block.integrations if name else ():
        is_near = name and nearest_name(key, [name], 0.8) is not None
        is_meant = is_near or key.casefold() == about.title.casefold()
        if key != name and is_meant:
            says = f"`{key}` in `integrations` is not its name"
            yield Violation(about.name, rule, Effect.IGNORED, says, f"write `{name}`")


def _to_set_up(about: Receiver, outline: Outline) -> Iterator[Violation]:
    """The mapping that the customer must add at the destination before such calls arrive."""
    becomes, other = about.becomes(outline.event or ""), about.other_events
    if outline.type != "track" or not (becomes and becomes.setup and about.setup_rule):
        return
    do = f'add "{becomes.setup}" there'
    if outline.names_itself:
        do = f'add the mapping of each event there, or "{becomes.setup}" for those of your own'
    elif other and becomes is not other:
        do += f'; if "{other.setup}" is on too, narrow its trigger, or the event arrives twice'
    says = "works once its mapping is added to the destination"
    yield Violation(about.name, about.setup_rule, Effect.NOTE, says, do)


def _badly_named(about: Receiver, outline: Outline) -> Iterator[Violation]:
    """Where the file has names that a check advises against."""
    for rule, about_rule in about.rules.items():
        for check in about_rule.checks:
            if not check.names or outline.type not in check.on:
                continue
            pattern = str((check.is_ or {}).get("pattern", ""))
            names = sorted(
                {place[1] for place in outline.places if place[0] == check.names and len(place) > 1}
            )
            bad = [f"`{name}`" for name in names if not re.search(pattern, name)]
            if bad:
                says = f"{check.says}: {', '.join(bad)}"
                yield Violation(about.name, rule, check.effect, says, check.do)


def _not_read(about: Receiver, settings: Settings, outline: Outline) -> Iterator[Violation]:
    """Traits and properties that have no place at the receiver, or none until the customer gives them one."""
    if outline.names_itself:
        return
    read = list(_read(about, settings, outline))
    mine = (place for place in outline.places if place[0] == outline.body)
    lost = sorted(".".join(place[1:]) for place in mine if not _is_among(place, read))
    for name in list(lost) if outline.type != "track" else ():
        meant = _meant_for(about, name)
        if meant is not None:
            lost.remove(name)
            yield _not_set(about, name, *meant)
    rule = about.unread.get(outline.type)
    if rule is None:
        return
    known = {_plain(place[-1]): ".".join(place[1:]) for place in read if place[0] == outline.body}
    known |= about.instead if outline.type != "track" else {}
    for name in [one for one in lost if _plain(one) in known]:
        lost.remove(name)
        says, do = f"`{name}` is not read", f"send it as `{known[_plain(name)]}`, or as both"
        yield Violation(about.name, rule, Effect.IGNORED, says, do)
    if lost:
        says = f"{outline.body} that are not read: {', '.join(f'`{name}`' for name in lost)}"
        setting = "parameters" if outline.type == "track" else "attributes"
        do = f"nothing, or map them there and name them here: receivers: {{{about.name}: {{{setting}: …}}}}"
        yield Violation(about.name, rule, Effect.IGNORED, says, do)


def _not_set(about: Receiver, name: str, key: str, setting: Setting) -> Violation:
    """The violation by a trait that the receiver reads only once the customer has mapped it."""
    example = f"{key}: {name}"
    if setting.kind == "traits":
        keys = sorted(setting.keys or (), key=len, reverse=True)
        near = (one for one in keys if _plain(one).removesuffix("optin") in _plain(name))
        example = f"{key}: {{{next(near, '…')}: {name}}}"
    return Violation(
        about.name,
        setting.rule or "",
        Effect.IGNORED,
        f"`{name}` is known there only once it is mapped",
        f"map it, and say so here: receivers: {{{about.name}: {{{example}}}}}",
    )


def _plain(name: str) -> str:
    """A name without capitals and signs."""
    return re.sub(r"[\W_]", "", name.lower())


def _not_sent(sync: Sync, about: Receiver, outline: Outline) -> Iterator[Violation]:
    """Traits that the sync's own settings of the receiver name, and that it does not send."""
    settings = sync.receivers.get(about.name)
    sent = sorted({".".join(place[1:]) for place in outline.places if place[0] == outline.body})
    if settings is None or outline.open:
        return
    for key, setting in about.settings.items():
        if setting.kind == "flag" or (key == "parameters") != (outline.type == "track"):
            continue
        for one, trait in settings.traits(key).items():
            location = (key, one) if setting.kind == "traits" else (key,)
            if trait not in sent and sync.writes("receivers", about.name, *location):
                says = f"`{'.'.join(location)}` names `{trait}`, which this sync does not send"
                near = nearest(trait, sent).removeprefix("; ").removesuffix("?")
                do = f"{near}?" if near.startswith("did") else "name one that it sends, or leave it out"
                yield Violation(about.name, setting.rule or "", Effect.IGNORED, says, do)


def _meant_for(about: Receiver, name: str) -> tuple[str, Setting] | None:
    """The setting for which a trait is likely meant, by its name."""
    for key, setting in about.settings.items():
        if setting.looks_like and setting.rule and re.search(setting.looks_like, name):
            return key, setting
    return None


def _read(about: Receiver, settings: Settings, outline: Outline) -> Iterator[Place]:
    """The places of such a call that the receiver reads one by one."""
    targets = dict(about.identify.user) if outline.type == "identify" and about.identify else {}
    if outline.type == "track":
        becomes = about.becomes(outline.event or "")
        targets = {**about.track.user, **about.track.event, **(becomes.event if becomes else {})}
        if becomes and becomes.each:
            yield tuple(becomes.each.split("."))
    for source in targets.values():
        for written in source.from_:
            yield from (place for _, place in places(written, settings) if len(place) > 1)


def _is_among(place: Place, others: Iterable[Place]) -> bool:
    """Whether a place is one of others, or in one, or holds one."""
    return any(all(a == b for a, b in zip(place, one, strict=False)) for one in others)
