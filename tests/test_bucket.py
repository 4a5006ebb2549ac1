"""States in a bucket: by the command line and in Python, against S3 as moto has it over real HTTP."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from harness import Retl, edit, runner
from listeners import Listener

from retl.bucket.lease import SECONDS
from retl.sandbox.server import Sandbox
from torture.bucket import BUCKET, Bucket

SYNC = """\
sql: SELECT 'u' || n AS id, n FROM range(3) AS t (n)
primary_key: id
identify: {user_id: id, traits: {n: n}}
"""


@pytest.fixture(scope="module")
def server() -> Iterator[Bucket]:
    """A bucket for all tests of this file."""
    with Bucket() as bucket:
        yield bucket


@pytest.fixture
def bucket(server: Bucket, monkeypatch: pytest.MonkeyPatch) -> Bucket:
    """An empty bucket, which the environment names."""
    for key in server.objects:
        server.delete(key)
    server.requests.clear()
    server.fault, server.is_conditional = lambda method, key: None, True
    for name, value in server.settings.items():
        monkeypatch.setenv(name, value)
    return server


@pytest.fixture
def segment() -> Iterator[Sandbox]:
    """A local Segment."""
    with Sandbox() as sandbox:
        yield sandbox


@pytest.fixture
def project(tmp_path: Path, segment: Sandbox, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with a sync `users` whose state is in the bucket; it is the working folder."""
    settings = {"endpoint": segment.url, "events_per_second": 0, "write_key": "key"}
    (tmp_path / "syncs").mkdir()
    (tmp_path / "syncs/users.yml").write_text(SYNC)
    (tmp_path / "retl.yml").write_text(
        f'warehouse: "duckdb://"\nsegment: {json.dumps(settings)}\nstate: s3://{BUCKET}/retl/\n'
    )
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def retl(capsys: pytest.CaptureFixture[str]) -> Retl:
    """Runs commands."""
    return runner(capsys)


def delivered(said: str) -> int:
    """The calls that a run with --json delivered."""
    return int(json.loads(said)["calls"]["delivered"])


def hold(bucket: Bucket, seconds_ago: float) -> None:
    """Let another runner have the lease, and have written it that long ago."""
    holder = {"pid": 7, "host": "elsewhere", "since": "noon"}
    lease = {"write": "w", "holder": holder, "seconds": SECONDS, "progress": None}
    bucket.put("retl/users.lock", json.dumps(lease).encode())
    bucket.age("retl/users.lock", seconds_ago)


@pytest.mark.thorough
def test_a_state_in_a_bucket_is_the_state(
    bucket: Bucket, project: Path, segment: Sandbox, retl: Retl
) -> None:
    """The second run sends only what changed, and nothing of the state is left in the project."""
    assert 0 == retl("run", "users", "--json")[0]
    edit(project / "syncs/users.yml", "range(3)", "range(4)")
    code, said, _ = retl("run", "users", "--json")
    assert (0, 1, 1) == (code, json.loads(said)["added"], delivered(said))
    assert 4 == len(segment.accepted)
    assert {"retl.yml", "syncs"} == {path.name for path in project.iterdir()}
    names = sorted(bucket.objects)
    assert ["retl/users.json", "retl/users.lock"] == [name for name in names if "users/" not in name]
    assert 1 == len([name for name in names if name.startswith("retl/users/")])


@pytest.mark.rule("Q1")
def test_the_outbox_is_in_the_bucket_before_a_call_leaves(
    bucket: Bucket, project: Path, segment: Sandbox, retl: Retl
) -> None:
    """Where the state cannot be saved nothing is sent, and the next run sends all."""
    bucket.fault = lambda method, key: "dropped" if (method, key) == ("PUT", "retl/users.json") else None
    code, _, said = retl("run", "users", "--json")
    assert (3, True) == (code, "the bucket cannot be reached" in said), said
    assert [] == segment.accepted
    bucket.fault = lambda method, key: None
    assert 3 == delivered(retl("run", "users", "--json")[1])


@pytest.mark.rule("Q9")
def test_a_missing_state_is_told_from_a_missing_bucket(
    bucket: Bucket, project: Path, segment: Sandbox, retl: Retl
) -> None:
    """`--expect-state` says that there is no state; a bucket that is not there is an error of its own."""
    code, _, said = retl("run", "users", "--expect-state")
    assert (4, True) == (code, "s3://acme/retl/users: the state file is missing" in said), said
    edit(project / "retl.yml", "acme", "acmee")
    for command in ("run", "status", "plan"):
        code, _, said = retl(command, "users")
        assert (2, True) == (code, "there is no such bucket" in said), said
    assert [] == segment.requests


