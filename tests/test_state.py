import json
import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import duckdb
import pytest
from delivery import IDENTIFY, NOON, FakeClock, Shop, Table, rows
from harness import runner

from retl.config.sync import Change
from retl.delivery.outbox import pending
from retl.encryption import STORAGE_VERSION
from retl.engine.mapping import Part, SyncMapping, Use, field_use
from retl.errors import LockedError, StateError
from retl.lock import Holder, hold, holder
from retl.sandbox.server import Sandbox
from retl.state import (
    SCHEMA_VERSION,
    FirstPass,
    new_state,
    open_state,
    peek_state,
    transaction,
)

SETUP = """\
import sys
from datetime import UTC, datetime
from pathlib import Path
from retl.lock import hold
from retl.state import open_state
path = Path(sys.argv[1])
"""
"""The first lines of a process of its own."""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Give the place of a state file, whose folder is not there yet."""
    return tmp_path / "state" / "users.duckdb"


@contextmanager
def another_process(code: str, path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Another process that has run the code, prints a line, and stays until it is killed."""
    process = subprocess.Popen(
        [sys.executable, "-c", f"{SETUP}{code}\nprint('ready', flush=True)\nsys.stdin.read()", str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        assert b"ready\n" == process.stdout.readline()
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdin.close()
        process.stdout.close()


@pytest.mark.parametrize("is_file", [True, False])
def test_duckdb_draws_no_progress_bar(path: Path, is_file: bool) -> None:
    """However long a query takes, DuckDB's progress bar does not get into what a command prints."""
    with open_state(path, "users") if is_file else new_state("users") as state:
        assert (False,) == state.db.execute("SELECT current_setting('enable_progress_bar')").fetchone()


def test_no_connection_depends_on_the_zone_of_the_machine(path: Path) -> None:
    """Further connections, with which calls are rendered as they leave, are in UTC as the first one is."""
    code = "db = open_state(path, 'users').db\n"
    code += """print(db.cursor().execute("SELECT current_setting('TimeZone')").fetchone())"""
    ran = subprocess.run(
        [sys.executable, "-c", f"{SETUP}{code}", str(path)],
        env={**os.environ, "TZ": "America/New_York"},
        capture_output=True,
        check=True,
    )
    assert b"('UTC',)\n" == ran.stdout


def test_a_new_file_knows_its_sync_and_has_an_id_of_its_own(tmp_path: Path) -> None:
    """A state begins without memory, and its random id makes its message ids unlike all others."""
    found = []
    for name in ("one", "two"):
        with open_state(tmp_path / f"{name}.duckdb", name) as state:
            found.append(state.metadata)
    assert ["one", "two"] == [one.sync for one in found]
    assert 2 == len({one.destination_id for one in found})
    assert all(len(one.destination_id) == 32 for one in found)
    assert (0, None, None, None) == (
        found[0].generation,
        found[0].destination_hash,
        found[0].first_pass,
        found[0].mapping,
    )


def test_what_is_noted_is_there_again(path: Path) -> None:
    """What the file says of itself outlives the process that wrote it."""
    with open_state(path, "users") as state:
        noted = replace(
            state.metadata,
            destination_hash="h",
            generation=3,
            first_pass=FirstPass.SENT,
            mapping={"kind": "identify"},
            destination="https://api.segment.io (key 1a2b3c4d)",
            sync_file="../syncs/users.yml",
        )
        state.note(noted)
        assert noted == state.metadata
    with open_state(path, "users") as state:
        assert noted == state.metadata


def test_only_the_owner_can_read_a_state_file(path: Path) -> None:
    """State holds personal data: the file and the folder made for it are for their owner alone."""
    open_state(path, "users").db.close()
    assert 0o600 == stat.S_IMODE(path.stat().st_mode)
    assert 0o700 == stat.S_IMODE(path.parent.stat().st_mode)


def test_the_oldest_supported_duckdb_can_read_the_file(path: Path) -> None:
    """The file is in the storage format of that version, whatever DuckDB wrote it."""
    with open_state(path, "users") as state:
        ((tags,),) = rows(state, "SELECT tags FROM duckdb_databases() WHERE database_name = 'state'")
    assert tags["storage_version"].startswith(STORAGE_VERSION)


def test_a_half_made_file_does_not_stand_in_the_way(path: Path) -> None:
    """A process that died while it made the file leaves nothing that its successor stumbles over."""
    path.parent.mkdir()
    for leftover in (f"{path.name}.new", f"{path.name}.new.wal"):
        path.with_name(leftover).write_bytes(b"half of a file")
    open_state(path, "users").db.close()
    assert [path] == list(path.parent.iterdir())


@pytest.mark.parametrize("ending", [".tmp", ".warehouse.tmp"])
def test_spilled_data_of_a_killed_process_is_swept_away(path: Path, ending: str) -> None:
    """What DuckDB wrote beside the file and could not take away goes at the next opening."""
    open_state(path, "users").db.close()
    spill = path.with_name(f"{path.name}{ending}")
    spill.mkdir()
    (spill / "duckdb_temp_storage-0.tmp").write_bytes(b"rows")
    open_state(path, "users").db.close()
    assert not spill.exists()


def test_looking_makes_no_file(path: Path) -> None:
    """Who only looks at a state that is not there sees an empty one, and leaves no trace."""
    with peek_state(path, "users") as state:
        assert "users" == state.metadata.sync
    assert not path.parent.exists()


def test_looking_sees_what_is_there(path: Path) -> None:
    """Who looks at a state that is there sees it as it is."""
    with open_state(path, "users") as state:
        known = state.metadata
    with peek_state(path, "users") as state:
        assert known == state.metadata


@pytest.mark.parametrize("content", [b"id,name\n1,Ada\n", b"\0" * 100_000], ids=["text", "zeros"])
def test_a_file_that_is_no_database_is_refused(path: Path, content: bytes) -> None:
    """A file of another kind is left as it is, and the error says what it means to move it away."""
    path.parent.mkdir()
    path.write_bytes(content)
    with pytest.raises(StateError) as caught:
        open_state(path, "users")
    assert content == path.read_bytes()
    assert (str(path), 2) == (caught.value.where, caught.value.exit_code)
    assert "move it away" in (caught.value.hint or "")


@pytest.mark.parametrize(
    "table",
    [
        "CREATE TABLE users (id INTEGER)",
        "CREATE TABLE about (text VARCHAR)",
        "CREATE TABLE metadata (text VARCHAR)",
        "CHECKPOINT",
    ],
    ids=["other table", "other about", "other metadata", "no table"],
)
def test_a_database_of_somebody_else_is_refused(path: Path, table: str) -> None:
    """A DuckDB file that retl did not make is not taken over."""
    path.parent.mkdir()
    with duckdb.connect(str(path)) as db:
        db.execute(table)
    with pytest.raises(StateError, match="not made by retl"):
        open_state(path, "users")


def test_a_newer_file_is_refused(path: Path) -> None:
    """A state that a newer retl wrote is refused with the way out, not half understood."""
    with open_state(path, "users") as state:
        state.db.execute("UPDATE state.metadata SET schema_version = schema_version + 1")
    with pytest.raises(StateError, match="newer retl") as caught:
        open_state(path, "users")
    assert "upgrade" in (caught.value.hint or "")


MAPPING_2 = {
    "kind": "track",
    "primary_key": ["id"],
    "ids": {"user_id": "user"},
    "fields": {"plan": "plan", ".changed note": "note"},
    "compared": {".id user_id": "user", "plan": "plan", ".changed note": "note", ".column x": "x"},
    "columns": ["id", "user", "plan"],
    "types": {"id": "BIGINT", "user": "VARCHAR", "plan": "VARCHAR"},
    "carried": {".added .event": "name", ".removed why": "why", ".context ip": "ip"},
    "json_columns": [],
    "timezone": "UTC",
    "zoneless": [],
}
"""A mapping as schema 2 kept it."""


def make_file_of_schema(version: int, path: Path, mapping: dict[str, Any] = MAPPING_2) -> None:
    """Make a state file as retl made them with an older schema: a row, a call that waits, a mapping."""
    path.parent.mkdir(exist_ok=True)
    with duckdb.connect() as db:
        db.execute(f"ATTACH '{path}' AS state (STORAGE_VERSION 'v1.4.0')")
        tables = Path(__file__).parent / "fixtures" / f"state_{max(2, version)}.sql"
        db.execute(tables.read_text(encoding="utf-8"))
        metadata = "metadata" if version > 2 else "about"
        db.execute(
            f"""
            INSERT INTO state.{metadata} (
                schema_version, sync, destination_id, destination_hash, generation, first_pass, mapping
            )
            VALUES (?, 'users', 'some id', 'some hash', 7, 'sent', ?)
            """,
            [version, json.dumps(mapping)],
        )
        stale = ", false AS stale" if version > 1 else ""
        db.execute(f"CREATE OR REPLACE TABLE state.snapshot AS SELECT 'k' AS key, {{'v': 1}} AS row{stale}")
        db.execute("INSERT INTO state.outbox VALUES (1, 0, 'run', 'k', 'added', 'retl-1', '{}', 2)")
        if version > 3:
            db.execute(
                "CREATE OR REPLACE TABLE state.replaced AS "
                "SELECT 'run' AS run_id, key, row, stale, 0::BIGINT AS calls FROM state.snapshot LIMIT 0"
            )
        repeated = ", 0" if version > 3 else ""
        answered = "TIMESTAMP '2026-01-01'"
        db.execute(f"INSERT INTO state.receipt VALUES ('run', 0, 0, 0, 1, 2{repeated}, 1, 200, {answered})")
        user = ", 'run', 'u', false" if version > 3 else ""
        db.execute(
            f"""
            INSERT INTO state.rejected_call VALUES (
                'run', 'k', 'added', 'retl-0', '{{"userId": "u"}}', 'refused', '400', TIMESTAMP '2026-01-01'
                {user}
            )
            """
        )


@pytest.mark.parametrize("version", [1, 2, 3, 4])
def test_an_older_file_is_migrated(path: Path, version: int) -> None:
    """A file of an older schema opens with its rows and pending calls, and is of this schema then."""
    make_file_of_schema(version, path)

    for _ in range(2):
        with open_state(path, "users") as state:
            found = state.db.execute("SELECT * FROM state.snapshot").fetchall()
            assert [("k", {"v": 1}, False, None, None)] == found
            assert 1 == pending(state.db)
            assert ("some id", 7, FirstPass.SENT) == (
                state.metadata.destination_id,
                state.metadata.generation,
                state.metadata.first_pass,
            )
            found = state.db.execute("SELECT schema_version FROM state.metadata").fetchone()
            assert (SCHEMA_VERSION,) == found
            assert [] == rows(state, "SELECT run_id, key, row.v, stale FROM state.replaced")
            assert [(1, 0)] == rows(state, "SELECT calls, repeated FROM state.receipt")
            assert [("run", "u", False)] == rows(
                state, "SELECT rejected_in, user_id, overtaken FROM state.rejected_call"
            )


def test_the_mapping_of_an_older_file_is_understood(path: Path) -> None:
    """The names by which schema 2 kept uses of columns are the same uses in this version."""
    make_file_of_schema(2, path)
    with open_state(path, "users") as state:
        mapping = SyncMapping.from_json(state.metadata.mapping or {})

    assert {field_use("plan"): "plan", Use(Part.FIELD, "note", Change.CHANGED): "note"} == mapping.fields
    assert {Use(Part.ID, "user_id"): "user", **mapping.fields, Use(Part.COLUMN, "x"): "x"} == mapping.compared
    assert {
        Use(Part.EVENT, change=Change.ADDED): "name",
        Use(Part.FIELD, "why", Change.REMOVED): "why",
        Use(Part.CONTEXT, "ip"): "ip",
    } == mapping.carried
    assert mapping == SyncMapping.from_json(json.loads(json.dumps(mapping.as_json())))


@pytest.mark.parametrize(
    "command",
    [("plan", "users"), ("explain", "users", "k"), ("status", "users"), ("rejected", "users"), ("check",)],
    ids=lambda command: command[0],
)
def test_commands_that_look_leave_an_older_file_as_it_is(
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    command: tuple[str, ...],
) -> None:
    """A command that changes nothing works on a file of an older schema, whose bytes stay the same."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "syncs").mkdir()
    (tmp_path / "syncs" / "users.yml").write_text(
        "sql: SELECT 'k' AS k, 2 AS v UNION ALL SELECT 'new', 3\n"
        "warehouse: duckdb://\nprimary_key: k\n"
        "identify: {user_id: k, traits: {v: v}}\nreceivers: {suprsend: {mode: reject}}\n",
        encoding="utf-8",
    )
    mapping = {
        "kind": "identify",
        "primary_key": ["k"],
        "ids": {"user_id": "k"},
        "fields": {"v": "v"},
        "compared": {".id user_id": "k", "v": "v"},
        "columns": ["k", "v"],
        "types": {"k": "VARCHAR", "v": "BIGINT"},
    }
    path = tmp_path / "state" / "users.duckdb"
    make_file_of_schema(2, path, mapping)
    with duckdb.connect(str(path)) as db:
        db.execute(
            "CREATE OR REPLACE TABLE snapshot AS SELECT 'k' AS key, {'k': 'k', 'v': 1} AS row, false AS stale"
        )
    before = path.read_bytes()

    code, out, err = runner(capsys)(*command)
    assert (0, "") == (code, err)
    assert out
    assert before == path.read_bytes()


@pytest.mark.parametrize("version", [1, 2, 3, 4])
def test_an_older_retl_says_that_a_newer_one_wrote_the_file(path: Path, version: int) -> None:
    """Where a retl of before schema 3 looks for the version of a migrated file, it finds today's."""
    make_file_of_schema(version, path)
    open_state(path, "users").db.close()
    open_state(path.with_name("new.duckdb"), "users").db.close()
    for file in (path, path.with_name("new.duckdb")):
        with duckdb.connect() as db:
            db.execute(f"ATTACH '{file}' AS state")
            found = db.execute("SELECT schema_version, sync FROM state.about").fetchall()
        assert [(SCHEMA_VERSION, "users")] == found


def test_looking_at_an_older_file_does_not_migrate_it(path: Path) -> None:
    """Who only looks at a file of an older schema sees it in this one; the file keeps its bytes."""
    make_file_of_schema(1, path)
    before = path.read_bytes()

    with peek_state(path, "users") as state:
        found = state.db.execute("SELECT * FROM state.snapshot").fetchall()
        assert [("k", {"v": 1}, False, None, None)] == found
        assert 1 == pending(state.db)
        assert 7 == state.metadata.generation
        state.db.execute("CREATE TEMP TABLE change AS SELECT * FROM state.snapshot")

    assert before == path.read_bytes()


def test_the_file_of_another_sync_is_refused(path: Path) -> None:
    """A file that was renamed or copied over does not become another sync's memory."""
    open_state(path, "users").db.close()
    with pytest.raises(StateError, match="`users`, not to `orders`"):
        open_state(path, "orders")


def test_a_refused_file_can_be_opened_again(path: Path) -> None:
    """An error on opening lets go of the file."""
    open_state(path, "users").db.close()
    for _ in range(2):
        with pytest.raises(StateError):
            open_state(path, "orders")
    open_state(path, "users").db.close()


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit, duckdb.Error])
def test_a_transaction_is_all_or_nothing(path: Path, error: type[BaseException]) -> None:
    """Whatever is raised inside takes back what was written inside, and the next one works."""
    with open_state(path, "users") as state:

        def fail() -> None:
            with state.transaction():
                state.db.execute("UPDATE state.metadata SET generation = 7")
                raise error

        with pytest.raises(error):
            fail()
        assert 0 == state.metadata.generation
        with state.transaction():
            state.db.execute("UPDATE state.metadata SET generation = 8")
        assert 8 == state.metadata.generation


