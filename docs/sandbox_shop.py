"""An evening of a small shop, really run: three syncs over data that changes, into the local Segment.

A clock of its own makes a quarter of an hour of it, which passes in a minute.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from random import Random

import duckdb
from report_month import FIRST, QuickClock, run_session

from retl.delivery.rate_limit import RateLimiter
from retl.sandbox.failures import Reply
from retl.sandbox.page.page_routes import page_routes
from retl.sandbox.rehearsed import ReceiverRehearsal
from retl.sandbox.server import Sandbox
from retl.sandbox.store import Store
from retl.session import load_session

ROUNDS = 36

EVERY = timedelta(seconds=20)

NAMES = [
    "Ada",
    "Grace",
    "Linus",
    "Margaret",
    "Alan",
    "Barbara",
    "Ken",
    "Radia",
    "Edsger",
    "Frances",
    "Jean",
    "Mary",
]

SYNCS = {
    "users": """\
sql: SELECT * FROM users
primary_key: user_id
identify:
  user_id: user_id
  traits: {email: email, first_name: first_name, city: city, plan: plan, orders: orders}
""",
    "orders": """\
sql: SELECT * FROM orders
primary_key: order_id
initial: send
track:
  user_id: user_id
  added: {event: Order Completed, timestamp: ordered_at}
  properties: {order_id: order_id, revenue: total, currency: {value: EUR}}
""",
    "vip": """\
sql: SELECT user_id, sum(total) AS spent FROM orders GROUP BY user_id HAVING sum(total) >= 150
primary_key: user_id
initial: send
guards: {removed: off, min_rows: 0}
audience: {user_id: user_id, name: VIP customers, properties: {spent: spent}}
""",
}

SHOP = """\
CREATE TABLE users AS
SELECT 'u' || (1001 + i) AS user_id, lower($names[1 + i % 12]) || (1 + i // 12) || '@example.com' AS email,
       $names[1 + i % 12] AS first_name, ['Berlin', 'Lisbon', 'Tokyo', 'Lima'][1 + i % 4] AS city,
       ['free', 'free', 'team'][1 + i % 3] AS plan, 0 AS orders
FROM range(48) AS numbers(i);
CREATE TABLE orders (order_id VARCHAR, user_id VARCHAR, total DECIMAL(9, 2), ordered_at TIMESTAMP);
"""


class EveningClock(QuickClock):
    """A clock that is a little quicker than that on the wall."""

    SECONDS = 3


@contextmanager
def shop_evening(folder: Path) -> Iterator[Sandbox]:
    """Make a project in a folder, and run it for an evening; gives the sandbox, with its page."""
    clock, random = EveningClock(), Random(4)
    limiters: dict[str, RateLimiter] = {}
    routes = page_routes(ReceiverRehearsal())
    with Sandbox(8765, routes, now=clock.now, seed=7, store=Store()) as sandbox:
        _make_project(folder, sandbox.url)
        sessions = [load_session(folder / f"syncs/{name}.yml", None, False) for name in SYNCS]
        for number in range(ROUNDS):
            clock.set_forward(FIRST + number * EVERY)
            with duckdb.connect(folder / "shop.duckdb") as shop:
                _happen(shop, random, number, f"{clock.now():%Y-%m-%d %H:%M:%S}")
            for session in sessions:
                if number % 9 == 5:  # the batch arrives, and comes again
                    sandbox.script([Reply(lost=True)])
                run_session(session, limiters, clock)
        yield sandbox


def _make_project(folder: Path, endpoint: str) -> None:
    with duckdb.connect(folder / "shop.duckdb") as shop:
        for statement in SHOP.split(";\n"):
            shop.execute(statement, {"names": NAMES} if "$names" in statement else None)
    (folder / "syncs").mkdir()
    for name, text in SYNCS.items():
        (folder / f"syncs/{name}.yml").write_text(text, encoding="utf-8")
    settings = f'warehouse: "duckdb:///shop.duckdb"\nsegment: {{endpoint: "{endpoint}", write_key: key}}\n'
    (folder / "retl.yml").write_text(settings, encoding="utf-8")


def _happen(shop: duckdb.DuckDBPyConnection, random: Random, number: int, now: str) -> None:
    """Let some seconds pass in the shop: a few orders, and a few users who change."""
    for place in range(random.randint(1, 6)):
        user = f"u{1001 + random.randrange(48)}"
        total = random.randint(500, 9_000) / 100
        order = f"o-{5001 + 10 * number + place}"
        shop.execute("INSERT INTO orders VALUES (?, ?, ?, ?)", [order, user, total, now])
        shop.execute("UPDATE users SET orders = orders + 1 WHERE user_id = ?", [user])
    changed = f"u{1001 + random.randrange(48)}"
    shop.execute("UPDATE users SET plan = 'pro' WHERE user_id = ?", [changed])
