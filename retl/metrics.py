"""Metrics of runs, in a file of Prometheus' text format for node_exporter's textfile collector.

A file may be shared by several commands: what it has of other syncs stays, and counters go on from what they
were. docs/metrics.md has the names.
"""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock

from retl.lazy import lazy_module
from retl.run import Run, Status
from retl.version import __version__

if TYPE_CHECKING:
    import prometheus_client
    from prometheus_client import core, parser
else:
    prometheus_client = lazy_module("prometheus_client", extra="metrics")
    core = lazy_module("prometheus_client.core", extra="metrics")
    parser = lazy_module("prometheus_client.parser", extra="metrics")

LOCK_SECONDS = 10.0
"""How long another command may take to write the same file."""

MODE = 0o644
"""The rights of the file: it holds no row, and the collector is another user."""


@dataclass(frozen=True)
class Metric:
    """A metric, which has a series for each sync.

    Attributes:
        name: a counter's ends in `_total`.
        help: what it counts.
        label: a label beside `sync` and `source`; None where there is no other.
    """

    name: str
    help: str
    label: str | None = None

    @property
    def labels(self) -> list[str]:
        """The names of its labels; `source` is left out where a sync's source has no name."""
        return ["sync", "source", *([self.label] if self.label else [])]


METRICS = (
    Metric("retl_run_status", "1 for the status with which the last run ended, 0 for each other.", "status"),
    Metric("retl_run_exit_code", "Exit code of the last run."),
    Metric("retl_run_error", "1 for the code of the error that ended the last run, if one did.", "code"),
    Metric("retl_run_start_timestamp_seconds", "When the last run began, in seconds since 1970."),
    Metric("retl_run_duration_seconds", "How long the last run took."),
    Metric(
        "retl_last_success_timestamp_seconds",
        "When the last run ended that was through, with status succeeded or partial, in seconds since 1970.",
    ),
    Metric("retl_run_rows_read", "Rows that the last run read."),
    Metric("retl_run_rows", "Rows of the last run, by what became of them since the run before.", "change"),
    Metric("retl_run_rejected_rows", "Rows of the last run that could not be sent."),
    Metric("retl_run_rejected_rows_by_reason", "The same by the code of the reason.", "reason"),
    Metric("retl_run_calls", "Calls of the last run, by what became of them.", "outcome"),
    Metric("retl_run_bytes", "Bytes of the calls that were delivered in the last run."),
    Metric("retl_run_retries", "Attempts of the last run that were not the first of their batch."),
    Metric("retl_run_guard_tripped", "Whether a guard of the last run was exceeded: 1 or 0.", "guard"),
    Metric("retl_calls_pending", "Calls that wait in the outbox; as it was last known."),
    Metric("retl_runs_total", "Runs, by the status with which they ended.", "status"),
    Metric("retl_calls_total", "Calls, by what became of them.", "outcome"),
    Metric("retl_bytes_total", "Bytes of the calls that were delivered."),
    Metric("retl_retries_total", "Attempts that were not the first of their batch."),
)
"""All metrics, in the order of the file."""

BUILD = Metric("retl_build_info", "1, with the version of the retl that wrote this file.", "version")

_KEPT = {"retl_last_success_timestamp_seconds", "retl_calls_pending"}
"""Metrics of a sync that stay as they were where its last run does not know better."""

_UNCHANGED = ("added", "changed", "removed", "unchanged")
_OUTCOMES = ("enqueued", "delivered", "rejected", "unsure")

Series = tuple[str, tuple[str, ...]]
"""The name of a metric, and the values of its labels; an empty one stands for none."""

Values = Mapping[Series, float]


class ForeignFileError(ValueError):
    """The file has metrics that are not retl's, or none at all; it is left as it is."""


def write_metrics(path: Path, runs: Sequence[tuple[Run, str | None]]) -> None:
    """Write what runs did to a file, in place of what it has of their syncs.

    Args:
        path: the file.
        runs: each with the name of its sync's source, as `after` takes it.

    Raises:
        OSError: the file cannot be read or written.
        filelock.Timeout: another command writes it, and does not end.
        ForeignFileError: it is not a file of these metrics.
    """
    with FileLock(path.with_name(f"{path.name}.lock"), timeout=LOCK_SECONDS):
        values = dict(read_values(path))
        for run, source in runs:
            values = after(values, run, source)
        unfinished = path.with_name(f"{path.name}.{os.getpid()}")
        try:
            unfinished.write_bytes(spelled(values))
            unfinished.chmod(MODE)
            unfinished.replace(path)
        finally:
            unfinished.unlink(missing_ok=True)


