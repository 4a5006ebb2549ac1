"""Queries about the calls that the store holds; each is bounded, however many there are.

All of them read the table `call` of the store: seq, received_at, outcome, reason, type, event, user_id,
anonymous_id, group_id, message_id, sync, run_id, original_timestamp, timestamp, sent_at, body.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from retl.sandbox.page.filter import FACETS, Filter
from retl.sandbox.store import Store

PAGE = 100
"""Calls of a list."""

FACET_VALUES = 8
"""Values of a facet that are listed: the most frequent ones."""

USER = FACETS["user"]


def utc(moment: str) -> str:
    """The SQL of a moment as a TIMESTAMP in UTC, whatever the session's zone is.

    To fetch a TIMESTAMPTZ, older versions of DuckDB need a library that retl does without.
    """
    return f"make_timestamp(epoch_us({moment}))"


@dataclass(frozen=True)
class StoredCall:
    """A call as it arrived.

    Attributes:
        seq: its number, in the order of arrival.
        outcome: `accepted`, `discarded` or `duplicate`.
        reason: Segment's code, of one that was discarded.
        timestamp: as destinations see it, corrected by Segment.
        body: its JSON.
    """

    seq: int
    received_at: datetime
    outcome: str
    reason: str | None
    type: str | None
    event: str | None
    user_id: str | None
    anonymous_id: str | None
    group_id: str | None
    message_id: str | None
    sync: str | None
    run_id: str | None
    original_timestamp: str | None
    timestamp: datetime | None
    sent_at: str | None
    body: str

    @property
    def user(self) -> str | None:
        """Whose it is: the user id, or else the anonymous one."""
        return self.user_id if self.user_id is not None else self.anonymous_id

    @property
    def title(self) -> str:
        """In a word or two: the event of a track call, or the type."""
        return self.event or self.type or "call without a type"


@dataclass(frozen=True)
class FacetValue:
    """A value that calls have, and how many have it under the other facets' filters."""

    value: str
    calls: int


@dataclass(frozen=True)
class Facet:
    """The values of one facet, the most frequent first.

    Attributes:
        values: at most `FACET_VALUES`, and those that are chosen.
        more: how many values there are beside.
    """

    name: str
    values: tuple[FacetValue, ...]
    more: int


@dataclass(frozen=True)
class Standing:
    """How the store stands.

    Attributes:
        newest: the number of the newest call; 0 where there is none.
        oldest_at: when the oldest call that is kept arrived; None where there is none.
        matching: how many of the calls are newer than some place and pass a filter.
    """

    newest: int
    oldest_at: datetime | None
    accepted: int
    discarded: int
    duplicates: int
    matching: int

    @property
    def held(self) -> int:
        """How many calls the store holds."""
        return self.accepted + self.discarded + self.duplicates


_MOMENTS = ("received_at", "timestamp")

COLUMNS = ", ".join(
    f'{utc(chr(34) + name + chr(34))} AS "{name}"' if name in _MOMENTS else f'"{name}"'
    for name in StoredCall.__annotations__
)
"""The columns of a `StoredCall`, in its order."""


def standing(store: Store, filter_: Filter, after: int = 0) -> Standing:
    """How the store stands, and how many calls after a place pass the filter."""
    condition, values = filter_.sql()
    (found,) = store.read(
        f"""
        SELECT coalesce(max("seq"), 0) AS "newest",
               {utc('min("received_at")')} AS "oldest_at",
               count(*) FILTER ("outcome" = 'accepted') AS "accepted",
               count(*) FILTER ("outcome" = 'discarded') AS "discarded",
               count(*) FILTER ("outcome" = 'duplicate') AS "duplicates",
               count(*) FILTER ("seq" > ? AND {condition}) AS "matching"
        FROM "call"
        """,
        [after, *values],
    )
    return Standing(**found)


def newest_calls(store: Store, filter_: Filter, limit: int = PAGE) -> list[StoredCall]:
    """The newest calls before the filter's place, the newest first."""
    condition, values = filter_.sql()
    place = ["true", []] if filter_.before is None else ['"seq" < ?', [filter_.before]]
    return _calls(
        store,
        f"""
        SELECT {COLUMNS} FROM "call"
        WHERE "seq" IN (SELECT "seq" FROM "call" WHERE {place[0]} AND {condition} ORDER BY "seq" DESC LIMIT ?)
        ORDER BY "seq" DESC
        """,
        [*place[1], *values, limit],
    )


