"""retl in Python: the commands as methods of a sync, for notebooks and schedulers."""

import dataclasses
import logging
import os
import re
import shutil
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from html.parser import HTMLParser
from pathlib import Path

import duckdb
import pandas
import pytest

import retl
from retl import errors
from retl.lock import hold
from retl.sandbox.server import Sandbox

ROOT = Path(__file__).parent.parent
SYNC = """\
model: users
primary_key: user_id
identify: {user_id: user_id, traits: {place: place}}
"""


@pytest.fixture
def example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the example project; the working folder of the test."""
    for name in ("models", "syncs", "data"):
        shutil.copytree(ROOT / name, tmp_path / name)
    shutil.copy(ROOT / "retl.yml", tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def project(folder: Path, warehouse: str = "duckdb://", model: str | None = None) -> Path:
    """A project with one sync whose model reads a file of the project; gives the sync file."""
    for name in ("models", "syncs", "data"):
        (folder / name).mkdir(parents=True)
    (folder / "data/users.csv").write_text(f"user_id,place\nu1,{folder.name}\n")
    (folder / "models/users.sql").write_text(model or "SELECT * FROM read_csv('data/users.csv')")
    (folder / "syncs/users.yml").write_text(SYNC)
    (folder / "retl.yml").write_text(f'warehouse: "{warehouse}"\n')
    return folder / "syncs/users.yml"


@pytest.mark.thorough
def test_the_page_about_python_is_true(example: Path) -> None:
    """The examples of docs/python.md run one after the other, and what they say of the results holds."""
    page = (ROOT / "docs/python.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    assert len(blocks) == 5

    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", "\n".join(blocks)], capture_output=True, text=True
    )

    assert (0, "") == (done.returncode, done.stderr)


def test_a_plan_is_a_dataframe_with_a_line_for_each_call(example: Path) -> None:
    """`to_pandas()` has a line for each call, a column for each field, message ids, and moments in UTC."""
    plan = retl.plan("syncs/users.yml")

    frame = plan.to_pandas()

    first = ["change", "key", "type", "event", "user_id", "message_id", "timestamp", "reason"]
    assert first == list(frame.columns[:8])
    assert "call" == frame.columns[-1]
    assert {"traits.email", "traits.address.city"} < set(frame.columns)
    assert not [name for name in frame.columns if "library" in name]
    assert ["u1001", "u1002", "u1003", "u1004", "u1005"] == list(frame["key"])
    assert {"identify"} == set(frame["type"])
    assert frame["reason"].isna().all()
    assert frame["message_id"].str.fullmatch(r"retl-\w{20,}").all() and frame["message_id"].is_unique
    assert "UTC" == str(frame["timestamp"].dt.tz)
    assert (5, 1) == (plan.total_calls, plan.requests)


@pytest.mark.thorough
def test_the_planned_message_ids_are_those_of_the_run(example: Path) -> None:
    """Once there is a state, the plan has the message ids under which the calls then arrive."""
    users = retl.load("users", sandbox=True)
    users.run()
    text = (example / "data/users.csv").read_text().replace("Berlin", "Lisbon")
    (example / "data/users.csv").write_text(text)
    planned = users.plan().to_pandas()

    with duckdb.connect(users.state_path) as state:
        before = state.execute("SELECT count(*) FROM run").fetchall()
    assert [(1,)] == before
    assert 1 == len(planned) == users.run().calls.delivered
    assert ["Lisbon"] == list(planned["traits.address.city"])


@pytest.mark.thorough
def test_a_dataframe_needs_pandas(example: Path) -> None:
    """Without pandas, which is an extra, `to_pandas()` says what to install; the plan itself is there."""
    (example / "pandas.py").write_text("raise ModuleNotFoundError('No module named pandas')")
    program = (
        "import retl\n"
        "plan = retl.plan('syncs/users.yml')\n"
        "for result in (plan, retl.load('users').status()):\n"
        "    try:\n"
        "        result.to_pandas()\n"
        "    except retl.ConfigError as error:\n"
        "        print(plan.total_calls, error, error.hint)\n"
    )
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout

    assert "5 pandas is not installed pip install pandas\n" * 2 == said


def test_a_plan_leaves_no_trace(example: Path) -> None:
    """A plan makes no state, and the working folder is as before."""
    before = sorted(example.rglob("*"))

    retl.plan("users", sandbox=True)

    assert before == sorted(example.rglob("*"))
    assert example == Path.cwd()


@pytest.mark.thorough
def test_a_plan_can_take_the_backfill_in(example: Path) -> None:
    """With `backfill` the first pass of a track sync is planned as calls; without, as a silent baseline."""
    assert 0 == retl.plan("orders").total_calls
    assert {("added", "Order Completed"): 3} == dict(retl.plan("orders", backfill=True).calls)


@pytest.mark.thorough
def test_a_run_is_that_of_the_command_line(example: Path) -> None:
    """A run from Python uses the same state as `retl run`, and its record is what `--json` prints."""
    users = retl.load(example / "syncs/users.yml", sandbox=True)
    done = users.run(limit=3)
    assert ("succeeded", 3, 2) == (done.status, done.calls.delivered, done.calls.pending)
    assert ("users", "identify", 2) == (users.name, users.kind, users.status().pending)

    command = [sys.executable, "-m", "retl", "run", "users", "--sandbox", "--json"]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout

    assert '"delivered": 2' in said
    assert ("succeeded", 0) == (users.status().status, users.status().pending)
    assert set(done.as_json()) == set(re.findall(r'"(\w+)":', said)) & set(done.as_json())


@pytest.mark.thorough
def test_a_run_that_is_stopped_raises(example: Path) -> None:
    """An error that ends a run is raised with its record, or with `raises=False` stands in the record."""
    users = retl.load("users", sandbox=True)
    users.run()
    (example / "data/users.csv").write_text((example / "data/users.csv").read_text().splitlines()[0])

    with pytest.raises(retl.GuardError, match="min_rows") as stopped:
        users.run()
    record = users.run(raises=False)

    assert isinstance(stopped.value.run, retl.Run)
    assert ("guarded", 4, 0) == (stopped.value.run.status, record.exit_code, record.rows_read)
    assert isinstance(record.error, retl.GuardError)
    assert 5 == users.run(force=["min_rows", "removed"]).removed
    with pytest.raises(retl.ConfigError, match="there is no guard `rows`"):
        users.run(force=["rows"])


def test_errors_name_what_is_wrong(example: Path) -> None:
    """A file that is wrong, a model that fails, and a sync that is held are errors of their own kinds."""
    with pytest.raises(retl.ConfigError, match="did you mean `users`"):
        retl.load("usrs")
    with pytest.raises(retl.ConfigError, match="a folder of 4 syncs"):
        retl.load("syncs")
    users = retl.load("users", sandbox=True)
    with hold(users.state_path, datetime.now(UTC)), pytest.raises(retl.LockedError):
        users.run()
    (example / "models/users.sql").write_text("SELECT user_id FROM read_csv('data/users.csv')")
    for method in (users.check, users.plan, users.run):
        with pytest.raises(retl.ModelError, match="has no column `email`"):
            method()


def test_a_check_asks_receivers(example: Path) -> None:
    """A check tells the columns of a model in DuckDB, and with receivers what they make of the calls."""
    orders = retl.load("orders")

    assert (True, 11, []) == (orders.check().is_clean, orders.check().columns, list(orders.check().findings))
    report = retl.load("users").check(receivers=["all"])
    assert (5, 5, True) == (report.rows, report.calls, report.is_clean)
    assert len(report.findings) == len(report.to_pandas())


def test_warnings_go_to_the_log(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """What a user should read goes to Python's log `retl`, with the name of the sync."""
    path = project(tmp_path / "shop")
    with Sandbox() as sandbox, caplog.at_level(logging.WARNING, "retl"):
        path.write_text(f"{SYNC}segment: {{endpoint: '{sandbox.url}', write_key: key}}\n")
        retl.load(path).run()

    assert [record.message[:20] for record in caplog.records] == ["users: calls go to h"]