def test_a_failing_statement_takes_its_transaction_back(path: Path) -> None:
    """After an error of DuckDB's own inside a transaction the connection is usable at once."""
    with open_state(path, "users") as state:

        def fail() -> None:
            with transaction(state.db):
                state.db.execute("UPDATE state.metadata SET generation = 7")
                state.db.execute("SELECT * FROM state.nothing")

        with pytest.raises(duckdb.Error):
            fail()
        with transaction(state.db):
            assert 0 == state.metadata.generation


def test_the_holder_is_named_while_it_holds(path: Path) -> None:
    """Whoever asks learns which process holds the state, since when, and nothing once it is free."""
    assert holder(path) is None
    with hold(path, NOON):
        found = holder(path)
        assert found is not None
        assert (os.getpid(), "2026-03-01 12:00:00 UTC") == (found.pid, found.since)
    assert holder(path) is None


@pytest.mark.rule("G12")
def test_a_second_process_is_told_who_holds_the_state(path: Path) -> None:
    """While one process holds a sync, another gets exit code 5 and the name of the first."""
    now = "datetime(2026, 3, 1, tzinfo=UTC)"
    with another_process(f"held = hold(path, {now})\nheld.__enter__()", path) as other:
        with pytest.raises(LockedError) as caught, hold(path, NOON, timeout=0):
            pass
        assert 5 == caught.value.exit_code
        assert f"pid {other.pid} on " in str(caught.value)
        assert "since 2026-03-01 00:00:00 UTC" in str(caught.value)


