"""Accidents that must neither flood Segment nor lose a call: each is one test that counts the calls."""

import json
import re
import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import duckdb
import psycopg
import pytest
from delivery import Shop as Bare
from delivery import segment
from harness import Retl, runner

from retl.observer import Observer, SilentObserver
from retl.sandbox.failures import Reply
from retl.sandbox.server import Sandbox
from retl.state import open_state
from retl.warehouse import open_warehouse

ROWS = 1_000
"""Rows of the shop; enough for the default guards."""

IDENTIFIED = """\
sql: SELECT * FROM users
primary_key: id
identify: {user_id: id, traits: {name: name, plan: plan}}
"""

TRACKED = """\
sql: SELECT * FROM users
primary_key: id
track:
  user_id: id
  added: {event: Added}
  changed: {event: Changed}
  removed: {event: Removed}
  properties: {name: name, plan: plan}
"""


@dataclass
class Shop:
    """A project with a users sync and a thousand rows; the working folder of the test.

    Attributes:
        folder: the project folder.
        sandbox: the Segment that gets its calls.
        retl: runs a command.
        said: by the last run of the users sync.
    """

    folder: Path
    sandbox: Sandbox
    retl: Retl
    said: str = ""

    @property
    def sync(self) -> Path:
        """The sync file."""
        return self.folder / "syncs/users.yml"

    @property
    def state(self) -> Path:
        """The state file."""
        return self.folder / "state/users.duckdb"

    def sql(self, *statements: str) -> None:
        """Change the warehouse."""
        with duckdb.connect(self.folder / "shop.duckdb") as db:
            for statement in statements:
                db.execute(statement)

    def run(self, *arguments: str) -> tuple[int, int]:
        """Run the users sync; gives its exit code, and how many calls Segment took that were new to it."""
        before = len(self.sandbox.accepted)
        code, out, said = self.retl("run", "users", *arguments)
        self.said = out + said
        return code, len(self.sandbox.accepted) - before


@pytest.fixture
def shop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Shop]:
    """A shop of which no run has been made."""
    (tmp_path / "syncs").mkdir()
    monkeypatch.setenv("SEGMENT_WRITE_KEY", "key")
    monkeypatch.chdir(tmp_path)
    with Sandbox() as sandbox:
        settings = {"endpoint": sandbox.url, "events_per_second": 0}
        (tmp_path / "retl.yml").write_text(
            f"warehouse: duckdb:///shop.duckdb\nsegment: {json.dumps(settings)}\n"
        )
        made = Shop(tmp_path, sandbox, runner(capsys))
        made.sync.write_text(IDENTIFIED)
        made.sql(
            "CREATE TABLE all_users AS SELECT i::TEXT AS id, 'n' || i AS name, 'free' AS plan "
            f"FROM range(1, {ROWS + 1}) AS t (i)",
            "CREATE VIEW users AS FROM all_users",
        )
        yield made


@pytest.fixture
def known(shop: Shop) -> Shop:
    """A shop whose thousand rows are in the snapshot, and have been sent."""
    assert (0, ROWS) == shop.run()
    return shop


CHANGE_3 = "UPDATE all_users SET plan = 'pro' WHERE id IN ('1', '2', '3')"


def show(condition: str) -> str:
    """The statement after which the model yields but these rows."""
    return f"CREATE OR REPLACE VIEW users AS FROM all_users WHERE {condition}"


@pytest.mark.thorough
@pytest.mark.rule("G1", "G5")
@pytest.mark.parametrize(
    "left", ["false", "id::INT % 2 = 0", "id::INT > 201"], ids=["none", "half", "four fifths"]
)
def test_rows_that_are_missing_for_a_while_send_nothing(known: Shop, left: str) -> None:
    """A model without all its rows, or many of them, stops the run; once they are back only news is sent."""
    known.sql(show(left))
    assert [(4, 0), (4, 0)] == [known.run(), known.run()]
    known.sql(show("true"), CHANGE_3)
    assert (0, 3) == known.run()


@pytest.mark.rule("G4")
def test_no_rows_are_no_baseline(shop: Shop) -> None:
    """A first run without rows stops; else all rows would be new once they are there."""
    shop.sync.write_text(TRACKED)
    shop.sql(show("false"))
    assert (4, 0) == shop.run()
    shop.sql(show("true"))
    assert [(0, 0), (0, 0)] == [shop.run(), shop.run()]


MANY = 150_000


