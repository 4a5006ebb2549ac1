"""A plan: what a run would send, without sending and without changing anything."""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import duckdb
import pyarrow as pa

from retl import notebook
from retl.calls.parts import LIBRARY
from retl.delivery import outbox
from retl.delivery.destination import Limits
from retl.engine.advice import Advice, advise
from retl.engine.diff import Diff
from retl.engine.difference import Difference, count_differences, list_differences
from retl.engine.guard import Guard, Outcome, ways_on
from retl.engine.landing import Purpose
from retl.export import select_calls
from retl.job import Job
from retl.pipeline import Outgoing, Proposal, find_changes, make_calls, open_engine, resumed, resumes_full
from retl.planned import Planned, file_hashes, work_of

if TYPE_CHECKING:
    import pandas as pd  # an extra: only notebooks need it


KEYS = 3
"""Keys of rejected rows that a plan has, for each reason."""


@dataclass(frozen=True)
class Sample:
    """One call of a plan, to look at.

    Attributes:
        change: "added", "changed" or "removed"; "unchanged" where it is sent again.
        name: of the event; the type of an identify or group call.
        key: of the row.
        call: its JSON as it would be sent, less the message id and retl's own context.
        differences: in which the row differs from what was sent last; empty unless it is changed.
    """

    change: str
    name: str
    key: str
    call: str
    differences: tuple[Difference, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """The object that stands for it in a plan; the values are JSON text, which has all digits."""
        return {**self.__dict__, "differences": [dict(one.__dict__) for one in self.differences]}


@dataclass(frozen=True)
class Volume:
    """The calls that would leave, counted.

    Attributes:
        by_name: number of calls by change and name; the name of an identify or group call is its type.
        bytes: of all of them.
        users: distinct user ids, or anonymous ids where a call has no user id: Segment bills by them.
        undated: calls that would take the moment of detection, as the column of their timestamp is null.
        violations: how many break a rule of a receiver, by the rule's code.
    """

    by_name: Mapping[tuple[str, str], int]
    bytes: int
    users: int
    undated: int
    violations: Mapping[str, int]


@dataclass(frozen=True)
class Plan:
    """The work that a run would do now.

    Attributes:
        sync: name of the sync.
        path: its file, as commands name it.
        first_pass: whether there is no snapshot yet.
        sends: whether changes become calls; a first pass may be a silent baseline.
        full: whether every current row is sent again.
        diff: how many rows changed, and how; rows that cannot be sent are among the rejected ones alone.
        changed_by: how many of the changed rows differ in each thing compared.
        rejected_changed_by: the same of rows that changed and cannot be sent.
        rejected_keys: a few keys of the rows that cannot be sent, by the reason's code.
        guards: what the guards say.
        ways_on: what lets a run pass that a guard stops.
        advice: on what makes nearly every row changed.
        unsent: names of what an edit of the sync added or altered, and what no row is sent for.
        volume: the calls, counted.
        calls_per_second: the rate at which they would leave; 0 is without limit.
        pending: calls that an earlier run left over; they go first.
        resumed_full: whether they are of an earlier --full, in whose place no other starts.
        limits: of a batch at the destination.
        file: the file that takes the calls, as the sync has it; None for Segment.
        samples: a few calls of each kind.
    """

    sync: str
    path: str
    first_pass: bool
    sends: bool
    full: bool
    diff: Diff
    changed_by: Mapping[str, int]
    rejected_changed_by: Mapping[str, int]
    rejected_keys: Mapping[str, tuple[str, ...]]
    guards: tuple[Guard, ...]
    ways_on: tuple[str, ...]
    advice: Advice
    unsent: tuple[str, ...]
    volume: Volume
    calls_per_second: int
    pending: int
    resumed_full: bool
    limits: Limits
    file: str | None
    samples: tuple[Sample, ...]
    _table: pa.Table = field(repr=False)

    @property
    def calls(self) -> Mapping[tuple[str, str], int]:
        """Number of calls by change and name; the name of an identify or group call is its type."""
        return self.volume.by_name

    @property
    def total_calls(self) -> int:
        """All calls, each of which Segment counts as one API call."""
        return sum(self.calls.values())

    @property
    def bytes(self) -> int:
        """The size of all calls."""
        return self.volume.bytes

    @property
    def users(self) -> int:
        """Distinct users, by whom Segment bills."""
        return self.volume.users

    @property
    def is_stopped(self) -> bool:
        """Whether a guard would stop the run."""
        return any(guard.outcome is Outcome.STOPS for guard in self.guards)

    @property
    def requests(self) -> int:
        """About how many HTTP requests it takes."""
        by_bytes: int = math.ceil(self.volume.bytes / self.limits.bytes)
        return max(math.ceil(self.total_calls / self.limits.calls), by_bytes)

    @property
    def seconds(self) -> float:
        """About how long delivery takes at the given rate; 0 where there is no limit."""
        return self.total_calls / self.calls_per_second if self.calls_per_second else 0.0

    def to_pandas(self) -> "pd.DataFrame":
        """One line for each call, and a column for each of its fields.

        The columns are change, key, type, event, user_id, message_id, timestamp (UTC), reason (a call that
        has one would be rejected), then the call's own fields, `traits.email` or `properties.plan`, and its
        JSON as `call`. Before the first run, the run's calls will have other message ids; and a moment
        of detection is that of the plan here.

        Raises:
            ConfigError: pandas is not installed.
        """
        notebook.refuse_missing_pandas()
        calls: pd.DataFrame = self._table.to_pandas()
        calls["timestamp"] = calls["timestamp"].dt.tz_localize("UTC")
        parts = ("traits", "properties", "context", "integrations", "groupId", "anonymousId")
        bodies = [json.loads(body) for body in calls["call"]]
        fields = notebook.frame([{part: body[part] for part in parts if part in body} for body in bodies])
        own = [name for name in fields.columns if not name.startswith("context.library.")]
        text = calls.pop("call")
        return calls.join(fields[own]).assign(call=text)

    def _repr_html_(self) -> str:
        """The plan as a notebook shows it."""
        counted = notebook.counted
        rows = [
            (change, f"{counted(self._rows(change), 'row')} →", f"{counted(calls, f'{name} call')}")
            for (change, name), calls in self.calls.items()
        ]
        if not self.sends:
            rows = [("added", f"{counted(self.diff.added, 'row')} →", "a silent baseline, not sent")]
        stops = [
            f"guard {guard.name} stops this: {counted(guard.value, 'row')}, the limit is {guard.limit}"
            for guard in self.guards
            if guard.tripped and not guard.forced
        ]
        rejected = [
            f"{counted(rows, 'row')} rejected: {reason}" for reason, rows in self.diff.rejected_by.items()
        ]
        cost = f"{counted(self.total_calls, 'API call')} in {counted(self.requests, 'request')}"
        color = notebook.BAD if stops else notebook.DOUBTFUL if rejected else notebook.GOOD
        lines = [*stops, *rejected, *(sample.call for sample in self.samples)]
        note = f"{counted(self.diff.rows_read, 'row')} read, {cost}"
        return notebook.html(self.sync, note, color, rows, lines)

    def _rows(self, change: str) -> int:
        """The rows of a kind of change."""
        rows: int = self.diff.resent if change == "unchanged" else getattr(self.diff, change)
        return rows

    def as_json(self) -> dict[str, Any]:
        """The object that `retl plan --json` prints; docs/plan.md describes it."""
        return {
            "sync": self.sync,
            "first_pass": self.first_pass,
            "sends": self.sends,
            "full": self.full,
            "rows_read": self.diff.rows_read,
            "unchanged": self.diff.unchanged,
            "added": self.diff.added,
            "changed": self.diff.changed,
            "removed": self.diff.removed,
            "rejected_rows": self.diff.rejected,
            "rejected_by": dict(self.diff.rejected_by),
            "changed_by": dict(self.changed_by),
            "rejected_changed_by": dict(self.rejected_changed_by),
            "rejected_keys": {reason: list(keys) for reason, keys in self.rejected_keys.items()},
            "suspicious_columns": {
                name: round(share, 4) for name, share in self.diff.suspicious_columns.items()
            },
            "calls": [
                {"change": change, "name": name, "calls": count}
                for (change, name), count in self.calls.items()
            ],
            "total_calls": self.total_calls,
            "users": self.volume.users,
            "bytes": self.volume.bytes,
            "undated": self.volume.undated,
            "requests": self.requests,
            "calls_per_second": self.calls_per_second,
            "seconds": round(self.seconds, 1),
            "edit_sends": self.advice.found if self.advice.by_edit else None,
            "unsent": list(self.unsent),
            "pending": self.pending,
            "resumed_full": self.resumed_full,
            "guards": [{**guard.as_json(), "outcome": guard.outcome.value} for guard in self.guards],
            "ways_on": list(self.ways_on),
            "violations": dict(self.volume.violations),
            "samples": [sample.as_json() for sample in self.samples],
        }


def make_plan(
    job: Job, limits: Limits, file: str | None = None, samples: int = 1, with_calls: bool = False
) -> Plan:
    """Find out what a run would do.

    Args:
        job: what the run would work with; its state file stays as it is.
        limits: of a batch at the destination.
        file: the file that takes the calls; None for Segment.
        samples: how many calls of each kind to show.
        with_calls: whether the plan holds every call, for `to_pandas`.

    Raises:
        RetlError: whatever would stop the run before its guards.
    """
    db = job.state.db
    resumed_full = resumes_full(job)
    if resumed_full:
        job = resumed(job)
    job = job.asking(command="plan")
    proposal = find_changes(job, open_engine(job, job.deadline, Purpose.COMPARE))
    job.observer.enqueuing()
    outgoing = make_calls(job, proposal, connections=1, may_wait=True)
    changes = proposal.changes
    calls = select_calls()
    changed_by, rejected_changed_by = _changed_by(db, proposal, outgoing)
    return Plan(
        sync=job.sync.name,
        path=job.sync.path,
        first_pass=changes.old_mapping is None,
        sends=proposal.sends,
        full=job.options.full,
        diff=outgoing.diff,
        changed_by=changed_by,
        rejected_changed_by=rejected_changed_by,
        rejected_keys=_rejected_keys(db),
        guards=proposal.guards,
        ways_on=ways_on(job.sync, changes, proposal.guards),
        advice=advise(job.sync, changes),
        unsent=proposal.unsent,
        volume=_count_calls(db, outgoing),
        calls_per_second=job.sync.segment.calls_per_second,
        pending=outbox.pending(db),
        resumed_full=resumed_full,
        limits=limits,
        file=file,
        samples=_samples(db, proposal, samples),
        _table=db.sql(calls if with_calls else f"{calls} LIMIT 0").to_arrow_table(),
    )


def planned_sync(job: Job, plan: Plan, root: Path) -> Planned:
    """The part of a plan that is saved; after `make_plan`.

    Args:
        job: of the plan; its options have the moment of detection.
        plan: as it was made.
        root: the project folder.
    """
    assert job.options.detected_at is not None, "a plan that is saved has a moment"
    metadata = job.state.metadata
    return Planned(
        sync=plan.sync,
        path=job.sync.path,
        root=str(root),
        detected_at=job.options.detected_at,
        files=file_hashes(root, job.sync),
        destination_id=metadata.destination_id,
        destination_hash=metadata.destination_hash,
        generation=metadata.generation,
        has_state=job.state.path is not None,
        work=work_of(job.state.db, plan.diff),
    )


def _changed_by(
    db: duckdb.DuckDBPyConnection, proposal: Proposal, outgoing: Outgoing
) -> tuple[dict[str, int], dict[str, int]]:
    """How many changed rows differ in each thing compared: of those that can be sent, and of the others."""
    if proposal.diff.changed == outgoing.diff.changed:
        return proposal.diff.by_column, {}
    is_rejected = "key IN (SELECT key FROM rejected)"
    rejected = count_differences(db, proposal.changes, is_rejected)
    return count_differences(db, proposal.changes, f"NOT ({is_rejected})"), rejected


def _rejected_keys(db: duckdb.DuckDBPyConnection) -> dict[str, tuple[str, ...]]:
    """The first keys of the rows that cannot be sent, by the reason's code."""
    found = db.execute(
        f"""
        SELECT reason, min(key, {KEYS}) FROM rejected WHERE key IS NOT NULL GROUP BY reason ORDER BY reason
        """
    )
    return {reason: tuple(keys) for reason, keys in found.fetchall()}


def _count_calls(db: duckdb.DuckDBPyConnection, outgoing: Outgoing) -> Volume:
    """Count the calls that leave; a text is made where there is none, and not kept."""
    counts = db.execute(
        """
        SELECT change, coalesce(event, type) AS name, count(*), sum(bytes)::BIGINT
        FROM leaving
        GROUP BY ALL
        ORDER BY min(rank), name
        """
    ).fetchall()
    # By their hashes, of which ten million take less memory than the ids.
    ((users,),) = db.execute("SELECT count(DISTINCT hash(user_id)) FROM leaving").fetchall()
    return Volume(
        by_name={(change, name): calls for change, name, calls, _ in counts},
        bytes=sum(size for *_, size in counts),
        users=users,
        undated=outgoing.undated,
        violations=outgoing.violations,
    )


def _samples(db: duckdb.DuckDBPyConnection, proposal: Proposal, each: int) -> tuple[Sample, ...]:
    """The calls of the first rows of each kind, by their keys; no other text is made."""
    if not each:
        return ()
    rows = db.execute(
        f"""
        WITH chosen AS (
            SELECT change, name, unnest(keys) AS key
            FROM (
                SELECT change, coalesce(event, type) AS name, min(key, {each}) AS keys
                FROM leaving
                GROUP BY ALL
            )
        )
        SELECT change, coalesce(event, type), key, body
        FROM leaving
        WHERE key IN (SELECT key FROM chosen)
            AND (change, coalesce(event, type), key) IN (SELECT (change, name, key) FROM chosen)
        ORDER BY change, rank, key
        """
    ).fetchall()
    changed = [key for change, _, key, _ in rows if change == "changed"]
    differences = list_differences(db, proposal.changes, changed)
    return tuple(
        Sample(change, name, key, shown(body), differences.get(key, ()) if change == "changed" else ())
        for change, name, key, body in rows
    )


def shown(body: str) -> str:
    """A call's text less message id and retl's own context; never parsed, which would cost digits."""
    body = body.replace(f',"context":{{"library":{LIBRARY}}}', "").replace(f',"library":{LIBRARY}', "")
    return re.sub(r',"messageId":"(?:[^"\\]|\\.)*"(?=,"timestamp":"[^"]*"}$)', "", body)