def one_call(store: Store, seq: int) -> StoredCall | None:
    """The call of that number; None where the store has none."""
    return next(iter(_calls(store, f'SELECT {COLUMNS} FROM "call" WHERE "seq" = ?', [seq])), None)


def call_before(store: Store, call: StoredCall) -> StoredCall | None:
    """The call of that kind before this one: of the same user, type, event, group and sync, and accepted."""
    found = _calls(
        store,
        f"""
        SELECT {COLUMNS} FROM "call"
        WHERE "seq" < ? AND "outcome" = 'accepted' AND {USER} = ?
          AND "type" IS NOT DISTINCT FROM ? AND "event" IS NOT DISTINCT FROM ?
          AND "group_id" IS NOT DISTINCT FROM ? AND "sync" IS NOT DISTINCT FROM ?
        ORDER BY "seq" DESC LIMIT 1
        """,
        [call.seq, call.user, call.type, call.event, call.group_id, call.sync],
    )
    return next(iter(found), None)


def first_arrival(store: Store, call: StoredCall) -> int | None:
    """The number of the accepted call whose message id a call repeats; None where it is not held any more."""
    (found,) = store.read(
        """
        SELECT max("seq") AS "seq" FROM "call" WHERE "message_id" = ? AND "outcome" = 'accepted' AND "seq" < ?
        """,
        [call.message_id, call.seq],
    )
    seq: int | None = found["seq"]
    return seq


def repeats(store: Store, call: StoredCall) -> int:
    """How often the message id of a call came again after it."""
    (found,) = store.read(
        """
        SELECT count(*) AS "times" FROM "call"
        WHERE "message_id" = ? AND "outcome" = 'duplicate' AND "seq" > ?
        """,
        [call.message_id, call.seq],
    )
    times: int = found["times"]
    return times


def facets(store: Store, filter_: Filter) -> tuple[Facet, ...]:
    """Values of all facets; the calls of each value are counted under the filters of the *other* facets."""
    search, values = filter_.search_sql()
    conditions = {name: filter_.facet_sql(name) for name in FACETS}
    passes = ", ".join(f'{conditions[name][0]} AS "passes_{name}"' for name in FACETS)
    columns = ", ".join(f'{sql} AS "{name}"' for name, sql in FACETS.items())
    parameters = [one for name in FACETS for one in conditions[name][1]] + values
    counts = " UNION ALL ".join(f"({_counted(name)})" for name in FACETS)
    chosen = [list(filter_.chosen.get(name, ())) for name in FACETS]
    rows = store.read(
        f"""
        WITH "found" AS MATERIALIZED (SELECT {columns}, {passes} FROM "call" WHERE {search})
        {counts}
        """,
        [*parameters, *chosen],
    )
    return tuple(_facet(name, [row for row in rows if row["facet"] == name], filter_) for name in FACETS)


def _counted(facet: str) -> str:
    """The most frequent values of a facet, the chosen ones in any case, and how many there are in all."""
    others = " AND ".join(f'"passes_{name}"' for name in FACETS if name != facet)
    return f"""
        SELECT '{facet}' AS "facet", "{facet}" AS "value", count(*) AS "calls",
               count(*) OVER () AS "all_values"
        FROM "found" WHERE "{facet}" IS NOT NULL AND {others}
        GROUP BY "{facet}"
        QUALIFY row_number() OVER (ORDER BY count(*) DESC, "{facet}") <= {FACET_VALUES}
             OR list_contains(?, "{facet}")
        ORDER BY "calls" DESC, "value"
    """


def _facet(name: str, rows: Sequence[Mapping[str, Any]], filter_: Filter) -> Facet:
    values = [FacetValue(row["value"], row["calls"]) for row in rows]
    listed = {one.value for one in values}
    # A chosen value that no call has any more must stay in sight, or nobody could take it back.
    values += [FacetValue(one, 0) for one in filter_.chosen.get(name, ()) if one not in listed]
    return Facet(name, tuple(values), max(0, (rows[0]["all_values"] if rows else 0) - len(rows)))


def _calls(store: Store, query: str, values: list[Any]) -> list[StoredCall]:
    return [StoredCall(**row) for row in store.read(query, values)]
