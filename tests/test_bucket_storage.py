"""One state in a bucket, as its storage has it: leases by a clock that stands, saves beside a reader."""

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from pathlib import Path

import pytest
from harness import NOON, StillClock

from retl.bucket.address import BucketAddress
from retl.bucket.lease import SECONDS, SECONDS_SURE, Lease
from retl.bucket.objects import Objects
from retl.bucket.storage import SECONDS_BETWEEN_SAVES, FileInBucket
from retl.errors import ConfigError, LockedError, RetlError, StorageError
from retl.lock import Holder
from retl.state import State, open_state
from torture.bucket import BUCKET, SETTINGS, Bucket

ADDRESS = BucketAddress("s3", BUCKET, "retl")

ME = Holder(1, "here", "noon")


class Standing(StillClock):
    """A clock at which a thread that waits does so to its end."""

    def wait(self, seconds: float, stop: threading.Event) -> bool:
        """Wait for `stop`."""
        return stop.wait(60)


@pytest.fixture(scope="module")
def server() -> Iterator[Bucket]:
    """A bucket for all tests of this file."""
    with Bucket() as bucket:
        yield bucket


@pytest.fixture
def bucket(server: Bucket) -> Bucket:
    """An empty bucket."""
    for key in server.objects:
        server.delete(key)
    server.fault = lambda method, key: None
    return server


def storage(bucket: Bucket, folder: Path, clock: StillClock | None = None) -> FileInBucket:
    """The state `users`, as one runner has it."""
    objects = Objects(ADDRESS, bucket.settings, retry_seconds=0)
    return FileInBucket(objects, "users", folder / "users.duckdb", None, clock or Standing())


@contextmanager
def opened(kept: FileInBucket) -> Iterator[State]:
    """Its state, held and open."""
    with kept.hold(NOON), open_state(kept.path, "users") as state:
        state.storage = kept
        yield state


def noted(kept: FileInBucket) -> str | None:
    """The destination that the state in the bucket has."""
    with kept.look(NOON), open_state(kept.path, "users") as state:
        return state.metadata.destination


def test_a_state_is_saved_beside_a_reader(bucket: Bucket, tmp_path: Path) -> None:
    """What was committed is in the bucket, though another thread reads, and DuckDB keeps it in its log."""
    kept, other = storage(bucket, tmp_path / "a"), storage(bucket, tmp_path / "b")
    with opened(kept) as state:
        reader = state.db.cursor()
        state.db.execute("CREATE TABLE state.many AS SELECT range AS n FROM range(300000)")
        assert (0,) == reader.execute("SELECT n FROM state.many").fetchone()
        state.rekey("hash", "elsewhere")
        state.save(leaving=True, alone=nullcontext())
        assert (other.exists(), "elsewhere") == (True, noted(other))
        state.rekey("hash", "nowhere")
        reader.close()
    assert "nowhere" == noted(other)


def test_saves_take_a_small_part_of_the_time(bucket: Bucket, tmp_path: Path) -> None:
    """The next one is due after a minute, or after ten times as long as the last one took."""
    clock = Standing()

    def take_long(method: str, key: str) -> None:
        if method == "PUT" and key.startswith("retl/users/"):
            clock.move(20)

    with opened(storage(bucket, tmp_path, clock)) as state:
        assert SECONDS_BETWEEN_SAVES == state.seconds_to_save()
        state.save(leaving=True)
        clock.move(SECONDS_BETWEEN_SAVES)
        assert 0 == state.seconds_to_save()
        bucket.fault = take_long
        state.rekey("hash", "elsewhere")
        state.save(leaving=True)
        assert 200 == state.seconds_to_save()


def test_a_runner_that_cannot_renew_its_lease_stops_in_time(bucket: Bucket, tmp_path: Path) -> None:
    """It is not sure of it any more before another one may take it over, whatever its own time of day."""
    clock = Standing()
    with opened(storage(bucket, tmp_path, clock)) as state:
        clock.move(SECONDS_SURE - 1)
        assert state.lost() is None
        clock.move(1)
        assert isinstance(state.lost(), StorageError)
        state.rekey("hash", "elsewhere")  # what it knows it may still save, as the pointer has not moved
    assert "elsewhere" == noted(storage(bucket, tmp_path / "other"))
    assert SECONDS_SURE < SECONDS


