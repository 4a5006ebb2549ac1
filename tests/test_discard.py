"""Calls that were refused go again or are forgotten; calls that wait are taken back."""

import re
from pathlib import Path
from typing import Any

import pytest
from delivery import IDENTIFY, NOON, TRACK, Shop, Table, rows, segment
from harness import Retl, runner

from retl.delivery import outbox, rejected
from retl.discard import Waiting, discard_pending, discard_rejected, waiting
from retl.engine.snapshot import forget
from retl.job import Job, Options
from retl.retry import Retry, retry
from retl.sandbox.failures import Reply
from retl.sandbox.server import Sandbox
from retl.state import State, open_state

IDENTIFY_AND_REMOVED = IDENTIFY.replace(
    "plan: plan}", "plan: plan}\n  removed: {traits: {gone: {value: true}}}"
)


AUDIENCE = """\
sql: SELECT * FROM users
primary_key: id
audience: {user_id: user, name: VIP}
initial: send
guards: {removed: off, changed: off, added: off, min_rows: 0}
"""


def people(**plans: str | None) -> Table:
    """Users by name, each with a plan."""
    return Table({"id": list(plans), "name": [name.upper() for name in plans], "plan": list(plans.values())})


def again(shop: Shop, stale: bool = False) -> Retry:
    """`retl retry` of a shop's sync."""
    with open_state(shop.state_path, "shop") as state, segment(shop.url) as to:
        job = Job(shop.sync, shop.model, state, people(), Options(), shop.clock)
        return retry(job, to, stale)


def sent_once_more(shop: Shop) -> None:
    """A `retl retry` that was killed before its calls left."""
    with opened(shop) as state, state.transaction():
        assert 1 == rejected.take_again(state.db, stale=False, run_id="again", now=NOON)
        outbox.enqueue_again(state.db)


def opened(shop: Shop) -> State:
    """The state of a shop's sync."""
    return open_state(shop.state_path, "shop")


def sent(sandbox: Sandbox, after: int) -> list[tuple[str, Any]]:
    """The calls that arrived after so many, each as the user and the traits or properties."""
    return [(call["userId"], call.get("traits", call.get("properties"))) for call in sandbox.accepted[after:]]


@pytest.mark.thorough
@pytest.mark.rule("L15")
def test_refused_calls_go_again_under_their_ids(tmp_path: Path, sandbox: Sandbox) -> None:
    """What Segment refused once and takes now arrives by `retry`, as it was, and is rejected no more."""
    shop = Shop(tmp_path, sandbox.url, IDENTIFY)
    sandbox.reject_if = lambda call: call["userId"] in {"ada", "dan"}
    first = shop.run(people(ada="pro", bob="free", eve="free", dan="free"))
    assert (1, 2, 2) == (first.exit_code, first.calls.delivered, first.calls.rejected)
    refused = next(call for call in sandbox.requests[0].parsed["batch"] if call["userId"] == "ada")
    still = again(shop)
    assert (1, 0, 2, 0) == (
        still.run.exit_code,
        still.run.calls.delivered,
        still.run.calls.rejected,
        still.run.calls.pending,
    )
    sandbox.reject_if = None
    result = again(shop)
    assert (0, 2, 2, 0) == (
        result.run.exit_code,
        result.run.calls.enqueued,
        result.run.calls.delivered,
        result.run.calls.pending,
    )
    assert [(refused["messageId"], refused["traits"])] == [
        (call["messageId"], call["traits"]) for call in sandbox.accepted if call["userId"] == "ada"
    ]
    assert 0 == (again(shop).run.calls.enqueued or 0)
    with opened(shop) as state:
        assert Waiting(0, 0) == waiting(state)


