"""`retl verify`: what was sent next to what Segment counts, over HTTP with a stand-in of its Public API.

The stand-in counts the calls that a local Segment took, by the documented form and limits. Nobody has tried
the command against a live account.
"""

import json
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import pytest
from harness import NOON, Retl, StillClock, runner
from servers import PublicApi

from retl.cli.verify import wait_for_counts
from retl.delivery.public_api import HOUR, MINUTE, Count, CountKind, moments, window
from retl.delivery.public_api import PublicApi as Client
from retl.errors import ConfigError, SegmentError
from retl.sandbox.failures import Reply
from retl.sandbox.server import Sandbox
from retl.verify import SentRun

ROWS = "('a', 'x'), ('b', 'x'), ('c', 'y')"
TRACK = f"""\
sql: SELECT * FROM (VALUES {ROWS}) AS t(id, n)
primary_key: id
track:
  user_id: id
  added: {{event: Signed Up}}
  changed: {{event: Moved}}
  properties: {{n: n}}
initial: send
guards: {{changed: off, added: off}}
"""

THEN = datetime.now(UTC).replace(microsecond=0) - timedelta(hours=1)
"""The moment to which runs are put back, since Segment's counts of it are complete."""


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    """A local Segment, whose clock stands at an hour ago."""
    with Sandbox(now=lambda: THEN) as sandbox:
        yield sandbox


@pytest.fixture
def api(sandbox: Sandbox) -> Iterator[PublicApi]:
    """A Public API that counts what the local Segment took."""
    with PublicApi(sandbox, token="s3cr3t-token") as api:
        yield api


