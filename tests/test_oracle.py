"""Whole syncs against the oracle: any sync, rows and edits, over several runs, send what oracle.py says.

`RETL_TEST_EXAMPLES=2000 pytest tests/test_oracle.py` looks longer than the suite does; from 500 examples on,
elsewhere each time.
"""

import copy
import json
import os
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import oracle
import pytest
from harness import Bench, Outcome, StillClock
from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st
from oracle import Digits, ListOf, StructOf, Table, Type

from retl import sql
from retl.job import Options
from retl.warehouse import Warehouse

pytestmark = pytest.mark.slow

EXAMPLES = int(os.environ.get("RETL_TEST_EXAMPLES", "12"))

# --- The model's rows --------------------------------------------------------------------------------------

NAN, INFINITY = float("nan"), float("inf")
EAST = timezone(timedelta(hours=2))

TEXTS = ["", "null", "1", "a", "true", 'O\'Brien "q" \\ {x}', "🎉\u2028ü", "\0\x1f\x7f\n\t", " 1.50 "]
DATA: dict[Type, list[Any]] = {
    "INTEGER": [0, 1, 7],
    "BIGINT": [1, 7, 2**53 - 1, 2**53, 2**53 + 1, -(2**53) + 1, -(2**53)],
    "DECIMAL(9,2)": [Decimal("1.00"), Decimal("0.10"), Decimal("7.50"), Decimal("-3.00")],
    "DECIMAL(38,9)": [Decimal("12345678901234567890.123456789"), Decimal("1.000000000"), Decimal("-0.25")],
    "DOUBLE": [1.0, 0.1, 0.0, -0.0, 7.5, NAN, INFINITY, -INFINITY, 1e300, 5e-324],
    "BOOLEAN": [True, False],
    "VARCHAR": TEXTS,
    "DATE": [date(2026, 1, 2), date(1969, 12, 31)],
    "TIMESTAMP": [
        datetime(2026, 1, 2),
        datetime(2026, 1, 2, 3, 4, 5, 678901),
        datetime(2026, 1, 2, 3, 4, 5, 678999),
        datetime(2026, 3, 29, 2, 30),
        datetime(2026, 10, 25, 2, 30),
        datetime(1969, 12, 31, 23, 59, 59, 999999),
    ],
    "TIMESTAMPTZ": [
        datetime(2026, 1, 2, tzinfo=UTC),
        datetime(2026, 1, 2, 2, tzinfo=EAST),
        datetime(2026, 1, 2, 3, 4, 5, 678000, tzinfo=UTC),
    ],
    "JSON": [
        '{"a":1.0,"b":[1,null]}',
        '{"b": [1, null], "a": 1.00}',
        '{"a":"1","b":[null,1]}',
        "null",
        '"x"',
        "[1.10]",
        "12345678901234567890.123",
        '{"n":NaN}',
        '{"n":7.5,"at":"2026-01-02T00:00:00.000Z","it\'s":null}',
    ],
    ListOf("DOUBLE"): [[], [1.0, None, NAN], [0.1], [0.1, 1.0]],
    ListOf("VARCHAR"): [[], ["a", None], [""], ["null"]],
    StructOf((("at", "TIMESTAMP"), ("n", "DECIMAL(9,2)"), ("it's", "BIGINT"))): [
        {"at": datetime(2026, 1, 2), "n": Decimal("7.50"), "it's": None},
        {"at": datetime(2026, 1, 2), "n": None, "it's": 2**53},
    ],
    ListOf(StructOf((("x", "BOOLEAN"), ("d", ListOf("DATE"))))): [
        [{"x": True, "d": [date(2026, 1, 2), None]}, None],
        [],
    ],
}
KEYS: dict[Type, list[Any]] = {
    "VARCHAR": ["1", "10", "2", "9", "k", "K", "", " k", "ä", "NULL"],
    "BIGINT": [1, 2, 9, 10],
    "DECIMAL(9,2)": [Decimal(1), Decimal(2), Decimal(9), Decimal(10)],
    "DOUBLE": [1.0, 2.0, 9.0, 10.0],
}
USERS: dict[Type, list[Any]] = {
    "VARCHAR": ["u1", "u2", "u3"] * 4 + ["1", " u1 ", "", "0", "NaN", " Anonymous"],
    "BIGINT": [1, 2, 7] * 3 + [0],
    "DECIMAL(9,2)": [Decimal("1.00"), Decimal("2.00"), Decimal("1.50")],
    "DOUBLE": [1.0, 2.0, 1.5, NAN],
}
MOMENTS: dict[Type, list[Any]] = {
    "TIMESTAMP": [*DATA["TIMESTAMP"], datetime(2026, 2, 1), datetime(2026, 3, 1, 15)],
    "TIMESTAMPTZ": [*DATA["TIMESTAMPTZ"], datetime(2026, 2, 1, tzinfo=UTC)],
    "DATE": [date(2026, 1, 2), date(2026, 2, 1)],
    "VARCHAR": [
        "2026-01-02",
        "2026-01-02 03:04:05.678",
        "2026-01-03T04:05:06+01:00",
        "2026-02-01T00:00Z",
        "soon",
    ],
    "JSON": ['"2026-01-02"', '"2026-02-01T00:00Z"', '"soon"', "null"],
}
EPOCHS: dict[Type, list[Any]] = {
    "BIGINT": [0, 1767225600, 1769904000],
    "DOUBLE": [0.0, 1767225600.25, 1769904000.0, NAN],
    "DECIMAL(16,2)": [Decimal("1767225600.25"), Decimal("1769904000.00")],
    "VARCHAR": ["1767225600", "0", "2026-01-01", "nan"],
}
JSONS: dict[Type, list[Any]] = {
    "VARCHAR": ['{"a":1.0,"b":2}', '{"b":2, "a":1}', "7", '"x"', "[]", "{'a':1}", "", "null"],
    "JSON": DATA["JSON"],
}
IDS: dict[Type, list[Any]] = {
    "VARCHAR": ["e1", "e2", "e3", "e4", "e5", "e6", "", "e" * 100, "e" * 101],
    "BIGINT": [1, 2, 3, 4, 5, 2**60],
}
NAMED: dict[Type, list[Any]] = {"VARCHAR": ["Joined", 'Went "out"', "Joined", ""]}
SCALARS: dict[Type, list[Any]] = {name: DATA[name] for name in ("VARCHAR", "JSON", "BOOLEAN", "DOUBLE")}
NUMBERS: dict[Type, list[Any]] = {
    "VARCHAR": [
        "1",
        " 1.50 ",
        "+007",
        "-0",
        ".5",
        "5.",
        "1E5",
        "-01.50e-3",
        "9007199254740993",
        "",
    ],
    "BIGINT": DATA["BIGINT"],
    "DECIMAL(9,2)": DATA["DECIMAL(9,2)"],
    "DOUBLE": DATA["DOUBLE"],
    "BOOLEAN": [True, False],
    "JSON": ["1.50", '"7"', '" 07 "', "null", "[7]"],
}
FLAGS: dict[Type, list[Any]] = {
    "VARCHAR": [" True ", "t", "YES", "y", "on", "1", "false", "F", "no", "N", "off", "0", "", "2", "maybe"],
    "BIGINT": [0, 1, 2],
    "DECIMAL(9,2)": [Decimal("1.00"), Decimal("0.00"), Decimal("0.50")],
    "DOUBLE": [1.0, -0.0, NAN, 0.5],
    "BOOLEAN": [True, False],
    "JSON": ["1.0", "0", "true", "null", '"yes"', '"1.0"', "1.5"],
}

