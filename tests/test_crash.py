import json
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import duckdb
import pyarrow as pa
import pytest
from delivery import TRACK, FakeClock, Shop, Table, numbers, rows, segment, send
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule
from runs import until
from test_properties import Picture, applied, pictures, table

from retl.delivery.outbox import pending
from retl.delivery.response import RetryPolicy
from retl.job import Options
from retl.model import Model
from retl.observer import SilentObserver
from retl.sandbox.failures import Reply
from retl.sandbox.server import Sandbox
from retl.state import State, open_state

KEPT_TRYING = RetryPolicy(base=0.001, jitter=0.0, retries=1)

ANSWERS = [Reply(), Reply(lost=True), Reply(500), Reply(429, retry_after=1), Reply(401), Reply(302)]


class Killed(BaseException):
    """The process is no more."""


class _Fuse:
    """Burns down by one with each thing that a run does; at the end the process is killed.

    Attributes:
        left: steps until then; None never burns down.
        on_kill: takes away what a dead process leaves: the files as they are at that moment.
    """

    def __init__(self, left: int | None, on_kill: Callable[[], None]) -> None:
        self.left = left
        self.on_kill = on_kill

    def burn(self) -> None:
        if self.left is None:
            return
        self.left -= 1
        if self.left == 0:
            self.on_kill()
        if self.left <= 0:
            raise Killed


class _BurningClock(FakeClock):
    def __init__(self, fuse: _Fuse) -> None:
        super().__init__()
        self.fuse = fuse

    def now(self) -> datetime:
        self.fuse.burn()
        return super().now()

    def wait(self, seconds: float, stop: threading.Event) -> bool:
        self.fuse.burn()
        return super().wait(seconds, stop)


class _BurningObserver(SilentObserver):
    def __init__(self, fuse: _Fuse) -> None:
        self.fuse = fuse

    def delivering(self, calls: int) -> None:
        self.fuse.burn()

    def delivered(self, calls: int) -> None:
        self.fuse.burn()

    def waiting(self, reason: str, seconds: float) -> None:
        self.fuse.burn()


class _BurningTable(Table):
    def __init__(self, table: Table, fuse: _Fuse) -> None:
        self.table = table.table
        self.fuse = fuse

    def read(
        self, model: Model, columns: Collection[str] | None = None, batch_rows: int = 2
    ) -> Iterator[pa.RecordBatch]:
        for batch in super().read(model, columns, batch_rows):
            self.fuse.burn()
            yield batch


class _BurningConnection:
    """A DuckDB connection on which every statement that writes to the state may have been the last."""

    def __init__(self, db: duckdb.DuckDBPyConnection, fuse: _Fuse) -> None:
        self.db = db
        self.fuse = fuse

    def execute(self, query: str, parameters: Any = None) -> duckdb.DuckDBPyConnection:
        if self.fuse.left is not None and self.fuse.left <= 0:
            raise Killed  # nothing is done after death, not even a rollback
        done = self.db.execute(query, parameters)
        if re.match(r"\s*(BEGIN|COMMIT|((INSERT|UPDATE|DELETE|CREATE)\b.*\bstate\.))", query, re.DOTALL):
            self.fuse.burn()
        return done

    def cursor(self) -> "_BurningConnection":
        return _BurningConnection(self.db.cursor(), self.fuse)

    def __enter__(self) -> "_BurningConnection":
        return self

    def __exit__(self, *_: object) -> None:
        self.db.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.db, name)


class Killable:
    """A sync whose runs can be killed at each step; what is then on disk is all that the next one finds."""

    def __init__(self, folder: Path, sandbox: Sandbox) -> None:
        self.shop = Shop(folder / "0", sandbox.url, TRACK, clock=FakeClock())
        self.sandbox = sandbox

    def run(self, picture: Picture, steps: int | None = None) -> int | None:
        """A run; its exit code, or None where it was killed, and then how it was is forgotten."""
        remains = self.shop.folder.with_name(str(int(self.shop.folder.name) + 1))

        def bury() -> None:
            shutil.copytree(self.shop.folder, remains)

        fuse = _Fuse(steps, bury)
        shop = Shop(self.shop.folder, self.shop.url, TRACK, _BurningClock(fuse), _BurningObserver(fuse))
        with open_state(shop.state_path, "shop") as opened:
            state = State(_BurningConnection(opened.db, fuse), shop.state_path)  # type: ignore[arg-type]
            with segment(shop.url, shop.clock, retry_policy=KEPT_TRYING) as to:
                try:
                    return shop.run_with(state, _BurningTable(table(picture), fuse), to).exit_code
                except Killed:
                    self.shop = Shop(remains, shop.url, TRACK, clock=FakeClock())
                    return None

    def check(self, picture: Picture) -> None:
        """After a run that delivered everything: Segment knows the rows, by changes each told once."""
        assert picture == applied(self.sandbox.accepted, {})
        assert [] == self.sandbox.discarded
        with open_state(self.shop.state_path, "shop") as state:
            assert 0 == pending(state.db)
            assert [] == rows(state, "FROM state.outbox") + rows(state, "FROM state.mark")
            assert [] == rows(state, "FROM state.rejected_call")