@pytest.mark.thorough
@pytest.mark.parametrize("shared", [False, True])
def test_two_threads_run_two_projects(tmp_path: Path, shared: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Syncs of two projects run side by side, each with the files of its own, and the working folder stays.

    Each project has a file of the same name, and so has the working folder; or both read one database.
    """
    database = tmp_path / "shop.duckdb"
    with duckdb.connect(database) as db:
        db.execute("CREATE TABLE users AS SELECT 'u' || i AS user_id, i AS place FROM range(2000) AS t (i)")
    url, model = (f"duckdb:///{database}", "SELECT * FROM users") if shared else ("duckdb://", None)
    paths = [project(tmp_path / name, url, model) for name in ("one", "two", "elsewhere")]
    monkeypatch.chdir(tmp_path / "elsewhere")
    environment, start = dict(os.environ), threading.Barrier(2)

    def run_often(path: Path) -> list[str]:
        sync = retl.load(path, sandbox=True)
        start.wait()
        runs = [sync.run() for _ in range(3)]
        assert [0, 0, 0] == [run.exit_code for run in runs]
        return [str(one) for one in sync.plan(full=True).to_pandas()["traits.place"][:1]]

    with ThreadPoolExecutor(2) as threads:
        found = list(threads.map(run_often, paths[:2]))

    assert ([["0"], ["0"]] if shared else [["one"], ["two"]]) == found
    assert (tmp_path / "elsewhere", environment) == (Path.cwd(), dict(os.environ))


class Tags(HTMLParser):
    """Counts the tags that are open."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: set[str] = set()

    def handle_starttag(self, tag: str, attrs: object) -> None:
        """Note that a tag is open."""
        self.open.append(tag)
        self.seen.add(tag)

    def handle_endtag(self, tag: str) -> None:
        """See that it was the last one that is open."""
        assert tag == self.open.pop()


@pytest.mark.thorough
def test_a_notebook_shows_results(example: Path) -> None:
    """Each result has HTML that is whole, small and free of what the data might bring along."""
    csv = example / "data/users.csv"
    csv.write_text(csv.read_text().replace("Berlin", "<script>alert(1)</script>"))
    users = retl.load("users", sandbox=True)
    results = [users.plan(), users.run(), users.status(), users.check(), users.check(receivers=["all"])]
    csv.unlink()
    results.append(users.run(raises=False))

    for result in results:
        html = result._repr_html_()
        tags = Tags()
        tags.feed(html)
        assert ([], True) == (tags.open, "users" in html)
        assert {"div", "b", "span"} <= tags.seen <= {"div", "b", "span", "table", "tbody", "tr", "td"}
        assert len(html) < 10_000
    assert "&lt;script&gt;" in results[0]._repr_html_()


@pytest.mark.thorough
def test_results_are_frozen(example: Path) -> None:
    """No field of a result can be set."""
    users = retl.load("users", sandbox=True)
    for result in (users, users.plan(), users.run(), users.status(), users.check()):
        name = dataclasses.fields(result)[0].name
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(result, name, None)


def test_what_the_package_exports() -> None:
    """Every error can be had from the package itself, and all that it lists is there."""

    def below(kind: type) -> set[str]:
        return {kind.__name__}.union(*map(below, kind.__subclasses__()))

    assert below(errors.RetlError) <= set(retl.__all__)
    assert [] == [name for name in retl.__all__ if not hasattr(retl, name)]
    assert sorted(retl.__all__) == dir(retl)
    with pytest.raises(AttributeError):
        _ = retl.nothing


def test_frames_of_runs_and_states(example: Path) -> None:
    """A run and a status are one line, with a column for each field and moments in UTC."""
    users = retl.load("users", sandbox=True)
    before = users.status().to_pandas()
    run = users.run().to_pandas()
    after = users.status().to_pandas()

    assert ["never", "succeeded"] == list(pandas.concat([before, after])["status"])
    assert (5, 5, "UTC") == (run["rows_read"][0], run["calls.delivered"][0], str(run["started_at"].dt.tz))
    assert "UTC" == str(after["last_run"].dt.tz)