POOLS: dict[str, dict[Type, list[Any]]] = {
    "id": KEYS,
    "part": {"VARCHAR": ["x", "y"]},
    "user": USERS,
    "device": USERS,
    "account": USERS,
    **dict.fromkeys("abcd", DATA),
    "js": JSONS,
    **dict.fromkeys(("at", "upd", "ends"), MOMENTS),
    "epoch": EPOCHS,
    **dict.fromkeys(("ev", "bye"), IDS),
    "what": NAMED,
    "scalar": SCALARS,
    "num": NUMBERS,
    "flag": FLAGS,
    "new": SCALARS,
}


def draw_type(draw: st.DrawFn, column: str) -> Type:
    """A column's type; texts, moments and numbers are the more usual ones for keys and ids."""
    types = list(POOLS[column])
    return draw(st.sampled_from(types if column in "abcd" else [types[0], *types]))


def draw_value(draw: st.DrawFn, column: str, kind: Type) -> Any:
    """A value of a column, or null, which parts of keys seldom are."""
    values = POOLS[column][kind]
    seldom = {"id": 19, "part": 19, "user": 3, "device": 3, "account": 9, "what": 9, "ev": 3}.get(column, 0)
    nulls = [] if seldom and draw(st.integers(0, seldom)) else [None]
    return draw(st.sampled_from(values + nulls))


