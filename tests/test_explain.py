"""What `retl explain` tells of the past of a row or a user."""

import json
from pathlib import Path
from typing import Any

import pytest
from delivery import IDENTIFY, FakeClock, Shop, Table
from harness import Retl, runner

from retl.past import find_past
from retl.reason import Reason
from retl.sandbox.failures import Reply
from retl.sandbox.server import Sandbox
from retl.state import open_state

SYNC = """\
sql: SELECT * FROM 'users.csv'
primary_key: id
warehouse: "duckdb://"
identify:
  user_id: owner
  traits: {plan: plan, seats: {column: seats, as: number}}
guards: {removed: off, changed: 1, added: off, rejected: off}
"""
HEAD = "id,owner,plan,seats\n"
FIRST = HEAD + "1,ada,pro,3\n2,ada,free,1\n3,bob,free,1\n"


@pytest.fixture
def retl(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Retl:
    """The command line, in a project whose sync was run once."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "syncs").mkdir()
    (tmp_path / "syncs" / "users.yml").write_text(SYNC)
    command = runner(capsys)
    assert 0 == run(command, FIRST)
    return command


def run(retl: Retl, rows: str | None, *options: str) -> int:
    """One rehearsal with these rows; its exit code. None takes the file away."""
    file = Path("users.csv")
    file.unlink(missing_ok=True)
    if rows is not None:
        file.write_text(rows)
    return retl("run", "users", "--sandbox", *options)[0]


def told(retl: Retl, asked: str, *options: str) -> list[dict[str, Any]]:
    """The rows that are explained."""
    code, out, _ = retl("explain", "users", asked, "--sandbox", "--json", *options)
    assert 0 == code
    return [json.loads(line) for line in out.splitlines()]


def kinds(row: dict[str, Any]) -> list[str]:
    """The kinds of its events, and the state of a call."""
    return [event.get("state", event["kind"]) for event in row["past"]]


@pytest.mark.thorough
def test_a_row_is_told_from_its_first_call_on(retl: Retl) -> None:
    """The newest event is first: calls, and between them why a run sent nothing of this row."""
    assert 0 == run(retl, FIRST)
    assert 1 == run(retl, FIRST.replace("1,ada,pro,3", "1,ada,pro,many"))
    assert 3 == run(retl, None)
    assert 4 == run(retl, FIRST.replace("pro", "team").replace("free", "team"))
    assert 0 == run(retl, FIRST.replace("pro", "team"))
    assert 0 == run(retl, FIRST.replace("pro", "team"))
    assert 0 == run(retl, FIRST.replace("pro", "team"))

    (row,) = told(retl, "1")

    assert ["unchanged", "delivered", "guarded", "failed", "rejected", "unchanged", "delivered"] == kinds(row)
    assert (2, "changed", 200) == (row["past"][0]["runs"], row["past"][1]["change"], row["past"][1]["status"])
    assert "changed" in row["past"][2]["message"]
    assert "users.csv" in row["past"][3]["message"]
    assert "bad_number" == row["past"][4]["reason"]
    (rejection,) = row["rejections"]
    assert ("bad_number", "seats", "many", "sent") == (
        rejection["reason"],
        rejection["at_fault"],
        rejection["value"],
        rejection["how"],
    )
    assert ("team", "team", "key") == (row["row"]["plan"], row["now"]["plan"], row["matched"])


def test_an_id_stands_for_all_rows_of_the_user(retl: Retl) -> None:
    """A user's rows are told each by itself, and that they were found as those of a user."""
    found = told(retl, "ada")
    assert [("1", "user"), ("2", "user")] == sorted((row["key"], row["matched"]) for row in found)
    assert [["delivered"]] * 2 == [kinds(row) for row in found]


@pytest.mark.thorough
def test_a_row_that_is_gone_still_has_its_past(retl: Retl) -> None:
    """Its calls are told by key and by user, though neither the model nor the snapshot has it."""
    assert 0 == run(retl, FIRST.replace("3,bob,free,1\n", ""))
    for asked in ("3", "bob"):
        (row,) = told(retl, asked)
        assert (None, None, [], ["gone", "delivered"]) == (
            row["row"],
            row["now"],
            row["next"],
            kinds(row),
        )


@pytest.mark.thorough
def test_the_past_is_told_without_the_warehouse(retl: Retl) -> None:
    """Where the model cannot be read the past is told with a notice; with --offline it is not tried."""
    Path("users.csv").unlink()
    code, out, err = retl("explain", "users", "1", "--sandbox", "--json")
    assert (0, None, ["delivered"]) == (code, json.loads(out)["next"], kinds(json.loads(out)))
    assert err.startswith("the model cannot be read, so this is the past alone: ")
    code, _, err = retl("explain", "users", "1", "--sandbox", "--offline")
    assert (0, "") == (code, err)
    assert 3 == retl("explain", "users", "nobody", "--sandbox")[0]
    code, _, err = retl("explain", "users", "nobody", "--sandbox", "--offline")
    assert (2, True) == (code, "no row has the key `nobody`, and no user this id" in err)


def test_what_differs_from_the_last_call_is_shown(retl: Retl) -> None:
    """A row shows its values as they were sent, and those that the model has otherwise now."""
    Path("users.csv").write_text(FIRST.replace("1,ada,pro,3", "1,ada,team,3"))
    _, out, _ = retl("explain", "users", "1", "--sandbox")
    lines = out.splitlines()
    assert ["1  found as a key", "  row  id: 1, owner: ada, plan: pro, seats: 3"] == lines[:2]
    assert "  now  plan: pro → team" in lines
    assert "  next ~ changed; the next run sends:" in lines


@pytest.mark.thorough
def test_a_long_call_is_folded(retl: Retl) -> None:
    """A call of many characters is cut with the number of those that are left, unless all are asked for."""
    Path("users.csv").write_text(FIRST.replace("1,ada,pro,3", f"1,ada,{'x' * 2_000},3"))
    _, folded, _ = retl("explain", "users", "1", "--sandbox")
    _, in_full, _ = retl("explain", "users", "1", "--sandbox", "--full-calls")
    assert ("more characters of the call: --full-calls)" in folded, "x" * 2_000 in folded) == (True, False)
    assert "x" * 2_000 in in_full


@pytest.mark.thorough
def test_a_silent_baseline_is_told(retl: Retl) -> None:
    """Of a row that was remembered and not sent, the run that did so is told."""
    track = SYNC.replace("identify:", "track:").replace("traits:", "properties:") + "initial: skip\n"
    track = track.replace("  user_id: owner\n", "  user_id: owner\n  added: A\n  changed: C\n")
    Path("syncs/orders.yml").write_text(track)
    assert 0 == retl("run", "orders", "--sandbox")[0]
    _, out, _ = retl("explain", "orders", "1", "--sandbox", "--json")
    assert ["baseline"] == kinds(json.loads(out))


@pytest.mark.thorough
def test_a_guard_that_would_stop_the_next_run_is_named(retl: Retl) -> None:
    """Where a guard would stop the next run, explain does not say that the run sends the call."""
    Path("users.csv").write_text(FIRST.replace("pro", "team").replace("free", "team"))
    (row,) = told(retl, "1")
    assert ["changed"] == row["stopped_by"]
    _, out, _ = retl("explain", "users", "1", "--sandbox")
    stop = "a guard would stop the next run (changed): see retl plan users --sandbox"
    assert f"  next ~ changed; {stop}" in " ".join(out.splitlines())
    assert "the next run sends" not in out


@pytest.mark.thorough
def test_a_pending_call_is_delivered_first(retl: Retl) -> None:
    """Of a call that waits it is told that the next run delivers it first, and no other."""
    assert 0 == run(retl, f"{FIRST}4,ada,free,1\n5,ada,free,1\n", "--limit", "1")
    (row,) = (one for one in told(retl, "ada") if kinds(one)[0] == "pending")
    _, out, _ = retl("explain", "users", row["key"], "--sandbox")
    lines = out.splitlines()
    assert f"  next  the run first delivers its pending call: {row['past'][0]['message_id']}" in lines
    assert any(line.startswith("  next = unchanged; the next run has no other call for it") for line in lines)


@pytest.mark.thorough
@pytest.mark.parametrize("asked", ["2", "4", "bob"])
def test_rows_that_share_a_key_would_be_rejected(retl: Retl, asked: str) -> None:
    """Of a key that several rows have now none of them is shown, whether it was sent before or is new."""
    Path("users.csv").write_text(f"{FIRST}2,bob,team,1\n4,bob,free,1\n4,bob,team,1\n")
    (row,) = (one for one in told(retl, asked) if one["key"] == ("2" if asked == "bob" else asked))
    assert ("duplicate_key", None, []) == (row["would_be_rejected"], row["now"], row["next"])
    _, out, _ = retl("explain", "users", asked, "--sandbox")
    assert (
        "  next ! would be rejected: several rows share the primary key (duplicate_key)" in out.splitlines()
    )


@pytest.mark.thorough
def test_rows_without_a_key_would_be_rejected(retl: Retl) -> None:
    """A row without a key is found by its user, beside the other rows of that user."""
    Path("users.csv").write_text(FIRST.replace("2,ada", ",ada"))
    found = {row["key"]: row["would_be_rejected"] for row in told(retl, "ada")}
    assert {"1": None, "2": None, None: "null_key"} == found
    assert "(no key)  found as a user" in retl("explain", "users", "ada", "--sandbox")[1]


def test_the_past_has_a_heading(retl: Retl) -> None:
    """The past stands below a heading of its own, and not as a part of the last receiver's block."""
    _, out, _ = retl("explain", "users", "1", "--sandbox", "--receiver", "insider")
    lines = out.splitlines()
    assert 1 == lines.count("past")
    assert "delivered" in lines[lines.index("past") + 1]
    assert lines.index("Insider") < lines.index("past")


@pytest.mark.thorough
def test_the_run_in_which_a_row_left_the_model_is_told(retl: Retl) -> None:
    """A row left in the one run since its last call in which rows left; of several none is named."""
    without = FIRST.replace("3,bob,free,1\n", "")
    assert 0 == run(retl, FIRST)
    assert 0 == run(retl, without)
    assert 0 == run(retl, without)
    (row,) = told(retl, "3")
    assert ["unchanged", "gone", "unchanged", "delivered"] == kinds(row)
    assert 0 == run(retl, without.replace("2,ada,free,1\n", ""))
    (row,) = told(retl, "3")
    assert ["unchanged", "delivered"] == kinds(row)


@pytest.mark.thorough
def test_a_rejected_row_says_why_and_what_to_do(retl: Retl) -> None:
    """The run that rejected a row is told with the reason, and with a way to send the row after all."""
    assert 1 == run(retl, FIRST.replace("1,ada,pro,3", "1,ada,pro,many"))
    _, out, _ = retl("explain", "users", "1", "--sandbox", "--offline")
    said = " ".join(out.split())
    assert (
        f"the row was rejected: {Reason.BAD_NUMBER.meaning} (bad_number); {Reason.BAD_NUMBER.next_step}"
        in said
    )


@pytest.mark.thorough
def test_a_run_that_fails_while_it_delivers_is_told_as_such(tmp_path: Path) -> None:
    """A run that ends at the calls of an earlier one is not said to have failed over the model's rows."""
    with Sandbox() as sandbox:
        shop = Shop(tmp_path, sandbox.url, IDENTIFY, clock=FakeClock())
        users = Table({"id": ["u1", "u2"], "name": ["A", "B"], "plan": ["free"] * 2})
        shop.run(users)
        changed = Table({"id": ["u1", "u2"], "name": ["A", "C"], "plan": ["free"] * 2})
        sandbox.script([Reply(status=401)] * 9)
        for minutes in (1, 2):
            shop.clock.pass_to(60 * minutes)
            assert 2 == shop.run(changed).exit_code
        with open_state(shop.state_path, "shop") as state:
            (one,), (other,) = find_past(state, "u1"), find_past(state, "u2")
    assert ["undelivered", "unchanged", "call"] == [event.kind for event in one.events]
    assert ["undelivered", "call", "call"] == [event.kind for event in other.events]
    assert 1 == len(other.waiting)


@pytest.mark.thorough
def test_the_past_of_rehearsals_alone_is_pointed_to(retl: Retl) -> None:
    """Where only rehearsals sent a row, the option that tells their past is named."""
    said = "  no run has sent anything of it yet (rehearsals: --sandbox)"
    assert said in retl("explain", "users", "1")[1].splitlines()
    Path("users.csv").write_text(f"{FIRST}4,zoe,free,1\n")
    _, out, _ = retl("explain", "users", "4", "--sandbox")
    assert "(rehearsals: --sandbox)" not in out
