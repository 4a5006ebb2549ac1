"""The requests that reach a receiver for a call, or why there is none, by its data file."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from retl.receivers.checker import is_switched_off
from retl.receivers.compiled_check import Violation
from retl.receivers.data_file import Effect, Receiver
from retl.receivers.request_shape import RequestShape
from retl.receivers.settings import Settings
from retl.receivers.stand_in import StandInAnswer
from retl.receivers.translate import MISSING, Arrival, over, translate, value_at

NOTHING = Arrival({}, ())
"""The arrival of a call that a receiver does not read."""


@dataclass(frozen=True)
class ReceiverRequest:
    """An HTTP request that reaches a receiver.

    Attributes:
        by: who sends it.
        to: whom it reaches.
        method: of HTTP.
        url: its address; what only the customer knows is in `<…>`, here and in the headers.
        headers: by name.
        body: its JSON.
        note: what is not documented of it; None where all is.
        answer: that the receiver gives to it, by its documents; None where these do not say.
    """

    by: str
    to: str
    method: str
    url: str
    headers: Mapping[str, str]
    body: Any
    note: str | None
    answer: StandInAnswer | None = None

    def as_json(self) -> dict[str, Any]:
        """As listings have it."""
        return {**self.__dict__, "answer": self.answer._asdict() if self.answer else None}


@dataclass(frozen=True)
class Rehearsed:
    """The outcome of a call at a receiver.

    Attributes:
        receiver: its name.
        requests: in the order in which they are sent.
        arrival: the user and the events that the receiver makes of the call.
        violations: the rules that the call breaks.
        why_nothing: why nothing of the call arrives, in a sentence; None where something does.
    """

    receiver: str
    requests: Sequence[ReceiverRequest]
    arrival: Arrival
    violations: Sequence[Violation]
    why_nothing: str | None = None

    @property
    def is_refused(self) -> bool:
        """Whether the receiver, or Segment's destination, turns the call down."""
        return any(one.effect is Effect.REFUSED for one in self.violations)

    def as_json(self) -> dict[str, Any]:
        """As listings have it."""
        return {
            "requests": [one.as_json() for one in self.requests],
            "user": self.arrival.user,
            "events": list(self.arrival.events),
            "why_nothing": self.why_nothing,
            "refused": self.is_refused,
            "violations": [one.as_json() for one in self.violations],
        }


def requests_of(
    about: Receiver, settings: Settings, call: Mapping[str, Any], violations: Sequence[Violation]
) -> Rehearsed:
    """The requests that reach a receiver for a call, with what it makes of them.

    Args:
        about: the receiver.
        settings: what the customer set there.
        call: a Segment call, as it was parsed from JSON.
        violations: the rules of the receiver that the call breaks, as `ReceiverChecker` finds them.
    """
    if is_switched_off(about, call.get("integrations") or {}):
        return Rehearsed(about.name, (), NOTHING, (), "the call's `integrations` switch it off")
    unread = _why_unread(about, call)
    stopped = next((one.says for one in violations if one.stops), None)
    arrival = NOTHING if unread or stopped else translate(about, settings, call)
    requests = () if stopped else tuple(_requests(about, arrival, call, is_read=unread is None))
    why = f"Segment's destination refuses the call: {stopped}" if stopped and not unread else unread
    return Rehearsed(about.name, requests, arrival, violations, why)


def _why_unread(about: Receiver, call: Mapping[str, Any]) -> str | None:
    """Why a call means nothing to a receiver; None where it means something."""
    type_, event = call.get("type"), call.get("event")
    if type_ not in about.calls.read:
        return f"{type_} calls are not read"
    if type_ == "track" and (not isinstance(event, str) or about.becomes(event) is None):
        return "there is no place for this event"
    return None


def _requests(
    about: Receiver, arrival: Arrival, call: Mapping[str, Any], is_read: bool
) -> Iterator[ReceiverRequest]:
    for shape in about.requests:
        if call.get("type") in shape.of and (is_read or shape.of_unread):
            body = _filled(shape.body, arrival, call)
            yield ReceiverRequest(
                shape.by,
                shape.to,
                shape.method,
                shape.url,
                shape.headers,
                body,
                shape.note,
                _answer(about, shape, body),
            )


def _answer(about: Receiver, shape: RequestShape, body: Any) -> StandInAnswer | None:
    """The receiver's answer, where its documents have more than a bare status for the address."""
    for route in about.stand_in:
        if route.checks and shape.url.endswith(route.path):
            return route.answer_to(body)
    return None


_ARRIVES = re.compile(r"<user((?:\.\w+)*)>")


def _filled(shape: Any, arrival: Arrival, call: Mapping[str, Any]) -> Any:
    """The part of a body that a part of its shape stands for; MISSING where nothing arrives for it."""
    if isinstance(shape, dict):
        return _filled_mapping(shape, arrival, call)
    if isinstance(shape, list):
        return [one for member in shape for one in _members(member, arrival, call)]
    if shape == "<call>":
        return call
    arrives = _ARRIVES.fullmatch(shape) if isinstance(shape, str) else None
    return _arrived(arrives, arrival) if arrives else shape


def _filled_mapping(shape: Mapping[str, Any], arrival: Arrival, call: Mapping[str, Any]) -> dict[str, Any]:
    filled: dict[str, Any] = {}
    for key, inner in shape.items():
        value = _filled(inner, arrival, call)
        arrives = _ARRIVES.fullmatch(key)
        if arrives:
            found = _arrived(arrives, arrival)
            filled |= value if found is MISSING else over(value, found)
        elif value is not MISSING:
            filled[key] = value
    return filled


def _members(member: Any, arrival: Arrival, call: Mapping[str, Any]) -> Iterator[Any]:
    """The members of a list that one of its shape stands for."""
    if member == "<event>":
        yield from arrival.events
    elif isinstance(member, dict) and "<event>" in member:
        for event in arrival.events:
            yield over(member["<event>"], dict(event))
    else:
        yield _filled(member, arrival, call)


def _arrived(place: re.Match[str], arrival: Arrival) -> Any:
    return value_at(arrival.user, [part for part in place[1].split(".") if part])