def retyped(draw: st.DrawFn, column: str, value: Any, kind: Type) -> Any:
    """A value in another type: the equal one, if there is one."""
    if value is None:
        return None
    equal = [one for one in POOLS[column][kind] if oracle.plain(kind, one, "UTC") == value]
    return equal[0] if equal else draw_value(draw, column, kind)


def draw_tables(draw: st.DrawFn, columns: Sequence[str], count: int) -> list[Table]:
    """A model's results in so many runs: from one to the next rows stay, change, go, come and double."""
    tables: list[Table] = []
    types: dict[str, Type] = {}
    rows: list[dict[str, Any]] = []
    for _ in range(count):
        for column in [one for one in columns if one not in types or draw(st.integers(0, 11)) == 11]:
            kind = draw_type(draw, column)
            if column in types and kind != types[column]:
                rows = [{**row, column: retyped(draw, column, row[column], kind)} for row in rows]
            types[column] = kind
        rows = [one for row in rows for one in evolved(draw, row, columns, types)]
        known = {(row["id"], row.get("part")) for row in rows}
        for _ in range(draw(st.integers(0, 3) if tables else st.integers(2, 6))):
            row = {column: draw_value(draw, column, types[column]) for column in columns}
            if (row["id"], row.get("part")) not in known or draw(st.integers(0, 9)) == 9:
                known.add((row["id"], row.get("part")))
                rows.append(row)
        rows = rows[:8]
        tables.append(without(Table(dict(types), tuple(rows)), draw(st.sampled_from(["", "", "new"]))))
    return tables


def without(table: Table, column: str) -> Table:
    """A table that lacks a column."""
    columns = {name: kind for name, kind in table.columns.items() if name != column}
    return Table(columns, tuple({name: row[name] for name in columns} for row in table.rows))


def evolved(
    draw: st.DrawFn, row: dict[str, Any], columns: Sequence[str], types: Mapping[str, Type]
) -> list[dict[str, Any]]:
    """A row as it is in the next run."""
    match draw(st.integers(0, 19)):
        case 0 | 1 | 2 | 3 | 4 | 5:
            return [row]
        case 17 | 18:
            return []
        case 19:
            return [row, row]
    touched = draw(st.lists(st.sampled_from(columns), min_size=1, max_size=4))
    return [
        {**row, **{one: draw_value(draw, one, types[one]) for one in touched if one not in ("id", "part")}}
    ]


def select(table: Table) -> str:
    """A SELECT that yields a table, with its types."""
    names = ", ".join(sql.name(one) for one in table.columns)
    rows = table.rows or [dict.fromkeys(table.columns)]
    lines = (
        ", ".join(
            f"CAST({literal(kind, row[name])} AS {type_name(kind)})" for name, kind in table.columns.items()
        )
        for row in rows
    )
    nothing = "" if table.rows else " WHERE false"
    return f"SELECT * FROM (VALUES ({'), ('.join(lines)})) AS given({names}){nothing}"


def type_name(kind: Type) -> str:
    """A type as DuckDB calls it."""
    match kind:
        case ListOf(item):
            return f"{type_name(item)}[]"
        case StructOf(fields):
            return f"STRUCT({', '.join(f'{sql.name(name)} {type_name(one)}' for name, one in fields)})"
    return kind


