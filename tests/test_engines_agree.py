"""Both engines send the same: random rows, mappings and edits go through them side by side.

The model is a table of a real Postgres and of a real DuckDB file, and the calls arrive at a local Segment
over HTTP. Each engine has a state of its own; both have the same random id, so that message ids are alike.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import pytest
import sqlalchemy
from delivery import NOON, FakeClock, memory_state, segment
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from retl.address import read_address
from retl.config.project import Project, load_model, load_sync
from retl.delivery.segment import Segment
from retl.discard import discard_pending
from retl.job import Job, Options
from retl.pipeline import run
from retl.run import Run
from retl.sandbox.server import Sandbox
from retl.state import State
from retl.warehouse import open_warehouse, open_workspace

pytestmark = pytest.mark.slow

COLUMNS = {
    "owner": ("text", [None, "", "0", "u1", "u2", "U1", "null"]),
    "plan": ("text", [None, "", "a", "A", "a ", "ä", "NULL"]),
    "loose": ("numeric", [None, "1", "1.0", "1.00", "10", "-0", "0.5", "12345678901234567890.10"]),
    "money": ("numeric(30,2)", [None, "1", "1.0", "1.00", "10", "-0", "0.5", "12345678901234567890.10"]),
    "price": ("numeric(10,2)", [None, "1", "1.10", "0"]),
    "share": ("double precision", [None, "0.0", "-0.0", "'NaN'", "1.5", "'Infinity'"]),
    "extra": ("json", [None, "{}", '{"a":1}', '{"a": 1}', '{"a":1.0}', "null", '{"b":[1],"a":2}']),
    "born": ("date", [None, "2001-02-03", "2001-02-04", "infinity"]),
    "seen": ("timestamp", [None, "2026-01-01 10:00", "2026-01-01 10:00:00.0001", "12026-01-01", "infinity"]),
    "moment": (
        "timestamptz",
        [None, "2026-03-01 10:00+00", "2026-03-01 11:00+01", "2026-03-01 11:00:00.1+00"],
    ),
}
"""The columns beside the key: Postgres' type, and values that are easily taken for each other."""

KEYS = {
    "text": [None, "", "k1", "k2", "K1", "k1 "],
    "numeric": [None, "1", "1.0", "2", "3.50", "'NaN'"],
    "int": [None, "1", "2", "3"],
}

SYNCS = {
    "track": """
track:
  user_id: owner
  added: {event: Added, timestamp: moment}
  changed: {event: Changed, previous: true}
  removed: {event: Removed, properties: {last: plan, when: born}}
  properties: {plan: plan, money: money, price: price, share: share, extra: extra, times: times}
  context: {traits.seen: seen}
""",
    "edited": """
track:
  user_id: owner
  added: {event: Added, timestamp: moment}
  changed: {event: Changed, previous: true}
  removed: {event: Removed, properties: {last: plan, when: born}}
  properties: {plan: plan, money: price, born: born, extra: {column: extra, as: json}, seen: seen, at: times}
""",
    "identify": """
identify:
  user_id: owner
  traits: {plan: plan, money: money, extra: extra, seen: seen, times: times}
  context: {born: born}
  removed: {traits: {left: born, plan: plan}}
""",
    "loose": """
track:
  user_id: owner
  added: {event: Added}
  changed: {event: Changed, previous: true}
  removed: {event: Removed}
  properties: {loose: loose, plan: plan}
  context: {traits.seen: seen}
""",
    "audience": """
audience: {user_id: owner, name: VIP, properties: {plan: plan, share: share}}
""",
}

Row = tuple[str | None, ...]


@dataclass(frozen=True)
class Step:
    """A run over other rows.

    Attributes:
        rows: of the table, with their keys first.
        edited: whether the mapping is the other one; of a track sync.
        full: whether every row is sent again.
        discarded: whether the calls of the run are dropped before they leave.
        timezone: of the sync.
    """

    rows: Sequence[Row]
    edited: bool = False
    full: bool = False
    discarded: bool = False
    timezone: str = "UTC"


def rows_of(key: str) -> st.SearchStrategy[list[Row]]:
    """Rows with a key of that type."""
    values = [st.sampled_from(some) for _, some in COLUMNS.values()]
    return st.lists(st.tuples(st.sampled_from(KEYS[key]), *values), max_size=7)


