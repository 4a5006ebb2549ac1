"""A month of a small shop, really run: forty runs of two syncs over data that changes, into a local Segment.

Its clock is quicker than that on the wall, so that a month takes a minute.
"""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random

import duckdb

from retl.delivery.rate_limit import RateLimiter
from retl.job import Job, Options
from retl.pipeline import run
from retl.sandbox.failures import Failures
from retl.sandbox.server import Sandbox
from retl.session import Session, load_session

FIRST = datetime(2026, 3, 2, 4, 0, tzinfo=UTC)

RUNS = 40

EVERY = timedelta(hours=17)

USERS = """\
sql: SELECT * FROM users
primary_key: user_id
identify:
  user_id: user_id
  traits: {email: email, city: city, plan: plan, seen_at: {column: seen_at, as: timestamp}}
"""

ORDERS = """\
sql: SELECT * FROM orders
primary_key: order_id
track:
  user_id: user_id
  added: {event: Order Completed, timestamp: ordered_at}
  changed: Order Changed
  properties: {total: total, items: items}
"""

SHOP = """\
CREATE TABLE users AS
SELECT
    'u' || i AS user_id, 'user' || i || '@example.com' AS email,
    ['Berlin', 'Lisbon', 'Tokyo', 'Lima'][1 + i % 4] AS city, ['free', 'team'][1 + i % 2] AS plan,
    '2026-02-01 08:00:00' AS seen_at
FROM range(12000) AS numbers(i);
CREATE TABLE orders AS
SELECT
    'o' || i AS order_id, 'u' || (i * 7 % 12000) AS user_id, i % 90 + 0.5 AS total, i % 5 + 1 AS items,
    TIMESTAMP '2026-02-01 08:00:00' AS ordered_at
FROM range(3000) AS numbers(i);
"""