def literal(kind: Type, value: Any) -> str:
    """A value as SQL."""
    if value is None:
        return "NULL"
    match kind:
        case ListOf(item):
            return f"[{', '.join(f'CAST({literal(item, one)} AS {type_name(item)})' for one in value)}]"
        case StructOf(fields):
            inner = (f"{sql.text(name)}: {literal(one, value[name])}" for name, one in fields)
            return f"{{{', '.join(inner)}}}"
    return " || chr(0) || ".join(sql.text(part) for part in str(value).split("\0"))


# --- Syncs and their edits ---------------------------------------------------------------------------------

NAMES = ["plan", "c.x", "c.y", "d.e.f", "größe", 'say "it\'s"', r"c\.x", r"back\\.slash", r"e\f\\"]
CONSTANTS = ["shop", 1, 0.5, None, True, {"tags": ["a", 1, None], "n": 1.25}, []]
NULLS = ["clear", "send", "omit"]
EVENTS = ["Joined", 'It\'s "{new}" ✓', "Plan Changed"]
ZONES = ["UTC", "Europe/Berlin", "America/New_York"]

Written = dict[str, Any]
"""A sync, as its file has it."""


def draw_field(draw: st.DrawFn) -> Any:
    """What a trait or property takes its value from."""
    written: Any = draw(
        st.sampled_from(
            [
                *"abcdabcd",
                {"column": "js", "as": "json"},
                {"column": "js"},
                {"column": "at", "as": "timestamp"},
                {"column": "epoch", "as": "timestamp", "unit": "s"},
                {"column": "scalar", "as": "text"},
                {"column": "num", "as": "number"},
                {"column": "flag", "as": "boolean"},
                "num",
                "upd",
                "value",
            ]
        )
    )
    if written == "value":
        return {"value": draw(st.sampled_from(CONSTANTS))}
    if draw(st.integers(0, 3)) == 3:
        named = {"column": written} if isinstance(written, str) else written
        return {**named, "nulls": draw(st.sampled_from(NULLS))}
    return written


def draw_fields(draw: st.DrawFn, names: Sequence[str]) -> dict[str, Any]:
    """Traits or properties."""
    chosen = draw(st.lists(st.sampled_from(names), unique=True, max_size=4))
    return {name: draw_field(draw) for name in chosen}


def draw_context(draw: st.DrawFn) -> dict[str, Any]:
    """A call's context."""
    sources = ["a", "b", {"column": "js", "as": "json"}, {"value": "server"}]
    names = draw(st.lists(st.sampled_from(["ip", "traits.email", "traits.n"]), unique=True, max_size=2))
    return {name: draw(st.sampled_from(sources)) for name in names}


MOMENT = ["at", {"column": "at", "as": "timestamp"}, {"column": "epoch", "as": "timestamp", "unit": "s"}]


def draw_block(draw: st.DrawFn, kind: str) -> Written:
    """The block of a kind of sync."""
    ids = draw(st.sampled_from([["user_id"], ["user_id"], ["anonymous_id"], ["user_id", "anonymous_id"]]))
    columns = {"user_id": "user", "anonymous_id": "device"}
    block: Written = {one: columns[one] for one in ids}
    if kind == "group":
        block["group_id"] = "account"
    fields = "traits" if kind in ("identify", "group") else "properties"
    block[fields] = draw_fields(draw, NAMES)
    if draw(st.integers(0, 4)) == 4:
        block[fields] = "all"
        edit_except(draw, {kind: block})
    if draw(st.booleans()):
        block["context"] = draw_context(draw)
    if draw(st.integers(0, 3)) == 3:
        switch = draw(st.sampled_from([True, False, {"column": "flag", "as": "boolean"}, {"column": "b"}]))
        block["integrations"] = {"All": switch, "Insider (Actions)": {"x": 1}}
    if kind == "track":
        return block | draw_events(draw)
    if draw(st.integers(0, 2)) == 2:
        block["timestamp"] = draw(st.sampled_from(MOMENT))
    if draw(st.integers(0, 3)) == 3:
        block["message_id"] = "ev"
    if kind == "audience":
        block["name"] = draw(st.sampled_from(["VIP", "Big Spenders"]))
        block["style"] = draw(st.sampled_from(["hightouch", "engage"]))
        if block["style"] == "engage" and draw(st.booleans()):
            block["key"] = "big"
    elif draw(st.booleans()):
        block["removed"] = {"traits": draw_fields(draw, NAMES) or {"gone": {"value": True}}}
    return block


