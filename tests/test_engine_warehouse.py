"""The engine that compares rows in the warehouse: its tables, and all that can go wrong with them."""

import json
import shutil
import signal
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import duckdb
import psycopg
import pyarrow as pa
import pytest
import sqlalchemy
from delivery import NOON, FakeClock, segment
from harness import Retl, runner
from sqlalchemy.engine import make_url

from retl.address import read_address
from retl.bucket.lease import taken_over
from retl.config.project import Project, load_model, load_sync
from retl.discard import discard_pending
from retl.engine import snapshot
from retl.engine.landing import SEQ
from retl.engine.warehouse.engine import _THERE, _placed
from retl.engine.warehouse.statements import NUMBER, Sides, find_candidates
from retl.engine.warehouse.tables import drop_unneeded, run_tables
from retl.errors import ConfigError, Interrupted, LockedError, RetlError, StateError, WarehouseError
from retl.job import Job, Options
from retl.model import Model
from retl.pipeline import run
from retl.planning import make_plan
from retl.run import Run
from retl.sandbox.server import Sandbox
from retl.session import find_sessions
from retl.state import State, open_state, peek_state
from retl.storage import FileOnDisk
from retl.warehouse import Workspace, open_warehouse, open_workspace
from retl.warehouse.postgres_workspace import SEVERAL_PROCESSES, PostgresWorkspace
from retl.warehouse.workspace import StoredColumn
from torture.bucket import BUCKET, Bucket

SYNC = """\
sql: SELECT id, owner, value, note FROM shop_rows
primary_key: id
engine: {engine}
track:
  user_id: owner
  added: {{event: Added}}
  changed: {{event: Changed, previous: true}}
  removed: {{event: Removed, properties: {{last: note}}}}
  properties: {{id: id, value: value}}
initial: send
guards: {{removed: off, changed: off, added: off, rejected: off, min_rows: 0}}
"""

Row = tuple[Any, ...]
BEFORE = [(1, "u1", "a", "n1"), (2, "u2", "b", "n2"), (3, "u3", "c", "n3"), (4, "u4", "d", "n4")]
AFTER = [(1, "u1", "a", "n9"), (2, "u2", "x", "n2"), (4, "0", "y", "n4"), (5, "u5", "e", "n5")]
"""One row differs in what is not compared, one changed, one is gone, one cannot be sent, one is new."""


class Killed(BaseException):
    """The end of the process, as far as the code can tell."""


class Dying(Workspace):
    """A workspace of a process that is killed before so many statements."""

    def __init__(self, alive: Workspace, statements: int) -> None:
        self.alive = alive
        self.left = statements
        self.schema, self.dialect, self.longest_name = alive.schema, alive.dialect, alive.longest_name

    def _step(self) -> Workspace:
        self.left -= 1
        if self.left < 0:
            raise Killed
        return self.alive

    def prepare(self) -> None:
        """As the other one."""
        self._step().prepare()

    def tables(self, prefix: str) -> list[str]:
        """As the other one."""
        return self._step().tables(prefix)

    def columns(self, table: str) -> tuple[StoredColumn, ...]:
        """As the other one."""
        return self._step().columns(table)

    def query_of(self, model: Model) -> str:
        """As the other one."""
        return self._step().query_of(model)

    def execute(self, statement: str, model: Model | None = None) -> int | None:
        """As the other one."""
        return self._step().execute(statement, model)

    def analyze(self, table: str, columns: Sequence[str]) -> None:
        """As the other one."""
        self._step().analyze(table, columns)

    def number(self, query: str) -> int:
        """As the other one."""
        return self._step().number(query)

    def drop(self, tables: Sequence[str]) -> None:
        """As the other one."""
        self._step().drop(tables)

    def missing_grants(self) -> list[str]:
        """As the other one."""
        return self._step().missing_grants()

    def cancel(self) -> None:
        """As the other one."""
        self.alive.cancel()

    def close(self) -> None:
        """As the other one."""
        self.alive.close()


class Stopped(Dying):
    """A workspace of a process that gets a SIGTERM where it drops tables."""

    def drop(self, tables: Sequence[str]) -> None:
        """Be interrupted in the midst of it."""
        if tables:
            raise Interrupted(signal.SIGTERM)