@pytest.fixture
def project(tmp_path: Path, sandbox: Sandbox, api: PublicApi, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with a sync `users`; the working folder of the test."""
    (tmp_path / "syncs").mkdir()
    (tmp_path / "syncs/users.yml").write_text(TRACK)
    configure(tmp_path, sandbox, source_id=api.source_id)
    monkeypatch.setenv("SEGMENT_PUBLIC_API_TOKEN", api.token)
    monkeypatch.setenv("SEGMENT_PUBLIC_API_URL", api.url)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def configure(project: Path, sandbox: Sandbox, **settings: Any) -> None:
    """Write the settings of the project."""
    segment = {"endpoint": sandbox.url, "events_per_second": 0, "write_key": "key", **settings}
    (project / "retl.yml").write_text(f'warehouse: "duckdb://"\nsegment: {json.dumps(segment)}\n')


@pytest.fixture
def retl(project: Path, capsys: pytest.CaptureFixture[str]) -> Retl:
    """Runs a command in the project."""
    return runner(capsys)


def run(retl: Retl, project: Path, *arguments: str) -> str:
    """Run the sync, and put its run back by an hour; gives the run's id."""
    record = json.loads(retl("run", "users", "--json", *arguments)[1])
    run_id: str = record["run_id"]
    with duckdb.connect(":memory:") as db:
        db.execute(f"ATTACH '{project / 'state/users.duckdb'}' AS state")
        ((kept,),) = db.execute("SELECT record FROM state.run WHERE run_id = ?", [run_id]).fetchall()
        earlier = json.dumps({**json.loads(kept), "started_at": f"{THEN:%Y-%m-%dT%H:%M:%SZ}", "seconds": 0})
        db.execute("UPDATE state.run SET record = ? WHERE run_id = ?", [earlier, run_id])
        answered_at = [THEN.replace(tzinfo=None), run_id]
        db.execute("UPDATE state.receipt SET answered_at = ? WHERE run_id = ?", answered_at)
    return run_id


def verified(retl: Retl, *arguments: str) -> tuple[int, dict[str, Any]]:
    """The exit code and the JSON object of a verification."""
    code, out, err = retl("verify", *arguments, "--json")
    assert out, err
    return code, json.loads(out)


@pytest.mark.thorough
def test_a_run_that_arrived_whole(retl: Retl, project: Path, api: PublicApi) -> None:
    """Where Segment counts what was sent, the exit code is 0, and each event has its line."""
    run_id = run(retl, project)

    code, found = verified(retl)
    assert (0, run_id, True, 3, 3) == (
        code,
        *(found[name] for name in ("run_id", "matches", "sent", "received")),
    )
    assert [
        {
            "type": "track",
            "event": "Signed Up",
            "sent": 3,
            "received": 3,
            "difference": 0,
            "failed": {},
            "filtered": {},
        }
    ] == found["events"]
    steps = ["successfully-received", "failed-on-ingest", "filtered-at-source"]
    assert [f"/delivery-overview/{kind}" for kind in steps] == [one["path"] for one in api.asked]

    code, out, _ = retl("verify", "users")
    assert (0, True) == (code, "Segment has what was sent." in out)


@pytest.mark.thorough
def test_calls_that_segment_dropped(retl: Retl, project: Path, api: PublicApi) -> None:
    """Calls that failed on ingest are told with their reasons, and the exit code is 1."""
    run(retl, project)
    api.lost = lambda call: "event_not_string" if call["userId"] == "b" else None

    code, found = verified(retl)
    assert (1, False, 3, 2, 1, 1) == (
        code,
        *(found[name] for name in ("matches", "sent", "received", "missing", "failed")),
    )
    assert {"event_not_string": 1} == found["events"][0]["failed"]
    code, out, _ = retl("verify")
    assert (1, True, True) == (code, "sent: 1 call failed on ingest\n" in out, "1 event_not_string" in out)


def test_calls_that_are_gone_without_a_trace(retl: Retl, project: Path, api: PublicApi) -> None:
    """Calls that Segment counts nowhere are missing."""
    run(retl, project)
    api.lost = lambda call: "" if call["userId"] == "b" else None

    code, found = verified(retl)
    assert (1, 1, 0) == (code, found["missing"], found["failed"])


@pytest.mark.thorough
def test_calls_that_the_workspace_filters(retl: Retl, project: Path, api: PublicApi) -> None:
    """Calls that the workspace's own rules filter are told, and count as received."""
    run(retl, project)
    api.filtered = lambda call: "unplanned_event" if call["userId"] == "a" else None

    assert (0, {"unplanned_event": 1}) == (verified(retl)[0], verified(retl)[1]["events"][0]["filtered"])
    assert "by the workspace's own rules: 1 unplanned_event" in retl("verify")[1]


@pytest.mark.thorough
def test_other_traffic_at_the_source(retl: Retl, project: Path, sandbox: Sandbox, api: PublicApi) -> None:
    """Calls of others with the same event are a surplus, which the run mark keeps out."""
    (project / "syncs/users.yml").write_text(TRACK.replace(ROWS, "('a', 'x')"))
    run(retl, project)
    (project / "syncs/users.yml").write_text(TRACK)
    run(retl, project)

    code, found = verified(retl)
    assert (1, False, 2, 3, 1) == (
        code,
        *(found[name] for name in ("marked", "sent", "received", "surplus")),
    )
    assert "`segment: {mark_runs: true}` tells runs apart" in retl("verify")[1]

    configure(project, sandbox, source_id=api.source_id, mark_runs=True)
    (project / "syncs/users.yml").write_text(TRACK.replace("'c', 'y'", "'c', 'z'"))
    run_id = run(retl, project)
    code, found = verified(retl)
    assert (0, True, 1, 1) == (code, *(found[name] for name in ("marked", "sent", "received")))
    assert ["Moved"] == [one["event"] for one in found["events"]]
    assert {run_id} == {one["filter.appVersion.0"] for one in api.asked[-3:]}


@pytest.mark.thorough
def test_a_run_by_its_id(retl: Retl, project: Path) -> None:
    """An earlier run is found by its id, whatever sync it was of; an unknown id is an error."""
    first = run(retl, project)
    (project / "syncs/users.yml").write_text(TRACK.replace("'c', 'y'", "'c', 'z'"))
    second = run(retl, project)

    assert [(first, "Signed Up"), (second, "Moved")] == [
        (found["run_id"], found["events"][0]["event"])
        for _, found in (verified(retl, one) for one in (first, second))
    ]
    code, _, err = retl("verify", "20260301T120000-abcdef")
    assert (2, True) == (code, "no sync of this project has a run 20260301T120000-abcdef" in err)


@pytest.mark.thorough
def test_a_run_that_was_killed_is_known_by_event(
    retl: Retl, project: Path, sandbox: Sandbox, api: PublicApi
) -> None:
    """What arrived before a kill -9 is told by event, though its calls have not left the outbox yet."""
    run(retl, project)
    configure(project, sandbox, source_id=api.source_id, events_per_second=2, concurrency=1)
    (project / "syncs/users.yml").write_text(
        TRACK.replace("('a', 'x')", "('a', 'z'), ('d', 'x'), ('e', 'x')")
    )
    sandbox.script([Reply(), Reply(status=503, retry_after=300)])
    command = [sys.executable, "-m", "retl", "run", "users"]
    with subprocess.Popen(command, cwd=project, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        while "again in" not in (line := process.stderr.readline()):
            assert line, "the run ended by itself"
        process.kill()

    found = verified(retl)[1]
    assert 2 == found["sent"]
    assert {"track"} == {one["type"] for one in found["events"]}
    assert found["events"] and {one["event"] for one in found["events"]} <= {"Signed Up", "Moved"}


@pytest.mark.thorough
def test_calls_that_are_sent_again(retl: Retl, sandbox: Sandbox) -> None:
    """The run of a `retl retry` has the calls that it sent by event, as any other."""
    sandbox.script([Reply(status=400), Reply(status=400)])
    retl("run", "users")
    again = json.loads(retl("retry", "users", "--json")[1])

    _, found = verified(retl, again["run_id"])
    assert (again["run_id"], 1) == (found["run_id"], found["sent"])
    assert ["Signed Up"] == [one["event"] for one in found["events"]]


@pytest.mark.thorough
def test_the_last_run_that_sent(retl: Retl, project: Path) -> None:
    """Without a run's id it is the last one that delivered calls, not one that had nothing to do."""
    assert (0, "users: no run that is kept has delivered calls\n") == retl("verify")[:2]
    sent = run(retl, project)
    run(retl, project)

    assert sent == verified(retl)[1]["run_id"]


@pytest.mark.thorough
def test_counts_that_are_not_complete_yet(retl: Retl, api: PublicApi) -> None:
    """Where a run ended a moment ago and its counts differ, it is too early to tell: exit code 3."""
    retl("run", "users")

    code, found = verified(retl)
    assert (3, False, True) == (code, found["matches"], found["early"])
    code, out, _ = retl("verify")
    assert (3, True) == (code, "Segment's counts lag by about 5 minutes: ask again after" in out)


def test_waiting_for_the_counts() -> None:
    """With --wait the question is asked 5 minutes after the run's last answer; later than that at once."""
    clock = StillClock()
    sent = SentRun("users", "a run", NOON, NOON + timedelta(seconds=30), {}, 0, 0, False)
    for wait, moved in ((False, 0), (True, 330), (True, 330)):
        wait_for_counts(sent, clock, wait)
        assert moved == clock.monotonic()


def test_calls_that_went_out_twice(retl: Retl, project: Path, sandbox: Sandbox) -> None:
    """Calls without an answer went out twice: Segment may count them once or twice, and both match."""
    sandbox.script([Reply(lost=True)])
    run(retl, project)

    code, found = verified(retl)
    assert (0, 3, 3) == (code, found["unsure"], found["received"])


@pytest.mark.thorough
def test_answers_in_pages_and_hours_of_a_run(retl: Retl, project: Path, api: PublicApi) -> None:
    """All pages of an answer are read, and a long time is asked about in pieces that Segment allows."""
    (project / "syncs/users.yml").write_text(TRACK.replace("{event: Signed Up}", "{event: {column: n}}"))
    run(retl, project)
    api.page = 1

    code, found = verified(retl)
    assert (0, {"x": 2, "y": 1}) == (code, {one["event"]: one["received"] for one in found["events"]})
    assert ["1"] == [one["pagination.cursor"] for one in api.asked if "pagination.cursor" in one]


def test_identify_is_compared_by_type(retl: Retl, project: Path) -> None:
    """Calls without an event are compared by their type, whatever name Segment gives them."""
    (project / "syncs/users.yml").write_text(
        f"sql: SELECT * FROM (VALUES {ROWS}) AS t(id, n)\nprimary_key: id\n"
        "identify: {user_id: id, traits: {n: n}}\n"
    )
    run(retl, project)

    code, found = verified(retl)
    assert (0, [("identify", None, 3, 3)]) == (
        code,
        [(one["type"], one["event"], one["sent"], one["received"]) for one in found["events"]],
    )


@pytest.mark.thorough
@pytest.mark.parametrize(
    ("variable", "value", "code", "words"),
    [
        ("SEGMENT_PUBLIC_API_TOKEN", "", 2, "SEGMENT_PUBLIC_API_TOKEN is not set"),
        ("SEGMENT_PUBLIC_API_TOKEN", "wr0ng-token", 2, "refuses the token (401"),
        ("SEGMENT_PUBLIC_API_URL", "http://example.com", 2, "would carry the token unencrypted"),
        ("SEGMENT_PUBLIC_API_URL", "ftp://127.0.0.1", 2, "is not a URL"),
    ],
)
def test_settings_that_are_wrong(
    retl: Retl,
    project: Path,
    monkeypatch: pytest.MonkeyPatch,
    variable: str,
    value: str,
    code: int,
    words: str,
) -> None:
    """A missing or refused token and a wrong URL are errors with a way out, and no token is printed."""
    run(retl, project)
    monkeypatch.setenv(variable, value)

    found, out, err = retl("verify", "--json")
    assert (code, True) == (found, words in err)
    assert "-token" not in (out + err).replace("SEGMENT_PUBLIC_API_TOKEN", "")


@pytest.mark.thorough
def test_the_source(
    retl: Retl, project: Path, sandbox: Sandbox, api: PublicApi, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The id of the source is from the command, the sync or the environment; an unknown one is an error."""
    run(retl, project)
    code, _, err = retl("verify", "--source", "another")
    assert (2, True) == (code, "source another: Segment's Public API does not know this source" in err)

    configure(project, sandbox)
    code, _, err = retl("verify")
    assert (2, True) == (code, "the id of the source is not known" in err)
    assert 0 == retl("verify", "--source", api.source_id)[0]
    monkeypatch.setenv("SEGMENT_SOURCE_ID", api.source_id)
    assert 0 == retl("verify")[0]


def test_calls_in_a_file_are_not_verified(retl: Retl, project: Path, sandbox: Sandbox) -> None:
    """Of a sync whose calls go to a file Segment knows nothing."""
    configure(project, sandbox, endpoint="file:calls.ndjson")
    retl("run", "users")

    code, _, err = retl("verify")
    assert (2, True) == (code, "the calls of this sync go to a file" in err)


def asked(api: PublicApi, clock: StillClock, hours: float = 0.1) -> list[Count]:
    """The counts of a few minutes, or hours, before noon."""
    api.now = clock.now
    with Client(api.url, api.token, clock) as client:
        time = window(NOON - timedelta(hours=hours), NOON, clock.now())
        return client.counts(CountKind.RECEIVED, api.source_id, time, None)


def test_a_busy_segment_is_waited_for(api: PublicApi) -> None:
    """After a 429 the next question waits as long as Segment asks, and after a 5xx a few seconds."""
    clock = StillClock()
    api.script = [(429, {"Retry-After": "30"}, "slow down"), (503, {}, "down")]

    assert [] == asked(api, clock)
    assert 32.0 == clock.monotonic()


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ((500, {}, "s3cr3t-token is down"), "fails \\(500 … is down\\)"),
        ((422, {}, {"errors": [{"message": "bad window"}]}), "fails \\(422 bad window\\)"),
        ((302, {"Location": "http://example.com"}, ""), "fails \\(302\\)"),
        ((429, {"Retry-After": "900"}, "later"), "asks to wait too long"),
        ((200, {}, "<html>"), "is not as documented: <html>"),
        ((200, {}, {"data": {"dataset": [{"eventName": "x"}]}}), "is not as documented"),
    ],
)
def test_a_segment_that_fails(api: PublicApi, answer: tuple[int, dict[str, str], Any], words: str) -> None:
    """Whatever else Segment answers ends with its words, without the token, and as a failure outside."""
    api.script = [answer] * 9

    with pytest.raises(SegmentError, match=words) as error:
        asked(api, StillClock())
    assert 3 == error.value.exit_code


def test_no_more_questions_than_segment_takes(api: PublicApi) -> None:
    """Questions are no more than 50 in any minute, each within the longest time that Segment allows."""
    clock = StillClock()
    for _ in range(5):
        asked(api, clock, hours=47.9)
    asked_before = clock.monotonic()
    api.now = clock.now
    with Client(api.url, api.token, clock) as client:
        time = window(clock.now() - timedelta(hours=47), clock.now(), clock.now())
        for _ in range(5):
            client.counts(CountKind.RECEIVED, api.source_id, time, None)

    assert (0.0, 60.0) == (asked_before, clock.monotonic())
    assert 5 * 12 + 5 * 12 == len(api.asked)


def test_syncs_of_one_command_share_the_rate(api: PublicApi) -> None:
    """Several ways to Segment, as of several syncs, ask no more often together than one alone."""
    clock, asked_at = StillClock(), moments()
    api.now = clock.now
    for _ in range(51):
        with Client(api.url, api.token, clock, asked_at=asked_at) as client:
            client.counts(CountKind.RECEIVED, api.source_id, window(NOON, NOON, clock.now()), None)

    assert 60.0 == clock.monotonic()


@pytest.mark.parametrize(
    ("hours", "granularity", "minutes"),
    [(0.5, MINUTE, 31), (47.9, MINUTE, 31), (49, HOUR, 60), (24 * 29, HOUR, 60)],
)
def test_the_window_of_a_run(hours: float, granularity: Any, minutes: int) -> None:
    """A run's minutes are asked about, or its whole hours where Segment keeps no minutes any more."""
    start = NOON - timedelta(hours=hours)
    found = window(start, start + timedelta(minutes=30), NOON)

    assert granularity is found.granularity
    assert found.start <= start < found.start + granularity.size
    assert timedelta(minutes=minutes) <= found.end - found.start <= timedelta(minutes=2 * minutes)


def test_a_run_that_is_too_old() -> None:
    """Beyond 30 days there are no counts, and the error says so."""
    with pytest.raises(ConfigError, match="keeps its counts for 30 days"):
        window(NOON - timedelta(days=31), NOON - timedelta(days=31), NOON)
