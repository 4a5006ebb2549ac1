"""The sync file described for readers and for editors, from the models that check it."""

import sys
from enum import StrEnum
from typing import Any, Literal, get_args, get_origin, get_type_hints

from pydantic import SecretStr
from pydantic_core import PydanticUndefined

from retl.config.fields import (
    AllOrFields,
    Column,
    Columns,
    Constants,
    Count,
    Event,
    Fields,
    Ids,
    ModelName,
    Name,
    Text,
    Timestamp,
    Value,
    WebAddress,
    Zone,
)
from retl.config.settings import Defaults, GuardLimit, Guards, Receivers, SegmentSettings
from retl.config.sync import KINDS, Audience, Group, Identify, RemovedTraits, Sync, Track, TrackCall
from retl.forms.form import Frozen, keys
from retl.receivers.data_file import Setting, known_receivers, receiver

_INTRODUCTION = """\
# The sync file

A sync is one YAML file, by custom in `syncs/`: which model to compare by which key, and which calls its
changes become.

```yaml
# syncs/users.yml
model: users                # models/users.sql
primary_key: user_id
identify:
  user_id: user_id
  traits:
    email: email            # trait: column
    address.city: city      # a dotted name builds a nested object
    products: {column: products_json, as: json}
    source: {value: warehouse}
```

```yaml
# syncs/subscriptions.yml
model: subscriptions
primary_key: subscription_id
track:
  user_id: user_id
  added: {event: Plan Started, timestamp: created_at}
  changed: {event: Plan Changed, timestamp: updated_at, previous: true}
  removed: Plan Ended
  properties: {plan: plan, monthly_price: price}
guards: {removed: 20%, added: 500000}
```

```yaml
# syncs/vip.yml
model: vip
primary_key: user_id
audience:
  user_id: user_id
  name: VIP customers
  properties: {tier: tier}
```

```yaml
# syncs/accounts.yml
sql: |
  select account_id, owner_id, plan
  from accounts
primary_key: account_id
group:
  group_id: account_id
  user_id: owner_id
  traits: {plan: plan}
```

`${NAME}` and `${NAME:-default}` inside a value come from the environment, or from `.env` in the project
folder; `$${` stands for a plain `${`. The variables of `warehouse` and of `segment.write_key` are looked up
when a command needs them, all others when the file is read.

An unknown key is an error, as is a key that stands twice.
"""

_BLOCKS: tuple[tuple[str, str, type[Frozen]], ...] = (
    (
        "Top level",
        "Exactly one of `track`, `audience`, `identify` and `group`; one of `model` and `sql`.",
        Sync,
    ),
    ("`track`", "A call for each row that is new, changed or gone; at least one of the three.", Track),
    ("`track.added`, `track.changed`, `track.removed`", "A bare text is the event's name.", TrackCall),
    ("`audience`", "A call for each row that enters, and for each that leaves.", Audience),
    ("`identify`", "A call with all traits for each row that is new or changed.", Identify),
    ("`group`", "A call with all traits for each row that is new or changed.", Group),
    ("`identify.removed`, `group.removed`", "A call for each row that is gone.", RemovedTraits),
    (
        "A value",
        "Below `traits`, `properties` and `context`. A bare text is a column; `{value: …}` is a constant.",
        Value,
    ),
    ("`guards`", "Limits, checked before the first call; `--force NAME` lets one pass once.", Guards),
    ("`segment`", "The source that gets the calls.", SegmentSettings),
    (
        "retl.yml",
        "Optional, in the project folder: defaults for all its syncs. A sync's own keys win, one by one.",
        Defaults,
    ),
)

_RECEIVERS = """
## `receivers`

For each system behind Segment whose rules the calls are held against, a block, which may be `{}`;
[the receivers](receivers.md) have their own keys beside these.

| key | value | default | meaning |
|---|---|---|---|
| `mode` | `warn`, `reject` | `warn` | Whether calls that break a rule are counted, or make rejected rows. |
| `ignore` | list of rules |  | Rules that are not looked at, such as `I9`. |
"""

_FORMS: tuple[tuple[object, str], ...] = (
    (Column, "column"),
    (Columns, "column or list of columns"),
    (Fields, "mapping of names to values"),
    (AllOrFields, "`all`, or mapping of names to values"),
    (Event, "event name or `{column: …}`"),
    (Constants, "mapping"),
    (Timestamp, "column or `{column, as, unit}`"),
    (TrackCall, "event name or block"),
    (GuardLimit, "`500000`, `20%` or `off`"),
    (Name, "letters, digits, `_`, `.`, `-`"),
    (Receivers, "block for each receiver"),
    (ModelName, "path"),
    (WebAddress, "URL"),
    (Zone, "time zone"),
    (Text, "text"),
    (SecretStr, "text"),
    (Ids, "list of ids"),
    (Count, "whole number"),
    (int, "whole number"),
    (bool, "`true` or `false`"),
    (object, "anything"),
)


