"""A sync file: what may stand in it, what it means, and how a mistake is named."""

import json
import re
from pathlib import Path

import pytest
from sync_file_page import sync_file_markdown

from retl.config.settings import check_defaults
from retl.config.sync import Change, Limit, Nulls, Sync, Value, parse
from retl.errors import ConfigError
from retl.forms.yaml_file import load

DOCS = Path(__file__).parent.parent / "docs" / "sync-file.md"

IDENTIFY = """\
model: users
primary_key: user_id
identify:
  user_id: user_id
"""

TRACK = """\
model: subscriptions
primary_key: subscription_id
track:
  user_id: user_id
"""

AUDIENCE = """\
model: vip
primary_key: user_id
audience:
  user_id: user_id
  name: VIP customers
"""


def read(folder: Path, text: str, defaults: str | None = None) -> Sync:
    """The sync of a text."""
    path = folder / "syncs" / "users.yml"
    path.parent.mkdir(exist_ok=True)
    path.write_text(text, encoding="utf-8")
    later = [("segment", "write_key"), ("warehouse",)]
    settings = None
    if defaults is not None:
        (folder / "retl.yml").write_text(defaults, encoding="utf-8")
        settings = load(folder / "retl.yml", {}, root=folder, as_written=later)
        check_defaults(settings)
    return parse(load(path, {}, root=folder, as_written=later), settings)


def test_least_file(tmp_path: Path) -> None:
    """A file of four lines is a sync; the rest has defaults."""
    sync = read(tmp_path, IDENTIFY)

    assert sync.identify is sync.block
    assert "identify" == sync.kind
    assert ("user_id",) == sync.primary_key
    assert ("users", "UTC", "fail", ()) == (sync.name, sync.timezone, sync.on_rejected, sync.allow_ids)
    assert (None, None, None, None) == (sync.initial, sync.nulls, sync.compare, sync.on_new_column)
    assert (None, None, None, 1) == (
        sync.guards.removed,
        sync.guards.changed,
        sync.guards.added,
        sync.guards.min_rows,
    )
    assert ("us", 500, 16, False) == (
        sync.segment.region,
        sync.segment.events_per_second,
        sync.segment.concurrency,
        sync.segment.gzip,
    )
    assert "${RETL_WAREHOUSE_URL}" == sync.warehouse
    assert "${SEGMENT_WRITE_KEY}" == sync.segment.write_key.get_secret_value()


@pytest.mark.parametrize(
    ("written", "value"),
    [
        ("email", Value(column="email")),
        ("{column: email}", Value(column="email")),
        ("{column: list, as: json}", Value(column="list", as_="json")),
        ("{column: at, as: timestamp, unit: ms}", Value(column="at", as_="timestamp", unit="ms")),
        ("{column: phone, nulls: omit}", Value(column="phone", nulls=Nulls.OMIT)),
        ("{value: warehouse}", Value(constant="warehouse")),
        ("{value: null}", Value(constant=None)),
        ("{value: [1, {a: 1.5}]}", Value(constant=[1, {"a": 1.5}])),
    ],
)
def test_value(tmp_path: Path, written: str, value: Value) -> None:
    """A trait is a column in short or with options, or a constant."""
    sync = read(tmp_path, f"{IDENTIFY}  traits: {{a: {written}}}")

    assert sync.identify is not None
    assert {"a": value} == sync.identify.traits


@pytest.mark.parametrize(("value", "expected"), [(Value(column="a"), False), (Value(constant=None), True)])
def test_null_is_a_constant(value: Value, expected: bool) -> None:
    """A constant null is told apart from no constant."""
    assert expected is value.is_constant


def test_track(tmp_path: Path) -> None:
    """An event is named in short or with options."""
    sync = read(
        tmp_path,
        TRACK
        + """\
  added: Signed Up
  changed: {event: Changed, timestamp: updated_at, previous: true, properties: {plan: new_plan}}
  timestamp: {column: created, as: timestamp, unit: s}
""",
    )

    assert "track" == sync.kind
    assert sync.track is sync.block
    assert sync.track is not None
    assert sync.track.added is not None
    assert sync.track.changed is not None
    assert sync.track.removed is None
    assert "Signed Up" == sync.track.added.event.name
    assert (True, {"plan": Value(column="new_plan")}) == (
        sync.track.changed.previous,
        sync.track.changed.properties,
    )
    assert Value(column="updated_at", as_="timestamp") == sync.track.changed.timestamp
    assert Value(column="created", as_="timestamp", unit="s") == sync.track.timestamp


