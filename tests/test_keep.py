"""How long the state keeps runs, receipts and what was rejected."""

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from delivery import IDENTIFY, FakeClock, Shop, Table

from retl.config.project import find_project, load_sync
from retl.delivery.history import delivered
from retl.observer import SilentObserver
from retl.records import KEPT_RUNS
from retl.sandbox.failures import Reply
from retl.sandbox.server import Sandbox
from retl.state import State, open_state

DAY = 86_400.0


class Notes(SilentObserver):
    """Keeps the sentences that a user would read."""

    def __init__(self) -> None:
        self.sentences: list[str] = []

    def notice(self, sentence: str) -> None:
        """Keep it."""
        self.sentences.append(sentence)


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    """A Segment that refuses whoever is named Nobody."""
    with Sandbox(reject_if=lambda call: call.get("traits", {}).get("name") == "Nobody") as sandbox:
        yield sandbox


def users(*names: str) -> Table:
    """A user for each name."""
    return Table(
        {"id": [f"u{n}" for n in range(len(names))], "name": list(names), "plan": ["x"] * len(names)}
    )


def shop(tmp_path: Path, sandbox: Sandbox, keep: str = "keep: 30d\n") -> Shop:
    """A shop whose sync keeps things for so long."""
    return Shop(tmp_path, sandbox.url, IDENTIFY + keep, clock=FakeClock(), observer=Notes())


def kept(state: State) -> dict[str, list[Any]]:
    """The ids of runs with a record, with receipts, and the keys of what is rejected."""
    queries = {
        "runs": "SELECT run_id FROM state.run ORDER BY rowid",
        "receipts": "SELECT DISTINCT run_id FROM state.receipt ORDER BY run_id",
        "calls": "SELECT key FROM state.rejected_call ORDER BY key",
        "rows": "SELECT key FROM state.rejected_row ORDER BY key",
    }
    return {name: [one for (one,) in state.db.execute(query).fetchall()] for name, query in queries.items()}


def later(shop: Shop, days: float) -> None:
    """Let days pass."""
    assert isinstance(shop.clock, FakeClock)
    shop.clock.pass_to(shop.clock.seconds + days * DAY)


def look(shop: Shop) -> dict[str, list[Any]]:
    """What the state of a shop keeps."""
    with open_state(shop.state_path, "shop") as state:
        return kept(state)


@pytest.mark.rule("P3")
def test_what_is_older_is_forgotten_when_a_run_ends(tmp_path: Path, sandbox: Sandbox) -> None:
    """Runs, receipts and rejected calls go after 30 days, and not before; the run says how many calls."""
    one = shop(tmp_path, sandbox)
    first = one.run(users("Ada", "Nobody")).run_id
    later(one, 20)
    second = one.run(users("Bob", "Nobody")).run_id
    assert [first, second] == look(one)["runs"] == look(one)["receipts"]
    assert ["u1"] == look(one)["calls"]

    later(one, 20)
    third = one.run(users("Cid", "Nobody")).run_id

    assert {"runs": [second, third], "receipts": [second, third], "calls": [], "rows": []} == look(one)
    assert isinstance(one.observer, Notes)
    assert ["1 rejected calls were older than `keep` allows, and are forgotten"] == one.observer.sentences


@pytest.mark.thorough
@pytest.mark.rule("P3")
@pytest.mark.parametrize("keep", ["", "keep: off\n"])
def test_without_keep_nothing_that_is_open_is_forgotten(tmp_path: Path, sandbox: Sandbox, keep: str) -> None:
    """Where no file says how long, a rejected call is there after years; runs are for 30 days, or `off`."""
    one = shop(tmp_path, sandbox, keep)
    first = one.run(users("Ada", "Nobody")).run_id
    later(one, 2_000)
    second = one.run(users("Bob", "Nobody")).run_id
    runs = [first, second] if keep else [second]
    assert {"runs": runs, "receipts": runs, "calls": ["u1"], "rows": []} == look(one)


def history(shop: Shop) -> dict[str, list[Any]]:
    """The users of delivered calls, and of rejections that are over."""
    with open_state(shop.state_path, "shop") as state:
        calls = f"SELECT user_id FROM ({delivered(state.db)}) ORDER BY user_id, moment"
        queries = {"calls": calls, "ended": "SELECT key FROM state.ended_rejection ORDER BY key"}
        return {
            name: [one for (one,) in state.db.execute(query).fetchall()] for name, query in queries.items()
        }


