"""Where a call's fields get their values, and the kinds of text that a user's file holds."""

import math
import re
from collections.abc import Iterator, Mapping
from enum import StrEnum
from ipaddress import IPv6Address
from typing import Annotated, Literal, Self
from urllib.parse import SplitResult, urlsplit
from zoneinfo import ZoneInfo, available_timezones

from pydantic import AfterValidator, BeforeValidator, Field, ValidationError, model_validator

from retl import table
from retl.forms.dotted import literal_name, path
from retl.forms.form import Frozen, refusal
from retl.forms.yaml_file import cut
from retl.nearest import did_you_mean


class Nulls(StrEnum):
    """The policy for a column that is null."""

    CLEAR = "clear"  # null, where the last version sent had a value
    SEND = "send"  # null
    OMIT = "omit"  # nothing


def _as_list(written: object) -> object:
    if isinstance(written, str):
        return (written,)
    if isinstance(written, list | tuple):
        return written
    raise refusal("must be a column or a list of columns")


def _distinct(columns: tuple[str, ...]) -> tuple[str, ...]:
    if not columns:
        raise refusal("must not be an empty list")
    for column in columns:
        if columns.count(column) > 1:
            raise refusal(f"the column `{column}` stands here twice")
    return columns


def _whole(value: object) -> object:
    if isinstance(value, str) and re.fullmatch(r"[0-9]{1,13}", value.strip()):
        return int(value)  # of a variable, whose value is always text
    if isinstance(value, bool | str):
        raise refusal("must be a whole number")
    return value


def _flag(value: object) -> object:
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value.strip() in ("true", "false"):
        return value.strip() == "true"
    raise refusal("must be true or false")


def _ids(value: object) -> object:
    if not isinstance(value, list):
        return value
    return [str(int(one)) if is_whole(one) else one for one in value]


def is_whole(value: object) -> bool:
    """Whether a value is a whole number, be it written as `1.0`."""
    return type(value) is int or (isinstance(value, float) and value.is_integer())


LONGEST_NAME = 100
"""Characters of a name that becomes a part of file names; systems allow 255 for the whole."""

LONGEST_MODEL = 200
"""Characters of a model's path below models/."""

DEEPEST_NAME = 32
"""Keys that a dotted name leads through."""


_DEVICE = re.compile(r"(con|prn|aux|nul|(com|lpt)[0-9])(\..*)?", re.IGNORECASE)
"""Names that Windows gives to devices, whatever their ending and in each folder."""


def _file_name(name: str) -> str:
    if len(name) > LONGEST_NAME:
        raise refusal(f"is too long: a name has at most {LONGEST_NAME} characters")
    if not re.fullmatch(r"[A-Za-z0-9_.-]+", name) or not name.strip("."):
        raise refusal(f"`{name}` is not a name: only letters, digits, `_`, `.` and `-` may stand in it")
    if _DEVICE.fullmatch(name):
        raise refusal(f"`{name}` is not a name: on Windows it is a device, and no file can have it")
    return name


def _model_name(name: str) -> str:
    if len(name) > LONGEST_MODEL:
        raise refusal(f"is too long: the path of a model has at most {LONGEST_MODEL} characters")
    if "\\" in name or not name.isprintable() or not all(part.strip(".") for part in name.split("/")):
        raise refusal(f"`{cut(name)}` is not a model; write the path below models/, without `.sql`")
    return name


def _table_name(name: str) -> str:
    if len(name) > table.LONGEST:
        raise refusal(f"is too long: the name of a table has at most {table.LONGEST} characters")
    if not table.is_table(name):
        raise refusal(
            f"`{cut(name)}` is not the name of a table; write `table`, `schema.table` or "
            "`database.schema.table`, with quotes around a part that SQL would need them for"
        )
    return name


_HOST = re.compile(r"(?=.{1,253}$)[A-Za-z0-9_-]{1,63}(\.[A-Za-z0-9_-]{1,63})*\.?")
"""A host's name; names in other alphabets are written in their ASCII form, `xn--…`."""


def _is_host(parts: SplitResult) -> bool:
    """Whether a URL has a host: a name, or an address.

    Raises:
        ValueError: between brackets stands no address, or the port is not a number.
    """
    host = parts.hostname or ""
    if "[" in parts.netloc:
        return IPv6Address(host).version == 6 and parts.port != 0
    return _HOST.fullmatch(host) is not None and parts.port != 0


