"""The memory that DuckDB may take."""

import json
import os
import subprocess
import sys
from pathlib import Path

import duckdb
import psycopg
import pytest
from harness import Retl, runner

from bench.engine_results import FIRST, LATER
from bench.engines import project, run
from bench.process import bare_environment
from bench.shop import make_project
from bench.sink import running_sink
from retl.delivery.outbox import enqueue
from retl.delivery.round import MOST_PAGE_BYTES, PAGES_BYTES, pages_within, workers_within
from retl.errors import ConfigError
from retl.memory import (
    LEAST,
    MOST,
    allowed,
    available,
    hold_to_candidates,
    memory_limit,
    state_memory,
    warehouse_memory,
)
from retl.state import new_state, open_state


@pytest.mark.parametrize(
    ("written", "size"),
    [
        ("512MB", 512_000_000),
        ("1GB", 1_000_000_000),
        ("750 MiB", 750 << 20),
        ("2g", 2_000_000_000),
        ("200000kb", 200_000_000),
        ("180000000", 180_000_000),
    ],
)
def test_a_size_is_read_as_people_write_it(written: str, size: int) -> None:
    """RETL_MEMORY_LIMIT takes the units that DuckDB and Docker take."""
    assert size == memory_limit({"RETL_MEMORY_LIMIT": written})


@pytest.mark.parametrize("written", ["much", "10%", "-1GB", "1TB", "120MB"])
def test_another_size_is_refused_with_the_name_of_the_variable(written: str) -> None:
    """A limit that cannot be meant ends the command before anything is opened."""
    with pytest.raises(ConfigError) as refused:
        memory_limit({"RETL_MEMORY_LIMIT": written})
    assert "RETL_MEMORY_LIMIT" == refused.value.where