@pytest.mark.thorough
@pytest.mark.rule("G8")
def test_an_error_in_the_last_rows_sends_nothing(shop: Shop) -> None:
    """A model that fails after many rows changes nothing, on a first run as on a later one."""
    shop.sync.write_text(TRACKED)
    fails = f"CASE WHEN i = {MANY - 1} THEN error('the last row is broken') ELSE 'free' END"
    columns = "i::TEXT AS id, 'n' AS name, {} AS plan"
    rows = f"CREATE OR REPLACE VIEW users AS SELECT {columns} FROM range(1, {{}}) AS t (i)"
    shop.sql(rows.format(fails, MANY))
    assert (2, 0) == shop.run()
    shop.sql(rows.format("'free'", MANY))
    assert (0, 0) == shop.run()
    shop.sql(rows.format(fails, MANY))
    assert (2, 0) == shop.run()
    shop.sql(rows.format("CASE WHEN i <= 3 THEN 'pro' ELSE 'free' END", MANY))
    assert (0, 3) == shop.run()


class _Cutting(SilentObserver):
    """Ends the session of a run at the database, as soon as rows came from it."""

    def __init__(self, url: str) -> None:
        self.url: str | None = url

    def rows_read(self, rows: int) -> None:
        url, self.url = self.url, None
        if url:
            with psycopg.connect(url, autocommit=True) as other:
                ended = other.execute(
                    "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity "
                    "WHERE application_name = 'retl'"
                )
                assert {(True,)} == set(ended.fetchall())


@pytest.mark.rule("G8")
def test_a_connection_that_is_cut_while_rows_come_sends_nothing(tmp_path: Path, postgres_url: str) -> None:
    """A Postgres session that is ended in the midst of the rows: no call, and the next run sends the news."""
    with psycopg.connect(postgres_url, autocommit=True) as db, Sandbox() as sandbox:
        db.execute("DROP TABLE IF EXISTS users")
        db.execute(
            "CREATE TABLE users AS SELECT i::text AS id, repeat('x', 200) AS name, 'free' AS plan "
            "FROM generate_series(1, 60000) AS t (i)"
        )
        shop = Bare(tmp_path, sandbox.url, TRACKED)

        def run(observer: Observer) -> tuple[int | None, int]:
            before, shop.observer = len(sandbox.accepted), observer
            with ExitStack() as stack:
                state = stack.enter_context(open_state(shop.state_path, "shop"))
                warehouse = stack.enter_context(open_warehouse(postgres_url, tmp_path))
                record = shop.run_with(state, warehouse, stack.enter_context(segment(sandbox.url)))
            return record.exit_code, len(sandbox.accepted) - before

        assert [(3, 0), (0, 0)] == [run(_Cutting(postgres_url)), run(SilentObserver())]
        db.execute("UPDATE users SET plan = 'pro' WHERE id IN ('1', '2')")
        assert (3, 0) == run(_Cutting(postgres_url))
        assert [(0, 2), (0, 0)] == [run(SilentObserver()), run(SilentObserver())]
        db.execute("DROP TABLE users")