class QuickClock:
    """A clock on which each second of the machine is a minute, and that can be set forward."""

    SECONDS = 60
    """Of this clock, in one of the machine."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._ahead = 0.0

    def now(self) -> datetime:
        """The moment, in UTC."""
        return FIRST + timedelta(seconds=self.monotonic())

    def monotonic(self) -> float:
        """Seconds since the month began."""
        return self._ahead + (time.monotonic() - self._began) * self.SECONDS

    def wait(self, seconds: float, stop: threading.Event) -> bool:
        """Wait so many of its seconds."""
        return stop.wait(max(0.0, seconds) / self.SECONDS)

    def set_forward(self, moment: datetime) -> None:
        """Go on at a later moment."""
        self._ahead += max(0.0, (moment - self.now()).total_seconds())


@contextmanager
def lived_month(folder: Path) -> Iterator[QuickClock]:
    """Make a project in a folder and run it for a month; gives the clock, which stands near its end then."""
    clock, random = QuickClock(), Random(7)
    limiters: dict[str, RateLimiter] = {}
    with Sandbox(now=clock.now, seed=7, keep=10) as sandbox:
        _make_project(folder, sandbox.url)
        sessions = [load_session(folder / f"syncs/{name}.yml", None, False) for name in ("orders", "users")]
        for number in range(RUNS):
            clock.set_forward(FIRST + number * EVERY)
            with duckdb.connect(folder / "shop.duckdb") as shop:
                _happen(shop, random, number)
            for session in sessions:
                _answer(sandbox, session.sync.name, number)
                run_session(session, limiters, clock)
        yield clock


def _make_project(folder: Path, endpoint: str) -> None:
    with duckdb.connect(folder / "shop.duckdb") as shop:
        shop.execute(SHOP)
    (folder / "syncs").mkdir()
    (folder / "syncs/users.yml").write_text(USERS)
    (folder / "syncs/orders.yml").write_text(ORDERS)
    settings = f'warehouse: "duckdb:///shop.duckdb"\nsegment: {{endpoint: "{endpoint}", write_key: key}}\n'
    (folder / "retl.yml").write_text(settings)


def _happen(shop: duckdb.DuckDBPyConnection, random: Random, number: int) -> None:
    """Let some hours pass in the shop; in some of them something goes wrong."""
    for statement in _REPAIRS.get(number, ()):
        shop.execute(statement)
    shop.execute("SELECT setseed(?)", [random.random()])
    share, many = random.uniform(0.03, 0.12), random.randint(20, 160)
    shop.execute("UPDATE users SET plan = 'plan ' || ? WHERE random() < ?", [number, share])
    shop.execute("DELETE FROM users WHERE random() < 0.002")
    shop.execute(
        """
        INSERT INTO users
        SELECT 'n' || $number || '-' || i, 'new' || i || '@example.com', 'Oslo', 'free', '2026-03-01 10:00:00'
        FROM range($many) AS numbers(i)
        """,
        {"number": number, "many": many},
    )
    shop.execute(
        """
        INSERT INTO orders
        SELECT 'n' || $number || '-' || i, 'u' || i, i + 0.5, 1, TIMESTAMP '2026-03-01 10:00:00'
        FROM range($many * 3) AS numbers(i)
        """,
        {"number": number, "many": many},
    )
    for statement in _ACCIDENTS.get(number, ()):
        shop.execute(statement)


_ACCIDENTS = {
    9: ["UPDATE users SET seen_at = 'yesterday' WHERE user_id LIKE 'u1__'"],
    12: ["ALTER TABLE users RENAME TO users_new"],
    18: ["INSERT INTO users SELECT * FROM users WHERE user_id LIKE 'u22_'"],
    22: ["CREATE TABLE kept AS FROM users", "DELETE FROM users WHERE random() < 0.6"],
    27: ["CREATE TABLE kept AS FROM users", "UPDATE users SET seen_at = '2026-03-02 10:00:00'"],
    28: ["UPDATE orders SET user_id = NULL WHERE order_id LIKE 'n27-1%'"],
    33: ["UPDATE users SET user_id = 'undefined' WHERE user_id = 'u77'"],
}
"""Statements by the number of the run that meets their result."""

_REPAIRS = {
    13: ["ALTER TABLE users_new RENAME TO users"],
    15: ["UPDATE users SET seen_at = '2026-03-01 10:00:00' WHERE user_id LIKE 'u1_5'"],
    21: ["DELETE FROM users WHERE user_id LIKE 'u22_'"],
    23: ["DROP TABLE users", "ALTER TABLE kept RENAME TO users"],
    24: ["UPDATE users SET seen_at = '2026-03-01 10:00:00' WHERE seen_at = 'yesterday'"],
    28: ["DROP TABLE users", "ALTER TABLE kept RENAME TO users"],
    32: ["UPDATE orders SET user_id = 'u1' WHERE user_id IS NULL"],
}
"""Statements that undo an accident, by the number of the next run."""


def _answer(sandbox: Sandbox, sync: str, number: int) -> None:
    """Choose how Segment answers; in two runs it is out of order."""
    is_down = (sync, number) in {("users", 6), ("orders", RUNS - 1)}
    usual = "429=0.02,500=0.03,lost_answer=0.01,latency=4ms"
    sandbox.failures = Failures.parse("503=1" if is_down else usual)
    sandbox.reject_if = (lambda call: call.get("userId") in REFUSED) if number in (25, 34) else None


REFUSED = ("u3", "u8", "u11")


def run_session(session: Session, limiters: dict[str, RateLimiter], clock: QuickClock) -> None:
    """Run a sync at the clock's time."""
    with (
        session.open_destination(None, limiters, clock) as destination,
        session.hold(clock),
        session.open_state() as state,
    ):
        options = Options(deadline_seconds=300)
        model, warehouse, address = session.model, session.warehouse, session.address
        run(Job(session.sync, model, state, warehouse, options, clock, address=address), destination)