def test_without_a_word_half_of_what_there_is_is_taken_and_1_gb_at_most() -> None:
    """The default fits a small container, and does not grow with the machine."""
    assert min(MOST, available() // 2) == memory_limit({"RETL_MEMORY_LIMIT": ""})
    assert LEAST < memory_limit({}) <= MOST


@pytest.mark.parametrize("limit", [LEAST, 512_000_000, MOST, 8 * MOST])
def test_state_and_warehouse_share_the_limit(limit: int) -> None:
    """Together they take no more than the limit, and the state takes most of it."""
    assert state_memory(limit) + warehouse_memory(limit) <= limit
    assert limit // 2 <= state_memory(limit)


def test_pages_of_calls_are_small_where_memory_is() -> None:
    """With little memory the workers hold less text together, but for the page of one."""
    assert PAGES_BYTES == pages_within(state_memory(MOST))
    assert MOST_PAGE_BYTES < pages_within(state_memory(512_000_000)) < PAGES_BYTES // 2
    assert MOST_PAGE_BYTES == pages_within(state_memory(LEAST))


def test_little_memory_means_fewer_workers() -> None:
    """Each worker holds a query that makes the text of its calls, so memory bounds how many there are."""
    assert 16 == workers_within(state_memory(MOST), 16)
    assert 8 == workers_within(state_memory(512_000_000), 16)
    assert 4 == workers_within(state_memory(LEAST), 16)
    assert 1 == workers_within(state_memory(LEAST), 1)


def test_the_option_goes_before_the_environment_and_leaves_it_as_it_was(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """`--memory-limit` holds for the command that it is given to, and is refused as the variable is."""
    sync = "sql: SELECT 'u' AS id\nprimary_key: id\nidentify: {user_id: id}\n"
    (tmp_path / "users.yml").write_text(sync)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RETL_WAREHOUSE_URL", "duckdb://")
    monkeypatch.setenv("SEGMENT_WRITE_KEY", "key")
    monkeypatch.setenv("RETL_MEMORY_LIMIT", "12MB")
    retl: Retl = runner(capsys)
    assert 2 == retl("plan", "users.yml")[0]
    assert 0 == retl("plan", "users.yml", "--memory-limit", "256MB")[0]
    code, _, said = retl("plan", "users.yml", "--memory-limit", "much")
    assert (2, "12MB") == (code, os.environ["RETL_MEMORY_LIMIT"])
    assert "'much' is not a size of memory" in said


def test_the_state_is_held_to_its_part() -> None:
    """DuckDB has the limit that the state was opened with."""
    with new_state("users", memory=100_000_000) as state:
        found = state.db.execute("SELECT current_setting('memory_limit')").fetchall()
    assert [("95.3 MiB",)] == found


LEAVING = """
CREATE TEMP TABLE leaving AS
SELECT
    i AS number, 'changed' AS change, i::VARCHAR AS key, 2 AS rank, 'track' AS type, 'Changed' AS event,
    'u' || i AS user_id, 'id-' || i AS message_id, make_timestamp((hash(i) % 1000)::BIGINT) AS moment,
    moment AS ordered_by, (i % 2)::INTEGER AS lane, repeat(md5(i::VARCHAR), 12) AS body, 384::BIGINT AS bytes
FROM range(200000) AS calls (i)
"""

IN_ORDER = """
SELECT count(*), count(DISTINCT seq), max(seq), count(*) FILTER (key <> expected)
FROM state.outbox JOIN (
    SELECT key AS expected, row_number() OVER (ORDER BY lane, ordered_by, rank, key) AS seq FROM leaving
) USING (seq)
"""


def test_many_calls_enter_the_outbox_in_order_with_little_memory(tmp_path: Path) -> None:
    """Their texts are sorted part by part, where sorting them at once would take more than there is."""
    with open_state(tmp_path / "users.duckdb", "users", memory=64_000_000) as state:
        state.db.execute(LEAVING)
        assert 200_000 == enqueue(state.db, "run", lanes=2)
        assert (200_000, 200_000, 200_000, 0) == state.db.execute(IN_ORDER).fetchone()


@pytest.mark.rule("X10")
def test_what_candidates_take_depends_on_their_width_alone() -> None:
    """Rows of which each is wide get more memory, and never more than the state may take in any case."""
    with new_state("users", memory=500_000_000) as state:
        found = []
        for width in (100, 640, 50_000):
            hold_to_candidates(state.db, 500_000_000, width)
            found.append(allowed(state.db) / 1e6)
    assert [64, 192, 500] == pytest.approx(found, abs=1)


USERS = """
CREATE TABLE users AS
SELECT
    i::bigint AS id, 'user' || i AS user_id, 'mail' || i || '@example.com' AS email,
    1.5::numeric(12, 2) AS mrr,
    'free' AS plan, i % 50 AS seats, md5(i::text) AS token, timestamptz '2026-01-01 00:00+00' AS updated_at
FROM generate_series(1, 300000) AS t (i)
"""


@pytest.mark.slow
@pytest.mark.rule("X10")
def test_a_hundred_thousand_changes_in_the_warehouse_take_little_memory(
    postgres_url: str, tmp_path: Path
) -> None:
    """With `engine: warehouse` no process holds more than 300 MB, as DuckDB goes on in a temporary folder."""
    with psycopg.connect(postgres_url, autocommit=True) as db:
        db.execute("DROP SCHEMA IF EXISTS retl CASCADE")
        db.execute("DROP TABLE IF EXISTS users")
        db.execute(USERS)
        warehouse = project(tmp_path, "warehouse")
        run(warehouse, postgres_url, FIRST)
        db.execute("UPDATE users SET plan = plan || 'x' WHERE id % 3 = 0")
        taken, changed = run(warehouse, postgres_url, LATER)
        db.execute("DROP TABLE users")
    assert 100_000 == changed
    assert 100 < (taken.peak_mb or 0) < 300


@pytest.mark.slow
def test_a_backfill_of_two_million_rows_fits_into_little_memory(tmp_path: Path) -> None:
    """With a limit of 512 MB a run that sends 2,000,000 rows never holds more than 750 MB in all.

    Answers take long enough for all workers to be needed.
    """
    report = tmp_path / "report.json"
    with running_sink(latency_ms=30, in_python=True) as sink:
        make_project(tmp_path, 2_000_000, sink.url, connections=16)
        done = subprocess.run(
            [sys.executable, "-m", "bench.child", "run", str(report), "0", "syncs/users.yml"],
            cwd=tmp_path,
            env={**bare_environment(), "RETL_MEMORY_LIMIT": "512MB"},
            stdout=subprocess.PIPE,
            timeout=300,
        )
        arrived = sink.counts().calls
    assert (0, 2_000_000) == (done.returncode, arrived), done.stdout
    assert 100 < json.loads(report.read_text())["peak_mb"] < 750


@pytest.mark.slow
@pytest.mark.parametrize("wide", ["true", "i > 30000"], ids=["all", "behind others"])
def test_a_backfill_of_wide_rows_fits_into_the_memory_of_a_small_machine(tmp_path: Path, wide: str) -> None:
    """With 1 GB, which is the most by default, calls of 25 kB leave as well, wherever they are."""
    with running_sink(in_python=True) as sink:
        make_project(tmp_path, 1_000, sink.url, connections=16)
        with duckdb.connect(tmp_path / "shop.duckdb") as db:
            name = f"CASE WHEN {wide} THEN repeat('x', 25000) END AS name"
            of_users = "SELECT * EXCLUDE (user_id, name) FROM users_v1 LIMIT 1"
            rows = "range(10000)" if wide == "true" else "range(40000)"
            db.execute(
                f"CREATE OR REPLACE TABLE users_v1 AS SELECT 'u' || i AS user_id, {name}, * EXCLUDE i "
                f"FROM {rows} AS t (i), ({of_users})"
            )
            ((expected,),) = db.execute("SELECT count(*) FROM users").fetchall()
        done = subprocess.run(
            [sys.executable, "-m", "retl", "run", "syncs/users.yml"],
            cwd=tmp_path,
            env={**bare_environment(), "SEGMENT_WRITE_KEY": "key", "RETL_MEMORY_LIMIT": "1GB"},
            capture_output=True,
            timeout=300,
        )
        arrived = sink.counts().calls
    assert (0, expected) == (done.returncode, arrived), done.stderr
