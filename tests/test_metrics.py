"""Metrics of runs in Prometheus' text format."""

import re
import stat
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest
from harness import NOON, SEGMENT_BY_VARIABLE, Retl, runner, two_syncs
from prometheus_client.parser import text_string_to_metric_families

from retl.engine.guard import Guard
from retl.errors import WarehouseError
from retl.metrics import BUILD, METRICS, ForeignFileError, after, read_values, spelled, write_metrics
from retl.run import Calls, Run
from retl.sandbox.server import Sandbox

PAGE = (Path(__file__).parent.parent / "docs/metrics.md").read_text(encoding="utf-8")


def run(sync: str = "users", **known: object) -> Run:
    """A run of a sync that is through."""
    return Run(sync, "r1", NOON, exit_code=0).evolve(seconds=2.5, **known)


def test_the_page_has_the_metrics_of_the_program() -> None:
    """docs/metrics.md names each metric with its label and type, and no other."""
    rows = re.findall(r"^\| `(retl_\w+)` \| (?:`(\w+)`)? ?\| (\w+) \|", PAGE, re.MULTILINE)
    known = [
        (one.name, one.label or "", "counter" if one.name.endswith("_total") else "gauge")
        for one in (*METRICS, BUILD)
    ]

    assert known == rows


@pytest.mark.rule("S8")
def test_a_run_as_metrics() -> None:
    """What a run did is in the gauges of its sync, and no label holds anything but words of retl's."""
    guard = Guard("removed", "20%", 4, tripped=True, forced=True)
    calls = Calls(enqueued=5, delivered=3, rejected=1, pending=1, unsure=0)
    text = spelled(
        after(
            {},
            run(
                rows_read=10,
                added=5,
                changed=0,
                removed=4,
                unchanged=4,
                rejected_rows=1,
                rejected_by={"no_id": 1},
                calls=calls,
                bytes=700,
                retries=2,
                guards=[guard],
                exit_code=1,
            ),
        )
    ).decode()

    for line in (
        'retl_run_status{status="partial",sync="users"} 1.0',
        'retl_run_status{status="failed",sync="users"} 0.0',
        'retl_run_exit_code{sync="users"} 1.0',
        'retl_run_rows{change="added",sync="users"} 5.0',
        'retl_run_rows{change="changed",sync="users"} 0.0',
        'retl_run_rejected_rows_by_reason{reason="no_id",sync="users"} 1.0',
        'retl_run_calls{outcome="delivered",sync="users"} 3.0',
        'retl_run_guard_tripped{guard="removed",sync="users"} 1.0',
        'retl_calls_pending{sync="users"} 1.0',
        'retl_run_duration_seconds{sync="users"} 2.5',
        f'retl_last_success_timestamp_seconds{{sync="users"}} {NOON.timestamp() + 2.5:.10g}',
        'retl_calls_total{outcome="delivered",sync="users"} 3.0',
    ):
        assert f"\n{line}\n" in re.sub(r"(\d)\.(\d+)e\+09", lambda one: f"{float(one[0]):.10g}", text), line
    assert {"sync", "status", "change", "reason", "outcome", "guard", "version"} >= set(
        re.findall(r'[{,](\w+)="', text)
    )


def test_what_a_failed_run_does_not_know_stays() -> None:
    """A run that fails early keeps the last success and what waits; its rows are unknown, and not zero."""
    first = after({}, run(rows_read=10, added=1, calls=Calls(delivered=1, pending=7)))
    error = WarehouseError("gone")
    later = datetime(2026, 3, 2, tzinfo=UTC)
    second = after(first, run().evolve(started_at=later, error=error, exit_code=3))

    assert second["retl_last_success_timestamp_seconds", ("users", "")] == NOON.timestamp() + 2.5
    assert second["retl_calls_pending", ("users", "")] == 7
    assert second["retl_run_error", ("users", "", "warehouse")] == 1
    assert ("retl_run_rows_read", ("users", "")) not in second
    assert second["retl_run_start_timestamp_seconds", ("users", "")] == later.timestamp()
    third = after(second, run(rows_read=10, calls=Calls(delivered=2, pending=0)))
    assert ("retl_run_error", ("users", "", "warehouse")) not in third
    assert third["retl_calls_total", ("users", "", "delivered")] == 3
    assert third["retl_runs_total", ("users", "", "failed")] == 1
    assert third["retl_runs_total", ("users", "", "succeeded")] == 2