def read_values(path: Path) -> Values:
    """The values in a file; none where there is no file.

    Raises:
        OSError: it cannot be read.
        ForeignFileError: it is not a file of these metrics.
    """
    if not path.exists():
        return {}
    known = {metric.name: metric for metric in METRICS}
    values: dict[Series, float] = {}
    try:
        for family in parser.text_string_to_metric_families(path.read_text(encoding="utf-8")):
            for name, labels, value, *_ in family.samples:
                if not name.startswith("retl_"):
                    raise ForeignFileError(f"it has the metric {name}, which is not retl's")
                if name in known:  # another version may have had others
                    values[name, tuple(labels.get(label, "") for label in known[name].labels)] = value
    except ForeignFileError:
        raise
    except (ValueError, KeyError, IndexError) as error:
        raise ForeignFileError("it is not in Prometheus' text format") from error
    return values


def after(before: Values, run: Run, source: str | None = "") -> dict[Series, float]:
    """The values once a run is over, of that sync and of all others.

    Args:
        before: the values until now.
        run: the record of the run.
        source: the `segment.name` of its sync, which has a state for each, and so its own metrics; empty for
            none. None is not known, as the sync could not be read: then it is the one that it had.
    """
    totals = {metric.name for metric in METRICS if metric.name.endswith("_total")}
    if source is None:
        known = {labels[1] for _, labels in before if labels[0] == run.sync}
        source = known.pop() if len(known) == 1 else ""
    own = (run.sync, source)
    values = {
        series: value
        for series, value in before.items()
        if series[1][:2] != own or series[0] in _KEPT or series[0] in totals
    }
    for name, label, value in _gauges(run):
        if value is not None:
            values[name, own if label is None else (*own, label)] = float(value)
    for name, label, value in _counts(run):
        series = (name, own if label is None else (*own, label))
        values[series] = values.get(series, 0.0) + float(value or 0)
    return values


def _gauges(run: Run) -> Iterator[tuple[str, str | None, float | None]]:
    """The state of a sync after a run: metric, label, and the value, which is None where it is not known."""
    for status in Status:
        yield "retl_run_status", status.value, float(status is run.status)
    yield "retl_run_exit_code", None, run.exit_code
    if run.error is not None:
        yield "retl_run_error", run.error.code, 1
    began = run.started_at.timestamp()
    yield "retl_run_start_timestamp_seconds", None, began
    yield "retl_run_duration_seconds", None, run.seconds
    if run.status in (Status.SUCCEEDED, Status.PARTIAL):
        yield "retl_last_success_timestamp_seconds", None, began + run.seconds
    yield "retl_run_rows_read", None, run.rows_read
    for change in _UNCHANGED:
        yield "retl_run_rows", change, getattr(run, change)
    yield "retl_run_rejected_rows", None, run.rejected_rows
    for reason, rows in run.rejected_by.items():
        yield "retl_run_rejected_rows_by_reason", reason, rows
    for outcome in _OUTCOMES:
        yield "retl_run_calls", outcome, getattr(run.calls, outcome)
    yield "retl_run_bytes", None, run.bytes
    yield "retl_run_retries", None, run.retries
    for guard in run.guards:
        yield "retl_run_guard_tripped", guard.name, float(guard.tripped)
    yield "retl_calls_pending", None, run.calls.pending


def _counts(run: Run) -> Iterator[tuple[str, str | None, float | None]]:
    """By how much the counters of a sync grow."""
    yield "retl_runs_total", run.status.value, 1
    for outcome in _OUTCOMES:
        yield "retl_calls_total", outcome, getattr(run.calls, outcome)
    yield "retl_bytes_total", None, run.bytes
    yield "retl_retries_total", None, run.retries


def spelled(values: Values) -> bytes:
    """Values in Prometheus' text format."""
    registry = core.CollectorRegistry(auto_describe=False)
    registry.register(_Collector(values))
    return bytes(prometheus_client.generate_latest(registry))


class _Collector:
    """Hands values to Prometheus' own writer."""

    def __init__(self, values: Values) -> None:
        self._values = values

    def collect(self) -> Iterable[Any]:
        """The metrics that have a value."""
        build = core.GaugeMetricFamily(BUILD.name, BUILD.help, labels=["version"])
        build.add_metric([__version__], 1)
        yield build
        for metric in METRICS:
            is_counter = metric.name.endswith("_total")
            name = metric.name.removesuffix("_total") if is_counter else metric.name
            found = core.Metric(name, metric.help, "counter" if is_counter else "gauge")
            for (of, labels), value in sorted(self._values.items()):
                if of == metric.name:
                    named = zip(metric.labels, labels, strict=True)
                    found.add_sample(of, {label: one for label, one in named if one}, value)
            if found.samples:
                yield found
