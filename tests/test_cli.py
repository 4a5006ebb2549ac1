"""What users type, and what they get: output, exit codes, and a state that errors leave alone."""

import io
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb
import pytest
import urllib3
from harness import Retl, runner

from retl.cli.commands import COMMANDS, command_of
from retl.cli.main import cli, execute
from retl.lock import hold
from retl.sandbox.failures import Reply
from retl.sandbox.server import Sandbox

ROOT = Path(__file__).parent.parent
USERS = "user_id,email,city,seen_at\nu1,a@x.com,Berlin,2026-01-01\nu2,b@x.com,Paris,2026-01-02\n"
SYNC = """\
model: users
primary_key: user_id
identify:
  user_id: user_id
  traits:
    email: email
    city: city
"""


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    """A local Segment."""
    with Sandbox(unknown_keys={"unknown"}) as sandbox:
        yield sandbox


@pytest.fixture
def project(tmp_path: Path, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with a users sync that goes to the sandbox; the working folder of the test."""
    for folder in ("models", "syncs", "data"):
        (tmp_path / folder).mkdir()
    (tmp_path / "models/users.sql").write_text("SELECT *\nFROM read_csv('data/users.csv')\n")
    (tmp_path / "data/users.csv").write_text(USERS)
    (tmp_path / "syncs/users.yml").write_text(SYNC)
    settings = {"endpoint": sandbox.url, "events_per_second": 0}
    (tmp_path / "retl.yml").write_text(f'warehouse: "duckdb://"\nsegment: {json.dumps(settings)}\n')
    (tmp_path / ".env").write_text("SEGMENT_WRITE_KEY=key\n")
    for name in (
        "COLUMNS",
        "SEGMENT_WRITE_KEY",
        "RETL_WAREHOUSE_URL",
        "RETL_STATE_DIR",
        "RETL_EXPECT_STATE",
        "RETL_LOG_LEVEL",
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def retl(project: Path, capsys: pytest.CaptureFixture[str]) -> Retl:
    """Runs a command in the project; gives exit code, stdout and stderr."""
    return runner(capsys)


def record(retl: Retl, *arguments: str) -> dict[str, Any]:
    """The JSON object of a run of the users sync."""
    code, out, _ = retl("run", "users", "--json", *arguments)
    found: dict[str, Any] = json.loads(out)
    assert found["exit_code"] == code
    return found


def contents(path: Path) -> dict[str, Any]:
    """What a state file holds, without the records of runs."""
    with duckdb.connect(":memory:") as db:
        db.execute(f"ATTACH '{path}' AS state (READ_ONLY)")
        tables = ("metadata", "snapshot", "outbox", "mark", "rejected_row", "rejected_call")
        return {
            table: db.sql(f"SELECT * FROM state.{table} ORDER BY ALL").to_arrow_table().to_pylist()
            for table in tables
        }


def write(path: Path, old: str, new: str) -> None:
    """Change a file as a user would."""
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


BAD_FILES: list[tuple[str, str, str, str, int, str]] = [
    (
        "an unknown key",
        "syncs/users.yml",
        "traits:",
        "tarits:",
        2,
        "error: syncs/users.yml:5 identify.tarits: unknown key `tarits`; did you mean `traits`?\n",
    ),
    (
        "a missing model",
        "syncs/users.yml",
        "model: users",
        "model: user",
        2,
        "error: syncs/users.yml:1 model: there is no models/user.sql; did you mean `users`?\n",
    ),
    (
        "an unset variable",
        "retl.yml",
        '"duckdb://"',
        '"${WAREHOUSE}"',
        2,
        "error: retl.yml:1 warehouse: WAREHOUSE is not set\n  → set it in the environment or in .env\n",
    ),
    (
        "no id",
        "syncs/users.yml",
        "  user_id: user_id\n",
        "",
        2,
        "error: syncs/users.yml:3 identify: needs a `user_id` or an `anonymous_id`, so that Segment knows "
        "whom it is about\n",
    ),
    (
        "two kinds in one file",
        "syncs/users.yml",
        "identify:",
        "track: {user_id: user_id, added: Signed Up}\nidentify:",
        2,
        "error: syncs/users.yml:4 identify: two kinds in one file: track (line 3) and identify (line 4); "
        "keep one and put the other in a file of its own\n",
    ),
    (
        "a mapped column that the model lacks",
        "syncs/users.yml",
        "email: email",
        "email: emial",
        2,
        "error: syncs/users.yml:6 identify.traits.email: model users has no column `emial`; it has: user_id, "
        "email, city, seen_at\n  → did you mean `email`?\n",
    ),
    (
        "a key column that the model lacks",
        "models/users.sql",
        "SELECT *",
        "SELECT email, city",
        2,
        "error: syncs/users.yml:2 primary_key: model users has no column `user_id`; it has: email, city\n",
    ),
    (
        "an SQL error",
        "models/users.sql",
        "'data/users.csv'",
        "'data/users.csv') WHERE plan = (1",
        2,
        'error: models/users.sql:2: model users: Binder Error: Referenced column "plan" not found',
    ),
    (
        "an unreachable warehouse",
        "retl.yml",
        "duckdb://",
        "duckdb:///data/shop.duckdb",
        3,
        "error: duckdb:///data/shop.duckdb: ",
    ),
]


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("file", "old", "new", "code", "message"),
    [pytest.param(*case[1:], id=case[0].replace(" ", "-")) for case in BAD_FILES],
)
def test_a_bad_file_is_one_clear_error_and_leaves_state_alone(
    retl: Retl, project: Path, sandbox: Sandbox, file: str, old: str, new: str, code: int, message: str
) -> None:
    """What is wrong in a file is said with its place and what to do, and changes and sends nothing."""
    assert retl("run", "users")[0] == 0
    before, sent = contents(project / "state/users.duckdb"), len(sandbox.accepted)
    write(project / file, old, new)

    exit_code, out, err = retl("run", "users")

    assert (code, "") == (exit_code, out)
    assert message in err
    assert before == contents(project / "state/users.duckdb")
    assert sent == len(sandbox.accepted)


@pytest.mark.thorough
def test_duplicate_and_null_keys_are_rejected_rows(retl: Retl, project: Path) -> None:
    """Rows without a key, and all rows that share one, are rejected with exit code 1; the others go on."""
    (project / "data/users.csv").write_text(USERS + "u2,c@x.com,Rome,2026-01-03\n,d@x.com,Oslo,2026-01-04\n")

    run = record(retl)

    assert (1, "partial") == (run["exit_code"], run["status"])
    assert {"duplicate_key": 2, "null_key": 1} == run["rejected_by"]
    assert (4, 1, 3) == (run["rows_read"], run["added"], run["rejected_rows"])
    code, out, _ = retl("rejected", "users")
    assert code == 0
    assert "several rows share the primary key" in out


def test_keys_that_tell_no_rows_apart_are_named_as_the_cause(retl: Retl, project: Path) -> None:
    """Where no row has a key of its own, the error points at the primary key and offers no --force."""
    write(project / "models/users.sql", "SELECT *", "SELECT 1 AS user_id, email, city")

    code, _, err = retl("run", "users")

    assert code == 4
    assert "error: syncs/users.yml:2 primary_key: the model gave 2 rows, of which 2 have a key" in err
    assert "--force" not in err


def test_a_row_without_an_id_is_rejected(retl: Retl, project: Path) -> None:
    """A row whose ids are null is rejected as no_id."""
    write(project / "syncs/users.yml", "user_id: user_id", "user_id: city")
    (project / "data/users.csv").write_text(USERS + "u3,c@x.com,,2026-01-03\n")

    assert {"no_id": 1} == record(retl)["rejected_by"]


@pytest.mark.thorough
def test_the_same_again_sends_nothing(retl: Retl, sandbox: Sandbox) -> None:
    """A second run over the same rows says so, and sends nothing."""
    assert retl("run", "users")[1].startswith("users: 2 rows read, 2 added → 2 calls delivered (")

    code, out, _ = retl("run", "users")

    assert code == 0
    assert out.startswith("users: 2 rows read, no changes, nothing sent (")
    assert len(sandbox.accepted) == 2


def test_json_has_every_key_of_its_contract(retl: Retl) -> None:
    """`--json` prints one object with the documented keys, and nothing else on stdout."""
    run = record(retl)

    assert [
        *(
            "sync",
            "run_id",
            "status",
            "exit_code",
            "started_at",
            "seconds",
            "baseline",
            "full",
            "resumed_full",
            "rows_read",
            "unchanged",
        ),
        *(
            "added",
            "changed",
            "removed",
            "rejected_rows",
            "rejected_by",
            "calls",
            "batches",
            "bytes",
            "retries",
        ),
        *("guards", "violations", "marked", "retry", "error"),
    ] == list(run)
    counts = {"enqueued": 2, "delivered": 2, "rejected": 0, "pending": 0, "unsure": 0, "undated": 0}
    assert counts == run["calls"]
    assert {"name", "limit", "value", "tripped", "forced"} == set(run["guards"][0])


def test_json_of_a_failed_run_has_nulls_and_the_error(retl: Retl, project: Path) -> None:
    """Where a run did not get so far, its counts are null and its error has code, message and hint."""
    write(project / "models/users.sql", "SELECT *", "SELECT nope")

    run = record(retl)

    assert ("failed", None, None) == (run["status"], run["rows_read"], run["calls"]["enqueued"])
    assert run["error"]["code"] == "model"
    assert run["error"]["message"].startswith("models/users.sql:1: model users: ")


@pytest.mark.thorough
def test_an_empty_result_over_a_full_snapshot_stops(retl: Retl, project: Path, sandbox: Sandbox) -> None:
    """A model that suddenly gives no rows stops with exit code 4, and says both ways to let it pass."""
    retl("run", "users")
    before = contents(project / "state/users.duckdb")
    (project / "data/users.csv").write_text("user_id,email,city,seen_at\n")

    code, _, err = retl("run", "users")

    assert code == 4
    assert "the model gave 0 rows, and the limit is 1 or more" in err
    assert "→ look with retl plan syncs/users.yml; if this is right: retl run" in err
    assert "--force min_rows" in err
    assert "guards: {min_rows: 0}" in err
    assert before == contents(project / "state/users.duckdb")
    assert record(retl, "--force", "min_rows")["removed"] == 2


@pytest.mark.thorough
@pytest.mark.rule("L2")
def test_an_unreachable_segment_leaves_the_calls_pending(retl: Retl, project: Path, sandbox: Sandbox) -> None:
    """Where Segment cannot be reached a run ends with exit code 3, and keeps what was left over."""
    with Sandbox() as gone:
        write(project / "retl.yml", sandbox.url, gone.url)
        gone.script([Reply(status=401)])
        assert record(retl)["calls"]["pending"] == 2

    run = record(retl, "--deadline", "1s")

    assert (3, 2, 0) == (run["exit_code"], run["calls"]["pending"], run["calls"]["delivered"])
    assert "run it again" in run["error"]["hint"]
    assert run["rows_read"] is None, "what is left over is delivered before reading"


@pytest.mark.thorough
@pytest.mark.rule("L4")
def test_left_over_calls_go_first(retl: Retl, sandbox: Sandbox) -> None:
    """Calls that a run could not deliver leave with the next one, under the same message ids."""
    sandbox.script([Reply(status=401)])
    refused = record(retl)
    assert (2, 2) == (refused["exit_code"], refused["calls"]["pending"])
    ids = [call["messageId"] for call in sandbox.requests[-1].parsed["batch"]]

    run = record(retl)

    assert (0, 2, 0) == (run["exit_code"], run["calls"]["delivered"], run["calls"]["enqueued"])
    assert ids == [call["messageId"] for call in sandbox.accepted]


@pytest.mark.rule("G12")
def test_a_state_held_by_another_run_is_left_alone(retl: Retl, project: Path, sandbox: Sandbox) -> None:
    """The second run of a sync exits with 5 and names the first; --skip-if-running makes that a 0."""
    with hold(project / "state/users.duckdb", datetime.now(UTC)):
        code, _, err = retl("run", "users")
        skipped, out, _ = retl("run", "users", "--skip-if-running")

    assert code == 5
    assert f"pid {os.getpid()} on {socket.gethostname()}" in err
    assert "use --wait or --skip-if-running" in err
    assert (0, "") == (skipped, out)
    assert sandbox.accepted == []


@pytest.mark.parametrize("text", ["", "not a database"])
def test_a_state_file_that_is_none_is_refused(retl: Retl, project: Path, text: str) -> None:
    """A file in the state's place that retl did not make is refused with exit code 2, and left as it is."""
    (project / "state").mkdir()
    (project / "state/users.duckdb").write_text(text)

    code, _, err = retl("run", "users")

    assert code == 2
    assert "users.duckdb: this" in err
    assert text == (project / "state/users.duckdb").read_text()


@pytest.mark.rule("G10")
def test_a_missing_state_can_be_refused(retl: Retl, project: Path) -> None:
    """With --expect-state a missing state file stops the run with exit code 4, and none is made."""
    assert record(retl, "--expect-state")["exit_code"] == 4
    assert not (project / "state/users.duckdb").exists()


@pytest.mark.thorough
@pytest.mark.rule("G9")
def test_a_swapped_write_key_is_refused_until_rekey(
    retl: Retl, project: Path, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another write key stops the run with exit code 2 until rekey says that it is the same source."""
    retl("run", "users")
    (project / ".env").write_text("SEGMENT_WRITE_KEY=another\n")

    code, _, err = retl("run", "users")
    assert code == 2
    assert "retl rekey" in err
    assert "another" not in err.replace("another than in the last run", "").replace("another source", "")

    monkeypatch.setattr("sys.stdin", io.StringIO("n\n"))  # the answer of whoever is asked
    code, _, err = retl("rekey", "users")
    assert code == 2
    first, second = re.findall(rf"(?:from|to) {sandbox.url}, write key #([0-9a-f]{{8}})\n", err)
    assert first != second
    assert "2 rows of the snapshot count as known there" in err
    assert retl("run", "users")[0] == 2

    assert retl("rekey", "users", "--yes")[0] == 0
    assert retl("rekey", "users")[1] == "users: there is nothing to rekey; the next run goes on\n"
    assert record(retl)["unchanged"] == 2
    assert len(sandbox.accepted) == 2


@pytest.mark.thorough
@pytest.mark.rule("G9")
def test_a_first_write_key_that_never_worked_is_replaced(retl: Retl, project: Path, sandbox: Sandbox) -> None:
    """Where no call was ever accepted, the right key needs no rekey; the run says what it did."""
    for key in ("wrong", "wrong too"):
        (project / ".env").write_text(f"SEGMENT_WRITE_KEY={key}\n")
        sandbox.script([Reply(status=401)])
        assert record(retl)["calls"]["pending"] == 2
    (project / ".env").write_text("SEGMENT_WRITE_KEY=right\n")

    code, _, err = retl("run", "users")

    assert (0, 2) == (code, len(sandbox.accepted))
    assert "the first write key or endpoint never took a call" in err
    (project / ".env").write_text("SEGMENT_WRITE_KEY=another\n")
    assert retl("run", "users")[0] == 2


@pytest.mark.thorough
def test_a_silent_baseline_says_why_and_what_sends(retl: Retl, project: Path, sandbox: Sandbox) -> None:
    """A first run that sends nothing says why, and the command that sends the rows; so does its plan."""
    write(project / "syncs/users.yml", "identify:", "track:\n  added: Seen")
    write(project / "syncs/users.yml", "traits:", "properties:")

    plan, run = retl("plan", "users")[1], retl("run", "users")[1]

    assert "→ to send the rows of today, too: retl run syncs/users.yml --initial-backfill\n" in plan
    assert "a first run remembers the rows here; later ones send what changed" in run
    assert "→ to send the rows of today, too: retl run users --full\n" in run
    assert 0 == len(sandbox.accepted)
    assert "--full" not in retl("run", "users")[1]
    assert 0 == retl("run", "users", "--full", "--yes")[0]
    assert 2 == len(sandbox.accepted)


@pytest.mark.rule("G9")
def test_a_write_key_that_may_have_worked_is_not_replaced(
    retl: Retl, project: Path, sandbox: Sandbox
) -> None:
    """Where nothing was sent, or a call went out without an answer, another key may be another source."""
    write(project / "syncs/users.yml", "identify:", "track:\n  added: Seen")
    write(project / "syncs/users.yml", "traits:", "properties:")
    assert record(retl)["baseline"]
    (project / ".env").write_text("SEGMENT_WRITE_KEY=another\n")
    assert retl("run", "users")[0] == 2

    (project / ".env").write_text("SEGMENT_WRITE_KEY=key\n")
    (project / "data/users.csv").write_text(USERS + "u3,c@x.com,Rome,2026-01-03\n")
    sandbox.script([Reply(lost=True), Reply(status=401)])
    assert record(retl)["calls"]["pending"] == 1
    (project / ".env").write_text("SEGMENT_WRITE_KEY=another\n")
    assert retl("run", "users")[0] == 2


@pytest.mark.thorough
@pytest.mark.rule("G11")
def test_after_a_rehearsal_by_endpoint_rekey_is_not_the_way(
    retl: Retl, project: Path, sandbox: Sandbox
) -> None:
    """Calls to this machine are said to count as sent; the endpoint that comes later gets a first pass."""
    assert f"calls go to {sandbox.url} on this machine, and count as sent" in retl("run", "users")[2]
    local = (project / "retl.yml").read_text()
    write(project / "retl.yml", sandbox.url, "https://segment.invalid")

    code, _, err = retl("run", "users")

    assert code == 2
    assert "went to this machine alone" in err
    assert "retl reset" in err
    assert "rekey" not in err
    retl("reset", "users", "--yes")
    (project / "retl.yml").write_text(local.replace("}", ', "name": "other"}'))
    assert "this machine" not in retl("run", "users")[2]
    assert (project / "state/users.other.duckdb").exists()


@pytest.mark.thorough
def test_after_a_reset_the_sync_may_have_another_destination(
    retl: Retl, project: Path, sandbox: Sandbox
) -> None:
    """A reset forgets the destination, too, unless calls wait that are for it."""
    sandbox.script([Reply(status=401)])
    retl("run", "users")
    assert "2 calls of an earlier run still go to the same destination" in retl("reset", "users", "--yes")[1]
    retl("run", "users")
    (project / ".env").write_text("SEGMENT_WRITE_KEY=another\n")
    assert retl("run", "users")[0] == 2
    retl("reset", "users", "--yes")
    assert retl("run", "users")[0] == 0


@pytest.mark.thorough
@pytest.mark.rule("D5")
def test_reset_makes_the_next_run_a_first_pass_with_new_ids(retl: Retl, sandbox: Sandbox) -> None:
    """After a reset every row is sent again, under message ids that Segment does not know."""
    retl("run", "users")
    assert (
        "2 rows forgotten; the next run is a first pass, which sends every row"
        in retl("reset", "users", "--yes")[1]
    )

    assert record(retl)["added"] == 2
    assert len({call["messageId"] for call in sandbox.accepted}) == 4
    assert sandbox.duplicates == []


@pytest.mark.thorough
@pytest.mark.rule("K12", "D5")
def test_full_sends_every_row_again_and_says_so(retl: Retl, sandbox: Sandbox) -> None:
    """`--full --yes` sends rows that did not change under new ids, and counts them as unchanged."""
    retl("run", "users")
    planned = retl("plan", "users", "--full")[1]
    code, out, _ = retl("run", "users", "--full", "--yes")

    assert "  =  2  unchanged  → 2 identify" in planned
    assert (0, True) == (code, out.startswith("users: 2 rows read, no changes, all sent again → 2 calls"))
    assert (4, 0) == (len(sandbox.accepted), len(sandbox.duplicates))


UNSENT = [
    ("city: city\n    shop: {value: s}", ["shop"]),
    ("city: {column: city, nulls: send}", ["city"]),
    ("city: {value: Berlin}", ["city"]),
    ("city: city\n  context: {ip: city}\n  integrations: {All: true}", ["context ip", "integrations All"]),
    ("city: city\nnulls: omit", ["nulls of the sync"]),
    ("city: city\ntimezone: Asia/Tokyo", ["timezone"]),
    ("city: city\n    seen: {column: seen_at, as: text}", []),
    ("city: city\n    seen: seen_at\non_new_column: baseline", ["seen"]),
    ("city: seen_at\n    email2: email", []),
    ("other: city\n  removed: {traits: {gone: {value: true}}}", []),
    ("city: city\n    seen: seen_at\ncompare: email", ["seen"]),
]
"""Edits of the traits of `SYNC`, and what no row is sent for because of each."""


@pytest.mark.thorough
@pytest.mark.rule("E4")
def test_an_edit_that_sends_nothing_is_named(retl: Retl, project: Path) -> None:
    """Plan and run name what an edit does not send, the run once, and nothing that they do send."""
    (project / "data/users.csv").write_text(USERS.replace("2026-01-01", "2026-01-01 10:00:00"))
    sync = SYNC.replace("email: email", "email: email\n    moment: seen_at")
    (project / "syncs/users.yml").write_text(sync)
    retl("run", "users")
    for traits, unsent in UNSENT:
        (project / "syncs/users.yml").write_text(sync.replace("city: city", traits))
        assert unsent == json.loads(retl("plan", "users", "--json")[1])["unsent"], traits

    sentence = "the sync was edited; no row is sent for `seen`, but with its next change, or with --full"
    assert sentence in retl("plan", "users")[1]
    assert [True, False] == [sentence in retl("run", "users")[2] for _ in range(2)]


@pytest.mark.thorough
@pytest.mark.rule("K17")
def test_a_full_run_that_failed_half_way_goes_on(retl: Retl, project: Path, sandbox: Sandbox) -> None:
    """The same command, typed again, sends the rest of the rows and none a second time, and says so."""
    rows = "".join(f"u{n},a@x.com,{'x' * 20_000},2026-01-01\n" for n in range(40))
    (project / "data/users.csv").write_text(USERS.splitlines()[0] + "\n" + rows)
    retl("run", "users")
    sandbox.script([Reply(), Reply(302)])

    code, out, _ = retl("run", "users", "--full", "--yes")
    left = 80 - len(sandbox.accepted)
    planned = retl("plan", "users", "--full")[1]
    again, _, said = retl("run", "users", "--full", "--yes")

    assert (3, 0) == (code, again)
    assert f"{left} calls pending; to go on, retl run users delivers them first" in out
    assert f"{left} calls of an earlier --full, which the next run completes" in planned
    assert "nothing would be sent" in planned
    assert f"the earlier --full goes on: {left} of its calls were left; nothing is sent again" in said
    assert [2] * 40 == list(Counter(call["userId"] for call in sandbox.accepted).values())
    assert sandbox.duplicates == []


@pytest.mark.rule("K15")
def test_full_asks_first(retl: Retl, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without `--yes`, `--full` sends only what a person confirms."""
    retl("run", "users")
    monkeypatch.setattr("sys.stdin", io.StringIO("n\n"))  # the answer of whoever is asked
    code, out, err = retl("run", "users", "--full")

    assert 2 == code
    assert "sends every current row again" in out + err
    assert 2 == len(sandbox.accepted)


@pytest.mark.thorough
def test_reset_asks_first(retl: Retl, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without --yes and without an answer, nothing is forgotten."""
    retl("run", "users")

    monkeypatch.setattr("sys.stdin", io.StringIO())  # nobody answers
    code, _, err = retl("reset", "users")

    assert code == 2
    assert "nothing was done" in err
    assert record(retl)["unchanged"] == 2


@pytest.mark.thorough
def test_plan_changes_nothing(retl: Retl, project: Path, sandbox: Sandbox) -> None:
    """A plan makes no state, sends nothing, and does not change a state that is there."""
    assert retl("plan", "users")[0] == 0
    assert not (project / "state").exists()
    retl("run", "users")
    before, sent = (project / "state/users.duckdb").read_bytes(), len(sandbox.accepted)
    write(project / "data/users.csv", "Paris", "Rome")

    code, out, _ = retl("plan", "users", "--json")

    plan = json.loads(out)
    assert (0, 1, {"city": 1}) == (code, plan["changed"], plan["changed_by"])
    assert [{"change": "changed", "name": "identify", "calls": 1}] == plan["calls"]
    assert before == (project / "state/users.duckdb").read_bytes()
    assert sent == len(sandbox.accepted)


def test_a_plan_shows_calls_digit_for_digit(retl: Retl, project: Path) -> None:
    """A sample is the text that would be sent, with every digit of a JSON column."""
    write(
        project / "models/users.sql",
        "SELECT *",
        "SELECT user_id, city, '{\"n\": 12345678901234567890.10}'::JSON AS email",
    )

    out = retl("plan", "users", "--samples", "1")[1]

    assert '"traits":{"email":{"n": 12345678901234567890.10},"city":"Berlin"},"timestamp":' in out


@pytest.mark.thorough
def test_a_plan_with_a_tripped_guard_exits_as_the_run_would(retl: Retl, project: Path) -> None:
    """A plan shows the guard that would stop the run, and exits with 4."""
    retl("run", "users")
    (project / "data/users.csv").write_text("user_id,email,city,seen_at\n")

    code, out, _ = retl("plan", "users")

    assert code == 4
    assert "guard min_rows stops: 0 (1 or more)" in out
    assert "→ if this is right: retl run syncs/users.yml --force min_rows, once" in out


@pytest.mark.rule("K16")
def test_limit_lets_a_canary_out(retl: Retl, sandbox: Sandbox) -> None:
    """With --limit so many calls leave now, and the rest with the next run."""
    run = record(retl, "--limit", "1")
    assert (0, 1, 1) == (run["exit_code"], run["calls"]["delivered"], run["calls"]["pending"])
    assert len(sandbox.accepted) == 1

    assert record(retl)["calls"]["pending"] == 0
    assert len(sandbox.accepted) == 2


@pytest.mark.thorough
def test_an_error_is_folded_in_a_terminal(retl: Retl, project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No line of an error and its hint is wider than the window, and the commands that it names are whole."""
    retl("run", "users")
    (project / "data/users.csv").write_text("user_id,email,city,seen_at\n")
    monkeypatch.setenv("COLUMNS", "80")

    _, out, err = retl("run", "users")

    report = err[err.index("error:") :]
    assert max(map(len, [*out.splitlines(), *report.splitlines()])) <= 80
    assert "retl run syncs/users.yml --force min_rows, once" in err


@pytest.mark.thorough
def test_hints_of_a_rehearsal_stay_with_the_rehearsal(retl: Retl, project: Path) -> None:
    """A command that a hint names repeats --sandbox and --state-dir, so that it cannot hit the real state."""
    arguments = ("run", "users", "--sandbox", "--state-dir", "elsewhere")
    retl(*arguments)
    write(project / "syncs/users.yml", "user_id: user_id", "user_id: email")

    _, _, err = retl(*arguments)

    assert "retl reset users --sandbox --state-dir elsewhere;" in err


@pytest.mark.thorough
def test_a_run_that_was_cut_off_is_not_called_a_success(project: Path, retl: Retl, sandbox: Sandbox) -> None:
    """After a kill -9 in the middle, status says interrupted, with the calls that are pending."""
    sandbox.script([Reply(status=503, retry_after=300)])
    with start(project, "run", "users") as process:
        assert process.stderr is not None
        while "again in" not in (line := process.stderr.readline()):
            assert line, "the run ended by itself"
        process.kill()

    status = json.loads(retl("status", "users", "--json")[1])
    assert ("interrupted", None, 2) == (status["status"], status["exit_code"], status["pending"])


@pytest.mark.thorough
@pytest.mark.rule("L4")
def test_pending_calls_leave_though_the_warehouse_is_out_of_reach(
    retl: Retl, project: Path, sandbox: Sandbox
) -> None:
    """What an earlier run left over is delivered before anything is read; the failure is on record."""
    record(retl, "--limit", "1")
    write(project / "retl.yml", "duckdb://", "duckdb:///data/none.duckdb")

    run = record(retl)

    assert (3, 1, 0) == (run["exit_code"], run["calls"]["delivered"], run["calls"]["pending"])
    assert len(sandbox.accepted) == 2
    assert json.loads(retl("status", "users", "--json")[1])["exit_code"] == 3


@pytest.mark.thorough
def test_words_of_the_data_are_no_markup(retl: Retl, project: Path) -> None:
    """Keys and event names with square brackets are shown as they are."""
    (project / "data/users.csv").write_text(USERS + "[/b],a@x.com,Rome,2026-01-03\n" * 2)
    retl("run", "users")

    code, out, _ = retl("rejected", "users")

    assert code == 0
    assert "[/b]" in out


@pytest.mark.thorough
@pytest.mark.rule("E9")
def test_a_renamed_sync_starts_anew(retl: Retl, project: Path, sandbox: Sandbox) -> None:
    """Another `name` is another sync: with a state, and message ids, of its own."""
    retl("run", "users")
    write(project / "syncs/users.yml", "model: users", "name: people\nmodel: users")

    assert "people: 2 rows read, 2 added" in retl("run", "users")[1]
    assert (4, 4) == (len(sandbox.accepted), len({call["messageId"] for call in sandbox.accepted}))


@pytest.fixture
def twin(project: Path) -> Path:
    """A second project beside the first one's files, with a sync of the same name and other rows."""
    twin = project / "twin"
    for name in ("models", "syncs", "data"):
        shutil.copytree(project / name, twin / name)
    for name in ("retl.yml", ".env"):
        shutil.copy(project / name, twin)
    (twin / "data/users.csv").write_text(USERS.replace("u1", "v1"))
    return twin


@pytest.mark.thorough
@pytest.mark.rule("E14")
def test_two_sync_files_do_not_share_a_state(
    retl: Retl, project: Path, twin: Path, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sync of another project, or of another folder, that has the same name does not get the state."""
    shared = ("--state-dir", str(project / "shared"))
    (project / "syncs/more").mkdir()
    shutil.copy(project / "syncs/users.yml", project / "syncs/more")
    assert retl("run", "users", *shared)[0] == 0
    before = contents(project / "shared/users.duckdb")

    for command in ("run", "plan", "status", "rejected", "reset"):
        code, _, err = retl(command, "twin/syncs/users.yml", *shared)
        assert (2, True) == (code, f"{project}/syncs/users.yml uses this state too" in err)
        assert f"as that of {twin}/syncs/users.yml" in err
    assert "uses this state too" in retl("run", "syncs/more/users.yml", *shared)[2]
    assert before == contents(project / "shared/users.duckdb")
    assert len(sandbox.accepted) == 2

    retl("run", "users", *shared, "--sandbox")
    code, _, err = retl("run", "twin/syncs/users.yml", *shared, "--sandbox")
    assert (2, False) == (code, "rekey" in err)

    assert (
        f"in the place of {project}/syncs/users.yml"
        in (retl("rekey", "twin/syncs/users.yml", *shared, "--yes")[2])
    )
    assert retl("run", "twin/syncs/users.yml", *shared)[0] == 0
    assert retl("run", "users", *shared)[0] == 2


@pytest.mark.rule("E14")
def test_a_project_may_be_moved_and_copied(
    retl: Retl, project: Path, twin: Path, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A state goes with its project; one elsewhere goes to the only file that has the name still."""
    twin.rename(project / "b")
    monkeypatch.chdir(project / "b")
    shared = ("--state-dir", "../../states")
    assert retl("run", "users")[0] == retl("run", "users", *shared)[0] == 0
    shutil.copytree(project / "b", project / "copy")
    monkeypatch.chdir(project / "copy")
    assert retl("run", "users")[0] == 0
    assert retl("run", "users", *shared)[0] == 2
    (project / "b/syncs/users.yml").rename(project / "b/syncs/people.yml")
    assert retl("run", "users", *shared)[0] == 0
    (project / "link").symlink_to(project / "copy")
    assert retl("run", str(project / "link/syncs/users.yml"), *shared)[0] == 0
    assert len(sandbox.accepted) == 4


@pytest.mark.rule("E9")
@pytest.mark.parametrize("written", ["name: users", "name: 'users'  # theirs"])
def test_a_file_with_the_name_of_another_is_refused(
    retl: Retl, project: Path, sandbox: Sandbox, written: str
) -> None:
    """A sync whose name another file of the folder has too does not get that one's state."""
    (project / "syncs/others.yml").write_text(f"{written}\n{SYNC}")
    (project / "syncs/broken.yml").write_text("name: [users\ntrack:\n")
    (project / "syncs/compose.yml").write_text("name: others\nservices: {}\n")

    code, _, err = retl("run", "others")
    assert (2, True) == (code, "the name `users` is that of syncs/users.yml too" in err)
    code, _, err = retl("run", "users")
    assert (2, True) == (code, "the name `users` is that of syncs/others.yml too" in err)
    assert [] == sandbox.accepted


@pytest.mark.thorough
def test_several_syncs_run_one_after_another(retl: Retl, project: Path, sandbox: Sandbox) -> None:
    """A sync that fails does not stop the next, and the highest exit code wins."""
    (project / "syncs/a_broken.yml").write_text(SYNC.replace("model: users", "sql: SELECT nope"))
    (project / "syncs/b_wrong.yml").write_text(SYNC.replace("traits:", "tarits:"))

    code, out, err = retl("run", "syncs", "--json")

    assert code == 2
    assert [("a_broken", 2), ("b_wrong", 2), ("users", 0)] == [
        (run["sync"], run["exit_code"]) for run in map(json.loads, out.splitlines())
    ]
    assert len(sandbox.accepted) == 2
    assert "a_broken: error: syncs/a_broken.yml" in err
    assert "b_wrong: error: syncs/b_wrong.yml:5 identify.tarits: unknown key" in err
    assert "\nerror" not in retl("run", "b_wrong")[2]


@pytest.mark.thorough
def test_all_syncs_run_from_any_folder(
    retl: Retl, project: Path, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`--all` and the project folder mean every sync of the project, from any folder in it."""
    (project / "syncs/b.yml").write_text(SYNC)
    (project / "compose.yml").write_text("services: {}\n")
    monkeypatch.chdir(project / "models")

    assert ["b", "users"] == [
        json.loads(line)["sync"] for line in retl("run", "--all", "--json")[1].splitlines()
    ]
    assert ["b", "users"] == [
        json.loads(line)["sync"] for line in retl("plan", "..", "--json")[1].splitlines()
    ]
    for wrong in ([], ["--all", "users"]):
        code, _, err = retl("run", *wrong)
        assert (2, True) == (code, "take every sync with --all" in err)


@pytest.mark.thorough
def test_status_shows_what_is(retl: Retl, project: Path, sandbox: Sandbox) -> None:
    """Status tells a sync that never ran, one that ran, one with pending calls, and one under way."""
    assert json.loads(retl("status", "--json")[1])["status"] == "never"
    sandbox.script([Reply(status=401)])
    retl("run", "users")
    failed = json.loads(retl("status", "users", "--json")[1])
    assert ("failed", 2) == (failed["status"], failed["pending"])
    retl("run", "users")
    done = json.loads(retl("status", "users", "--json")[1])
    assert ("succeeded", 0, 2) == (done["status"], done["pending"], done["rows"])
    with hold(project / "state/users.duckdb", datetime.now(UTC)):
        assert json.loads(retl("status", "users", "--json")[1])["status"] == "running"
        code, _, err = retl("plan", "users")
        assert (5, True) == (code, "use --wait" in err)
    out = retl("status")[1]
    assert "succeeded" in out
    assert [line.rstrip() for line in out.splitlines()] == out.splitlines()


def test_check_and_schema(retl: Retl) -> None:
    """Check says that a sync is fine, with --connect after asking Segment, too; schema is JSON Schema."""
    assert "syncs/users.yml: identify from models/users.sql, 3 columns, fine" in retl("check", "syncs")[1]
    assert "3 columns, fine" in retl("check", "users", "--connect")[1]
    assert "identify" in json.loads(retl("schema")[1])["properties"]


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (
            "SELECT user_id, city FROM read_csv('data/users.csv')",
            "syncs/users.yml:6 identify.traits.email: model",
        ),
        ("SELECT user_id,\nFROM FROM x", "models/users.sql:2: model users: Parser Error"),
        ("SELECT * FROM nowhere", "Table with name nowhere does not exist"),
        (
            "SELECT '{{a}}' -- {% b %}\nFROM {{ ref('x') }}",
            "models/users.sql:2: here is Jinja, `{{ ref('x') }}`",
        ),
    ],
)
def test_check_asks_an_embedded_duckdb(retl: Retl, project: Path, model: str, message: str) -> None:
    """Without --connect a model in DuckDB is described, so that bad SQL and missing columns are found."""
    (project / "models/users.sql").write_text(model)

    code, _, err = retl("check")

    assert (2, True) == (code, message in err)
    assert not (project / "state").exists()


def test_check_needs_no_data(retl: Retl, project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files can be checked where the data is not, and no server is asked."""
    (project / "data/users.csv").unlink()
    code, out, _ = retl("check")
    assert (0, True) == (code, "models/users.sql, but its columns are not known (" in out)

    (project / "retl.yml").unlink()
    monkeypatch.setenv("RETL_WAREHOUSE_URL", "postgresql://127.0.0.1:1/none")
    assert (0, "syncs/users.yml: identify from models/users.sql, fine\n", "") == retl("check")


@pytest.mark.thorough
@pytest.mark.rule("E12")
def test_the_write_key_is_never_shown(retl: Retl, project: Path, sandbox: Sandbox) -> None:
    """Neither output nor state holds the write key, whatever goes wrong."""
    (project / ".env").write_text("SEGMENT_WRITE_KEY=s3cr3t\n")
    sandbox.script([Reply(status=401, body="who is s3cr3t?")])
    printed = "".join(map(str, retl("run", "users", "--json")))
    printed += "".join(map(str, retl("run", "users")))

    assert b"s3cr3t" not in (project / "state/users.duckdb").read_bytes()
    assert "s3cr3t" not in printed


@pytest.mark.rule("W4")
def test_paths_start_from_the_project_folder(
    retl: Retl, project: Path, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model reads its project's files, though the working folder has files of the same names."""
    elsewhere = project / "elsewhere"
    (elsewhere / "data").mkdir(parents=True)
    (elsewhere / "data/users.csv").write_text(USERS.replace("u1", "wrong"))
    monkeypatch.chdir(elsewhere)

    assert retl("run", "../syncs/users.yml")[0] == 0
    assert ["u1", "u2"] == [call["userId"] for call in sandbox.accepted]
    assert elsewhere == Path.cwd()
    assert (project / "state/users.duckdb").exists()


@pytest.mark.rule("G11")
def test_a_rehearsal_has_a_state_of_its_own(retl: Retl, project: Path, sandbox: Sandbox) -> None:
    """--sandbox sends nothing to the real destination and leaves its state alone."""
    (project / ".env").unlink()

    code, out, _ = retl("run", "users", "--sandbox")

    assert code == 0
    assert "sandbox: 2 calls accepted, 0 discarded, 0 duplicates" in out
    assert sandbox.requests == []
    assert [project / "state/sandbox/users.duckdb"] == list(project.rglob("*.duckdb"))


@pytest.mark.thorough
@pytest.mark.rule("G11")
def test_a_rehearsal_can_begin_where_production_stands(retl: Retl, project: Path, sandbox: Sandbox) -> None:
    """--from-production sends to the local Segment just what the next real run sends, under the same ids."""
    retl("run", "users", "--limit", "1")
    (project / "data/users.csv").write_text(USERS + "u3,c@x.com,,2026-01-03\n")
    before = contents(project / "state/users.duckdb")

    rehearsed = [record(retl, "--sandbox", "--from-production") for _ in range(2)]
    assert before == contents(project / "state/users.duckdb")
    assert 1 == len(sandbox.accepted)
    real = record(retl)

    assert [(1, 2)] * 3 == [(one["added"], one["calls"]["delivered"]) for one in (*rehearsed, real)]
    assert ["u1", "u2", "u3"] == [call["userId"] for call in sandbox.accepted]
    copy, whole = (contents(project / f"state/{name}.duckdb") for name in ("sandbox/users", "users"))
    for part in ("destination_id", "generation"):  # of which message ids are made
        assert copy["metadata"][0][part] == whole["metadata"][0][part]


def test_there_is_no_production_to_rehearse_from(retl: Retl, project: Path) -> None:
    """Without a production state, or without --sandbox, the option is refused with what to do."""
    code, _, err = retl("run", "users", "--sandbox", "--from-production")
    assert (2, True) == (code, "leave out --from-production" in err)
    code, _, err = retl("run", "users", "--from-production")
    assert (2, True) == (code, "goes with --sandbox" in err)
    assert [] == list(project.rglob("*.duckdb"))


def start(project: Path, *arguments: str) -> subprocess.Popen[str]:
    """The retl program, in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "retl", *arguments],
        cwd=project,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUTF8": "1"},
    )


@pytest.mark.thorough
@pytest.mark.rule("L7")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_stops_a_run_in_good_order(
    project: Path, sandbox: Sandbox, retl: Retl, number: signal.Signals, code: int
) -> None:
    """A signal ends a waiting run with its exit code; the next run goes on with the same message ids."""
    sandbox.script([Reply(status=503, retry_after=300)])
    with start(project, "run", "users", "--json") as process:
        assert process.stderr is not None
        while "again in" not in (line := process.stderr.readline()):
            assert line, "the run ended by itself"
        process.send_signal(number)
        out, _ = process.communicate(timeout=20)

    run = json.loads(out)
    assert (code, "interrupted", 2) == (process.returncode, run["status"], run["calls"]["pending"])
    ids = {call["messageId"] for call in sandbox.requests[-1].parsed["batch"]}
    assert record(retl)["calls"]["delivered"] == 2
    assert ids == {call["messageId"] for call in sandbox.accepted}


@pytest.mark.thorough
def test_the_sandbox_command_serves_until_it_is_interrupted(project: Path) -> None:
    """`retl sandbox` says its address, takes calls, and sums up when it is stopped."""
    with start(project, "sandbox", "--port", "0") as process:
        assert process.stdout is not None
        url = process.stdout.readline().split(" listens on ")[1].split(";")[0]
        (project / "retl.yml").write_text(f'warehouse: "duckdb://"\nsegment: {{endpoint: "{url}"}}\n')
        assert execute(["run", "users"]) == 0
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=20)

    assert (0, "") == (process.returncode, err)
    assert "sandbox: 2 calls accepted" in out


@pytest.mark.thorough
def test_the_sandbox_command_passes_calls_on(project: Path, sandbox: Sandbox) -> None:
    """`retl sandbox --webhook` posts what it takes, and tells of it without the key in the URL."""
    hook = f"{sandbox.url}/v1/identify?key=secret-key"
    options = ["--webhook", hook, "--webhook-header", "Authorization: Basic ${HOOK_KEY}"]
    (project / ".env").write_text("SEGMENT_WRITE_KEY=key\nHOOK_KEY=YS13cml0ZS1rZXk6\n")
    with start(project, "sandbox", "--port", "0", *options) as process:
        assert process.stdout is not None
        url = process.stdout.readline().split(" listens on ")[1].split(";")[0]
        (project / "retl.yml").write_text(f'warehouse: "duckdb://"\nsegment: {{endpoint: "{url}"}}\n')
        assert execute(["run", "users"]) == 0
        with urllib3.PoolManager(retries=False, timeout=5) as http:
            for _ in range(1_000):
                if http.request("GET", f"{url}/webhooks.json").json()[0]["delivered"] == 2:
                    break
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=20)

    assert (0, "") == (process.returncode, err)
    assert f"webhook {sandbox.url}/…: 2 calls delivered" in out
    assert "secret-key" not in out
    assert ["Segment (Actions)"] * 2 == [one.headers["user-agent"] for one in sandbox.requests]


@pytest.mark.thorough
def test_files_are_for_the_owner_alone(project: Path) -> None:
    """What a run leaves behind can be read by its owner only."""
    process = start(project, "run", "users")
    process.communicate(timeout=60)

    assert process.returncode == 0
    for path in (project / "state", *(project / "state").iterdir()):
        assert path.stat().st_mode & 0o077 == 0, path


@pytest.mark.thorough
def test_the_example_runs_with_every_kind(
    retl: Retl, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All syncs of the example project can be sent, and Segment discards none of their calls."""
    folder = tmp_path_factory.mktemp("example")
    for name in ("models", "syncs", "data"):
        shutil.copytree(ROOT / name, folder / name)
    shutil.copy(ROOT / "retl.yml", folder)
    monkeypatch.chdir(folder)
    code, out, err = retl("run", "syncs", "--sandbox", "--initial-backfill")

    assert code == 0, err
    assert "sandbox: 13 calls accepted, 0 discarded, 0 duplicates" in out


@pytest.mark.parametrize("name", sorted(cli.commands))
@pytest.mark.parametrize("width", [45, 80, 200])
def test_the_list_of_commands_has_the_first_line_of_the_help_of_each(name: str, width: int) -> None:
    """`retl NAME` is `NAME_command` in `retl/cli/NAME.py`, and its line in `retl --help` is its own."""
    command = command_of(name)

    assert name == command.name
    assert command.get_short_help_str(width) == cli.commands[name].get_short_help_str(width)


def test_the_list_of_commands_is_not_cut(retl: Retl, monkeypatch: pytest.MonkeyPatch) -> None:
    """`retl` alone begins with the commands of a day, and has the whole line of each at 80 columns."""
    monkeypatch.setenv("COLUMNS", "80")
    _, out, err = retl()
    shown = out + err

    day = re.findall(r"^  (retl \w+)", shown.split("Commands:")[0], re.MULTILINE)
    assert ["retl check", "retl plan", "retl run", "retl init"] == day
    assert max(map(len, shown.splitlines())) <= 80
    assert all(line in " ".join(shown.split()) for line in COMMANDS.values())


def test_the_list_of_commands_is_whole() -> None:
    """Each module with a command is in the list of commands, and no other."""
    files = (ROOT / "retl/cli").glob("*.py")
    found = [file.stem for file in files if f"def {file.stem}_command(" in file.read_text("utf-8")]

    assert sorted(COMMANDS) == sorted(found)
