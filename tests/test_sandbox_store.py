"""The calls that a sandbox took, as tables."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime
from threading import Event
from typing import Any

import pytest
import urllib3
from posts import NOON, batch, call, post

from retl.sandbox.failures import Failures, Reply
from retl.sandbox.received import CallOutcome, ReceivedCall
from retl.sandbox.server import Sandbox
from retl.sandbox.store import Store


def received(seq: int, **fields: Any) -> ReceivedCall:
    """Make a call that was accepted at noon."""
    stamps = {"timestamp": "2026-03-01T12:00:00.000Z", "receivedAt": "2026-03-01T12:00:00.000Z"}
    accepted = {**call(f"m{seq}"), **stamps, **fields}
    return ReceivedCall(seq, NOON, CallOutcome.ACCEPTED, None, accepted, None, None)


@pytest.fixture
def store() -> Iterator[Store]:
    """Give a store that keeps twenty calls."""
    opened = Store(keep=20)
    yield opened
    opened.close()


def test_columns_of_a_call(http: urllib3.PoolManager) -> None:
    """A call is in the table with its ids, its moments, its outcome, and its body as Segment passes it on."""
    sent = call(
        type="track", event="Seen", anonymousId="a1", groupId="g1", timestamp="2026-03-01T13:00:00+02:00"
    )
    with Sandbox(now=lambda: NOON) as sandbox:
        body = batch(sent, sentAt="2026-03-01T12:30:00Z")
        post(http, sandbox, body, X_Retl_Sync="users", X_Retl_Run="r1")
        (row,) = sandbox.store.read("SELECT * FROM call")
        (accepted,) = sandbox.accepted

    assert accepted == json.loads(row.pop("body"))
    assert row == {
        "seq": 1,
        "received_at": NOON,
        "outcome": "accepted",
        "reason": None,
        "type": "track",
        "event": "Seen",
        "user_id": "u1",
        "anonymous_id": "a1",
        "group_id": "g1",
        "message_id": "m1",
        "sync": "users",
        "run_id": "r1",
        "original_timestamp": "2026-03-01T13:00:00+02:00",
        "timestamp": datetime(2026, 3, 1, 10, 30, tzinfo=UTC),
        "sent_at": "2026-03-01T12:30:00Z",
    }


def test_outcomes_are_in_order_of_arrival(http: urllib3.PoolManager) -> None:
    """Accepted, discarded and duplicate calls share one order, whether they came before or after a look."""
    with Sandbox() as sandbox:
        post(http, sandbox, batch(call("a"), "no object", call("a")))
        looked = sandbox.store.holdings()
        post(http, sandbox, batch(call("b", userId=7)))
        rows = sandbox.store.read("SELECT seq, outcome, reason, user_id FROM call ORDER BY seq")

    assert {"held": 3, "gone": 0, "last": 3} == looked
    assert [tuple(row.values()) for row in rows] == [
        (1, "accepted", None, "u1"),
        (2, "discarded", "bad_request", None),
        (3, "duplicate", None, "u1"),
        (4, "discarded", "id_not_string", "7"),
    ]


ODD_VALUES = {
    "an integer beyond 64 bits": 2**70,
    "half a surrogate pair": "\ud800",
    "the character 0": "a\x00b",
    "nested deep": json.loads("[" * 300 + "]" * 300),
    "a large float": 1e300,
}


@pytest.mark.parametrize("value", ODD_VALUES.values(), ids=ODD_VALUES)
def test_odd_values_are_kept(store: Store, value: Any) -> None:
    """Whatever JSON can say is in the table, as JSON that every reader takes."""
    store.add([received(1, traits={"odd": value}, event=value)], 0)

    (row,) = store.read("SELECT body, body->'traits'->'odd' AS odd FROM call")

    expected = "?" if value == "\ud800" else value
    assert expected == json.loads(row["odd"]) == json.loads(row["body"])["event"]


@pytest.mark.thorough
def test_the_oldest_calls_make_room(store: Store) -> None:
    """No more calls are held than there is room for, and the others are counted as gone."""
    for seq in range(1, 101):
        store.add([received(seq)], 0)
        store.read("SELECT 1")

    (row,) = store.read("SELECT min(seq) AS first, count(*) AS calls FROM call")
    holdings = store.holdings()
    assert 18 <= row["calls"] <= 20
    assert {"held": row["calls"], "gone": 100 - row["calls"], "last": 100} == holdings
    assert 101 - row["calls"] == row["first"]


def test_many_calls_at_once_make_room_too(store: Store) -> None:
    """A batch of more calls than there is room for leaves the newest of them."""
    store.add([received(seq) for seq in range(1, 1001)], 0)

    seqs = [row["seq"] for row in store.read("SELECT seq FROM call ORDER BY seq")]
    assert list(range(1001 - len(seqs), 1001)) == seqs
    assert 18 <= len(seqs) <= 20


@pytest.mark.thorough
def test_large_calls_make_room_by_their_bytes() -> None:
    """The text of the calls that are held has a limit as well."""
    store = Store(keep=1_000, most_bytes=50_000)
    for seq in range(1, 101):
        store.add([received(seq, traits={"text": "x" * 1_000})], 0)
        store.read("SELECT 1")

    (row,) = store.read("SELECT count(*) AS calls, sum(strlen(body)) AS bytes, max(seq) AS last FROM call")
    assert 30 <= row["calls"] < 50
    assert 50_000 >= row["bytes"]
    assert 100 == row["last"]
    store.close()


def test_clearing(store: Store) -> None:
    """Cleared, there are no calls and none is gone, and the order of arrival goes on."""
    for seq in range(1, 40):
        store.add([received(seq)], 0)
        store.read("SELECT 1")
    store.add([received(40)], 0)
    store.clear()

    assert {"held": 0, "gone": 0, "last": 40} == store.holdings()
    assert [] == store.read("SELECT seq FROM call")
    store.add([received(41)], 0)
    assert [{"seq": 41}] == store.read("SELECT seq FROM call")


def test_waiting_for_a_call(store: Store) -> None:
    """To wait for a call after another ends when there is one, or when the time is over."""
    store.add([received(1)], 0)

    assert store.wait(0, 5)
    assert not store.wait(1, 0)


def test_texts_are_read_while_calls_are_dropped(store: Store) -> None:
    """A reader that takes its time goes on with the calls that were there when it began."""
    store.add([received(seq) for seq in range(1, 20)], 0)
    texts = store.texts("SELECT message_id FROM call, range(1000) ORDER BY seq")
    first = next(texts)
    store.add([received(seq) for seq in range(20, 200)], 0)
    store.read("SELECT 1")

    assert [[f"m{seq}"] * 1_000 for seq in range(1, 20)] == [first, *texts]


def test_requests_and_what_they_got(http: urllib3.PoolManager) -> None:
    """A request is in the table with its calls, its status, and what was done wrong on purpose."""
    with Sandbox(failures=Failures.parse("rate=2")) as sandbox:
        assert [] == sandbox.store.read("SELECT * FROM request")
        sandbox.script([Reply(), Reply(503), Reply(lost=True)])
        for body in (batch(call("a"), call("b"), call("c")), batch(call("d"))):
            post(http, sandbox, body, X_Retl_Sync="users", X_Retl_Run="r1")
        with suppress(urllib3.exceptions.ProtocolError):
            post(http, sandbox, b"{")
        post(http, sandbox, batch(call("e")))
        http.request("GET", f"{sandbox.url}/v1/projects/key/settings")
        columns = "method, path, status, calls, sync, run_id, failure"
        rows = sandbox.store.read(f"SELECT {columns} FROM request ORDER BY received_at")
        (bytes_,) = sandbox.store.read("SELECT bytes FROM request WHERE calls = 3")

    assert [tuple(row.values()) for row in rows] == [
        ("POST", "/v1/batch", 200, 3, "users", "r1", None),
        ("POST", "/v1/batch", 503, 1, "users", "r1", "503"),
        ("POST", "/v1/batch", None, 0, None, None, "lost_answer"),
        ("POST", "/v1/batch", 429, 1, None, None, "rate"),
        ("GET", "/v1/projects/key/settings", 200, 0, None, None, None),
    ]
    assert {"bytes": len(json.dumps(batch(call("a"), call("b"), call("c"))))} == bytes_


def test_runs_are_counted_apart(http: urllib3.PoolManager) -> None:
    """Each run that tells its name has counts of its own; the one that sent last stands last."""
    with Sandbox(now=lambda: NOON) as sandbox:
        for run, calls in (("r1", [call("a")]), ("r2", [call("a"), "bad"]), ("r1", [call("b")])):
            post(http, sandbox, batch(*calls), X_Retl_Sync="users", X_Retl_Run=run)
        post(http, sandbox, batch(call("c")))

    of_both = {"sync": "users", "first_at": NOON, "last_at": NOON}
    assert sandbox.runs() == [
        {**of_both, "run_id": "r2", "accepted": 0, "discarded": 1, "duplicates": 1},
        {**of_both, "run_id": "r1", "accepted": 2, "discarded": 0, "duplicates": 0},
    ]


def test_a_cleared_sandbox_is_as_new(http: urllib3.PoolManager) -> None:
    """Cleared, the sandbox has seen no call: nothing is listed, counted, or a duplicate."""
    with Sandbox() as sandbox:
        for _ in range(2):
            post(http, sandbox, batch(call("a"), call("a"), "bad"), X_Retl_Sync="users", X_Retl_Run="r1")
            sandbox.store.read("SELECT 1")
            sandbox.clear()
            assert ([], [], [], [], []) == (
                sandbox.accepted,
                sandbox.discarded,
                sandbox.duplicates,
                sandbox.requests,
                sandbox.runs(),
            )
            assert {"requests": 0, "accepted": 0, "duplicates": 0, "discarded": {}} == sandbox.summary()
            assert [] == sandbox.store.read("SELECT method FROM request UNION ALL SELECT outcome FROM call")
        post(http, sandbox, batch(call("a")))
        assert [{"seq": 7}] == sandbox.store.read("SELECT seq FROM call")
        assert 1 == len(sandbox.accepted)


def test_failures_change_while_it_runs(http: urllib3.PoolManager) -> None:
    """The sandbox goes wrong as it was told last, and its words are those that it was told."""
    with Sandbox() as sandbox:
        sandbox.fail(Failures.parse("503=1"))
        assert 503 == post(http, sandbox, batch(call("a"))).status
        sandbox.fail(Failures.parse("rate=1"))
        assert [200, 429] == [post(http, sandbox, batch(call("a"), call("b"))).status for _ in range(2)]
        sandbox.fail(Failures())
        assert 200 == post(http, sandbox, batch(call("c"))).status


@pytest.mark.parametrize(
    "text", ["", "429=0.05,500=0.02,hang=0.01,lost_answer=0.02,latency=30ms,rate=1000", "latency=0.5ms"]
)
def test_failures_say_what_they_are(text: str) -> None:
    """Failures are written as they are read."""
    assert text == str(Failures.parse(text))


@pytest.mark.thorough
def test_readers_see_whole_tables_while_calls_come() -> None:
    """Whoever reads while calls come, and others make room, sees calls one after another, each once."""
    store = Store(keep=500)
    done = Event()

    def check() -> int:
        looks = 0
        while not done.is_set() or not looks:
            (row,) = store.read(
                "SELECT count(*) AS calls, count(DISTINCT seq) AS seqs, max(seq) - min(seq) + 1 AS span "
                "FROM call"
            )
            assert row["calls"] == row["seqs"] == (row["span"] or 0)
            looks += 1
        return looks

    with ThreadPoolExecutor(2) as threads:
        readers = [threads.submit(check) for _ in range(2)]
        for first in range(1, 2_001, 100):
            store.add([received(seq) for seq in range(first, first + 100)], 0)
            store.read("SELECT 1")
        done.set()
        assert all(reader.result() for reader in readers)
    assert 2_000 == sum(store.holdings()[name] for name in ("held", "gone"))
    store.close()


@pytest.mark.thorough
def test_full_parts_are_compressed() -> None:
    """Calls that were taken in take a part of their text's memory, and can be read all the same."""
    store = Store(keep=50_000)
    for first in range(1, 20_001, 5_000):
        calls = [
            received(seq, traits={"text": "the same words " * 20}) for seq in range(first, first + 5_000)
        ]
        store.add(calls, 0)
        store.settle()

    (row,) = store.read("SELECT count(*) AS calls, sum(strlen(body)) AS bytes FROM call")
    (memory,) = store.read("SELECT sum(memory_usage_bytes)::BIGINT AS bytes FROM duckdb_memory()")
    assert 20_000 == row["calls"]
    assert memory["bytes"] < row["bytes"] / 2
    store.close()


def test_no_call_goes_to_the_disk(store: Store) -> None:
    """Where memory runs short, calls are not written to a folder: they hold personal data."""
    assert [{"value": ""}] == store.read("SELECT value FROM duckdb_settings() WHERE name = 'temp_directory'")
