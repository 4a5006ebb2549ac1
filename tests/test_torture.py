"""The torture itself: its reader sees each kind of broken promise, and a seed lives the same life again."""

import signal
import sys
from pathlib import Path
from subprocess import PIPE, STDOUT, Popen
from typing import Any

import duckdb
import pytest

from torture.life import Life
from torture.lives import live
from torture.older import SCHEMAS
from torture.promises import (
    LEFT,
    LOST,
    OUT_OF_ORDER,
    TWICE,
    WRONG,
    Broken,
    check_members,
    check_order,
    check_profiles,
    check_ways,
)
from torture.record import Record
from torture.report import lines, page
from torture.rows import History, Row


def history() -> History:
    """One row that came, changed and is there, and one that came and went."""
    versions = {
        1: ("a", Row(1, "u1", "")),
        2: ("b", Row(2, "u2", "")),
        3: ("a", Row(3, "u1", "")),
        4: ("a", Row(4, "u1", "")),
    }
    return History(["a", "b"], ["u1", "u2"], {"a": versions[4][1]}, versions)


def call(event: str, key: str, version: int, before: int | None = None, user: str = "u1") -> dict[str, Any]:
    """A call of the track sync."""
    previous = {"previous": {"version": before}} if before else {}
    return {"event": event, "userId": user, "properties": {"id": key, "version": version, **previous}}


ADDED, CHANGED, AGAIN = call("Added", "a", 1), call("Changed", "a", 3, 1), call("Changed", "a", 4, 3)
CAME, WENT = call("Added", "b", 2, user="u2"), call("Removed", "b", 2, user="u2")
ALL = [ADDED, CAME, CHANGED, WENT, AGAIN]


@pytest.mark.parametrize(
    "told",
    [ALL, [CAME, ADDED, CHANGED, AGAIN, WENT], [ADDED, call("Changed", "a", 4, 1)]],
    ids=["each version", "users among each other", "versions that no run saw"],
)
def test_calls_that_lead_each_row_to_how_it_is_are_right(told: list[dict[str, Any]]) -> None:
    """No order between users counts, and versions that came between two runs are left out."""
    check_ways(history(), told, [])


def test_a_call_that_was_refused_is_not_lost() -> None:
    """A call that is kept as refused takes its place."""
    check_ways(history(), [ADDED, CAME, WENT, AGAIN], [CHANGED])


@pytest.mark.parametrize(
    ("told", "kind"),
    [
        ([ADDED, CHANGED], LOST),
        ([ADDED, AGAIN], LOST),
        ([*ALL[:3], AGAIN], LOST),
        ([], LOST),
        ([*ALL, AGAIN], TWICE),
        ([*ALL, WENT], TWICE),
        ([*ALL, call("Changed", "a", 4, 1)], TWICE),
        ([CHANGED, ADDED, AGAIN], OUT_OF_ORDER),
        ([call("Added", "a", 9)], WRONG),
        ([call("Added", "a", 1, user="u2"), CHANGED, AGAIN], WRONG),
    ],
    ids=[
        "the last",
        "one between",
        "that a row went",
        "all",
        "the same change",
        "the same removal",
        "a change by another way",
        "an older one later",
        "a version that never was",
        "another user",
    ],
)
def test_the_reader_sees_what_is_wrong(told: list[dict[str, Any]], kind: str) -> None:
    """A call that is missing, is there twice, is late or is false is told by its kind."""
    with pytest.raises(Broken) as broken:
        check_ways(history(), told, [])
    assert kind == broken.value.kind


def profile(key: str, version: int | str) -> dict[str, Any]:
    """A call of the identify sync."""
    return {"userId": key, "traits": {"version": version}}


@pytest.mark.parametrize(
    ("told", "kind"),
    [
        ([profile("a", 1), profile("a", 4), profile("b", 2), profile("b", "gone")], None),
        ([profile("a", 1), profile("b", 2), profile("b", "gone")], LOST),
        ([profile("a", 4), profile("b", 2)], LOST),
        ([profile("a", 4), profile("a", 4)], TWICE),
        ([profile("a", 4), profile("a", 3)], OUT_OF_ORDER),
        ([profile("a", 2)], WRONG),
    ],
    ids=["right", "the last", "that a row went", "twice", "back", "another row's version"],
)
def test_the_reader_sees_how_profiles_are(told: list[dict[str, Any]], kind: str | None) -> None:
    """The last call of each user has to say how the row is, and none may lead it back."""
    if kind is None:
        check_profiles(history(), told, (), repeats=False)
        return
    with pytest.raises(Broken) as broken:
        check_profiles(history(), told, (), repeats=False)
    assert kind == broken.value.kind


def test_a_profile_may_say_the_same_twice_where_a_call_between_was_refused() -> None:
    """A row came and went, and its coming was refused: that it is gone arrives twice, one after another."""
    told = [profile("a", 4), profile("b", 2), profile("b", "gone"), profile("b", "gone")]
    check_profiles(history(), told, {"b"}, repeats=False)
    with pytest.raises(Broken):
        check_profiles(history(), told, (), repeats=False)


def member(user: str, event: str = "Segment Entered") -> dict[str, Any]:
    """A call of the audience sync."""
    return {"userId": user, "event": event}


