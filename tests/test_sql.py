"""`retl sql` and `retl history`: the history of a sync, asked."""

import csv
import io
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from delivery import IDENTIFY, NOON, FakeClock, Shop, Table
from harness import Retl, runner, two_syncs

from retl.cli.history import SPARKS, sparkline
from retl.errors import WarehouseError
from retl.history import VIEWS, query
from retl.records import keep_run, open_run
from retl.run import Calls, Run
from retl.sandbox.failures import Reply
from retl.sandbox.server import Sandbox
from retl.state import open_state, peek_state

PAGE = Path(__file__).parent.parent / "docs" / "state.md"


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    """A Segment that refuses whoever is named Nobody."""
    with Sandbox(reject_if=lambda call: call.get("traits", {}).get("name") == "Nobody") as started:
        yield started


@pytest.fixture(scope="module")
def after_three_runs(tmp_path_factory: pytest.TempPathFactory, sandbox: Sandbox) -> Path:
    """A state after three runs of an identify sync: a call was refused, a row is rejected, a call waits."""
    shop = Shop(tmp_path_factory.mktemp("shop"), sandbox.url, IDENTIFY, clock=FakeClock())
    shop.run(users(u1="Ada", u2="Nobody", u3="Cid"))
    shop.run(users(u1="Ada", u2="Nobody", u3="Cid", anonymous="Dot"))
    sandbox.script([Reply(status=401)])
    shop.run(users(u1="Ann", u2="Nobody", u3="Cid", anonymous="Dot"))
    return shop.state_path


@pytest.fixture
def shop(tmp_path: Path, sandbox: Sandbox, after_three_runs: Path) -> Shop:
    """The sync with a copy of that state, which costs less than its runs."""
    shop = Shop(tmp_path, sandbox.url, IDENTIFY, clock=FakeClock())
    shutil.copy(after_three_runs, shop.state_path)
    return shop


def users(**names: str) -> Table:
    """A user for each name."""
    return Table({"id": list(names), "name": list(names.values()), "plan": ["x"] * len(names)})