def test_two_sources_of_a_sync_have_their_own_metrics(tmp_path: Path) -> None:
    """A series has the name of the source, if any; a sync that cannot be read keeps the one it had."""
    path = tmp_path / "retl.prom"
    write_metrics(path, [(run(rows_read=1), "eu"), (run(rows_read=2), "us"), (run("b", rows_read=3), "eu")])
    write_metrics(path, [(run(rows_read=4), "us"), (run("b").evolve(error=WarehouseError("gone")), None)])

    values = read_values(path)
    assert {("users", "eu"): 1, ("users", "us"): 4} == {
        labels: value for (name, labels), value in values.items() if name == "retl_run_rows_read"
    }
    assert 1 == values["retl_run_error", ("b", "eu", "warehouse")]
    assert 'retl_run_rows_read{source="eu",sync="users"} 1.0' in path.read_text()


def test_commands_share_a_file(tmp_path: Path) -> None:
    """What a file has of other syncs stays to the letter; every user may read it."""
    path = tmp_path / "retl.prom"
    write_metrics(path, [(run("a", rows_read=1), ""), (run("b", rows_read=2), "")])
    before = [line for line in path.read_text().splitlines() if 'sync="a"' in line]
    write_metrics(path, [(run("b", rows_read=3), "")])

    assert before == [line for line in path.read_text().splitlines() if 'sync="a"' in line]
    assert 3 == read_values(path)["retl_run_rows_read", ("b", "")]
    assert 0o644 == stat.S_IMODE(path.stat().st_mode)
    assert ["retl.prom", "retl.prom.lock"] == sorted(one.name for one in tmp_path.iterdir())
    assert list(text_string_to_metric_families(path.read_text()))


@pytest.mark.parametrize("text", ["up 1\n", "not metrics at all {\n", 'retl_run_rows{sync="a\n'])
def test_a_file_of_others_is_left_alone(tmp_path: Path, text: str) -> None:
    """A file that is not one of these metrics is not written over."""
    path = tmp_path / "retl.prom"
    path.write_text(text)

    with pytest.raises(ForeignFileError):
        write_metrics(path, [(run(), "")])
    assert text == path.read_text()


@pytest.fixture
def retl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Retl:
    """Run commands in a project with two syncs, whose Segment is at SEGMENT."""
    monkeypatch.chdir(two_syncs(tmp_path, SEGMENT_BY_VARIABLE))
    return runner(capsys)


@pytest.mark.thorough
def test_a_command_writes_its_runs(retl: Retl, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All runs of a command are in the file of the option or the variable, also failed ones; no rehearsal."""
    with Sandbox() as sandbox:
        monkeypatch.setenv("SEGMENT", sandbox.url)
        (tmp_path / "syncs/b.yml").write_text("nonsense: 1\n")
        assert 2 == retl("run", "syncs", "--metrics", "retl.prom")[0]
        monkeypatch.setenv("RETL_METRICS", "other.prom")
        assert 0 == retl("run", "a")[0]
        code, _, err = retl("run", "a", "--sandbox", "--metrics", "rehearsal.prom")
        assert (0, 1) == (code, err.count("a rehearsal writes no metrics, so rehearsal.prom stays as it is"))

    values = read_values(tmp_path / "retl.prom")
    assert (1, 1) == (
        values["retl_run_status", ("a", "x", "succeeded")],
        values["retl_run_error", ("b", "", "config")],
    )
    assert 1 == values["retl_run_calls", ("a", "x", "delivered")]
    assert 0 == read_values(tmp_path / "other.prom")["retl_run_rows", ("a", "x", "added")]
    assert not (tmp_path / "rehearsal.prom").exists()


@pytest.mark.rule("S8")
def test_metrics_that_cannot_be_written_change_no_run(retl: Retl, tmp_path: Path) -> None:
    """Where the file is another's, the run counts all the same, and a notice says why there are none."""
    (tmp_path / "retl.prom").write_text("up 1\n")
    text = (tmp_path / "syncs/a.yml").read_text().partition("segment:")[0]
    (tmp_path / "syncs/a.yml").write_text(text + 'segment: {endpoint: "file:calls.ndjson"}\n')

    code, out, err = retl("run", "a", "--metrics", "retl.prom")

    assert (0, True) == (code, "1 call delivered" in out)
    assert "no metrics were written to retl.prom: it has the metric up, which is not retl's" in err


@pytest.mark.parametrize("case", ["folder", "package"])
def test_metrics_that_can_never_be_are_refused_first(
    retl: Retl, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    """Without the folder or the package nothing is run, and the error says what to do."""
    if case == "package":
        monkeypatch.setitem(sys.modules, "prometheus_client", None)
    file = "nowhere/retl.prom" if case == "folder" else "retl.prom"
    code, _, err = retl("run", "a", "--metrics", file)

    expected = {"folder": "there is no folder nowhere", "package": "pip install 'retl[metrics]'"}
    assert (2, True) == (code, expected[case] in err)
