"""A plan: what a run would send, without sending and without changing anything."""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import duckdb
import pyarrow as pa

from retl import notebook
from retl.calls.parts import LIBRARY
from retl.delivery.destination import Limits
from retl.engine.advice import Advice, advise
from retl.engine.diff import Diff
from retl.engine.guard import Guard
from retl.engine.landing import Purpose
from retl.job import Job
from retl.pipeline import find_changes, make_calls, open_engine, resumed, resumes_full

if TYPE_CHECKING:
    import pandas as pd  # an extra: only notebooks need it


@dataclass(frozen=True)
class Sample:
    """One call of a plan, to look at.

    Attributes:
        change: "added", "changed" or "removed"; "unchanged" where it is sent again.
        key: of the row.
        call: its JSON as it would be sent, less the message id and retl's own context.
    """

    change: str
    key: str
    call: str


@dataclass(frozen=True)
class Plan:
    """The work that a run would do now.

    Attributes:
        sync: name of the sync.
        first_pass: whether there is no snapshot yet.
        sends: whether changes become calls; a first pass may be a silent baseline.
        diff: how many rows changed, and how.
        guards: what the guards say.
        advice: on what makes nearly every row changed.
        unsent: names of what an edit of the sync added or altered, and what no row is sent for.
        violations: how many calls break a rule of a receiver, by the rule's code.
        calls: number of calls by change and name; the name of an identify or group call is its type.
        bytes: of all calls.
        undated: calls that would take the moment of detection, as the column of their timestamp is null.
        calls_per_second: the rate at which they would leave; 0 is without limit.
        pending: calls that an earlier run left over; they go first.
        resumed_full: whether they are of an earlier --full, in whose place no other starts.
        limits: of a batch at the destination.
        file: the file that takes the calls, as the sync has it; None for Segment.
        samples: a few calls of each kind.
    """

    sync: str
    first_pass: bool
    sends: bool
    diff: Diff
    guards: tuple[Guard, ...]
    advice: Advice
    unsent: tuple[str, ...]
    violations: Mapping[str, int]
    calls: Mapping[tuple[str, str], int]
    bytes: int
    undated: int
    calls_per_second: int
    pending: int
    resumed_full: bool
    limits: Limits
    file: str | None
    samples: tuple[Sample, ...]
    _table: pa.Table = field(repr=False)

    @property
    def total_calls(self) -> int:
        """All calls, each of which Segment bills as one API call."""
        return sum(self.calls.values())

    @property
    def requests(self) -> int:
        """About how many HTTP requests it takes."""
        by_bytes: int = math.ceil(self.bytes / self.limits.bytes)
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
        rows = [
            (
                change,
                self.diff.resent if change == "unchanged" else getattr(self.diff, change),
                calls,
                f"{name} calls",
            )
            for (change, name), calls in self.calls.items()
        ]
        if not self.sends:
            rows = [("added", self.diff.added, 0, "calls: a silent baseline, remembered and not sent")]
        stops = [
            f"guard {guard.name} stops this: {guard.value:,} rows, the limit is {guard.limit}"
            for guard in self.guards
            if guard.tripped and not guard.forced
        ]
        rejected = [f"{rows:,} rows rejected: {reason}" for reason, rows in self.diff.rejected_by.items()]
        note = (
            f"{self.diff.rows_read:,} rows read, {self.total_calls:,} API calls in {self.requests:,} requests"
        )
        color = notebook.BAD if stops else notebook.DOUBTFUL if rejected else notebook.GOOD
        samples = [sample.call for sample in self.samples]
        return notebook.html(self.sync, note, color, rows, [*stops, *rejected, *samples])

    def as_json(self) -> dict[str, Any]:
        """The object that `retl plan --json` prints."""
        return {
            "sync": self.sync,
            "first_pass": self.first_pass,
            "sends": self.sends,
            "rows_read": self.diff.rows_read,
            "unchanged": self.diff.unchanged,
            "added": self.diff.added,
            "changed": self.diff.changed,
            "removed": self.diff.removed,
            "rejected_rows": self.diff.rejected,
            "rejected_by": dict(self.diff.rejected_by),
            "changed_by": dict(self.diff.by_column),
            "suspicious_columns": {
                name: round(share, 4) for name, share in self.diff.suspicious_columns.items()
            },
            "calls": [
                {"change": change, "name": name, "calls": count}
                for (change, name), count in self.calls.items()
            ],
            "total_calls": self.total_calls,
            "bytes": self.bytes,
            "undated": self.undated,
            "requests": self.requests,
            "seconds": round(self.seconds, 1),
            "unsent": list(self.unsent),
            "pending": self.pending,
            "resumed_full": self.resumed_full,
            "guards": [dict(guard.__dict__) for guard in self.guards],
            "violations": dict(self.violations),
            "samples": [dict(sample.__dict__) for sample in self.samples],
        }