@pytest.mark.parametrize(
    ("lines", "key"),
    [
        ("", None),
        ("  style: engage", "vip_customers"),
        ("  style: engage\n  key: big_spenders", "big_spenders"),
    ],
)
def test_audience_key(tmp_path: Path, lines: str, key: str | None) -> None:
    """An audience of the style engage has a key, made from its name where none is written."""
    sync = read(tmp_path, AUDIENCE + lines)

    assert sync.audience is sync.block
    assert sync.audience is not None
    assert key == sync.audience.key


def test_group(tmp_path: Path) -> None:
    """A group has an id of its own, and may say what to send for a row that is gone."""
    sync = read(
        tmp_path,
        IDENTIFY.replace("identify", "group")
        + "  group_id: account\n  removed: {traits: {gone: {value: true}}}",
    )

    assert "group" == sync.kind
    assert sync.group is sync.block
    assert sync.group is not None
    assert sync.group.removed is not None
    assert ("account", {"gone": Value(constant=True)}) == (sync.group.group_id, sync.group.removed.traits)


@pytest.mark.parametrize(
    ("written", "limit"),
    [
        ("500000", Limit(count=500000)),
        ("'500000'", Limit(count=500000)),
        ("0", Limit(count=0)),
        ("20%", Limit(percent=20)),
        ("0.5%", Limit(percent=0.5)),
        ("100%", Limit(percent=100)),
        ("off", Limit(off=True)),
        ("false", Limit(off=True)),
        ("", None),
    ],
)
def test_guard(tmp_path: Path, written: str, limit: Limit | None) -> None:
    """A guard is a count, a percentage or off."""
    assert limit == read(tmp_path, f"{IDENTIFY}guards: {{removed: {written}}}").guards.removed


@pytest.mark.parametrize(
    ("written", "ids"), [("[0, -1, none]", ("0", "-1", "none")), ("anonymous", None), ("[]", ())]
)
def test_allow_ids(tmp_path: Path, written: str, ids: tuple[str, ...] | None) -> None:
    """Ids that look like numbers are taken as their text; a bare text is no list."""
    text = f"{IDENTIFY}allow_ids: {written}"
    if ids is not None:
        assert ids == read(tmp_path, text).allow_ids
    else:
        with pytest.raises(ConfigError, match="allow_ids: must be a list, not text"):
            read(tmp_path, text)


@pytest.mark.parametrize(
    ("written", "columns"), [("id", ("id",)), ("[id]", ("id",)), ("[region, id]", ("region", "id"))]
)
def test_columns(tmp_path: Path, written: str, columns: tuple[str, ...]) -> None:
    """A key is a column or a list of columns; so is `compare`."""
    sync = read(tmp_path, f"model: m\nprimary_key: {written}\ncompare: {written}\nidentify: {{user_id: id}}")

    assert (columns, columns) == (sync.primary_key, sync.compare)


def test_changes_are_text() -> None:
    """A kind of change is the text that state and messages show."""
    assert ["added", "changed", "removed", "unchanged"] == [str(change) for change in Change]


def identify(lines: str) -> str:
    """An identify sync with more lines."""
    return IDENTIFY + lines


def track(lines: str) -> str:
    """A track sync with more lines."""
    return TRACK + lines


