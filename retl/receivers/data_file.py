"""A receiver: a system behind Segment that reads what retl sends, as its data file in `receivers/` has it.

A file says which calls the receiver reads, what becomes of each event, trait and property there, what the
customer may change of that, and its rules, with JSON Schema of what it refuses. `translate` translates a
call, `checker` checks calls by the rules, and `retl.checks.static_check` a sync file.
"""

import re
from enum import StrEnum
from functools import cache
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, model_validator
from ruamel.yaml import YAML

from retl.errors import ConfigError
from retl.forms.dotted import path as field_path
from retl.forms.form import Frozen, nearest, refusal
from retl.reason import Reason
from retl.receivers.request_shape import RequestShape, in_a_list
from retl.receivers.settings import Setting, Settings, known_receivers, text_of
from retl.receivers.stand_in import StandInRoute


class Effect(StrEnum):
    """The effect of breaking a rule."""

    REFUSED = "refused"  # the receiver turns down the call, or the user
    DOUBTFUL = "doubtful"  # against its documents; what it does then is not documented
    IGNORED = "ignored"  # the call goes through, and this of it is not read
    NOTE = "note"  # nothing is broken; to be known, or to be set up there

    @property
    def is_breach(self) -> bool:
        """Whether a call that has it should not be sent to the receiver."""
        return self in (Effect.REFUSED, Effect.DOUBTFUL)


Names = Annotated[tuple[str, ...], BeforeValidator(in_a_list)]
"""Names; one may be written without brackets."""


class FieldSource(Frozen):
    """Where a field of the receiver comes from; a bare text is one path, a list several."""

    from_: Names = Field(validation_alias="from", description="Paths in the call; the first that is there.")
    as_: Literal["text", "texts", "number", "boolean", "list", "locale", "locales"] | None = Field(
        default=None, validation_alias="as", description="What is made of the value."
    )
    without: Names = Field(default=(), description="Members of an object that are left out.")
    filled: bool = Field(
        default=False, description="Whether an empty text, where it is the first, is left out."
    )
    null: Any = Field(default=None, description="What null becomes; None: it is as nothing.")
    when: dict[str, Any] | None = Field(
        default=None, description="JSON Schema of the values that are read; others are ignored."
    )

    @model_validator(mode="before")
    @classmethod
    def _path_in_short(cls, written: object) -> object:
        return {"from": written} if isinstance(written, str | list) else written


Targets = dict[str, FieldSource]
"""Fields of the receiver, by dotted name; `<setting>` in it stands for each key of a setting."""


class Becomes(Frozen):
    """The receiver's event that a track call becomes."""

    becomes: str = Field(default="", description="Name of the receiver's own event.")
    setup: str | None = Field(default=None, description="Mapping that the customer adds first.")
    event: Targets = Field(default={}, description="Fields of each event, beside those of all events.")
    each: str | None = Field(default=None, description="Path of a list; each member becomes an event.")
    item: Targets = Field(default={}, description="Fields of an event from such a member.")


class Prefix(Frozen):
    """A text before the names of events, where a setting asks for it."""

    when: str
    text: str


class OtherEvents(Becomes):
    """The receiver's event for events that are not in the table."""

    named: Literal["kept", "snake_case"] = Field(description="What their names become.")
    prefix: Prefix | None = None


class IdentifyCalls(Frozen):
    """The receiver's user that an identify call becomes."""

    user: Targets


class TrackCalls(Frozen):
    """The fields that every track call brings to the receiver."""

    name_as: str = Field(description="Field that holds the name of an event.")
    keeps_empty: bool = Field(default=False, description="Whether an empty text is a value.")
    user: Targets = Field(default={}, description="Fields of the user, which come along.")
    event: Targets = Field(default={}, description="Fields of each event.")


class Reading(Frozen):
    """Which types of calls are read."""

    read: Names
    rule: str


class Integration(Frozen):
    """How the receiver is told in a call's `integrations`."""

    name: str | None = Field(default=None, description="None where it depends on the customer's webhook.")
    rule: str


class Connection(Frozen):
    """How Segment reaches the receiver, to be looked up; retl itself never does."""

    url: str
    settings: Names = ()
    headers: Names = ()
    errors: dict[str, str] = Field(default={}, description="What its answers mean.")


class Check(Frozen):
    """A check of one part of a call, and the advice where it fails; `{it}` stands for the name of the place.

    `at` names places in the call; `*` stands for each member of a list, `<setting>` for each trait that a
    setting names, `<setting.key>` for one of them. What is missing or blank there passes, unless it is
    `needed`. Without `at`, the check is for every such call.
    """

    on: Names = Field(description="Types of calls, names of events, or `other` for events not in the table.")
    effect: Effect = Effect.REFUSED
    stops: bool = Field(
        default=False,
        description="Whether Segment's destination refuses the call, so that no request leaves.",
    )
    says: str
    do: str
    at: Names = ()
    is_: dict[str, Any] | None = Field(default=None, validation_alias="is", description="JSON Schema.")
    needed: bool = Field(default=False, description="One of the places must have a value.")
    blank_too: bool = Field(default=False, description="Whether blank values are checked as well.")
    most_bytes: int = Field(default=0, description="Most bytes of the value as JSON; 0: any.")
    names: str | None = Field(default=None, description="Place whose names the sync's file is checked for.")
    first: bool = Field(default=False, description="Of several places only the first that is there counts.")
    unless: str | None = Field(default=None, description="Setting that makes it not apply.")
    unset: str | None = Field(
        default=None, description="Setting without which a sync's file is told of it; calls are not."
    )


