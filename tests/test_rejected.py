"""`retl rejected`: each reason with its next step, and the values where they are asked for."""

import json
from pathlib import Path
from typing import Any

import duckdb
import pytest
from harness import Retl, project_to, runner

from retl.reason import Reason
from retl.sandbox.failures import Reply
from retl.sandbox.server import Sandbox

SQL = """\
SELECT
    CASE WHEN i = 1 THEN NULL WHEN i IN (2, 3) THEN 'k2' ELSE 'k' || i END AS id,
    CASE WHEN i = 4 THEN 'undefined' WHEN i = 5 THEN NULL ELSE 'acct' || i END AS account,
    CASE WHEN i = 6 THEN 'yesterday' ELSE '2026-03-01' END AS seen_at,
    CASE WHEN i = 7 THEN '{broken' ELSE '{}' END AS meta,
    CASE WHEN i = 8 THEN repeat('x', 40000) ELSE 'me' END AS bio,
    CASE WHEN i = 9 THEN 'many' ELSE '1' END AS number,
    CASE WHEN i = 10 THEN 'perhaps' ELSE 'yes' END AS flag,
    'secret' || i AS email
FROM range(1, 30) AS r (i)
"""

SYNC = """\
sql: |
  {sql}
primary_key: id
identify:
  user_id: account
  traits:
    email: email
    bio: bio
    meta: {{column: meta, as: json}}
    seen_at: {{column: seen_at, as: timestamp}}
    number: {{column: number, as: number}}
    flag: {{column: flag, as: boolean}}
"""


