"""The others that are told of the runs of a command: metrics, alerts, traces, lineage.

Nothing that goes wrong with them changes a run or an exit code: it is a notice.
"""

import os
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self, TypeVar

from retl.cli.console import Printer
from retl.errors import ConfigError, Interrupted, RetlError
from retl.lazy import lazy_module
from retl.mask import masked
from retl.observer import Observer, Observers
from retl.run import Run
from retl.session import Session

if TYPE_CHECKING:
    from retl import lineage, metrics, notify, tracing
else:
    lineage = lazy_module("retl.lineage")
    metrics = lazy_module("retl.metrics")
    notify = lazy_module("retl.notify")
    tracing = lazy_module("retl.tracing")

T = TypeVar("T")


class Outside:
    """Tells others of each run of a command, and of none that is a rehearsal."""

    def __init__(self, metrics_file: Path | None, printer: Printer) -> None:
        """Tell nobody yet.

        Args:
            metrics_file: takes the metrics when the command ends; None for none.
            printer: of the command.

        Raises:
            ConfigError: metrics are asked for, and cannot be written here.
        """
        self._file = None if printer.rehearsal else metrics_file
        self._unwritten = metrics_file if printer.rehearsal else None
        self._flags = printer.flags
        self._is_rehearsal = printer.rehearsal
        self._runs: list[tuple[Run, str | None]] = []
        self._notice: Callable[[str], None] = lambda _sentence: None
        self._state_dir = printer.state_dir
        self._path = Path()
        self._session: Session | None = None
        self._trace: tracing.Tracing | None = None
        self._lineage: lineage.Lineage | None = None
        if self._file is not None:
            _refuse_metrics(self._file)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._file is None or not self._runs:
            return
        try:
            metrics.write_metrics(self._file, self._runs)
        except Exception as failed:
            self._notice(f"no metrics were written to {self._file}: {failed}")

    def begin(self, path: Path, shown: Observer) -> Observer:
        """The observer of the run of a sync file that begins, which tells `shown` and others."""
        self._path = path
        self._notice, self._session, self._trace, self._lineage = shown.notice, None, None, None
        if self._is_rehearsal:
            if self._unwritten is not None:
                shown.notice(f"a rehearsal writes no metrics, so {self._unwritten} stays as it is")
                self._unwritten = None
            return shown
        env = os.environ
        if _asks(env, "OTEL_") and tracing.is_wanted(env):
            self._trace = self._made(lambda: tracing.Tracing(path.stem), "traces")
        if _asks(env, "OPENLINEAGE_") and lineage.is_wanted(env):
            self._lineage = self._made(lineage.Lineage, "lineage")
        others = [one for one in (self._trace, self._lineage) if one is not None]
        return Observers([shown, *others]) if others else shown

    def opened(self, session: Session) -> None:
        """Take note of the sync that is run."""
        self._session = session
        if self._lineage is not None:
            self._lineage.opened(session)

    def ended(self, run: Run) -> None:
        """Tell of a run that is over."""
        source = self._session.sync.segment.name if self._session is not None else None
        self._runs.append((run, None if self._session is None else source or ""))
        if self._is_rehearsal:
            return
        for tell in (self._end_trace, self._end_lineage, self._tell_channels):
            try:
                tell(run)
            except Interrupted:
                raise  # a signal ends the command here as anywhere
            except Exception as error:
                self._notice(masked(f"not all were told of this run: {error!r}"))

    def _end_trace(self, run: Run) -> None:
        doubt = self._trace.ended(run) if self._trace is not None else None
        if doubt is not None:
            self._notice(doubt)

    def _end_lineage(self, run: Run) -> None:
        doubt = self._lineage.ended(run) if self._lineage is not None else None
        if doubt is not None:
            self._notice(doubt)

    def _tell_channels(self, run: Run) -> None:
        if self._session is not None and not self._session.sync.notify:
            return
        if self._session is not None:
            recipients = notify.recipients_of(self._session)
        else:
            try:
                recipients, name = notify.recipients_of_unread(self._path, self._state_dir)
            except RetlError:
                return  # it is in the run's own error
            run = run.evolve(sync=name)
        for doubt in notify.tell(recipients, run, self._flags):
            self._notice(doubt)

    def _made(self, make: Callable[[], T], what: str) -> T | None:
        """The thing that a function makes; None where it cannot, with a notice that says why."""
        try:
            return make()
        except Exception as error:
            why = (error.hint if isinstance(error, RetlError) else None) or error
            self._notice(masked(f"the environment asks for {what}, and there are none: {why}"))
            return None


def _asks(env: Mapping[str, str], prefix: str) -> bool:
    """Whether a variable begins so: most runs need not load what reads them."""
    return any(name.startswith(prefix) for name in env)


def _refuse_metrics(path: Path) -> None:
    if find_spec("prometheus_client") is None:
        raise ConfigError("metrics need a package that is not installed", hint="pip install 'retl[metrics]'")
    if not path.parent.is_dir():
        raise ConfigError(f"there is no folder {path.parent} for the metrics", where="--metrics")
