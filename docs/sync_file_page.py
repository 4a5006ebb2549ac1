"""docs/sync-file.md: examples, and a table for each block, from the models that check a sync file."""

from enum import StrEnum
from typing import Literal, get_args, get_origin, get_type_hints

from pydantic import SecretStr
from pydantic_core import PydanticUndefined

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
from retl.config.settings import (
    Age,
    Channels,
    Defaults,
    GuardLimit,
    Guards,
    Notify,
    OAuth,
    Receivers,
    SegmentSettings,
)
from retl.config.sync import Audience, Group, Identify, RemovedTraits, Sync, Track, TrackCall
from retl.forms.form import Frozen, keys

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

In place of the last one's `sql`, `table: accounts` would read the whole table, or a view, such as a model of
dbt. A plain name, `schema.table` or `database.schema.table`, means what it means in SQL; a part that needs
quotes there, as in `analytics."Order Items"`, has them here, of whatever kind, and is spelled as the database
wants it.

`${NAME}` and `${NAME:-default}` inside a value come from the environment, or from `.env` in the project
folder; `$${` stands for a plain `${`. The variables of `warehouse`, `segment.write_key` and
`segment.oauth.private_key` are looked up when a command needs them, all others when the file is read.

An unknown key is an error, as is a key that stands twice. The file is YAML 1.2: `yes`, `no` and `on` are
text, and dates stay the text they are. Tags and merge keys (`<<`) are refused, and so are numbers that not
every reader takes for one, such as `1_000`. A file has at most 1 MB, each alias spelled out, and 50 levels.
"""

_BLOCKS: tuple[tuple[str, str, type[Frozen]], ...] = (
    (
        "Top level",
        "Exactly one of `track`, `audience`, `identify` and `group`; one of `model`, `sql` and `table`.",
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
        "`segment.oauth`",
        "The OAuth application, for sources that take calls only with an access token.",
        OAuth,
    ),
    (
        "`notify`",
        "A list of channels; [each is told](alerts.md) when the condition of the sync changes.",
        Notify,
    ),
    (
        "retl.yml",
        "Optional, in the project folder: defaults for all its syncs. A sync's own keys win, one by one.",
        Defaults,
    ),
)

_RECEIVERS = """
## `receivers`

For each system behind Segment by whose rules the calls are checked, a block, which may be `{}`;
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
    (Options, "mapping"),
    (Timestamp, "column or `{column, as, unit}`"),
    (TrackCall, "event name or block"),
    (GuardLimit, "`500000`, `20%` or `off`"),
    (Age, "`30d` or `off`"),
    (Channels, "list of blocks"),
    (Name, "letters, digits, `_`, `.`, `-`"),
    (Receivers, "block for each receiver"),
    (ModelName, "path"),
    (SchemaName, "name"),
    (TableName, "name of a table"),
    (Endpoint, "URL"),
    (Zone, "time zone"),
    (Text, "text"),
    (SecretStr, "text"),
    (Ids, "list of ids"),
    (Count, "whole number"),
    (Connections, "whole number"),
    (Flag, "`true` or `false`"),
    (object, "anything"),
)


def sync_file_markdown() -> str:
    """The page docs/sync-file.md: examples, and a table for each block."""
    return _INTRODUCTION + "".join(_section(*block) for block in _BLOCKS) + _RECEIVERS


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
    if get_origin(hint) is tuple:
        return "list of " + _form(get_args(hint)[0])
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