def draw_events(draw: st.DrawFn) -> Written:
    """The events of a track sync."""
    kinds = draw(st.sets(st.sampled_from(["added", "changed", "removed"]), min_size=1))
    kinds = draw(st.sampled_from([sorted(kinds), ["added", "changed", "removed"]]))
    return {kind: draw_event(draw, kind) for kind in kinds}


def draw_event(draw: st.DrawFn, kind: str) -> Any:
    """The event of a kind of change."""
    event = draw(st.sampled_from([*EVENTS, {"column": "what"}]))
    if isinstance(event, str) and draw(st.integers(0, 2)) == 2:
        return event
    written: Written = {"event": event}
    if draw(st.booleans()):
        own = {"added": MOMENT, "changed": ["upd"], "removed": ["ends"]}
        written["timestamp"] = draw(st.sampled_from(own[kind]))
    if draw(st.integers(0, 2)) == 2:
        written["message_id"] = "bye" if kind == "removed" else "ev"
    if draw(st.integers(0, 2)) == 2:
        written["properties"] = draw_fields(draw, [f"{kind} own", "plan"])
    if kind == "changed" and draw(st.booleans()):
        written["previous"] = True
    return written


GUARDS = [
    {},
    {},
    {"min_rows": 0},
    {"min_rows": 2},
    {"removed": 1, "changed": 1, "added": 3},
    {"removed": "50%", "changed": "50%"},
    {"added": "100%", "changed": "off"},
    {"rejected": 1},
    {"rejected": "30%", "changed": "off"},
]


def draw_sync(draw: st.DrawFn) -> Written:
    """A sync."""
    kind = draw(st.sampled_from(["identify", "group", "track", "track", "audience"]))
    sync: Written = {
        "primary_key": draw(st.sampled_from(["id", "id", ["id", "part"]])),
        kind: draw_block(draw, kind),
        "guards": draw(st.sampled_from(GUARDS)),
    }
    if kind in ("track", "audience"):
        sync["initial"] = draw(st.sampled_from(["skip", "send", "send"]))
    if draw(st.integers(0, 3)) == 3:
        sync["allow_ids"] = draw(st.sampled_from([["0"], [0, "Anonymous"], [""], ["nan"]]))
    for edit in (edit_nulls, edit_compare, edit_on_new_column, edit_zone):
        if draw(st.integers(0, 3)) == 3:
            edit(draw, sync)
    return sync


def kind_of(sync: Written) -> str:
    """The kind of a sync."""
    return next(one for one in ("identify", "group", "track", "audience") if one in sync)


def fields_of(sync: Written) -> dict[str, Any]:
    """Its traits or properties."""
    block = sync[kind_of(sync)]
    return block["traits" if "traits" in block else "properties"]


def edit_nothing(draw: st.DrawFn, sync: Written) -> None:
    """Leave a sync as it is."""


def edit_nulls(draw: st.DrawFn, sync: Written) -> None:
    """Say otherwise what is sent for nulls."""
    sync["nulls"] = draw(st.sampled_from(NULLS))


def edit_compare(draw: st.DrawFn, sync: Written) -> None:
    """Say otherwise what counts as a change, or no longer say it."""
    if "compare" in sync and draw(st.booleans()):
        del sync["compare"]
    else:
        sync["compare"] = draw(
            st.lists(st.sampled_from([*"abc", "user"]), unique=True, min_size=1, max_size=2)
        )


def edit_on_new_column(draw: st.DrawFn, sync: Written) -> None:
    """Say otherwise what a new trait or property does."""
    sync["on_new_column"] = draw(st.sampled_from(["send", "baseline"]))


