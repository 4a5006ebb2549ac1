"""Alerts: who is told what of a sync, and when."""

import json
import re
import socket
import stat
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from subprocess import PIPE, Popen
from typing import Any

import pytest
from harness import NOON, Retl, runner
from listeners import Listener
from servers import Scripted, read_request

from retl.alert import Alert, AlertEvent, Told, next_told
from retl.config.settings import Limit, Notify
from retl.engine.guard import Guard
from retl.errors import ConfigError, GuardError, Interrupted, LockedError, RetlError, WarehouseError
from retl.mask import masked
from retl.run import Calls, Run

PAGE = (Path(__file__).parent.parent / "docs/alerts.md").read_text(encoding="utf-8")


def channel(**settings: Any) -> Notify:
    """A channel with these settings."""
    return Notify(webhook="https://example.com/x", **settings)


def ended(error: RetlError | None = None, rejected: int = 0, **known: Any) -> Run:
    """A run that ended so."""
    run = Run("users", "20260301T120000-1a2b3c", NOON, rows_read=1_000, rejected_rows=rejected, error=error)
    return run.evolve(**known).finished(1.0, None, rejected_fails=True)


DOWN = WarehouseError("the warehouse cannot be reached", hint="Check that it runs.")
GUARDED = ended(GuardError("no"), guards=[Guard("removed", "20%", 400, tripped=True, forced=False)])


def events(of: Notify, *runs: Run) -> list[str]:
    """The events that runs, one after the other, are worth to a channel; empty for none."""
    told, found = Told(), []
    for run in runs:
        alert, told = next_told(of, told, run)
        found.append(alert.event.value if alert else "")
    return found


@pytest.mark.parametrize(
    ("runs", "expected"),
    [
        ([ended(), ended()], ["", ""]),
        ([ended(DOWN), ended(DOWN), ended(), ended()], ["failed", "", "recovered", ""]),
        ([ended(DOWN), ended(ConfigError("x")), ended()], ["failed", "failed", "recovered"]),
        ([ended(DOWN), GUARDED, GUARDED, ended(DOWN)], ["failed", "guarded", "", "failed"]),
        ([ended(rejected=1), ended(rejected=9), ended()], ["rejected", "", "recovered"]),
        ([ended(DOWN), ended(Interrupted(15)), ended(LockedError("x")), ended(DOWN)], ["failed", "", "", ""]),
        ([ended(calls=Calls(rejected=1))], ["rejected"]),
    ],
)
def test_a_change_is_told_once(runs: list[Run], expected: list[str]) -> None:
    """A channel is told when the condition changes, and not again while it lasts."""
    assert expected == events(channel(), *runs)


@pytest.mark.parametrize(
    ("on", "expected"),
    [
        (["failed"], ["failed", "", "", ""]),
        (["recovered"], ["", "", "", ""]),
        (["failed", "recovered"], ["failed", "recovered", "", ""]),
        (["rejected", "recovered"], ["", "rejected", "", "recovered"]),
    ],
)
def test_what_a_channel_does_not_ask_for_counts_as_fine(on: list[str], expected: list[str]) -> None:
    """A channel hears of a recovery only from what it was told of."""
    runs = [ended(DOWN), ended(rejected=5), ended(rejected=5), ended()]

    assert expected == events(channel(on=on), *runs)


@pytest.mark.parametrize(
    ("limit", "rejected", "is_told"),
    [
        (Limit(count=100), 100, False),
        (Limit(count=100), 101, True),
        (Limit(percent=1), 10, False),
        (Limit(percent=1), 11, True),
        (Limit(off=True), 1_000, False),
    ],
)
def test_the_limit_of_rejected_rows(limit: Limit, rejected: int, is_told: bool) -> None:
    """Rows are worth an alert beyond a count, or beyond a percentage of the rows read."""
    assert ["rejected" if is_told else ""] == events(channel(rejected=limit), ended(rejected=rejected))


def test_the_text_says_what_happened_and_what_to_do() -> None:
    """An alert has the error, the numbers, the hint and a command with the options that it needs."""
    run = ended(DOWN).evolve(calls=Calls(pending=20_312), rows_read=None)
    text = Alert(AlertEvent.FAILED, run, Told()).text(" --state-dir x")

    assert [
        "retl: users failed: the warehouse cannot be reached",
        "20,312 calls pending (run 20260301T120000-1a2b3c, exit code 3)",
        "→ Check that it runs.",
        "→ where it stands: retl status users --state-dir x",
    ] == text.splitlines()
    assert all(line in PAGE for line in text.splitlines()[1:2])