@pytest.mark.thorough
@pytest.mark.rule("L15")
@pytest.mark.parametrize("newer_run", [True, False])
def test_a_refused_call_that_was_overtaken_goes_again_only_when_asked(
    tmp_path: Path, sandbox: Sandbox, newer_run: bool
) -> None:
    """A late call must not undo a newer one of its user, of the same run or of a later one."""
    shop = Shop(tmp_path, sandbox.url, TRACK)
    sandbox.reject_if = lambda call: call["properties"] == {"id": "1", "value": 0}
    shop.run(Table({"id": ["0"], "owner": ["eve"], "value": [0]}))
    ids = ["0", "1"] if newer_run else ["0", "1", "2"]
    owners = ["eve", "ada", "ada"][: len(ids)]
    first = shop.run(Table({"id": ids, "owner": owners, "value": [1] + [0] * (len(ids) - 1)}))
    assert 1 == first.calls.rejected
    if newer_run:
        shop.run(Table({"id": ids, "owner": owners, "value": [1, 1]}))
    sandbox.reject_if = None
    stays = again(shop)
    assert (0, 1) == (stays.run.calls.enqueued, stays.left.overtaken)
    sandbox.reject_if = lambda _: True
    assert 1 == again(shop, stale=True).run.calls.rejected
    sandbox.reject_if = None
    assert 1 == again(shop).left.overtaken
    goes = again(shop, stale=True)
    assert (1, 1, 0) == (goes.run.calls.enqueued, goes.run.calls.delivered, goes.left.overtaken)


@pytest.mark.rule("L16")
def test_a_refused_call_goes_again_once_the_newer_one_is_discarded(tmp_path: Path, sandbox: Sandbox) -> None:
    """A call that waits keeps an older one of its user back; once it is dropped, nothing else tells of it."""
    shop = Shop(tmp_path, sandbox.url, IDENTIFY)
    sandbox.reject_if = lambda call: call["userId"] == "ada"
    assert 1 == shop.run(people(ada="pro", bob="pro")).calls.rejected
    sandbox.reject_if = lambda _: True
    assert 3 == shop.run(people(ada="new", bob="new")).exit_code
    assert (0, 2, 1) == (
        (kept := again(shop)).run.calls.enqueued,
        kept.run.calls.pending,
        kept.left.overtaken,
    )
    with opened(shop) as state:
        assert 2 == discard_pending(state, NOON)
    sandbox.reject_if = None
    seen = len(sandbox.accepted)
    assert (1, 0) == ((goes := again(shop)).run.calls.delivered, goes.left.overtaken)
    assert [("ada", {"name": "ADA", "plan": "pro"})] == sent(sandbox, seen)


@pytest.mark.thorough
@pytest.mark.rule("L16")
def test_pending_calls_are_taken_back(tmp_path: Path, sandbox: Sandbox) -> None:
    """After `discard --pending` the next run finds the same changes anew, against what was delivered."""
    shop = Shop(tmp_path, sandbox.url, IDENTIFY_AND_REMOVED)
    shop.run(people(ada="pro", bob="free", eve="free", dan="pro"))
    seen = len(sandbox.accepted)
    changed = people(ada=None, bob="pro", eve="free", fay="pro")
    sandbox.reject_if = lambda _: True
    for table in (changed, people(ada="x", bob="y", eve="z", fay="w")):
        assert 3 == shop.run(table).exit_code
    with opened(shop) as state:
        before = waiting(state)
        assert (before.pending, 0) == (discard_pending(state, NOON), waiting(state).pending)
        assert [("ada", "pro"), ("bob", "free"), ("dan", "pro"), ("eve", "free")] == rows(
            state, "SELECT key, row.plan FROM state.snapshot ORDER BY key"
        )
        assert [] == rows(state, "SELECT key FROM state.replaced")
    sandbox.reject_if = None
    run = shop.run(changed)
    assert (0, 1, 2, 1, 4) == (run.exit_code, run.added, run.changed, run.removed, run.calls.delivered)
    assert [
        ("ada", {"name": "ADA", "plan": None}),
        ("bob", {"name": "BOB", "plan": "pro"}),
        ("dan", {"gone": True}),
        ("fay", {"name": "FAY", "plan": "pro"}),
    ] == sorted(sent(sandbox, seen))