def edit_zone(draw: st.DrawFn, sync: Written) -> None:
    """Say otherwise of which zone moments are."""
    sync["timezone"] = draw(st.sampled_from(ZONES))


def edit_field(draw: st.DrawFn, sync: Written) -> None:
    """Write a trait or property, new or not."""
    if fields_of(sync) != "all":
        fields_of(sync)[draw(st.sampled_from(NAMES))] = draw_field(draw)


def edit_out_field(draw: st.DrawFn, sync: Written) -> None:
    """Take a trait or property out."""
    if fields_of(sync) and fields_of(sync) != "all":
        del fields_of(sync)[draw(st.sampled_from(list(fields_of(sync))))]


def edit_column(draw: st.DrawFn, sync: Written) -> None:
    """Let a trait or property take its value from another column."""
    fields = fields_of(sync)
    plain = [name for name, one in fields.items() if isinstance(one, str)] if fields != "all" else []
    if plain:
        fields_of(sync)[draw(st.sampled_from(plain))] = draw(st.sampled_from("abcd"))


def edit_except(draw: st.DrawFn, sync: Written) -> None:
    """With `all`, leave out other columns."""
    if fields_of(sync) == "all":
        sync[kind_of(sync)]["except"] = draw(st.sampled_from(["id", ["a"], ["d"], ["a", "d"]]))


def edit_all(draw: st.DrawFn, sync: Written) -> None:
    """Send every column, or no longer."""
    block = sync[kind_of(sync)]
    part = "traits" if "traits" in block else "properties"
    if block.pop("except", None) is None:
        block |= {part: "all", "except": ["a"]}
    else:
        block[part] = {"plan": "a"}


def edit_context(draw: st.DrawFn, sync: Written) -> None:
    """Write another context."""
    sync[kind_of(sync)]["context"] = draw_context(draw)


def edit_events(draw: st.DrawFn, sync: Written) -> None:
    """Rename, add or take out the event of a kind of change."""
    if "track" not in sync:
        return
    kind = draw(st.sampled_from(["added", "changed", "removed"]))
    match sync["track"].get(kind):
        case None:
            sync["track"][kind] = draw(st.sampled_from(EVENTS))
        case str():
            sync["track"][kind] = "Renamed"
        case written:
            written["event"] = "Renamed"


def edit_guards(draw: st.DrawFn, sync: Written) -> None:
    """Write other guards."""
    sync["guards"] = draw(st.sampled_from(GUARDS))


Edit = Callable[[st.DrawFn, Written], None]

EDITS: list[Edit] = [
    edit_nulls,
    edit_compare,
    edit_on_new_column,
    edit_zone,
    edit_field,
    edit_field,
    edit_out_field,
    edit_column,
    edit_except,
    edit_all,
    edit_context,
    edit_events,
    edit_guards,
]


def edited(draw: st.DrawFn, sync: Written) -> Written:
    """A sync as it is at the next run."""
    sync = copy.deepcopy(sync)
    for edit in draw(st.lists(st.sampled_from([*EDITS, edit_nothing]), max_size=2)):
        edit(draw, sync)
    return sync


def columns_of(syncs: Iterable[Written]) -> list[str]:
    """The columns that syncs speak of, and a few more for `all`."""
    text = json.dumps(syncs)
    more = ("a", "d", "new") if '"all"' in text else ("d",)
    return [one for one in POOLS if f'"{one}"' in text or one in more]


# --- Runs --------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Step:
    """A run of an example."""

    sync: Written
    table: Table
    backfill: bool = False
    full: bool = False
    forced: frozenset[str] = frozenset()


@st.composite
def histories(draw: st.DrawFn) -> list[Step]:
    """A sync's runs."""
    syncs = [draw_sync(draw)]
    for _ in range(draw(st.integers(0, 3))):
        syncs.append(edited(draw, syncs[-1]))
    tables = draw_tables(draw, columns_of(syncs), len(syncs))
    return [draw_step(draw, sync, table) for sync, table in zip(syncs, tables, strict=True)]


