"""State files of every schema so far, as retl wrote them then, and what becomes of them.

`fixtures/state_N.duckdb.gz` is the file that the last commit with schema N made in two runs of one identify
sync: the first delivered three calls, had one refused (u3) and rejected a row (0); the second was refused
with a 401, and its two calls wait. In `state_N_first_pass` all calls of the first run wait, unrendered.
"""

import gzip
import json
from pathlib import Path
from typing import Any

import duckdb
import pytest
from delivery import HURRIED, FakeClock, rows

from retl.config.project import Project, load_model, load_sync
from retl.delivery.outbox import pending, waiting
from retl.delivery.rate_limit import RateLimiter
from retl.delivery.segment import Segment, Source
from retl.job import Job, Options
from retl.observer import SilentObserver
from retl.pipeline import run
from retl.retry import retry
from retl.sandbox.server import Sandbox
from retl.state import SCHEMA_VERSION, State, open_state, peek_state
from retl.warehouse import Warehouse

FIXTURES = Path(__file__).parent / "fixtures"
SCHEMAS = [str(version) for version in range(1, SCHEMA_VERSION)]
FILES = [*SCHEMAS, "5_first_pass", "6_first_pass", "7_first_pass"]
MADE_ANEW = {"snapshot", "replaced"}
"""Tables whose columns follow the model: each edit of a mapping makes them anew, and without NOT NULL."""

SYNC = """\
sql: |
  SELECT * FROM (VALUES {}) AS t (id, name, plan, seats)
warehouse: "duckdb://"
primary_key: id
identify:
  user_id: id
  traits: {{name: name, plan: plan, seats: seats}}
guards: {{removed: off, changed: off, added: off}}
"""
SECOND = (
    "('u1', 'Ada', 'team', 1::BIGINT), ('u3', 'Nobody', 'free', 3), ('u4', 'Dot', 'pro', NULL), "
    "('u5', 'Eve', 'pro', 7), ('0', 'Zero', 'pro', 5)"
)
FIRST = (
    "('u1', 'Ada', 'pro', 1::BIGINT), ('u2', 'Bob', 'free', 2), ('u3', 'Nobody', 'free', 3), "
    "('u4', 'Dot', 'pro', NULL), ('0', 'Zero', 'pro', 5)"
)


def file_of(name: str, folder: Path) -> Path:
    """The state file of a fixture."""
    path = folder / f"{name}.duckdb"
    path.write_bytes(gzip.decompress((FIXTURES / f"state_{name}.duckdb.gz").read_bytes()))
    return path


def form(state: State) -> dict[str, list[tuple[Any, ...]]]:
    """The tables, columns, constraints, indexes and views of a state."""
    of_state = "database_name = 'state' AND schema_name = 'main'"
    columns = rows(
        state,
        f"""
        SELECT
            table_name, column_name, CASE WHEN column_name <> 'row' THEN data_type END AS data_type,
            is_nullable, column_default
        FROM duckdb_columns() WHERE {of_state} ORDER BY table_name, column_index
        """,
    )
    # DuckDB 1 spells the database out in a view, and DuckDB 2 does not.
    views = f"SELECT replace(sql, 'state.', '') FROM duckdb_views() WHERE {of_state} ORDER BY ALL"
    constraints = (
        f"SELECT table_name, constraint_text FROM duckdb_constraints() WHERE {of_state} ORDER BY ALL"
    )
    return {
        "columns": [(*one[:3], one[0] in MADE_ANEW or one[3], one[4]) for one in columns],
        "constraints": [one for one in rows(state, constraints) if one[0] not in MADE_ANEW],
        "indexes": rows(state, f"SELECT sql FROM duckdb_indexes() WHERE {of_state} ORDER BY ALL"),
        "views": rows(state, views),
    }


@pytest.mark.variants(1)
@pytest.mark.parametrize("name", FILES)
def test_a_migrated_file_has_the_form_of_a_new_one(tmp_path: Path, name: str) -> None:
    """Tables, columns in their order, types, defaults, constraints, indexes, views are as in a new file."""
    with open_state(tmp_path / "new.duckdb", "users") as state:
        new = form(state)
    path = file_of(name, tmp_path)
    with peek_state(path, "users") as state:
        assert new == form(state)
    with open_state(path, "users") as state:
        assert new == form(state)
    assert {"receipt", "rejected_call", "unrendered"} <= {table for table, *_ in new["columns"]}


def test_each_schema_has_its_file() -> None:
    """A new schema brings a file of the one before along."""
    assert {f"state_{name}.duckdb.gz" for name in FILES} == {one.name for one in FIXTURES.glob("state_*.gz")}