@pytest.mark.thorough
def test_pending_calls_are_taken_back_after_an_edit_of_the_mapping(tmp_path: Path, sandbox: Sandbox) -> None:
    """Rows are put back in the shape that the snapshot has by then."""
    Shop(tmp_path, sandbox.url, IDENTIFY).run(people(ada="pro", bob="free", eve="free"))
    sandbox.reject_if = lambda _: True
    assert 3 == Shop(tmp_path, sandbox.url, IDENTIFY).run(people(ada="x", bob="x", eve="free")).exit_code
    shop = Shop(tmp_path, sandbox.url, IDENTIFY.replace("plan: plan", "tier: plan"))
    assert 3 == shop.run(people(ada="x", bob="x", eve="y")).exit_code
    with opened(shop) as state:
        assert 3 <= discard_pending(state, NOON)
        assert [("ada", "pro"), ("bob", "free"), ("eve", "free")] == rows(
            state, "SELECT key, row.plan FROM state.snapshot ORDER BY key"
        )


@pytest.mark.slow
@pytest.mark.rule("L16")
def test_a_change_behind_a_call_that_is_sent_again_is_taken_back(tmp_path: Path, sandbox: Sandbox) -> None:
    """Calls of --full, and calls that were refused before, do not hide the change of a row behind them.

    One that was refused before stays rejected.
    """
    shop = Shop(tmp_path, sandbox.url, IDENTIFY_AND_REMOVED)
    before = people(ada="pro", bob="pro", eve="pro")
    shop.run(before)
    sandbox.reject_if = lambda _: True
    assert 3 == shop.run(before, Options(full=True)).exit_code
    assert 3 == shop.run(people(ada="new", bob="new", eve="pro")).exit_code
    with opened(shop) as state:
        assert 5 == discard_pending(state, NOON)
        assert [("pro",)] == rows(state, "SELECT DISTINCT row.plan FROM state.snapshot")

    sandbox.reject_if = lambda call: call["traits"].get("plan") == "bad"
    shop.run(people(ada="bad", bob="new", eve="pro"))
    sent_once_more(shop)
    sandbox.reject_if, sandbox.reply_if = None, lambda _: Reply(500)
    assert 3 == shop.run(people(bob="new", eve="pro"), Options(deadline_seconds=3)).exit_code
    with opened(shop) as state:
        assert (1, Waiting(0, 1)) == (discard_pending(state, NOON), waiting(state))
        assert [("ada", False)] == rows(state, "SELECT key, stale FROM state.snapshot WHERE key = 'ada'")
    sandbox.reply_if = None
    assert (1, 1) == ((run := shop.run(people(bob="new", eve="pro"))).removed, run.calls.delivered)


@pytest.mark.rule("L16")
def test_a_call_that_a_killed_retry_sends_stays_rejected(tmp_path: Path, sandbox: Sandbox) -> None:
    """To discard what waits takes it back into the rejected calls, as its row went on without it."""
    shop = Shop(tmp_path, sandbox.url, IDENTIFY)
    sandbox.reject_if = lambda call: call["userId"] == "ada"
    shop.run(people(ada="pro", bob="pro"))
    before = "SELECT * EXCLUDE (rejected_in, unsure) FROM state.rejected_call"
    with opened(shop) as state:
        refused = rows(state, before)
    sent_once_more(shop)
    with opened(shop) as state:
        assert 0 == discard_pending(state, NOON)
        assert refused == rows(state, before) != []
        assert Waiting(0, 1) == waiting(state)
    sandbox.reject_if = None
    assert ((1, 1), 0) == (
        (again(shop).run.calls.delivered, len(sent(sandbox, 1))),
        again(shop).left.overtaken,
    )