FORCED = [[], [], ["min_rows"], ["min_rows", "removed", "changed"], ["added", "changed"]]


def draw_step(draw: st.DrawFn, sync: Written, table: Table) -> Step:
    """A run of a sync, with what the command line says."""
    flag = draw(st.sampled_from(["", "", "", "", "", "", "backfill", "full"]))
    return Step(sync, table, flag == "backfill", flag == "full", frozenset(draw(st.sampled_from(FORCED))))


@pytest.mark.rule("R1")
@given(history=histories())
@settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=EXAMPLES < 500,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
def test_a_sync_sends_what_the_oracle_says(
    in_memory: Warehouse, new_state: Path, duck: duckdb.DuckDBPyConnection, history: list[Step]
) -> None:
    """Each run of any sync sends the oracle's calls, in its order, and counts and rejects what it does."""
    with (
        tempfile.TemporaryDirectory() as folder,
        Bench(Path(folder), in_memory, StillClock(), new_state, duck) as bench,
    ):
        play(bench, history)


def play(bench: Bench, history: Sequence[Step]) -> None:
    """Hold run after run against the oracle."""
    memory, own_ids = oracle.Memory(), []
    for number, step in enumerate(history, start=1):
        if turned_twice(step, memory) or read_otherwise(step, memory) or read_again(step, memory):
            return
        known = memory
        flags = {"backfill": step.backfill, "full": step.full, "forced": step.forced}
        note(f"run {number}: {step.sync}\n    {select(step.table)}\n    {flags}")
        expected, memory = oracle.run(step.sync, step.table, bench.clock.now(), memory, **flags)
        outcome = bench.run(step.sync, select(step.table), Options(**flags))
        own_ids += check(expected, outcome, f"run {number}")
        bench.clock.move(3600)
        if kept_back_by_edit(known, memory):
            return
    assert [] == [one for one, times in Counter(own_ids).items() if times > 1]


def turned_twice(step: Step, memory: oracle.Memory) -> bool:
    """Whether a field takes its value from another column, and its `as` or `compare` is edited, too."""
    if memory.sync is None:
        return False
    sync = oracle.read_sync(step.sync, step.table.columns)
    both = [(sync.sent[use], memory.sync.sent[use]) for use in sync.sent.keys() & memory.sync.sent.keys()]
    turned = [(now, was) for now, was in both if now.column != was.column]
    return any(now.read_as != was.read_as or sync.compare != memory.sync.compare for now, was in turned)


def read_otherwise(step: Step, memory: oracle.Memory) -> bool:
    """Whether a column changes its type in the run in which it begins, or ceases, to be read as JSON.

    Of JSON the state keeps the text alone.
    """
    if memory.sync is None:
        return False
    types = {cell.column: cell.type for version in memory.rows.values() for cell in version.values()}
    now, was = (
        {source.column for source in sync.uses.values() if source.read_as == "json"}
        for sync in (oracle.read_sync(step.sync, step.table.columns), memory.sync)
    )
    return any(one in types and types[one] != step.table.columns.get(one) for one in now ^ was)


def read_again(step: Step, memory: oracle.Memory) -> bool:
    """Whether a column is read that fed something before the last run, and nothing in it.

    A row that did not change since has its value as that of the column that feeds the same now.
    """
    if memory.sync is None:
        return False
    sync = oracle.read_sync(step.sync, step.table.columns)
    now, last = ({source.column for source in one.uses.values()} for one in (sync, memory.sync))
    known = {cell.column for version in memory.rows.values() for cell in version.values()}
    return bool(known & now - last)


def kept_back_by_edit(was: oracle.Memory, now: oracle.Memory) -> bool:
    """Whether a known row was rejected in a run in which the mapping was edited, or took a column more.

    Of that column the row knows nothing, which the state keeps as null.
    """
    if was.sync is None or now.sync is None:
        return False
    before, after = ({source.column for source in sync.uses.values()} for sync in (was.sync, now.sync))
    edited = (was.sync.sent, was.sync.compared) != (now.sync.sent, now.sync.compared)
    kept = any(now.rows.get(key) is version for key, version in was.rows.items())
    return kept and (edited or not after <= before)


