"""The bench measures what it says, and its page shows what was found."""

import gzip
from pathlib import Path

import duckdb
import pytest
import urllib3

from bench.chart import chart
from bench.child import STEPS, find_function
from bench.report import CHART, MARKED, PAGE, README, charted, page, readme_lines
from bench.results import load_results
from bench.shop import DuckDBShop, changes
from bench.sink import running_sink

BODY = b'{"batch": [{"messageId":"a"}, {"messageId": "b"}, {"messageId":"a"}]}'


@pytest.mark.parametrize("where", [where for where, *_ in STEPS])
def test_each_function_under_the_stopwatch_is_there(where: str) -> None:
    """The stages of the bench name functions that retl has."""
    owner, name = find_function(where)

    assert callable(getattr(owner, name))


@pytest.mark.parametrize("in_python", [False, True])
def test_the_sink_counts_calls(in_python: bool) -> None:
    """Each sink counts the calls of plain and of compressed bodies, and begins anew when it is told to."""
    with running_sink(1, in_python) as sink:
        urllib3.request("POST", f"{sink.url}/v1/batch", body=BODY)
        headers = {"Content-Encoding": "gzip"}
        urllib3.request("POST", f"{sink.url}/v1/batch", body=gzip.compress(BODY), headers=headers)
        counts = sink.counts()
        sink.reset()
        after = sink.counts()

    assert (2, 6) == (counts.requests, counts.calls)
    assert ({"C": 2, "Python": None})[sink.language] == counts.distinct
    assert len(BODY) + len(gzip.compress(BODY)) == counts.bytes
    assert (0, 0) == (after.requests, after.calls)


def test_the_second_version_differs_as_said(tmp_path: Path) -> None:
    """Between the two versions of the users as many rows differ as the bench expects calls."""
    shop = DuckDBShop(tmp_path)
    shop.fill(2000)
    with duckdb.connect(tmp_path / "shop.duckdb", read_only=True) as db:
        found = db.execute("""
            SELECT count(*) FROM users_v1 AS a FULL JOIN users_v2 AS b USING (user_id)
            WHERE a.email IS NULL OR b.email IS NULL OR a.plan != b.plan
        """).fetchall()

    assert changes(2000) == found[0][0]


def test_page_chart_and_readme_show_the_results() -> None:
    """What `make bench` wrote is what its results say: `python -m bench --page` writes it anew."""
    settings = load_results()
    shown, marked = charted(settings), MARKED.search(README.read_text(encoding="utf-8"))

    assert page(settings) == PAGE.read_text(encoding="utf-8")
    assert shown and chart(shown) == CHART.read_text(encoding="utf-8")
    assert marked and marked[0] == f"{marked[1]}{readme_lines(settings)}{marked[2]}"
