"""`retl report`: what it reads of the states, and the file that it writes."""

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from harness import NOON, Bench, Retl, register_browser, runner, two_syncs
from report_records import section

from retl.lock import hold
from retl.reporting import read_facts
from retl.sandbox.failures import Reply


@pytest.mark.thorough
def test_the_facts_are_those_of_the_state(bench: Bench) -> None:
    """What was run is what the report reads: records, answers, and what is rejected and waits now."""
    sync = {"primary_key": "id", "identify": {"user_id": "id", "traits": {"n": "n"}}}
    bench.run(sync, [{"id": "a", "n": 1}, {"id": "b", "n": 1}])
    bench.clock.move(3_600)
    bench.sandbox.reject_if = lambda call: call.get("userId") == "c"
    bench.run(sync, [{"id": "a", "n": 2}, {"id": "b", "n": 1}, {"id": "c", "n": 1}, {"id": "0", "n": 1}])
    found = read_facts(bench.state, NOON, show_values=True)

    assert [4, 2] == [record["rows_read"] for record in found.records]
    assert {200: 1} == found.answers[found.records[1]["run_id"]].by_status
    assert [("blocked_id", 1, 0), ("refused", 0, 1)] == [
        (one.reason, one.rows, one.calls) for one in found.reasons
    ]
    assert ("0", "c", "c") == (
        found.rejected_rows[0].key,
        found.rejected_calls[0].key,
        found.texts[0].user_id,
    )


def test_the_last_run_is_shown_however_old_it_is(bench: Bench) -> None:
    """Runs before the period are left out, but for the last one."""
    sync = {"primary_key": "id", "identify": {"user_id": "id"}}
    for _ in range(2):
        bench.run(sync, [{"id": "a"}])
        bench.clock.move(60)

    assert 1 == len(read_facts(bench.state, NOON + timedelta(days=1), False).records)
    assert 2 == len(read_facts(bench.state, NOON - timedelta(days=1), False).records)


def test_calls_that_wait_are_told_with_their_run(bench: Bench) -> None:
    """Pending calls are counted, and since when the oldest of them waits."""
    bench.sandbox.script([Reply(401)])
    bench.run({"primary_key": "id", "identify": {"user_id": "id"}}, [{"id": "a"}])
    found = section(read_facts(bench.state, NOON, False))

    assert (1, NOON) == (found.pending, found.waiting_since)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with the syncs `a` and `b`; the working folder of the test."""
    two_syncs(tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def retl(project: Path, capsys: pytest.CaptureFixture[str]) -> Retl:
    """Runs a command in the project."""
    return runner(capsys)


@pytest.fixture
def text(retl: Retl, project: Path) -> Callable[..., str]:
    """Writes a report; gives its text without elements."""

    def written(*arguments: str, code: int = 0) -> str:
        assert code == retl("report", "--out", "page.html", *arguments)[0]
        page = (project / "page.html").read_text(encoding="utf-8").partition("<body")[2].partition(">")[2]
        return " ".join(re.sub(r"<svg.*?</svg>|<[^>]*>", " ", page, flags=re.DOTALL).split())

    return written


@pytest.mark.thorough
def test_the_report_is_about_all_syncs(retl: Retl, text: Callable[..., str]) -> None:
    """Without SYNC each sync of the project has a section, also one that never ran."""
    assert retl("run", "a", "--sandbox")[0] == 0
    page = text("--sandbox")

    assert "a succeeded Last run" in page
    assert "b has not run yet There is no state yet." in page


@pytest.mark.thorough
def test_the_command_names_the_file_and_the_runs(retl: Retl, project: Path) -> None:
    """The command prints where the report is; the file is for its owner alone to read."""
    retl("run", "a", "--sandbox")

    assert (0, "retl-report.html: 1 sync, 1 run\n", "") == retl("report", "a", "--sandbox")
    assert (project / "retl-report.html").is_file()


@pytest.mark.thorough
def test_a_running_sync_is_told_with_its_process(text: Callable[..., str], retl: Retl, project: Path) -> None:
    """A state that another process holds is no error: the report says who holds it, and shows the others."""
    retl("run", "a", "--sandbox")
    with hold(project / "state/sandbox/a.duckdb", datetime.now(UTC)):
        page = text("--sandbox")

    assert "a running now A process holds the state: pid " in page
    assert "b has not run yet" in page


def test_a_sync_that_cannot_be_read_has_its_error(text: Callable[..., str], project: Path) -> None:
    """A wrong file ends with its exit code, and the report has the error beside the other syncs."""
    (project / "syncs/b.yml").write_text("primary_key: id\n")
    page = text(code=2)

    assert "b cannot be read" in page
    assert "a has not run yet" in page


def test_orphans_are_at_the_end(text: Callable[..., str], retl: Retl, project: Path) -> None:
    """A state whose sync file is gone is named, with the way out."""
    (project / "retl.yml").write_text('segment: {endpoint: "file:calls.ndjson"}\n')
    retl("run", "b")
    (project / "syncs/b.yml").unlink()

    assert "b no sync file leads to it The state is " in text()


def test_open_hands_the_file_to_the_browser(retl: Retl, project: Path) -> None:
    """With --open the browser gets the file's address."""
    opened = register_browser(project)

    assert retl("report", "a", "--open")[0] == 0
    assert (project / "retl-report.html").as_uri() == opened.read_text().strip()


def test_a_page_that_cannot_be_written_leaves_the_older_one(retl: Retl, project: Path) -> None:
    """An error on the way leaves neither a part of a page nor nothing in place of the older one."""
    page = project / "page.html"
    page.write_text("older")
    (project / "page.html.new").mkdir()

    code, _, err = retl("report", "--out", "page.html")

    assert (2, "older") == (code, page.read_text())
    assert "page.html: the system refuses: Is a directory" in err
