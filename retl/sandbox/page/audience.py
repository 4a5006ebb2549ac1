"""Queries about audiences: who is in, and who left.

A call may say so in three ways: as the events Segment Entered and Segment Exited, which name the audience in
`segment_name`; as Audience Entered and Audience Exited, which have `audience_key`; or as a trait of identify
calls that is true or false.
"""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from retl.sandbox.page.calls import USER, utc
from retl.sandbox.store import Store

MEMBERS = 100
"""Members of a list."""

LOOKED_AT = 2_000
"""Identify calls, the newest, in which traits that are true or false are looked for."""

MOST_TRAITS = 20
"""Such traits that are listed."""


class Style(StrEnum):
    """How calls say who is in."""

    SEGMENT = "segment"
    AUDIENCE = "audience"
    TRAIT = "trait"

    @property
    def words(self) -> str:
        """The style as a table shows it."""
        return {
            Style.SEGMENT: "Segment Entered, Segment Exited",
            Style.AUDIENCE: "Audience Entered, Audience Exited",
            Style.TRAIT: "trait of identify: true, false",
        }[self]


@dataclass(frozen=True)
class AudienceFigures:
    """How many users are in an audience, and how many left.

    Attributes:
        left: users who were in and are not any more.
        moved_at: when the last one came or went.
    """

    style: Style
    name: str
    members: int
    left: int
    moved_at: datetime


@dataclass(frozen=True)
class Member:
    """A user who is in an audience, or left it.

    Attributes:
        seq: the number of the call that said so.
        at: when it arrived.
    """

    user: str
    seq: int
    at: datetime


@dataclass(frozen=True)
class Membership:
    """An audience that a user is in, or left.

    Attributes:
        seq: the number of the call that said so.
        at: when it arrived.
    """

    style: Style
    name: str
    is_in: bool
    seq: int
    at: datetime


# Each gives "user", "seq", "received_at" and "is_in" for an audience; of traits only the calls in which the
# value differs from the one before count, so that "seq" is the call that moved the user.
_BY_EVENT = f"""
    SELECT {USER} AS "user", "seq", "received_at", "event" LIKE '% Entered' AS "is_in"
    FROM "call"
    WHERE "outcome" = 'accepted' AND "type" = 'track' AND "event" IN (?, ?)
      AND ("body" ->> ?) = ?
"""
_BY_TRAIT = f"""
    SELECT "user", "seq", "received_at", "is_in" FROM (
        SELECT {USER} AS "user", "seq", "received_at", ("body" ->> ?) = 'true' AS "is_in",
               lag("is_in") OVER (PARTITION BY "user" ORDER BY "seq") AS "was_in"
        FROM "call"
        WHERE "outcome" = 'accepted' AND "type" = 'identify' AND json_type("body", ?) = 'BOOLEAN'
    )
    WHERE "is_in" IS DISTINCT FROM coalesce("was_in", false)
"""
_EVENTS = {
    Style.SEGMENT: ("Segment Entered", "Segment Exited", "$.properties.segment_name"),
    Style.AUDIENCE: ("Audience Entered", "Audience Exited", "$.properties.audience_key"),
}


def audiences(store: Store) -> list[AudienceFigures]:
    """All audiences that calls speak of, by name; those of traits last."""
    found = [one for style in _EVENTS for one in _of_events(store, style)]
    return found + [one for name in _boolean_traits(store) for one in _of_trait(store, name)]


def members(
    store: Store,
    style: Style,
    name: str,
    are_in: bool,
    before: int | None = None,
    search: str = "",
) -> list[Member]:
    """The users who are in an audience, or who left it: the last one who moved first, from a place on."""
    moves, parameters = _moves(style, name)
    rows = store.read(
        f"""
        SELECT "user", max("seq") AS "seq", {utc('max("received_at")')} AS "at"
        FROM ({moves}) WHERE "user" IS NOT NULL AND contains("user", ?)
        GROUP BY "user"
        HAVING arg_max("is_in", "seq") = ? AND (? IS NULL OR max("seq") < ?)
        ORDER BY "seq" DESC LIMIT {MEMBERS}
        """,
        [*parameters, search, are_in, before, before],
    )
    return [Member(**row) for row in rows]