def test_a_killed_holder_blocks_nobody(path: Path) -> None:
    """What a dead process left beside the state neither locks it nor is taken for a holder."""
    with another_process("held = hold(path, datetime.now(UTC))\nheld.__enter__()", path) as other:
        other.kill()
        other.wait()
    with hold(path, NOON, timeout=0):
        found = holder(path)
        assert found is not None
        assert os.getpid() == found.pid
    assert holder(path) is None


def test_two_holders_in_one_process_exclude_each_other(path: Path) -> None:
    """The lock holds between the threads of one process, too."""
    with hold(path, NOON), pytest.raises(LockedError), hold(path, NOON, timeout=0):
        pass
    with hold(path, NOON, timeout=0):
        pass


def test_an_error_while_holding_lets_go(path: Path) -> None:
    """The lock outlives no error."""
    with pytest.raises(ValueError, match="no"), hold(path, NOON):
        raise ValueError("no")
    with hold(path, NOON, timeout=0):
        pass


@pytest.mark.parametrize("note", ["", "not JSON", "[]", '{"pid": 1}'])
def test_an_unreadable_note_names_nobody(path: Path, note: str) -> None:
    """A note that was cut off is as good as none."""
    path.parent.mkdir()
    path.with_name(f"{path.name}.holder").write_text(note)
    assert holder(path) is None


