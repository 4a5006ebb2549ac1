"""The run mark, by which Segment's counts can be asked for that run alone."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from harness import NOON, Bench
from test_segment import CALL, HURRIED, KEY, NOWHEN, batch

import retl
from retl.config.project import find_project, load_sync
from retl.config.sync import Sync
from retl.delivery.destination import Attempt
from retl.delivery.rate_limit import RateLimiter
from retl.delivery.segment import ENVELOPE_BYTES, Segment, Source
from retl.errors import ConfigError
from retl.run import begin_run
from retl.sandbox.server import Sandbox


def load(bench: Bench, settings: Mapping[str, Any]) -> Sync:
    """The sync of a file with such settings."""
    path = bench.folder / "other.yml"
    path.write_text(json.dumps({"sql": "SELECT 1 AS id", "primary_key": "id", **settings}))
    return load_sync(path, find_project(path, {}))


def test_a_marked_call_says_which_run_sent_it() -> None:
    """Segment reads the run's id as the call's own `context.app.version`, beside the rest of its context."""
    with Sandbox() as sandbox:
        for marks in (False, True):
            source = Source(sandbox.url, KEY, mark_runs=marks)
            with Segment(source, RateLimiter(0, NOWHEN), HURRIED, 1) as to:
                to.send(batch(CALL.replace(b"m1", b"m%d" % marks)), Attempt(0, 0, NOON, "a run"))
        plain, marked = (request.parsed for request in sandbox.requests)

    assert "context" not in plain
    assert {"app": {"version": "a run"}} == marked["context"]
    assert {"context"} == marked.keys() - plain.keys()


def test_a_marked_envelope_has_the_room_that_is_kept_for_it() -> None:
    """With the mark and a long write key a batch is no larger than the official client's."""
    run_id = begin_run("s", NOON).run_id
    with Sandbox() as sandbox:
        source = Source(sandbox.url, "k" * 64, mark_runs=True)
        with Segment(source, RateLimiter(0, NOWHEN), HURRIED, 1) as to:
            to.send(batch(CALL), Attempt(0, 0, NOON, run_id))
        (request,) = sandbox.requests

    assert int(request.headers["content-length"]) - len(CALL) <= ENVELOPE_BYTES


@pytest.mark.rule("D9")
def test_the_mark_is_no_part_of_a_call(bench: Bench) -> None:
    """To mark runs sends no row again and changes no message id, as the mark is not in the call's text."""
    sync = {"primary_key": "id", "identify": {"user_id": "id", "traits": {"plan": "plan"}}}
    rows = [{"id": "a", "plan": "x"}]
    first = bench.run(sync, rows)
    second = bench.run({**sync, "segment": {"mark_runs": True}}, rows)

    assert (1, 0) == (len(first.calls), len(second.calls))
    assert (0, 1) == (second.run.changed, second.run.unchanged)


@pytest.mark.parametrize("context", [{"app.name": {"value": "shop"}}, {"app": {"column": "a", "as": "json"}}])
def test_the_mark_and_a_mapped_app_exclude_each_other(bench: Bench, context: dict[str, Any]) -> None:
    """A sync that maps `context.app` itself is refused with the mark, since one would hide the other."""
    kind = {"identify": {"user_id": "id", "traits": {"id": "id"}, "context": context}}
    load(bench, kind)
    with pytest.raises(ConfigError, match="`mark_runs` sends the id of the run"):
        load(bench, {**kind, "segment": {"mark_runs": True}})


def test_a_server_on_this_machine_is_told_the_sync_and_the_run(tmp_path: Path) -> None:
    """A local Segment hears in headers which sync and which run send a batch; the body says nothing of it."""
    (tmp_path / "syncs").mkdir()
    sync = tmp_path / "syncs/users-2.yml"
    with Sandbox() as sandbox:
        segment = {"endpoint": sandbox.url, "write_key": KEY}
        identify = {"user_id": "id", "traits": {"plan": "plan"}}
        content = {"sql": "SELECT 'a' AS id, 'x' AS plan", "primary_key": "id", "warehouse": "duckdb://"}
        sync.write_text(json.dumps({**content, "segment": segment, "identify": identify}))
        run = retl.load(sync).run()
        (call,) = sandbox.store.read("SELECT sync, run_id FROM call")
        (body,) = (request.parsed for request in sandbox.requests if request.calls)

    assert {"sync": "users-2", "run_id": run.run_id} == call
    assert {"batch", "sentAt", "writeKey"} == body.keys()


def test_no_other_server_is_told_of_the_sync() -> None:
    """Beyond this machine the headers are those that Segment documents, and the client's own."""
    with Sandbox() as sandbox:
        with Segment(Source(sandbox.url, KEY), RateLimiter(0, NOWHEN), HURRIED, 1) as to:
            to.send(batch(CALL), Attempt(0, 0, NOON, "a run"))
        (request,) = sandbox.requests

    assert [] == [name for name in request.headers if name.startswith("x-retl")]