@pytest.mark.thorough
@pytest.mark.rule("Q6")
def test_a_runner_whose_lease_was_taken_over_saves_nothing(bucket: Bucket, tmp_path: Path) -> None:
    """Nor does it give back the lease that is another's by then."""
    late, next_one = storage(bucket, tmp_path / "a"), storage(bucket, tmp_path / "b")
    with ExitStack() as end:
        state = end.enter_context(opened(late))
        state.rekey("hash", "late")
        state.save(leaving=True)
        bucket.age("retl/users.lock", SECONDS + 20)
        with opened(next_one) as other:
            assert (True, "late") == (next_one.was_cut_off, other.metadata.destination)
            state.rekey("hash", "later")
            with pytest.raises(LockedError, match="another run has taken over"):
                state.save(leaving=True)
            other.rekey("hash", "next")
            with pytest.raises(LockedError):
                end.enter_context(storage(bucket, tmp_path / "c").hold(NOON, timeout=0))
        assert isinstance(state.lost(), LockedError)
    assert "next" == noted(storage(bucket, tmp_path / "d"))


@pytest.mark.rule("Q6")
def test_a_runner_that_wakes_up_saves_nothing_though_it_cannot_ask_whose_the_lease_is(
    bucket: Bucket, tmp_path: Path
) -> None:
    """Its first save is refused; the next is, too, where the question who has the lease failed meanwhile."""
    late, next_one = storage(bucket, tmp_path / "a"), storage(bucket, tmp_path / "b")
    with ExitStack() as end:
        state = end.enter_context(opened(late))
        bucket.age("retl/users.lock", SECONDS + 20)
        with opened(next_one) as other:
            other.rekey("hash", "next")
        bucket.fault = lambda method, key: "500" if (method, key) == ("GET", "retl/users.lock") else None
        for place in ("late", "later"):
            state.rekey("hash", place)
            with pytest.raises(LockedError, match="another run has taken over"):
                state.save(leaving=True)
        bucket.fault = lambda method, key: None
    assert "next" == noted(storage(bucket, tmp_path / "c"))


@pytest.mark.rule("Q6")
def test_a_runner_that_wakes_up_deletes_no_file_of_the_next(bucket: Bucket, tmp_path: Path) -> None:
    """It fell asleep when it had moved the pointer: files that came meanwhile are those of another."""
    late, next_one = storage(bucket, tmp_path / "a"), storage(bucket, tmp_path / "b")

    def sleep(method: str, key: str) -> None:
        if ("PUT", "retl/users.json") in bucket.requests:
            bucket.fault = lambda method, key: None
            bucket.age("retl/users.lock", SECONDS + 20)
            with opened(next_one) as other:
                other.rekey("hash", "next")

    with opened(late) as state:
        state.rekey("hash", "late")
        bucket.requests.clear()
        bucket.fault = sleep
        state.save(leaving=True)
        state.rekey("hash", "later")
        with pytest.raises(LockedError):
            state.save(leaving=True)
    assert "next" == noted(storage(bucket, tmp_path / "c"))


@pytest.mark.rule("Q6")
def test_a_machine_that_slept_asks_before_it_goes_on(bucket: Bucket) -> None:
    """No time passed while it slept, but the time of day did: its lease is renewed, or is another's."""

    class Woken(StillClock):
        def monotonic(self) -> float:
            """As if it had not slept."""
            return 0.0

    clock, objects = Woken(), Objects(ADDRESS, bucket.settings)
    lease = Lease(objects, "users.lock", clock)
    lease.take(ME, 0, "")
    clock.move(SECONDS)
    assert lease.lost() is None
    clock.move(SECONDS)
    bucket.age("retl/users.lock", SECONDS + 20)
    assert Lease(objects, "users.lock", StillClock()).take(ME, 0, "")
    assert isinstance(lease.lost(), LockedError)


def test_a_lease_is_given_back(bucket: Bucket) -> None:
    """The next one has it at once, also where the first one was renewed meanwhile."""
    objects = Objects(ADDRESS, bucket.settings)
    first, second = (Lease(objects, "users.lock", StillClock()) for _ in range(2))
    assert not first.take(ME, 0, "")
    first.renew("half of it")
    current = second.current()
    assert current is not None
    assert (ME, "half of it") == (current.holder, current.progress)
    with pytest.raises(LockedError):
        second.take(ME, 0, "")
    first.give_back()
    assert not second.take(ME, 0, "")
    second.give_back()