BAD = [
    # unknown keys
    (identify("  tarits: {a: b}"), ":5 identify.tarits: unknown key `tarits`; did you mean `traits`?"),
    (identify("nulls_: omit"), ":5 nulls_: unknown key `nulls_`; did you mean `nulls`?"),
    (
        identify("guards: {xyz: 1}"),
        ":5 guards.xyz: unknown key `xyz`; known here: `removed`, `changed`, `added`, `rejected`, `min_rows`",
    ),
    (
        identify("  traits: {a: {colum: b}}"),
        ":5 identify.traits.a.colum: unknown key `colum`; did you mean `column`?",
    ),
    (
        identify("  traits: {a: {constant: b}}"),
        ":5 identify.traits.a.constant: unknown key `constant`; known here: "
        "`column`, `value`, `as`, `unit`, `nulls`",
    ),
    (identify("schedule: daily"), ":5 schedule: `schedule` is not supported in this version"),
    (identify("receivers: [insider]"), ":5 receivers: must be a mapping of receivers to settings"),
    (
        identify("receivers: {insder: {}}"),
        ":5 receivers.insder: there is no receiver `insder`; did you mean `insider`?",
    ),
    (
        identify("receivers: {miso: yes}"),
        ":5 receivers.miso: must be a mapping of settings; {} takes the defaults",
    ),
    (
        identify("receivers: {suprsend: {prefx: true}}"),
        ":5 receivers.suprsend.prefx: unknown key `prefx`; did you mean `prefix`?",
    ),
    (identify("receivers: {miso: {mode: drop}}"), ":5 receivers.miso.mode: must be `warn` or `reject`"),
    (identify("receivers: {miso: {ignore: M1}}"), ":5 receivers.miso.ignore: must be a list of rules"),
    (
        identify("receivers: {datafly: {ignore: [D33]}}"),
        ":5 receivers.datafly.ignore: there is no rule `D33`; did you mean `D3`?",
    ),
    (identify("receivers: {suprsend: {prefix: 1}}"), ":5 receivers.suprsend.prefix: must be true or false"),
    (
        identify("receivers: {suprsend: {language: []}}"),
        ":5 receivers.suprsend.language: must be the name of a trait",
    ),
    (
        identify("receivers: {insider: {optins: gdpr}}"),
        ":5 receivers.insider.optins: must be a mapping of names",
    ),
    (
        identify("receivers: {insider: {optins: {gdpr_opt: gdpr}}}"),
        ":5 receivers.insider.optins.gdpr_opt: unknown key `gdpr_opt`; did you mean `gdpr_optin`?",
    ),
    (
        identify("receivers: {insider: {attributes: {plan: 1}}}"),
        ":5 receivers.insider.attributes.plan: must be the name of a trait or property",
    ),
    (identify("notify: x"), ":5 notify: must be a list, not text"),
    (identify("keep: x"), ":5 keep: must be a number of days such as 30d, or off"),
    (identify("keep: 0d"), ":5 keep: must be a number of days such as 30d, or off"),
    (identify("schedule: x"), ":5 schedule: `schedule` is not supported in this version"),
    (
        identify("segment: {oauth: {key_id: a}}"),
        ":5 segment.oauth: needs either `private_key` or `private_key_file`\n"
        "also syncs/users.yml:5 segment.oauth.client_id: `client_id` is missing",
    ),
    (
        identify("  traits: each"),
        ":5 identify.traits: must be `all`, or a mapping of names to columns",
    ),
    (
        identify("  traits: {'*': email, a: b}"),
        ":5 identify.traits.*: for all columns write `all` in place of the mapping",
    ),
    (
        identify("  traits: {'*': email}"),
        ":5 identify.traits.*: for all columns write `all` in place of the mapping",
    ),
    (
        identify("engine: warehous"),
        ":5 engine: must be `local` or `warehouse`",
    ),
    (
        identify("engine_schema: shop.retl"),
        ":5 engine_schema: must be a name of ASCII letters, digits and _, of at most 63 characters",
    ),
    (
        identify("engine_schema: pg_catalog"),
        ":5 engine_schema: must not be a schema of the database's own",
    ),
    (
        identify("timezone: localtime"),
        ":5 timezone: `localtime` is not a time zone; write one such as `Europe/Berlin`",
    ),
    (
        identify("  traits: {email: email}\n  except: [email]"),
        ":6 identify.except: `except` goes with `all` only",
    ),
    (
        identify("  removed: {traits: all}"),
        ":5 identify.removed.traits: must be a mapping, not text",
    ),
    (
        identify(r"  traits: {a\.b: x, a\.b.c: y}"),
        r":5 identify.traits.a\.b.c: `a\.b` is one value and cannot hold `a\.b.c` as well",
    ),
    # kinds
    (
        track("  added: A\n\nidentify:\n  user_id: id"),
        ":7 identify: two kinds in one file: track (line 3) and identify (line 7); "
        "keep one and put the other in a file of its own",
    ),
    (
        track("  added: A\nidentify: {user_id: id}\ngroup: {user_id: id, group_id: id}"),
        ":6 identify: 3 kinds in one file: track (line 3) and identify (line 6) and group (line 7); "
        "keep one and put the others in files of their own",
    ),
    (
        "model: users\nprimary_key: id",
        ": none of `track`, `audience`, `identify` and `group` is there; write one of them",
    ),
    ("model: users\nprimary_key: id\nidentify:", ":3 identify: has no value"),
    ("model: users\nprimary_key: id\nidentify: x", ":3 identify: must be a mapping, not text"),
    # what is compared
    (
        identify("sql: select 1\ntable: users"),
        ":5 sql: both `model` and `sql` are there; keep one\n"
        "also syncs/users.yml:6 table: both `model` and `table` are there; keep one",
    ),
    (identify("table: users"), ":5 table: both `model` and `table` are there; keep one"),
    (
        "table: select 1\nprimary_key: id\nidentify: {user_id: id}",
        ":1 table: `select 1` is not the name of a table; write `table`, `schema.table` or "
        "`database.schema.table`, with quotes around a part that SQL would need them for",
    ),
    (
        f"table: {'a' * 1001}\nprimary_key: id\nidentify: {{user_id: id}}",
        ":1 table: is too long: the name of a table has at most 1000 characters",
    ),
    (identify("sql: select 1"), ":5 sql: both `model` and `sql` are there; keep one"),
    (
        "primary_key: id\nidentify: {user_id: id}",
        ": none of `model` (a file in models/), `sql` and `table` is there; write one of them",
    ),
    ("model: m\nidentify: {user_id: id}", " primary_key: `primary_key` is missing"),
    (
        "model: m\nprimary_key: []\nidentify: {user_id: id}",
        ":2 primary_key: must not be an empty list",
    ),
    (
        "model: m\nprimary_key:\nidentify: {user_id: id}",
        ":2 primary_key: must be a column or a list of columns",
    ),
    ("model: m\nprimary_key: ['']\nidentify: {user_id: id}", ":2 primary_key.0: must not be empty"),
    (
        "model: m\nprimary_key: 1\nidentify: {user_id: id}",
        ":2 primary_key: must be a column or a list of columns",
    ),
    (
        "model: m\nprimary_key: [a, b, a]\nidentify: {user_id: id}",
        ":2 primary_key: the column `a` stands here twice",
    ),
    (identify("compare: [a, a]"), ":5 compare: the column `a` stands here twice"),
    (
        "model: ../users\nprimary_key: id\nidentify: {user_id: id}",
        ":1 model: `../users` is not a model; write the path below models/, without `.sql`",
    ),
    (
        "model: /etc/users\nprimary_key: id\nidentify: {user_id: id}",
        ":1 model: `/etc/users` is not a model; write the path below models/, without `.sql`",
    ),
    # who
    (
        "model: m\nprimary_key: id\nidentify: {traits: {a: b}}",
        ":3 identify: needs a `user_id` or an `anonymous_id`, so that Segment knows whom it is about",
    ),
    ("model: m\nprimary_key: id\ngroup: {user_id: id}", ":3 group.group_id: `group_id` is missing"),
    (
        "model: m\nprimary_key: id\nidentify: {user_id: 5}",
        ":3 identify.user_id: must be text, not a number (put it in quotes if text is meant)",
    ),
    ("model: m\nprimary_key: id\naudience: {user_id: id}", ":3 audience.name: `name` is missing"),
    (
        AUDIENCE + "  properties: {segment_name: a}",
        ":6 audience.properties.segment_name: retl sends `segment_name` itself; use another name",
    ),
    (
        AUDIENCE + "  style: engage\n  properties: {vip_customers.since: a}",
        ":7 audience.properties.vip_customers.since: retl sends `vip_customers` itself; use another name",
    ),
    (
        track("  added: {event: A, properties: {a.b: c}}\n  properties: {a: c}"),
        ":5 track.added.properties.a.b: `a` is one value and cannot hold `a.b` as well",
    ),
    (
        track("  changed: {event: A, previous: true}\n  properties: {previous.plan: c}"),
        ":6 track.properties.previous.plan: retl sends `previous` itself; use another name",
    ),
    (
        track("  added: {event: A, message_id: m}\n  removed: {event: B, message_id: m}"),
        ":6 track.removed.message_id: `m` is the message id of an earlier call for the row, and Segment "
        "drops the second call with an id; take another column, or none",
    ),
    # values
    (
        identify("  traits: {a: 5}"),
        ":5 identify.traits.a: must be a column's name; for a constant, write {value: …}",
    ),
    (
        identify("  traits: {a: }"),
        ":5 identify.traits.a: must be a column's name; for a constant, write {value: …}",
    ),
    (identify("  traits: {a: {}}"), ":5 identify.traits.a: has neither `column` nor `value`"),
    (
        identify("  traits: {a: {column: b, value: c}}"),
        ":5 identify.traits.a: has both `column` and `value`; keep one",
    ),
    (
        identify("  traits: {a: {value: 1, as: timestamp}}"),
        ":5 identify.traits.a: `as` and `unit` belong to a `column`, not to a `value`",
    ),
    (identify("  traits: {a: {value: [.nan]}}"), ":5 identify.traits.a.value: is not a JSON value"),
    (
        identify("  traits: {a: {column: b, as: integer}}"),
        ":5 identify.traits.a.as: must be `json`, `text`, `number`, `boolean` or `timestamp`",
    ),
    (
        identify("  traits: {a: {column: b, as: json, unit: s}}"),
        ":5 identify.traits.a.unit: `unit` goes with `as: timestamp` only",
    ),
    (
        identify("  traits: {a: {column: b, nulls: keep}}"),
        ":5 identify.traits.a.nulls: must be `clear`, `send` or `omit`",
    ),
    (
        identify("  traits: {address.city: b, address: c}"),
        ":5 identify.traits.address.city: `address` is one value and cannot hold `address.city` as well",
    ),
    (
        identify("  traits: {a..b: c}"),
        ":5 identify.traits.a..b: a name must not be empty, nor have an empty part between dots",
    ),
    (identify("  traits: [a, b]"), ":5 identify.traits: must be a mapping, not a list"),
    (identify("  integrations: {All: .inf}"), ":5 identify.integrations.All: is not a JSON value"),
    (
        identify("  timestamp: {value: 2024-01-01}"),
        ":5 identify.timestamp: a timestamp is a column, or {column, as: timestamp, unit}",
    ),
    (
        identify("  timestamp: {column: at, as: json}"),
        ":5 identify.timestamp: a timestamp is a column, or {column, as: timestamp, unit}",
    ),
    (
        identify("  timestamp: {column: at, unit: ms}"),
        ":5 identify.timestamp.unit: `unit` goes with `as: timestamp` only",
    ),
    (identify("  removed: {}"), ":5 identify.removed.traits: `traits` is missing"),
    # track and audience
    (TRACK, ":3 track: needs at least one of `added`, `changed` and `removed`"),
    (
        track("  added: {event: A, previous: true}"),
        ":5 track.added.previous: `previous` is for `changed` only",
    ),
    (
        track("  removed:\n    event: A\n    previous: true"),
        ":7 track.removed.previous: `previous` is for `changed` only",
    ),
    (track("  added: {timestamp: at}"), ":5 track.added.event: `event` is missing"),
    (track("  added: ''"), ":5 track.added.event: must not be empty"),
    (track("  added: {event: 5}"), ":5 track.added.event: must be an event's name, or {column: …}"),
    (
        track("  added: {event: {name: A, column: b}}"),
        ":5 track.added.event: must be an event's name, or {column: …}",
    ),
    (track("  added: 5"), ":5 track.added: must be an event's name, or a mapping"),
    (
        track("  changed: A\n  timestamp: at"),
        ":6 track.timestamp: `timestamp` here is for `added`, which is not there; write it below the change",
    ),
    (
        track("  changed: A\n  message_id: m"),
        ":6 track.message_id: `message_id` here is for `added`, which is not there; "
        "write it below the change",
    ),
    (AUDIENCE + "  style: other", ":6 audience.style: must be `hightouch` or `engage`"),
    (AUDIENCE + "  key: vip", ":6 audience.key: `key` goes with `style: engage` only"),
    (
        AUDIENCE.replace("VIP customers", "'!'") + "  style: engage",
        ":3 audience.key: `key` is needed, as `name` has no letter or digit to make one from",
    ),
    # settings
    (
        identify("initial: send"),
        ":5 initial: `initial` is for track and audience; the first run of identify always sends",
    ),
    (track("  added: A\ninitial: yes"), ":6 initial: must be `skip` or `send`"),
    (
        identify("guards: {removed: most}"),
        ":5 guards.removed: must be a count such as 500000, a percentage such as 20%, or off",
    ),
    (
        identify("guards: {removed: -1}"),
        ":5 guards.removed: must be a count such as 500000, a percentage such as 20%, or off",
    ),
    (
        identify("guards: {removed: 0.2}"),
        ":5 guards.removed: must be a count such as 500000, a percentage such as 20%, or off",
    ),
    (
        identify("guards: {removed: true}"),
        ":5 guards.removed: must be a count such as 500000, a percentage such as 20%, or off",
    ),
    (
        identify("guards: {removed: {count: 5}}"),
        ":5 guards.removed: must be a count such as 500000, a percentage such as 20%, or off",
    ),
    (
        IDENTIFY + "  integrations: {All: consent}",
        ":5 identify.integrations.All: is text, which Segment does not know here: "
        "write true, false, {column: …}, or options",
    ),
    (
        IDENTIFY + "  integrations: {A: {b: {column: c, from: d}}}",
        ":5 identify.integrations.A.b: holds `column`, so it must be {column, as, unit, nulls}; "
        "to send it as it is, {value: {…}}",
    ),
    (identify("guards: {min_rows: -1}"), ":5 guards.min_rows: must be 0 or more"),
    (identify("guards: {min_rows: 1.5}"), ":5 guards.min_rows: must be a whole number"),
    (identify("guards: {min_rows: off}"), ":5 guards.min_rows: must be a whole number"),
    (identify("guards: {min_rows: true}"), ":5 guards.min_rows: must be a whole number"),
    (identify("guards: off"), ":5 guards: must be a mapping, not text"),
    (identify("guards:"), ":5 guards: has no value"),
    (identify("nulls: keep"), ":5 nulls: must be `clear`, `send` or `omit`"),
    (
        identify("timezone: Europe/Berlim"),
        ":5 timezone: `Europe/Berlim` is not a time zone; did you mean `Europe/Berlin`?",
    ),
    (
        identify("timezone: /etc/passwd"),
        ":5 timezone: `/etc/passwd` is not a time zone; write one such as `Europe/Berlin`",
    ),
    (
        identify("timezone: Europe"),
        ":5 timezone: `Europe` is not a time zone; write one such as `Europe/Berlin`",
    ),
    (
        identify("name: my users"),
        ":5 name: `my users` is not a name: only letters, digits, `_`, `.` and `-` may stand in it",
    ),
    (identify("on_rejected: ignore"), ":5 on_rejected: must be `fail` or `warn`"),
    (identify("on_new_column: ignore"), ":5 on_new_column: must be `send` or `baseline`"),
    (identify("allow_ids: [null]"), ":5 allow_ids.0: has no value"),
    (identify("warehouse: ''"), ":5 warehouse: must not be empty"),
    (identify("segment: {region: asia}"), ":5 segment.region: must be `us` or `eu`"),
    (
        identify("segment: {endpoint: api.segment.io}"),
        ":5 segment.endpoint: must be a URL that starts with http:// or https://, "
        "or a file: `file:calls.ndjson`",
    ),
    (identify("segment: {concurrency: 0}"), ":5 segment.concurrency: must be 1 or more"),
    (identify("segment: {concurrency: 65}"), ":5 segment.concurrency: must be 64 or less"),
    (identify("segment: {events_per_second: fast}"), ":5 segment.events_per_second: must be a whole number"),
    (identify("segment: {gzip: maybe}"), ":5 segment.gzip: must be true or false"),
    (
        identify("segment: {name: a/b}"),
        ":5 segment.name: `a/b` is not a name: only letters, digits, `_`, `.` and `-` may stand in it",
    ),
    (
        identify("name: .."),
        ":5 name: `..` is not a name: only letters, digits, `_`, `.` and `-` may stand in it",
    ),
    (identify(f"name: {'a' * 101}"), ":5 name: is too long: a name has at most 100 characters"),
    (
        IDENTIFY.replace("users", "a" * 300),
        ":1 model: is too long: the path of a model has at most 200 characters",
    ),
    (
        IDENTIFY.replace("users", '"us\\ners"'),
        ":1 model: `us\ners` is not a model; write the path below models/, without `.sql`",
    ),
    (
        identify(f"  traits: {{{'.'.join('a' * 33)}: x}}"),
        f":5 identify.traits.{'.'.join('a' * 33)}: a name leads through at most 32 keys",
    ),
    (
        identify(f"timezone: {'a/' * 3000}b"),
        f":5 timezone: `{'a/' * 30}…` is not a time zone; write one such as `Europe/Berlin`",
    ),
    (identify("segment: {events_per_second: .inf}"), ":5 segment.events_per_second: must be a whole number"),
    (
        identify(f"segment: {{events_per_second: {'9' * 60}}}"),
        ":5 segment.events_per_second: must be 1000000000000 or less",
    ),
    (
        identify(f"guards: {{added: '{'9' * 5000}'}}"),
        ":5 guards.added: must be a count such as 500000, a percentage such as 20%, or off",
    ),
    (
        identify("segment: {oauth: {client_id: a, key_id: b}}"),
        ":5 segment.oauth: needs either `private_key` or `private_key_file`",
    ),
    (
        identify("segment: {oauth: {client_id: a, key_id: b, private_key_file: k, auth_server: 'file:x'}}"),
        ":5 segment.oauth.auth_server: must be a URL that starts with http:// or https://",
    ),
]

