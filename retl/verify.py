"""Verify a run: what Segment says that it received of it, next to what was sent."""

from collections import Counter, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import duckdb

from retl.clock import Clock
from retl.delivery import outbox, receipts
from retl.delivery.public_api import (
    LAG,
    TOKEN,
    URL,
    URLS,
    Count,
    CountKind,
    PublicApi,
    Window,
    window,
)
from retl.errors import ConfigError
from retl.past_run import sent_record
from retl.session import Session

SOURCE = "SEGMENT_SOURCE_ID"
"""The environment variable of the source's id, where the sync does not have it."""

EventName = tuple[str, str | None]
"""The type of a call, and the event of a track call."""

ALL = ("all", None)
"""The name of the one line where the calls of a run are not known by event."""


@dataclass(frozen=True)
class SentRun:
    """The calls that a run sent, by its record.

    Attributes:
        sync: name of the sync.
        run_id: of the run.
        started_at: when it began, UTC.
        ended_at: when its last call was answered, or it ended.
        events: calls that were delivered, by type and event; `ALL` where that is not known.
        unsure: calls that went out twice in it, as no answer had come.
        pending: calls that waited when it ended, and may have arrived without an answer.
        marked: whether its calls carry its id.
    """

    sync: str
    run_id: str
    started_at: datetime
    ended_at: datetime
    events: Mapping[EventName, int]
    unsure: int
    pending: int
    marked: bool


