"""What a sync must send, told row by row in plain Python.

This is the specification (docs/promises and docs/sync-file.md) once more, slow and independent: it shares
no code with retl. `run` takes a sync as its file has it, the model's rows and what was remembered, and tells
the calls of that run, its counts, and what is remembered from then on.

The words are those of docs/glossary.md. Three more are of this module's own:

    use      one purpose that a column serves in the mapping, such as "the property `plan`"
    cell     a column's value in one row, with all that is needed to spell it as JSON
    version  the cells of a row as they were at its last counted change, by their use
"""

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal, InvalidOperation
from math import isfinite
from typing import Any
from zoneinfo import ZoneInfo

# --- Values: how a cell of the warehouse is spelled as JSON -------------------------------------------------


@dataclass(frozen=True)
class ListOf:
    """The type of an array."""

    item: "Type"


@dataclass(frozen=True)
class StructOf:
    """The type of a struct: its fields' names and types."""

    fields: tuple[tuple[str, "Type"], ...]


Type = str | ListOf | StructOf
"""A column's type; the name of a plain one is DuckDB's."""


@dataclass(frozen=True)
class Digits:
    """A number in a JSON text, which is passed on as it is spelled."""

    text: str


@dataclass(frozen=True)
class Bad:
    """A value that cannot be sent, and the reason why its row is rejected."""

    reason: str
    text: str


@dataclass(frozen=True)
class Cell:
    """A column's value in a row, and how the mapping reads it.

    Local times inside of an array or a struct stay in the `zone` in which they were read, if the row is gone
    in the run in which it is edited, or they are not the same any more.
    """

    column: str
    type: Type
    value: Any
    read_as: str | None = None
    unit: str | None = None
    zone: str | None = None


MOST_EXACT = 2**53 - 1
"""Readers of JSON keep whole numbers up to this one; those beyond it are sent as text."""


def as_json(cell: Cell, zone: str) -> Any:
    """A cell as the JSON value that is sent; numbers are Decimal, or Digits where their spelling is kept."""
    match cell.read_as:
        case "json" if cell.type in ("VARCHAR", "JSON"):
            return None if cell.value is None else parsed(cell.value)
        case "timestamp":
            moment = instant(cell, zone)
            return spelled_instant(moment) if isinstance(moment, datetime) else moment
        case "text":
            return as_text(cell, zone)
        case "number":
            return as_number(cell, zone)
        case "boolean":
            return as_boolean(cell, zone)
    return plain(cell.type, cell.value, zone)


def plain(kind: Type, value: Any, zone: str) -> Any:
    """A value of the warehouse as JSON, as its type has it."""
    if value is None:
        return None
    match kind:
        case ListOf(item):
            return [plain(item, one, zone) for one in value]
        case StructOf(fields):
            return {name: plain(inner, value[name], zone) for name, inner in fields}
        case "BOOLEAN" | "VARCHAR":
            return value
        case "INTEGER" | "BIGINT" | "HUGEINT":
            return Decimal(value) if abs(value) <= MOST_EXACT else str(value)
        case "DOUBLE":
            number = Decimal(repr(value))
            return number if number.is_finite() else None
        case "DATE":
            return value.isoformat()
        case "TIMESTAMP" | "TIMESTAMPTZ":
            return spelled_instant(at_zone(value, zone))
        case "JSON":
            return parsed(value)
    assert kind.startswith("DECIMAL"), kind
    return value


def holds_local_times(kind: Type) -> bool:
    """Whether an array or a struct has local times in it."""
    match kind:
        case ListOf(item):
            return item == "TIMESTAMP" or holds_local_times(item)
        case StructOf(fields):
            return any(inner == "TIMESTAMP" or holds_local_times(inner) for _, inner in fields)
    return False


def parsed(text: str) -> Any:
    """JSON out of a text, its numbers as they are spelled."""

    def refuse(constant: str) -> Any:
        raise ValueError(constant)

    try:
        return json.loads(text, parse_int=Digits, parse_float=Digits, parse_constant=refuse)
    except ValueError:
        return Bad("bad_json", text)


def digits(number: Decimal) -> str:
    """A number without exponent, idle zeros and a sign on zero."""
    text = format(number, "f")
    text = text.rstrip("0").rstrip(".") if "." in text else text
    return "0" if text == "-0" else text


def canonical(value: Any) -> str:
    """One text for all values that are equal: 1.0 and 1.00, objects with another order of keys."""
    match value:
        case Bad(reason, text):
            return f"{reason} {text}"
        case Digits(text):
            return digits(Decimal(text))
        case Decimal():
            return digits(value)
        case list():
            return f"[{','.join(map(canonical, value))}]"
        case dict():
            inner = (f"{json.dumps(name)}:{canonical(one)}" for name, one in sorted(value.items()))
            return f"{{{','.join(inner)}}}"
    return json.dumps(value)


def text_of(cell: Cell, zone: str) -> str | None:
    """A cell as plain text, for keys, ids and message ids; a float keeps its shortest spelling."""
    value = plain(cell.type, cell.value, zone)
    if cell.type == "DOUBLE" and value is not None and "e" in repr(cell.value):
        return repr(cell.value)
    return value if value is None or isinstance(value, str) else canonical(value)


