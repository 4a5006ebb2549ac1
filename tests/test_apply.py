"""Saved plans: `retl apply` sends exactly what was planned, or nothing."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import pytest
from harness import Retl, csv_project, edit, runner

from retl.planned import MADE_WITH
from retl.sandbox.server import Sandbox

USERS = "user_id,email,plan,seen\n" + "".join(f"u{n},u{n}@x.com,free,2026-01-0{n}\n" for n in range(1, 7))
SYNC = """\
model: users
primary_key: user_id
identify:
  user_id: user_id
  traits: {email: email, plan: plan}
  context: {seen: seen}
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project whose calls go to a file; the working folder of the test."""
    monkeypatch.chdir(tmp_path)
    return csv_project(tmp_path, USERS, users=SYNC)


@pytest.fixture
def retl(project: Path, capsys: pytest.CaptureFixture[str]) -> Retl:
    """Runs a command in the project; gives exit code, stdout and stderr."""
    return runner(capsys)


def sent(project: Path) -> list[str]:
    """The calls that left, as text."""
    path = project / "calls.ndjson"
    return path.read_text().splitlines() if path.exists() else []


def snapshot(project: Path) -> list[Any]:
    """The snapshot and the generation that the state holds."""
    with duckdb.connect(project / "state/users.file.duckdb", read_only=True) as db:
        return db.sql("SELECT key, row::VARCHAR, (SELECT generation FROM metadata) FROM snapshot").fetchall()


@pytest.mark.variants(1)
@pytest.mark.rule("G15")
@pytest.mark.parametrize("is_first", [True, False])
def test_apply_sends_the_planned_calls_byte_for_byte(retl: Retl, project: Path, is_first: bool) -> None:
    """The calls that leave are those of the plan, message ids and moments included; so on a first pass."""
    if not is_first:
        retl("run", "users")
        edit(project / "data/users.csv", "free", "pro")
    before = len(sent(project))
    planning = ("--save", "users.plan", "--out", "calls.parquet", "--force", "changed")
    assert 0 == retl("plan", "users", *planning)[0]
    planned = duckdb.sql("SELECT call FROM 'calls.parquet' ORDER BY key").fetchall()

    code, out, err = retl("apply", "users.plan")

    assert (0, "") == (code, re.sub(r"(?m)^(users|.*rows read).*\n", "", err)), err
    assert "6 calls delivered" in out
    assert [call for (call,) in planned] == sent(project)[before:]
    assert "no changes" in retl("run", "users")[1]


KINDS = {
    "track": "track: {user_id: email, added: In, changed: {event: New, previous: true}, removed: Out, "
    "properties: {plan: plan}}",
    "audience": "audience: {user_id: email, name: VIP, properties: {plan: plan}}",
    "identify": "identify: {user_id: email, removed: {traits: {gone: {value: true}}}, traits: {plan: plan}}",
    "group": "group: {user_id: email, group_id: plan, traits: {plan: plan}}",
    "own ids": "identify: {user_id: email, message_id: seen, timestamp: seen, traits: {plan: plan}}",
}
"""A sync of each kind."""


@pytest.mark.thorough
@pytest.mark.rule("G15")
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_applied_as_it_was_planned(retl: Retl, project: Path, kind: str) -> None:
    """Whatever the kind of sync, and whatever happened to a row, the planned calls leave, and no others."""
    (project / "syncs/users.yml").write_text(f"model: users\nprimary_key: user_id\n{KINDS[kind]}\n")
    retl("run", "users")
    before = len(sent(project))
    edit(project / "data/users.csv", "u1,u1@x.com,free,2026-01-01", "u1,u1@x.com,pro,2026-02-01")
    edit(project / "data/users.csv", "u2,u2@x.com,free,2026-01-02", "u2,other@x.com,free,2026-02-02")
    edit(project / "data/users.csv", "u3,u3@x.com,free,2026-01-03", "u9,u9@x.com,free,2026-02-03")
    assert 0 == retl("plan", "users", "--save", "users.plan", "--out", "calls.parquet")[0]
    planned = duckdb.sql("SELECT call FROM 'calls.parquet' ORDER BY call").fetchall()

    assert 0 == retl("apply", "users.plan")[0]
    assert 2 <= len(planned)
    assert [call for (call,) in planned] == sorted(sent(project)[before:])


@pytest.mark.thorough
def test_a_large_first_pass_is_applied_as_it_was_planned(retl: Retl, project: Path) -> None:
    """The calls of a first pass are those of the plan, though their text is made only as they leave."""
    model = "SELECT 'u' || i AS user_id, 'a' AS email, 'b' AS plan, 'c' AS seen FROM range(9000) AS r(i)"
    (project / "models/users.sql").write_text(model)
    with Sandbox() as sandbox:
        settings = {"endpoint": sandbox.url, "write_key": "key", "events_per_second": 0}
        (project / "retl.yml").write_text(f'warehouse: "duckdb://"\nsegment: {json.dumps(settings)}\n')
        assert 0 == retl("plan", "users", "--save", "users.plan", "--out", "calls.parquet")[0]

        assert 0 == retl("apply", "users.plan")[0]
    planned = duckdb.sql("SELECT call FROM 'calls.parquet'").fetchall()
    bodies = {call["messageId"]: call for (text,) in planned if (call := json.loads(text))}
    assert 9000 == len(bodies)
    for call in sandbox.accepted:  # of which Segment moves the timestamp by the time that it took to arrive
        arrived = {**call, "timestamp": call["originalTimestamp"]}
        assert bodies.pop(call["messageId"]).items() <= arrived.items()
    assert {} == bodies


def edited(path: str, old: str, new: str) -> Callable[[Retl, Path], None]:
    """An edit of a file of the project."""
    return lambda _, project: edit(project / path, old, new)


def without(path: str) -> Callable[[Retl, Path], None]:
    """The removal of a file of the project."""
    return lambda _, project: (project / path).unlink()


def run_meanwhile(retl: Retl, project: Path) -> None:
    """Run the sync, which sends what was planned."""
    retl("run", "users", "--force", "changed")


MOVES = {
    "the sync": (edited("syncs/users.yml", "plan: plan", "level: plan"), "syncs/users.yml was edited since"),
    "the model": (
        edited("models/users.sql", "SELECT", "SELECT -- all\n"),
        "models/users.sql was edited since",
    ),
    "the settings": (edited("retl.yml", "segment", "guards: {}\nsegment"), "retl.yml was edited since"),
    "the state": (run_meanwhile, "a run has recorded changes since the plan was made"),
    "a missing state": (
        without("state/users.file.duckdb"),
        "the state file that the plan was made with is not",
    ),
    "one row more": (
        edited("data/users.csv", "u6,", "u7,u7@x.com,pro,2026-01-01\nu6,"),
        "rows_read: 6 planned, 7 now, added: 0 planned, 1 now, added identify: 0 planned, 1 now",
    ),
    "another value": (
        edited("data/users.csv", "u3@x.com,pro", "u3@x.com,team"),
        "as many rows changed, but not the same ones",
    ),
    "a value that is not compared": (
        edited("data/users.csv", "2026-01-05", "2026-02-05"),
        "the same rows changed, but what is not compared of them differs, and with it their calls",
    ),
    "the program": (edited("users.plan", MADE_WITH, "retl 0.1"), f"by retl 0.1, and this is {MADE_WITH}"),
}
"""The things that may move after a plan is made, and what is said of each."""


@pytest.mark.thorough
@pytest.mark.rule("G15")
@pytest.mark.parametrize("move", MOVES)
def test_apply_refuses_what_has_moved(retl: Retl, project: Path, move: str) -> None:
    """Where a file, the state or the model's result moved, nothing is sent, and it is said what moved."""
    retl("run", "users")
    edit(project / "data/users.csv", "free", "pro")
    retl("plan", "users", "--save", "users.plan", "--force", "changed")
    happens, said = MOVES[move]
    happens(retl, project)
    before = (sent(project), (project / "state/users.file.duckdb").exists() and snapshot(project))

    code, out, err = retl("apply", "users.plan", "--json")

    assert 4 == code, err
    error = json.loads(out)["error"]
    assert ("moved", True) == (error["code"], said in error["message"]), error
    assert "retl plan syncs/users.yml" in error["hint"]
    after = (sent(project), (project / "state/users.file.duckdb").exists() and snapshot(project))
    assert before == after