def test_the_page_has_the_events_of_the_program() -> None:
    """docs/alerts.md has a line for each event."""
    assert [event.value for event in AlertEvent] == re.findall(r"^\| `(\w+)` \|", PAGE, re.MULTILINE)


TOKEN = "T0K3N" * 5

SYNC = """\
sql: {sql}
warehouse: "duckdb://"
primary_key: user_id
identify: {{user_id: user_id, traits: {{city: city}}}}
segment: {{endpoint: "file:calls.ndjson"}}
"""

FINE = "SELECT 'u1' AS user_id, 'Bern' AS city"
MOVED = "SELECT 'u1' AS user_id, 'Rome' AS city"
BROKEN = "SELECT * FROM nowhere"
EMPTY = f"{MOVED} WHERE false"
HALF = f"{MOVED} UNION ALL SELECT '', 'x'"


class Project:
    """A project with one sync that tells a webhook, and goes well or wrong as a test says."""

    def __init__(self, root: Path, listener: Listener, retl: Retl) -> None:
        self.root, self.listener, self.retl = root, listener, retl
        (root / "syncs").mkdir()
        self.notify("- webhook: ${HOOK}")

    def notify(self, *channels: str) -> None:
        """Have these channels in retl.yml."""
        (self.root / "retl.yml").write_text("notify:\n" + "".join(f"  {one}\n" for one in channels))

    def run(self, sql: str = FINE, *options: str) -> tuple[int, str]:
        """Run the sync with a model of that SQL; gives the exit code and stderr."""
        (self.root / "syncs/users.yml").write_text(SYNC.format(sql=sql))
        code, out, err = self.retl("run", "users", *options)
        assert TOKEN not in out + err
        return code, err

    @property
    def told(self) -> list[Any]:
        """What the webhook was told, as JSON."""
        return [json.loads(one.body) for one in self.listener.taken]

    @property
    def events(self) -> list[str]:
        """The events that it was told of."""
        return [one["retl"]["event"] for one in self.told]