NO_URLS = [
    "http://",
    "http://[::1",
    "http://[zz]/",
    "http://host:99999",
    "http://host:0",
    "http://host:abc",
    "http://a..b",
    f"http://{'a' * 64}.com",
    "http://:80",
    "http://?x",
    "http://host/a b",
    "http://größe.example",
    "ftp://host",
    "file:a\0b",
]


@pytest.mark.parametrize("endpoint", NO_URLS)
def test_an_endpoint_that_is_no_url_is_refused(tmp_path: Path, endpoint: str) -> None:
    """What no request can be sent to is refused when the file is read, with its line and key."""
    with pytest.raises(ConfigError, match=r"^syncs/users.yml:5 segment.endpoint: must be a URL"):
        read(tmp_path, identify(f"segment: {{endpoint: {json.dumps(endpoint)}}}"))


@pytest.mark.parametrize(
    "endpoint", ["https://me:secret@host", "https://secret@host", "http://host/?secret", "http://host#secret"]
)
def test_an_endpoint_has_no_room_for_a_secret(tmp_path: Path, endpoint: str) -> None:
    """A user, a password, a query or a fragment is refused, and not shown."""
    with pytest.raises(ConfigError, match="without a user, a password, a query or a fragment") as caught:
        read(tmp_path, identify(f"segment: {{endpoint: {json.dumps(endpoint)}}}"))

    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "endpoint", ["http://127.0.0.1:8765", "http://[::1]:80/v1", "HTTPS://a_b.example./x", "http://localhost"]
)
def test_an_endpoint(tmp_path: Path, endpoint: str) -> None:
    """Names, addresses, ports and paths are what an endpoint is made of."""
    assert endpoint == read(tmp_path, identify(f"segment: {{endpoint: '{endpoint}'}}")).segment.endpoint


