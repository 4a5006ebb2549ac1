"""The JSON Schemas of the sync file and of retl.yml, for editors, from the models that check them.

They say what the program says of a file alone. Only the program knows the environment, from which variables
take their values; what retl.yml adds to a sync; and what two places have to do with each other, as names of
fields of which one would hold the other. `tests/test_json_schema.py` compares the two.
"""

import re
import types
from enum import StrEnum
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from pydantic import SecretStr, TypeAdapter

from retl.config import json_forms as forms
from retl.config.fields import (
    AllOrFields,
    Column,
    Columns,
    Connections,
    Count,
    Endpoint,
    Event,
    Fields,
    Flag,
    Ids,
    ModelName,
    Name,
    Options,
    SchemaName,
    TableName,
    Text,
    Timestamp,
    Value,
    Zone,
)
from retl.config.json_forms import Schema, given
from retl.config.kinds import Audience, Group, Identify, Track, TrackCall
from retl.config.settings import Age, Defaults, GuardLimit, Notify, OAuth, Receivers
from retl.config.sync import KINDS, Sync
from retl.forms.form import Frozen, keys
from retl.receivers.data_file import receiver
from retl.receivers.settings import Setting, known_receivers

_HEAD = {"$schema": "http://json-schema.org/draft-07/schema#"}
"""The draft that every editor knows."""

_FORMS: tuple[tuple[object, Schema], ...] = (
    (Column, forms.TEXT),
    (Text, forms.TEXT),
    (Columns, forms.COLUMNS),
    (AllOrFields, forms.ALL_OR_FIELDS),
    (Fields, forms.FIELDS),
    (Options, forms.OPTIONS),
    (Timestamp, forms.MOMENT),
    (GuardLimit, forms.LIMIT),
    (Age, forms.AGE),
    (Name, forms.NAME),
    (ModelName, forms.MODEL),
    (TableName, forms.TABLE),
    (SchemaName, forms.SCHEMA_NAME),
    (Endpoint, forms.ENDPOINT),
    (SecretStr, forms.SECRET),
    (Ids, forms.IDS),
    (Count, forms.COUNT),
    (Connections, forms.CONNECTIONS),
    (Flag, forms.FLAG),
    (object, {"$ref": "#/definitions/json"}),
)
"""The form of each kind of value."""

_AS_WRITTEN = {(Sync, "warehouse"), (Defaults, "warehouse")}
"""Texts whose variables are looked up when they are needed."""

_IDS: Schema = {"anyOf": [given("user_id"), given("anonymous_id")]}


def _except_with(fields_key: str) -> Schema:
    with_all: Schema = {"required": [fields_key], "properties": {fields_key: forms.ALL}}
    return {"anyOf": [forms.unless_given("except"), with_all]}


_RULES: dict[type[Frozen], list[Schema]] = {
    Sync: [
        forms.exactly_one(KINDS),
        forms.exactly_one(["model", "sql", "table"]),
        {"if": given("initial"), "then": {"anyOf": [given("track"), given("audience")]}},
    ],
    Track: [
        _IDS,
        _except_with("properties"),
        {"anyOf": [given("added"), given("changed"), given("removed")]},
        {"anyOf": [forms.unless_given("timestamp", "message_id"), given("added")]},
        {
            "properties": {
                kind: {"not": {"type": "object", **given("previous", forms.IS_TRUE)}}
                for kind in ("added", "removed")
            }
        },
        {
            "if": given("changed", {"type": "object", **given("previous", forms.IS_TRUE)}),
            "then": {
                "properties": {
                    "properties": forms.not_beginning_with("previous", "changed"),
                    "changed": {
                        "properties": {"properties": forms.not_beginning_with("previous", "changed")}
                    },
                }
            },
        },
    ],
    Audience: [
        _IDS,
        _except_with("properties"),
        {
            "if": given("style", {"const": "engage"}),
            "then": {
                "anyOf": [given("key"), given("name", {"pattern": r"[\p{L}\p{N}]"})],
                "properties": {"properties": forms.not_beginning_with("audience_key")},
            },
        },
        {
            "if": {"properties": {"style": {"const": "hightouch"}}},
            "then": {
                "properties": {"key": forms.NULL, "properties": forms.not_beginning_with("segment_name")},
            },
        },
    ],
    Identify: [_IDS, _except_with("traits")],
    Group: [_IDS, _except_with("traits")],
    OAuth: [forms.exactly_one(["private_key", "private_key_file"])],
    Notify: [forms.exactly_one(["webhook", "apprise"])],
    Event: [forms.exactly_one(["name", "column"])],
    Value: [forms.ONE_SOURCE],
}
"""The rules for a block as a whole."""

