"""The answers that a receiver gives to requests, by its data file: for a server that stands in for it."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from typing import Annotated, Any, NamedTuple

import jsonschema_rs
from pydantic import BeforeValidator, Field
from pydantic_core import to_json

from retl.forms.form import Frozen
from retl.receivers.request_shape import in_a_list

Names = Annotated[tuple[str, ...], BeforeValidator(in_a_list)]


class StandInAnswer(NamedTuple):
    """An answer over HTTP.

    Attributes:
        status: of HTTP.
        body: its JSON; None where it has none.
    """

    status: int
    body: Any


class AnswerShape(Frozen):
    """An answer of the receiver.

    In its body `<taken>` and `<failed>` stand for how many records there are of these, and are left out where
    there is none; `<errors>` for the sentences of what is wrong by their keys, `<sentences>` for them alone.
    """

    status: int
    body: Any = None


class BodyCheck(Frozen):
    """A check of one part of a request's body.

    `{0}` and `{1}` in its texts stand for the places of the members that a `*` found, `{value}` for what is
    there, `{type}` for its type, `{name}` for what is lacking.
    """

    at: str = Field(description="Place, with `*` for each member of a list. What is missing passes.")
    when: dict[str, Any] = Field(default={}, description="JSON Schema of the values that it is for.")
    is_: dict[str, Any] = Field(default={}, validation_alias="is", description="JSON Schema.")
    needs: Names = Field(default=(), description="Dotted names that the value must have.")
    key: str = Field(default="", description="Key of the sentence in `<errors>`.")
    says: str


class StandInRoute(Frozen):
    """An address of the receiver, and its answers."""

    path: str
    headers: dict[str, str] = Field(default={}, description="Patterns of headers that a request must have.")
    token: str | None = Field(default=None, description="The header that holds the key.")
    refused: AnswerShape = Field(description="Where a header is missing, or the key is wrong.")
    form: dict[str, Any] = Field(default={}, description="JSON Schema of the body.")
    malformed: AnswerShape = Field(description="Where the body is another.")
    records: str | None = Field(default=None, description="Name of the list of records; None: there is one.")
    checks: tuple[BodyCheck, ...] = ()
    taken: AnswerShape
    faulty: AnswerShape | None = Field(default=None, description="Where a check fails.")
    too_many: AnswerShape = AnswerShape(status=429)

    def answer(self, headers: Mapping[str, str], body: Any, key: str | None = None) -> StandInAnswer:
        """The answer to a request.

        Args:
            headers: by name in lower case.
            body: its JSON; None where it is none.
            key: the one that the receiver knows; None: each is known.
        """
        if not self._is_let_in(headers, key):
            return StandInAnswer(self.refused.status, self.refused.body)
        return self.answer_to(body)

    def answer_to(self, body: Any) -> StandInAnswer:
        """The answer to a request with the right headers and that body, as JSON; None where it is none."""
        if body is None or not _passes(self.form)(body):
            return StandInAnswer(self.malformed.status, _filled(self.malformed.body, 0, 0, ()))
        faults = [fault for check in self.checks for fault in _faults(check, body)]
        records = len(body[self.records]) if self.records else 1
        failed = len({fault.record for fault in faults})
        shape = self.faulty if faults and self.faulty else self.taken
        return StandInAnswer(shape.status, _filled(shape.body, records - failed, failed, faults))

    def _is_let_in(self, headers: Mapping[str, str], key: str | None) -> bool:
        values = {name: headers.get(name.lower(), "") for name in self.headers}
        if not all(re.search(pattern, values[name]) for name, pattern in self.headers.items()):
            return False
        return key is None or self.token is None or values[self.token].removeprefix("Bearer ") == key


class _Fault(NamedTuple):
    record: int
    key: str
    says: str


def _faults(check: BodyCheck, body: Any) -> Iterator[_Fault]:
    for places, value in _found(body, check.at.split(".")):
        if not _passes(check.when)(value):
            continue
        lacking = [name for name in check.needs if not any(_found(value, name.split(".")))]
        if not check.needs and not _passes(check.is_)(value):
            lacking = [""]
        for name in lacking:
            told = {"value": value, "type": _type(value), "name": name.rpartition(".")[2]}
            key, says = (text.format(*places, **told) for text in (check.key, check.says))
            yield _Fault(places[0] if places else 0, key, says)


def _passes(schema: dict[str, Any]) -> Callable[[Any], bool]:
    """Whether a value is as a schema of a data file has it."""
    return _compiled(to_json(schema))


@cache
def _compiled(schema: bytes) -> Callable[[Any], bool]:
    return jsonschema_rs.validator_for(schema.decode()).is_valid


def _found(value: Any, where: Sequence[str]) -> Iterator[tuple[tuple[int, ...], Any]]:
    """The values at a place, each with the places of the members that lead there."""
    if not where:
        yield (), value
    elif where[0] == "*":
        for place, member in enumerate(value if isinstance(value, list) else ()):
            for places, inner in _found(member, where[1:]):
                yield (place, *places), inner
    elif isinstance(value, dict) and where[0] in value:
        yield from _found(value[where[0]], where[1:])


def _type(value: Any) -> str:
    """A value's type as JSON Schema names it."""
    names = {dict: "object", list: "array", str: "string", bool: "boolean", int: "integer", float: "number"}
    return names.get(type(value), "null")


def _filled(shape: Any, taken: int, failed: int, faults: Sequence[_Fault]) -> Any:
    if isinstance(shape, dict):
        filled = {name: _filled(inner, taken, failed, faults) for name, inner in shape.items()}
        return {name: value for name, value in filled.items() if value != 0 or value is False}
    if shape == "<errors>":
        keys = dict.fromkeys(fault.key for fault in faults)
        return {key: [fault.says for fault in faults if fault.key == key] for key in keys}
    stands_for = {"<taken>": taken, "<failed>": failed, "<sentences>": [fault.says for fault in faults]}
    return stands_for.get(shape, shape) if isinstance(shape, str) else shape