# --- Instants ----------------------------------------------------------------------------------------------


def at_zone(moment: datetime, zone: str) -> datetime:
    """A moment in UTC; without a zone it is of `zone`: a gap's later, an overlap's first.

    Below a millisecond nothing counts.
    """
    zoned = moment if moment.tzinfo else moment.replace(tzinfo=ZoneInfo(zone))
    return zoned.astimezone(UTC).replace(microsecond=moment.microsecond // 1000 * 1000)


def spelled_instant(moment: datetime) -> str:
    """A moment as it is sent: UTC, milliseconds, Z."""
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{moment.microsecond // 1000:03}Z"


def instant(cell: Cell, zone: str) -> datetime | Bad | None:
    """A cell as a moment; a float that is no number is null, and of JSON a string is what it says."""
    if cell.value is None or (cell.type == "DOUBLE" and not isfinite(cell.value)):
        return None
    if cell.type == "JSON":
        value = as_text(cell, zone)
        return (
            value
            if isinstance(value, Bad | None)
            else instant(replace(cell, type="VARCHAR", value=value), zone)
        )
    try:
        if cell.unit is not None and cell.type not in ("DATE", "TIMESTAMP", "TIMESTAMPTZ"):
            return since_1970(Decimal(str(cell.value)), cell.unit)
        match cell.value:
            case datetime():
                return at_zone(cell.value, zone)
            case date():
                return at_zone(datetime(cell.value.year, cell.value.month, cell.value.day), zone)
        return at_zone(datetime.fromisoformat(cell.value.strip()), zone)
    except (ValueError, InvalidOperation, OverflowError):
        return Bad("bad_timestamp", str(cell.value))


def since_1970(number: Decimal, unit: str) -> datetime | None:
    """So many seconds or milliseconds after the start of 1970."""
    if not number.is_finite():
        raise ValueError(number)
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(
        microseconds=int(number * {"s": 10**6, "ms": 1000}[unit])
    )


# --- `as: text`, `as: number`, `as: boolean` ----------------------------------------------------------------

NUMBER = re.compile(r"([+-]?)(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
NO_NUMBER = re.compile(r"[+-]?(nan|inf|infinity)")
TRUE, FALSE = {"true", "t", "yes", "y", "on", "1"}, {"false", "f", "no", "n", "off", "0"}


def as_text(cell: Cell, zone: str) -> Any:
    """A cell's plain text; JSON is its text as it is, and a JSON string what it says."""
    value = plain(cell.type, cell.value, zone)
    if isinstance(value, str | Bad | None):
        return value
    return cell.value if cell.type == "JSON" else text_of(cell, zone)


def as_number(cell: Cell, zone: str) -> Any:
    """A cell as a number; texts that spell none are bad."""
    value = plain(cell.type, cell.value, zone)
    if isinstance(value, bool):
        return Decimal(value)
    if isinstance(value, Digits):
        return Decimal(value.text)
    if cell.type not in ("VARCHAR", "JSON") or isinstance(value, Bad | None):
        return value
    if not isinstance(value, str) or not NUMBER.fullmatch(value.strip()):
        none = isinstance(value, str) and NO_NUMBER.fullmatch(value.strip().lower())
        return None if none else Bad("bad_number", canonical(value))
    number = Decimal(value)
    whole = "e" not in value.lower() and number == number.to_integral_value()
    return digits(number) if whole and abs(number) > MOST_EXACT else number


def as_boolean(cell: Cell, zone: str) -> Any:
    """A cell as true or false; what is neither is bad."""
    value = plain(cell.type, cell.value, zone)
    if value is None or isinstance(value, bool | Bad):
        return value
    is_text = isinstance(value, str)
    text = value.strip().lower() if is_text else canonical(value)
    if text in (TRUE | FALSE if is_text else {"0", "1"}):
        return text in TRUE
    return Bad("bad_boolean", text)


# --- The sync file -----------------------------------------------------------------------------------------

Use = tuple[str, str, str]
"""What a column is for: its part of the call, the kind of change that alone has it or "", and a name."""


@dataclass(frozen=True)
class Source:
    """Where a value comes from: a column, or a constant."""

    column: str | None
    constant: Any = None
    read_as: str | None = None
    unit: str | None = None
    nulls: str = "omit"

    def cell(self, table: "Table", row: Mapping[str, Any], zone: str) -> Cell:
        """The value in a row."""
        assert self.column is not None
        kind = table.columns[self.column]
        read_in = zone if holds_local_times(kind) else None
        return Cell(self.column, kind, row[self.column], self.read_as, self.unit, read_in)


@dataclass(frozen=True)
class Template:
    """What is sent for one kind of change.

    Attributes:
        event: its event's name, or the source of it; None for identify and group.
        fields: its properties or traits.
        previous: whether the values before the change go along.
        fixed: properties that an audience's calls have by themselves.
    """

    event: str | Source | None
    fields: dict[Use, Source]
    timestamp: tuple[Use, Source] | None = None
    message_id: tuple[Use, Source] | None = None
    previous: bool = False
    fixed: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Sync:
    """A sync, as its file has it; `templates` are by kind of change, `common` the fields of all kinds."""

    kind: str
    primary_key: list[str]
    ids: dict[str, Source]
    common: dict[Use, Source]
    templates: dict[str, Template]
    context: dict[Use, Source]
    options: dict[Use, Source] | None
    compare: list[str] | None
    sends_new_columns: bool
    sends_first_pass: bool
    zone: str
    guards: dict[str, int | str]
    allowed: frozenset[str]

    @property
    def identity(self) -> tuple[Any, ...]:
        """What must stay as it was when the snapshot was taken."""
        return self.kind, tuple(self.primary_key), tuple((name, one.column) for name, one in self.ids.items())

    @property
    def sent(self) -> dict[Use, Source]:
        """The columns that end up in some call's body: ids, properties and traits."""
        ids = {("id", "", name): source for name, source in self.ids.items()}
        fields = [one.fields for one in self.templates.values()]
        return ids | {use: source for some in fields for use, source in some.items() if source.column}

    @property
    def compared(self) -> dict[Use, Source]:
        """The columns that make a row a changed one: what only a row that is gone would send does not."""
        if self.compare is None:
            return {use: source for use, source in self.sent.items() if use[1] != "removed"}
        return {
            ("compare", "", column): Source(column, read_as="json" if self.holds_json(column) else None)
            for column in self.compare
        }

    def holds_json(self, column: str) -> bool:
        """Whether a column is read as JSON alone, so that it is JSON wherever it is compared."""
        beside = {**self.context, **(self.options or {})}
        sent = [source for source in (*self.sent.values(), *beside.values()) if source.column == column]
        return column not in self.primary_key and {source.read_as for source in sent} == {"json"}

    @property
    def uses(self) -> dict[Use, Source]:
        """All columns that the sync remembers of a row."""
        moments = [
            one
            for template in self.templates.values()
            for one in (template.timestamp, template.message_id)
            if one is not None
        ]
        named = {
            ("event", kind, ""): one.event
            for kind, one in self.templates.items()
            if isinstance(one.event, Source)
        }
        beside = {**self.context, **(self.options or {})}
        context = {use: source for use, source in beside.items() if source.column}
        keys = {("key", "", column): Source(column) for column in self.primary_key}
        return keys | self.sent | self.compared | context | dict(moments) | named


def listed(value: str | list[str]) -> list[str]:
    """One column, or a list of them."""
    return [value] if isinstance(value, str) else list(value)


def path(name: str) -> list[str]:
    r"""A name's steps into nested objects: parted by dots; `\.` is a dot and `\\` a backslash."""
    steps = re.findall(r"(?:\\[\\.]|[^.])+", name)
    return [re.sub(r"\\([\\.])", r"\1", step) for step in steps]


def read_source(written: Any, nulls: str = "omit") -> Source:
    """A value of the sync file: a column's name, `{column: …}` or `{value: …}`."""
    if isinstance(written, str):
        return Source(written, nulls=nulls)
    if "column" not in written:
        return Source(None, exact(written["value"]))
    return Source(
        written["column"], None, written.get("as"), written.get("unit"), written.get("nulls") or nulls
    )


def exact(constant: Any) -> Any:
    """A constant whose numbers keep their digits."""
    return json.loads(json.dumps(constant), parse_int=Decimal, parse_float=Decimal)


def read_sync(written: Mapping[str, Any], columns: Iterable[str]) -> Sync:
    """A sync file, given what columns its model has."""
    kind = next(one for one in ("identify", "group", "track", "audience") if one in written)
    block = written[kind]
    names = {"userId": "user_id", "anonymousId": "anonymous_id", "groupId": "group_id"}
    persons = kind in ("identify", "group")
    nulls = written.get("nulls") or ("clear" if persons else "omit")
    common = read_fields(block, "", nulls, columns)
    return Sync(
        kind,
        listed(written["primary_key"]),
        {name: Source(block[key]) for name, key in names.items() if key in block},
        common,
        dict(read_templates(kind, block, common, nulls)),
        {("context", "", name): read_source(one) for name, one in (block.get("context") or {}).items()},
        read_options(block["integrations"]) if "integrations" in block else None,
        listed(written["compare"]) if written.get("compare") else None,
        (written.get("on_new_column") or ("send" if persons else "baseline")) == "send",
        persons or written.get("initial") == "send",
        written.get("timezone") or "UTC",
        written.get("guards") or {},
        frozenset(str(one).strip().lower() for one in written.get("allow_ids") or []),
    )


def read_templates(
    kind: str, block: Mapping[str, Any], common: dict[Use, Source], nulls: str
) -> Iterator[tuple[str, Template]]:
    """What a sync sends for which kind of change."""
    if kind == "track":
        for change in ("added", "changed", "removed"):
            if change in block:
                yield change, read_track(block, change, common, nulls)
        return
    timestamp, message_id = read_moments(block, "")
    if kind == "audience":
        for change, stays in (("added", True), ("changed", True), ("removed", False)):
            event, fixed = audience_event(block, stays)
            moments = (timestamp, message_id) if stays else (None, None)
            yield change, Template(event, common, *moments, fixed=fixed)
        return
    yield "added", Template(None, common, timestamp, message_id)
    yield "changed", Template(None, common, timestamp, message_id)
    if "removed" in block:
        yield "removed", Template(None, read_fields(block["removed"], "removed", nulls))


def audience_event(block: Mapping[str, Any], enters: bool) -> tuple[str, dict[str, Any]]:
    """What an audience's call is named, and its own properties."""
    if block.get("style") == "engage":
        key = block.get("key") or re.sub(r"[^a-z0-9]+", "_", block["name"].lower()).strip("_")
        return f"Audience {'Entered' if enters else 'Exited'}", {"audience_key": key, key: enters}
    return f"Segment {'Entered' if enters else 'Exited'}", {"segment_name": block["name"]}


def read_track(block: Mapping[str, Any], change: str, common: dict[Use, Source], nulls: str) -> Template:
    """What a track sync sends for one kind of change."""
    written = block[change]
    written = {"event": written} if isinstance(written, str) else written
    if change == "added":
        written = {key: block[key] for key in ("timestamp", "message_id") if key in block} | written
    own = read_fields(written, change, nulls)
    in_place = {name: ("field", change, name) for _, _, name in own}
    places = [in_place.get(use[2], use) for use in common]
    event = written["event"]
    return Template(
        event if isinstance(event, str) else Source(event["column"]),
        {use: (common | own)[use] for use in [*places, *own]},
        *read_moments(written, change),
        written.get("previous", False),
    )


def read_fields(
    block: Mapping[str, Any], change: str, nulls: str, columns: Iterable[str] = ()
) -> dict[Use, Source]:
    """The properties or traits of a block, by their use."""
    written = block.get("traits") or block.get("properties") or {}
    if written == "all":
        left_out = unsent_columns(block)
        written = {re.sub(r"([\\.])", r"\\\1", one): one for one in columns if one not in left_out}
    return {("field", change, name): read_source(one, nulls) for name, one in written.items()}


def unsent_columns(block: Mapping[str, Any]) -> set[str]:
    """The columns that `all` leaves out: of ids, moments, message ids and events, and `except`."""
    kinds = [block.get(kind) for kind in ("added", "changed", "removed")]
    blocks = [block, *(one for one in kinds if isinstance(one, dict))]
    parts = ("user_id", "anonymous_id", "group_id", "timestamp", "message_id")
    named = [one[part] for one in blocks for part in parts if part in one]
    named += [one["event"] for one in blocks if isinstance(one.get("event"), dict)]
    return {one["column"] if isinstance(one, dict) else one for one in named} | set(
        listed(block.get("except", []))
    )


def read_options(written: Mapping[str, Any]) -> dict[Use, Source]:
    """The integrations, each a constant or a column."""
    return {
        ("option", "", name): read_source(one)
        if isinstance(one, dict) and "column" in one
        else Source(None, exact(one))
        for name, one in written.items()
    }


def read_moments(block: Mapping[str, Any], change: str) -> list[tuple[Use, Source] | None]:
    """The columns of timestamp and message id."""
    return [
        ((part, change, ""), read_source(block[part])) if block.get(part) else None
        for part in ("timestamp", "message_id")
    ]


# --- What is remembered between runs -----------------------------------------------------------------------

Version = dict[Use, Cell]


@dataclass(frozen=True)
class Table:
    """A model's result."""

    columns: dict[str, Type]
    rows: tuple[dict[str, Any], ...]


@dataclass(frozen=True)
class Memory:
    """What a sync knows from its earlier runs.

    Attributes:
        rows: each row's last version, by its key.
        sync: the sync of the last run; None before a first pass.
        silent: whether the first pass was a silent baseline.
    """

    rows: dict[str, Version] = field(default_factory=dict)
    sync: Sync | None = None
    silent: bool = False


@dataclass(frozen=True)
class Change:
    """A row of this run or of the snapshot, or both."""

    key: str
    kind: str
    before: Version | None
    after: Version | None


@dataclass(frozen=True)
class Call:
    """A call that is about to be sent, or rejected for a reason.

    Attributes:
        key: its row's key.
        kind: the kind of change that it tells of; the moved row of an audience is `removed`, then `changed`.
        message_id: the mapped one, or None for one of retl's own.
        body: the call but for timestamp and message id.
        reason: why it is rejected, if it is.
        undated: whether its mapped timestamp was null.
        keeps_row_back: whether its row is rejected with it; else only the call is, its row being gone.
    """

    key: str
    kind: str
    moment: datetime
    message_id: str | None
    body: dict[str, Any]
    reason: str | None
    undated: bool
    keeps_row_back: bool


@dataclass(frozen=True)
class Outcome:
    """What a run must come to; `counts` is None where it stopped before it had a diff to act on."""

    exit_code: int
    calls: tuple[Call, ...] = ()
    counts: dict[str, Any] | None = None
    rejected_by: Mapping[str, int] = field(default_factory=dict)
    rejected_calls: Mapping[str, int] = field(default_factory=dict)
    tripped: frozenset[str] = frozenset()


# --- The run -----------------------------------------------------------------------------------------------


def run(
    written: Mapping[str, Any],
    table: Table,
    now: datetime,
    memory: Memory,
    *,
    backfill: bool = False,
    full: bool = False,
    forced: frozenset[str] = frozenset(),
) -> tuple[Outcome, Memory]:
    """What a run of a sync comes to, and what is known after it."""
    sync = read_sync(written, table.columns)
    first = memory.sync is None
    if memory.sync is not None and sync.identity != memory.sync.identity:
        return Outcome(exit_code=2), memory
    if backfill and memory.silent:
        return Outcome(exit_code=2), memory
    silent = first and not (sync.sends_first_pass or backfill or full)

    rows, faults, shared = by_key(sync, table)
    last, memory = memory, read_anew(sync, table, memory)
    changes = list(diff(sync, rows, shared, memory))
    found = Counter(one.kind for one in changes)
    tripped = frozenset(tripped_guards(sync, found, len(rows), len(memory.rows), first, silent))
    tripped |= frozenset(tripped_by_faults(sync, faults.total(), len(table.rows)))
    if tripped - forced:
        return Outcome(exit_code=4, tripped=tripped), last

    calls = [] if silent else reject_shared_ids(list(make_calls(sync, changes, now, full)))
    rejected: dict[str, str] = {}
    for call in calls:
        if call.reason and call.keeps_row_back:
            rejected[call.key] = first_of(call.reason, rejected.get(call.key, call.reason))
    lost = Counter(
        call.reason for call in calls if call.reason and not call.keeps_row_back and call.key not in rejected
    )
    leaving = [call for call in calls if not call.reason and call.key not in rejected]
    kept = Counter(one.kind for one in changes if one.key not in rejected)
    reasons = faults + Counter(rejected.values())
    outcome = Outcome(
        exit_code=1 if reasons or lost else 0,
        calls=tuple(sorted(leaving, key=lambda call: place(sync, call))),
        counts={
            "rows_read": len(table.rows),
            "unchanged": kept["unchanged"],
            "added": kept["added"],
            "changed": kept["changed"],
            "removed": kept["removed"],
            "rejected_rows": reasons.total(),
            "baseline": silent,
            "undated": sum(call.undated for call in leaving),
        },
        rejected_by=reasons,
        rejected_calls=lost,
        tripped=tripped,
    )
    remembered = dict(remember(sync, changes, rejected, memory, full))
    for key in shared & memory.rows.keys():
        remembered[key] = memory.rows[key]
    return outcome, Memory(remembered, sync, (silent if first else memory.silent) and not full)


def by_key(sync: Sync, table: Table) -> tuple[dict[str, Version], Counter[str], set[str]]:
    """The rows by their keys; how many have a key at fault, by reason; the keys that several rows share."""
    keyed, without = all_by_key(sync, table)
    shared = {key for key, rows in keyed.items() if len(rows) > 1}
    faults = Counter(null_key=without, duplicate_key=sum(len(keyed[key]) for key in shared))
    return {key: rows[0] for key, rows in keyed.items() if key not in shared}, +faults, shared


def all_by_key(sync: Sync, table: Table) -> tuple[dict[str, list[Version]], int]:
    """All rows by their keys, and how many have none."""
    keyed: dict[str, list[Version]] = {}
    for row in table.rows:
        cells = [Source(column).cell(table, row, sync.zone) for column in sync.primary_key]
        parts = [text_of(cell, sync.zone) for cell in cells]
        if None not in parts:
            several = json.dumps(parts, separators=(",", ":"), ensure_ascii=False)
            version = {use: one.cell(table, row, sync.zone) for use, one in sync.uses.items()}
            keyed.setdefault(several if len(parts) > 1 else str(parts[0]), []).append(version)
    return keyed, len(table.rows) - sum(map(len, keyed.values()))


def read_anew(sync: Sync, table: Table, memory: Memory) -> Memory:
    """What is known, with local times read in the zone of now where it was edited and they are the same."""
    if memory.sync is None or memory.sync.zone == sync.zone:
        return memory
    known = dict(memory.rows)
    keyed, _ = all_by_key(sync, table)
    for key in known.keys() & keyed.keys():
        for row in keyed[key]:
            known[key] = {
                use: replace(was, zone=sync.zone)
                if any(
                    is_same(was, now, memory.sync.zone)
                    for now in (row.get(use), by_column(row).get(was.column))
                )
                else was
                for use, was in known[key].items()
            }
    return replace(memory, rows=known)


def is_same(was: Cell, now: Cell | None, zone: str) -> bool:
    """Whether local times in an array or a struct are the same, had the zone not been edited."""
    if now is None or was.zone is None or now.zone is None:
        return False
    return canonical(plain(was.type, was.value, was.zone)) == canonical(plain(now.type, now.value, zone))


def diff(sync: Sync, rows: Mapping[str, Version], shared: set[str], memory: Memory) -> Iterator[Change]:
    """What happened to each row; a key that several rows share is not removed."""
    for key, after in rows.items():
        before = memory.rows.get(key)
        if before is None or memory.sync is None:
            yield Change(key, "added", None, after)
            continue
        known = comparable(sync, before, after, memory.sync)
        changed = any(differs(sync, known, after, use) for use in sync.compared)
        yield Change(key, "changed" if changed else "unchanged", before, after)
    for key in memory.rows.keys() - rows.keys() - shared:
        yield Change(key, "removed", last_known(sync, memory.rows[key]), None)


def last_known(sync: Sync, before: Version) -> Version:
    """What a row that is gone leaves for the mapping of today: of the column, else of what was sent."""
    columns = by_column(before)
    known = {}
    for use, source in sync.uses.items():
        same = use in before and before[use].column == source.column
        known[use] = before[use] if same else columns.get(source.column, before.get(use))
    return {use: cell for use, cell in known.items() if cell is not None}


def by_column(version: Version) -> dict[str, Cell]:
    """What a version knows of each column, best from what is sent or compared."""
    rest = ("context", "option", "timestamp", "message_id", "event")
    return {version[use].column: version[use] for use in sorted(version, key=lambda use: use[0] not in rest)}


def comparable(sync: Sync, before: Version, after: Version, last: Sync) -> Version:
    """What a row is compared with by the mapping of today: a column that is new to it starts from now.

    A new trait or property that is to be sent was nothing before, so that its values make a row changed.
    """
    columns = by_column(before)
    compared = {source.column for source in last.compared.values()}
    version = {}
    for use, source in sync.compared.items():
        cell = None if use[0] == "field" and sync.sends_new_columns else columns.get(source.column)
        compared_then = use[0] == "id" or use in last.compared or source.column in compared
        starts = not compared_then and not sync.sends_new_columns
        if not starts and (use in before or cell):
            version[use] = before.get(use) or cell
        elif not (use[0] == "field" and sync.sends_new_columns):
            version[use] = after[use]
    return version


def value_of(sync: Sync, version: Version, use: Use, source: Source) -> Any:
    """What a version has for a use; nothing where it has nothing.

    It is read as the mapping of today says, unless it is of another column than that speaks of.
    """
    cell = version.get(use)
    if cell is None:
        return None
    if use[0] in ("id", "message_id"):
        return text_of(cell, cell.zone or sync.zone)
    if cell.column == source.column:
        cell = replace(cell, read_as=source.read_as, unit=source.unit)
    return as_json(cell, cell.zone or sync.zone)


def differs(sync: Sync, before: Version, after: Version, use: Use) -> bool:
    """Whether a column is another than it was, by its canonical value: as it is sent, and as it is.

    Values that are equal stay so with `as`, such as JSON that `as: text` spells otherwise.
    """
    source = sync.uses[use]
    was, now = (value_of(sync, version, use, source) for version in (before, after))
    if canonical(was) == canonical(now):
        return False
    cells = before.get(use), after.get(use)
    was, now = (plain(cell.type, cell.value, cell.zone or sync.zone) if cell else None for cell in cells)
    return canonical(was) != canonical(now)


def tripped_guards(
    sync: Sync, found: Mapping[str, int], usable: int, snapshot: int, first: bool, silent: bool
) -> Iterator[str]:
    """The names of the guards that stop such a diff."""
    if usable < int(sync.guards.get("min_rows", 1)):
        yield "min_rows"
    for name in ("removed", "changed", "added"):
        limit = sync.guards.get(name, "off")
        if limit == "off" or silent:
            continue
        if isinstance(limit, int):
            if found[name] > limit:
                yield name
        elif not first and found[name] * 100 > int(limit.rstrip("%")) * snapshot:
            yield name


def tripped_by_faults(sync: Sync, faults: int, rows: int) -> Iterator[str]:
    """The guard on rows that cannot be compared; of so few rows, only where its limit is written."""
    limit = sync.guards.get("rejected", "off")
    if (isinstance(limit, int) and faults > limit) or (
        isinstance(limit, str) and limit != "off" and faults * 100 > int(limit.rstrip("%")) * rows
    ):
        yield "rejected"


def place(sync: Sync, call: Call) -> tuple[Any, ...]:
    """Where a call stands in its run: by moment, kind of change and key.

    Those of an audience are of one moment: first all who leave, then all who enter.
    """
    if sync.kind == "audience":
        return "", call.kind != "removed", call.key.encode()
    return spelled_instant(call.moment), RANK[call.kind], call.key.encode()


def remember(
    sync: Sync, changes: Iterable[Change], rejected: Mapping[str, str], memory: Memory, full: bool
) -> Iterator[tuple[str, Version]]:
    """The versions after a run; a rejected row keeps the one that it had.

    An unchanged row keeps what it was at its last call, and learns what the mapping did not ask for before. A
    column that is compared is known as it is now, for all that it feeds, though the value is equal and only
    spelled otherwise.
    """
    compared = {source.column for source in sync.compared.values()}
    for one in changes:
        if one.key in rejected:
            if one.key in memory.rows:
                yield one.key, memory.rows[one.key]
        elif one.kind == "unchanged":
            assert one.before is not None and one.after is not None
            learned = dict(learn(sync, one.before, one.after, memory.sync))
            kept = {use: cell for use, cell in one.before.items() if use in sync.uses}
            of_now = [use for use, source in sync.uses.items() if source.column in compared]
            current = {use: one.after[use] for use in of_now}
            yield one.key, one.after if full else learned | kept | current
        elif one.after is not None:
            yield one.key, one.after


def learn(sync: Sync, before: Version, after: Version, last: Sync | None) -> Iterator[tuple[Use, Cell]]:
    """What an unchanged row is known to be.

    Of a new field that is to be sent, and under `compare` is not yet, nothing is known; but where its column
    feeds something else, too, it is known as the column is.
    """
    assert last is not None
    columns, last_columns = by_column(before), {source.column for source in last.uses.values()}
    for use, cell in after.items():
        if use[0] != "field" or use[1] == "removed" or not sync.sends_new_columns:
            yield use, cell
        elif not feeds_new_fields_alone(sync, last, cell.column):
            known = columns.get(cell.column) if cell.column in last_columns else cell
            if known is not None:
                yield use, known


def feeds_new_fields_alone(sync: Sync, last: Sync, column: str | None) -> bool:
    """Whether a column feeds nothing but fields of current rows that the last mapping did not have."""
    fed = [use for use, one in sync.uses.items() if one.column == column and use[0] != "compare"]
    return all(use[0] == "field" and use[1] != "removed" and use not in last.uses for use in fed)


# --- Calls -------------------------------------------------------------------------------------------------

RANK = {"removed": 0, "added": 1, "changed": 2}

LOOKS_LIKE_A_MISTAKE = {
    "", "0", "-1", "null", "undefined", "anonymous", "nan", "00000000-0000-0000-0000-000000000000"
}  # fmt: skip


def make_calls(sync: Sync, changes: Iterable[Change], now: datetime, full: bool) -> Iterator[Call]:
    """The calls of all changes; with `full`, every row that is there is told of."""
    for change in changes:
        if sync.kind == "audience":
            yield from audience_calls(sync, change, now, full)
            continue
        if change.kind in sync.templates:
            own_id = full and sync.kind != "track" and change.kind == "changed"
            yield make_call(sync, change, change.kind, now, own_id=own_id)
        resent = change.kind == "unchanged" or (sync.kind == "track" and change.kind == "changed")
        if full and resent and "added" in sync.templates:
            yield make_call(sync, change, "added", now, own_id=True)


def audience_calls(sync: Sync, change: Change, now: datetime, full: bool) -> Iterator[Call]:
    """Who enters and who leaves; a row that goes over to other ids does both at one moment."""
    if change.kind in ("added", "removed"):
        yield make_call(sync, change, change.kind, now)
    elif moved(sync, change) and (full or change.kind == "changed"):
        enters = make_call(sync, change, "changed" if change.kind == "changed" else "added", now, own_id=full)
        assert change.before is not None
        was = newly_spelled(sync, last_known(sync, change.before), change.after or {})
        if any(
            value_of(sync, was, ("id", "", name), source) is not None for name, source in sync.ids.items()
        ):
            exits = make_call(sync, Change(change.key, "removed", was, None), "removed", now)
            yield replace(exits, moment=enters.moment, undated=enters.undated)
        yield enters
    elif full:
        yield make_call(sync, change, "added", now, own_id=True)


def newly_spelled(sync: Sync, was: Version, now: Version) -> Version:
    """What a version was, by the newer spelling of values that are equal."""
    equal = (use for use in was.keys() & now.keys() if not differs(sync, was, now, use))
    return was | {use: now[use] for use in equal}


def moved(sync: Sync, change: Change) -> bool:
    """Whether a row went over to another user or anonymous id."""
    assert change.before is not None and change.after is not None
    return any(differs(sync, change.before, change.after, ("id", "", name)) for name in sync.ids)


def make_call(sync: Sync, change: Change, kind: str, now: datetime, *, own_id: bool = False) -> Call:
    """A call that tells of a change: the row as it is, or as it was last known where it is gone.

    A changed row whose moment is not later than at its last call takes the moment of detection. What is sent
    again has an id of retl's own.
    """
    template = sync.templates[kind]
    row = change.after if change.after is not None else change.before
    before = change.before if change.after is not None else None
    assert row is not None
    ids = {name: value_of(sync, row, ("id", "", name), source) for name, source in sync.ids.items()}
    event = event_name(sync, template, kind, row)
    mapped = mapped_moment(sync, template, row)
    last = mapped_moment(sync, template, before) if before and kind == "changed" else None
    stale = isinstance(mapped, datetime) and isinstance(last, datetime) and mapped <= last
    message_id = None if own_id else mapped_id(sync, template, row)
    last_id = mapped_id(sync, template, before) if before else None
    fields = dict(sent_fields(sync, template, row, before))
    if template.previous:
        fields |= previous(sync, template, row, last_known(sync, before or {}) | (before or {}))
    context = dict(sent_beside(sync, sync.context, row))
    options = None if sync.options is None else dict(sent_beside(sync, sync.options, row))
    body = {
        "type": sync.kind if sync.kind in ("identify", "group") else "track",
        **{name: value for name, value in ids.items() if value is not None},
        **({} if event is None else {"event": event}),
        "traits" if sync.kind in ("identify", "group") else "properties": template.fixed | nested(fields),
        **({"context": nested(context)} if context else {}),
        **({} if options is None else {"integrations": options}),
    }
    reasons = [
        *id_faults(sync, ids),
        *(["no_event_name"] if event == "" else []),
        *([mapped.reason] if isinstance(mapped, Bad) else []),
        *(["duplicate_message_id"] if message_id and message_id == last_id else []),
        *bad_values([*fields.values(), *context.values(), *(options or {}).values()]),
        *(["message_id_too_long"] if message_id and len(message_id) > 100 else []),
    ]
    return Call(
        change.key,
        kind,
        mapped if isinstance(mapped, datetime) and not stale else now,
        message_id,
        body,
        first_of(*reasons) if reasons else None,
        undated=mapped is None and template.timestamp is not None,
        keeps_row_back=change.after is not None,
    )


REASONS = [
    "no_id",
    "no_group_id",
    "blocked_id",
    "no_event_name",
    "bad_timestamp",
    "bad_json",
    "bad_number",
    "bad_boolean",
    "bad_text",
    "message_id_too_long",
    "duplicate_message_id",
]
"""The reasons of docs/promises/silent-200.md that a history can give to calls."""


def first_of(*reasons: str) -> str:
    """The one of several reasons that is told."""
    return min(reasons, key=REASONS.index)


def event_name(sync: Sync, template: Template, kind: str, row: Version) -> str | None:
    """The event's name; empty where the row should have it and has not."""
    if not isinstance(template.event, Source):
        return template.event
    return value_of(sync, row, ("event", kind, ""), template.event) or ""


def mapped_moment(sync: Sync, template: Template, row: Version) -> datetime | Bad | None:
    """The moment that a row brings, if it does."""
    if template.timestamp is None or template.timestamp[0] not in row:
        return None
    use, source = template.timestamp
    return instant(replace(row[use], read_as=source.read_as, unit=source.unit), sync.zone)


def mapped_id(sync: Sync, template: Template, row: Version) -> str | None:
    """The message id that a row brings, if it does."""
    if template.message_id is None:
        return None
    return value_of(sync, row, *template.message_id) or None


def sent_fields(
    sync: Sync, template: Template, row: Version, before: Version | None
) -> Iterator[tuple[str, Any]]:
    """Properties or traits by name; a null goes along as its field's `nulls` has it."""
    for use, source in template.fields.items():
        value = value_of(sync, row, use, source) if source.column else source.constant
        cleared = before is not None and value_of(sync, before, use, source) is not None
        shown = {"send": True, "omit": False, "clear": cleared}[source.nulls]
        if value is not None or shown or source.column is None:
            yield use[2], value


def sent_beside(sync: Sync, sources: dict[Use, Source], row: Version) -> Iterator[tuple[str, Any]]:
    """The context or the integrations by name, without nulls."""
    for use, source in sources.items():
        value = value_of(sync, row, use, source) if source.column else source.constant
        if value is not None:
            yield use[2], value


def previous(sync: Sync, template: Template, row: Version, before: Version) -> dict[str, Any]:
    """What the properties that differ were before, and their names; what could not be sent was nothing."""
    uses = [use for use, source in template.fields.items() if source.column]
    uses = [use for use in uses if differs(sync, before, row, use)]
    was = {use[2]: value_of(sync, before, use, template.fields[use]) for use in uses}
    was = {name: None if [*bad_values([value])] else value for name, value in was.items()}
    return {"previous": nested(was), "changed": [".".join(path(name)) for name in was]}


def nested(fields: Mapping[str, Any]) -> dict[str, Any]:
    """An object out of dotted names."""
    built: dict[str, Any] = {}
    for name, value in fields.items():
        *outer, last = path(name)
        inner = built
        for step in outer:
            inner = inner.setdefault(step, {})
        inner[last] = value
    return built


def id_faults(sync: Sync, ids: Mapping[str, str | None]) -> Iterator[str]:
    """Why Segment could not tell by these ids who is meant."""
    if ids.get("userId") is None and ids.get("anonymousId") is None:
        yield "no_id"
    if "groupId" in ids and not ids["groupId"]:
        yield "no_group_id"
    for name, value in ids.items():
        shape = None if value is None else value.strip().lower()
        empty = value == "" and name != "groupId"
        if empty or (value and shape in LOOKS_LIKE_A_MISTAKE and shape not in sync.allowed):
            yield "blocked_id"


def bad_values(values: Iterable[Any]) -> Iterator[str]:
    """Why values cannot be sent, also those inside others."""
    for value in values:
        match value:
            case Bad(reason):
                yield reason
            case dict():
                yield from bad_values(value.values())
            case list():
                yield from bad_values(value)


def reject_shared_ids(calls: Sequence[Call]) -> list[Call]:
    """The calls, of which all that share a message id are rejected."""
    copies = Counter(call.message_id for call in calls if call.message_id)
    return [
        replace(call, reason="duplicate_message_id")
        if call.message_id and copies[call.message_id] > 1 and not call.reason
        else call
        for call in calls
    ]
