"""The mistakes in a user's file: all of them, in the order of the file, each in a sentence.

Where a mapping lacks something or has something wrong, pydantic does not look at the rules for the mapping
as a whole. So what is wrong is mended in a copy, which is looked at again until nothing new is found.
"""

import re
from collections.abc import Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, TypeVar

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from retl.errors import ConfigError
from retl.forms.form import Frozen, inner_model, keys, nearest
from retl.forms.yaml_file import Document, Location, cut
from retl.nearest import nearest_name

F = TypeVar("F", bound=Frozen)

MOST_OTHERS = 20
"""Mistakes that are shown after the first."""

MOST_LOOKS = 8
"""How often a file is looked at."""

STAND_IN = "_"
"""A text in place of what is missing."""


@dataclass(frozen=True)
class Mistake:
    """Something that is wrong with a file.

    Attributes:
        order: the place among the others; what is missing comes last, as a key that is misspelled may be it.
        error: the sentence, its place, and perhaps what to do.
    """

    order: tuple[bool, int]
    error: ConfigError


def checked(model: type[F], data: Mapping[str, object], document: Document) -> F:
    """The mapping of a file as its model.

    Args:
        model: the model.
        data: the mapping, perhaps with defaults from elsewhere.
        document: the file.

    Raises:
        ConfigError: all that is wrong with the file: the first as the message, the others as lines below it.
    """
    try:
        made = model.model_validate(data, by_alias=True, by_name=False, context=document)
        if not document.faults:
            return made
    except ValidationError:
        pass  # all of its errors are found below
    found = [Mistake((False, fault.line), fault.error) for fault in document.faults]
    found += _mistakes(model, data, document)
    first, *others = (mistake.error for mistake in sorted(found, key=lambda one: one.order))
    lines = [first.message, *(f"also {error}" for error in others[:MOST_OTHERS])]
    if len(others) > MOST_OTHERS:
        lines.append(f"and {len(others) - MOST_OTHERS:,} more")
    hint = next((error.hint for error in (first, *others) if error.hint), None)
    raise ConfigError("\n".join(lines), where=first.where, hint=hint)


def _mistakes(model: type[Frozen], data: Mapping[str, object], document: Document) -> Iterator[Mistake]:
    copy = _Copy(data)
    for fault in document.faults:
        if fault.location is not None:
            copy.take_out(fault.location)
    seen: set[tuple[Location, str]] = set()
    for _ in range(MOST_LOOKS):
        try:
            model.model_validate(copy.data, by_alias=True, by_name=False, context=document)
        except ValidationError as error:
            found = {(_location(one), _sentence(one, model)): one for one in error.errors()}
        else:
            return
        new = {place: one for place, one in found.items() if place not in seen}
        if not new:
            return
        for (location, sentence), one in new.items():
            if not copy.explains(one["type"], location, sentence):
                is_missing = one["type"] == "missing" or "instead" in one.get("ctx", {})
                error_there = ConfigError(sentence, where=document.where(location))
                yield Mistake((is_missing, document.line(location)), error_there)
        seen.update(new)
        for one in new.values():
            copy.mend(one, model)