@pytest.mark.thorough
@pytest.mark.rule("P3")
@pytest.mark.parametrize("keep", ["", "keep: 30d\n", "keep: 60d\n"])
def test_the_history_is_forgotten_by_age(tmp_path: Path, sandbox: Sandbox, keep: str) -> None:
    """Calls, of a first pass as well, and ended rejections go after 30 days or what `keep` says."""
    one = shop(tmp_path, sandbox, keep)
    twice = {"id": ["u0", "u1", "x", "x"], "name": ["Ada", "Bob", "a", "b"], "plan": ["x"] * 4}
    one.run(Table(twice))
    one.run(users("Ada", "Bob"))  # nobody has the key `x` any more
    later(one, 20)
    one.run(users("Ada", "Bert"))
    assert {"calls": ["u0", "u1", "u1"], "ended": ["x"]} == history(one)
    later(one, 20)
    one.run(users("Ada", "Bert"))
    if keep == "keep: 60d\n":
        assert {"calls": ["u0", "u1", "u1"], "ended": ["x"]} == history(one)
    else:
        assert {"calls": ["u1"], "ended": []} == history(one)
        with open_state(one.state_path, "shop") as state:
            assert [] == state.db.execute("FROM state.first_pass").fetchall()


def test_a_first_pass_is_told_though_its_run_was_pushed_out(tmp_path: Path, sandbox: Sandbox) -> None:
    """The history of calls is kept by age: after a thousand runs of one day the first pass is still told."""
    one = shop(tmp_path, sandbox, keep="")
    one.run(users("Ada", "Bob"))
    with open_state(one.state_path, "shop") as state:
        state.db.execute(
            """
            INSERT INTO state.run
            SELECT 'r' || i, TIMESTAMP '2026-03-01', '{"exit_code": 0}' FROM range(?) AS t (i)
            """,
            [KEPT_RUNS],
        )
    one.run(users("Ada", "Bert"))
    assert {"calls": ["u0", "u1", "u1"], "ended": []} == history(one)


@pytest.mark.thorough
def test_rejected_rows_stay_while_runs_meet_them(tmp_path: Path, sandbox: Sandbox) -> None:
    """A row that is rejected in each run is known since its first; one that none met for long is not."""
    one = shop(tmp_path, sandbox)
    bad = Table({"id": ["u0", "u0", "u1"], "name": ["a", "b", "c"], "plan": ["x"] * 3})
    one.run(bad)
    later(one, 20)
    one.run(bad)
    later(one, 20)
    one.run(bad)
    with open_state(one.state_path, "shop") as state:
        assert [("u0", 3)] == state.db.execute("SELECT key, times FROM state.rejected_row").fetchall()

    later(one, 40)
    one.run(Table({"id": ["u9"], "name": ["z"], "plan": ["x"]}))  # fixed
    assert [] == look(one)["rows"]
    sandbox.script([Reply(status=401)] * 2)
    one.run(bad)
    later(one, 40)
    assert 2 == one.run(bad).exit_code  # before it reads a row, as calls wait
    assert [] == look(one)["rows"]


@pytest.mark.thorough
@pytest.mark.rule("P4")
def test_what_delivery_needs_stays(tmp_path: Path, sandbox: Sandbox) -> None:
    """Calls that wait, the record of their run, and the last receipt outlive any age, and are delivered."""
    one = shop(tmp_path, sandbox)
    first = one.run(users("Ada")).run_id
    sandbox.script([Reply(status=401)] * 3)
    waiting = one.run(users("Bob")).run_id
    for _ in range(2):
        later(one, 100)
        last = one.run(users("Bob")).run_id
    assert [first, waiting, last] == look(one)["runs"]
    assert [first] == look(one)["receipts"]

    later(one, 100)
    delivered = one.run(users("Bob"))

    assert 1 == delivered.calls.delivered
    assert ["Ada", "Bob"] == [call["traits"]["name"] for call in sandbox.accepted]
    assert [delivered.run_id] == look(one)["runs"]


@pytest.mark.rule("P4")
def test_a_source_that_worked_long_ago_is_known_still(tmp_path: Path, sandbox: Sandbox) -> None:
    """After years without a change, another write key is refused: calls did arrive with the former one."""
    one = shop(tmp_path, sandbox)
    one.run(users("Ada"))
    later(one, 1_000)
    sandbox.script([Reply(status=401)])
    assert 2 == one.run(users("Bob")).exit_code
    other = Shop(tmp_path, sandbox.url + "/other", IDENTIFY + "keep: 30d\n", clock=one.clock)
    failed = other.run(users("Bob"))
    assert failed.error is not None
    assert "differs from that of the last run" in str(failed.error)


@pytest.mark.parametrize(
    ("defaults", "own", "days"),
    [("30d", None, 30), ("30d", "7d", 7), ("30d", "off", None), (None, "365d", 365), (None, None, None)],
)
def test_the_syncs_own_age_counts(
    tmp_path: Path, defaults: str | None, own: str | None, days: int | None
) -> None:
    """`keep` in retl.yml is the default of all syncs, which a sync can change or turn off."""
    if defaults:
        (tmp_path / "retl.yml").write_text(f"keep: {defaults}\n")
    path = tmp_path / "users.yml"
    path.write_text(IDENTIFY + (f"keep: {own}\n" if own else ""))
    assert (days and timedelta(days=days)) == load_sync(path, find_project(path, {})).keep