_SHORT = (TrackCall, Event)
"""Blocks that a text may stand for."""


def sync_schema() -> Schema:
    """The JSON Schema of a sync file, alone: without its name, and with what retl.yml may give left open."""
    schema = _block(Sync)
    schema["required"].remove("name")
    oauth = schema["properties"]["segment"]["properties"]["oauth"]["anyOf"][0]
    oauth["required"] = []  # retl.yml may have the rest
    oauth["allOf"] = [{"not": {"allOf": [given("private_key"), given("private_key_file")]}}]
    return _whole("retl sync", schema)


def project_schema() -> Schema:
    """The JSON Schema of retl.yml."""
    return _whole("retl.yml", _block(Defaults))


def _whole(title: str, schema: Schema) -> Schema:
    definitions = {**forms.DEFINITIONS, "source": _block(Value)}
    return {**_HEAD, "title": title, **schema, "definitions": definitions}


def _unlinked(description: str) -> str:
    """A description without its links, which lead from a page of the docs and not from an editor."""
    return re.sub(r"\[([^]]+)\]\([^)]+\)", r"\1", description)


def _block(model: type[Frozen]) -> Schema:
    """The schema of a mapping, by the fields of its model."""
    hints = get_type_hints(model, include_extras=True)
    fields = {key: model.model_fields[name] for key, name in keys(model).items()}
    properties = {}
    for key, name in keys(model).items():
        form = _value(model, name, hints[name])
        form = {"allOf": [form]} if "$ref" in form else form  # nothing counts beside a reference
        about = {"description": _unlinked(fields[key].description or ""), **_default(fields[key].default)}
        properties[key] = {**form, **about}
    block: Schema = {
        "description": (model.__doc__ or "").partition("\n")[0],
        "type": "object",
        "properties": properties,
        "required": [key for key, field in fields.items() if field.is_required()],
        "additionalProperties": False,
    }
    rules = _RULES.get(model, [])
    return {**block, "allOf": rules} if rules else block


def _default(default: object) -> Schema:
    """The default, where it is a plain value; editors show it."""
    if isinstance(default, SecretStr):
        return {"default": default.get_secret_value()}
    return {"default": default} if isinstance(default, str | int) else {}


def _value(model: type[Frozen], name: str, hint: Any) -> Schema:
    """The schema of a field."""
    if (model, name) in _AS_WRITTEN:
        form: Schema = {"type": "string", "minLength": 1}
        return form if model is Sync else forms.nullable(form)
    return _form(hint)


def _form(hint: Any) -> Schema:
    for known, schema in _FORMS:
        if hint is known:
            return schema
    if hint is Zone:
        return forms.zone()
    if hint is Receivers:
        return _receivers()
    if isinstance(hint, type) and issubclass(hint, StrEnum):
        return forms.one_of(list(hint))
    if isinstance(hint, type) and issubclass(hint, Frozen):
        block = _block(hint)
        return forms.either(forms.TEXT, block) if hint in _SHORT else block
    if get_origin(hint) is Literal:
        return forms.one_of(get_args(hint))
    if get_origin(hint) is tuple:
        return {"type": "array", "items": _form(get_args(hint)[0])}
    if get_origin(hint) in (Union, types.UnionType):
        inner = [forms.NULL if one is type(None) else _form(one) for one in get_args(hint)]
        return forms.either(*inner)
    return TypeAdapter(hint).json_schema()


def _receivers() -> Schema:
    """The schema of `receivers`."""
    return {
        "type": "object",
        "properties": {name: _receiver(name) for name in known_receivers()},
        "additionalProperties": False,
    }


def _receiver(name: str) -> Schema:
    """The schema of what a sync says of a receiver."""
    about = receiver(name)
    rules = {
        "type": "array",
        "items": forms.one_of(list(about.rules)),
        "description": "Rules not to look at.",
    }
    mode = {
        **forms.one_of(["warn", "reject"]),
        "description": "Whether calls that break a rule are only counted, or become rejected rows.",
    }
    own = {key: _setting(setting) for key, setting in about.settings.items()}
    return {
        "description": about.title,
        "type": "object",
        "properties": {"mode": mode, "ignore": rules, **own},
        "additionalProperties": False,
    }


def _setting(setting: Setting) -> Schema:
    """The schema of a receiver's own setting; null stands for none."""
    named: Schema = {"type": "object", "additionalProperties": forms.TEXT}
    if setting.keys is not None:
        named["propertyNames"] = {"enum": list(setting.keys)}
    kinds: dict[str, Schema] = {"flag": {"type": "boolean"}, "trait": forms.TEXT}
    return {"description": setting.says, **forms.nullable(kinds.get(setting.kind, named))}
