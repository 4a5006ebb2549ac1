"""The past of a row: its calls and rejections, and the runs that made no call of it, the newest first."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from itertools import groupby, takewhile
from typing import Any

import duckdb

from retl import sql
from retl.engine.canonical import plain_text
from retl.engine.mapping import SyncMapping
from retl.history import show
from retl.state import State

MOST_ROWS = 20
"""Rows of one user that are told, those with the newest calls."""


@dataclass(frozen=True)
class PastCall:
    """A call of a row, as the view `calls` has it; moments are UTC, without a time zone."""

    message_id: str | None
    change: str
    user_id: str | None
    event: str | None
    moment: datetime | None
    state: str
    run_id: str
    answered_in: str | None
    answered_at: datetime | None
    status: int | None
    reason: str | None
    answer: str | None


@dataclass(frozen=True)
class PastRejection:
    """A rejection of a row or of a call of it, as the view `rejections` has it; moments are UTC."""

    change: str | None
    message_id: str | None
    reason: str
    answer: str | None
    at_fault: str | None
    value: str | None
    first_seen: datetime
    last_seen: datetime
    times: int
    ended_at: datetime | None
    ended_in: str | None
    how: str | None


@dataclass(frozen=True)
class PastEvent:
    """A call of a row; or runs, one after another, that made none of it for the same reason.

    Attributes:
        at: when the run began, of several the last; of a call whose run is forgotten, when it was answered,
            else its own timestamp. None where an older state does not tell.
        kind: "call"; or why there is none: "unchanged" (the row was as before, or not there), "gone" (it left
            the model), "rejected", "baseline", "guarded", "undelivered" (the run failed while it delivered
            calls of an earlier one) or "failed" (before calls were made).
        call: the call; None of runs.
        since: when the first of the runs began.
        runs: how many.
        message: of the error that ended them.
        reason: the code for which the row was rejected.
    """

    at: datetime | None
    kind: str
    call: PastCall | None = None
    since: datetime | None = None
    runs: int = 0
    message: str | None = None
    reason: str | None = None

    def as_json(self) -> dict[str, Any]:
        """The object that `retl explain --json` prints in `past`."""
        event = {"at": self.at, "kind": self.kind}
        if self.call is not None:
            return _texts(event | asdict(self.call))
        why = {"message": self.message, "reason": self.reason}
        return _texts(event | {"since": self.since, "runs": self.runs, **why})


@dataclass(frozen=True)
class RowPast:
    """All that a state knows of a row.

    Attributes:
        key: the primary key, as text; None stands for rows without one.
        matched: whether it was asked for as a "key" or as a "user".
        row: the values by column as they were when the row was last turned into calls, as text; None where
            it is not in the snapshot, or only in the part of it that the warehouse has.
        events: the newest first.
        rejections: open ones first, then the newest.
    """

    key: str | None
    matched: str
    row: Mapping[str, str | None] | None
    events: Sequence[PastEvent]
    rejections: Sequence[PastRejection]

    @property
    def waiting(self) -> list[PastCall]:
        """The calls that the next run delivers first, the oldest first."""
        calls = [event.call for event in reversed(self.events) if event.call is not None]
        return [call for call in calls if call.state == "pending"]

    def as_json(self) -> dict[str, Any]:
        """The object that `retl explain --json` prints, but for what is to come."""
        return {
            "key": self.key,
            "matched": self.matched,
            "row": self.row,
            "past": [event.as_json() for event in self.events],
            "rejections": [_texts(asdict(one)) for one in self.rejections],
        }


def find_past(state: State, argument: str) -> list[RowPast]:
    """The past of the row of a key, or of the rows of a user id or an anonymous id; at most `MOST_ROWS`.

    A row is among them also where it is gone, as long as its history is kept.
    """
    show(state)
    db = state.db
    known = state.metadata.mapping
    mapping = SyncMapping.from_json(known) if known else None
    of_row = is_about(argument, "row", mapping) if mapping else "false"
    found = db.execute(_FIND.format(of_row=of_row), {"asked": argument, "most": MOST_ROWS}).fetchall()
    keys = [key for (key,) in found]
    calls, rejections, rows = _calls(db, keys), _rejections(db, keys), _rows(db, keys, mapping)
    runs = [_KeptRun(*run) for run in db.execute(_RUNS).fetchall()]
    # Rows that a table in the warehouse has are not known to be gone.
    is_elsewhere = state.metadata.snapshot_table is not None
    found_past = []
    for key in keys:
        own, faults, row = calls.get(key, []), rejections.get(key, []), rows.get(key)
        is_gone = row is None and mapping is not None and not is_elsewhere
        left_in = _left_in(runs, own) if is_gone else None
        events = list(_events(runs, own, faults, left_in))
        found_past.append(RowPast(key, "key" if key == argument else "user", row, events, faults))
    return found_past


def is_about(asked: str, image: str, mapping: SyncMapping) -> str:
    """The condition that a row has the key, or one of its ids is it."""
    users = [column for name, column in mapping.ids.items() if name != "group_id"]
    texts = ["key", *(plain_text(mapping.types[one], f"{image}[{sql.text(one)}]") for one in users)]
    return f"coalesce({sql.text(asked)} IN ({', '.join(texts)}), false)"


_FIND = """
SELECT key
FROM (
    SELECT key, max(moment) AS last FROM calls WHERE key = $asked OR user_id = $asked GROUP BY key
    UNION ALL
    SELECT key, max(last_seen) FROM rejections WHERE key = $asked OR user_id = $asked GROUP BY key
    UNION ALL
    SELECT key, NULL FROM rows WHERE {of_row}
)
GROUP BY key
ORDER BY key = $asked DESC, max(last) DESC NULLS LAST, key
LIMIT $most
"""


@dataclass(frozen=True)
class _KeptRun:
    """A run, as the view `runs` has it; moments are UTC."""

    run_id: str
    started_at: datetime
    seconds: float | None
    status: str
    baseline: bool | None
    rows_read: int | None
    unchanged: int | None
    changed: int | None
    removed: int | None
    enqueued: int | None
    pending: int | None
    batches: int | None
    error: str | None
    message: str | None

    @property
    def moved(self) -> bool:
        """Whether it moved the snapshot: the count of its calls is noted along with that."""
        return self.enqueued is not None

    @property
    def failed_delivering(self) -> bool:
        """Whether it failed while it delivered calls of an earlier run; the model is read after these."""
        if self.rows_read is not None or not self.pending:
            return False
        # Batches are counted once delivery has begun and come to an end by itself.
        came_so_far = self.batches is not None and self.error not in _OF_READING
        return came_so_far or self.error == "interrupted"


_OF_READING = {None, "config", "model", "warehouse"}
"""Codes of errors that come from reading the model, where delivery left calls that nothing is decided of."""

_RUNS = f"""
SELECT {", ".join(_KeptRun.__dataclass_fields__)}
FROM runs
ORDER BY started_at DESC, run_id DESC
"""


def _calls(db: duckdb.DuckDBPyConnection, keys: Sequence[str]) -> dict[str, list[PastCall]]:
    columns = ", ".join(PastCall.__dataclass_fields__)
    query = f"SELECT key, {columns} FROM calls WHERE list_contains(?, key) ORDER BY moment DESC, change"
    calls: dict[str, list[PastCall]] = {}
    for key, *values in db.execute(query, [list(keys)]).fetchall():
        calls.setdefault(key, []).append(PastCall(*values))
    return calls


def _rejections(db: duckdb.DuckDBPyConnection, keys: Sequence[str]) -> dict[str, list[PastRejection]]:
    columns = ", ".join(PastRejection.__dataclass_fields__)
    query = f"""
        SELECT key, {columns} FROM rejections WHERE list_contains(?, key)
        ORDER BY ended_at DESC NULLS FIRST, first_seen DESC
        """
    found: dict[str, list[PastRejection]] = {}
    for key, *values in db.execute(query, [list(keys)]).fetchall():
        found.setdefault(key, []).append(PastRejection(*values))
    return found


def _rows(
    db: duckdb.DuckDBPyConnection, keys: Sequence[str], mapping: SyncMapping | None
) -> dict[str, dict[str, str | None]]:
    if mapping is None:
        return {}
    return as_texts(db, "SELECT key, row FROM rows", keys, mapping.columns)


def as_texts(
    db: duckdb.DuckDBPyConnection, rows: str, keys: Sequence[str], columns: Sequence[str]
) -> dict[str, dict[str, str | None]]:
    """The values of some rows as text by column, by the keys of the rows.

    Args:
        db: the state's connection.
        rows: a SELECT of `key` and `row`.
        keys: of the rows that are asked for.
        columns: of a row.
    """
    values = ", ".join(f"row[{sql.text(column)}]::VARCHAR" for column in columns)
    found = db.execute(f"SELECT key, {values} FROM ({rows}) WHERE list_contains(?, key)", [list(keys)])
    return {key: dict(zip(columns, texts, strict=True)) for key, *texts in found.fetchall()}


def _events(
    runs: Sequence[_KeptRun],
    calls: Sequence[PastCall],
    rejections: Sequence[PastRejection],
    left_in: str | None,
) -> Iterator[PastEvent]:
    """The events of a row, the newest first: its calls, and between them the runs without one."""
    made: dict[str, list[PastCall]] = {}
    for call in calls:
        made.setdefault(call.run_id, []).append(call)

    def why(run: _KeptRun) -> tuple[str | None, str | None, str | None]:
        if run.run_id in made:
            return "call", None, None
        return ("gone", None, None) if run.run_id == left_in else _why_none(run, rejections)

    for (kind, message, reason), group in groupby(runs, key=why):
        if kind is None:
            continue
        several = list(group)
        if kind != "call":
            last, first = several[0].started_at, several[-1].started_at
            yield PastEvent(last, kind, None, first, len(several), message, reason)
            continue
        for run in several:
            yield from (PastEvent(run.started_at, kind, call) for call in made.pop(run.run_id))
    for forgotten in made.values():
        for call in forgotten:
            yield PastEvent(call.answered_at or call.moment, "call", call)


def _why_none(
    run: _KeptRun, rejections: Sequence[PastRejection]
) -> tuple[str | None, str | None, str | None]:
    """The kind of the event of a run without a call, its message and the reason of a rejection.

    The kind is None where the run was not about rows at all.
    """
    if run.status == "guarded":
        return "guarded", run.message, None
    if run.failed_delivering:
        return "undelivered", run.message, None
    if run.rows_read is None or (run.message and not run.moved):
        message = run.message or ("it ended suddenly" if run.status == "interrupted" else None)
        return ("failed", message, None) if message else (None, None, None)
    ended_at = run.started_at + timedelta(seconds=(run.seconds or 0) + 0.01)
    for one in rejections:
        if one.change is None and one.first_seen <= ended_at and run.started_at <= one.last_seen:
            return "rejected", None, one.reason
    return ("baseline" if run.baseline else "unchanged"), None, None


def _left_in(runs: Sequence[_KeptRun], calls: Sequence[PastCall]) -> str | None:
    """The run in which a row that the snapshot has no more left the model, without a call of it.

    None where that is not sure: rows left in several runs since the row's last call, or in none, or one of
    these was a first pass, as after a reset.
    """
    newest = max((call.run_id for call in calls), default=None)
    if any(call.change == "removed" for call in calls if call.run_id == newest):
        return None
    later = [run for run in takewhile(lambda run: run.run_id != newest, runs) if run.moved]
    if all(run.run_id != newest for run in runs) or any(
        run.rows_read and not _had_snapshot(run) for run in later
    ):
        return None
    leaving = [run.run_id for run in later if run.removed]
    return leaving[0] if len(leaving) == 1 else None


def _had_snapshot(run: _KeptRun) -> bool:
    return bool(run.unchanged or run.changed or run.removed)


def _texts(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: _text(value) if isinstance(value, datetime) else value for name, value in values.items()}


def _text(moment: datetime) -> str:
    return f"{moment.isoformat(timespec='milliseconds')}Z"
