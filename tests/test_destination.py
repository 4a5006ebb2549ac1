"""The contract of destinations: each of them does these things, whatever it speaks.

A new destination is one more entry of `PLACES`, with a way to look at what arrived.
"""

import json
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from delivery import KEY, FakeClock, fill, memory_state, numbers, pages, rows, send, waiting
from harness import Retl, runner

from retl.clock import SystemClock
from retl.delivery.address import is_local, shown_address
from retl.delivery.destination import Action, Attempt, Destination
from retl.delivery.file import NdjsonFile
from retl.delivery.rate_limit import RateLimiter
from retl.delivery.response import RetryPolicy
from retl.delivery.segment import Segment, Source
from retl.errors import ExternalError, StorageError
from retl.sandbox.server import Sandbox

ROOT = Path(__file__).parent.parent


class Place:
    """A destination of one kind, and others of the same kind.

    Attributes:
        destination: works.
        again: the same place, opened once more.
        other: is another place.
        broken: takes nothing.
        arrived: gives the calls that came to `destination`, in order.
    """

    def __init__(
        self,
        destination: Destination,
        again: Destination,
        other: Destination,
        broken: Destination,
        arrived: Callable[[], list[dict[str, Any]]],
    ) -> None:
        self.destination = destination
        self.again = again
        self.other = other
        self.broken = broken
        self.arrived = arrived


def segment_at(url: str) -> Segment:
    """Segment at an address."""
    return Segment(Source(url, KEY), RateLimiter(0, SystemClock()), RetryPolicy(base=0.001, retries=1), 1)


def a_file(folder: Path, sandbox: Sandbox) -> Place:
    """A file."""
    path, clock = folder / "calls.ndjson", SystemClock()

    def arrived() -> list[dict[str, Any]]:
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]

    (folder / "folder").mkdir()
    names = ("calls.ndjson", "calls.ndjson", "others.ndjson", "folder")
    return Place(*(NdjsonFile(folder / name, name, clock) for name in names), arrived)


def a_source(folder: Path, sandbox: Sandbox) -> Place:
    """A Segment source."""
    return Place(
        segment_at(sandbox.url),
        segment_at(sandbox.url),
        segment_at("http://127.0.0.1:2"),
        segment_at("http://127.0.0.1:1"),
        lambda: sandbox.accepted,
    )


PLACES = {"segment": a_source, "file": a_file}


@pytest.fixture(params=PLACES)
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    """A place of each kind."""
    with Sandbox() as sandbox:
        made = PLACES[request.param](tmp_path, sandbox)
        with made.destination, made.again, made.other, made.broken:
            yield made


@pytest.mark.thorough
def test_all_calls_arrive_in_the_order_of_their_user(place: Place) -> None:
    """A delivery brings each call once, the calls of one user in their order, and empties the outbox."""
    with memory_state() as state:
        fill(state, 20_000, users=7, lanes=2)
        delivery = send(state, place.destination)

        assert (20_000, None) == (delivery.delivered, delivery.error)
        assert [] == waiting(state)
    assert sorted(numbers(place.arrived())) == list(range(20_000))
    for user in range(7):
        assert numbers(place.arrived(), f"u{user}") == list(range(user, 20_000, 7))


