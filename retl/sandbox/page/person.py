"""Queries about one user: the calls of a user, the traits that they add up to, and a few figures."""

from dataclasses import dataclass
from datetime import datetime

from retl.sandbox.page.calls import COLUMNS, USER, StoredCall, utc
from retl.sandbox.page.difference import CallDifference, difference, fields_of, read_call, value_text
from retl.sandbox.store import Store

TIMELINE = 50
"""Calls of a timeline."""

USERS = 100
"""Users of a list."""

MERGED = 500
"""Identify calls that are merged to the traits of a user, the newest."""


@dataclass(frozen=True)
class Person:
    """A user's figures.

    Attributes:
        first_at: when the first call that is held arrived.
        last_at: when the newest one did.
        syncs: the syncs that sent calls for the user.
    """

    user: str
    accepted: int
    discarded: int
    duplicates: int
    first_at: datetime
    last_at: datetime
    syncs: tuple[str, ...]


@dataclass(frozen=True)
class User:
    """A line in the list of users.

    Attributes:
        newest: the number of the user's newest call.
        last_at: when that one arrived.
        syncs: the syncs that sent calls for the user.
    """

    user: str
    calls: int
    discarded: int
    newest: int
    last_at: datetime
    syncs: tuple[str, ...]


@dataclass(frozen=True)
class TimelineEntry:
    """A call of a user, and how it differs from the one of its kind before; None where none is held."""

    call: StoredCall
    difference: CallDifference | None


@dataclass(frozen=True)
class Trait:
    """A trait that a user has now.

    Attributes:
        value: as JSON.
        seq: the number of the call that gave it this value.
        at: when that call arrived.
    """

    name: str
    value: str
    seq: int
    at: datetime


def person(store: Store, user: str) -> Person | None:
    """The figures of a user; None where the store holds no call of that user."""
    (found,) = store.read(
        f"""
        SELECT count(*) FILTER ("outcome" = 'accepted') AS "accepted",
               count(*) FILTER ("outcome" = 'discarded') AS "discarded",
               count(*) FILTER ("outcome" = 'duplicate') AS "duplicates",
               {utc('min("received_at")')} AS "first_at", {utc('max("received_at")')} AS "last_at",
               list_sort(list(DISTINCT "sync") FILTER ("sync" IS NOT NULL)) AS "syncs"
        FROM "call" WHERE {USER} = ?
        """,
        [user],
    )
    if found["first_at"] is None:
        return None
    return Person(**{**found, "user": user, "syncs": tuple(found["syncs"] or ())})


def timeline(
    store: Store, user: str, before: int | None = None, limit: int = TIMELINE
) -> list[TimelineEntry]:
    """The newest calls of a user before a place, the newest first, with what each changed."""
    rows = store.read(
        f"""
        SELECT {COLUMNS}, "earlier" FROM (
            SELECT *, last_value(CASE WHEN "outcome" = 'accepted' THEN "body" END IGNORE NULLS) OVER (
                PARTITION BY "type", "event", "group_id", "sync" ORDER BY "seq"
                ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING
            ) AS "earlier"
            FROM "call" WHERE {USER} = ?
        )
        WHERE ? IS NULL OR "seq" < ?
        ORDER BY "seq" DESC LIMIT ?
        """,
        [user, before, before, limit],
    )
    split = [(row.pop("earlier"), row) for row in rows]
    return [TimelineEntry(StoredCall(**row), _between(earlier, row["body"])) for earlier, row in split]


def _between(earlier: str | None, body: str) -> CallDifference | None:
    return None if earlier is None else difference(read_call(earlier), read_call(body))


def traits(store: Store, user: str) -> tuple[Trait, ...]:
    """The traits that the accepted identify calls of a user add up to; null takes one away, as in Segment."""
    rows = store.read(
        f"""
        SELECT "seq", {utc('"received_at"')} AS "at", "body" FROM "call"
        WHERE {USER} = ? AND "type" = 'identify' AND "outcome" = 'accepted'
        ORDER BY "seq" DESC LIMIT ?
        """,
        [user, MERGED],
    )
    merged: dict[str, Trait] = {}
    for row in reversed(rows):
        for name, value in fields_of(read_call(row["body"])).items():
            if value is None:
                merged.pop(name, None)
            elif name not in merged or merged[name].value != value_text(value):
                merged[name] = Trait(name, value_text(value), row["seq"], row["at"])
    return tuple(merged.values())


def users(store: Store, search: str = "", before: int | None = None, limit: int = USERS) -> list[User]:
    """Users whose id has a text in it, the one with the newest call first, from a place on."""
    rows = store.read(
        f"""
        SELECT {USER} AS "user", count(*) AS "calls",
               count(*) FILTER ("outcome" = 'discarded') AS "discarded",
               max("seq") AS "newest", {utc('max("received_at")')} AS "last_at",
               list_sort(list(DISTINCT "sync") FILTER ("sync" IS NOT NULL)) AS "syncs"
        FROM "call" WHERE contains({USER}, ?)
        GROUP BY "user" HAVING ? IS NULL OR max("seq") < ?
        ORDER BY "newest" DESC LIMIT ?
        """,
        [search, before, before, limit],
    )
    return [User(**{**row, "syncs": tuple(row["syncs"] or ())}) for row in rows]
