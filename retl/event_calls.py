"""The calls of a run by event: how many entered the outbox, and how many were delivered.

To count what was delivered by its text would cost as much as to send it. It is what waited before the run
and what entered in it, less what was refused and what waits now; and of a call that waits, its run and the
change of its row nearly always tell the event.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import duckdb

from retl.calls.template import Template
from retl.delivery import outbox

MOST_EVENTS = 100
"""Events that are counted; a run with more, as where each row has an event of its own, counts none."""

MOST_READ = 200_000
"""Calls that wait and are read for their event, where their run and change do not tell it."""

EventName = tuple[str, str | None]
"""The type of a call, and the event of a track call."""


@dataclass(frozen=True)
class EventCalls:
    """The calls of one type and event in a run.

    Attributes:
        type: identify, group or track.
        event: the event of a track call; None for other types.
        waiting: calls that waited when the run began.
        enqueued: calls that it put into the outbox.
        delivered: calls that the destination took in it; None is not known.
        changes: of the rows that made the enqueued calls.
    """

    type: str
    event: str | None
    waiting: int = 0
    enqueued: int = 0
    delivered: int | None = None
    changes: tuple[str, ...] = ()

    @property
    def name(self) -> EventName:
        """Its type and event."""
        return self.type, self.event

    def as_json(self) -> dict[str, Any]:
        """The object that a run's record has of it."""
        return {**self.__dict__, "changes": list(self.changes)}


def read_events(kept: Sequence[Mapping[str, Any]] | None) -> tuple[EventCalls, ...] | None:
    """The events of a record; None where it has none, as that of an older retl."""
    if kept is None:
        return None
    return tuple(EventCalls(**{**one, "changes": tuple(one["changes"])}) for one in kept)


def entering(db: duckdb.DuckDBPyConnection, answered: Sequence[Template]) -> tuple[EventCalls, ...] | None:
    """The events of the calls in the view `leaving`; None where there are too many.

    Where all calls can have but one event, they are not counted; see `entered`.

    Args:
        db: the state's connection, before the promote.
        answered: the templates that can have made calls.
    """
    names = {(one.type, one.event.name if one.event else None) for one in answered}
    if len(names) == 1 and not any(one.event and one.event.column for one in answered):
        ((kind, event),) = names
        return (EventCalls(kind, event, changes=tuple(sorted({one.change.value for one in answered}))),)
    return _counted(db, f"SELECT change, type, event, count(*) FROM leaving GROUP BY ALL LIMIT {_LIMIT}")


_LIMIT = 8 * MOST_EVENTS + 1
"""Lines with which there are surely more events than are counted."""

_NAME = "body ->> '$.type', body ->> '$.event'"


def entering_again(db: duckdb.DuckDBPyConnection) -> tuple[EventCalls, ...] | None:
    """The events of the calls in the TEMP table `again`; None where there are too many."""
    return _counted(db, f"SELECT change, {_NAME}, count(*) FROM again GROUP BY ALL LIMIT {_LIMIT}")


def _counted(db: duckdb.DuckDBPyConnection, query: str) -> tuple[EventCalls, ...] | None:
    calls: Counter[EventName] = Counter()
    changes: dict[EventName, set[str]] = {}
    for change, kind, event, number in db.execute(query).fetchall():
        calls[kind, event] += number
        changes.setdefault((kind, event), set()).add(change)
    if len(calls) > MOST_EVENTS:
        return None
    return tuple(
        EventCalls(*name, enqueued=calls[name], changes=tuple(sorted(changes[name])))
        for name in sorted(calls, key=str)
    )


def entered(
    waited: Mapping[EventName, int] | None, events: Sequence[EventCalls] | None, total: int
) -> tuple[EventCalls, ...] | None:
    """The events of a run whose calls are in the outbox; None is not known.

    Args:
        waited: the calls that waited when the run began.
        events: of the calls that entered, from `entering`.
        total: how many calls entered.
    """
    if waited is None or events is None:
        return None
    if len(events) == 1:
        events = [replace(events[0], enqueued=total)]
    found = {one.name: one for one in events if one.enqueued}
    for name, calls in waited.items():
        found[name] = replace(found.get(name, EventCalls(*name)), waiting=calls)
    return tuple(found.values())


def waiting(
    db: duckdb.DuckDBPyConnection, kept: Mapping[str, Sequence[EventCalls]]
) -> dict[EventName, int] | None:
    """The calls that wait, by event; None where that would take too long.

    Args:
        db: the state's connection.
        kept: the events of the runs whose calls wait, by the id of the run, as far as they are known.
    """
    calls: Counter[EventName] = Counter()
    unclear = []
    for run_id, change, number in outbox.waiting_by_change(db):
        names = {one.name for one in kept.get(run_id, ()) if change in one.changes}
        if len(names) == 1:
            calls[names.pop()] += number
        else:
            unclear.append((run_id, change, number))
    if sum(number for _, _, number in unclear) > MOST_READ:
        return None
    if unclear:
        for kind, event, number in outbox.waiting_by_text(db, [one[:2] for one in unclear]):
            calls[kind, event] += number
    return dict(calls)


def ended(
    events: Sequence[EventCalls] | None,
    left: Mapping[EventName, int] | None,
    refused: Iterable[tuple[str, str | None, int]],
    delivered: int,
) -> tuple[EventCalls, ...] | None:
    """The events of a run at its end, with what was delivered of each where that is known.

    Args:
        events: of the run, from `entered`.
        left: the calls that wait now.
        refused: the calls that the destination refused in the run, by type and event.
        delivered: how many calls were delivered in all.
    """
    if events is None or left is None:
        return None if events is None else tuple(events)
    less = Counter(left)
    for kind, event, number in refused:
        less[kind, event] += number
    found = tuple(replace(one, delivered=one.waiting + one.enqueued - less[one.name]) for one in events)
    counts = [one.delivered or 0 for one in found]
    if sum(counts) != delivered or min(counts, default=0) < 0:
        return tuple(events)  # something else took calls away
    return found