@pytest.mark.rule("S4")
@pytest.mark.parametrize("ending", [".lock", ".holder", ".new", ".new.wal", ".wal", ".tmp", ".warehouse.tmp"])
def test_nothing_is_written_through_a_link_beside_the_state(path: Path, ending: str) -> None:
    """A link in the place of a file of retl's is refused, and what it leads to stays as it is."""
    path.parent.mkdir()
    precious = path.with_name("precious")
    precious.write_text("a letter")
    link = path.with_name(path.name + ending)
    link.symlink_to(precious)
    with pytest.raises(StateError) as caught, hold(path, NOON):
        pass
    assert (str(link), "a letter") == (caught.value.where, precious.read_text())
    link.unlink()
    with hold(path, NOON):
        open_state(path, "users").db.close()


@pytest.mark.parametrize("ending", [".lock", ".holder", ".new"])
def test_a_folder_in_the_place_of_a_file_is_refused(path: Path, ending: str) -> None:
    """A folder where retl writes a file is an error with exit code 2, and the lock is free afterwards."""
    folder = path.with_name(path.name + ending)
    folder.mkdir(parents=True)
    with pytest.raises(StateError, match="this is a folder") as caught, hold(path, NOON):
        pass
    assert (str(folder), 2) == (caught.value.where, caught.value.exit_code)
    folder.rmdir()
    with hold(path, NOON, timeout=0):
        pass


