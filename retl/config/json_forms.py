"""The forms of single values in a file, as JSON Schema: a column, a name, a limit, a value of a field.

A text may hold variables, `${NAME}`, whose values only a run knows. So wherever a text must have a certain
form, one with a variable is taken as well; and a `${` that is none is refused everywhere.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from retl import table
from retl.config.fields import DEEPEST_NAME, LONGEST_MODEL, LONGEST_NAME, zones

Schema = dict[str, Any]

_NAME = r"[A-Za-z_][A-Za-z0-9_]*"
_WHOLE = rf"^(?:\$\$\{{|\$\{{{_NAME}(?::-[^}}]*)?\}}|(?!\$\$?\{{)[\s\S])*$"
"""Texts in which each `${` begins a variable; `$${` stands for a plain one."""

NULL: Schema = {"type": "null"}
ANY_TEXT: Schema = {"type": "string", "pattern": _WHOLE}
TEXT: Schema = {**ANY_TEXT, "minLength": 1}
_VARIABLE: Schema = {"allOf": [ANY_TEXT, {"pattern": rf"(?:^|[^$])\$\{{{_NAME}(?::-[^}}]*)?\}}"}]}
SECRET: Schema = {"type": "string"}
"""A text whose variables are looked up when it is needed."""

IS_TRUE: Schema = {"enum": [True, "true"]}


def either(*schemas: Schema) -> Schema:
    """A schema that holds where one of some does."""
    return {"anyOf": list(schemas)}


def nullable(schema: Schema) -> Schema:
    """A schema that takes null, too."""
    return either(schema, NULL)


def or_variable(schema: Schema) -> Schema:
    """A schema of texts, numbers or words that takes a text with a variable, too."""
    return either(schema, _VARIABLE)


def one_of(words: Sequence[str]) -> Schema:
    """A schema of some words."""
    return or_variable({"enum": list(words)})


def matching(pattern: str, longest: int | None = None) -> Schema:
    """A schema of texts of a form, and of a length."""
    length = {"maxLength": longest} if longest else {}
    return {"allOf": [ANY_TEXT, or_variable({"pattern": pattern, **length})]}


def given(key: str, schema: Mapping[str, Any] | None = None) -> Schema:
    """A schema of mappings that have a key which is not null."""
    return {"required": [key], "properties": {key: schema or {"not": NULL}}}


def exactly_one(keys: Sequence[str]) -> Schema:
    """A schema of mappings that have exactly one of some keys."""
    return {"oneOf": [given(key) for key in keys]}


def unless_given(*keys: str) -> Schema:
    """A schema of mappings in which some keys are null, or not there."""
    return {"properties": dict.fromkeys(keys, NULL)}


COLUMNS = either(TEXT, {"type": "array", "items": TEXT, "minItems": 1, "uniqueItems": True})
IDS: Schema = {"type": "array", "items": either(ANY_TEXT, {"type": "integer"})}
FLAG = or_variable(either({"type": "boolean"}, {"type": "string", "pattern": r"^\s*(true|false)\s*$"}))
COUNT = or_variable(
    either(
        {"type": "integer", "minimum": 0, "maximum": 10**12},
        {"type": "string", "pattern": r"^\s*(0?[0-9]{1,12}|10{12})\s*$"},
    )
)
CONNECTIONS = or_variable(
    either(
        {"type": "integer", "minimum": 1, "maximum": 64},
        {"type": "string", "pattern": r"^\s*0{0,11}([1-9]|[1-5][0-9]|6[0-4])\s*$"},
    )
)
LIMIT = or_variable(
    either(
        {"type": "integer", "minimum": 0, "maximum": 10**12 - 1},
        {"type": "string", "pattern": r"^\s*([0-9]{1,12}|[0-9]{1,9}(\.[0-9]{1,9})?%|off)\s*$"},
        {"const": False},
    )
)
AGE = or_variable(
    either({"type": "string", "pattern": r"^(\s*[1-9][0-9]{0,4}d\s*|off)$"}, {"const": False}, NULL)
)

_DEVICE = (
    r"(?!(?:[cC][oO][nN]|[pP][rR][nN]|[aA][uU][xX]|[nN][uU][lL]|(?:[cC][oO][mM]|[lL][pP][tT])[0-9])(?:\.|$))"
)
NAME = matching(rf"^{_DEVICE}(?!\.+$)[A-Za-z0-9_.-]{{1,{LONGEST_NAME}}}$")

_PART = r"(?!\.*(?:\/|$))(?:[^\\\/\p{C}\p{Z}]| )+"
MODEL = matching(rf"^{_PART}(?:\/{_PART})*$", LONGEST_MODEL)

_IN_QUOTES = (r'"(?:[^"\p{C}\p{Z}]| |"")+"', r"`(?:[^`\p{C}\p{Z}]| )+`", r"\[(?:[^\[\]\p{C}\p{Z}]| )+\]")
_TABLE_PART = rf"""(?:[^\p{{C}}\p{{Z}}"`\[\]'.,;:()\/\\]+|{"|".join(_IN_QUOTES)})"""
TABLE = matching(rf"^{_TABLE_PART}(?:\.{_TABLE_PART}){{0,{table.MOST_PARTS - 1}}}$", table.LONGEST)

SCHEMA_NAME = matching(r"^(?!(information_schema|pg_catalog)$)[A-Za-z_][A-Za-z0-9_]{0,62}$")

_LABEL = r"[A-Za-z0-9_-]{1,63}"
_HOST = rf"(?:\[[0-9A-Fa-f:.]+\]|(?=[A-Za-z0-9_.-]{{1,253}}(?:[:\/]|$)){_LABEL}(?:\.{_LABEL})*\.?)"
_PORT = (
    r"(?::(?:0*(?:[1-9][0-9]{0,3}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5]))?)?"
)
URL = matching(rf"""^[hH][tT][tT][pP][sS]?:\/\/{_HOST}{_PORT}(?:\/[!-"$->@-~]*)?$""")
ENDPOINT = either(URL, matching(r"^file:(?:(?:\/\/\/)?[^\/\s]|\/[^\/])(?:[^\p{C}\p{Z}]| )*$"))


def zone() -> Schema:
    """A schema of the names of time zones, which an editor completes."""
    return one_of(sorted(zones()))


_PIECE = r"(?:\\[.\\]|(?!\\[.\\])[^.])+"
_PATH = rf"^{_PIECE}(?:\.{_PIECE}){{0,{DEEPEST_NAME - 1}}}$"


def not_beginning_with(*keys: str) -> Schema:
    """A schema of fields whose names do not lead through a key at their beginning."""
    return {"propertyNames": {"not": {"pattern": rf"^({'|'.join(keys)})(\.|$)"}}}


ONE_SOURCE: Schema = {
    "if": {"required": ["value"]},
    "then": unless_given("column", "as", "unit"),
    "else": {
        "allOf": [given("column"), {"anyOf": [unless_given("unit"), given("as", one_of(["timestamp"]))]}]
    },
}
"""The rule for the value of a field: a column with what belongs to it, or a constant."""

_IS_TIMESTAMP = one_of(["timestamp"])
_NOT_CONSTANT: Schema = {"properties": {"value": False}}

DEFINITIONS: dict[str, Schema] = {
    "json": either(
        ANY_TEXT,
        {"type": ["number", "boolean", "null"]},
        {"type": "array", "items": {"$ref": "#/definitions/json"}},
        {"type": "object", "additionalProperties": {"$ref": "#/definitions/json"}},
    ),
    "value": either(TEXT, {"$ref": "#/definitions/source"}),
    "moment": either(
        TEXT,
        {
            "allOf": [
                {"$ref": "#/definitions/source"},
                _NOT_CONSTANT,
                {"properties": {"as": nullable(_IS_TIMESTAMP), "nulls": NULL}},
            ]
        },
    ),
    "fields": {
        "type": "object",
        "propertyNames": {"pattern": _PATH},
        "additionalProperties": {"$ref": "#/definitions/value"},
    },
    "option": either(
        ANY_TEXT,
        {"type": ["number", "boolean", "null"]},
        {"type": "array", "items": {"$ref": "#/definitions/json"}},
        {"type": "object", "allOf": [{"required": ["column"]}, {"$ref": "#/definitions/source"}]},
        {
            "type": "object",
            "not": {"required": ["column"]},
            "anyOf": [
                {
                    "required": ["value"],
                    "maxProperties": 1,
                    "properties": {"value": {"$ref": "#/definitions/json"}},
                },
                {"additionalProperties": {"$ref": "#/definitions/option"}},
            ],
        },
    ),
}
"""Forms that hold others of their kind, or stand in many places."""

VALUE = {"$ref": "#/definitions/value"}
MOMENT = {"$ref": "#/definitions/moment"}
FIELDS = {"$ref": "#/definitions/fields"}
ALL = or_variable({"const": "all"})
ALL_OR_FIELDS = either(ALL, {"allOf": [FIELDS, {"propertyNames": {"not": {"const": "*"}}}]})
OPTIONS: Schema = {
    "type": "object",
    "additionalProperties": {"allOf": [{"not": {"type": "string"}}, {"$ref": "#/definitions/option"}]},
}