@pytest.fixture
def project(tmp_path: Path, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with a sync `users` of many faults; the working folder of the test."""
    monkeypatch.chdir(tmp_path)
    return project_to(tmp_path, sandbox.url, SYNC.format(sql=SQL.replace("\n", "\n  ")))


@pytest.fixture
def retl(project: Path, capsys: pytest.CaptureFixture[str]) -> Retl:
    """Runs a command in the project."""
    return runner(capsys)


def listed(retl: Retl, *arguments: str) -> dict[str, Any]:
    """The JSON object of the sync."""
    code, out, err = retl("rejected", "users", "--json", *arguments)
    assert code == 0, err
    found: dict[str, Any] = json.loads(out)
    return found


@pytest.mark.thorough
def test_reasons_are_counted_with_their_next_step(retl: Retl) -> None:
    """The reasons come first, the most frequent on top, each with what to do; the model is not read."""
    assert retl("run", "users")[0] == 1

    reasons = listed(retl)["reasons"]
    assert ("duplicate_key", 2) == (reasons[0]["reason"], reasons[0]["rows"])
    assert {
        "duplicate_key",
        "null_key",
        "no_id",
        "blocked_id",
        "bad_timestamp",
        "bad_json",
        "bad_number",
        "bad_boolean",
        "too_large",
    } == {one["reason"] for one in reasons}
    out = retl("rejected", "users")[1]
    assert "users: 10 rows rejected\n" in out
    assert "  → leave such rows out in the model, or map an `anonymous_id`, too\n" in out
    assert "the rows as they are now (reads the model): retl rejected users --inspect\n" in out


VALUES = ("secret", "yesterday", "broken", "many", "perhaps", "undefined")
"""Words of the values at fault, and of rows without a key."""


@pytest.fixture
def offline(retl: Retl, project: Path) -> Retl:
    """Runs a command after a run, when there is no warehouse any more."""
    assert retl("run", "users")[0] == 1
    settings = project / "retl.yml"
    settings.write_text(settings.read_text().replace("duckdb://", "duckdb:///gone.duckdb"))
    return retl


@pytest.mark.thorough
@pytest.mark.rule("P9")
def test_the_state_tells_user_column_and_form(offline: Retl) -> None:
    """The user, the column at fault and its value's form are shown without the warehouse; no value is."""
    found = {row["key"]: row for row in listed(offline)["rows"]}
    assert {
        None: (None, None, None),
        "k2": (None, None, None),
        "k4": (None, "account", "text, 9 characters"),
        "k5": (None, "account", "null"),
        "k6": ("acct6", "seen_at", "text, 9 characters"),
        "k7": ("acct7", "meta", "text, 7 characters"),
        "k8": ("acct8", None, None),
        "k9": ("acct9", "number", "text, 4 characters"),
        "k10": ("acct10", "flag", "text, 7 characters"),
    } == {key: (row["user_id"], row["at_fault"], row["shape"]) for key, row in found.items()}
    out = offline("rejected", "users")[1]
    assert "seen_at: text, 9 characters" in out and "acct6" in out
    assert 80 >= max(map(len, out.splitlines()[:20]))
    offline("rejected", "users", "--out", "rejected.csv")
    for told in (json.dumps(found), out, Path("rejected.csv").read_text()):
        assert not [word for word in VALUES if word in told]


@pytest.mark.thorough
@pytest.mark.rule("P9")
def test_kept_values_only_where_they_are_asked_for(offline: Retl) -> None:
    """--show-values shows the values that the state keeps, of one row without a key, too."""
    out = " ".join(offline("rejected", "users", "--show-values")[1].split())
    for words in ("seen_at: 'yesterday'", "meta: '{broken'", "number: 'many'", "'email': secret1"):
        assert words in out
    found = {row["key"]: row for row in listed(offline, "--show-values")["rows"]}
    assert ("perhaps", "undefined") == (found["k10"]["value"], found["k4"]["user_id"])
    assert "secret1" in found[None]["value"]
    offline("rejected", "users", "--out", "rejected.csv", "--show-values")
    assert "secret1" in Path("rejected.csv").read_text()
    assert 3 == offline("rejected", "users", "--inspect")[0]


@pytest.mark.rule("P9")
def test_a_long_value_is_kept_in_part(retl: Retl, project: Path) -> None:
    """Of a value at fault the state keeps 200 characters, and its form says that there may be more."""
    sync = project / "syncs/users.yml"
    sync.write_text(sync.read_text().replace("'{broken'", "'{' || repeat('z', 300)"))
    retl("run", "users")

    (row,) = listed(retl, "--reason", "bad_json", "--show-values")["rows"]
    assert ("{" + "z" * 199, "text, 200 characters or more") == (row["value"], row["shape"])


@pytest.mark.thorough
@pytest.mark.rule("P9")
def test_the_column_and_the_form_of_its_value(retl: Retl) -> None:
    """--inspect reads the model again, and names user, column and form of each value, but not the value."""
    retl("run", "users")

    found = {row["key"]: row for row in listed(retl, "--inspect")["rows"]}
    shapes = {
        key: [(value["column"], value["shape"]) for value in row["values"]]
        for key, row in found.items()
        if key not in {None, "k2"}
    }
    assert {
        "k4": [("account", "text, 9 characters")],
        "k5": [("account", "null")],
        "k6": [("seen_at", "text, 9 characters")],
        "k7": [("meta", "text, 7 characters")],
        "k8": [("bio", "text, 40,000 characters")],
        "k9": [("number", "text, 4 characters")],
        "k10": [("flag", "text, 7 characters")],
    } == shapes
    assert ["account", "email"] == found["k2"]["differs_in"]
    assert "acct6" == found["k6"]["user_id"]
    (sample,) = found[None]["samples"]
    assert {"column": "email", "shape": "text, 7 characters"} in sample
    for out in (json.dumps(found), retl("rejected", "users", "--inspect")[1]):
        assert not [word for word in VALUES if word in out]


@pytest.mark.thorough
@pytest.mark.rule("P9")
def test_values_of_the_model_only_where_they_are_asked_for(retl: Retl) -> None:
    """--inspect with --show-values has the values of the model themselves, of rows without a key, too."""
    retl("run", "users")

    out = retl("rejected", "users", "--inspect", "--show-values")[1]
    for words in ("seen_at: 'yesterday'", "meta: '{broken'", "number: 'many'", "email: 'secret1'"):
        assert words in out
    found = {row["key"]: row for row in listed(retl, "--inspect", "--show-values")["rows"]}
    assert [{"column": "flag", "shape": "text, 7 characters", "value": "perhaps"}] == found["k10"]["values"]


@pytest.mark.thorough
def test_a_row_that_is_right_by_now(retl: Retl, project: Path) -> None:
    """A row that was mended since the last run has no value at fault any more."""
    retl("run", "users")
    sync = project / "syncs/users.yml"
    sync.write_text(sync.read_text().replace("'yesterday'", "'2026-03-02'"))

    found = {row["key"]: row for row in listed(retl, "--inspect")["rows"]}
    assert [] == found["k6"]["values"]
    assert "gone or right by now" in retl("rejected", "users", "--inspect")[1]


@pytest.mark.thorough
def test_one_reason_and_a_limit(retl: Retl) -> None:
    """--reason shows only that one, --limit so many rows, and what is left out is counted."""
    retl("run", "users")

    found = listed(retl, "--reason", "bad_json", "--reason", "no_id")
    assert {"bad_json", "no_id"} == {row["reason"] for row in found["rows"]}
    assert 2 == len(found["reasons"])
    assert 3 == len(listed(retl, "--limit", "3")["rows"])
    assert " more: --limit, --reason or --out" in retl("rejected", "users", "--limit", "3")[1]
    nothing = "users: nothing is rejected for refused\n"
    assert nothing == retl("rejected", "users", "--reason", "refused")[1]


@pytest.mark.thorough
@pytest.mark.rule("P9")
def test_a_run_that_a_guard_stopped_kept_no_rows(retl: Retl, project: Path) -> None:
    """It is said that rows were rejected by such a run, and how many, as they are not in the list."""
    (project / "syncs/users.yml").write_text(
        (project / "syncs/users.yml").read_text() + "guards: {rejected: 1}\n"
    )
    assert 4 == retl("run", "users")[0]

    out = retl("rejected", "users")[1]

    assert "users: nothing is rejected\na guard stopped the last run" in out
    assert "(duplicate_key 2, null_key 1)" in out and "see: retl plan users\n" in out
    assert {"duplicate_key": 2, "null_key": 1} == listed(retl)["stopped"]
    assert "(duplicate_key): k2\n" in retl("plan", "users")[1]


@pytest.mark.thorough
def test_a_long_key_is_cut(retl: Retl, project: Path) -> None:
    """The beginning of a key that would fill the screen is shown, and its length."""
    sync = project / "syncs/users.yml"
    sync.write_text(
        sync.read_text().replace("ELSE 'k' || i END AS id", "ELSE repeat('k', 5000) || i END AS id")
    )
    retl("run", "users")

    out = retl("rejected", "users", "--reason", "bad_number")[1]

    assert "…(5,001characters)" in "".join(out.split())
    assert 60 <= out.count("k") < 80


@pytest.mark.thorough
def test_rejections_that_are_over(retl: Retl, project: Path) -> None:
    """--ended tells of rejections until when they lasted and how they ended; values only where asked for."""
    retl("run", "users")
    assert "users: no rejection that is over is kept\n" == retl("rejected", "users", "--ended")[1]
    sync = project / "syncs/users.yml"
    sync.write_text(sync.read_text().replace("'yesterday'", "'2026-03-02'").replace("(1, 30)", "(2, 10)"))
    retl("run", "users")

    found = {one["key"]: one for one in listed(retl, "--ended")["ended"]}
    assert {None: "gone", "k6": "sent", "k10": "gone"} == {key: one["how"] for key, one in found.items()}
    assert ("bad_timestamp", "acct6", "seen_at", "text, 9 characters", 1) == tuple(
        found["k6"][name] for name in ("reason", "user_id", "at_fault", "shape", "times")
    )
    assert found["k6"]["first_seen"] < found["k6"]["ended_at"]
    out = retl("rejected", "users", "--ended")[1]
    for told in (json.dumps(found), out):
        assert not [word for word in VALUES if word in told]
    assert "users: 3 rejections are over\n" in out
    assert "3 rejections over: retl rejected users --ended" in retl("rejected", "users")[1]
    assert "2 more: --limit or --reason" in retl("rejected", "users", "--ended", "--limit", "1")[1]
    assert ["k6"] == [one["key"] for one in listed(retl, "--ended", "--reason", "bad_timestamp")["ended"]]
    out = retl("rejected", "users", "--ended", "--show-values")[1]
    assert "seen_at: 'yesterday'" in out and "secret1" in out


def test_calls_whose_rejection_is_over(retl: Retl, project: Path, sandbox: Sandbox) -> None:
    """A refused call that was discarded is among them, with Segment's answer; --inspect and --out are not."""
    (project / "syncs/users.yml").write_text(
        "sql: SELECT 'k' || i AS id, 'a' || i AS account FROM range(1, 3) AS r (i)\n"
        "primary_key: id\nidentify: {user_id: account, traits: {account: account}}\n"
    )
    sandbox.script([Reply(status=400), Reply(status=400, body="what is this?")])
    retl("run", "users")
    assert 0 == retl("discard", "users", "--yes")[0]

    (call,) = listed(retl, "--ended")["ended"]
    assert ("discarded", "added", None) == (call["how"], call["change"], call["ended_in"])
    assert "what is this?" in call["answer"]
    assert f"{call['key']} (call)" in retl("rejected", "users", "--ended")[1]
    assert retl("rejected", "users")[1].startswith("users: nothing is rejected\n1 rejection over: ")
    for option in (["--inspect"], ["--out", "rejected.csv"]):
        assert 2 == retl("rejected", "users", "--ended", *option)[0]


@pytest.mark.thorough
def test_refused_calls_have_their_user_and_answer(retl: Retl, project: Path, sandbox: Sandbox) -> None:
    """A refused call is shown with user, message id and answer; its text where it is asked for."""
    (project / "syncs/users.yml").write_text(
        "sql: SELECT 'k' || i AS id, 'a' || i AS account, 'secret' || i AS email FROM range(1, 3) AS r (i)\n"
        "primary_key: id\nidentify: {user_id: account, traits: {email: email}}\n"
    )
    sandbox.script([Reply(status=400), Reply(status=400, body="what is this?")])
    retl("run", "users")

    (call,) = listed(retl)["calls"]
    assert ("refused", f"a{call['key'][1]}") == (call["reason"], call["user_id"])
    out = retl("rejected", "users")[1]
    assert "`retl retry users`" in out and call["message_id"] in out and "what is this?" in out
    assert "secret" not in out
    assert f'"traits":{{"email":"secret{call["key"][1]}"}}' in retl("rejected", "users", "--show-values")[1]
    assert '"call"' in json.dumps(listed(retl, "--show-values"))


@pytest.mark.thorough
@pytest.mark.parametrize("form", ["csv", "parquet"])
def test_a_file_of_all(retl: Retl, project: Path, form: str) -> None:
    """--out writes one line for each row and call, with columns and forms where the model was read."""
    retl("run", "users")
    file = f"rejected.{form}"

    code, out, _ = retl("rejected", "users", "--out", file, "--inspect", "--limit", "1")
    assert (0, f"{file}: 9 rows and 0 calls\n") == (code, out)
    with duckdb.connect() as db:
        lines = db.execute(f"SELECT key, reason, columns, value FROM '{file}' ORDER BY key").fetchall()
    assert 9 == len(lines)
    assert ("k6", "bad_timestamp", "seen_at", "seen_at: text, 9 characters") in lines

    code, _, err = retl("rejected", "users", "--out", "rejected.txt")
    assert (2, True) == (code, "must end in .csv or .parquet" in " ".join(err.split()))
    code, _, err = retl("rejected", "users", "--out", f"nowhere/{file}")
    assert (3, True) == (code, "nowhere" in err)


def test_each_reason_has_a_next_step() -> None:
    """Whatever the reason, there is something to do."""
    assert [] == [reason for reason in Reason if len(reason.next_step) < 10]