@pytest.mark.thorough
@pytest.mark.rule("L16")
def test_a_reset_leaves_nothing_to_put_back(tmp_path: Path, sandbox: Sandbox) -> None:
    """After a reset calls of before have no rows; those of the first pass that follows are taken back."""
    shop = Shop(tmp_path, sandbox.url, IDENTIFY)
    shop.run(people(ada="pro", bob="pro"))
    sandbox.reject_if = lambda _: True
    assert 3 == shop.run(people(ada="new", bob="new")).exit_code
    with opened(shop) as state, state.transaction():
        forget(state)
    assert 3 == shop.run(people(ada="new", bob="new")).exit_code
    with opened(shop) as state:
        assert 4 == discard_pending(state, NOON)
        assert [] == rows(state, "SELECT key FROM state.snapshot")


@pytest.mark.thorough
@pytest.mark.rule("K17")
def test_a_call_that_is_sent_again_is_no_rest_of_a_full_run(tmp_path: Path, sandbox: Sandbox) -> None:
    """A --full that ended is not resumed because one of its calls was refused and waits once more."""
    shop = Shop(tmp_path, sandbox.url, IDENTIFY)
    table = people(ada="pro", bob="pro", eve="pro")
    shop.run(table)
    sandbox.reject_if = lambda call: call["userId"] == "ada"
    assert (1, 1) == ((run := shop.run(table, Options(full=True))).exit_code, run.calls.rejected)
    sent_once_more(shop)
    sandbox.reject_if = None
    full = shop.run(table, Options(full=True))
    assert (True, 3, 4) == (full.full, full.calls.enqueued, full.calls.delivered)


def test_calls_that_fail_again_say_why(tmp_path: Path, sandbox: Sandbox) -> None:
    """A retry that an outage ends is not called a refusal, and its calls are kept."""
    shop = Shop(tmp_path, sandbox.url, IDENTIFY)
    sandbox.reject_if = lambda call: call["userId"] == "ada"
    shop.run(people(ada="pro", bob="free", eve="free"))
    sandbox.script([Reply(501)] * 9)
    result = again(shop).run
    assert (3, 0, 1) == (result.exit_code, result.calls.pending, result.calls.rejected)


@pytest.mark.rule("L16")
def test_a_first_pass_that_is_taken_back_is_a_first_pass_again(tmp_path: Path, sandbox: Sandbox) -> None:
    """Where nothing was ever delivered, `discard --pending` leaves a state without a snapshot."""
    shop = Shop(tmp_path, sandbox.url, IDENTIFY)
    sandbox.reject_if = lambda _: True
    assert 3 == shop.run(people(ada="pro", bob="free")).exit_code
    with opened(shop) as state:
        assert 2 == discard_pending(state, NOON)
        assert (None, None) == (state.metadata.first_pass, state.metadata.mapping)


@pytest.mark.thorough
@pytest.mark.rule("L16")
def test_one_of_two_calls_of_a_change_is_not_taken_back(tmp_path: Path, sandbox: Sandbox) -> None:
    """Where a user has left an audience and the next one has not come yet, the call for that stays."""
    shop = Shop(tmp_path, sandbox.url, AUDIENCE)
    shop.run(Table({"id": ["k"], "user": ["ada"]}))
    moved = Table({"id": ["k"], "user": ["bob"]})
    assert 1 == shop.run(moved, Options(limit=1)).calls.pending
    with opened(shop) as state:
        assert 0 == discard_pending(state, NOON)
    shop.run(Table({"id": ["k"], "user": ["ada"]}))
    assert [
        ("ada", "Entered"),
        ("ada", "Exited"),
        ("bob", "Entered"),
        ("bob", "Exited"),
        ("ada", "Entered"),
    ] == [(call["userId"], call["event"].removeprefix("Segment ")) for call in sandbox.accepted]


@pytest.mark.thorough
@pytest.mark.rule("L16")
def test_a_column_of_another_type_keeps_what_is_put_back(tmp_path: Path, sandbox: Sandbox) -> None:
    """A text that was delivered is put back as it was, though the column holds numbers by then."""
    shop = Shop(tmp_path, sandbox.url, IDENTIFY)
    shop.run(people(ada="abc", bob="abc"))
    sandbox.reject_if = lambda _: True
    assert 3 == shop.run(people(ada="def", bob="def")).exit_code
    numbers = Table({"id": ["ada", "bob"], "name": ["ADA", "BOB"], "plan": [1, 2]})
    assert 3 == shop.run(numbers).exit_code
    with opened(shop) as state:
        discard_pending(state, NOON)
        assert [("abc",)] == rows(state, "SELECT DISTINCT row.plan ->> '$' FROM state.snapshot")


