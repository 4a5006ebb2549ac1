"""The script that a team writes by hand: pandas, a Parquet snapshot, and Segment's client for Python.

`safe` leaves the client as it is, and waits while its queue is full, where plain use would lose calls without
a word. `tuned` gives the client two threads, full batches and a longer queue, and waits as well.
"""

import time
from typing import Any

import pandas as pd
from segment.analytics.client import Client

from bench.peers.task import (
    POSTGRES_TEXT_QUERY,
    PREPARE,
    STATE,
    TEXT_QUERY,
    Task,
    gone,
    identify,
    read_task,
    say,
)

SNAPSHOT = STATE / "snapshot.parquet"
KEY = "user_id"
TUNED = {"thread": 2, "upload_size": 800, "max_queue_size": 50_000}


def read_users(task: Task) -> pd.DataFrame:
    """All users, as the warehouse has them now."""
    # A script has but one warehouse, and imports no driver of another.
    if task.kind == "duckdb":
        import duckdb

        with duckdb.connect(task.duckdb_path, read_only=True) as db:
            return db.sql(TEXT_QUERY).df()
    from sqlalchemy import create_engine

    with create_engine(task.url.replace("postgresql://", "postgresql+psycopg://")).connect() as db:
        return pd.read_sql(POSTGRES_TEXT_QUERY, db)


def compare(now: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """The users that are new or have changed since the snapshot, and the ids of those that are gone."""
    if not SNAPSHOT.exists():
        return now, []
    before = pd.read_parquet(SNAPSHOT)
    both = now.merge(before, on=KEY, how="outer", suffixes=("", "_before"), indicator=True)
    differs = both["_merge"] == "left_only"
    for column in now.columns.drop(KEY):
        left, right = both[column], both[f"{column}_before"]
        differs |= (left != right) & ~(left.isna() & right.isna())
    left_over = both["_merge"] == "right_only"
    return both.loc[differs & ~left_over, list(now.columns)], both.loc[left_over, KEY].tolist()


def send(client: Client, call: dict[str, Any]) -> None:
    """Put a call into the client's queue; wait while it is full."""
    while not client.identify(call["userId"], call["traits"])[0]:
        time.sleep(0.005)


def main() -> None:
    """Send what changed, and remember what was sent."""
    task = read_task()
    if task.step == PREPARE:
        return
    settings = TUNED if task.variant == "tuned" else {}
    failed: list[Any] = []
    client = Client(
        "bench", host=task.endpoint, on_error=lambda error, batch: failed.extend(batch), **settings
    )
    client.log.disabled = True
    now = read_users(task)
    users, ids = compare(now)
    columns = list(users.columns)
    # pandas has NaN where the warehouse has NULL, and NaN is not JSON.
    for values in users.astype(object).where(users.notna(), None).itertuples(index=False, name=None):
        send(client, identify(dict(zip(columns, values, strict=True))))
    for user_id in ids:
        send(client, gone(user_id))
    client.flush()
    client.join()
    if not failed:
        STATE.mkdir(exist_ok=True)
        now.to_parquet(SNAPSHOT)
    say(len(users) + len(ids) - len(failed))


if __name__ == "__main__":
    main()