def _endpoint(address: str) -> str:
    if re.fullmatch(r"file:(///)?[^/\s].*|file:/[^/].*", address) and address.isprintable():
        return address
    try:
        parts = urlsplit(address)
        usable = _is_host(parts)
        about_whom = parts.username is not None or parts.password is not None
    except ValueError:  # a bracket without its other half, a port that is not a number
        usable = about_whom = False
    if not usable or parts.scheme not in ("http", "https") or not re.fullmatch(r"[!-~]+", address):
        raise refusal("must be a URL that starts with http:// or https://, or a file: `file:calls.ndjson`")
    if about_whom or "?" in address or "#" in address:
        # The text is not shown: it may hold a secret.
        raise refusal(
            "must be scheme, host, port and path alone, without a user, a password, a query or a fragment; "
            "the write key goes into `write_key`"
        )
    return address


NO_ZONES = {"localtime", "posixrules", "Factory"}
"""Zones that Python opens as files of the machine, and DuckDB does not know."""


def zones() -> set[str]:
    """The names of all time zones."""
    return available_timezones() - NO_ZONES


def _zone(name: str) -> str:
    try:
        ZoneInfo(name[:LONGEST_NAME])
        if name in NO_ZONES or len(name) > LONGEST_NAME or name.startswith(("posix/", "right/")):
            raise KeyError(name)
    except (KeyError, ValueError, OSError):
        question = did_you_mean(name, zones(), likeness=0.75)
        hint = question or "write one such as `Europe/Berlin`"
        raise refusal(f"`{cut(name)}` is not a time zone; {hint}") from None
    return name


def _schema(written: str) -> str:
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]{0,62}", written):
        raise refusal("must be a name of ASCII letters, digits and _, of at most 63 characters")
    if written in ("information_schema", "pg_catalog"):
        raise refusal("must not be a schema of the database's own")
    return written


Text = Annotated[str, Field(min_length=1)]
Column = Annotated[str, Field(min_length=1)]
Columns = Annotated[tuple[Column, ...], BeforeValidator(_as_list), AfterValidator(_distinct)]
Name = Annotated[str, AfterValidator(_file_name)]
Engine = Literal["local", "warehouse"]
SchemaName = Annotated[str, AfterValidator(_schema)]
ModelName = Annotated[Text, AfterValidator(_model_name)]
TableName = Annotated[Text, AfterValidator(_table_name)]
Endpoint = Annotated[str, AfterValidator(_endpoint)]
Zone = Annotated[str, AfterValidator(_zone)]
Count = Annotated[int, BeforeValidator(_whole), Field(ge=0, le=10**12)]
Connections = Annotated[int, BeforeValidator(_whole), Field(ge=1, le=64)]
Flag = Annotated[bool, BeforeValidator(_flag)]
Ids = Annotated[tuple[str, ...], BeforeValidator(_ids)]


class Value(Frozen):
    """Where one trait or property gets its value; a bare text is a column."""

    column: Column | None = Field(default=None, description="Column whose value is sent.")
    constant: object = Field(
        default=None,
        validation_alias="value",
        description="Constant that is sent: any YAML value; instead of `column`.",
    )
    as_: Literal["json", "text", "number", "boolean", "timestamp"] | None = Field(
        default=None,
        validation_alias="as",
        description="What is sent instead of the column's own type: `json` (its text holds JSON), `text`, "
        "`number`, `boolean` or `timestamp`.",
    )
    unit: Literal["s", "ms"] | None = Field(
        default=None, description="With `as: timestamp`, for numbers: seconds or milliseconds since 1970."
    )
    nulls: Nulls | None = Field(
        default=None, description="What is sent where the column is null; not written: as the sync says."
    )

    @property
    def is_constant(self) -> bool:
        """Whether `value` is given, be it null."""
        return "constant" in self.model_fields_set

    @model_validator(mode="before")
    @classmethod
    def _column_in_short(cls, written: object) -> object:
        if isinstance(written, str):
            return {"column": written}
        if isinstance(written, dict | Value):
            return written
        raise refusal("must be a column's name; for a constant, write {value: …}")

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if self.is_constant and self.column is not None:
            raise refusal("has both `column` and `value`; keep one")
        if self.is_constant and (self.as_ or self.unit):
            raise refusal("`as` and `unit` belong to a `column`, not to a `value`")
        if self.is_constant and not _is_json(self.constant):
            raise refusal("is not a JSON value", "value")
        if not self.is_constant and self.column is None:
            raise refusal("has neither `column` nor `value`")
        if self.unit and self.as_ != "timestamp":
            raise refusal("`unit` goes with `as: timestamp` only", "unit")
        return self