def test_the_note_of_the_holder_is_for_the_owner_alone(path: Path) -> None:
    """The note beside a lock is a file of its own, made anew each time."""
    path.parent.mkdir()
    note = path.with_name(f"{path.name}.holder")
    note.write_text("{}")
    note.chmod(0o644)
    with hold(path, NOON):
        assert 0o600 == stat.S_IMODE(note.stat().st_mode)


def test_a_holder_reads_as_a_sentence() -> None:
    """The holder is spelled the way the error message needs it."""
    assert "pid 7 on box since today" == str(Holder(7, "box", "today"))


def test_a_file_that_another_program_has_open_is_locked_not_damaged(path: Path) -> None:
    """DuckDB's own lock is told from a damaged file: wait, do not move the state away."""
    open_state(path, "users").db.close()
    with another_process("state = open_state(path, 'users')", path), pytest.raises(LockedError) as caught:
        open_state(path, "users")
    assert 5 == caught.value.exit_code
    with open_state(path, "users"), pytest.raises(LockedError):
        open_state(path, "users")


def test_a_killed_writer_loses_only_what_it_had_not_committed(path: Path) -> None:
    """What was committed before a kill is there, what was not is not, and the file opens at once."""
    code = "state = open_state(path, 'users')\nstate.db.execute('UPDATE state.metadata SET generation = 5')\n"
    code += "state.db.execute('BEGIN')\nstate.db.execute('UPDATE state.metadata SET generation = 6')"
    with another_process(code, path):
        pass
    with open_state(path, "users") as state:
        assert 5 == state.metadata.generation