class World:
    """A warehouse with one table of rows, a local Segment, and states of one sync."""

    def __init__(self, url: str, root: Path, sandbox: Sandbox) -> None:
        self.url = url
        self.root = root
        self.sandbox = sandbox
        self.engine = "warehouse"
        self.text = SYNC
        self.is_stopped = False
        self.state_path = root / "state" / "shop.duckdb"
        self.is_duckdb = read_address(url).backend == "duckdb"
        if self.is_duckdb:
            duckdb.connect(self._file).close()

    @property
    def _file(self) -> str:
        return str(self.root / (read_address(self.url).database or ""))

    def execute(self, *statements: str) -> list[Row]:
        """Execute statements in the warehouse, outside of retl; gives the rows of the last."""
        if self.is_duckdb:
            with duckdb.connect(self._file) as db:
                return [db.execute(one).fetchall() for one in statements][-1]
        engine = sqlalchemy.create_engine(self.url.replace("postgresql:", "postgresql+psycopg:"))
        with engine.begin() as connection:
            results = [connection.exec_driver_sql(one) for one in statements]
            rows = [tuple(row) for row in results[-1].fetchall()] if results[-1].returns_rows else []
        engine.dispose()
        return rows

    def fill(self, rows: Sequence[Row]) -> None:
        """Let the model have these rows."""
        values = ", ".join(str(row).replace("None", "NULL") for row in rows)
        self.execute(
            "DROP TABLE IF EXISTS shop_rows",
            "CREATE TABLE shop_rows (id int, owner text, value text, note text)",
            f"INSERT INTO shop_rows VALUES {values}",
        )

    def tables(self) -> list[str]:
        """The tables in the workspace."""
        found = self.execute(
            "SELECT table_name FROM information_schema.tables WHERE table_schema IN ('retl', 'retl_2') "
            "ORDER BY 1"
        )
        return [name for (name,) in found]

    def job(self, state: State, stack: ExitStack, options: Options, dying: int | None = None) -> Job:
        """All that a run works with."""
        path = self.root / "shop.yml"
        path.write_text(self.text.format(engine=self.engine))
        project = Project(self.root, {"SEGMENT_WRITE_KEY": "key", "RETL_WAREHOUSE_URL": self.url})
        sync = load_sync(path, project)
        warehouse = stack.enter_context(open_warehouse(self.url, self.root, with_workspace=True))

        def opened(schema: str) -> Workspace:
            workspace = open_workspace(self.url, self.root, schema)
            if self.is_stopped:
                return Stopped(workspace, 1_000)
            return workspace if dying is None else Dying(workspace, dying)

        model = load_model(sync, project)
        return Job(sync, model, state, warehouse, options, FakeClock(), workspace=opened)

    def run(self, options: Options | None = None, dying: int | None = None, to: str | None = None) -> Run:
        """A run with the state file."""
        with ExitStack() as stack:
            state = stack.enter_context(open_state(self.state_path, "shop"))
            way = stack.enter_context(segment(to or self.sandbox.url, FakeClock()))
            return run(self.job(state, stack, options or Options(), dying), way)

    def sent(self) -> list[tuple[str, Any, Any]]:
        """The calls that arrived: event, id and value."""
        return [
            (call["event"], call["properties"]["id"], call["properties"].get("value"))
            for call in self.sandbox.accepted
        ]

    def in_file(self) -> int:
        """How many rows of the snapshot are in the state file."""
        with peek_state(self.state_path, "shop") as state:
            ((rows,),) = state.db.execute("SELECT count(*) FROM state.snapshot").fetchall()
        return int(rows)