class _Copy:
    """A copy of a file's mapping, in which mistakes are mended.

    Attributes:
        data: the mapping.
        mended: the places where something was taken out or put in; what is wrong there is a consequence.
        names: keys that were taken out, and keys that they may have been meant for.
    """

    def __init__(self, data: Mapping[str, object]) -> None:
        self.data: dict[str, Any] = deepcopy(dict(data))
        self.mended: set[Location] = set()
        self.names: set[str] = set()

    def explains(self, kind: str, location: Location, sentence: str) -> bool:
        """Whether a mistake is a consequence of what was mended."""
        if any(location[: len(place)] == place for place in self.mended):
            return True
        return kind == "rule" and not self.names.isdisjoint(re.findall("`([^`]*)`", sentence))

    def mend(self, error: ErrorDetails, model: type[Frozen]) -> None:
        """Take out what is wrong, or put in what is missing."""
        location, ctx = _location(error), error.get("ctx", {})
        if error["type"] == "missing":
            self.put_in(location, STAND_IN)
        for key, value in ctx.get("instead", {}).items():
            self.put_in((*location, key), value)
        for key in ctx.get("besides", ()):
            self.take_out((*location[:-1], key))
        if location and error["type"] != "missing" and "instead" not in ctx:
            self.take_out(location)
            near = nearest_name(str(location[-1]), keys(model_at(location[:-1], model)))
            self.names.update({str(location[-1]), *([near] if near else [])})

    def put_in(self, location: Location, value: object) -> None:
        """Put something where nothing is."""
        around = self._around(location)
        if isinstance(around, dict) and location[-1] not in around:
            around[location[-1]] = value
            self.mended.add(location)

    def take_out(self, location: Location) -> None:
        """Take out a key, or the one around a place in a list; with it a mapping that it leaves empty."""
        while location:
            around = self._around(location)
            if isinstance(around, dict) and location[-1] in around:
                del around[location[-1]]
                self.mended.add(location)
                self.names.add(str(location[-1]))
                if around:
                    return
            location = location[:-1]

    def _around(self, location: Location) -> object:
        """The value around a place; None where there is none."""
        around: Any = self.data
        for key in location[:-1]:
            try:
                around = around[key]
            except (KeyError, IndexError, TypeError):
                return None
        return around


def _location(details: ErrorDetails) -> Location:
    return (*details["loc"], *details.get("ctx", {}).get("at", ()))


def _sentence(details: ErrorDetails, model: type[Frozen]) -> str:
    kind, written, limits = details["type"], details["input"], details.get("ctx", {})
    if kind == "rule":
        return str(limits["sentence"])
    if kind == "extra_forbidden":
        return _unknown_key(details["loc"], model)
    if kind == "missing":
        return f"`{details['loc'][-1]}` is missing"
    if written is None:
        return "has no value"
    if kind in ("literal_error", "enum"):
        return "must be " + str(limits["expected"]).replace("'", "`")
    if kind in _WANTED:
        return f"must be {_WANTED[kind]}, not {_kind(written)}"
    if kind in _SENTENCES:
        return _SENTENCES[kind].format(**limits)
    return details["msg"]


_WANTED: Mapping[str, str] = {
    "string_type": "text",
    "tuple_type": "a list",
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "model_attributes_type": "a mapping",
}

_SENTENCES: Mapping[str, str] = {
    "string_too_short": "must not be empty",
    "int_type": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_from_float": "must be a whole number",
    "int_parsing_size": "must be a whole number of fewer digits",
    "finite_number": "must be a whole number",
    "bool_type": "must be true or false",
    "bool_parsing": "must be true or false",
    "greater_than_equal": "must be {ge} or more",
    "less_than_equal": "must be {le} or less",
}


def _kind(written: object) -> str:
    """The kind of a value in words, without the value itself, which may be a secret."""
    if isinstance(written, bool):
        return "true or false (put it in quotes if text is meant)"
    if isinstance(written, int | float):
        return "a number (put it in quotes if text is meant)"
    return "text" if isinstance(written, str) else "a list" if isinstance(written, list) else "a mapping"


def _unknown_key(location: tuple[int | str, ...], model: type[Frozen]) -> str:
    around = model_at(location[:-1], model)
    key = str(location[-1])
    if key in around.later:
        return f"`{key}` is not supported in this version"
    return f"unknown key `{cut(key)}`{nearest(key, list(keys(around)))}"


def model_at(location: tuple[int | str, ...], model: type[Frozen]) -> type[Frozen]:
    """The model of the mapping at a place."""
    around: type[Frozen] = model
    for key in location:
        # A key that is no field's is a name in a mapping of names to values, whose model is known already.
        name = keys(around).get(str(key))
        around = (inner_model(around.model_fields[name].annotation) if name else None) or around
    return around
