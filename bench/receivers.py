"""`python -m bench.receivers` measures `retl check --receiver all`, beside `retl plan` of the same calls."""

import json
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import click
import duckdb
from rich.console import Console
from rich.table import Table

from bench.process import bare_environment
from bench.shop import make_project
from bench.stages import LIMIT_SECONDS

ORDERS = """\
sql: SELECT * FROM orders
warehouse: duckdb:///shop.duckdb
primary_key: order_id
initial: send
track:
  user_id: user_id
  added: {event: Order Completed, timestamp: ordered_at}
  properties: {order_id: order_id, currency: currency, total: total, revenue: %s, products: %s}
"""

ORDER_ROWS = """
CREATE TABLE orders AS
SELECT
    'o-' || i AS order_id,
    format('user-{{:08d}}', i) AS user_id,
    'EUR' AS currency,
    (i * 7919 % 1009 / 10)::DECIMAL(12, 2) AS total,
    TIMESTAMPTZ '2024-01-01 00:00:00Z' + to_milliseconds(i * 61_007) AS ordered_at,
    [
        {{'product_id': 'p-' || i % 5003, 'name': 'Lamp', 'category': 'Lamps', 'price': 12.5, 'quantity': 1}},
        {{'product_id': 'q-' || i % 7001, 'name': 'Bulb', 'category': 'Bulbs', 'price': 2.25, 'quantity': 3}}
    ] AS products
FROM range({rows}) AS t(i)
"""

SYNCS = {
    "users": "identify calls, 10 traits",
    "orders": "orders of two products",
    "bad_orders": "the same, and each breaks four rules",
}


def seconds(root: Path, *arguments: str) -> tuple[float, dict[str, object]]:
    """How long a command takes from launch to exit, and what it printed."""
    began = time.monotonic()
    command = [sys.executable, "-m", "retl", *arguments, "--json"]
    done = subprocess.run(
        command, cwd=root, env=bare_environment(), stdout=subprocess.PIPE, timeout=LIMIT_SECONDS
    )
    took = time.monotonic() - began
    if done.returncode > 1:
        raise click.ClickException(f"{' '.join(arguments)} ended with {done.returncode}")
    return took, json.loads(done.stdout)


@click.command()
@click.option("--rows", type=click.IntRange(min=1000), default=1_000_000, help="Of each. [default: 1000000]")
def main(rows: int) -> None:
    """Measure what it costs to hold each call against all receivers."""
    root = Path(tempfile.mkdtemp(prefix="retl-bench-"))
    table = Table("all receivers", "calls", "check s", "plan s", "check / plan", "rules broken")
    try:
        make_project(root, rows, "http://127.0.0.1:9", 1)
        with duckdb.connect(root / "shop.duckdb") as db:
            db.execute(ORDER_ROWS.format(rows=rows))
        as_text = "{column: %s, as: text}"
        (root / "syncs" / "orders.yml").write_text(ORDERS % ("total", "products"))
        (root / "syncs" / "bad_orders.yml").write_text(ORDERS % (as_text % "total", as_text % "products"))
        for name, title in SYNCS.items():
            plan, _ = seconds(root, "plan", name)
            check, found = seconds(root, "check", name, "--receiver", "all")
            assert isinstance(found["findings"], list)
            breaches = sum(finding["effect"] in ("refused", "doubtful") for finding in found["findings"])
            table.add_row(
                title,
                f"{found['calls']:,}",
                f"{check:.1f}",
                f"{plan:.1f}",
                f"{check / plan:.1f}",
                str(breaches),
            )
    finally:
        shutil.rmtree(root)
    Console(width=110).print(table)


if __name__ == "__main__":
    main()
