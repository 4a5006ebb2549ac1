"""Lineage of runs by OpenLineage: START, and COMPLETE, FAIL or ABORT.

The model is the dataset that goes in, the Segment source the one that comes out. The client's own variables
and file say whether, where to and how; docs/tracing.md has the names.
"""

import logging
import os
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from retl.address import read_address
from retl.aside import Aside
from retl.config.project import warehouse_url
from retl.errors import RetlError
from retl.lazy import lazy_module
from retl.mask import masked
from retl.observer import SilentObserver
from retl.run import Run, Status
from retl.session import Session
from retl.table import plain_name
from retl.version import __version__

if TYPE_CHECKING:
    from openlineage import client
    from openlineage.client import event_v2, facet_v2
else:
    client = lazy_module("openlineage.client", extra="openlineage")
    event_v2 = lazy_module("openlineage.client.event_v2", extra="openlineage")
    facet_v2 = lazy_module("openlineage.client.facet_v2", extra="openlineage")

MOST_SECONDS = 5.0
"""How long the end of a run waits for its events to be taken."""

PRODUCER = f"https://pypi.org/project/retl/{__version__}"

_ENDS = {
    Status.SUCCEEDED: "COMPLETE",
    Status.PARTIAL: "COMPLETE",
    Status.INTERRUPTED: "ABORT",
}
"""The event at the end of a run, by its status; FAIL for any other."""


def is_wanted(env: Mapping[str, str]) -> bool:
    """Whether the client's variables ask for events."""
    if env.get("OPENLINEAGE_DISABLED", "").strip().lower() == "true":
        return False
    return any(name in ("OPENLINEAGE_URL", "OPENLINEAGE_CONFIG") or "OPENLINEAGE__" in name for name in env)


class Lineage(SilentObserver):
    """The events of one run, as an observer of it."""

    def __init__(self) -> None:
        """Set up the client.

        Raises:
            Exception: the package is not installed, or its settings are wrong.
        """
        for name in ("openlineage", "urllib3"):  # which would write to stderr by themselves
            logging.getLogger(name).addHandler(logging.NullHandler())
        self._client = client.OpenLineageClient()
        self._aside = Aside()
        self._id = str(uuid4())
        self._session: Session | None = None
        self._has_begun = False

    def opened(self, session: Session) -> None:
        """Take the datasets of a sync."""
        self._session = session

    def reading(self) -> None:
        """The run has begun."""
        self._begin()

    def delivering(self, calls: int) -> None:
        """The run has begun, with what an earlier one left over."""
        self._begin()

    def ended(self, run: Run) -> str | None:
        """Send the event of the end; gives what went wrong, in words."""
        if self._session is None:
            return None  # no sync is known, and so no job
        self._begin()
        self._put(_ENDS.get(run.status, "FAIL"), run)
        errors = self._aside.finish(MOST_SECONDS)
        return masked(f"the lineage was not sent: {errors[0]}") if errors else None

    def _begin(self) -> None:
        if not self._has_begun:
            self._has_begun = True
            self._put("START", None)

    def _put(self, kind: str, run: Run | None) -> None:
        session = self._session
        assert session is not None, "a run that has begun has a sync"
        event = event_v2.RunEvent(
            eventType=event_v2.RunState[kind],
            eventTime=datetime.now(UTC).isoformat(),
            producer=PRODUCER,
            run=event_v2.Run(self._id, _run_facets(run)),
            job=event_v2.Job(os.environ.get("OPENLINEAGE_NAMESPACE") or "default", session.sync.name),
            inputs=[event_v2.InputDataset(*name) for name in _inputs(session)],
            outputs=[event_v2.OutputDataset(*_output(session), _output_facets(run))],
        )
        self._aside.put(lambda: self._client.emit(event))


def _run_facets(run: Run | None) -> dict[str, Any]:
    facets: dict[str, Any] = {
        "processing_engine": facet_v2.processing_engine_run.ProcessingEngineRunFacet(
            version=__version__, name="retl", producer=PRODUCER
        )
    }
    if run is not None and run.error is not None:
        facets["errorMessage"] = facet_v2.error_message_run.ErrorMessageRunFacet(
            message=masked(str(run.error)), programmingLanguage="Python", producer=PRODUCER
        )
    return facets


def _output_facets(run: Run | None) -> dict[str, Any]:
    if run is None or run.calls.delivered is None:
        return {}
    statistics = facet_v2.output_statistics_output_dataset.OutputStatisticsOutputDatasetFacet(
        rowCount=run.calls.delivered, size=run.bytes, producer=PRODUCER
    )
    return {"outputStatistics": statistics}


def _inputs(session: Session) -> list[tuple[str, str]]:
    """Namespace and name of the model in its warehouse; none where the warehouse is not known."""
    try:
        address = read_address(warehouse_url(session.sync, session.project))
    except (RetlError, ValueError):
        return []
    scheme = {"postgresql": "postgres"}.get(address.backend, address.backend)
    host = f"{address.host}:{address.port}" if address.host and address.port else address.host or ""
    sync = session.sync
    model = plain_name(sync.table) if sync.table else sync.model or sync.name
    return [(f"{scheme}://{host}", f"{address.database}.{model}" if address.database else model)]


def _output(session: Session) -> tuple[str, str]:
    """Namespace and name of the destination: Segment's host, and the source by its name or fingerprint."""
    if session.file is not None:
        return "file", session.file
    try:
        place, _, key = session.address.partition(", ")
    except RetlError:
        place, key = "https://api.segment.io", ""
    host = place.partition("://")[2].partition("/")[0]
    return f"segment://{host}", session.sync.segment.name or key or session.sync.name