@pytest.mark.thorough
def test_a_silent_baseline_is_none_again_only_by_a_reset(tmp_path: Path, sandbox: Sandbox) -> None:
    """After a silent baseline, changes that are taken back are changes for the next run, too."""
    shop = Shop(tmp_path, sandbox.url, AUDIENCE.replace("initial: send\n", ""))
    shop.run(Table({"id": ["k"], "user": ["ada"]}))
    sandbox.reject_if = lambda _: True
    assert 3 == shop.run(Table({"id": ["l", "m"], "user": ["bob", "eve"]})).exit_code
    with opened(shop) as state:
        discard_pending(state, NOON)
    sandbox.reject_if = None
    run = shop.run(Table({"id": ["l", "m"], "user": ["bob", "eve"]}))
    assert (False, 3) == (run.baseline, run.calls.delivered)


def test_rejected_calls_are_forgotten(tmp_path: Path, sandbox: Sandbox) -> None:
    """`discard` forgets the rejected calls and nothing else."""
    shop = Shop(tmp_path, sandbox.url, IDENTIFY)
    sandbox.reject_if = lambda call: call["userId"] == "ada"
    shop.run(people(ada="pro", bob="free", eve="free"))
    with opened(shop) as state:
        assert 1 == discard_rejected(state, NOON)
        assert Waiting(0, 0) == waiting(state)
    assert (0, 0) == ((run := shop.run(people(ada="pro", bob="free", eve="free"))).exit_code, run.changed)


@pytest.fixture
def retl(
    tmp_path: Path, sandbox: Sandbox, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Retl:
    """Give a runner of commands in a project with a sync of three users."""
    (tmp_path / "syncs").mkdir()
    (tmp_path / "syncs" / "users.yml").write_text(
        f"sql: SELECT * FROM (VALUES ('ada'), ('bob'), ('eve')) AS t (id)\\nprimary_key: id\\n"
        f"warehouse: duckdb://\\nsegment: {{endpoint: '{sandbox.url}', write_key: key}}\\n"
        "identify: {user_id: id}\\n".replace("\\n", "\n"),
        encoding="utf-8",
    )
    monkeypatch.chdir(tmp_path)
    return runner(capsys)


@pytest.mark.thorough
def test_the_commands_say_what_they_did(retl: Retl, sandbox: Sandbox) -> None:
    """`retry` and `discard` tell how many calls went where, and exit as a run would."""
    assert (0, "users: there are no calls to send again\n") == retl("retry", "users")[:2]
    assert (0, "users: there are no calls to discard\n") == retl("discard", "users")[:2]
    sandbox.reject_if = lambda call: call["userId"] == "ada"
    assert 1 == retl("run", "users")[0]
    refused_again = retl("retry", "users")[:2]
    assert (1, "users: 1 call sent again → 0 calls delivered, 1 rejected\n") == refused_again
    sandbox.reject_if = None
    assert (0, "users: 1 call sent again → 1 call delivered\n") == retl("retry", "users")[:2]
    assert (0, "users: there are no calls that were rejected\n") == retl("discard", "users")[:2]
    sandbox.reject_if = lambda _: True
    assert 3 == retl("run", "users", "--full", "--yes")[0]
    assert (0, "users: 3 calls dropped; the next run finds what changed anew\n") == retl(
        "discard", "users", "--pending", "--yes"
    )[:2]
    said = retl("history", "users")[1]
    assert re.search(r": 3 calls discarded while waiting, by `retl discard --pending` at \d{4}-", said)
    assert (
        "3\n"
        == retl("sql", "users", "select discarded from runs where discarded > 0", "--csv")[1].split("\n", 1)[
            1
        ]
    )
