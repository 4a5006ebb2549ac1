"""Runs whose state is in a bucket: killed at each step, ten at once, and one that wakes up too late."""

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from subprocess import Popen

import pytest
import runs
from runs import until, write_sync

from retl.bucket.lease import SECONDS
from retl.sandbox.failures import Reply
from retl.sandbox.server import Sandbox
from torture.bucket import BUCKET, Bucket

pytestmark = pytest.mark.slow


@pytest.fixture
def bucket() -> Iterator[Bucket]:
    """An empty bucket."""
    with Bucket() as bucket:
        yield bucket


@pytest.fixture
def project(tmp_path: Path, sandbox: Sandbox) -> Path:
    """A project with one sync of 50 users."""
    return write_sync(tmp_path, sandbox.url, f"state: s3://{BUCKET}/retl/\n")


def start(project: Path, bucket: Bucket, *options: str) -> Popen[str]:
    """A run with its state in the bucket."""
    return runs.start(project, "--json", *options, **bucket.settings, TMPDIR=str(project))


def calls(process: Popen[str]) -> dict[str, int]:
    """The counts of calls of a run that ended well."""
    told, said = process.communicate(timeout=120)
    assert 0 == process.returncode, said
    return dict(json.loads(told)["calls"])


def message_ids(sandbox: Sandbox) -> int:
    """How many calls arrived, each once."""
    return len({call["messageId"] for call in sandbox.accepted})


@pytest.mark.rule("Q2")
@pytest.mark.parametrize("write", range(10))
def test_a_run_that_is_killed_at_a_write_is_made_up_for(
    project: Path, sandbox: Sandbox, bucket: Bucket, write: int
) -> None:
    """Whichever write was its last: the next run makes up for it, under the same message ids."""
    left, dead = [write], threading.Event()

    def kill(method: str, key: str) -> str | None:
        if dead.is_set() or method != "PUT":
            return None
        left[0] -= 1
        if left[0] >= 0:
            return None
        dead.set()
        killed.kill()
        return "lost"

    bucket.fault = kill
    killed = start(project, bucket)
    killed.communicate(timeout=120)
    bucket.fault = lambda method, key: None
    if "retl/users.lock" in bucket.objects:
        bucket.age("retl/users.lock", SECONDS + 20)
    calls(start(project, bucket))
    assert 50 == message_ids(sandbox)
    assert 1 == len([key for key in bucket.objects if key.startswith("retl/users/")])


@pytest.mark.rule("Q3")
def test_calls_that_left_before_a_run_was_killed_count_as_unsure(
    project: Path, sandbox: Sandbox, bucket: Bucket
) -> None:
    """The next run cannot know which of them left, so that all go out again, under the same message ids."""
    sandbox.script([Reply(hang=True)])
    killed = start(project, bucket)
    until(lambda: len(sandbox.requests) == 1)
    killed.kill()
    killed.communicate()
    bucket.age("retl/users.lock", SECONDS + 20)
    sent = calls(start(project, bucket))
    assert (50, 50) == (sent["delivered"], sent["unsure"])
    assert 50 == message_ids(sandbox)


@pytest.mark.rule("Q12")
def test_a_killed_run_leaves_its_rows_on_no_disk_for_long(
    project: Path, sandbox: Sandbox, bucket: Bucket
) -> None:
    """The next run of that machine removes the working folder of the one that was killed."""
    sandbox.script([Reply(hang=True)])
    killed = start(project, bucket)
    until(lambda: len(sandbox.requests) == 1)
    killed.kill()
    killed.communicate()
    assert [] != list(project.glob("retl-state-*/users.duckdb"))
    bucket.age("retl/users.lock", SECONDS + 20)
    calls(start(project, bucket))
    assert [] == list(project.glob("retl-state-*"))


@pytest.mark.rule("Q4")
def test_of_ten_runners_one_sends_and_the_others_wait_their_turn(
    project: Path, sandbox: Sandbox, bucket: Bucket
) -> None:
    """All end well, and each user has one call."""
    runners = [start(project, bucket, "--wait", "--deadline", "300s") for _ in range(10)]
    assert [50, *[0] * 9] == sorted((calls(one)["delivered"] for one in runners), reverse=True)
    assert (50, []) == (message_ids(sandbox), sandbox.duplicates)


@pytest.mark.rule("Q6")
def test_a_runner_that_wakes_up_too_late_commits_nothing(
    project: Path, sandbox: Sandbox, bucket: Bucket
) -> None:
    """Another has taken over its lease: it ends with exit code 5, and what the other saved stays."""
    sandbox.script([Reply(hang=True), Reply()])
    late = start(project, bucket)
    until(lambda: len(sandbox.requests) == 1)
    bucket.age("retl/users.lock", SECONDS + 20)
    sent = calls(start(project, bucket))
    saved = bucket.objects["retl/users.json"]
    _, said = late.communicate(timeout=120)
    assert 50 == sent["delivered"]
    assert (5, True) == (late.returncode, "another run has taken over this sync" in said), said
    assert saved == bucket.objects["retl/users.json"]
    assert 50 == message_ids(sandbox)