def make_plan(
    job: Job,
    pending: int,
    limits: Limits,
    file: str | None = None,
    samples: int = 2,
    with_calls: bool = False,
) -> Plan:
    """Find out what a run would do.

    Args:
        job: what the run would work with; its state file stays as it is.
        pending: calls that an earlier run left over.
        limits: of a batch at the destination.
        file: the file that takes the calls; None for Segment.
        samples: how many calls of each kind of change to show.
        with_calls: whether the plan holds every call, for `to_pandas`.

    Raises:
        RetlError: whatever would stop the run before its guards.
    """
    db = job.state.db
    resumed_full = resumes_full(job)
    if resumed_full:
        job = resumed(job)
    proposal = find_changes(job, open_engine(job, job.deadline, Purpose.COMPARE))
    outgoing = make_calls(job, proposal, connections=1)
    ((size,),) = db.execute("SELECT coalesce(sum(bytes), 0)::BIGINT FROM leaving").fetchall()
    names = db.execute(
        """
        SELECT change, coalesce(event, type) AS name, count(*)
        FROM leaving
        GROUP BY ALL
        ORDER BY min(rank), name
        """
    ).fetchall()
    return Plan(
        sync=job.sync.name,
        first_pass=proposal.changes.old_mapping is None,
        sends=proposal.sends,
        diff=outgoing.diff,
        guards=proposal.guards,
        advice=advise(job.sync, proposal.changes),
        unsent=proposal.unsent,
        violations=outgoing.violations,
        calls={(change, name): count for change, name, count in names},
        bytes=size,
        undated=outgoing.undated,
        calls_per_second=job.sync.segment.calls_per_second,
        pending=pending,
        resumed_full=resumed_full,
        limits=limits,
        file=file,
        samples=_samples(db, samples),
        _table=db.sql(_TABLE if with_calls else f"{_TABLE} LIMIT 0").to_arrow_table(),
    )


_TABLE = """
SELECT change, key, type, event, user_id, message_id, moment AS timestamp, reason, body AS call
FROM call
ORDER BY moment, rank, key
"""


def _samples(db: duckdb.DuckDBPyConnection, each: int) -> tuple[Sample, ...]:
    rows = db.execute(
        """
        SELECT change, key, body
        FROM leaving
        QUALIFY row_number() OVER (PARTITION BY change ORDER BY key, rank) <= ?
        ORDER BY change, key, rank
        """,
        [each],
    ).fetchall()
    return tuple(Sample(change, key, shown(body)) for change, key, body in rows)


def shown(body: str) -> str:
    """A call's text less message id and retl's own context; never parsed, which would cost digits."""
    body = body.replace(f',"context":{{"library":{LIBRARY}}}', "").replace(f',"library":{LIBRARY}', "")
    return re.sub(r',"messageId":"(?:[^"\\]|\\.)*"(?=,"timestamp":"[^"]*"}$)', "", body)