def steps(key: str) -> st.SearchStrategy[list[Step]]:
    """Histories; most runs are plain ones, and most rows are as they were."""
    rarely = st.sampled_from([False] * 5 + [True])

    @st.composite
    def history(draw: st.DrawFn) -> list[Step]:
        found: list[Step] = []
        rows = draw(rows_of(key))
        for _ in range(draw(st.integers(2, 4))):
            found.append(
                Step(
                    rows,
                    draw(rarely),
                    draw(rarely),
                    draw(rarely),
                    draw(st.sampled_from(["UTC", "UTC", "UTC", "Europe/Berlin"])),
                )
            )
            others = draw(rows_of(key))
            kept = [row for row in rows if draw(st.sampled_from([True, True, False]))]
            rows = kept + others[: draw(st.integers(0, 2))]
            rows = [touched(draw, row) for row in rows]
        return found

    return history()


def touched(draw: st.DrawFn, row: Row) -> Row:
    """A row as it was, or with another value in one column."""
    if draw(st.booleans()):
        return row
    place = draw(st.integers(0, len(COLUMNS) - 1))
    value = draw(st.sampled_from(list(COLUMNS.values())[place][1]))
    return (*row[: place + 1], value, *row[place + 2 :])


class Database:
    """A warehouse with one table, that is filled anew before each run.

    Attributes:
        table: its name.
        times: SQL of one more column: a local time, inside of an array where there are arrays of them.
        tells_types: whether the types of its columns are told, and not found by the rows that are read.
    """

    table = "rows"
    times = "ARRAY[seen]"
    tells_types = True

    def __init__(self, url: str, root: Path) -> None:
        self.url = url
        self.root = root
        self.is_duckdb = read_address(url).backend == "duckdb"
        if self.is_duckdb:
            duckdb.connect(self._file).close()

    @property
    def _file(self) -> str:
        return str(self.root / (read_address(self.url).database or ""))

    def fill(self, key: str, rows: Sequence[Row]) -> None:
        """Make the table of these rows."""
        kinds = self.kinds(key)
        columns = ", ".join(f"{name} {kind}" for name, kind in kinds.items())
        values = ", ".join(f"({', '.join(map(self.literal, kinds.values(), row))})" for row in rows)
        statements = ["DROP TABLE IF EXISTS rows", f"CREATE TABLE rows ({columns})"]
        self.execute([*statements, f"INSERT INTO rows VALUES {values}"] if rows else statements)

    def kinds(self, key: str) -> dict[str, str]:
        """The types of all columns, where the key has this one."""
        kinds = {"id": key} | {name: kind for name, (kind, _) in COLUMNS.items()}
        if self.is_duckdb:
            kinds |= {"loose": "DECIMAL(38, 2)"} | ({"id": "DECIMAL(9, 2)"} if key == "numeric" else {})
        return kinds

    def literal(self, kind: str, value: str | None) -> str:
        """A value of a type, in SQL."""
        if value is None:
            return "NULL"
        if self.is_duckdb and value in ("'NaN'",) and kind.startswith("DECIMAL"):
            return "NULL"
        if self.is_duckdb and value == "12026-01-01":
            value = "12026-01-01 00:00:00"
        return f"CAST({value} AS {kind})" if value.startswith("'") else f"CAST('{value}' AS {kind})"

    def execute(self, statements: Sequence[str]) -> None:
        """Execute statements, as whoever owns the table."""
        if self.is_duckdb:
            with duckdb.connect(self._file) as db:
                for statement in statements:
                    db.execute(statement)
            return
        engine = sqlalchemy.create_engine(self.url.replace("postgresql:", "postgresql+psycopg:"))
        with engine.begin() as connection:
            for statement in statements:
                connection.exec_driver_sql(statement, execution_options={"no_parameters": True})
        engine.dispose()