@pytest.mark.parametrize("command", [("status",), ("check", "--connect")], ids=["status", "check"])
def test_a_bucket_out_of_reach_is_told_once(
    bucket: Bucket, project: Path, retl: Retl, command: tuple[str, ...]
) -> None:
    """Where a sync's state could not be read, the search for states of other syncs does not say so again."""
    edit(project / "retl.yml", "acme", "acmee")
    code, _, said = retl(*command)
    assert (2, 1) == (code, said.count("there is no such bucket")), said


def test_a_check_tries_the_bucket_where_it_may(bucket: Bucket, project: Path, retl: Retl) -> None:
    """`--connect` says whether a state can be kept there, and leaves nothing; without it nobody is asked."""
    assert (0, []) == (retl("check")[0], bucket.requests)
    assert (0, {}) == (retl("check", "--connect")[0], bucket.objects)
    bucket.is_conditional = False
    code, _, said = retl("check", "--connect")
    assert (2, True, {}) == (code, "does not refuse a write" in said, bucket.objects), said
    edit(project / "retl.yml", "acme", "acmee")
    code, _, said = retl("check", "--connect")
    assert (2, True) == (code, "there is no such bucket" in said), said


@pytest.mark.rule("Q8")
def test_a_bucket_that_overwrites_is_refused(
    bucket: Bucket, project: Path, segment: Sandbox, retl: Retl
) -> None:
    """Where a bucket makes a write whose condition does not hold, a run ends before it reads."""
    bucket.is_conditional = False
    code, _, said = retl("run", "users")
    assert (2, True) == (code, "does not refuse a write" in said), said
    assert [] == segment.requests
    bucket.is_conditional = True
    assert 0 == retl("run", "users")[0]


@pytest.mark.rule("Q4")
def test_a_lease_keeps_others_out(bucket: Bucket, project: Path, segment: Sandbox, retl: Retl) -> None:
    """A run that finds the lease held ends with exit code 5 and names the holder, or skips."""
    hold(bucket, seconds_ago=SECONDS - 20)
    code, _, said = retl("run", "users")
    assert (5, True) == (code, "pid 7 on elsewhere since noon" in said), said
    assert 0 == retl("run", "users", "--skip-if-running")[0]
    assert 5 == retl("run", "users", "--wait", "--deadline", "1s")[0]
    assert [] == segment.requests


@pytest.mark.rule("Q5")
def test_the_lease_of_a_dead_run_is_taken_over(
    bucket: Bucket, project: Path, segment: Sandbox, retl: Retl
) -> None:
    """A lease that was not written for long by the clock of the bucket holds nobody back."""
    hold(bucket, seconds_ago=SECONDS + 20)
    assert 3 == delivered(retl("run", "users", "--json")[1])


@pytest.mark.rule("Q10")
def test_a_run_can_be_looked_at(bucket: Bucket, project: Path, segment: Sandbox, retl: Retl) -> None:
    """While a run is under way others see its state as it was last saved, and that it is running."""
    retl("run", "users")
    hold(bucket, seconds_ago=1)
    bucket.requests.clear()
    assert "u2" in retl("explain", "users", "u2", "--offline")[1]
    assert "3" in retl("sql", "users", "SELECT count(*) FROM rows", "--csv")[1]
    assert "running" == json.loads(retl("status", "users", "--json")[1])["status"]
    assert [] == bucket.requests


@pytest.mark.thorough
def test_a_rehearsal_stays_on_this_machine(
    bucket: Bucket, project: Path, segment: Sandbox, retl: Retl
) -> None:
    """Its state is in the project; it can begin with a copy of that in the bucket."""
    retl("run", "users")
    bucket.requests.clear()
    edit(project / "syncs/users.yml", "range(3)", "range(4)")
    code, said, _ = retl("run", "users", "--sandbox", "--from-production", "--json")
    assert (0, 1) == (code, delivered(said))
    assert (project / "state/sandbox/users.duckdb").exists()
    assert [] == bucket.requests


@pytest.mark.rule("Q12")
def test_a_purge_leaves_no_file_in_the_bucket(
    bucket: Bucket, project: Path, segment: Sandbox, retl: Retl
) -> None:
    """After it there is no state, and the next run is a first pass."""
    retl("run", "users")
    code, told, _ = retl("reset", "users", "--purge", "--yes")
    assert (0, ["users: deleted s3://acme/retl/users"]) == (code, told.splitlines()[:-1])
    assert [] == [key for key in bucket.objects if key.startswith("retl/users/")]
    assert 4 == retl("run", "users", "--expect-state")[0]
    assert 3 == delivered(retl("run", "users", "--json")[1])