def test_no_batch_is_over_the_limits(place: Place) -> None:
    """Delivery cuts batches by the destination's own limits, in calls and in bytes."""
    limits = place.destination.limits
    for calls, pad in ((limits.calls + 1, 0), (200, 2 * limits.bytes // 200)):
        with memory_state() as state:
            fill(state, calls, pad=pad)
            delivery = send(state, place.destination)
            batches = rows(state, "SELECT calls, bytes FROM state.receipt")

        assert calls == delivery.delivered
        assert len(batches) >= 2
        assert max(calls for calls, _ in batches) <= limits.calls
        assert max(size for _, size in batches) <= limits.bytes


def test_a_place_that_takes_nothing_loses_nothing(place: Place) -> None:
    """A destination that fails ends the delivery with its address, and every call stays pending."""
    with memory_state() as state:
        fill(state, 5)
        delivery = send(state, place.broken, FakeClock(threads=1))

        assert isinstance(delivery.error, ExternalError)
        assert delivery.error.where
        assert delivery.error.hint
        assert 0 == delivery.delivered
        assert [0, 1, 2, 3, 4] == waiting(state)


def test_a_batch_that_is_sent_again_is_taken_again(place: Place) -> None:
    """Sending never remembers: the same batch is delivered twice, under the same message ids."""
    with memory_state() as state:
        fill(state, 3)
        (batch,) = pages(state)
        attempts = (Attempt(number, number, SystemClock().now()) for number in range(2))
        decisions = [place.destination.send(batch, attempt) for attempt in attempts]

    assert [Action.DELIVERED] * 2 == [decision.action for decision in decisions]
    assert {"m0", "m1", "m2"} == {call["messageId"] for call in place.arrived()}


def test_the_id_tells_places_apart(place: Place) -> None:
    """A destination has the same id each time, another place has another, and no secret stands in it."""
    assert place.destination.id == place.again.id
    assert place.destination.id != place.other.id
    assert KEY not in place.destination.id


def test_a_place_that_works_leaves_no_doubt(place: Place) -> None:
    """The check before the first call finds nothing against a place that works."""
    assert place.destination.check() is None


OLD = b'{"type":"track","messageId":"old"}'


@pytest.mark.parametrize(
    ("before", "kept"),
    [
        (b"", []),
        (OLD + b"\n", ["old"]),
        (OLD + b'\n{"type":"tra', ["old"]),
        (OLD + b'\n{"t', ["old"]),
        (OLD + b'\n{"type":"track","properties":{"a":' + b"[" * 30_000, ["old"]),
        (b'{"type":"tra', []),
        (OLD, ["old"]),
    ],
    ids=[
        "empty",
        "whole",
        "cut off",
        "cut off early",
        "cut off deep inside",
        "only a piece",
        "no end of line",
    ],
)
def test_every_line_of_a_file_is_a_whole_call(tmp_path: Path, before: bytes, kept: list[str]) -> None:
    """A piece of a call that a killed process left goes, whatever was whole stays, new calls follow."""
    path = tmp_path / "calls.ndjson"
    path.write_bytes(before)
    with memory_state() as state, NdjsonFile(path, "calls.ndjson", SystemClock()) as file:
        fill(state, 2)
        assert send(state, file).error is None

    found = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert [*kept, "m0", "m1"] == [line["messageId"] for line in found]


@pytest.mark.parametrize(
    "content",
    [
        b"id,name\n1,Ada\n2,Grace",
        b"id,name",
        b'[{"type":"track"}]',
        b'{"type":"track"}\nnot a call',
        OLD + b"\n" + b'{"type":"track","a":"' + b"x" * 200_000,
        bytes(range(256)),
    ],
    ids=["rows", "one line", "a list", "text behind a call", "a long line", "bytes"],
)
def test_a_file_of_something_else_is_left_alone(tmp_path: Path, content: bytes) -> None:
    """A file that holds anything but calls keeps every byte, and the calls stay pending."""
    path = tmp_path / "data.csv"
    path.write_bytes(content)
    file = NdjsonFile(path, "data.csv", SystemClock())
    with pytest.raises(StorageError, match="not a file of calls"):
        file.check()
    with memory_state() as state:
        fill(state, 2)
        delivery = send(state, file)
        assert [0, 1] == waiting(state)

    assert isinstance(delivery.error, StorageError)
    assert content == path.read_bytes()


def test_a_check_writes_nothing(tmp_path: Path) -> None:
    """To ask whether calls can be written makes no file, and takes no piece of a call away."""
    missing, cut_off = tmp_path / "missing.ndjson", tmp_path / "cut.ndjson"
    cut_off.write_bytes(OLD + b'\n{"type":"tra')
    for path in (missing, cut_off):
        assert NdjsonFile(path, path.name, SystemClock()).check() is None

    assert [cut_off] == list(tmp_path.iterdir())
    assert OLD + b'\n{"type":"tra' == cut_off.read_bytes()


def test_a_missing_folder_is_an_error(tmp_path: Path) -> None:
    """A folder that is not there is named, and not made: it may be a typing error."""
    with pytest.raises(StorageError, match="there is no folder"):
        NdjsonFile(tmp_path / "typo" / "calls.ndjson", "typo/calls.ndjson", SystemClock()).check()
    assert [] == list(tmp_path.iterdir())


@pytest.mark.thorough
def test_a_link_and_its_file_share_a_lock(tmp_path: Path) -> None:
    """Two syncs that reach one file by two names write one after another, so that no call is lost."""
    (tmp_path / "link.ndjson").symlink_to(tmp_path / "calls.ndjson")
    files = [NdjsonFile(tmp_path / name, name, SystemClock()) for name in ("calls.ndjson", "link.ndjson")]

    def write(file: NdjsonFile) -> int:
        with memory_state() as state:
            fill(state, 30_000)
            return send(state, file).delivered

    with ThreadPoolExecutor(2) as threads:
        assert [30_000, 30_000] == list(threads.map(write, files))
    lines = (tmp_path / "calls.ndjson").read_text(encoding="utf-8").splitlines()
    assert 60_000 == len(lines)
    assert {"calls.ndjson", "calls.ndjson.lock", "link.ndjson"} == {one.name for one in tmp_path.iterdir()}


@pytest.fixture
def retl(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Retl:
    """Runs commands in a copy of the example project, whose calls go to a file."""
    for name in ("models", "syncs", "data"):
        shutil.copytree(ROOT / name, tmp_path / name)
    (tmp_path / "retl.yml").write_text(
        'warehouse: "duckdb://"\nsegment: {endpoint: "file:calls.ndjson"}\n', encoding="utf-8"
    )
    monkeypatch.chdir(tmp_path)
    return runner(capsys)


@pytest.mark.thorough
def test_a_run_writes_its_calls_to_the_file_that_the_endpoint_names(retl: Retl, tmp_path: Path) -> None:
    """A sync with a file as endpoint needs no write key, sends only what changed, and has its own state."""
    code, out, err = retl("run", "users")
    assert (0, "") == (code, err)
    assert "5 calls delivered" in out
    code, out, _ = retl("run", "users")
    assert "no changes" in out

    lines = (tmp_path / "calls.ndjson").read_text(encoding="utf-8").splitlines()
    assert ["identify"] * 5 == [json.loads(line)["type"] for line in lines]
    assert ["users.file.duckdb"] == [path.name for path in (tmp_path / "state").glob("*.duckdb")]


def test_a_call_is_one_line_whatever_its_json_looks_like(retl: Retl, tmp_path: Path) -> None:
    """The line breaks of a JSON column are spaces in the file, so that each line is a whole call."""
    (tmp_path / "models/users.sql").write_text("""SELECT 'u1' AS user_id, '{\n"n": 1\r\n}'::JSON AS email""")
    (tmp_path / "syncs/users.yml").write_text(
        "model: users\nprimary_key: user_id\nidentify: {user_id: user_id, traits: {email: email}}\n"
    )

    assert 0 == retl("run", "users")[0]
    (line,) = (tmp_path / "calls.ndjson").read_text(encoding="utf-8").splitlines()
    assert '"traits":{"email":{ "n": 1  }}' in line


@pytest.mark.thorough
def test_a_project_that_moves_keeps_its_file(
    retl: Retl, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file is known by its path as the sync has it, so that a project may be mounted elsewhere."""
    assert 0 == retl("run", "users")[0]
    monkeypatch.chdir(tmp_path.parent)
    moved = tmp_path.with_name(f"{tmp_path.name}-moved")
    tmp_path.rename(moved)
    monkeypatch.chdir(moved)

    code, out, _ = retl("run", "users")
    assert 0 == code
    assert "no changes" in out


@pytest.mark.thorough
def test_another_file_is_another_destination(retl: Retl, tmp_path: Path) -> None:
    """A sync whose file changes is stopped, with the ways on that a file has."""
    assert 0 == retl("run", "users")[0]
    text = (tmp_path / "retl.yml").read_text(encoding="utf-8")
    (tmp_path / "retl.yml").write_text(text.replace("calls.ndjson", "others.ndjson"), encoding="utf-8")

    code, _, err = retl("run", "users")
    assert 2 == code
    assert "segment.endpoint" in err
    assert "a new file: retl reset syncs/users.yml" in err
    assert "a first pass, which sends every row" in retl("reset", "users", "--yes")[1]
    assert 0 == retl("run", "users")[0]
    assert 5 == len((tmp_path / "others.ndjson").read_text(encoding="utf-8").splitlines())


def test_a_plan_for_a_file_counts_calls_alone(retl: Retl) -> None:
    """A plan names the file, and neither requests nor API calls, which a file has not."""
    code, out, _ = retl("plan", "users")
    assert 0 == code
    assert "5 calls of 5 users, 2.1 kB, to calls.ndjson" in out
    assert "API calls" not in out


@pytest.mark.parametrize(
    ("endpoint", "local"),
    [
        ("http://127.0.0.1:8765", True),
        ("http://user:secret@LOCALHOST./v1?key=secret", True),
        ("http://app.localhost", True),
        ("http://[::1]:8765", True),
        ("http://[::ffff:127.0.0.1]", True),
        ("http://127.1", True),
        ("http://0.0.0.0:80", True),
        ("https://api.segment.io", False),
        ("http://10.0.0.1", False),
        ("http://127.0.0.1.example.com", False),
        ("http://[bad", False),
        ("file:calls.ndjson", False),
    ],
)
def test_an_endpoint_on_this_machine_is_known_as_such(endpoint: str, local: bool) -> None:
    """All spellings of this very machine are recognised, before and after they are made fit to be shown."""
    assert local == is_local(endpoint)
    if "bad" not in endpoint:
        assert local == is_local(shown_address(endpoint, KEY))


def test_a_shown_address_has_no_secret() -> None:
    """An endpoint is shown without account and query, and a write key by a short hash."""
    shown = shown_address("https://user:secret@example.com:8443/in?token=secret#secret", "secret")
    assert shown.startswith("https://example.com:8443/in, write key #")
    assert "secret" not in shown
    assert shown != shown_address("https://example.com:8443/in", "other")
