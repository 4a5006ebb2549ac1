"""Traces of runs by OpenTelemetry: a span for the run, and one for each of its steps.

The standard OTEL_* variables say whether, where to and how; docs/tracing.md has the names. Spans are kept
until the run is over, and sent then.
"""

import logging
import os
import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from retl.aside import Aside
from retl.lazy import lazy_module
from retl.mask import masked
from retl.observer import SilentObserver
from retl.run import Run
from retl.version import __version__

if TYPE_CHECKING:
    from opentelemetry import trace
    from opentelemetry.exporter.otlp.proto.http import trace_exporter
    from opentelemetry.sdk import resources
    from opentelemetry.sdk import trace as sdk
    from opentelemetry.sdk.trace import export
    from opentelemetry.sdk.trace.export import in_memory_span_exporter as memory
    from opentelemetry.trace import propagation
    from opentelemetry.trace.propagation import tracecontext
else:
    trace = lazy_module("opentelemetry.trace", extra="otel")
    trace_exporter = lazy_module("opentelemetry.exporter.otlp.proto.http.trace_exporter", extra="otel")
    resources = lazy_module("opentelemetry.sdk.resources", extra="otel")
    sdk = lazy_module("opentelemetry.sdk.trace", extra="otel")
    export = lazy_module("opentelemetry.sdk.trace.export", extra="otel")
    memory = lazy_module("opentelemetry.sdk.trace.export.in_memory_span_exporter", extra="otel")
    propagation = lazy_module("opentelemetry.trace.propagation", extra="otel")
    tracecontext = lazy_module("opentelemetry.trace.propagation.tracecontext", extra="otel")

MOST_SECONDS = 5.0
"""How long the end of a run waits for its spans to be taken."""

MOST_WAITS = 20
"""Waits that are noted in a span, at most."""