@pytest.mark.parametrize(
    ("told", "kind"),
    [
        ([member("b"), member("a"), member("b", "Segment Exited")], None),
        ([member("a"), member("b")], LOST),
        ([], LOST),
        ([member("a"), member("a")], TWICE),
        ([member("a"), member("b", "Segment Exited")], TWICE),
    ],
    ids=["right", "that one left", "that one came", "came twice", "left and was not there"],
)
def test_the_reader_sees_who_is_in_an_audience(told: list[dict[str, Any]], kind: str | None) -> None:
    """Each user comes and goes in turn, and in the end those are in it whose rows are there."""
    if kind is None:
        check_members(history(), told, ())
        return
    with pytest.raises(Broken) as broken:
        check_members(history(), told, ())
    assert kind == broken.value.kind


def test_the_reader_does_not_miss_a_call_that_is_kept() -> None:
    """Whose last call was refused, and is kept, need not be in the audience."""
    check_members(history(), [], {"a"}, kept={"a"})
    with pytest.raises(Broken):
        check_members(history(), [], {"a"}, kept={"b"})


def test_the_reader_sees_timestamps_that_go_back() -> None:
    """Of one user's calls each has the timestamp of the one before, or a later one."""
    first, second = ({"userId": "u", "originalTimestamp": f"2026-03-01T12:00:0{n}.000Z"} for n in (1, 2))
    check_order([first, first, second])
    with pytest.raises(Broken, match="out of order"):
        check_order([second, first])


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("seed", "traits"),
    [(2, set()), (1, {"engines"}), (7, {"engines", "in buckets"})],
    ids=["plain", "engine: warehouse", "in a bucket, too"],
)
def test_a_seed_lives_the_same_life_again(seed: int, traits: set[str]) -> None:
    """Rows, faults, the order of the threads and the end of each run are those of the seed."""
    told: list[list[str]] = [[], []]
    records = [live(seed, told[number].append, runs=8) for number in (0, 1)]
    assert told[0] == told[1] != []
    assert records[0] == records[1]
    assert records[0].faults.total() > 0
    assert traits == {"engines", "in buckets"} & set(records[0].counts)


def test_a_table_that_no_state_needs_is_told(tmp_path: Path) -> None:
    """At the end of a life the schemas of `engine: warehouse` have the tables of its states, and no other."""
    life = Life(1, tmp_path, runs=2)
    with duckdb.connect(tmp_path / "shop.duckdb", config={"threads": "1"}) as db:
        db.execute("CREATE SCHEMA retl; CREATE TABLE retl.somebodys (n int)")
    with pytest.raises(Broken, match="somebodys") as broken:
        life.live()
    assert LEFT == broken.value.kind


@pytest.mark.slow
@pytest.mark.rule("L1", "L3", "O1")
@pytest.mark.parametrize("first", [1, 7, 13])
def test_no_promise_is_broken(first: int) -> None:
    """Whatever happens in a few lives, their calls tell what became of the rows."""
    assert [] == [broken for seed in range(first, first + 3) for broken in live(seed, runs=12).broken]


@pytest.mark.slow
@pytest.mark.rule("L1", "L3")
@pytest.mark.parametrize("schema", SCHEMAS)
def test_no_promise_is_broken_on_the_way_from_an_older_state(schema: int) -> None:
    """Runs that are killed while they migrate a state lose none of its calls, whatever its schema."""
    records = [live(seed, runs=4, schema=schema) for seed in (schema, schema + len(SCHEMAS))]
    assert [] == [broken for record in records for broken in record.broken]


def test_a_full_run_tells_each_row_again() -> None:
    """An event of a full run takes the place of those that led to its version, or repeats the last one."""
    again = call("Added", "a", 4)
    check_ways(history(), [*ALL, again], [], fulls=1)
    check_ways(history(), [ADDED, CAME, WENT, again], [], fulls=1)
    for told, fulls in (([*ALL, again], 0), ([*ALL, again, again], 1), ([*ALL, WENT], 1)):
        with pytest.raises(Broken) as broken:
            check_ways(history(), told, [], fulls)
        assert broken.value.kind == TWICE


@pytest.mark.slow
@pytest.mark.rule("L1", "L3")
def test_no_promise_is_broken_by_a_real_kill() -> None:
    """The same holds of real processes."""
    record = live(0)
    assert [] == record.broken
    assert record.counts["calls"] > 0


def test_a_broken_promise_is_told_with_the_way_to_see_it_again() -> None:
    """The lines name the seed and the command; the page has the number."""
    record = Record(broken=[(42, LOST, "lost: row a")])
    assert "python -m torture --replay 42" in "\n".join(lines(record))
    assert "| **1** | **0** |" in page(record, 1)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_does_not_hide_what_was_found(number: signal.Signals) -> None:
    """A torture that is stopped tells of the lives until then, and its exit code is that of the signal."""
    command = [sys.executable, "-m", "torture", "--seed", "1", "--seconds", "600", "--jobs", "1"]
    with Popen(command, cwd=Path(__file__).parents[1], stdout=PIPE, stderr=STDOUT, text=True) as process:
        assert process.stdout is not None
        assert "seed 1\n" == process.stdout.readline()
        process.send_signal(number)
        out = process.stdout.read()

    assert 128 + number == process.returncode
    assert "stopped by a signal; until then:\n0 faults in 0 commands of 0 lives" in out
    assert "Traceback" not in out
