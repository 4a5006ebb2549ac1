"""The contract of destinations: each of them does these things, whatever it speaks.

A new destination is one more entry of `PLACES`, with a way to look at what arrived.
"""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from delivery import KEY, FakeClock, fill, memory_state, numbers, send, waiting
from harness import Retl, runner

from retl.clock import SystemClock
from retl.delivery.destination import Action, Attempt, Destination
from retl.delivery.file import NdjsonFile
from retl.delivery.outbox import pages
from retl.delivery.rate_limit import RateLimiter
from retl.delivery.response import RetryPolicy
from retl.delivery.segment import Segment, Source
from retl.errors import ExternalError
from retl.sandbox.server import Sandbox

ROOT = Path(__file__).parent.parent


class Place:
    """A destination of one kind, and another of the same kind that fails.

    Attributes:
        destination: works.
        other: is another place.
        broken: takes nothing.
        arrived: gives the calls that came to `destination`, in order.
    """

    def __init__(
        self,
        destination: Destination,
        other: Destination,
        broken: Destination,
        arrived: Callable[[], list[dict[str, Any]]],
    ) -> None:
        self.destination = destination
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
    places = (NdjsonFile(folder / name, clock) for name in ("calls.ndjson", "others.ndjson", "folder"))
    return Place(*places, arrived)


def a_source(folder: Path, sandbox: Sandbox) -> Place:
    """A Segment source."""
    return Place(
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
        with made.destination, made.other, made.broken:
            yield made


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
    """Delivery cuts batches by the destination's own limits."""
    limits = place.destination.limits
    with memory_state() as state:
        fill(state, limits.calls + 1)
        delivery = send(state, place.destination)

    assert limits.bytes > 0
    assert delivery.batches >= 2
    assert limits.calls + 1 == len(place.arrived())


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
        (batch,) = pages(state.db, 0)
        attempts = (Attempt(number, number, SystemClock().now()) for number in range(2))
        decisions = [place.destination.send(batch, attempt) for attempt in attempts]

    assert [Action.DELIVERED] * 2 == [decision.action for decision in decisions]
    assert {"m0", "m1", "m2"} == {call["messageId"] for call in place.arrived()}


def test_the_id_tells_places_apart(place: Place) -> None:
    """A destination has the same id each time, another place has another, and no secret stands in it."""
    assert place.destination.id == place.destination.id
    assert place.destination.id != place.other.id
    assert KEY not in place.destination.id


def test_a_place_that_works_leaves_no_doubt(place: Place) -> None:
    """The check before the first call finds nothing against a place that works."""
    assert place.destination.check() is None


@pytest.mark.parametrize(
    ("before", "kept"),
    [
        (b"", []),
        (b'{"old":1}\n', ["old"]),
        (b'{"old":1}\n{"type":"tra', ["old"]),
        (b'{"type":"tra', []),
        (b'{"old":1}', ["old"]),
    ],
    ids=["empty", "whole", "cut off", "only a piece", "without its last end of line"],
)
def test_every_line_of_a_file_is_a_whole_call(tmp_path: Path, before: bytes, kept: list[str]) -> None:
    """A piece of a call that a killed process left goes, whatever was whole stays, new calls follow."""
    path = tmp_path / "calls.ndjson"
    path.write_bytes(before)
    with memory_state() as state, NdjsonFile(path, SystemClock()) as file:
        fill(state, 2)
        send(state, file)

    found = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert kept == [key for line in found for key in line if key == "old"]
    assert ["m0", "m1"] == [line["messageId"] for line in found if "messageId" in line]
    assert len(kept) + 2 == len(found)


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
