import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import retl

ROOT = Path(__file__).parent.parent


@pytest.fixture
def example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the example project; the working folder of the test."""
    for name in ("models", "syncs", "data"):
        shutil.copytree(ROOT / name, tmp_path / name)
    shutil.copy(ROOT / "retl.yml", tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_plan_is_a_dataframe_with_a_line_for_each_call(example: Path) -> None:
    """`retl.plan(...).to_pandas()` has the documented columns, and a line for each call."""
    plan = retl.plan("syncs/users.yml")

    frame = plan.to_pandas()

    assert ["change", "key", "type", "event", "user_id", "timestamp", "reason", "call"] == list(frame.columns)
    assert ["u1001", "u1002", "u1003", "u1004", "u1005"] == list(frame["key"])
    assert {"identify"} == set(frame["type"])
    assert frame["reason"].isna().all()
    assert (5, 1) == (plan.total_calls, plan.requests)


def test_a_dataframe_needs_pandas(example: Path) -> None:
    """Without pandas, which is an extra, `to_pandas()` says what to install; the plan itself is there."""
    (example / "pandas.py").write_text("raise ModuleNotFoundError('No module named pandas')")
    program = (
        "import retl\n"
        "from retl.errors import ConfigError\n"
        "plan = retl.plan('syncs/users.yml')\n"
        "try:\n"
        "    plan.to_pandas()\n"
        "except ConfigError as error:\n"
        "    print(plan.total_calls, error, error.hint)\n"
    )
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout

    assert "5 pandas is not installed pip install pandas\n" == said


def test_a_plan_leaves_no_trace(example: Path) -> None:
    """A plan makes no state, and the working folder is as before."""
    before = sorted(example.rglob("*"))

    retl.plan("users", sandbox=True)

    assert before == sorted(example.rglob("*"))
    assert example == Path.cwd()


def test_a_plan_can_take_the_backfill_in(example: Path) -> None:
    """With `backfill` the first pass of a track sync is planned as calls; without, as a silent baseline."""
    assert 0 == retl.plan("orders").total_calls
    assert {("added", "Order Completed"): 3} == dict(retl.plan("orders", backfill=True).calls)
