"""The common base of all mappings in a user's file.

They are frozen, refuse unknown keys, and say in a sentence what is wrong.
"""

import types
from typing import ClassVar, Union, get_args, get_origin

from pydantic import BaseModel, ConfigDict
from pydantic_core import PydanticCustomError

from retl.nearest import did_you_mean


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


def lacking(sentence: str, **instead: object) -> PydanticCustomError:
    """The same of something that must be there, with an example of it."""
    return PydanticCustomError("rule", "{sentence}", {"sentence": sentence, "at": (), "instead": instead})


def conflicting(sentence: str, *keys: str) -> PydanticCustomError:
    """The same of keys that cannot stand beside what else is there; the first is the place to show."""
    return PydanticCustomError(
        "rule", "{sentence}", {"sentence": sentence, "at": keys[:1], "besides": keys[1:]}
    )


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