def sent_run(db: duckdb.DuckDBPyConnection, kind: str, run_id: str | None) -> SentRun | None:
    """The calls of a run, or of the last one that delivered any; None where there is no such run.

    Args:
        db: the state's connection.
        kind: of the sync: track, audience, identify or group.
        run_id: of the run.
    """
    record = sent_record(db, run_id)
    if record is None:
        return None
    calls = record["calls"]
    started_at = datetime.strptime(record["started_at"], "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)
    ended_at = started_at + timedelta(seconds=record["seconds"])
    answered_at = receipts.last_answered(db, record["run_id"])
    if answered_at is not None:
        ended_at = max(ended_at, answered_at.replace(tzinfo=UTC))
    return SentRun(
        record["sync"],
        record["run_id"],
        started_at,
        ended_at,
        _delivered(db, kind, record),
        calls.get("unsure") or 0,
        calls.get("pending") or 0,
        bool(record.get("marked")),
    )


def _delivered(db: duckdb.DuckDBPyConnection, kind: str, record: Mapping[str, Any]) -> dict[EventName, int]:
    """The calls that a run delivered, by type and event, as the history has them.

    It lacks some where an older retl sent them, or where `keep` has forgotten a part.
    """
    total = record["calls"]["delivered"] or 0
    by_event = outbox.delivered_in(db, record["run_id"])
    if sum(by_event.values()) != total:
        return {ALL: total}
    if kind in {"identify", "group"}:
        return {(kind, None): total} if total else {}
    return {("track", event): calls for event, calls in by_event.items()}


@dataclass(frozen=True)
class EventCheck:
    """One event of a run: what was sent, and what Segment says.

    Attributes:
        type: of the calls; "all" where the run's calls are not known by event.
        event: the event of track calls; None for other types.
        sent: calls that were delivered, each answered with a 2xx.
        received: calls that Segment received.
        failed: calls that it dropped on ingest, by reason.
        filtered: calls that the workspace's own rules filtered at the source, by reason.
    """

    type: str
    event: str | None
    sent: int
    received: int
    failed: Mapping[str, int] = field(default_factory=dict)
    filtered: Mapping[str, int] = field(default_factory=dict)

    @property
    def difference(self) -> int:
        """Calls that were sent and not received; negative where Segment received more."""
        return self.sent - self.received


@dataclass(frozen=True)
class Verification:
    """The result for one run.

    Attributes:
        run: what was sent.
        source_id: of the source that was asked about.
        time: that was asked about.
        asked_at: when, UTC.
        events: what was sent and what Segment says, by event.
    """

    run: SentRun
    source_id: str
    time: Window
    asked_at: datetime
    events: Sequence[EventCheck]

    @property
    def missing(self) -> int:
        """Calls that were sent and that Segment does not count as received."""
        return sum(max(0, one.difference) for one in self.events)

    @property
    def surplus(self) -> int:
        """Calls that Segment counts beyond those that were sent."""
        return sum(max(0, -one.difference) for one in self.events)

    @property
    def failed(self) -> int:
        """Calls that Segment dropped on ingest."""
        return sum(sum(one.failed.values()) for one in self.events)

    @property
    def matches(self) -> bool:
        """Whether Segment has all that was sent, and no more than may have gone out twice or unanswered."""
        doubtful = self.run.unsure + self.run.pending
        return not self.failed and self.missing <= self.run.unsure and self.surplus <= doubtful

    @property
    def is_early(self) -> bool:
        """Whether Segment's counts may not be complete yet."""
        return self.asked_at < complete_at(self.run)

    def as_json(self) -> dict[str, Any]:
        """The object that `retl verify --json` prints."""
        return {
            "sync": self.run.sync,
            "run_id": self.run.run_id,
            "source_id": self.source_id,
            "from": f"{self.time.start:%Y-%m-%dT%H:%M:%SZ}",
            "to": f"{self.time.end:%Y-%m-%dT%H:%M:%SZ}",
            "granularity": self.time.granularity.name,
            "marked": self.run.marked,
            "matches": self.matches,
            "early": self.is_early,
            "sent": sum(one.sent for one in self.events),
            "received": sum(one.received for one in self.events),
            "missing": self.missing,
            "surplus": self.surplus,
            "failed": self.failed,
            "unsure": self.run.unsure,
            "pending": self.run.pending,
            "events": [
                {
                    "type": one.type,
                    "event": one.event,
                    "sent": one.sent,
                    "received": one.received,
                    "difference": one.difference,
                    "failed": dict(one.failed),
                    "filtered": dict(one.filtered),
                }
                for one in self.events
            ],
        }


def complete_at(run: SentRun) -> datetime:
    """From when on Segment's counts of a run are complete, as far as it says."""
    return run.ended_at + LAG


def source_id(session: Session, given: str | None) -> str:
    """The id of the source at Segment: from the command line, the sync, or the environment.

    Raises:
        ConfigError: none of them has it, or the calls of the sync go to a file.
    """
    settings = session.sync.segment
    if settings.file is not None:
        raise ConfigError("the calls of this sync go to a file, not to Segment", where=session.sync.path)
    found = given or settings.source_id or session.project.env.get(SOURCE)
    if not found:
        raise ConfigError(
            "the id of the source is not known",
            where=session.sync.where("segment", "source_id"),
            hint="copy it from the source's Settings > API Keys into `segment: {source_id: …}` or "
            f"{SOURCE}, or give --source",
        )
    return found


def open_api(session: Session, clock: Clock, asked_at: deque[float] | None = None) -> PublicApi:
    """An open way to the Public API of the sync's region.

    Args:
        session: the sync.
        clock: for the waits between requests.
        asked_at: the moments of the last requests, which syncs of one workspace share.

    Raises:
        ConfigError: there is no token, or the URL in the environment is none.
    """
    env = session.project.env
    token = env.get(TOKEN, "").strip()
    if not token:
        raise ConfigError(
            f"{TOKEN} is not set",
            hint="make a Public API token in Segment (Settings > Access Management > Tokens), and set it in "
            "the environment or in .env",
        )
    url = env.get(URL) or URLS[session.sync.segment.region]
    return PublicApi(url, token, clock, session.certificates(), asked_at)


def verify(run: SentRun, api: PublicApi, source_id: str, clock: Clock) -> Verification:
    """Ask Segment for its counts of a run.

    Args:
        run: what was sent.
        api: the way to Segment.
        source_id: of the source.
        clock: for the moment.

    Raises:
        ConfigError: Segment refuses the token or the source, or its counts do not go back so far.
        SegmentError: it cannot be asked.
    """
    asked_at = clock.now()
    time = window(run.started_at, run.ended_at, asked_at)
    counts = {
        kind: api.counts(kind, source_id, time, run.run_id if run.marked else None) for kind in CountKind
    }
    found = {kind: _by_event(run, counts[kind]) for kind in CountKind}
    names = dict.fromkeys([*run.events, *(name for kind in CountKind for name in found[kind])])
    events = [
        EventCheck(
            *name,
            sent=run.events.get(name, 0),
            received=sum(found[CountKind.RECEIVED].get(name, {}).values()),
            failed=found[CountKind.FAILED].get(name, {}),
            filtered=found[CountKind.FILTERED].get(name, {}),
        )
        for name in names
    ]
    return Verification(run, source_id, time, asked_at, events)


def _by_event(run: SentRun, counts: Sequence[Count]) -> dict[EventName, Counter[str]]:
    """The counts by event, and by reason; without the run mark only of events that the run sent."""
    found: dict[EventName, Counter[str]] = {}
    for one in counts:
        # Segment gives calls that are not track a name of its own.
        name: EventName = (one.type, one.event if one.type == "track" else None)
        if ALL in run.events:
            name = ALL
        if one.calls and (run.marked or name in run.events):
            found.setdefault(name, Counter())[one.reason or "no reason"] += one.calls
    return found