@pytest.mark.rule("G16")
def test_a_guard_that_stopped_the_plan_stops_apply(retl: Retl, project: Path) -> None:
    """A guard that stops a plan stops it as it is applied, unless it is forced, there or in the plan."""
    retl("run", "users")
    edit(project / "syncs/users.yml", "identify:", "guards: {changed: 2}\nidentify:")
    edit(project / "data/users.csv", "free", "pro")
    assert 4 == retl("plan", "users", "--save", "users.plan")[0]
    assert 0 == retl("plan", "users", "--save", "forced.plan", "--force", "changed")[0]

    code, _, err = retl("apply", "users.plan")
    assert (4, True) == (code, "6 of 6 rows changed" in err)
    assert 6 == len(sent(project))
    assert 0 == retl("apply", "forced.plan")[0]
    assert 12 == len(sent(project))
    edit(project / "data/users.csv", "pro", "team")
    retl("plan", "users", "--save", "users.plan")
    assert 0 == retl("apply", "users.plan", "--force", "changed")[0]


@pytest.mark.thorough
def test_apply_is_a_run_with_the_options_of_the_plan(retl: Retl, project: Path) -> None:
    """A plan with --full, or of a rehearsal, is applied as such, and several syncs are one plan."""
    (project / "syncs/more.yml").write_text(SYNC)
    retl("run", "syncs/")
    assert 0 == retl("plan", "syncs/", "--full", "--save", "all.plan")[0]

    assert 0 == retl("apply", "all.plan")[0]
    assert 24 == len(sent(project))
    retl("plan", "users", "--sandbox", "--save", "rehearsal.plan")
    assert "sandbox: 6 calls accepted" in retl("apply", "rehearsal.plan")[1]
    assert 24 == len(sent(project))