@pytest.fixture
def project(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Iterator[Project]:
    """A project whose webhook is a server on this machine."""
    monkeypatch.chdir(tmp_path)
    with Listener() as listener:
        monkeypatch.setenv("HOOK", f"{listener.url}/services/{TOKEN}")
        yield Project(tmp_path, listener, runner(capsys))


@pytest.mark.thorough
def test_a_webhook_is_told_of_a_failure_and_of_its_end(project: Project) -> None:
    """The webhook gets one request when a sync fails, one when all is well, and none in between."""
    codes = [project.run(sql)[0] for sql in (FINE, BROKEN, BROKEN, MOVED, MOVED)]

    assert [0, 2, 2, 0, 0] == codes
    assert ["failed", "recovered"] == project.events
    failed, recovered = project.told
    assert failed["text"].startswith("retl: users failed: syncs/users.yml")
    assert "\n→ where it stands: retl status users" in failed["text"]
    assert ("model", 2) == (failed["retl"]["error"]["code"], failed["retl"]["exit_code"])
    assert {"condition": "failed: model"} == {
        key: value for key, value in recovered["retl"]["before"].items() if key != "since"
    }
    assert recovered["retl"]["before"]["since"] in recovered["text"]
    assert (f"/services/{TOKEN}", "application/json") == (
        project.listener.taken[0].path,
        project.listener.taken[0].headers["content-type"],
    )


def test_a_failure_before_the_state_is_opened_is_told_once(project: Project) -> None:
    """A sync whose write key is not set leaves no record of its runs, and is told of once all the same."""
    text = SYNC.replace('endpoint: "file:calls.ndjson"', "write_key: '${{NO_SUCH_KEY}}'")
    (project.root / "syncs/users.yml").write_text(text.format(sql=FINE))

    assert [2, 2] == [project.retl("run", "users")[0] for _ in range(2)]
    assert ["failed"] == project.events
    assert "NO_SUCH_KEY is not set" in project.told[0]["text"]


@pytest.mark.thorough
@pytest.mark.parametrize("name", ["", "name: other\n"])
def test_a_sync_file_that_cannot_be_read_is_told_of(project: Project, name: str) -> None:
    """The channels of retl.yml hear once of a file that is wrong, and once that it is right again."""
    right = SYNC.format(sql=FINE) + name
    right += "segment: {endpoint: 'file:calls.ndjson', name: eu}\n"
    right = right.replace('segment: {endpoint: "file:calls.ndjson"}\n', "")
    codes = []
    for text in (
        right,
        f"{right}nonsense: 1\n",
        f"{right}nonsense: 1\n",
        right,
        right,
        f"{right}nonsense: 1\n",
    ):
        (project.root / "syncs/users.yml").write_text(text)
        codes.append(project.retl("run", "syncs/users.yml")[0])

    assert [0, 2, 2, 0, 0, 2] == codes
    assert ["failed", "recovered", "failed"] == project.events
    assert " nonsense: unknown " in project.told[0]["text"]


def test_where_no_file_can_be_read_nobody_is_told(project: Project) -> None:
    """Where retl.yml is wrong as well, the run's own error is all that is said."""
    project.notify("- webhok: x")
    code, err = project.run()

    assert (2, 1) == (code, err.count("error: "))
    assert "not all were told" not in err
    assert [] == project.told


@pytest.mark.thorough
def test_guards_and_rejected_rows_are_told(project: Project) -> None:
    """A guard that stops a run is told with its way on, and rejected rows with their command."""
    project.run()
    project.run(EMPTY)
    project.run(HALF)

    assert ["guarded", "rejected"] == project.events
    guarded, rejected = (one["text"] for one in project.told)
    assert "a guard stopped users before its first call" in guarded
    assert "--force min_rows" in guarded
    assert "retl plan users" in guarded
    assert "retl: users rejects rows or calls: blocked_id 1" in rejected
    assert "retl rejected users" in rejected


@pytest.mark.rule("S8")
def test_a_rehearsal_tells_nobody(project: Project) -> None:
    """Neither a failure nor a recovery of `--sandbox` is told, and nothing is noted of it."""
    project.run(BROKEN, "--sandbox")

    assert [] == project.told
    assert [] == list(project.root.rglob("*.alerts"))


@pytest.mark.thorough
@pytest.mark.rule("S8")
@pytest.mark.parametrize(
    ("status", "words"), [(500, "a refusal"), (302, "a redirect, which is not followed")]
)
def test_a_webhook_that_does_not_take_it_is_told_next_time(project: Project, status: int, words: str) -> None:
    """A channel that fails is a notice, changes no exit code, and is told by the next run."""
    project.listener.status = status
    code, err = project.run(BROKEN)
    assert 2 == code
    assert f"an alert was not sent (webhook): the answer was {status}, {words}" in err
    assert 1 == len(project.listener.taken)
    project.listener.status = 200
    project.run(BROKEN)
    project.run(BROKEN)

    assert ["failed", "failed"] == project.events


@pytest.mark.thorough
@pytest.mark.rule("S8")
@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("http://127.0.0.1:9/" + TOKEN, "no answer"),
        (TOKEN, "its URL does not begin with https:// and a host"),
        ("", "the URL is empty"),
        (None, "HOOK is not set"),
    ],
)
def test_a_webhook_out_of_reach_changes_nothing(
    project: Project, monkeypatch: pytest.MonkeyPatch, url: str | None, words: str
) -> None:
    """A webhook that nobody answers, or whose URL is wrong, is a notice without the URL."""
    if url is None:
        monkeypatch.delenv("HOOK")
    else:
        monkeypatch.setenv("HOOK", url)
    (code, err), (fine, silence) = project.run(BROKEN), project.run()

    assert (2, 0) == (code, fine)
    assert words in err
    assert ("an alert was not sent" in silence) == (words in ("the URL is empty", "HOOK is not set"))