@pytest.fixture(params=["duckdb", "postgres"])
def world(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[World]:
    """A world with a DuckDB file, and one with a Postgres."""
    url = "duckdb:///shop.duckdb" if request.param == "duckdb" else request.getfixturevalue("postgres_url")
    with Sandbox() as sandbox:
        made = World(url, tmp_path, sandbox)
        made.execute("DROP SCHEMA IF EXISTS retl CASCADE", "DROP SCHEMA IF EXISTS retl_2 CASCADE")
        made.fill(BEFORE)
        yield made


COUNTS = ("rows_read", "unchanged", "added", "changed", "removed", "rejected_rows")


def counts(record: Run) -> tuple[Any, ...]:
    """The counts of a run, which must not have failed."""
    assert record.error is None, record.error
    return tuple(getattr(record, name) for name in COUNTS)


@pytest.mark.thorough
@pytest.mark.rule("X2")
def test_only_what_changed_leaves_the_warehouse(world: World) -> None:
    """After a first pass the snapshot is in one table of the workspace, and a run finds each change once."""
    assert (4, 0, 4, 0, 0, 0) == counts(world.run())
    world.fill(AFTER)
    assert (4, 1, 1, 1, 1, 1) == counts(world.run())
    assert [("Added", 5, "e"), ("Changed", 2, "x"), ("Removed", 3, "c")] == sorted(world.sent()[4:])
    assert 1 == len(world.tables())
    assert 0 == world.in_file()
    assert (4, 3, 0, 0, 0, 1) == counts(world.run())
    ((rows, notes),) = world.execute(
        f"SELECT count(*), min(CASE WHEN id = 1 THEN note END) FROM retl.{world.tables()[0]}"
    )
    assert (4, "n1") == (rows, notes), "the last known values are those of the last counted change"


@pytest.mark.rule("X2")
def test_a_signal_while_tables_are_dropped_stops_the_run(world: World) -> None:
    """No call leaves after it, though the run has come to its commit; the next one sends them."""
    assert (4, 0, 4, 0, 0, 0) == counts(world.run())
    world.fill(AFTER)
    world.is_stopped = True

    record = world.run()

    assert (143, 0, 3) == (record.exit_code, record.calls.delivered, record.calls.pending)
    world.is_stopped = False
    assert 3 == world.run().calls.delivered
    assert 1 == len(world.tables())


@pytest.mark.thorough
@pytest.mark.rule("X2")
def test_who_reads_a_snapshot_keeps_no_run_from_delivering(postgres_url: str, tmp_path: Path) -> None:
    """A table that is in use is dropped by a later run, and is waited for only for a moment."""
    with Sandbox() as sandbox:
        world = World(postgres_url, tmp_path, sandbox)
        world.execute("DROP SCHEMA IF EXISTS retl CASCADE")
        world.fill(BEFORE)
        world.run()
        with psycopg.connect(postgres_url) as reader:
            reader.execute(f"SELECT * FROM retl.{world.tables()[0]}")
            world.fill(AFTER)
            assert 3 == world.run().calls.delivered
            assert 0 == world.run().calls.delivered
            assert 2 == len(world.tables())
        assert 0 == world.run().calls.delivered
        assert 1 == len(world.tables())


@pytest.mark.variants(1)
@pytest.mark.rule("X9")
def test_a_snapshot_that_lacks_a_column_is_not_the_models_fault(world: World) -> None:
    """The error names the table and the column, whose name somebody changed, and sends nothing."""
    world.run()
    world.execute(f"ALTER TABLE retl.{world.tables()[0]} RENAME COLUMN note TO notes")

    record = world.run()

    assert isinstance(record.error, StateError)
    assert f"`retl.{world.tables()[0]}`, which holds the snapshot, lacks the column `note`" in str(
        record.error
    )
    assert (2, 4) == (record.exit_code, len(world.sent()))


@pytest.mark.variants(1)
@pytest.mark.rule("X2")
def test_a_row_without_a_date_stays_known(world: World) -> None:
    """A row whose date is null, and of which only what is not compared changed, is no new row afterwards."""
    world.text = SYNC.replace("value: value}}", "value: value, day: day}}").replace(
        "note FROM", "note, day FROM"
    )
    for note, owner in (("n1", "'u2'"), ("n9", "NULL")):
        world.execute(
            "DROP TABLE IF EXISTS shop_rows",
            "CREATE TABLE shop_rows (id int, owner text, value text, note text, day date)",
            f"INSERT INTO shop_rows VALUES (1, 'u1', 'a', '{note}', NULL), (2, {owner}, 'b', 'n2', NULL)",
        )
        record = world.run()
    assert (2, 1, 0, 0, 0, 1) == counts(record)
    assert (2, 1, 0, 0, 0, 1) == counts(world.run())
    assert [("Added", 1, "a"), ("Added", 2, "b")] == world.sent()


@pytest.mark.variants(1)
@pytest.mark.rule("X2")
def test_a_silent_first_pass_reads_no_row(world: World) -> None:
    """All rows become known where they are; those without a usable key are rejected and stay unknown."""
    world.text = SYNC.replace("initial: send", "initial: skip")
    world.fill([*BEFORE, (None, "u", "n", ""), (9, "u", "x", ""), (9, "u", "y", "")])
    assert (7, 0, 4, 0, 0, 3) == counts(world.run())
    assert ([], 0) == (world.sent(), world.in_file())
    world.fill([*BEFORE, (9, "u", "y", "")])
    assert (5, 4, 1, 0, 0, 0) == counts(world.run())


@pytest.mark.thorough
@pytest.mark.rule("X10")
@pytest.mark.parametrize(
    ("value", "rows"),
    [
        ("repeat(md5(i::varchar), 20)", 8_000),
        ("repeat(md5(i::varchar), 44)", 5_000),
        (
            """('{"a": ' || i || ', "b": ["x", ' || 7 * i || '], "c": {"d": "text ' || i || '"}}')::json""",
            15_000,
        ),
    ],
    ids=["640 bytes", "1.4 kB", "JSON"],
)
def test_changed_rows_have_the_memory_that_they_need(world: World, value: str, rows: int) -> None:
    """Where all rows changed that are wide, or hold JSON, DuckDB takes more than where they are narrow."""
    world.text = SYNC.replace("initial: send", "initial: skip")
    for start in (1, 2):
        world.execute(
            "DROP TABLE IF EXISTS shop_rows",
            f"CREATE TABLE shop_rows AS SELECT i - {start} AS id, 'u' || (i - {start}) AS owner, "
            f"{value} AS value, 'n' AS note FROM generate_series({start}, {rows} + {start} - 1) AS t (i)",
        )
        record = world.run(Options(limit=10))
    assert (rows, 0, 0, rows, 0, 0) == counts(record)


@pytest.mark.slow
@pytest.mark.rule("X4")
def test_a_run_that_is_killed_at_any_statement_loses_nothing(world: World) -> None:
    """Run again, it sends each change once, under the ids that it would have had; no table is left over."""
    world.run()
    kept = world.state_path.with_name("kept.duckdb")
    shutil.copy(world.state_path, kept)
    for statements in range(100):
        world.fill(AFTER if statements % 2 == 0 else BEFORE)
        before = len(world.sandbox.accepted)
        try:
            world.run(dying=statements)
        except Killed:
            world.run()
            changed = [call for call, _, _ in world.sent()[before:]]
            assert ["Added", "Changed", "Removed"] == sorted(changed) or statements % 2
            assert (0, 0) == counts(world.run())[2:4]
            assert 1 == len(world.tables())
        else:
            break
    assert 12 < statements < 99
    assert [] == world.sandbox.duplicates


@pytest.mark.thorough
@pytest.mark.rule("X3")
def test_a_killed_run_leaves_no_table_to_the_local_engine(world: World) -> None:
    """Also where there is no snapshot yet, so that the local engine has nothing to take over."""
    with pytest.raises(Killed):
        world.run(dying=5)
    assert [] != world.tables()
    world.engine = "local"
    assert 4 == world.run().added
    assert [] == world.tables()


@pytest.mark.rule("X3")
@pytest.mark.parametrize("engine", ["local", "warehouse"])
def test_a_killed_run_leaves_no_table_in_the_schema_of_before(world: World, engine: str) -> None:
    """A state knows in which schemas its tables are, whatever the sync says by now."""
    with pytest.raises(Killed):
        world.run(dying=5)
    world.engine, world.text = engine, SYNC + "engine_schema: retl_2\n"
    assert 4 == world.run().added
    assert (1 if engine == "warehouse" else 0) == len(world.tables())


@pytest.mark.rule("X3")
def test_the_local_engine_leaves_no_table_in_the_schema_of_before(world: World) -> None:
    """One edit of the sync switches the engine back and names another schema."""
    world.run()
    world.engine, world.text = "local", SYNC + "engine_schema: retl_2\n"
    assert 4 == world.run().unchanged
    assert [] == world.tables()


@pytest.mark.slow
@pytest.mark.rule("X3")
def test_a_switch_that_is_killed_at_any_statement_leaves_no_table(world: World) -> None:
    """The run after it has the rows in the state file, and drops what the killed one did not."""
    for statements in range(100):
        world.engine = "warehouse"
        world.run()
        world.engine = "local"
        try:
            world.run(dying=statements)
        except Killed:
            assert 4 == world.run().unchanged
            assert [] == world.tables()
        else:
            break
    assert 1 < statements < 99


@pytest.mark.rule("X3")
def test_the_tables_of_a_killed_plan_are_dropped_two_runs_later(world: World) -> None:
    """Until then another machine may be at the plan, where the state is in a bucket."""
    world.run()
    with (
        ExitStack() as stack,
        segment(world.sandbox.url) as to,
        peek_state(world.state_path, "shop") as state,
        pytest.raises(Killed),
    ):
        make_plan(world.job(state, stack, Options(), dying=5), to.limits)
    left = len(world.tables()) - 1
    assert left > 0
    assert [1 + left, 1] == [counts(world.run()) and len(world.tables()) for _ in range(2)]


@pytest.mark.rule("X3")
def test_a_guard_that_stops_a_run_leaves_no_table(world: World) -> None:
    """The state goes on to know the rows as they were, and its table is the only one."""
    world.run()
    table = world.tables()
    world.text = SYNC.replace("removed: off", "removed: 0")
    world.fill(AFTER)
    assert 4 == world.run().exit_code
    assert table == world.tables()
    assert 1 == world.run(Options(forced=frozenset({"removed"}))).removed


@pytest.mark.thorough
def test_a_plan_leaves_state_and_workspace_as_they_were(world: World) -> None:
    """What it made in the warehouse is gone when it ends."""
    world.run()
    tables = world.tables()
    world.fill(AFTER)
    with ExitStack() as stack, segment(world.sandbox.url) as to:
        state = stack.enter_context(peek_state(world.state_path, "shop"))
        plan = make_plan(world.job(state, stack, Options()), to.limits)
    assert (1, 1, 1) == (plan.diff.added, plan.diff.changed, plan.diff.removed)
    assert tables == world.tables()


@pytest.mark.thorough
@pytest.mark.rule("X5")
def test_a_copy_of_a_state_never_drops_a_table_of_the_original(world: World) -> None:
    """It reads the table that it came with, makes its own, and leaves that of the original alone."""
    world.run()
    original, (table,) = world.state_path, world.tables()
    world.state_path = original.with_name("copy.duckdb")
    shutil.copy(original, world.state_path)
    world.fill(AFTER)
    assert (4, 1, 1, 1, 1, 1) == counts(world.run())
    assert (4, 3, 0, 0, 0, 1) == counts(world.run())
    assert 2 == len(world.tables())
    assert table in world.tables()
    world.state_path = original
    assert (4, 1, 1, 1, 1, 1) == counts(world.run())
    assert table not in world.tables()


@pytest.mark.variants(1)
@pytest.mark.rule("X7")
@pytest.mark.parametrize(
    ("damage", "said"),
    [
        ("DROP TABLE retl.{}", "is not in the warehouse"),
        ("DELETE FROM retl.{} WHERE id = 1", "had 4 rows and has 3"),
    ],
)
def test_a_table_that_somebody_touched_is_an_error(world: World, damage: str, said: str) -> None:
    """A snapshot table that is gone or has other rows stops the run, and nothing is sent."""
    world.run()
    world.execute(damage.format(world.tables()[0]))
    record = world.run()
    assert record.error is not None
    assert said in record.error.message
    assert "retl reset shop" in str(record.error.hint)
    assert 4 == len(world.sandbox.accepted)


@pytest.mark.thorough
def test_a_column_of_another_type_is_read_in_full(world: World) -> None:
    """Where a column has another type, all rows are compared by what is sent; keys stay what they are."""
    world.run()
    world.execute(
        "DROP TABLE shop_rows",
        "CREATE TABLE shop_rows (id text, owner text, value text, note int)",
        "INSERT INTO shop_rows VALUES ('1', 'u1', 'a', 1), ('2', 'u2', 'z', 2), ('3', 'u3', 'c', 3)",
    )
    world.text = SYNC.replace("{{id: id, value: value}}", "{{value: value}}").replace("id: id, ", "")
    record = world.run()
    assert (3, 2, 0, 1, 1, 0) == counts(record)
    assert (3, 3, 0, 0, 0, 0) == counts(world.run())


@pytest.mark.variants(1)
@pytest.mark.rule("X8")
def test_engines_take_the_snapshot_over_from_each_other(world: World) -> None:
    """A sync whose engine is another one sends what changed, and no row for the move; back again, too."""
    world.engine = "local"
    world.run()
    world.fill(AFTER)
    world.engine = "warehouse"
    assert (4, 1, 1, 1, 1, 1) == counts(world.run())
    assert (4, 3, 0, 0, 0, 1) == counts(world.run())
    assert 1 == len(world.tables())
    world.fill(BEFORE)
    world.engine = "local"
    assert (4, 2, 1, 1, 1, 0) == counts(world.run())
    assert (4, 4, 0, 0, 0, 0) == counts(world.run())
    assert [] == world.tables()
    assert 4 == world.in_file()


@pytest.mark.thorough
def test_discarded_calls_are_found_again(world: World) -> None:
    """Rows whose calls were dropped count as they were before, though the table has them as they are now."""
    world.run()
    world.fill(AFTER)
    world.run(Options(limit=0))
    with open_state(world.state_path, "shop") as state:
        assert 3 == discard_pending(state, NOON)
        assert 4 == snapshot.row_count(state.db)
    assert (4, 1, 1, 1, 1, 1) == counts(world.run())
    assert (4, 3, 0, 0, 0, 1) == counts(world.run())
    assert 2 == world.in_file(), "the row with another note, and the one that cannot be sent"


@pytest.mark.thorough
def test_a_discarded_first_pass_comes_again(world: World) -> None:
    """Where nothing of a first pass was delivered, the next run is a first pass once more."""
    world.run(Options(limit=0))
    with open_state(world.state_path, "shop") as state:
        assert 4 == discard_pending(state, NOON)
    assert (4, 0, 4, 0, 0, 0) == counts(world.run())
    assert 4 == len(world.sandbox.accepted)
    assert 1 == len(world.tables())


def test_rows_of_a_first_pass_come_in_order() -> None:
    """Their places count on from what was before; in another order they are refused, and never mixed up."""
    first, second = (pa.record_batch({"id": ids, SEQ: ids}) for ids in ([1, 2], [3]))
    placed = list(_placed(iter([first, second]), 10))
    assert [[11, 12], [13]] == [batch[SEQ].to_pylist() for batch in placed]
    with pytest.raises(WarehouseError, match="in another order"):
        list(_placed(iter([second, first]), 0))


@pytest.mark.rule("X6")
def test_a_model_that_differs_each_time_is_run_once(world: World) -> None:
    """Of a model with random values the calls have those that the snapshot has then."""
    random = (
        "md5(random()::text || id::text)" if not world.is_duckdb else "md5(random()::VARCHAR || id::VARCHAR)"
    )
    world.text = SYNC.replace("value, note FROM", f"{random} AS value, note FROM")
    world.run()
    world.run()
    kept = world.execute(f"SELECT id, value FROM retl.{world.tables()[0]} ORDER BY id")
    assert kept == sorted((number, value) for _, number, value in world.sent()[4:])


OWN_TYPES = [
    "CREATE TYPE mood AS ENUM ('sad', 'ok')",
    "CREATE DOMAIN amount AS int",
    "CREATE TABLE shop_rows (id amount, owner text, value mood, note mood[])",
    "INSERT INTO shop_rows VALUES (-1, 'u1', 'sad', '{sad}'), (2, 'u2', 'ok', '{ok}')",
]


@pytest.mark.rule("X1", "X3")
def test_types_that_somebody_made_stay_theirs(world: World) -> None:
    """A renamed value of an enum is a change; domains and enums are altered and dropped as without retl."""
    if world.is_duckdb:
        return
    world.execute("DROP TABLE shop_rows", "DROP TYPE IF EXISTS mood", "DROP DOMAIN IF EXISTS amount")
    world.execute(*OWN_TYPES)
    world.run()
    world.execute("ALTER TYPE mood RENAME VALUE 'sad' TO 'gloomy'")
    assert (2, 1, 0, 1, 0, 0) == counts(world.run())
    assert ("Changed", -1, "gloomy") == world.sent()[-1]
    world.execute("DELETE FROM shop_rows WHERE id < 0", "ALTER DOMAIN amount ADD CHECK (VALUE > 0)")
    assert (1, 1, 0, 0, 1, 0) == counts(world.run())
    to_plain = "ALTER id TYPE int, ALTER value TYPE text, ALTER note TYPE text[]"
    world.execute(f"ALTER TABLE shop_rows {to_plain}", "DROP TYPE mood", "DROP DOMAIN amount")
    assert (1, 1, 0, 0, 0, 0) == counts(world.run())


@pytest.mark.rule("X9")
def test_who_may_not_make_tables_is_told_the_grants(world: World) -> None:
    """The error has the statement that an owner of the database has to run."""
    if world.is_duckdb:
        return
    world.execute(
        "DROP ROLE IF EXISTS reader",
        "CREATE ROLE reader LOGIN",
        "GRANT SELECT ON shop_rows TO reader",
        "CREATE SCHEMA retl",
    )
    with open_workspace(world.url.replace("//postgres:", "//reader:"), world.root, "retl") as workspace:
        assert ['GRANT USAGE, CREATE ON SCHEMA "retl" TO "reader"'] == workspace.missing_grants()
        with pytest.raises(ConfigError, match="may not make tables in the schema `retl`") as caught:
            workspace.prepare()
    assert 'GRANT USAGE, CREATE ON SCHEMA "retl" TO "reader";' in str(caught.value.hint)
    world.execute("DROP SCHEMA retl")
    with open_workspace(world.url.replace("//postgres:", "//reader:"), world.root, "retl") as workspace:
        assert ['CREATE SCHEMA "retl" AUTHORIZATION "reader"'] == workspace.missing_grants()


CANNOT = [
    "sqlite:///shop.sqlite",
    "mysql://u@127.0.0.1/shop",
    "duckdb://",
    "trino://u@127.0.0.1/shop",
]


@pytest.mark.rule("X9")
@pytest.mark.parametrize("url", CANNOT)
def test_a_warehouse_that_cannot_is_refused(tmp_path: Path, url: str) -> None:
    """The error offers the local engine; nothing is connected to."""
    with pytest.raises(ConfigError) as caught:
        open_workspace(url, tmp_path, "retl")
    assert "engine: local" in str(caught.value.hint)


@pytest.mark.rule("X9")
def test_check_refuses_a_warehouse_that_cannot(retl: Retl, tmp_path: Path) -> None:
    """Check names the line of `engine` where the URL alone tells that rows cannot be compared there."""
    sync = tmp_path / "syncs/shop.yml"
    sync.write_text(sync.read_text().replace("duckdb:///shop.duckdb", "duckdb://"))

    code, _, error = retl("check", "shop")

    assert (2, True) == (code, "syncs/shop.yml:3 engine: a DuckDB in memory" in error)


@pytest.mark.rule("X9")
@pytest.mark.parametrize("command", [["run"], ["plan"], ["check"], ["check", "--connect"]])
def test_a_warehouse_that_cannot_is_refused_before_its_sql(
    retl: Retl, tmp_path: Path, command: list[str]
) -> None:
    """Whatever is wrong with the model, the error is about the engine."""
    sync = tmp_path / "syncs/shop.yml"
    sqlite3.connect(tmp_path / "shop.sqlite").close()
    sync.write_text(sync.read_text().replace("duckdb:///shop.duckdb", "sqlite:///shop.sqlite"))

    name, *options = command
    code, _, error = retl(name, "shop", *options)

    assert (2, True) == (code, "`engine: warehouse` cannot compare rows in sqlite" in error), error


@pytest.fixture
def retl(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Retl]:
    """Runs a command in a project whose sync is compared in a DuckDB file."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SEGMENT_WRITE_KEY", "key")
    (tmp_path / "syncs").mkdir()
    with Sandbox() as sandbox:
        world = World("duckdb:///shop.duckdb", tmp_path, sandbox)
        world.fill(BEFORE)
        (tmp_path / "syncs/shop.yml").write_text(
            SYNC.format(engine="warehouse")
            + "warehouse: duckdb:///shop.duckdb\n"
            + f"segment: {{endpoint: '{sandbox.url}', events_per_second: 0}}\n"
        )
        yield runner(capsys)


@pytest.mark.parametrize("column", ["RETL_SEQ", SEQ, NUMBER, _THERE])
def test_a_column_with_a_name_of_retls_own_is_refused(retl: Retl, tmp_path: Path, column: str) -> None:
    """Check and run name it, with either engine, before a row is read."""
    sync = tmp_path / "syncs/shop.yml"
    text = sync.read_text().replace("note FROM", f"note, 1 AS {column} FROM")
    text = text.replace("value: value}", f"value: value, number: {column}}}")
    for engine in ("warehouse", "local"):
        sync.write_text(text.replace("engine: warehouse", f"engine: {engine}"))
        for command in ("check", "run"):
            code, _, error = retl(command, "shop")
            assert (2, True) == (code, f"the column `{column}` has a name that retl uses itself" in error)


@pytest.mark.rule("X9")
@pytest.mark.parametrize("kind", ["VARIANT", "VARIANT[]"])
def test_a_type_whose_values_cannot_be_compared_is_refused(retl: Retl, tmp_path: Path, kind: str) -> None:
    """Nothing is sent of a column that DuckDB would hand over in a form of its own."""
    with duckdb.connect(str(tmp_path / "shop.duckdb")) as db:
        db.execute(f"ALTER TABLE shop_rows ADD COLUMN document {kind}")
    sync = tmp_path / "syncs/shop.yml"
    text = sync.read_text().replace("value, note FROM", "value, note, document FROM")
    sync.write_text(text.replace("value: value}", "value: value, document: document}"))

    code, _, error = retl("run", "shop")

    assert (2, True) == (code, f"the column `document` has the type {kind}" in error), error
    assert [] == tables_of(tmp_path)


def tables_of(folder: Path) -> list[str]:
    """The tables in the workspace of a project's DuckDB file."""
    with duckdb.connect(str(folder / "shop.duckdb")) as db:
        found = db.execute("SELECT table_name FROM duckdb_tables() WHERE schema_name = 'retl'").fetchall()
    return [name for (name,) in found]


@pytest.mark.thorough
@pytest.mark.parametrize("option", [[], ["--purge"]], ids=["reset", "purge"])
def test_a_reset_drops_the_tables_of_its_state(retl: Retl, tmp_path: Path, option: list[str]) -> None:
    """Nothing of what retl kept of the sync is left in the warehouse; the next run is a first pass."""
    assert 0 == retl("run", "shop")[0]
    assert 1 == len(tables_of(tmp_path))
    assert 0 == retl("reset", "shop", "--yes", *option)[0]
    assert [] == tables_of(tmp_path)
    assert 4 == json.loads(retl("run", "shop", "--json")[1])["added"]


@pytest.mark.rule("E6")
@pytest.mark.parametrize("engine", ["local", "warehouse"])
def test_discarded_calls_leave_local_times_as_they_were(world: World, engine: str) -> None:
    """A timezone that was edited while calls waited is no change once these are discarded."""
    world.engine = engine
    world.text = SYNC.replace("note FROM", "note, TIMESTAMP '2026-01-02' AS at FROM").replace(
        "id: id", "at: at"
    )
    world.run()
    world.text += "timezone: America/New_York\n"
    world.fill([(1, "u1", "x", "n1"), *BEFORE[1:]])
    assert 1 == world.run(Options(limit=0)).changed
    with open_state(world.state_path, "shop") as state:
        assert 1 == discard_pending(state, NOON)
    assert 1 == world.run().changed
    assert ["value"] == world.sandbox.accepted[-1]["properties"]["changed"]


def test_a_file_that_others_read_cannot_be_compared_in(retl: Retl, tmp_path: Path) -> None:
    """DuckDB opens no file for writing beside a reader, and the hint says that this engine has to write."""
    with duckdb.connect(str(tmp_path / "shop.duckdb"), read_only=True):
        code, _, said = retl("run", "shop")
    assert (3, True) == (code, "`engine: warehouse` has to write in it" in " ".join(said.split())), said


@pytest.mark.thorough
def test_the_last_known_row_is_told(retl: Retl, tmp_path: Path) -> None:
    """Explain shows a row as it was last sent; --offline and `retl sql` say that the warehouse has it.

    A row that the state has, since its call is there with it, is shown without a word on the warehouse.
    """
    retl("run", "shop")
    _, told, noted = retl("explain", "shop", "2", "--offline")
    assert (True, "") == ("value: b" in told, noted)
    retl("run", "shop")
    with duckdb.connect(str(tmp_path / "shop.duckdb")) as db:
        db.execute("UPDATE shop_rows SET value = 'x' WHERE id = 2; DELETE FROM shop_rows WHERE id = 3")

    assert "now  value: b → x" in retl("explain", "shop", "2")[1]
    assert {"id": "3", "value": "c"}.items() <= json.loads(retl("explain", "shop", "3", "--json")[1])[
        "row"
    ].items()
    _, _, noted = retl("explain", "shop", "2", "--offline")
    assert "in the warehouse" in noted
    assert tables_of(tmp_path)[0] in retl("sql", "shop", "select * from rows")[2].replace("\n", "")
    assert "" == retl("sql", "shop", "select * from calls")[2]


@pytest.mark.thorough
def test_a_row_in_the_warehouse_is_not_told_to_be_gone(retl: Retl, tmp_path: Path) -> None:
    """Where another row left the model, the past of a row that stayed says nothing of that."""
    retl("run", "shop")
    with duckdb.connect(str(tmp_path / "shop.duckdb")) as db:
        db.execute("DELETE FROM shop_rows WHERE id = 3")
    retl("run", "shop")

    events = json.loads(retl("explain", "shop", "2", "--json")[1])["past"]

    assert ["unchanged", "call"] == [event["kind"] for event in events]


@pytest.mark.thorough
def test_commands_that_look_write_nothing_in_the_warehouse(retl: Retl, tmp_path: Path) -> None:
    """Status, explain, history, rejected, plan and check leave its tables as they are."""
    retl("run", "shop")
    tables = tables_of(tmp_path)
    assert "4" in retl("status", "shop")[1]
    for command in (["explain", "shop", "2"], ["history", "shop"], ["rejected", "shop"], ["plan", "shop"]):
        assert 0 == retl(*command)[0], command
        assert tables == tables_of(tmp_path), command
    assert 0 == retl("check", "shop", "--connect")[0]
    assert tables == tables_of(tmp_path)


@pytest.mark.rule("X5")
def test_rehearsals_leave_the_tables_of_one_of_them(retl: Retl, tmp_path: Path) -> None:
    """Each one from production begins with a new copy, and drops what the rehearsal before it made."""
    retl("run", "shop")
    (own,) = tables_of(tmp_path)
    for _ in range(3):
        assert 0 == retl("run", "shop", "--sandbox", "--from-production")[0]
        found = tables_of(tmp_path)
        assert own in found
        assert 2 == len(found)
    assert 0 == retl("reset", "shop", "--yes", "--purge")[0]
    assert [] == tables_of(tmp_path)


@pytest.mark.thorough
def test_a_state_that_is_moved_has_its_tables_still(retl: Retl, tmp_path: Path) -> None:
    """In its new place it drops what it made in the old one, once it needs that no more."""
    retl("run", "shop")
    before = tables_of(tmp_path)
    (tmp_path / "retl.yml").write_text("state: elsewhere\n")
    assert 0 == retl("move", "shop", "--from", "state")[0]
    assert 0 == retl("run", "shop")[0]
    after = tables_of(tmp_path)
    assert 1 == len(after)
    assert before != after


@pytest.mark.thorough
def test_a_reset_drops_the_table_in_the_schema_of_before(retl: Retl, tmp_path: Path) -> None:
    """Where `engine_schema` was edited, the way out that the error names leaves no table of rows behind."""
    retl("run", "shop")
    with (tmp_path / "syncs/shop.yml").open("a") as file:
        file.write("engine_schema: other\n")
    assert "engine_schema: retl" in retl("run", "shop")[2]
    assert 0 == retl("reset", "shop", "--yes")[0]
    assert [] == tables_of(tmp_path)
    assert 0 == retl("run", "shop")[0]


@pytest.mark.thorough
def test_a_state_with_another_key_has_its_tables_still(retl: Retl, tmp_path: Path) -> None:
    """What writes another file in its place, as `retl encrypt` does, lets it drop the table of before."""
    retl("run", "shop")
    for session in find_sessions(["shop"], None, rehearsal=False):
        session.rewrite_state(None, None)
    assert 0 == retl("run", "shop")[0]
    assert 1 == len(tables_of(tmp_path))


@pytest.mark.thorough
def test_the_local_engine_drops_the_table_of_a_duckdb_file(retl: Retl, tmp_path: Path) -> None:
    """By the command line, too, which opens a file for reading alone where it can."""
    retl("run", "shop")
    path = tmp_path / "syncs/shop.yml"
    path.write_text(path.read_text().replace("engine: warehouse", "engine: local"))
    assert 0 == retl("run", "shop")[0]
    assert [] == tables_of(tmp_path)


@pytest.mark.thorough
def test_the_local_engine_drops_the_table_of_a_state_in_a_bucket(
    retl: Retl, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As no later run looks at it, it is dropped once the bucket has the state that needs it no more."""
    path = tmp_path / "syncs/shop.yml"
    with Bucket() as bucket:
        for name, value in bucket.settings.items():
            monkeypatch.setenv(name, value)
        path.write_text(path.read_text() + f"state: s3://{BUCKET}/retl/\n")
        assert 0 == retl("run", "shop")[0]
        assert 1 == len(tables_of(tmp_path))
        path.write_text(path.read_text().replace("engine: warehouse", "engine: local"))
        assert 0 == retl("run", "shop")[0]
        assert [] == tables_of(tmp_path)
        assert 4 == json.loads(retl("run", "shop", "--json")[1])["unchanged"]


class Stalled(Dying):
    """A workspace of a process that stands still before it looks for tables, while another takes over."""

    def __init__(self, alive: Workspace, storage: "TakenOver") -> None:
        super().__init__(alive, 99)
        self.storage = storage

    def tables(self, prefix: str) -> list[str]:
        """With what the other one made."""
        self.execute(f'CREATE TABLE "{self.schema}"."{prefix}another" (n int)')
        self.storage.is_over = True
        return super().tables(prefix)


class TakenOver(FileOnDisk):
    """A storage that another process has from some moment on."""

    is_over = False

    def lost(self) -> RetlError | None:
        """The error from then on."""
        return taken_over("pid 7", "there") if self.is_over else None


@pytest.mark.rule("X3")
def test_who_was_taken_for_dead_drops_no_table_of_the_other(world: World) -> None:
    """Also where that happens in the midst of looking for tables that are not needed any more."""
    world.run()
    with ExitStack() as stack:
        state = stack.enter_context(open_state(world.state_path, "shop"))
        alive = stack.enter_context(open_workspace(world.url, world.root, "retl"))
        state.storage = storage = TakenOver(world.state_path)
        stalled = Stalled(alive, storage)
        tables = run_tables(state, stalled, keep=True)
        with pytest.raises(LockedError):
            drop_unneeded(state, stalled, tables, at_end=False)
    assert f"{tables.prefix}another" in world.tables()


class Elsewhere(FileOnDisk):
    """A storage elsewhere, whose lease this process believes to have."""

    is_remote = True


@pytest.mark.rule("X3")
def test_who_does_not_know_that_it_was_taken_for_dead_drops_no_table_of_the_other(world: World) -> None:
    """A machine that stood still, and its clock with it, drops only what no run needs that took over."""
    world.run()
    with ExitStack() as stack:
        state = stack.enter_context(open_state(world.state_path, "shop"))
        workspace = stack.enter_context(open_workspace(world.url, world.root, "retl"))
        state.storage = Elsewhere(world.state_path)
        tables = run_tables(state, workspace, keep=True)
        generation = state.metadata.generation
        before, of_the_other = (f"{tables.prefix}{one}_0a1b2c3da" for one in (generation - 1, generation))
        for name in (before, of_the_other):
            workspace.execute(f'CREATE TABLE "retl"."{name}" (n int)')

        assert not drop_unneeded(state, workspace, tables, at_end=False)
        state.storage = None
        assert (False, True) == (before in world.tables(), of_the_other in world.tables())
        assert drop_unneeded(state, workspace, tables, at_end=False)
    assert of_the_other not in world.tables()


_ROWS = "SELECT i AS id, 'value ' || i AS value FROM generate_series(1, 300000) AS t (i)"


@pytest.fixture
def two_tables(postgres_url: str, tmp_path: Path) -> Iterator[tuple[PostgresWorkspace, Sides]]:
    """A workspace in Postgres with two tables of 300,000 rows, which are the same."""
    with PostgresWorkspace(make_url(postgres_url), tmp_path, "retl") as workspace:
        workspace.execute("DROP SCHEMA IF EXISTS retl CASCADE")
        workspace.prepare()
        for name in ("old", "new"):
            workspace.execute(f"CREATE TABLE retl.{name} AS {_ROWS}")
        key, value = workspace.columns("new")
        yield workspace, Sides("retl.new", "retl.old", (key, value), (key,), (value,))


def test_postgres_compares_by_several_processes(two_tables: tuple[PostgresWorkspace, Sides]) -> None:
    """Of a join it is not known before how few rows differ, and yet one process does not do it alone."""
    workspace, sides = two_tables
    workspace.analyze("new", ["id"])
    with workspace._transaction():
        workspace._executed(SEVERAL_PROCESSES, None)
        plan = workspace._rows(f"EXPLAIN {find_candidates('retl.c', sides, shared=False)}")
    assert any("Parallel Hash Full Join" in line for (line,) in plan), plan


def test_postgres_says_how_many_rows_a_new_table_has(two_tables: tuple[PostgresWorkspace, Sides]) -> None:
    """So they need not be counted; of a statement that makes no table, or an empty one, it says nothing."""
    workspace, _ = two_tables
    assert 300_000 == workspace.execute("CREATE TABLE retl.copy AS SELECT * FROM retl.new")
    assert workspace.execute("CREATE TABLE retl.none AS SELECT * FROM retl.new WHERE false") is None
    assert workspace.execute("DROP TABLE retl.none") is None