def test_of_many_that_want_a_lease_one_gets_it(bucket: Bucket) -> None:
    """Ten threads at once."""
    got: list[bool] = []

    def take() -> None:
        with suppress(LockedError):
            got.append(Lease(Objects(ADDRESS, bucket.settings), "users.lock", StillClock()).take(ME, 0, ""))

    threads = [threading.Thread(target=take) for _ in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [False] == got


@pytest.mark.rule("Q13")
@pytest.mark.parametrize("url", ["http://127.0.0.1:1", "https://user:pass@127.0.0.1:1/x"])
def test_errors_of_a_bucket_hold_no_secret(url: str) -> None:
    """An endpoint that cannot be reached is named by the bucket's address alone."""
    objects = Objects(ADDRESS, {**SETTINGS, "AWS_ENDPOINT_URL": url}, retry_seconds=0)
    with pytest.raises(RetlError) as caught:
        objects.read("users.json")
    said = f"{caught.value} {caught.value.hint} {caught.value.__cause__} {objects!r}"
    assert "s3://acme/retl/" in said
    assert [] == [word for word in ("never-to-be-seen", "AKIDTEST", "pass@") if word in said]


def test_a_bucket_without_credentials_is_an_error(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    """A service account that is not there is one of the settings to correct."""
    objects = Objects(
        BucketAddress("gs", BUCKET, ""), {"GOOGLE_SERVICE_ACCOUNT": "/nowhere.json"}, retry_seconds=0
    )
    with pytest.raises(ConfigError, match="cannot be opened"):
        objects.read("users.json")


@pytest.mark.parametrize("url", ["not a url", "localhost:9000", "https://", "http://localhost:no", "ftp://x"])
def test_an_endpoint_that_is_no_url_is_an_error(url: str) -> None:
    """The variable is named."""
    with pytest.raises(ConfigError, match="AWS_ENDPOINT_URL: this is not a URL"):
        Objects(ADDRESS, {**SETTINGS, "AWS_ENDPOINT_URL": url}).read("users.json")


@pytest.mark.rule("Q7")
@pytest.mark.parametrize("key", ["retl/users.json", "retl/users.lock"])
def test_a_write_whose_answer_got_lost_is_known_again(bucket: Bucket, tmp_path: Path, key: str) -> None:
    """The answers about the pointer or the lease get lost, and nobody takes that for another runner."""
    lost: list[str] = []

    def lose(method: str, name: str) -> str | None:
        if (method, name) != ("PUT", key) or len(lost) == 2:
            return None
        lost.append(name)
        return "lost"

    bucket.fault = lose
    with opened(storage(bucket, tmp_path / "a")) as state:
        for place in ("elsewhere", "nowhere"):
            state.rekey("hash", place)
            state.save(leaving=True)
        assert (None, [key, key]) == (state.lost(), lost)
    assert "nowhere" == noted(storage(bucket, tmp_path / "b"))


def test_a_write_that_comes_late_is_its_own(bucket: Bucket, tmp_path: Path) -> None:
    """A pointer that seemed not to be written, and was later, is no other run's."""

    def lose(method: str, name: str) -> str | None:
        if (method, name) == ("PUT", "retl/users.json"):
            return "lost"
        return "dropped" if (method, name) == ("GET", "retl/users.json") else None

    with opened(storage(bucket, tmp_path / "a")) as state:
        state.save(leaving=True)
        before = bucket.objects["retl/users.json"]
        bucket.fault = lose
        state.rekey("hash", "elsewhere")
        with pytest.raises(StorageError):
            state.save(leaving=True)
        late = bucket.objects["retl/users.json"]
        bucket.fault = lambda method, name: None
        state.rekey("hash", "nowhere")
        state.save(leaving=True)
    assert before != late
    assert "nowhere" == noted(storage(bucket, tmp_path / "b"))


@pytest.mark.rule("Q7")
@pytest.mark.parametrize(("times", "is_saved"), [(1, True), (3, True), (99, False)])
@pytest.mark.parametrize("is_first", [True, False])
def test_a_write_that_is_refused_though_nobody_else_wrote_is_tried_again(
    bucket: Bucket, tmp_path: Path, times: int, is_saved: bool, is_first: bool
) -> None:
    """A bucket that goes on so ends the run by an error, and no other runner is blamed."""
    left = [times]
    with opened(storage(bucket, tmp_path / "a")) as state:
        state.save(leaving=False)

    def refuse(method: str, name: str) -> str | None:
        if (method, name) != ("PUT", "retl/users.json") or not left[0]:
            return None
        left[0] -= 1
        return "409"

    with opened(storage(bucket, tmp_path / "a")) as state:
        if not is_first:
            state.save(leaving=True)
        bucket.fault = refuse
        state.rekey("hash", "elsewhere")
        if is_saved:
            state.save(leaving=True)
            assert (None, 0) == (state.lost(), left[0])
        else:
            with pytest.raises(StorageError, match="though nobody else wrote it"):
                state.save(leaving=True)
        bucket.fault = lambda method, name: None
        state.save(leaving=False)
    assert "elsewhere" == noted(storage(bucket, tmp_path / "b"))
