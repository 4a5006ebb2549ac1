from pathlib import Path

import pytest
from delivery import IDENTIFY, TRACK, Shop, Table

from retl.delivery.response import RetryPolicy
from retl.job import Options
from retl.sandbox.failures import Reply
from retl.sandbox.server import Sandbox

ADA = {"id": ["1"], "name": ["Ada"], "plan": ["pro"]}
BOTH = {"id": ["1", "2"], "name": ["Ada", "Grace"], "plan": ["pro", "free"]}

AT_ONCE = RetryPolicy(base=1e-6)

FAILURES = [
    Reply(400),
    pytest.param(Reply(500), marks=pytest.mark.slow),
    pytest.param(Reply(lost=True), marks=pytest.mark.slow),
]


def failing(reply: Reply, *users: str) -> Sandbox:
    """A local Segment that answers so to each request with a call of these users."""
    return Sandbox(reply_if=lambda call: reply if call["userId"] in users else None)


@pytest.mark.rule("L4", "L5")
@pytest.mark.parametrize("reply", FAILURES, ids=["400", "500", "no answer"])
def test_calls_that_fail_alone_do_not_keep_a_run_from_reading(tmp_path: Path, reply: Reply) -> None:
    """The only call of a run fails each time: it stays pending, and is set aside once a newer one arrives."""
    with failing(reply, "1") as sandbox:
        shop = Shop(tmp_path, sandbox.url, IDENTIFY)
        for _ in range(2):
            alone = shop.run(Table(ADA), Options(deadline_seconds=30), retry_policy=AT_ONCE)
            assert (3, 1, 0, 1) == (
                alone.exit_code,
                alone.rows_read,
                alone.calls.delivered,
                alone.calls.pending,
            )
        beside = shop.run(Table(BOTH), retry_policy=AT_ONCE)
        assert (1, 1, 1, 0) == (
            beside.exit_code,
            beside.calls.delivered,
            beside.calls.rejected,
            beside.calls.pending,
        )
        assert ["2"] == [call["userId"] for call in sandbox.accepted]
        after = shop.run(Table(BOTH))
        assert (0, None) == (after.exit_code, after.error)


@pytest.mark.rule("O1")
def test_calls_behind_ones_that_wait_keep_the_order_per_user(tmp_path: Path) -> None:
    """Where lanes of refused calls wait, the calls of later runs come behind those of their user."""
    ids = [str(number) for number in range(1, 4_101)]
    table = {"id": ids, "owner": ids, "value": [0] * 4_100}
    with Sandbox(reject_if=lambda _: True) as sandbox:
        shop = Shop(tmp_path, sandbox.url, TRACK)
        assert (3, 4_100) == ((first := shop.run(Table(table), connections=4)).exit_code, first.calls.pending)
        second = shop.run(Table(table | {"value": [1] * 4_100}), connections=2)
        assert (3, 8_200) == (second.exit_code, second.calls.pending)
        sandbox.reject_if = None
        third = shop.run(Table(table | {"value": [1] * 4_100}), connections=4)
        assert (0, 8_200) == (third.exit_code, third.calls.delivered)
        arrived: dict[str, list[str]] = {}
        for call in sandbox.accepted:
            arrived.setdefault(call["userId"], []).append(call["event"])
    assert {("Added", "Changed")} == {tuple(arrived[one]) for one in ids}