@pytest.mark.parametrize("name", FILES)
def test_who_only_looks_leaves_the_file_as_it_is(tmp_path: Path, name: str) -> None:
    """An older file keeps its bytes while its calls, rows and runs are looked at."""
    path = file_of(name, tmp_path)
    before = path.read_bytes()
    with peek_state(path, "users") as state:
        assert (4 if "first" in name else 2) == pending(state.db)
        assert 4 == len(rows(state, "SELECT key, row.name FROM state.snapshot"))
        assert (1 if "first" in name else 2) == len(
            rows(state, "SELECT record ->> '$.status' FROM state.run")
        )
    assert before == path.read_bytes()


def job_of(state: State, folder: Path, warehouse: Warehouse, values: str) -> Job:
    """The sync of the fixtures over these rows."""
    path = folder / "users.yml"
    path.write_text(SYNC.format(values))
    project = Project(folder, {"SEGMENT_WRITE_KEY": "key"})
    sync = load_sync(path, project)
    return Job(sync, load_model(sync, project), state, warehouse, Options(), FakeClock(), SilentObserver())


def segment(sandbox: Sandbox) -> Segment:
    """The way to the sandbox, which the state takes for the one that the fixtures were made with."""
    source = Source(sandbox.url, "key", known_as="http://127.0.0.1:48765")
    return Segment(source, RateLimiter(0, FakeClock()), HURRIED, 2)


@pytest.mark.variants(1)
@pytest.mark.rule("L3")
@pytest.mark.parametrize("name", FILES)
def test_calls_that_waited_leave_once(
    tmp_path: Path, sandbox: Sandbox, in_memory: Warehouse, name: str
) -> None:
    """After a migration the calls that waited leave once, under their ids; then nothing has changed."""
    path = file_of(name, tmp_path)
    with peek_state(path, "users") as state:
        query = f"SELECT message_id FROM ({waiting(state.db)}) ORDER BY seq"
        ids = [message_id for (message_id,) in rows(state, query)]
    values = FIRST if "first" in name else SECOND
    for _ in range(2):
        with open_state(path, "users") as state, segment(sandbox) as to:
            record = run(job_of(state, tmp_path, in_memory, values), to)
        assert record.error is None
        assert (4, 0, 0, 0) == (record.unchanged, record.added, record.changed, record.removed)
        assert {"blocked_id": 1} == record.rejected_by
    assert ids == [call["messageId"] for call in sandbox.accepted]
    assert [] == sandbox.duplicates
    with open_state(path, "users") as state:
        assert [("0", 3 if "first" in name else 4)] == rows(
            state, "SELECT key, times FROM state.rejected_row"
        )


@pytest.mark.parametrize("name", FILES)
def test_calls_that_waited_have_what_a_history_tells(tmp_path: Path, name: str) -> None:
    """User, event and moment of calls that wait, or were refused, are known after a migration."""
    with open_state(file_of(name, tmp_path), "users") as state:
        found = rows(state, f"SELECT user_id, event, moment, body FROM ({waiting(state.db)})")
        found += rows(state, "SELECT user_id, event, moment, body FROM state.rejected_call")
    assert (4 if "first" in name else 3) == len(found)
    for user_id, event, moment, body in found:
        call = json.loads(body)
        told = (user_id, event, f"{moment:%Y-%m-%dT%H:%M:%S}.{moment.microsecond // 1000:03}Z")
        assert (call["userId"], "identify", call["timestamp"]) == told


@pytest.mark.variants(1)
@pytest.mark.parametrize("name", SCHEMAS)
def test_what_was_rejected_goes_out_again(
    tmp_path: Path, sandbox: Sandbox, in_memory: Warehouse, name: str
) -> None:
    """A call that an older retl kept as rejected leaves with a retry under its id, behind those that wait."""
    path = file_of(name, tmp_path)
    with duckdb.connect(str(path), read_only=True) as db:
        ((message_id,),) = db.execute("SELECT message_id FROM rejected_call").fetchall()
    with open_state(path, "users") as state, segment(sandbox) as to:
        done = retry(job_of(state, tmp_path, in_memory, SECOND), to, stale=False)
    assert done.run.error is None
    assert ["u5", "u1", "u3"] == [call["userId"] for call in sandbox.accepted]
    assert message_id == sandbox.accepted[-1]["messageId"]


@pytest.mark.thorough
@pytest.mark.parametrize("name", FILES)
def test_a_change_after_a_migration_is_one_change(
    tmp_path: Path, sandbox: Sandbox, in_memory: Warehouse, name: str
) -> None:
    """The first run after a migration finds the row that differs, the new one and the one that is gone."""
    path = file_of(name, tmp_path)
    values = FIRST if "first" in name else SECOND
    values = values.replace("'Dot'", "'Dorothy'").replace("('u3',", "('u9',")
    with open_state(path, "users") as state, segment(sandbox) as to:
        record = run(job_of(state, tmp_path, in_memory, values), to)
    assert (2, 1, 1, 1) == (record.unchanged, record.added, record.changed, record.removed)
    assert {"u9", "u4"} == {call["userId"] for call in sandbox.accepted[-2:]}
