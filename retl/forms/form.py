"""The common base of all mappings in a user's file.

They are frozen, refuse unknown keys, and say in a sentence what is wrong.
"""

import types
from collections.abc import Mapping
from typing import ClassVar, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import ErrorDetails, PydanticCustomError

from retl.errors import ConfigError
from retl.forms.yaml_file import Document, Location, cut
from retl.nearest import did_you_mean

MOST_OTHERS = 20
"""Errors that are shown after the first."""


class Frozen(BaseModel):
    """A mapping in a user's file: unchangeable, and without room for unknown keys."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", validate_by_name=True, validate_by_alias=True, hide_input_in_errors=True
    )

    later: ClassVar[frozenset[str]] = frozenset()
    """Keys that this version refuses and a later one may know."""


def refusal(sentence: str, *at: str) -> PydanticCustomError:
    """A rule of ours that was broken: the sentence to show, and the key below the model that broke it."""
    return PydanticCustomError("rule", "{sentence}", {"sentence": sentence, "at": at})


def explain(error: ValidationError, model: type[Frozen], document: Document) -> ConfigError:
    """All that pydantic found as one error, in the order of the file: others are lines below the first.

    What is missing comes last, since a key that is misspelled above may be it.
    """
    found = sorted(
        error.errors(), key=lambda details: (details["type"] == "missing", document.line(_location(details)))
    )
    (first, message), *others = ((_location(details), _sentence(details, model)) for details in found)
    shown = others[:MOST_OTHERS]
    lines = [message, *(f"also {document.where(location)}: {sentence}" for location, sentence in shown)]
    if len(others) > MOST_OTHERS:
        lines.append(f"and {len(others) - MOST_OTHERS:,} more")
    return ConfigError("\n".join(lines), where=document.where(first))


def keys(model: type[BaseModel]) -> dict[str, str]:
    """The keys a user may write in a mapping, and the name of the field each fills."""
    return {str(field.validation_alias or name): name for name, field in model.model_fields.items()}


def inner_model(annotation: object) -> type[Frozen] | None:
    """The mapping that a field holds: itself, or nothing, or many by name."""
    if isinstance(annotation, type) and issubclass(annotation, Frozen):
        return annotation
    if get_origin(annotation) in (Union, types.UnionType, dict, tuple):
        return next(filter(None, map(inner_model, get_args(annotation))), None)
    if hasattr(annotation, "__metadata__"):
        return inner_model(get_args(annotation)[0])
    return None


def nearest(name: str, known: list[str]) -> str:
    """A hint at the end of a sentence: the known name that looks like the given one, else all of them."""
    question = did_you_mean(name, known)
    if question:
        return f"; {question}"
    return "; known here: " + ", ".join(f"`{one}`" for one in known) if known else ""


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
    around: type[Frozen] = model
    for key in location[:-1]:
        # A key that is no field's is a name in a mapping of names to values, whose model is known already.
        name = keys(around).get(str(key))
        around = (inner_model(around.model_fields[name].annotation) if name else None) or around
    key = str(location[-1])
    if key in around.later:
        return f"`{key}` is not supported in this version"
    return f"unknown key `{cut(key)}`{nearest(key, list(keys(around)))}"