@pytest.mark.thorough
def test_a_signal_ends_the_wait_for_a_webhook(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """A webhook that does not answer holds no command that is told to end."""
    asked, left = threading.Event(), threading.Event()

    def say_nothing(connection: socket.socket) -> None:
        read_request(connection)
        asked.set()
        left.wait(60)

    (project.root / "syncs/users.yml").write_text(SYNC.format(sql=BROKEN))
    with Scripted(say_nothing) as server:
        monkeypatch.setenv("HOOK", server.url)
        with Popen([sys.executable, "-m", "retl", "run", "users"], stderr=PIPE, text=True) as run:
            assert asked.wait(60)
            run.terminate()
            _, err = run.communicate(timeout=60)
        left.set()

    assert 143 == run.returncode
    assert "stopped by a signal" in err


@pytest.mark.thorough
def test_what_was_told_holds_no_secret(project: Project) -> None:
    """The file beside the state is its owner's alone, and has no URL; a purge deletes it."""
    project.run(BROKEN)
    (path,) = project.root.rglob("*.alerts")

    assert 0o600 == stat.S_IMODE(path.stat().st_mode)
    assert TOKEN not in path.read_text()
    assert "services" not in path.read_text()
    assert "a *** b" == masked(f"a {TOKEN} b")
    project.run()
    assert 0 == project.retl("reset", "users", "--purge", "--yes")[0]
    assert not path.exists()


of_apprise = pytest.mark.filterwarnings("ignore:'imghdr' is deprecated:DeprecationWarning")


@pytest.mark.thorough
@of_apprise
def test_each_channel_has_its_own_view(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two channels are told of what each asks for; apprise posts to its own address."""
    address = project.listener.url.removeprefix("http://")
    monkeypatch.setenv("OTHER", f"json://{address}/apprise/{TOKEN}")
    project.notify(
        "- webhook: ${HOOK}", "  on: [failed]", "- apprise: ${OTHER}", "  on: [recovered, rejected]"
    )
    project.run(BROKEN)
    project.run(HALF)
    project.run()

    paths = [one.path for one in project.listener.taken]
    assert [f"/services/{TOKEN}", f"/apprise/{TOKEN}", f"/apprise/{TOKEN}"] == [
        one.rstrip("/") for one in paths
    ]
    rejected, recovered = project.told[1:]
    assert "retl: users rejects rows or calls: blocked_id 1" == rejected["title"]
    assert "retl rejected users" in rejected["message"]
    assert recovered["title"].startswith("retl: users is fine again; it was `rejected` since ")


@of_apprise
@pytest.mark.parametrize(
    ("url", "words"), [("nosuch://x", "does not know"), ("json://127.0.0.1:9/x", "could not")]
)
def test_apprise_that_fails_is_a_notice(
    project: Project, monkeypatch: pytest.MonkeyPatch, url: str, words: str
) -> None:
    """A URL that apprise does not know, or cannot reach, is a notice."""
    monkeypatch.setenv("OTHER", url)
    project.notify("- apprise: ${OTHER}")
    code, err = project.run(BROKEN)

    assert 2 == code
    assert f"an alert was not sent (apprise): apprise {words}" in err


def test_apprise_that_is_missing_is_a_notice(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the extra is not installed, the notice says how to."""
    monkeypatch.setitem(sys.modules, "apprise", None)
    project.notify("- apprise: ${HOOK}")

    assert "pip install 'retl[apprise]'" in project.run(BROKEN)[1]


@pytest.mark.thorough
def test_one_address_may_have_two_channels(project: Project) -> None:
    """Two channels of one URL that ask for different things are told each of its own."""
    project.notify("- webhook: ${HOOK}", "  on: [failed]", "- webhook: ${HOOK}", "  on: [recovered, failed]")
    for sql in (BROKEN, BROKEN, FINE, FINE):
        project.run(sql)

    assert ["failed", "failed", "recovered"] == project.events


def test_a_row_calls_nobody(project: Project) -> None:
    """What a message quotes of an answer is text to Slack: no link, and no call of a whole channel."""
    project.run("SELECT '<!channel> & co' || no_such_column")

    (told,) = project.told
    assert "<" not in told["text"]


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("x", "notify: must be a list, not text"),
        ("[{on: [failed]}]", "notify.0: needs either `webhook` or `apprise`"),
        ("[{webhook: a, apprise: b}]", "notify.0: needs either `webhook` or `apprise`"),
        (
            "[{webhook: a, on: [broken]}]",
            "notify.0.on.0: must be `failed`, `guarded`, `rejected` or `recovered`",
        ),
        ("[{webhook: a, rejected: many}]", "notify.0.rejected: must be a count such as 500000"),
        ("[{webhok: a}]", "notify.0.webhok: unknown key `webhok`; did you mean `webhook`?"),
    ],
)
def test_what_is_wrong_with_notify(project: Project, written: str, message: str) -> None:
    """A mistake below `notify` is said with its place, in a sync as in retl.yml."""
    (project.root / "syncs/users.yml").write_text(SYNC.format(sql=FINE) + f"notify: {written}\n")
    code, _, err = project.retl("check", "users")

    assert (2, True) == (code, message in err), err


def test_checking_needs_no_url(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """The variable of a channel is looked up by runs alone, so that a check needs no secret."""
    monkeypatch.delenv("HOOK")
    (project.root / "syncs/users.yml").write_text(SYNC.format(sql=FINE))

    assert 0 == project.retl("check", "users")[0]