class _Crashes(RuleBasedStateMachine):
    """Rows change, runs are killed anywhere, answers get lost: in the end Segment knows what is."""

    def __init__(self) -> None:
        super().__init__()
        self.ending = ExitStack()
        folder = self.ending.enter_context(TemporaryDirectory())
        self.sandbox = self.ending.enter_context(Sandbox())
        self.killable = Killable(Path(folder), self.sandbox)
        self.picture: Picture = {}

    def teardown(self) -> None:
        with self.ending:
            for _ in range(10):  # answers that were lined up may stop a few runs
                if self.killable.run(self.picture) == 0:
                    break
            self.killable.check(self.picture)

    @rule(picture=pictures)
    def rows_change(self, picture: Picture) -> None:
        self.picture = picture

    @rule(
        steps=st.none() | st.integers(min_value=1, max_value=52),
        answers=st.lists(st.sampled_from(ANSWERS), max_size=4),
    )
    def run(self, steps: int | None, answers: list[Reply]) -> None:
        self.sandbox.script(answers)
        if self.killable.run(self.picture, steps) == 0:
            self.killable.check(self.picture)


_Crashes.TestCase.settings = settings(max_examples=8, stateful_step_count=6, deadline=None)
TestCrashes = pytest.mark.slow(_Crashes.TestCase)

FIRST: Picture = {"k1": ("u1", "a"), "k2": ("u2", "b"), "k3": ("u1", None)}
SECOND: Picture = {"k1": ("u1", "c"), "k3": ("u2", None), "k4": ("u3", "d")}


@pytest.mark.variants(2)
@pytest.mark.rule("L1", "L3")
@pytest.mark.parametrize("steps", range(3, 53, 5))
def test_a_killed_run_is_made_up_for(tmp_path: Path, steps: int) -> None:
    """Wherever a run is killed, the next one makes up for it, even where all is as before by then."""
    with Sandbox() as sandbox:
        killable = Killable(tmp_path, sandbox)
        assert 0 == killable.run(FIRST)
        killable.run(SECOND, steps)
        assert 0 == killable.run(FIRST)
        killable.check(FIRST)


CHILD = """
import os, signal, sys
from pathlib import Path
from delivery import Shop, TRACK
from retl.job import Options
from retl.observer import SilentObserver
from test_properties import table

class Fatal(SilentObserver):
    def __init__(self, at):
        self.left = at

    def delivering(self, calls):
        self.step()

    def delivered(self, calls):
        self.step()

    def step(self):
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

folder, url, at, *full = sys.argv[1:]
rows = table({f"k{n}": ("u1", "x" * 30_000) for n in range(60)})
print("begins", flush=True)
Shop(Path(folder), url, TRACK, observer=Fatal(int(at))).run(rows, Options(full=bool(full)))
"""


@pytest.mark.slow
@pytest.mark.rule("L2", "L3", "D1", "D2")
@pytest.mark.parametrize(
    ("dies_at", "answers", "arrived"),
    [(1, [], 0), (3, [], 30), (0, [Reply(), Reply(hang=True)], 15)],
    ids=["before the first batch", "after two batches", "while it waits for an answer"],
)
def test_a_process_that_is_killed_loses_nothing(
    tmp_path: Path, dies_at: int, answers: list[Reply], arrived: int
) -> None:
    """After a real `kill -9` the next process delivers the rest, each call under its id, in order.

    Calls of batches that were accepted may go again, and count as unsure.
    """
    with Sandbox() as sandbox:
        sandbox.script(answers)
        process = subprocess.Popen(
            [sys.executable, "-c", CHILD, str(tmp_path), sandbox.url, str(dies_at)],
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )
        assert process.stdout is not None
        assert b"begins\n" == process.stdout.readline()
        if dies_at == 0:
            until(lambda: len(sandbox.requests) == 2)
            process.kill()
        assert -9 == process.wait()
        process.stdout.close()
        assert arrived == len(sandbox.accepted)
        went_out = sum(request.calls for request in sandbox.requests)
        shop = Shop(tmp_path, sandbox.url, TRACK)
        with open_state(shop.state_path, "shop") as state:
            left = pending(state.db)
        assert 60 - arrived <= left
        everything = table({f"k{n}": ("u1", "x" * 30_000) for n in range(60)})
        record = shop.run(everything)
        assert (0, left, 60) == (record.exit_code, record.calls.delivered, record.unchanged)
        again = went_out + left - 60
        assert again <= (record.calls.unsure or 0) <= (left if went_out else 0)
        keys = [call["properties"]["id"] for call in sandbox.accepted]
        assert sorted(f"k{n}" for n in range(60)) == keys
        assert arrived + left - 60 == len(sandbox.duplicates)
        assert 60 == receipts_in_sum(shop)