@pytest.mark.thorough
@pytest.mark.rule("G10")
@pytest.mark.parametrize("by", ["option", "variable"])
def test_a_lost_state_can_be_made_to_stop_the_run(
    known: Shop, by: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With --expect-state nothing is sent and no new state is made; brought back, it goes on where it was."""
    known.sql(CHANGE_3)
    kept = known.state.rename(known.folder / "kept")
    if by == "variable":
        monkeypatch.setenv("RETL_EXPECT_STATE", "1")
    assert (4, 0) == known.run(*(["--expect-state"] if by == "option" else []))
    assert not known.state.exists()
    kept.rename(known.state)
    assert (0, 3) == known.run("--expect-state")


@pytest.mark.thorough
@pytest.mark.parametrize(("text", "sent"), [(IDENTIFIED, ROWS - 10), (TRACKED, 0)], ids=["identify", "track"])
def test_without_its_state_a_track_sync_is_silent_and_an_identify_sync_sends_all_once(
    shop: Shop, text: str, sent: int
) -> None:
    """A lost state never makes calls of removed rows, nor a call for each row of a track sync."""
    shop.sync.write_text(text)
    assert shop.run()[0] == 0
    shop.sql(show("id::INT > 10"))
    shop.state.unlink()
    assert [(0, sent), (0, 0)] == [shop.run(), shop.run()]
    assert not [call for call in shop.sandbox.accepted if call.get("event") == "Removed"]


@pytest.mark.thorough
def test_a_state_of_last_week_repeats_only_what_changed_since(known: Shop) -> None:
    """A state that is brought back finds the changes since then again, and sends them under the same ids."""
    last_week = shutil.copy(known.state, known.folder / "last week")
    known.sql(CHANGE_3)
    assert (0, 3) == known.run()
    shutil.copy(last_week, known.state)
    assert (0, 0) == known.run()
    assert 3 == len(known.sandbox.duplicates)
    assert (0, 0) == known.run()
    assert 3 == len(known.sandbox.duplicates)


@pytest.mark.rule("E9")
def test_the_state_of_another_sync_is_refused(known: Shop) -> None:
    """A state in the place of another sync's is no snapshot of that one."""
    other = known.sync.with_name("other.yml")
    other.write_text(known.sync.read_text())
    shutil.copy(known.state, known.state.with_name("other.duckdb"))
    before = len(known.sandbox.requests)
    code, _, said = known.retl("run", "other")
    assert (2, before) == (code, len(known.sandbox.requests))
    assert "users" in said


@pytest.mark.thorough
@pytest.mark.rule("G9")
def test_another_write_key_is_refused_until_it_is_said_to_be_the_same_source(
    known: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A swapped write key sends nothing; after `retl rekey` only the news goes to it."""
    known.sql(CHANGE_3)
    monkeypatch.setenv("SEGMENT_WRITE_KEY", "another")
    assert (2, 0) == known.run()
    assert "retl rekey" in known.said
    assert known.retl("rekey", "users", "--yes")[0] == 0
    assert (0, 3) == known.run()


@pytest.mark.thorough
@pytest.mark.rule("E15")
@pytest.mark.parametrize("how", ["deleted", "renamed"])
def test_calls_of_a_sync_that_is_gone_are_named_until_they_leave(known: Shop, how: str) -> None:
    """Run, check and status name the calls that wait, and how they go out; nothing else is sent meanwhile."""
    known.sql(CHANGE_3)
    known.sandbox.script([Reply(401)])
    assert (2, 0) == known.run()
    text, other = known.sync.read_text(), known.sync.with_name("other.yml")
    other.write_text(
        "sql: SELECT '1' AS key\nprimary_key: key\nidentify: {user_id: key, traits: {key: key}}\n"
    )
    new = known.sync.with_name("customers.yml")
    known.sync.rename(new) if how == "renamed" else known.sync.unlink()
    before = len(known.sandbox.accepted)

    code, _, said = known.retl("run", "other")
    assert (0, 1) == (code, len(known.sandbox.accepted) - before)
    assert "users.duckdb (3 calls pending)" in said
    assert "users.duckdb (3 calls pending)" in known.retl("check")[2]
    out = known.retl("status")[1]
    assert re.search(r"no sync file is named `users`.*loses 3 calls", out, re.DOTALL)
    if how == "renamed":
        code, _, said = known.retl("run", "customers")
        assert (2, 1) == (code, len(known.sandbox.accepted) - before)
        assert "3 calls wait in the state of `users`" in said
        assert "name: users" in said
        new.write_text(f"name: users\n{text}")
    else:
        known.sync.write_text(text)
    assert (0, 3) == known.run()
    assert (0, 0) == known.run()


ALL = """\
sql: SELECT * FROM users
primary_key: id
identify: {user_id: id, traits: all}
"""

ALL_TRACKED = """\
sql: SELECT * FROM users
primary_key: id
track: {user_id: id, added: {event: Added}, changed: {event: Changed}, properties: all}
"""

ADD_COLUMN = "CREATE OR REPLACE VIEW users AS SELECT *, {} AS city FROM all_users"


@pytest.mark.thorough
@pytest.mark.rule("E2", "G14")
def test_a_new_column_with_all_traits_is_stopped_by_the_guard(shop: Shop) -> None:
    """A column that comes into the model with values for all rows would send all of them: exit code 4."""
    shop.sync.write_text(ALL)
    assert (0, ROWS) == shop.run()
    shop.sql(ADD_COLUMN.format("'Paris'"))
    assert [(4, 0), (4, 0)] == [shop.run(), shop.run()]
    assert "city" in shop.said
    assert [(0, ROWS), (0, 0)] == [shop.run("--force", "changed"), shop.run()]


@pytest.mark.thorough
@pytest.mark.rule("E2")
def test_a_new_column_sends_the_rows_that_have_a_value_in_it(shop: Shop) -> None:
    """Rows in which it is null have nothing new to say."""
    shop.sync.write_text(ALL)
    assert (0, ROWS) == shop.run()
    shop.sql(ADD_COLUMN.format("CASE WHEN id IN ('1', '2') THEN 'Paris' END"))
    assert [(0, 2), (0, 0)] == [shop.run(), shop.run()]


@pytest.mark.thorough
@pytest.mark.rule("E3")
def test_a_new_column_with_all_properties_is_learnt(shop: Shop) -> None:
    """A track sync sends no call for a column that is new; a later change of it is one."""
    shop.sync.write_text(ALL_TRACKED)
    assert (0, 0) == shop.run()
    shop.sql(ADD_COLUMN.format("'Paris'"))
    assert [(0, 0), (0, 0)] == [shop.run(), shop.run()]
    shop.sql(ADD_COLUMN.format("CASE WHEN id IN ('1', '2') THEN 'Rome' ELSE 'Paris' END"))
    assert [(0, 2), (0, 0)] == [shop.run(), shop.run()]


@pytest.mark.thorough
@pytest.mark.rule("G14")
@pytest.mark.parametrize(("text", "first", "forced"), [(ALL, ROWS, ROWS), (ALL_TRACKED, 0, 0)])
def test_a_renamed_column_with_all_fields_is_no_flood(shop: Shop, text: str, first: int, forced: int) -> None:
    """Identify is stopped by the guard, as each row has a trait of a new name; track learns the new one."""
    shop.sync.write_text(text)
    assert (0, first) == shop.run()
    shop.sql("CREATE OR REPLACE VIEW users AS SELECT id, name AS full_name, plan FROM all_users")
    if forced:
        assert (4, 0) == shop.run()
        assert "full_name" in shop.said
        assert (0, forced) == shop.run("--force", "changed")
    assert (0, 0) == shop.run()


EDITS = {
    "a constant": ("{name: name,", "{source: {value: shop}, name: name,"),
    "nulls": ("name: name,", "name: {column: name, nulls: omit},"),
    "a field less": ("name: name, ", ""),
    "a context": ("user_id: id", "user_id: id, context: {ip: {value: 0.0.0.0}}"),
}


@pytest.mark.thorough
@pytest.mark.rule("E4", "E5")
@pytest.mark.parametrize("edit", EDITS)
def test_an_edited_mapping_sends_nothing_by_itself(shop: Shop, edit: str) -> None:
    """What was edited goes out with the next change of a row, and a thousand rows stay where they are."""
    assert (0, ROWS) == shop.run()
    shop.sync.write_text(IDENTIFIED.replace(*EDITS[edit]))
    assert (0, 0) == shop.run()
    shop.sql(CHANGE_3)
    assert [(0, 3), (0, 0)] == [shop.run(), shop.run()]


@pytest.mark.thorough
@pytest.mark.rule("E2", "G14")
def test_an_added_trait_is_stopped_by_the_guard(shop: Shop) -> None:
    """A trait that is added to the mapping would send all rows: exit code 4, until it is meant."""
    assert (0, ROWS) == shop.run()
    shop.sync.write_text(IDENTIFIED.replace("plan: plan", "plan: plan, tier: plan"))
    assert (4, 0) == shop.run()
    assert [(0, ROWS), (0, 0)] == [shop.run("--force", "changed"), shop.run()]


@pytest.mark.thorough
@pytest.mark.rule("E7")
@pytest.mark.parametrize(
    ("old", "new"),
    [("primary_key: id", "primary_key: name"), ("user_id: id", "user_id: name"), ("identify", "group")],
)
def test_another_identity_is_refused(shop: Shop, old: str, new: str) -> None:
    """With another key, id or kind the snapshot says nothing any more: exit code 2, and the way out."""
    assert (0, ROWS) == shop.run()
    edited = IDENTIFIED.replace(old, new)
    shop.sync.write_text(edited.replace("group: {", "group: {group_id: plan, "))
    assert (2, 0) == shop.run()
    assert "retl reset" in shop.said
    shop.sync.write_text(IDENTIFIED)
    assert (0, 0) == shop.run()


@pytest.mark.thorough
@pytest.mark.rule("G11")
def test_a_rehearsal_between_two_runs_changes_neither(known: Shop) -> None:
    """What was rehearsed is sent all the same, once, and a rehearsal sends nothing to Segment."""
    known.sql(CHANGE_3)
    before = len(known.sandbox.requests)
    assert [(0, 0), (0, 0)] == [known.run("--sandbox"), known.run("--sandbox", "--full", "--yes")]
    assert before == len(known.sandbox.requests)
    assert [(0, 3), (0, 0)] == [known.run(), known.run()]


@pytest.mark.thorough
@pytest.mark.rule("L19")
def test_segment_down_until_the_deadline_leaves_all_pending_and_says_how_many(known: Shop) -> None:
    """Exit code 3 and the number of calls that wait; the next run delivers them first, each once."""
    known.sql(CHANGE_3)
    known.sandbox.reply_if = lambda _: Reply(503)
    assert (3, 0) == known.run("--deadline", "3s")
    assert "3 calls pending" in known.said
    assert "the time for this run is up" in known.said
    known.sandbox.reply_if = None
    known.sql("DROP VIEW users")
    assert (2, 3) == known.run()
    assert [] == known.sandbox.duplicates