def test_many_mistakes_are_counted(tmp_path: Path) -> None:
    """Of many mistakes the first 21 are shown, and the rest are counted."""
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, IDENTIFY + "".join(f"x{number}: 1\n" for number in range(50)))

    lines = str(caught.value).splitlines()
    assert (22, "and 29 more") == (len(lines), lines[-1])


@pytest.mark.rule("E13", "F15", "G6")
@pytest.mark.parametrize(("text", "message"), BAD, ids=[message[:60] for _, message in BAD])
def test_refused(tmp_path: Path, text: str, message: str) -> None:
    """A mistake is named by file, line and key, in a sentence."""
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, text)

    assert f"syncs/users.yml{message}" == str(caught.value)


def test_all_mistakes(tmp_path: Path) -> None:
    """All mistakes are told at once, in the order of the file, and what is missing last."""
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, "group: {}\ntimezone: Nowhere\nmodle: users\nprimary_key: []\nidentify: {user_id: 5}")

    assert "syncs/users.yml:2 timezone" == caught.value.where
    assert [
        "`Nowhere` is not a time zone; write one such as `Europe/Berlin`",
        "also syncs/users.yml:3 modle: unknown key `modle`; did you mean `model`?",
        "also syncs/users.yml:4 primary_key: must not be an empty list",
        "also syncs/users.yml:5 identify.user_id: "
        "must be text, not a number (put it in quotes if text is meant)",
        "also syncs/users.yml:1 group.group_id: `group_id` is missing",
    ] == caught.value.message.splitlines()