@pytest.fixture
def retl(shop: Shop, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Retl:
    """The command line, in the folder of the shop, without a terminal."""
    monkeypatch.delenv("COLUMNS", raising=False)
    monkeypatch.chdir(shop.folder)
    monkeypatch.setenv("RETL_STATE_DIR", str(shop.folder))
    return runner(capsys)


def asked(shop: Shop, select: str) -> list[tuple[Any, ...]]:
    """The rows of a query."""
    with peek_state(shop.state_path, "shop") as state:
        return list(query(state, select).rows)


@pytest.mark.thorough
def test_the_views_are_those_of_the_page(shop: Shop) -> None:
    """Each view has the columns of its table in docs/state.md, in their order and of their types."""
    parts = re.split(r"^## `(\w+)`$", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]
    told = {
        name: re.findall(r"^\| `(\w+)` \| (\w+) \|", text, re.MULTILINE)
        for name, text in zip(parts[::2], parts[1::2], strict=True)
    }
    are = {}
    for view in VIEWS:
        columns = asked(shop, f"SELECT column_name, column_type FROM (DESCRIBE {view})")
        are[view] = [(name, kind.partition("(")[0]) for name, kind in columns]
    assert told == are


def test_calls_are_told_with_their_state(shop: Shop) -> None:
    """Delivered, rejected and waiting calls are in one view, and runs, rejections and rows in theirs."""
    assert [
        ("u1", "delivered", 200, None),
        ("u1", "pending", None, None),
        ("u2", "rejected", None, "refused"),
        ("u3", "delivered", 200, None),
    ] == asked(shop, "SELECT key, state, status, reason FROM calls ORDER BY key, state")
    assert [("failed", 0), ("partial", 0), ("partial", 2)] == asked(
        shop, "SELECT status, delivered FROM runs ORDER BY status, delivered"
    )
    assert [("anonymous", None, "blocked_id", "id", None), ("u2", "added", "refused", None, None)] == asked(
        shop, "SELECT key, change, reason, at_fault, how FROM rejections ORDER BY key"
    )
    assert [("u1", "Ann"), ("u2", "Nobody"), ("u3", "Cid")] == asked(
        shop, "SELECT key, row.name FROM rows ORDER BY key"
    )


@pytest.mark.parametrize(
    "select",
    [
        "select * from state.snapshot",
        "select * from main.calls",
        "select * from state.main.snapshot",
        "select * from 'secret.csv'",
        "select * from read_csv('secret.csv')",
        "select * from read_text('secret.csv')",
        "from query('select * from state.run')",
        "from query_table('state.run')",
        "from duckdb_tables()",
        "select (select count(*) from state.run)",
        "with a as (select * from state.run) select * from a",
        "describe state.run",
        "show tables",
        "select 1; select 2",
        "delete from calls",
        "insert into calls values (1)",
        "update rows set key = 'x'",
        "drop view calls",
        "attach 'other.duckdb'",
        "copy calls to 'out.csv'",
        "set enable_external_access = true",
        "install httpfs",
        "pragma database_list",
        "checkpoint state",
        "selec 1",
        "",
    ],
)
def test_nothing_but_the_views_is_read(shop: Shop, retl: Retl, select: str) -> None:
    """Whatever else a query asks for is refused with exit code 2, and the state stays as it is."""
    (shop.folder / "secret.csv").write_text("a\n1\n")
    before = shop.state_path.read_bytes()
    code, out, err = retl("sql", "shop.yml", select)
    assert (2, "") == (code, out)
    assert err.startswith("error: ")
    assert before == shop.state_path.read_bytes()
    assert not (shop.folder / "out.csv").exists()


def test_a_name_of_ones_own_may_be_that_of_a_table(shop: Shop) -> None:
    """A CTE is read by its name, and functions that make rows of their arguments are taken."""
    select = (
        "WITH mine AS (SELECT key FROM calls WHERE state = 'pending') SELECT key, i FROM mine, range(2) t(i)"
    )
    assert [("u1", 0), ("u1", 1)] == asked(shop, select)


def test_a_result_is_printed_as_table_json_and_csv(retl: Retl) -> None:
    """The same rows come as a table, as an object for each, and as CSV with a head."""
    select = "select key, answered_at, {'a': [1]} as nested from calls where state = 'rejected'"
    _, table, _ = retl("sql", "shop.yml", select)
    assert ["key", "answered_at", "nested"] == table.splitlines()[0].split()
    _, lines, _ = retl("sql", "shop.yml", select, "--json")
    expected = {"key": "u2", "answered_at": "2026-03-01 12:00:00", "nested": {"a": [1]}}
    assert [expected] == [json.loads(line) for line in lines.splitlines()]
    _, text, _ = retl("sql", "shop.yml", select, "--csv")
    assert [{**expected, "nested": '{"a": [1]}'}] == list(csv.DictReader(io.StringIO(text)))
    assert 2 == retl("sql", "shop.yml", select, "--csv", "--json")[0]


def test_a_table_that_does_not_fit_is_printed_as_blocks(retl: Retl, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the table is wider than the terminal, each row is a block with a line for each column."""
    monkeypatch.setenv("COLUMNS", "80")
    _, out, _ = retl("sql", "shop.yml", "select * from calls order by state, key limit 2")
    first, second = out.split("\n\n")
    names = re.findall(r"^(\w+):", first, re.MULTILINE)
    assert names == re.findall(r"^(\w+):", second, re.MULTILINE)
    assert {"message_id", "key", "state", "run_id"} < set(names)
    assert "state: delivered" in first.splitlines()
    _, out, _ = retl("sql", "shop.yml", f"select '{'word ' * 20}' as a, e'one\\ntwo: 2' as b")
    lines = out.splitlines()
    assert ["a: word", "  word", "b: one", "  two: 2"] == [lines[0][:7], lines[1][:6], *lines[2:]]


@pytest.mark.parametrize("select", ["select key from calls where false", "select * from calls where false"])
def test_no_rows_are_told(retl: Retl, monkeypatch: pytest.MonkeyPatch, select: str) -> None:
    """Beside the names of the columns it says that there are no rows."""
    monkeypatch.setenv("COLUMNS", "80")
    lines = retl("sql", "shop.yml", select)[1].splitlines()
    assert ("0 rows", True) == (lines[-1], "key" in lines[0])


def test_past_runs_are_told_with_why_they_failed(retl: Retl, shop: Shop) -> None:
    """The newest run is first, each by its id, and one that failed says why and what to do."""
    code, out, _ = retl("history", "shop.yml")
    lines = out.splitlines()
    known = [run_id for (run_id,) in asked(shop, "SELECT run_id FROM runs")]
    assert (0, set(known)) == (code, {line.split()[0] for line in lines[1:4]})
    assert ["failed", "partial", "partial"] == [line.split()[1] for line in lines[1:4]]
    records = [
        json.loads(line) for line in retl("history", "shop.yml", "--json", "--limit", "2")[1].splitlines()
    ]
    assert ["failed", "partial"] == [record["status"] for record in records]
    error = records[0]["error"]
    assert [f"{records[0]['run_id']}: {error['message']}", f"  → {error['hint']}"] == lines[4:6]


def test_the_history_fits_a_narrow_terminal(retl: Retl, shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """In 80 columns no line is wider, no run id is cut, and reasons go on below with an indent."""
    with open_state(shop.state_path, "shop") as state, state.transaction():
        big = Run("shop", "20260301T120000-bbbbbb", NOON, 7_500.0, rows_read=1_234_567, added=1_234_567)
        error = WarehouseError("the server closed the connection " * 4, hint="retl run shop")
        keep_run(state.db, big.evolve(calls=Calls(delivered=12_345), error=error, exit_code=3))
    monkeypatch.setenv("COLUMNS", "80")
    _, out, _ = retl("history", "shop.yml", "--state-dir", str(shop.folder))
    lines = out.splitlines()
    assert ["failed", "2", "h", "5", "min", "1.2M", "1.2M", "12.3k"] == lines[1].split()[1:]
    assert 80 >= max(map(len, lines[:-1]))
    assert ["20260301T120000-bbbbbb: the server", "  connection"] == [lines[5][:34], lines[6][:12]]
    assert any(line.startswith("  → retl run shop --state-dir") for line in lines)


def test_a_hint_is_given_once(retl: Retl, shop: Shop, sandbox: Sandbox) -> None:
    """Where several runs failed for one reason, what to do is told below the newest."""
    sandbox.script([Reply(status=401)])
    shop.run(users(u1="Ann"))
    _, out, _ = retl("history", "shop.yml")
    assert (2, 1) == (out.count(": Segment refuses the write key"), out.count("→ "))


@pytest.mark.thorough
def test_a_run_that_died_is_told(shop: Shop, retl: Retl) -> None:
    """A run without an end is in the history, as one that ended suddenly, with what it delivered."""
    with open_state(shop.state_path, "shop") as state, state.transaction():
        open_run(state.db, Run("shop", "died", NOON))
        receipt = "'died', 0, 9, 13, 5, 100, 0, 1, 200, TIMESTAMP '2026-03-01'"
        state.db.execute(f"INSERT INTO state.receipt VALUES ({receipt})")
    for goes in ("goes", "went"):
        assert [("interrupted", 5)] == asked(shop, "SELECT status, delivered FROM runs WHERE run_id = 'died'")
        _, out, _ = retl("history", "shop.yml")
        assert f"died: ended suddenly; the next run {goes} on" in out.splitlines()
        shop.run(users(u1="Ann"))  # completes its record


def test_a_sparkline_goes_from_the_least_to_the_most() -> None:
    """The least number is the lowest bar, the most the highest, and none is a blank."""
    assert "▁▄█ " == sparkline([0, 50, 100, None])
    assert SPARKS[0] * 2 == sparkline([7, 7])


def test_a_sync_without_a_state_has_no_history(
    retl: Retl, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before the first run the views are empty, and there is no run to list."""
    monkeypatch.setenv("RETL_STATE_DIR", str(tmp_path / "elsewhere"))
    assert (0, "shop: no run yet\n", "") == retl("history", "shop.yml")
    assert (0, '{"n": 0}\n', "") == retl("sql", "shop.yml", "select count(*) as n from calls", "--json")


@pytest.mark.thorough
def test_after_rehearsals_alone_the_way_to_them_is_told(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where no run was real, the history and its queries name --sandbox, on stderr; with it they do not."""
    monkeypatch.chdir(two_syncs(tmp_path))
    retl = runner(capsys)
    assert 0 == retl("run", "a", "--sandbox")[0]
    told = "there are only rehearsals; to see them: "
    select = "select key from calls"

    assert (0, "a: no run yet\n", f"{told}retl history a --sandbox\n") == retl("history", "a")
    assert (0, "key\n0 rows\n", f'{told}retl sql a "…" --sandbox\n') == retl("sql", "a", select)
    assert "" == retl("sql", "a", select, "--sandbox")[2] == retl("history", "b")[2]