@pytest.mark.variants(2)
@pytest.mark.rule("Q2", "Q7")
@pytest.mark.parametrize("fault", ["lost", "dropped"])
@pytest.mark.parametrize("number", range(10))
def test_a_write_that_fails_costs_nothing(
    bucket: Bucket, project: Path, segment: Sandbox, retl: Retl, number: int, fault: str
) -> None:
    """Whichever write to the bucket is not made, or its answer lost: in the end each call arrived once."""
    left = [number]

    def once(method: str, key: str) -> str | None:
        if method == "PUT":
            left[0] -= 1
        return fault if method == "PUT" and left[0] == -1 else None

    bucket.fault = once
    code, _, said = retl("run", "users")
    assert code in (0, 3), said
    bucket.fault = lambda method, key: None
    if "retl/users.lock" in bucket.objects:
        bucket.age("retl/users.lock", SECONDS + 20)
    assert 0 == retl("run", "users")[0]
    assert 3 == len({call["messageId"] for call in segment.accepted})
    assert [] == segment.duplicates


@pytest.mark.rule("Q11")
def test_a_state_is_brought_along(bucket: Bucket, project: Path, segment: Sandbox, retl: Retl) -> None:
    """A sync whose state is still in the project is refused until it is moved, and then goes on; and back."""
    edit(project / "retl.yml", f"state: s3://{BUCKET}/retl/", "state: state")
    assert 3 == delivered(retl("run", "users", "--json")[1])
    edit(project / "retl.yml", "state: state", f"state: s3://{BUCKET}/retl/")
    for command in ("run", "plan"):
        code, _, said = retl(command, "users")
        assert (2, True) == (code, "retl move syncs/users.yml --from" in said), said
    code, told, said = retl("move", "users", "--from", "state")
    assert (0, True) == (code, "3 rows and 0 calls that wait moved from" in told), said
    assert [] == list(project.glob("state/*.duckdb"))
    assert 0 == delivered(retl("run", "users", "--json")[1])
    assert 2 == retl("move", "users", "--from", "state")[0]
    assert 0 == retl("move", "users", "--from", f"s3://{BUCKET}/retl/", "--state-dir", "state")[0]
    assert 0 == delivered(retl("run", "users", "--json", "--state-dir", "state")[1])
    assert 4 == retl("run", "users", "--expect-state", "--state-dir", f"s3://{BUCKET}/retl")[0]


def test_an_address_that_is_none_is_refused(bucket: Bucket, project: Path, retl: Retl) -> None:
    """The error names the place where it is written."""
    for wrong in ("s4://acme/retl/", "s3:///retl/", "https://acme/retl"):
        (project / "syncs/users.yml").write_text(f"{SYNC}state: {wrong}\n")
        code, _, said = retl("status", "users")
        assert (2, True) == (code, "syncs/users.yml:4 state: this is no address of a bucket" in said), said
    assert (2, True) == (lambda one: (one[0], "--state-dir: this is no" in one[2]))(
        retl("status", "users", "--state-dir", "ftp://acme/retl")
    )


@pytest.mark.thorough
def test_an_alert_is_sent_once_from_wherever_it_runs(
    bucket: Bucket, project: Path, segment: Sandbox, retl: Retl
) -> None:
    """What was told last is in the bucket as well, and a purge deletes it."""
    with Listener() as alerted:
        (project / "syncs/users.yml").write_text(f"{SYNC}notify: [{{webhook: {alerted.url}}}]\n")
        edit(project / "syncs/users.yml", "range(3)", "range(0)")
        for _ in range(2):
            assert 4 == retl("run", "users")[0]
        assert 1 == len(alerted.taken)
        edit(project / "syncs/users.yml", "range(0)", "range(3)")
        assert 0 == retl("run", "users")[0]
    assert 2 == len(alerted.taken)
    assert "retl/users.alerts" in bucket.objects
    retl("reset", "users", "--purge", "--yes")
    assert ["retl/users.json", "retl/users.lock"] == sorted(bucket.objects)


