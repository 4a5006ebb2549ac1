"""Traces and lineage of runs: what reaches a collector, and that none changes a run."""

import json
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from harness import Retl, runner
from listeners import Listener
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from retl import lineage, tracing
from retl.sandbox.failures import Reply
from retl.sandbox.server import Sandbox

PAGE = (Path(__file__).parent.parent / "docs/tracing.md").read_text(encoding="utf-8")

SYNC = """\
sql: {sql}
warehouse: "duckdb://"
primary_key: user_id
identify: {{user_id: user_id, traits: {{city: city}}}}
segment: {{endpoint: "{endpoint}", write_key: "geheim-123456", name: eu}}
"""
FINE = "SELECT 'u' || range AS user_id, 'Bern' AS city FROM range(3)"


@pytest.fixture(autouse=True)
def own_variables(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """No test leaves variables behind: the client of OpenLineage sets some."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "syncs").mkdir()
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture
def retl(capsys: pytest.CaptureFixture[str]) -> Retl:
    """Run commands in the folder of the test."""
    return runner(capsys)


@pytest.fixture
def listener() -> Iterator[Listener]:
    """A collector on this machine."""
    with Listener() as entered:
        yield entered


@pytest.fixture
def sandbox(tmp_path: Path) -> Iterator[Sandbox]:
    """A local Segment, to which the sync `users` sends three calls."""
    with Sandbox() as entered:
        (tmp_path / "syncs/users.yml").write_text(SYNC.format(sql=FINE, endpoint=entered.url))
        yield entered


def values(attributes: Any) -> dict[str, Any]:
    """Attributes of OTLP as plain values."""
    return {one.key: getattr(one.value, str(one.value.WhichOneof("value"))) for one in attributes}


def spans(listener: Listener) -> list[Any]:
    """The spans that a collector got, in the order in which they began."""
    found = []
    for taken in listener.taken:
        assert taken.path == "/v1/traces"
        request = ExportTraceServiceRequest.FromString(taken.body)
        found += [
            span
            for resource in request.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]
    return sorted(found, key=lambda span: int(span.start_time_unix_nano))


def test_a_run_is_a_trace(
    retl: Retl, sandbox: Sandbox, listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run is a span with its counts, and reading, diff, enqueue and deliver are its children, in order."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", listener.url)
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment=test")
    monkeypatch.setenv("TRACEPARENT", "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")
    sandbox.script([Reply(status=429, retry_after=1)])
    code, out, err = retl("run", "users", "--json")

    assert (0, False) == (code, "trace" in err)
    run = json.loads(out)
    root, *steps = spans(listener)
    assert ["retl run", "read", "diff", "enqueue", "deliver"] == [root.name, *(one.name for one in steps)]
    assert {root.span_id} == {one.parent_span_id for one in steps}
    assert ("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331") == (
        root.trace_id.hex(),
        root.parent_span_id.hex(),
    )
    found = values(root.attributes)
    assert (run["run_id"], "users", "succeeded", 3, 3, 3, 0) == tuple(
        found[f"retl.{name}"]
        for name in (
            "run_id",
            "sync",
            "status",
            "rows_read",
            "calls_enqueued",
            "calls_delivered",
            "calls_pending",
        )
    )
    read, diff, _, deliver = (values(one.attributes) for one in steps)
    assert {"retl.rows_read": 3} == read
    assert {"retl.rows_added": 3, "retl.rows_changed": 0, "retl.rows_removed": 0} == diff
    assert {"retl.calls": 3, "retl.calls_delivered": 3} == deliver
    assert [("waiting", 1.0)] == [
        (event.name, values(event.attributes)["retl.seconds"]) for event in steps[-1].events
    ]
    ends = [one.end_time_unix_nano for one in steps]
    assert sorted(ends) == ends
    assert ends[-1] <= root.end_time_unix_nano
    named = set(re.findall(r"`(retl\.\w+)`", PAGE))
    assert {*found, *read, *diff, *deliver} <= {*named, "error.type"}
    (request,) = (ExportTraceServiceRequest.FromString(one.body) for one in listener.taken)
    about = values(request.resource_spans[0].resource.attributes)
    assert ("retl", "test") == (about["service.name"], about["deployment.environment"])


def test_a_run_that_fails_is_a_span_that_failed(
    retl: Retl, sandbox: Sandbox, listener: Listener, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The span of a run that fails has its error; no step is left open."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", f"{listener.url}/v1/traces")
    monkeypatch.setenv("OTEL_SERVICE_NAME", "nightly")
    (tmp_path / "syncs/users.yml").write_text(SYNC.format(sql="SELECT * FROM nowhere", endpoint=sandbox.url))
    assert 2 == retl("run", "users")[0]

    root, *steps = spans(listener)
    assert ("model", 2) == (values(root.attributes)["error.type"], root.status.code)
    assert "nowhere does not exist" in root.status.message
    assert all(one.end_time_unix_nano for one in (root, *steps))
    (request,) = (ExportTraceServiceRequest.FromString(one.body) for one in listener.taken)
    assert "nightly" == values(request.resource_spans[0].resource.attributes)["service.name"]


@pytest.mark.thorough
def test_a_run_sends_events_of_lineage(
    retl: Retl, sandbox: Sandbox, listener: Listener, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A run sends START and COMPLETE with one id, the model as input and the source as output; else FAIL."""
    monkeypatch.setenv("OPENLINEAGE_URL", listener.url)
    monkeypatch.setenv("OPENLINEAGE_NAMESPACE", "shop")
    assert 0 == retl("run", "users")[0]
    (tmp_path / "syncs/users.yml").write_text(SYNC.format(sql="SELECT * FROM nowhere", endpoint=sandbox.url))
    assert 2 == retl("run", "users")[0]

    events = [json.loads(one.body) for one in listener.taken]
    assert ["START", "COMPLETE", "START", "FAIL"] == [one["eventType"] for one in events]
    assert 2 == len({one["run"]["runId"] for one in events})
    assert [("shop", "users")] * 4 == [(one["job"]["namespace"], one["job"]["name"]) for one in events]
    complete, fail = events[1], events[3]
    assert [("duckdb://", "users")] == [(one["namespace"], one["name"]) for one in complete["inputs"]]
    (output,) = complete["outputs"]
    host = sandbox.url.removeprefix("http://")
    assert (f"segment://{host}", "eu") == (output["namespace"], output["name"])
    assert 3 == output["outputFacets"]["outputStatistics"]["rowCount"]
    assert "nowhere does not exist" in fail["run"]["facets"]["errorMessage"]["message"]
    assert "geheim" not in "".join(one.body.decode() for one in listener.taken)


BOTH = {"OTEL_EXPORTER_OTLP_ENDPOINT": "traces", "OPENLINEAGE_URL": "lineage"}


@pytest.mark.variants(1)
@pytest.mark.rule("S8")
@pytest.mark.parametrize(
    ("variable", "fault"),
    [
        *((one, fault) for one in BOTH for fault in ("nobody", "refuses", "package")),
        ("OTEL_EXPORTER_OTLP_ENDPOINT", "grpc"),
    ],
)
def test_what_goes_wrong_there_changes_no_run(
    retl: Retl, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch, variable: str, fault: str
) -> None:
    """A collector that is gone or refuses, and a package that is missing, are a notice; the run counts."""
    with Listener(status=400) as refusing:
        url = refusing.url if fault == "refuses" else "http://127.0.0.1:9"
        monkeypatch.setenv(variable, url)
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "1")
        once = {"type": "http", "url": url, "retry": {"total": 0}}
        if variable == "OPENLINEAGE_URL":
            monkeypatch.setenv("OPENLINEAGE__TRANSPORT", json.dumps(once))
        package = {"OPENLINEAGE_URL": "openlineage", "OTEL_EXPORTER_OTLP_ENDPOINT": "opentelemetry"}[variable]
        if fault == "package":
            for name in [name for name in sys.modules if name.split(".")[0] == package]:
                monkeypatch.delitem(sys.modules, name)
            monkeypatch.setitem(sys.modules, package, None)
        if fault == "grpc":
            monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "grpc")
        code, out, err = retl("run", "users")

    assert (0, True, 3) == (code, "3 calls delivered" in out, len(sandbox.accepted))
    lines = [line for line in err.splitlines() if "on this machine" not in line]
    assert 1 == len(lines), err
    assert BOTH[variable].removesuffix("s") in lines[0]
    if fault == "package":
        extra = {"openlineage": "openlineage", "opentelemetry": "otel"}[package]
        assert f"pip install 'retl[{extra}]'" in lines[0]