@pytest.fixture(scope="module", params=["duckdb", "postgres"])
def database(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Database:
    """A DuckDB file and a Postgres."""
    root = tmp_path_factory.mktemp("project")
    url = "duckdb:///shop.duckdb" if request.param == "duckdb" else request.getfixturevalue("postgres_url")
    return Database(url, root)


@pytest.fixture(scope="module")
def sandboxes() -> Iterator[dict[str, Sandbox]]:
    """A local Segment for each engine."""
    with Sandbox() as local, Sandbox() as warehouse:
        yield {"local": local, "warehouse": warehouse}


class Side:
    """One engine with its state and its Segment."""

    def __init__(self, engine: str, database: Database, sandbox: Sandbox, state: State, to: Segment) -> None:
        self.engine = engine
        self.database = database
        self.sandbox = sandbox
        self.state = state
        self.to = to
        state.take_id("0" * 32)

    def run(self, key: str, text: str, step: Step) -> tuple[Any, ...]:
        """A run, by what it sent and what its record says."""
        folder = self.database.root
        path = folder / "shop.yml"
        path.write_text(
            f"sql: SELECT *, {self.database.times} AS times FROM {self.database.table}\nprimary_key: id\n"
            f"engine: {self.engine}\ntimezone: {step.timezone}\n"
            "guards: {removed: off, changed: off, added: off, rejected: off, min_rows: 0}\n" + text
        )
        project = Project(folder, {"SEGMENT_WRITE_KEY": "key", "RETL_WAREHOUSE_URL": self.database.url})
        sync = load_sync(path, project)
        before = len(self.sandbox.accepted)
        with_workspace = self.engine == "warehouse"
        with open_warehouse(self.database.url, folder, with_workspace=with_workspace) as warehouse:
            options = Options(full=step.full, limit=0 if step.discarded else None)
            job = Job(
                sync,
                load_model(sync, project),
                self.state,
                warehouse,
                options,
                FakeClock(),
                workspace=lambda schema: open_workspace(self.database.url, folder, schema),
            )
            record = run(job, self.to)
        if step.discarded:
            discard_pending(self.state, NOON)
        return told(record), [spelled(call) for call in self.sandbox.accepted[before:]]

    def tables(self) -> list[str]:
        """The tables that this state has in the workspace."""
        with open_workspace(self.database.url, self.database.root, "retl") as workspace:
            workspace.prepare()
            return workspace.tables("shop_")


def told(record: Run) -> dict[str, Any]:
    """What a record says of rows and calls."""
    said = record.as_json()
    for name in ("run_id", "seconds", "batches", "bytes", "started_at"):
        said.pop(name)
    return said


OF_THE_ARRIVAL = {"receivedAt", "sentAt", "timestamp"}
"""Members of a call that Segment gives it, by the moment at which it comes."""


def spelled(call: dict[str, Any]) -> dict[str, Any]:
    """A call without what the batch adds to it."""
    return {name: value for name, value in call.items() if name not in OF_THE_ARRIVAL}


some_histories = settings(
    max_examples=int(os.environ.get("RETL_TEST_HISTORIES", "3")),
    deadline=None,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
)
"""How many histories are searched; none is made smaller, which would take longer than the search.

`RETL_TEST_HISTORIES=100 pytest tests/test_engines_agree.py` looks longer than the suite does.
"""


@pytest.mark.rule("X1")
@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("kind", ["track", "identify", "audience", "loose"])
@given(data=st.data())
@some_histories
def test_both_engines_send_the_same(
    database: Database, sandboxes: dict[str, Sandbox], kind: str, key: str, data: st.DataObject
) -> None:
    """Calls, their order, ids and texts, and the counts of the records are the same with both engines."""
    history = data.draw(steps(key))
    compare(database, sandboxes, kind, key, history)


def compare(
    database: Database, sandboxes: dict[str, Sandbox], kind: str, key: str, history: Sequence[Step]
) -> None:
    """Run a history through both engines, and compare each run.

    An id is made of a row's hash, which depends on the types of its values. Postgres' numeric without a
    precision, and whatever is read row by row, has the type that the rows need which are read: so ids that
    depend on one are not compared.
    """
    with open_workspace(database.url, database.root, "retl") as workspace:
        workspace.prepare()
        workspace.drop(workspace.tables("shop_"))
    with ExitStack() as stack:
        sides = [
            Side(
                engine,
                database,
                sandbox,
                stack.enter_context(memory_state("shop")),
                stack.enter_context(segment(sandbox.url, FakeClock())),
            )
            for engine, sandbox in sandboxes.items()
        ]
        for step in history:
            database.fill(key, step.rows)
            text = SYNCS["edited" if step.edited and kind == "track" else kind]
            local, warehouse = (side.run(key, text, step) for side in sides)
            if kind == "loose" or not database.tells_types:
                for call in (*local[1], *warehouse[1]):
                    call.pop("messageId")
            assert local[0] == warehouse[0], f"{local[0]} {warehouse[0]}"
            assert local[1] == warehouse[1], f"{local[1]} {warehouse[1]}"
        assert len(sides[1].tables()) <= 1