def sync_file_markdown() -> str:
    """The page docs/sync-file.md: examples, and a table for each block."""
    return _INTRODUCTION + "".join(_section(*block) for block in _BLOCKS) + _RECEIVERS


def json_schema() -> dict[str, Any]:
    """The JSON Schema of a sync file, for editors; looser than retl's own check."""
    schema = Sync.model_json_schema()
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    schema["title"] = "retl sync"
    schema["required"].remove("name")
    schema["oneOf"] = [{"required": [kind]} for kind in KINDS]
    for key in ("primary_key", "compare"):
        schema["properties"][key].setdefault("anyOf", [_array()]).append({"type": "string", "minLength": 1})
        schema["properties"][key].pop("type", None)
    definitions = schema["$defs"]
    for short in ("Value", "TrackCall", "Event"):
        definitions[short] = {"anyOf": [{"type": "string", "minLength": 1}, definitions[short]]}
    for block in (Track, Audience, Identify, Group):
        fields = definitions[block.__name__]["properties"]
        one_by_one = fields[block.fields_key]
        described = {"description": one_by_one["description"]}
        fields[block.fields_key] = {**described, "anyOf": [{"const": "all"}, one_by_one]}
    definitions["Limit"] = {
        "description": definitions["Limit"]["description"],
        "anyOf": [
            {"type": "integer", "minimum": 0},
            {"type": "string", "pattern": r"^([0-9]+(\.[0-9]+)?%|[0-9]+|off)$"},
            {"const": False},
        ],
    }
    definitions.pop("Settings", None)
    schema["properties"]["receivers"] = {
        "description": schema["properties"]["receivers"]["description"],
        "type": "object",
        "properties": {name: _receiver(name) for name in known_receivers()},
        "additionalProperties": False,
    }
    definitions["SegmentSettings"]["properties"]["write_key"]["default"] = "${SEGMENT_WRITE_KEY}"
    return schema


def _receiver(name: str) -> dict[str, object]:
    """The JSON Schema of what a sync says of a receiver."""
    about = receiver(name)
    rules = {"type": "array", "items": {"enum": list(about.rules)}, "description": "Rules not to look at."}
    mode = {
        "enum": ["warn", "reject"],
        "description": "Whether calls that break a rule are only counted, or become rejected rows.",
    }
    own = {key: _setting(setting) for key, setting in about.settings.items()}
    properties = {"mode": mode, "ignore": rules, **own}
    return {
        "description": about.title,
        "type": "object",
        "properties": properties,
        "additionalProperties": False,
    }


def _setting(setting: Setting) -> dict[str, object]:
    kinds: dict[str, dict[str, object]] = {
        "flag": {"type": "boolean"},
        "trait": {"type": "string", "minLength": 1},
    }
    named: dict[str, object] = {"type": "object", "additionalProperties": {"type": "string", "minLength": 1}}
    if setting.keys is not None:
        named["propertyNames"] = {"enum": list(setting.keys)}
    return {"description": setting.says, **kinds.get(setting.kind, named)}


def _array() -> dict[str, object]:
    return {"type": "array", "items": {"type": "string", "minLength": 1}, "minItems": 1}


def _section(title: str, sentence: str, model: type[Frozen]) -> str:
    hints = get_type_hints(model, include_extras=True)
    lines = ["", f"## {title}", "", sentence, "", "| key | value | default | meaning |", "|---|---|---|---|"]
    for key, name in keys(model).items():
        meaning = model.model_fields[name].description
        lines.append(f"| `{key}` | {_form(hints[name])} | {_default(model, name)} | {meaning} |")
    return "\n".join(lines) + "\n"


def _form(hint: object) -> str:
    """How a value is written, in words."""
    for known, words in _FORMS:
        if hint is known:
            return words
    if isinstance(hint, type) and issubclass(hint, StrEnum):
        return ", ".join(f"`{one}`" for one in hint)
    if isinstance(hint, type) and issubclass(hint, Frozen):
        return "block"
    if get_origin(hint) is Literal:
        return ", ".join(f"`{one}`" for one in get_args(hint))
    (inner,) = (one for one in get_args(hint) if one is not type(None))
    return _form(inner)


def _default(model: type[Frozen], name: str) -> str:
    """What counts where the key is not written."""
    default = model.model_fields[name].default
    if (model, name) == (Sync, "name"):
        return "file name"
    if default is PydanticUndefined:
        return "**required**"
    if isinstance(default, SecretStr):
        return f"`{default.get_secret_value()}`"
    if default is None or isinstance(default, dict | tuple | Frozen):
        return ""
    return f"`{str(default).lower() if isinstance(default, bool) else default}`"


if __name__ == "__main__":
    sys.stdout.write(sync_file_markdown())