@pytest.mark.rule("S8")
def test_a_rehearsal_is_told_to_nobody(
    retl: Retl, sandbox: Sandbox, listener: Listener, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`--sandbox` sends neither spans nor events."""
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", listener.url)
    monkeypatch.setenv("OPENLINEAGE_URL", listener.url)

    assert 0 == retl("run", "users", "--sandbox")[0]
    assert [] == listener.taken


@pytest.mark.parametrize(
    ("env", "traces"),
    [
        ({}, False),
        ({"OTEL_SERVICE_NAME": "x"}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://x"}, True),
        ({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://x"}, True),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://x", "OTEL_SDK_DISABLED": "TRUE"}, False),
        ({"OTEL_EXPORTER_OTLP_ENDPOINT": "http://x", "OTEL_TRACES_EXPORTER": "none"}, False),
        ({"OTEL_TRACES_EXPORTER": "console,otlp"}, True),
    ],
)
def test_when_traces_are_wanted(env: dict[str, str], traces: bool) -> None:
    """Only the standard variables turn traces on, and off."""
    assert traces == tracing.is_wanted(env)


@pytest.mark.parametrize(
    ("env", "events"),
    [
        ({}, False),
        ({"OPENLINEAGE_NAMESPACE": "x"}, False),
        ({"OPENLINEAGE_URL": "http://x"}, True),
        ({"OPENLINEAGE_CONFIG": "x.yml"}, True),
        ({"OPENLINEAGE__TRANSPORT__TYPE": "console"}, True),
        ({"OPENLINEAGE_URL": "http://x", "OPENLINEAGE_DISABLED": "true"}, False),
    ],
)
def test_when_lineage_is_wanted(env: dict[str, str], events: bool) -> None:
    """Only the client's variables turn events on, and off."""
    assert events == lineage.is_wanted(env)