def test_all_mistakes_of_all_kinds(tmp_path: Path) -> None:
    """What YAML, a value, a block and the whole file have wrong is told at once, and no consequence of it."""
    text = """\
primary_key: ${NO_SUCH}
1: x
track:
  userid: id
  added: {evnt: A}
  timestamp: {value: now}
  properties: {a: !secret x, b: {colum: y}, a.c: z, a: b}
  except: [x]
initial: later
guards: {removed: 20 percent}
guards: {}
"""
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, text)

    told = [line.removeprefix("also syncs/users.yml:") for line in str(caught.value).splitlines()]
    assert [
        "syncs/users.yml:1 primary_key: NO_SUCH is not set",
        "2: a key must be text; put `1` in quotes",
        "4 track.userid: unknown key `userid`; did you mean `user_id`?",
        "5 track.added.evnt: unknown key `evnt`; did you mean `event`?",
        "6 track.timestamp: a timestamp is a column, or {column, as: timestamp, unit}",
        "7 track.properties.a: the tag !secret is not supported",
        "7 track.properties.a: the key `a` stands here twice; first on line 7",
        "7 track.properties.b.colum: unknown key `colum`; did you mean `column`?",
        "8 track.except: `except` goes with `all` only",
        "9 initial: must be `skip` or `send`",
        "10 guards.removed: must be a count such as 500000, a percentage such as 20%, or off",
        "11 guards: the key `guards` stands here twice; first on line 10",
        " none of `model` (a file in models/), `sql` and `table` is there; write one of them",
        "5 track.added.event: `event` is missing",
    ] == told
    assert "set it in the environment or in .env" == caught.value.hint