class Rule(Frozen):
    """One rule of a receiver."""

    says: str
    checks: tuple[Check, ...] = ()


class Receiver(Frozen):
    """A receiver's data file."""

    name: str
    title: str
    reached_by: str = Field(description="How calls come from Segment to it.")
    documents: dict[str, str | None] = Field(description="Title to address, where it has one.")
    connection: Connection
    requests: tuple[RequestShape, ...] = Field(
        default=(), description="Requests that a call brings, in the order in which they are sent."
    )
    stand_in: tuple[StandInRoute, ...] = Field(
        default=(), description="Addresses that a server in its place has, and its answers."
    )
    integration: Integration | None = None
    calls: Reading
    unread: dict[str, str] = Field(
        default={}, description="Type of call to the rule by which fields that have no place are dropped."
    )
    blank: tuple[Any, ...] = Field(default=(None,), description="Values that count as missing.")
    settings: dict[str, Setting] = Field(default={}, description="What a sync may say of it.")
    instead: dict[str, str] = Field(default={}, description="Trait that is not read to the one that is.")
    kinds: dict[str, Any] = Field(default={}, description="Schemas that checks share.")
    identify: IdentifyCalls | None = None
    track: TrackCalls
    events: dict[str, Becomes] = Field(default={}, description="By the name of the event.")
    other_events: OtherEvents | None = None
    no_other_events: str | None = Field(default=None, description="Rule by which other events are ignored.")
    near_names: str | None = Field(default=None, description="Rule about names that nearly match.")
    setup_rule: str | None = None
    rules: dict[str, Rule]

    @model_validator(mode="after")
    def _names_its_own_rules(self) -> Self:
        for rule in self.cited:
            if rule not in self.rules:
                raise refusal(f"there is no rule `{rule}`")
        return self

    @property
    def cited(self) -> dict[str, Effect]:
        """Rules that stand for what is found without a check, with what comes of breaking them."""
        rules = [self.calls.rule, self.no_other_events, self.near_names, *self.unread.values()]
        rules += [setting.rule for setting in self.settings.values()]
        rules += [self.integration.rule] if self.integration else []
        ignored = {rule: Effect.IGNORED for rule in rules if rule}
        return {**ignored, **({self.setup_rule: Effect.NOTE} if self.setup_rule else {})}

    def becomes(self, event: str) -> Becomes | None:
        """The receiver's event for a track call of that name; None where there is none."""
        return self.events.get(event) or self.other_events

    def named(self, event: str, settings: Settings) -> str:
        """The name under which an event arrives."""
        if event in self.events or self.other_events is None:
            return self.events[event].becomes if event in self.events else event
        if self.other_events.named == "snake_case":
            return "_".join(event.lower().strip().split(" "))
        prefix = self.other_events.prefix
        return prefix.text + event if prefix and settings.flag(prefix.when) else event


def chosen_receivers(written: str) -> list[str]:
    """The receivers that a command line names, such as `insider,miso`; `all` are all.

    Raises:
        ConfigError: there is no such receiver.
    """
    known = known_receivers()
    names = [name.strip() for name in written.split(",") if name.strip()]
    for name in names:
        if name not in [*known, "all"]:
            raise ConfigError(f"there is no receiver `{name}`{nearest(name, [*known, 'all'])}")
    return known if "all" in names else list(dict.fromkeys(names))


@cache
def receiver(name: str) -> Receiver:
    """A receiver by its name, which must be one of `known_receivers`."""
    return Receiver.model_validate(YAML(typ="safe", pure=True).load(text_of(name)))


def meaning(code: str) -> str:
    """The meaning of a reason code, of retl's own or of a receiver's rule, such as `insider_I6`."""
    own = [reason.meaning for reason in Reason if reason == code]
    if own:
        return own[0]
    name, _, rule = code.partition("_")
    if name not in known_receivers() or rule not in receiver(name).rules:
        return "a receiver's rule that this version does not have"
    checks = receiver(name).rules[rule].checks
    says = (re.sub("(the )?`{it}`", "a value", check.says) for check in checks if check.effect.is_breach)
    return f"{receiver(name).title}: {'; or '.join(dict.fromkeys(says))}"


def places(path: str, settings: Settings) -> list[tuple[str, tuple[str, ...]]]:
    """The places in a call that a path of a data file stands for, each with the setting's key.

    A path without a setting is one place, with the key "". A setting that is not there stands for none.

    Args:
        path: such as `properties.products.*.price`, `traits.<optins>` or `traits.<channels.email>`.
        settings: what the customer set.
    """
    before, bracket, rest = path.partition("<")
    keys = tuple(part for part in before.split(".") if part)
    if not bracket:
        return [("", keys)]
    setting, _, one = rest.removesuffix(">").partition(".")
    traits = settings.traits(setting)
    return [(key, (*keys, *field_path(trait))) for key, trait in traits.items() if one in ("", key)]