def check(expected: oracle.Outcome, outcome: Outcome, run: str) -> list[str]:
    """Hold a run against the oracle's; the message ids that retl made in it."""
    record = outcome.run.as_json()
    error = record["error"] and record["error"]["message"]
    assert expected.exit_code == record["exit_code"], f"{run}: {error}"
    assert expected.tripped == {one["name"] for one in record["guards"] if one["tripped"]}, run
    if expected.counts is None:
        assert [] == outcome.requests, run
        return []
    # The order among calls of different users is open.
    sent = sorted(sent_calls(outcome), key=user_of)
    planned = sorted(expected.calls, key=lambda call: user_of(call.body))
    assert [shown(call_of(one)) for one in planned] == [shown(stripped(call)) for call in sent], run
    assert [spelled(one.body) for one in planned] == [spelled(body_of(call)) for call in sent], run
    counted = {**record, **record["calls"]}
    assert expected.counts == {name: counted[name] for name in expected.counts}, run
    assert expected.rejected_by == record["rejected_by"], run
    assert expected.rejected_calls == Counter(one.reason for one in outcome.rejected_calls), run
    parts = ("unchanged", "added", "changed", "rejected_rows")
    assert record["rows_read"] == sum(record[part] for part in parts), run
    calls = {name: record["calls"][name] for name in ("enqueued", "delivered", "rejected", "pending")}
    assert calls == {
        "enqueued": len(sent),
        "delivered": len(sent),
        "rejected": sum(expected.rejected_calls.values()),
        "pending": 0,
    }, run
    ids = [call["messageId"] for call in sent]
    assert all(one.startswith("retl-") for one, call in zip(ids, planned, strict=True) if not call.message_id)
    return [one for one, call in zip(ids, planned, strict=True) if not call.message_id]


def user_of(call: Mapping[str, Any]) -> str:
    """The user id of a call, else its anonymous id, as text."""
    return str(call.get("userId") or call.get("anonymousId"))


def sent_calls(outcome: Outcome) -> list[dict[str, Any]]:
    """The calls in a run's requests, whether or not Segment drops them; numbers as they are spelled."""
    bodies = [json.loads(one.body, parse_int=Digits, parse_float=Digits) for one in outcome.requests]
    return [call for body in bodies for call in body["batch"]]


def call_of(call: oracle.Call) -> dict[str, Any]:
    """A call of the oracle's, whole."""
    moment = oracle.spelled_instant(call.moment)
    return {**call.body, "timestamp": moment, "messageId": call.message_id or "retl-*"}


def stripped(call: Mapping[str, Any]) -> dict[str, Any]:
    """A call that was sent, without what retl says of itself."""
    own = str(call["messageId"]).startswith("retl-")
    return {
        **body_of(call),
        "timestamp": call["timestamp"],
        "messageId": "retl-*" if own else call["messageId"],
    }


def body_of(call: Mapping[str, Any]) -> dict[str, Any]:
    """What the oracle calls a call's body."""
    context = {name: value for name, value in call["context"].items() if name != "library"}
    body = {name: value for name, value in call.items() if name not in ("timestamp", "messageId", "context")}
    return body | ({"context": context} if context else {})


def shown(value: Any) -> Any:
    """A value whose numbers stand for what they are, not for how they are spelled."""
    match value:
        case dict():
            return {name: shown(one) for name, one in value.items()}
        case list():
            return [shown(one) for one in value]
        case Digits() | Decimal():
            return Digits(oracle.canonical(value))
        case bool():
            return str(value)
    return value


def spelled(value: Any) -> list[str]:
    """The numbers in a value, as JSON that is passed on spells them; canonical ones are left out."""
    match value:
        case dict():
            return [text for name in sorted(value) for text in spelled(value[name])]
        case list():
            return [text for one in value for text in spelled(one)]
        case Digits(text) if "e" not in text.lower() and text != oracle.canonical(value):
            return [text]
    return []