def test_where(tmp_path: Path) -> None:
    """A sync knows the place of its keys, be it in its file or in retl.yml."""
    sync = read(
        tmp_path, IDENTIFY + "  traits:\n    email: mail\nguards: {removed: 5%}", "guards: {added: 9}"
    )

    assert "syncs/users.yml" == sync.path
    assert "syncs/users.yml:6 identify.traits.email" == sync.where("identify", "traits", "email")
    assert "syncs/users.yml:7 guards.removed" == sync.where("guards", "removed")
    assert "retl.yml:1 guards.added" == sync.where("guards", "added")
    assert "syncs/users.yml timezone" == sync.where("timezone")


def test_without_a_file() -> None:
    """A sync that was built in Python names itself in place of a file."""
    sync = Sync.model_validate(
        {"name": "users", "model": "users", "primary_key": "id", "identify": {"user_id": "id"}}
    )

    assert ("users", "users primary_key") == (sync.path, sync.where("primary_key"))


@pytest.mark.rule("E10")
def test_defaults(tmp_path: Path) -> None:
    """The project's settings count where the sync does not say otherwise, key by key."""
    sync = read(
        tmp_path,
        IDENTIFY + "guards: {removed: 5%}\nsegment: {gzip: true}",
        "timezone: Europe/Berlin\nwarehouse: sqlite:///a.db\n"
        "guards: {removed: 1%, added: 7}\nsegment: {region: eu, gzip: false}\n",
    )

    assert ("Europe/Berlin", "sqlite:///a.db") == (sync.timezone, sync.warehouse)
    assert (Limit(percent=5), Limit(count=7)) == (sync.guards.removed, sync.guards.added)
    assert ("eu", True) == (sync.segment.region, sync.segment.gzip)