def is_wanted(env: Mapping[str, str]) -> bool:
    """Whether the standard variables ask for traces."""
    if env.get("OTEL_SDK_DISABLED", "").strip().lower() == "true":
        return False
    exporter = env.get("OTEL_TRACES_EXPORTER", "").strip().lower()
    if exporter:
        return "otlp" in exporter.split(",")
    return bool(env.get("OTEL_EXPORTER_OTLP_ENDPOINT") or env.get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"))


class Tracing(SilentObserver):
    """The spans of one run, as an observer of it."""

    def __init__(self, sync: str) -> None:
        """Begin the run's span.

        Raises:
            Exception: the packages are not installed, or a variable is wrong.
        """
        for name in ("opentelemetry", "urllib3"):  # which would write to stderr by themselves
            logging.getLogger(name).addHandler(logging.NullHandler())
        protocol = os.environ.get("OTEL_EXPORTER_OTLP_PROTOCOL", "http/protobuf")
        if os.environ.get("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", protocol) != "http/protobuf":
            raise ValueError("retl speaks OTLP over HTTP alone: OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf")
        self._kept = memory.InMemorySpanExporter()
        provider = sdk.TracerProvider(resource=_resource(), shutdown_on_exit=False)
        provider.add_span_processor(export.SimpleSpanProcessor(self._kept))
        self._exporter = trace_exporter.OTLPSpanExporter()
        self._tracer = provider.get_tracer("retl", __version__)
        self._lock = threading.Lock()
        parent = {key: os.environ[key.upper()] for key in _CARRIED if key.upper() in os.environ}
        context = tracecontext.TraceContextTextMapPropagator().extract(parent)
        self._run = self._tracer.start_span("retl run", context, attributes={"retl.sync": sync})
        self._within = propagation.set_span_in_context(self._run)
        self._step: Any = None
        self._name = ""
        self._count = self._waits = 0

    def ended(self, run: Run) -> str | None:
        """End the run's span, and send all; gives what went wrong, in words."""
        self._end()
        self._run.set_attributes({"retl.sync": run.sync, **_attributes(run)})
        if run.error is not None:
            self._run.set_attribute("error.type", run.error.code)
            self._run.set_status(trace.Status(trace.StatusCode.ERROR, masked(str(run.error))))
        self._run.end()
        aside = Aside()
        aside.put(self._send)
        errors = aside.finish(MOST_SECONDS)
        return masked(f"the trace was not sent: {errors[0]}") if errors else None

    def _send(self) -> None:
        result = self._exporter.export(self._kept.get_finished_spans())
        if result is not export.SpanExportResult.SUCCESS:
            raise OSError("the collector does not take it, see OTEL_EXPORTER_OTLP_ENDPOINT")

    def reading(self) -> None:
        """The warehouse is asked for the model's rows."""
        self._begin("read")

    def rows_read(self, rows: int) -> None:
        """More rows came from the warehouse; `rows` is how many."""
        self._count += rows

    def comparing(self) -> None:
        """All rows are read."""
        self._begin("diff")

    def diffed(self, added: int, changed: int, removed: int) -> None:
        """The diff is known."""
        counts = {"retl.rows_added": added, "retl.rows_changed": changed, "retl.rows_removed": removed}
        with self._lock:
            if self._step is not None:
                self._step.set_attributes(counts)
        self._end()

    def enqueuing(self) -> None:
        """The changes become calls."""
        self._begin("enqueue")

    def delivering(self, calls: int) -> None:
        """Delivery begins; `calls` are waiting."""
        self._begin("deliver", calls)

    def delivered(self, calls: int) -> None:
        """The destination accepted `calls` more."""
        with self._lock:
            self._count += calls

    def waiting(self, reason: str, seconds: float) -> None:
        """A batch waits before it is tried again."""
        with self._lock:
            self._waits += 1
            if self._step is not None and self._waits <= MOST_WAITS:
                self._step.add_event("waiting", {"retl.reason": masked(reason), "retl.seconds": seconds})

    def _begin(self, name: str, calls: int | None = None) -> None:
        self._end()
        attributes = {"retl.calls": calls} if calls is not None else {}
        with self._lock:
            self._name, self._count = name, 0
            self._step = self._tracer.start_span(name, self._within, attributes=attributes)

    def _end(self) -> None:
        with self._lock:
            step, self._step = self._step, None
            if step is None:
                return
            if self._name in _COUNTED:
                step.set_attribute(_COUNTED[self._name], self._count)
            step.end()


_COUNTED = {"read": "retl.rows_read", "deliver": "retl.calls_delivered"}
"""Steps in which something is counted, each with its attribute."""

_CARRIED = ("traceparent", "tracestate")
"""The trace of a program that starts another, in variables of these names in capitals."""


def _resource() -> Any:
    """The thing that the spans are of: `retl`, unless the environment has another name for it."""
    env, own = os.environ, {"service.version": __version__}
    if not env.get("OTEL_SERVICE_NAME") and "service.name=" not in env.get("OTEL_RESOURCE_ATTRIBUTES", ""):
        own["service.name"] = "retl"
    return resources.Resource.create(own)


def _attributes(run: Run) -> dict[str, str | int | float | bool]:
    """The numbers of a run, those that are known."""
    found = {
        "retl.run_id": run.run_id,
        "retl.status": run.status.value,
        "retl.exit_code": run.exit_code,
        "retl.baseline": run.baseline,
        "retl.rows_read": run.rows_read,
        "retl.rows_added": run.added,
        "retl.rows_changed": run.changed,
        "retl.rows_removed": run.removed,
        "retl.rows_rejected": run.rejected_rows,
        "retl.calls_enqueued": run.calls.enqueued,
        "retl.calls_delivered": run.calls.delivered,
        "retl.calls_rejected": run.calls.rejected,
        "retl.calls_pending": run.calls.pending,
        "retl.calls_unsure": run.calls.unsure,
        "retl.batches": run.batches,
        "retl.bytes": run.bytes,
        "retl.retries": run.retries,
    }
    return {name: value for name, value in found.items() if value is not None}