def receipts_in_sum(shop: Shop) -> int:
    """The calls that all runs together have receipts for."""
    with open_state(shop.state_path, "shop") as state:
        return int(rows(state, "SELECT sum(calls) FROM state.receipt")[0][0])


FOUR_LANES = """
import sys
from pathlib import Path
from delivery import fill, segment, send
from retl.state import open_state

path, url, rate = sys.argv[1:]
with open_state(Path(path), "shop") as state:
    fill(state, 4_000, users=8, lanes=4, pad=5_000)
    with segment(url, rate=int(rate), connections=4) as to:
        send(state, to)
"""


@pytest.mark.slow
@pytest.mark.rule("D2", "O1")
@pytest.mark.parametrize(("rate", "most_unsure"), [(0, 4_000), (100, 500)])
def test_all_that_went_out_is_noted_whenever_the_process_is_killed(
    tmp_path: Path, rate: int, most_unsure: int
) -> None:
    """After a real `kill -9` the marks tell what may have gone out, from however many connections."""
    path = tmp_path / "shop.duckdb"
    with Sandbox() as sandbox:
        sandbox.script([*[Reply()] * 2, *[Reply(hang=True)] * 4])
        process = subprocess.Popen(
            [sys.executable, "-c", FOUR_LANES, str(path), sandbox.url, str(rate)],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )
        until(lambda: len(sandbox.requests) == 6)
        process.kill()
        assert -9 == process.wait()
        went_out = [call["messageId"] for one in sandbox.requests for call in json.loads(one.body)["batch"]]
        with open_state(path, "shop") as state:
            known = "SELECT message_id FROM state.outbox JOIN state.mark USING (lane) WHERE seq <= "
            delivered = {one for (one,) in rows(state, known + "delivered")}
            noted = {one for (one,) in rows(state, known + "greatest(attempted, delivered)")}
            assert set(went_out) <= noted
            assert len(noted) < 4_000
            assert delivered <= {call["messageId"] for call in sandbox.accepted}
            with segment(sandbox.url, connections=4) as to:
                rest = send(state, to)
        assert 4_000 - len(delivered) == rest.delivered
        assert len(set(went_out) - delivered) <= rest.unsure == len(noted - delivered) <= most_unsure
        for user in range(8):
            assert list(range(user, 4_000, 8)) == numbers(sandbox.accepted, f"u{user}")


@pytest.mark.slow
@pytest.mark.rule("K17")
@pytest.mark.parametrize(
    ("dies_at", "arrived"), [(1, 0), (3, 30)], ids=["before the first batch", "after two"]
)
def test_a_full_run_that_is_killed_goes_on(tmp_path: Path, dies_at: int, arrived: int) -> None:
    """After a real `kill -9` of a --full, the next --full delivers the rest and starts no pass of its own."""
    everything = table({f"k{n}": ("u1", "x" * 30_000) for n in range(60)})
    with Sandbox() as sandbox:
        shop = Shop(tmp_path, sandbox.url, TRACK)
        assert 60 == shop.run(everything).calls.delivered
        process = subprocess.run(
            [sys.executable, "-c", CHILD, str(tmp_path), sandbox.url, str(dies_at), "full"],
            stdout=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        )
        assert (-9, 60 + arrived) == (process.returncode, len(sandbox.accepted))

        record = shop.run(everything, Options(full=True))

        again = len(sandbox.duplicates)
        assert again <= (record.calls.unsure or 0)
        assert (60 - arrived + again, True) == (record.calls.delivered, record.resumed_full)
        assert (120, 60) == (len(sandbox.accepted), record.unchanged)
        assert 60 == shop.run(everything, Options(full=True)).calls.delivered
