"""Section: the part of the report that is about one sync, in an operator's order."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from retl.delivery.rejection_list import RejectedCall, RejectedRow, RejectedText
from retl.report.condition import NEVER, Condition, Tone
from retl.report.facts import Facts
from retl.report.past import GuardReading, ReportedRun, reported_run
from retl.report.trend import Trend, outcomes, trends
from retl.report.words import counted


@dataclass(frozen=True)
class LastFailure:
    """The newest run that did not get to its end.

    Attributes:
        run: the run.
        message: what happened.
        hint: what to do now; None where a later run did it already.
        is_over: whether a later run finished.
    """

    run: ReportedRun
    message: str
    hint: str | None
    is_over: bool


@dataclass(frozen=True)
class GuardHistory:
    """A guard in the newest run that came to it, and the run in which it was nearest to its limit."""

    now: GuardReading
    nearest: GuardReading
    nearest_run: ReportedRun


@dataclass(frozen=True)
class RejectedReason:
    """Rows and calls that are rejected now for one reason, with its meaning."""

    reason: str
    meaning: str
    rows: int
    calls: int


@dataclass(frozen=True)
class RejectedSample:
    """A rejected row or call.

    Attributes:
        what: "row", or the change whose call it is, such as "removed".
        reason: the reason code.
        since: when it was rejected first, in UTC.
        note: how often, by how many rows, or the answer that refused the call.
        key: the primary key of the row; None where there is none, or it is not to be shown.
        user_id: of the call; None where it is not to be shown.
        body: the call as JSON; None where it is not to be shown.
    """

    what: str
    reason: str
    since: datetime
    note: str
    key: str | None = None
    user_id: str | None = None
    body: str | None = None


@dataclass(frozen=True)
class Section:
    """The part of the report that is about one sync.

    Attributes:
        name: of the sync.
        condition: how it stands.
        notes: sentences about why it stands so, and what to do.
        last: its last run.
        failure: its last failure.
        runs: the runs of the period, the newest first; the last run, whenever it was.
        rows: of the snapshot; None where the state was not read.
        pending: calls that wait; None likewise.
        waiting_since: when the oldest of these calls was made, in UTC.
        destination: its address as it is shown.
        was_read: whether its state could be read.
    """

    name: str
    condition: Condition
    notes: tuple[str, ...] = ()
    last: ReportedRun | None = None
    failure: LastFailure | None = None
    runs: tuple[ReportedRun, ...] = ()
    outcomes: Trend | None = None
    trends: tuple[Trend, ...] = ()
    guards: tuple[GuardHistory, ...] = ()
    reasons: tuple[RejectedReason, ...] = ()
    samples: tuple[RejectedSample, ...] = ()
    rows: int | None = None
    pending: int | None = None
    waiting_since: datetime | None = None
    destination: str | None = None
    was_read: bool = True

    @property
    def rejected(self) -> int | None:
        """Rows and calls that are rejected now; None where the state was not read."""
        if not self.was_read:
            return None
        return sum(one.rows + one.calls for one in self.reasons)

    @property
    def failures(self) -> int:
        """The runs that failed, or that a guard stopped."""
        return sum(run.condition.tone is Tone.BAD for run in self.runs)

    @property
    def delivered(self) -> int:
        """Calls that these runs delivered."""
        return sum(run.delivered or 0 for run in self.runs)


def section_of(name: str, facts: Facts, meaning: Callable[[str], str], show_values: bool) -> Section:
    """The section of a sync whose state was read.

    Args:
        name: of the sync.
        facts: its state.
        meaning: gives the meaning of a reason code.
        show_values: whether keys, user ids and the calls themselves are shown.
    """
    runs = tuple(reported_run(record, facts.answers.get(record["run_id"])) for record in facts.records)
    return Section(
        name,
        runs[0].condition if runs else NEVER,
        last=runs[0] if runs else None,
        failure=last_failure(runs),
        runs=runs,
        outcomes=outcomes(runs) if runs else None,
        trends=trends(runs) if runs else (),
        guards=tuple(guard_histories(runs)),
        reasons=tuple(
            RejectedReason(one.reason, meaning(one.reason), one.rows, one.calls) for one in facts.reasons
        ),
        samples=(
            *(_row_sample(row, show_values) for row in facts.rejected_rows),
            *_call_samples(facts.rejected_calls, facts.texts, show_values),
        ),
        rows=facts.rows,
        pending=facts.pending,
        waiting_since=min(filter(None, map(_moment_of, facts.waiting)), default=None),
        destination=facts.destination,
    )


def last_failure(runs: Sequence[ReportedRun]) -> LastFailure | None:
    """The newest of the runs that did not get to its end, of runs that are given newest first."""
    for place, run in enumerate(runs):
        if run.failure is None and run.condition.icon != "pause":
            continue
        is_over = place > 0 and any(later.failure is None for later in runs[:place])
        if run.failure is None:
            message = "The run was cut off before its end: the process was killed, or the machine stopped."
            hint: str | None = "Run it again: it goes on where it stopped, and nothing is lost."
        else:
            message, hint = run.failure.message, run.failure.hint
        return LastFailure(run, message, None if is_over else hint, is_over)
    return None


def guard_histories(runs: Sequence[ReportedRun]) -> Iterator[GuardHistory]:
    """Each guard of the newest run that came to its guards; the runs are given newest first."""
    held = [run for run in runs if run.guards]
    for now in held[0].guards if held else ():
        nearest, nearest_run = now, held[0]
        for run in held:
            for one in run.guards:
                if one.name == now.name and (one.share or 0) > (nearest.share or 0):
                    nearest, nearest_run = one, run
        yield GuardHistory(now, nearest, nearest_run)


def _row_sample(row: RejectedRow, show_values: bool) -> RejectedSample:
    notes = [f"in {counted(row.times, 'run')}"]
    if row.rows > 1:
        notes.append(f"{row.rows:,} rows")
    key = "no key" if row.key is None else row.key
    return RejectedSample(
        "row", row.reason, row.first_seen, ", ".join(notes), key=key if show_values else None
    )


def _call_samples(
    calls: Sequence[RejectedCall], texts: Sequence[RejectedText], show_values: bool
) -> Iterator[RejectedSample]:
    for place, call in enumerate(calls):
        sample = RejectedSample(
            f"call of {_ARTICLE[call.change]} row", call.reason, call.rejected_at, call.answer or ""
        )
        if show_values:
            text = texts[place]
            sample = RejectedSample(
                sample.what, sample.reason, sample.since, sample.note, call.key, text.user_id, text.body
            )
        yield sample


_ARTICLE = {
    "added": "an added",
    "changed": "a changed",
    "removed": "a removed",
    "unchanged": "an unchanged",
}


def _moment_of(run_id: str) -> datetime | None:
    """When a run began, by its id; None where it cannot be told."""
    try:
        return datetime.strptime(run_id.split("-")[0], "%Y%m%dT%H%M%S").replace(tzinfo=UTC)
    except ValueError:
        return None
