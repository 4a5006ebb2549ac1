"""Message ids: the recipe in retl/calls/message_id.py, followed once more by hand."""

import hashlib
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import duckdb
import pytest

from retl import sql
from retl.calls.message_id import MessageIdScope
from retl.calls.render import render_calls
from retl.calls.rendering import Rendering
from retl.config.sync import Sync
from retl.engine.mapping import read_mapping
from retl.engine.row_hash import row_hash

USERS = {"identify": {"user_id": "user", "traits": {"plan": "plan"}, "timestamp": "moment"}}
VIPS = {"audience": {"user_id": "user", "name": "VIP"}}


@dataclass(frozen=True)
class Given:
    """A changed row, and all else that its message id could depend on."""

    destination_id: str = "0123456789abcdef" * 2
    sync: str = "users"
    generation: int = 4
    mapping: str = "0123abcd"
    change: str = "added"
    key: str = "ключ:1"
    user: str = "u1"
    plan: str = "pro"
    moment: str | None = "2026-01-02 03:04:05.125"
    detected_at: datetime = datetime(2026, 3, 1, 12, tzinfo=UTC)
    lanes: int = 1


def message_ids(given: Given, block: dict[str, Any] = USERS, user_before: str = "u1") -> list[str]:
    """The message ids of the calls of a row, in the order in which they leave."""
    sync = Sync.model_validate({"name": given.sync, "model": "rows", "primary_key": "key", **block})
    types = {"key": "VARCHAR", "user": "VARCHAR", "plan": "VARCHAR", "moment": "TIMESTAMP"}
    mapping = replace(read_mapping(sync), types=types)
    scope = MessageIdScope(given.destination_id, given.sync, given.generation, given.mapping)
    rendering = Rendering(sync, mapping, mapping, scope, given.detected_at, given.lanes)
    with duckdb.connect() as db:
        before = _row(given.key, user_before, given.plan, None)
        after = _row(given.key, given.user, given.plan, given.moment)
        db.execute(
            f"CREATE TEMP TABLE change AS SELECT $change AS change, $key AS key, "
            f"{before} AS before, {after} AS after, {row_hash(mapping, after)} AS hash",
            {"change": given.change, "key": given.key},
        )
        render_calls(db, rendering)
        return [one for (one,) in db.execute("SELECT message_id FROM call ORDER BY rank").fetchall()]


def _row(key: str, user: str, plan: str, moment: str | None) -> str:
    instant = "NULL::TIMESTAMP" if moment is None else f"TIMESTAMP '{moment}'"
    texts = {"key": key, "user": user, "plan": plan}
    members = [f"{sql.name(name)} := {sql.text(text)}" for name, text in texts.items()]
    return f"struct_pack({', '.join(members)}, moment := {instant})"


def hashed(text: str) -> str:
    """The id that the recipe makes of a text."""
    return "retl-" + hashlib.md5(text.encode()).hexdigest()


def hash_of(*values: str) -> str:
    """DuckDB's hash of a row that is compared in these values."""
    with duckdb.connect() as db:
        return str(db.execute(f"SELECT hash({', '.join(map(sql.text, values))})").fetchall()[0][0])


@pytest.mark.rule("D3")
def test_the_recipe() -> None:
    """The id of a known row is the hash of the text that the recipe says, to the byte."""
    text = (
        "0123456789abcdef0123456789abcdef:users:5:0123abcd:added:added:10:ключ:1:"
        + hash_of("u1", "pro")
        + ":2026-01-02 03:04:05.125"
    )
    assert [hashed(text)] == message_ids(Given())


def test_the_recipe_without_a_timestamp() -> None:
    """A call that takes the moment of detection is hashed without it."""
    text = (
        "0123456789abcdef0123456789abcdef:users:5:0123abcd:changed:changed:10:ключ:1:"
        + hash_of("u1", "pro")
        + ":"
    )
    assert [hashed(text)] == message_ids(Given(change="changed", moment=None))


def test_the_recipe_for_two_calls_of_one_change() -> None:
    """A row that moves to another user leaves as removed and comes as added, with an id for each call."""
    texts = [
        f"0123456789abcdef0123456789abcdef:vips:5:0123abcd:changed:{counts_as}:10:ключ:1:{hash_of('u2')}:"
        for counts_as in ("removed", "added")
    ]
    given = Given(sync="vips", change="changed", user="u2")
    assert [hashed(text) for text in texts] == message_ids(given, VIPS, user_before="u1")


@pytest.mark.rule("D4")
@pytest.mark.parametrize(
    "other",
    [
        {"destination_id": "f" * 32},
        {"sync": "people"},
        {"generation": 5},
        {"mapping": "another"},
        {"change": "changed"},
        {"key": "ключ:2"},
        {"user": "u2"},
        {"plan": "free"},
        {"moment": "2026-01-02 03:04:05.126"},
        {"moment": None},
    ],
    ids=str,
)
def test_each_ingredient_matters(other: dict[str, Any]) -> None:
    """A call that differs in one ingredient has another id."""
    assert message_ids(Given()) != message_ids(replace(Given(), **other))


@pytest.mark.parametrize(
    "other", [{"detected_at": datetime(2026, 3, 1, 13, tzinfo=UTC)}, {"lanes": 7}], ids=["moment", "lanes"]
)
def test_a_run_that_is_made_again_makes_the_same_ids(other: dict[str, Any]) -> None:
    """Neither the moment of detection nor the number of lanes is a part of an id."""
    given = Given(moment=None)
    assert message_ids(given) == message_ids(replace(given, **other))