@pytest.mark.slow
def test_the_file_does_not_grow_with_the_number_of_runs(tmp_path: Path) -> None:
    """Later runs of the same size write over what earlier ones left."""
    with Sandbox() as sandbox:
        shop = Shop(tmp_path, sandbox.url, IDENTIFY, clock=FakeClock())
        ids = [f"u{number}" for number in range(300)]
        sizes = []
        for number in range(16):
            table = Table(
                {"id": ids, "name": [f"n{(one + number) % 7}" for one in range(300)], "plan": ["x"] * 300}
            )
            assert 0 == shop.run(table).exit_code
            sizes.append(shop.state_path.stat().st_size)
    assert max(sizes[8:]) <= max(sizes[:8]) < 4_000_000


class FullDisk:
    """A connection to a disk that is full when a transaction is to be written."""

    def __init__(self, db: duckdb.DuckDBPyConnection) -> None:
        self._db = db

    def execute(self, query: str) -> duckdb.DuckDBPyConnection:
        """Execute a statement, but no COMMIT."""
        if query == "COMMIT":
            raise duckdb.IOException("No space left on device")
        return self._db.execute(query)


def test_a_transaction_that_cannot_be_committed_is_over() -> None:
    """After a COMMIT that failed nothing of it is there, and the next transaction can begin."""
    with duckdb.connect() as db:
        db.execute("CREATE TABLE t (n INTEGER)")
        full: Any = FullDisk(db)
        with pytest.raises(duckdb.IOException), transaction(full):
            full.execute("INSERT INTO t VALUES (1)")

        with transaction(db):
            db.execute("INSERT INTO t VALUES (2)")

        assert [(2,)] == db.execute("FROM t").fetchall()