@pytest.mark.thorough
@pytest.mark.rule("Q9")
@pytest.mark.parametrize(
    ("fault", "words"), [("missing", "file is missing in the bucket"), ("other", "is not what was saved")]
)
def test_a_state_that_is_not_what_was_saved_is_refused(
    bucket: Bucket,
    project: Path,
    segment: Sandbox,
    retl: Retl,
    monkeypatch: pytest.MonkeyPatch,
    fault: str,
    words: str,
) -> None:
    """Where its file is missing, or another, a run ends with exit code 2 and sends nothing."""
    retl("run", "users")
    (key,) = (key for key in bucket.objects if key.startswith("retl/users/"))
    bucket.delete(key)
    if fault == "other":
        bucket.put(key, b"no state")
    monkeypatch.setenv("AWS_SESSION_TOKEN", "of another who has not fetched it")
    code, _, said = retl("run", "users", "--full", "--yes")
    assert (2, True) == (code, words in said), said
    assert 3 == len(segment.accepted)


@pytest.mark.parametrize("content", [b"[]", b"{}", b'{"retl_state": 1, "other": 2}', b"\xff"])
def test_a_pointer_that_is_none_is_refused(bucket: Bucket, project: Path, retl: Retl, content: bytes) -> None:
    """An object of somebody else's is not overwritten."""
    bucket.put("retl/users.json", content)
    code, _, said = retl("run", "users")
    assert (2, True) == (code, "this object was not made by retl" in said), said
    assert content == bucket.objects["retl/users.json"]


def test_a_pointer_of_a_newer_retl_is_refused(bucket: Bucket, project: Path, retl: Retl) -> None:
    """Its form is not guessed at."""
    bucket.put("retl/users.json", b'{"retl_state": 2}')
    code, _, said = retl("run", "users")
    assert (2, True) == (code, "was written by a newer retl" in said), said


@pytest.mark.thorough
def test_an_orphan_in_a_bucket_is_told_of(bucket: Bucket, project: Path, retl: Retl) -> None:
    """`retl status` says where it is, and a sync that could go on with it is told so."""
    retl("run", "users")
    (project / "syncs/users.yml").rename(project / "syncs/people.yml")
    assert "s3://acme/retl/users: no sync file is named `users`" in retl("status")[1]
    assert "if it was `users` before" in retl("run", "people")[2]


@pytest.mark.thorough
def test_the_environment_wins_over_the_file(
    bucket: Bucket, project: Path, retl: Retl, monkeypatch: pytest.MonkeyPatch
) -> None:
    """RETL_STATE_DIR may be a bucket or a folder, whatever `state` says."""
    monkeypatch.setenv("RETL_STATE_DIR", f"s3://{BUCKET}/other")
    assert 0 == retl("run", "users")[0]
    monkeypatch.setenv("RETL_STATE_DIR", "here")
    assert 0 == retl("run", "users")[0]
    assert (True, True) == ("other/users.json" in bucket.objects, (project / "here/users.duckdb").is_file())
    assert "retl/users.json" not in bucket.objects


@pytest.mark.thorough
def test_every_command_that_changes_a_state_saves_it(
    bucket: Bucket, project: Path, segment: Sandbox, retl: Retl, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is left of a run, taken back, given another key or reset is so for whoever comes next."""

    def on_another_machine(number: int) -> None:
        monkeypatch.setenv("AWS_SESSION_TOKEN", f"machine {number}")

    assert 1 == delivered(retl("run", "users", "--json", "--limit", "1")[1])
    on_another_machine(1)
    assert 2 == json.loads(retl("status", "users", "--json")[1])["pending"]
    assert 0 == retl("discard", "users", "--pending", "--yes")[0]
    on_another_machine(2)
    assert 2 == delivered(retl("run", "users", "--json")[1])
    edit(project / "retl.yml", '"write_key": "key"', '"write_key": "other"')
    assert 2 == retl("run", "users")[0]
    assert 0 == retl("rekey", "users", "--yes")[0]
    on_another_machine(3)
    assert 0 == delivered(retl("run", "users", "--json")[1])
    assert 0 == retl("reset", "users", "--yes")[0]
    on_another_machine(4)
    assert 3 == delivered(retl("run", "users", "--json")[1])
    assert 6 == len({call["messageId"] for call in segment.accepted})


@pytest.mark.thorough
def test_credentials_may_be_in_the_dotenv_file(
    bucket: Bucket, project: Path, retl: Retl, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As all other secrets of a project."""
    for name in bucket.settings:
        monkeypatch.delenv(name)
    (project / ".env").write_text("".join(f"{name}={value}\n" for name, value in bucket.settings.items()))
    assert 0 == retl("run", "users")[0]
    assert "retl/users.json" in bucket.objects