@pytest.mark.parametrize(
    ("defaults", "message"),
    [
        (
            "model: x",
            ":1 model: unknown key `model`; known here: "
            "`warehouse`, `engine`, `engine_schema`, `state`, `segment`, `guards`, `timezone`, `keep`, "
            "`receivers`, `notify`",
        ),
        (
            "receivers: {x: {}}",
            ":1 receivers.x: there is no receiver `x`; known here: `datafly`, `insider`, `miso`, `suprsend`",
        ),
        ("notify: [{on: [failed]}]", ":1 notify.0: needs either `webhook` or `apprise`"),
        (
            "guards:\n  added: x",
            ":2 guards.added: must be a count such as 500000, a percentage such as 20%, or off",
        ),
    ],
)
def test_defaults_refused(tmp_path: Path, defaults: str, message: str) -> None:
    """A mistake in the project's settings is named there."""
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, IDENTIFY, defaults)

    assert f"retl.yml{message}" == str(caught.value)


@pytest.mark.rule("B10")
def test_receivers_of_the_project(tmp_path: Path) -> None:
    """Receivers of retl.yml count for each sync; what a sync says of one of them wins, key by key."""
    sync = read(
        tmp_path,
        IDENTIFY + "receivers: {insider: {mode: reject, optins: {sms_optin: s}}}",
        "receivers:\n  insider: {language: lang, optins: {gdpr_optin: g, sms_optin: x}}\n  miso: {}\n",
    )

    assert ["insider", "miso"] == list(sync.receivers)
    assert sync.receivers["insider"].rejects
    assert "lang" == sync.receivers["insider"].values["language"]
    assert {"gdpr_optin": "g", "sms_optin": "s"} == sync.receivers["insider"].values["optins"]


def test_empty_defaults(tmp_path: Path) -> None:
    """A setting of the project that is left empty does not count."""
    assert "UTC" == read(tmp_path, IDENTIFY, "timezone:\nguards:\n").timezone


@pytest.mark.rule("E12")
def test_no_secret_is_shown(tmp_path: Path) -> None:
    """Neither the write key nor the warehouse's URL is in the text of a sync or of an error."""
    secrets = "warehouse: postgresql://me:hunter2@db/shop\nsegment: {write_key: hunter2"

    sync = read(tmp_path, f"{IDENTIFY}{secrets}}}")
    assert "hunter2" not in repr(sync) + str(sync)

    with pytest.raises(ConfigError) as caught:
        read(tmp_path, f"{IDENTIFY}{secrets}, region: hunter2, endpoint: hunter2, gzip: hunter2}}")
    assert "hunter2" not in repr(caught.value) + str(caught.value)
    assert caught.value.__context__ is None


def test_frozen(tmp_path: Path) -> None:
    """A sync does not change."""
    sync = read(tmp_path, IDENTIFY)

    with pytest.raises(ValueError, match="frozen"):
        sync.name = "other"


def test_docs_are_generated() -> None:
    """The page on the sync file says what the models say.

    If it does not, write it again:
    make docs
    """
    assert sync_file_markdown() == DOCS.read_text(encoding="utf-8")


EXAMPLES = re.findall(r"```yaml\n(.*?)```", sync_file_markdown(), re.DOTALL)


@pytest.mark.parametrize("example", EXAMPLES, ids=[example.splitlines()[0] for example in EXAMPLES])
def test_examples_in_docs(tmp_path: Path, example: str) -> None:
    """Each example of the page is a sync."""
    assert read(tmp_path, example).primary_key