def audience(store: Store, style: Style, name: str) -> AudienceFigures | None:
    """One audience; None where no call speaks of it."""
    moves, parameters = _moves(style, name)
    (found,) = store.read(
        f"""
        SELECT count(*) FILTER ("is_in") AS "members", count(*) FILTER (NOT "is_in") AS "left",
               {utc('max("at")')} AS "moved_at"
        FROM (SELECT arg_max("is_in", "seq") AS "is_in", max("received_at") AS "at" FROM ({moves})
              WHERE "user" IS NOT NULL GROUP BY "user")
        """,
        parameters,
    )
    return None if found["moved_at"] is None else AudienceFigures(style, name, **found)


def audiences_of(store: Store, user: str) -> list[Membership]:
    """The audiences that a user came to or left by an event: by name."""
    rows = store.read(
        f"""
        SELECT CASE WHEN "event" LIKE 'Segment %' THEN 'segment' ELSE 'audience' END AS "style",
               CASE WHEN "event" LIKE 'Segment %' THEN "body" ->> '$.properties.segment_name'
                    ELSE "body" ->> '$.properties.audience_key' END AS "name",
               arg_max("event" LIKE '% Entered', "seq") AS "is_in", max("seq") AS "seq",
               {utc('max("received_at")')} AS "at"
        FROM "call"
        WHERE {USER} = ? AND "outcome" = 'accepted' AND "type" = 'track'
          AND "event" IN ('Segment Entered', 'Segment Exited', 'Audience Entered', 'Audience Exited')
        GROUP BY "style", "name" HAVING "name" IS NOT NULL ORDER BY "name" LIMIT {MEMBERS}
        """,
        [user],
    )
    return [Membership(Style(row["style"]), row["name"], row["is_in"], row["seq"], row["at"]) for row in rows]


def _of_events(store: Store, style: Style) -> list[AudienceFigures]:
    entered, exited, path = _EVENTS[style]
    rows = store.read(
        f"""
        SELECT "name", count(*) FILTER ("is_in") AS "members", count(*) FILTER (NOT "is_in") AS "left",
               {utc('max("at")')} AS "moved_at"
        FROM (
            SELECT "body" ->> ? AS "name", {USER} AS "user",
                   arg_max("event" = ?, "seq") AS "is_in", max("received_at") AS "at"
            FROM "call"
            WHERE "outcome" = 'accepted' AND "type" = 'track' AND "event" IN (?, ?)
            GROUP BY "name", "user"
        )
        WHERE "name" IS NOT NULL AND "user" IS NOT NULL
        GROUP BY "name" ORDER BY "name" LIMIT {MEMBERS}
        """,
        [path, entered, entered, exited],
    )
    return [AudienceFigures(style, **row) for row in rows]


def _boolean_traits(store: Store) -> list[str]:
    rows = store.read(
        f"""
        WITH "newest" AS (
            SELECT "body" FROM "call" WHERE "type" = 'identify' AND "outcome" = 'accepted'
            ORDER BY "seq" DESC LIMIT {LOOKED_AT}
        ),
        "trait" AS (SELECT unnest(json_keys("body", '$.traits')) AS "name", "body" FROM "newest")
        SELECT DISTINCT "name" FROM "trait"
        WHERE json_type("body", '$.traits."' || "name" || '"') = 'BOOLEAN' AND NOT contains("name", '"')
        ORDER BY "name" LIMIT {MOST_TRAITS}
        """
    )
    return [row["name"] for row in rows]


def _of_trait(store: Store, name: str) -> list[AudienceFigures]:
    found = audience(store, Style.TRAIT, name)
    return [found] if found else []


def _moves(style: Style, name: str) -> tuple[str, list[Any]]:
    if style is Style.TRAIT:
        # A name with a quotation mark cannot be in a path; it is then of no audience.
        path = f'$.traits."{name}"' if '"' not in name else "$.none"
        return _BY_TRAIT, [path, path]
    entered, exited, path = _EVENTS[style]
    return _BY_EVENT, [entered, exited, path, name]