def test_a_saved_plan_holds_no_values_and_is_private(retl: Retl, project: Path) -> None:
    """The file has counts and hashes, no value of a row, and is the owner's alone."""
    _, out, _ = retl("plan", "users", "--save", "users.plan")

    assert "saved; to send exactly this: retl apply users.plan" in out
    assert not re.search(r"u1|x\.com|free", (project / "users.plan").read_text())
    assert 0o600 == (project / "users.plan").stat().st_mode & 0o777


def test_a_plan_that_is_not_whole_is_not_saved(retl: Retl, project: Path) -> None:
    """Where one of several syncs cannot be planned, no plan is saved."""
    (project / "syncs/broken.yml").write_text(SYNC.replace("model: users", "model: nothing"))

    code, _, err = retl("plan", "syncs/", "--save", "all.plan")

    assert (2, True) == (code, "the plan was not saved, as it is not whole" in err)
    assert not (project / "all.plan").exists()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (None, "no.plan: cannot be read: No such file"),
        ("SELECT 1", "no.plan: this is not a saved plan"),
        ('{"retl_plan": 1, "syncs": [{}]}', "no.plan: this is not a saved plan"),
        ('{"retl_plan": 2}', "no.plan: this plan has the form 2"),
    ],
)
def test_a_file_that_is_no_plan_is_refused(retl: Retl, project: Path, text: str | None, said: str) -> None:
    """A file that is missing, is no plan, or has another form is an error that names it."""
    if text is not None:
        (project / "no.plan").write_text(text)

    code, _, err = retl("apply", "no.plan")

    assert (2, True) == (code, said in err), err
