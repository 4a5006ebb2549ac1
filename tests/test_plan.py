"""Plans: what a run would send is shown in full, and counted, before it is sent."""

import json
import re
from pathlib import Path
from typing import Any

import duckdb
import pytest
from harness import Retl, csv_project, edit, runner
from markdown_it import MarkdownIt

from retl.lock import hold

USERS = "user_id,email,plan,city\n" + "".join(f"u{n},u{n}@x.com,free,Berlin\n" for n in range(1, 7))
SYNC = """\
model: users
primary_key: user_id
identify:
  user_id: user_id
  traits: {email: email, plan: plan, address.city: city}
"""
ORDERS = """\
sql: SELECT * FROM read_csv('data/users.csv')
primary_key: user_id
track: {user_id: user_id, added: Joined, changed: Changed, removed: Left, properties: {plan: plan}}
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project whose calls go to a file; the working folder of the test."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("COLUMNS", raising=False)
    return csv_project(tmp_path, USERS, users=SYNC, members=ORDERS)


@pytest.fixture
def retl(project: Path, capsys: pytest.CaptureFixture[str]) -> Retl:
    """Runs a command in the project; gives exit code, stdout and stderr."""
    return runner(capsys)


def planned(retl: Retl, sync: str, *arguments: str) -> dict[str, Any]:
    """The JSON object of a plan."""
    plan: dict[str, Any] = json.loads(retl("plan", sync, "--json", *arguments)[1])
    return plan


@pytest.mark.thorough
def test_a_changed_row_is_shown_with_its_values_before_and_after(retl: Retl, project: Path) -> None:
    """A plan says what differs in a changed row, by the names of fields: as it was sent, and as it is now."""
    retl("run", "users")
    edit(project / "data/users.csv", "u2,u2@x.com,free,Berlin", "u2,,pro,Berlin")

    _, out, _ = retl("plan", "users")

    assert "  =  5  unchanged\n  ~  1  changed    → 1 identify\n  differing in: email 1, plan 1\n" in out
    assert "  ~ u2  identify\n      email: u2@x.com → null\n      plan: free → pro\n" in out
    sample = planned(retl, "users")["samples"][0]
    assert ("changed", "identify", "u2") == (sample["change"], sample["name"], sample["key"])
    assert {"name": "plan", "before": '"free"', "after": '"pro"'} == sample["differences"][1]


@pytest.mark.thorough
def test_a_plan_shows_calls_of_each_kind_and_as_many_as_asked(retl: Retl, project: Path) -> None:
    """Each kind of change has its sample calls, one where nothing else is said; counts are by event name."""
    retl("run", "members")
    edit(project / "data/users.csv", "u1,u1@x.com,free", "u1,u1@x.com,pro")
    edit(project / "data/users.csv", "u2,u2@x.com,free", "u2,u2@x.com,pro")
    edit(project / "data/users.csv", "u3,", "u9,")

    plan = planned(retl, "members")

    names = {"added": "Joined", "changed": "Changed", "removed": "Left"}
    assert names == {one["change"]: one["name"] for one in plan["samples"]}
    assert [1, 2, 1] == [one["calls"] for one in sorted(plan["calls"], key=lambda one: one["change"])]
    assert (4, 4) == (plan["total_calls"], plan["users"])
    assert 4 == len(planned(retl, "members", "--calls", "5")["samples"])
    assert [] == planned(retl, "members", "--samples", "0")["samples"]


def test_many_names_of_events_are_counted_together(retl: Retl, project: Path) -> None:
    """Where a column names the events, those with most calls are named, and the others counted."""
    edit(project / "syncs/members.yml", "added: Joined", "added: {event: {column: email}}")

    edit(project / "data/users.csv", "u6,", "u8,u6@x.com,free,Berlin\nu7,u7@x.com,free,Berlin\nu6,")

    out = retl("plan", "members", "--initial-backfill", "--calls", "0")[1]
    assert "→ 2 u6@x.com, 1 u1@x.com, " in out
    assert ", and 1 of 1 other name\n" in out


def test_users_are_counted_once(retl: Retl, project: Path) -> None:
    """A plan counts distinct users, by whom Segment bills, beside the calls."""
    edit(project / "syncs/members.yml", "user_id: user_id", "user_id: city")

    plan = planned(retl, "members", "--initial-backfill")

    assert (6, 1) == (plan["total_calls"], plan["users"])


@pytest.mark.thorough
def test_differences_of_rejected_rows_are_counted_apart(retl: Retl, project: Path) -> None:
    """What differs in rows that cannot be sent is not counted among what will be sent."""
    retl("run", "users")
    edit(project / "syncs/users.yml", "user_id: user_id\n", "user_id: user_id\n  timestamp: city\n")
    edit(project / "data/users.csv", ",free,Berlin", ",pro,2026-03-01")
    edit(project / "data/users.csv", "u2@x.com,pro,2026-03-01", "u2@x.com,pro,soon")

    plan = planned(retl, "users")

    assert ({"bad_timestamp": 1}, {"bad_timestamp": ["u2"]}) == (plan["rejected_by"], plan["rejected_keys"])
    assert (5, {"plan": 5, "address.city": 5}) == (plan["changed"], plan["changed_by"])
    assert {"plan": 1, "address.city": 1} == plan["rejected_changed_by"]
    out = retl("plan", "users")[1]
    assert "  !  1  rejected  → not sent\n" in out
    assert re.search(r"1 row rejected: .* \(bad_timestamp\):\s+u2\n", out)
    assert "differing in rejected rows: plan 1, address.city 1" in out


@pytest.mark.parametrize("width", [40, 80])
def test_nothing_is_cut_at_the_edge_of_the_window(
    retl: Retl, monkeypatch: pytest.MonkeyPatch, width: int
) -> None:
    """Lines are folded at the width of the window, and hold all that the call has."""
    whole = retl("plan", "users")[1]
    monkeypatch.setenv("COLUMNS", str(width))

    folded = retl("plan", "users")[1]

    assert width >= max(map(len, folded.splitlines()))
    call = next(line for line in whole.splitlines() if line.startswith('    {"type"'))
    without_moment = re.sub(r',"timestamp.*', "", call)
    assert re.sub(r"\s", "", without_moment) in re.sub(r"\s", "", folded)


@pytest.mark.thorough
def test_a_guard_that_stops_is_shown_with_the_ways_on(retl: Retl, project: Path) -> None:
    """Each guard is shown with value, limit and outcome, and the one that stops with what lets it pass."""
    retl("run", "users")
    edit(project / "syncs/users.yml", "identify:", "guards: {changed: 2}\nidentify:")
    edit(project / "data/users.csv", "free", "pro")

    code, out, _ = retl("plan", "users")

    assert (4, True) == (code, "  guard changed  stops: 6 of 6 (limit 2)\n" in out)
    assert "  guard removed  ok: 0 of 6 (limit 20%)\n" in out
    assert "  → if this is right: retl run syncs/users.yml --force changed, once\n" in out
    assert {"stops"} == {one["outcome"] for one in planned(retl, "users")["guards"] if one["tripped"]}
    code, out, _ = retl("plan", "users", "--force", "changed")
    assert (0, True, False) == (code, "guard changed  forced: 6 of 6 (limit 2)" in out, "→ if" in out)


@pytest.mark.thorough
@pytest.mark.rule("E4")
def test_an_edit_is_told_with_the_command_that_repairs(retl: Retl, project: Path) -> None:
    """A plan says what an edit sends, what it does not, and which command sends that to every row."""
    retl("run", "users")
    edit(project / "syncs/users.yml", "plan: plan", "plan: plan, town: city, shop: {value: a}")

    _, out, _ = retl("plan", "users", "--force", "changed")

    assert "  the sync was edited; sent for it: `town` is new and differs in 6 rows\n" in out
    assert (
        "  the sync was edited; no row is sent for `shop`, but with its next change, or with --full\n" in out
    )
    assert "  → to send it to every row now: retl run syncs/users.yml --full\n" in out


@pytest.mark.thorough
def test_a_plan_can_wait_for_a_run(retl: Retl, project: Path, clock: Any) -> None:
    """With --wait a plan waits for a run of its sync to end, until the deadline; without, it does not."""
    retl("run", "users")
    with hold(project / "state/users.file.duckdb", clock.now()):
        assert (5, True) == ((told := retl("plan", "users"))[0], "use --wait" in told[2])
        code, _, err = retl("plan", "users", "--wait", "--deadline", "0s")
        assert (5, True) == (code, "give it more time with --deadline" in err)
    assert 0 == retl("plan", "users", "--wait")[0]


EXPORTED = ["change", "key", "type", "event", "user_id", "message_id", "timestamp", "reason", "call"]


@pytest.mark.thorough
@pytest.mark.parametrize("name", ["calls.parquet", "calls.csv", "calls.jsonl"])
def test_all_calls_of_a_plan_go_to_a_file(retl: Retl, project: Path, name: str) -> None:
    """The file has a line for each call, with the ids and the texts that the run then sends."""
    retl("run", "users")
    edit(project / "models/users.sql", "*", "* REPLACE ('{\n\"n\": 12345678901234567890.10}'::JSON AS plan)")
    edit(project / "syncs/users.yml", "user_id: user_id\n", "user_id: user_id\n  timestamp: joined\n")
    edit(project / "models/users.sql", " FROM", ", if(user_id = 'u2', 'soon', '2026-03-01') AS joined FROM")

    code, _, err = retl("plan", "users", "--out", name, "--force", "changed")
    before = {one.name for one in project.iterdir()}
    sent = (project / "calls.ndjson").read_text().splitlines()
    retl("run", "users", "--force", "changed")

    assert (0, "") == (code, err)
    with duckdb.connect() as db:
        rows = db.sql(f"FROM '{project / name}' ORDER BY key")
        assert EXPORTED == rows.columns
        found = rows.fetchall()
    assert [("changed", f"u{n}", "identify", None, f"u{n}") for n in range(1, 7)] == [
        one[:5] for one in found
    ]
    assert [None, "bad_timestamp", *[None] * 4] == [one[7] for one in found]
    calls = (project / "calls.ndjson").read_text().splitlines()[len(sent) :]
    assert [json.loads(call)["messageId"] for call in calls] == [one[5] for one in found if not one[7]]
    if name != "calls.jsonl":  # there it is an object, whose line breaks are spaces
        assert calls == [one[8].replace("\n", " ") for one in found if not one[7]]
    else:
        lines = (project / name).read_text().splitlines()
        assert calls == [json_of_call(line) for line in lines if '"reason":null' in line]
    assert 0o600 == (project / name).stat().st_mode & 0o777
    assert {one.name for one in project.iterdir()} == before


def json_of_call(line: str) -> str:
    """The text of the call in a line of an exported file, which ends with it."""
    return line.partition('"call":')[2].removesuffix("}")


@pytest.mark.thorough
def test_ids_that_will_be_others_are_not_exported(retl: Retl, project: Path) -> None:
    """Before the first run the ids are not known, as the state makes them its own; ids of the rows are."""
    retl("plan", "users", "--out", "made.csv")
    edit(project / "syncs/users.yml", "user_id: user_id\n", "user_id: user_id\n  message_id: email\n")
    retl("plan", "users", "--out", "own.csv")

    with duckdb.connect() as db:
        ids = [db.sql(f"SELECT min(message_id) FROM '{name}.csv'").fetchall() for name in ("made", "own")]
    assert [[(None,)], [("u1@x.com",)]] == ids


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["users", "--out", "calls.xml"], 2, "does not end in one of .parquet, .csv, .jsonl"),
        (["syncs/", "--out", "calls.csv"], 2, "--out needs a name with {sync} in it"),
        (["users", "--out", "no/such/calls.csv"], 2, "no/such/calls.csv"),
    ],
)
def test_a_file_that_cannot_take_the_calls_is_refused(
    retl: Retl, arguments: list[str], code: int, said: str
) -> None:
    """A format that is not known, one file for several syncs, and a missing folder are errors."""
    ended, _, err = retl("plan", *arguments)

    assert (code, True) == (ended, said in err)


@pytest.mark.thorough
def test_an_error_among_several_syncs_names_its_sync(retl: Retl, project: Path) -> None:
    """Of several syncs, each that cannot be planned is named with its error, and the others are planned."""
    edit(project / "syncs/members.yml", "data/users.csv", "data/members.csv")

    code, out, err = retl("plan", "syncs/")

    assert 3 == code or 2 == code
    assert "members: error: " in err
    assert "users: 6 rows read" in out


@pytest.mark.thorough
def test_several_syncs_have_a_file_each(retl: Retl, project: Path) -> None:
    """`{sync}` in the name of the file stands for the name of the sync."""
    assert 0 == retl("plan", "syncs/", "--initial-backfill", "--out", "{sync}.calls.jsonl")[0]

    for sync in ("users", "members"):
        assert 6 == len((project / f"{sync}.calls.jsonl").read_text().splitlines())


def test_the_json_of_a_plan_is_that_of_the_docs(retl: Retl, project: Path) -> None:
    """docs/plan.md names each member of the JSON object and each column of a file of calls, no other."""
    page = (Path(__file__).parent.parent / "docs/plan.md").read_text(encoding="utf-8")
    columns, members = (
        [
            name
            for row in re.findall(r"^\| (`[^|]*)\|", part, re.MULTILINE)
            for name in re.findall(r"`(\w+)`", row)
        ]
        for part in re.split(r"^## ", page, flags=re.MULTILINE)[2:4]
    )

    assert sorted(planned(retl, "users")) == sorted(members)
    assert EXPORTED == columns


def tables(markdown: str) -> list[list[list[str]]]:
    """The tables of a Markdown text as a renderer reads them: the cells of each row, as plain text."""
    found: list[list[list[str]]] = []
    for token in MarkdownIt("commonmark").enable("table").parse(markdown):
        if token.type == "table_open":
            found.append([])
        elif token.type == "tr_open":
            found[-1].append([])
        elif token.type == "inline" and token.level == 3 + 1:
            found[-1][-1].append("".join(one.content for one in token.children or []))
    return found


ODD = "l|t`v *@octocat* <b>"
"""A name that Markdown would take for its own."""


@pytest.mark.thorough
def test_markdown_is_tables_that_hide_values(retl: Retl, project: Path) -> None:
    """Markdown has tables of rows, differences, rejections and guards, whatever names hold; no value."""
    edit(project / "syncs/users.yml", "plan: plan", json.dumps(ODD) + ": plan")
    retl("run", "users")
    edit(project / "data/users.csv", "u2,u2@x.com,free", "u2,secret@x.com,pro")
    edit(project / "data/users.csv", "u3,", "u4,")

    code, out, _ = retl("plan", "users", "--format", "markdown")

    assert 0 == code
    rows, differs, rejected, guards = tables(out)
    assert ["changed", "1", "1 identify"] in rows
    assert ["rejected", "2", "not sent"] in rows
    assert [ODD, "1", "0"] in differs
    assert ["duplicate_key", "2", "several rows share the primary key"] in rejected
    assert ["changed", "1 of 6 (limit 50%)", "✅ ok"] in guards
    assert "<!-- retl plan users -->\n" == out[:25]
    assert not re.search(r"secret|x\.com|pro\b|u2", out)
    shown = retl("plan", "users", "--format", "markdown", "--show-values")[1]
    assert "**changed** `u2` → `identify`" in shown
    assert "- `email: u2@x.com → secret@x.com`" in shown


@pytest.mark.thorough
def test_markdown_shows_guards_that_stop_and_errors(retl: Retl, project: Path) -> None:
    """A comment says what stops a sync, with the way on, and why another could not be planned."""
    retl("run", "users")
    edit(project / "data/users.csv", USERS, USERS.splitlines()[0] + "\n")
    (project / "syncs/broken.yml").write_text("model: nothing\n" + ORDERS.partition("\n")[2])

    code, out, _ = retl("plan", "users", "broken", "--format", "markdown")

    assert 4 == code
    assert ["min_rows", "0 (1 or more)", "❌ stops"] in tables(out)[1]
    assert "- if this is right: retl run syncs/users.yml --force min_rows, once" in out
    assert "### retl plan: `broken`\n\n❌ syncs/broken.yml:1 model: there is no models/nothing.sql" in out


def test_options_that_do_nothing_are_refused(retl: Retl) -> None:
    """--show-values is for Markdown, which is not JSON."""
    assert 2 == retl("plan", "users", "--show-values")[0]
    assert 2 == retl("plan", "users", "--json", "--format", "markdown")[0]