class Event(Frozen):
    """The name of an event; a bare text is the name itself."""

    name: Text | None = Field(default=None, description="Name of the event.")
    column: Column | None = Field(
        default=None, description="Column that holds the name of each row's event; instead of `name`."
    )

    @model_validator(mode="before")
    @classmethod
    def _name_in_short(cls, written: object) -> object:
        if written == "":
            raise refusal("must not be empty")
        if isinstance(written, str):
            return {"name": written}
        if isinstance(written, dict | Event):
            return written
        raise refusal("must be an event's name, or {column: …}")

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.name is None) == (self.column is None):
            raise refusal("must be an event's name, or {column: …}")
        return self


def _is_json(value: object) -> bool:
    if isinstance(value, dict):
        return all(isinstance(key, str) and _is_json(one) for key, one in value.items())
    if isinstance(value, list):
        return all(map(_is_json, value))
    return (
        value is None or isinstance(value, str | int) or (isinstance(value, float) and math.isfinite(value))
    )


def _options(written: dict[str, object]) -> dict[str, object]:
    """An integrations object: constants as they are sent, and a `Value` for each column, however deep."""
    for name, option in written.items():
        if isinstance(option, str):
            raise refusal(
                "is text, which Segment does not know here: write true, false, {column: …}, or options", name
            )
    return {name: _option(option, (name,)) for name, option in written.items()}


def _option(written: object, place: tuple[str, ...]) -> object:
    if isinstance(written, dict) and "column" in written:
        try:
            return Value.model_validate(written)
        except ValidationError:
            raise refusal(
                "holds `column`, so it must be {column, as, unit, nulls}; to send it as it is, {value: {…}}",
                *place,
            ) from None
    if isinstance(written, dict) and written.keys() != {"value"}:
        return {key: _option(inner, (*place, str(key))) for key, inner in written.items()}
    constant = written["value"] if isinstance(written, dict) else written
    if not _is_json(constant):
        raise refusal("is not a JSON value", *place)
    return constant


def option_values(options: Mapping[str, object], outer: str = "") -> Iterator[tuple[str, Value]]:
    """The parts of an integrations object by dotted name: its columns, and around them its constants."""
    for key, option in options.items():
        name = outer + literal_name(key)
        if isinstance(option, Value):
            yield name, option
        elif isinstance(option, dict) and holds_column(option):
            yield from option_values(option, f"{name}.")
        else:
            yield name, Value.model_validate({"value": option})


def holds_column(option: object) -> bool:
    """Whether a part of an integrations object is a column, or has one among its options."""
    if isinstance(option, dict):
        return any(map(holds_column, option.values()))
    return isinstance(option, Value)


EVERY = "*"
"""The one name of fields that are `all` columns, until the columns are known."""


def _all_or_mapping(written: object) -> object:
    if written == "all":
        return {EVERY: EVERY}
    if isinstance(written, str):
        raise refusal("must be `all`, or a mapping of names to columns")
    if isinstance(written, dict) and EVERY in written:
        raise refusal("for all columns write `all` in place of the mapping", EVERY)
    return written


def _nested(fields: dict[str, Value]) -> dict[str, Value]:
    by_path = {path(name): name for name in fields}
    for keys, name in by_path.items():
        if not all(keys):
            raise refusal("a name must not be empty, nor have an empty part between dots", name)
        if len(keys) > DEEPEST_NAME:
            raise refusal(f"a name leads through at most {DEEPEST_NAME} keys", name)
        for length in range(1, len(keys)):
            outer = by_path.get(keys[:length])
            if outer is not None:
                raise refusal(f"`{outer}` is one value and cannot hold `{name}` as well", name)
    for name in fields:
        if by_path[path(name)] != name:
            raise refusal(f"is the same name as `{by_path[path(name)]}`", name)
    return fields


def _moment(value: Value) -> Value:
    if value.is_constant or value.as_ not in (None, "timestamp") or value.nulls:
        raise refusal("a timestamp is a column, or {column, as: timestamp, unit}")
    return value.model_copy(update={"as_": "timestamp"})


Fields = Annotated[dict[str, Value], AfterValidator(_nested)]
AllOrFields = Annotated[Fields, BeforeValidator(_all_or_mapping)]
Options = Annotated[dict[str, object], AfterValidator(_options)]
Timestamp = Annotated[Value, AfterValidator(_moment)]
