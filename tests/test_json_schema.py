"""The JSON Schemas of the sync file and of retl.yml say of a file what the program says."""

import copy
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
from harness import read_yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from ruamel.yaml import YAML
from test_sync import BAD, EXAMPLES

from retl.config.json_schema import project_schema, sync_schema
from retl.config.project import find_project, load_sync
from retl.errors import ConfigError

ROOT = Path(__file__).parent.parent
MANY = int(os.environ.get("RETL_TEST_EXAMPLES", "40")) * 2

ONLY_THE_PROGRAM_KNOWS = {
    "the environment": r"is not set",
    "what retl.yml may add": r"needs either `private_key`|`\w+` is missing",
    "names that have to do with each other": "cannot hold|is the same name as|message id of an earlier call"
    "|retl sends `|stands here twice",
    "whether digits and colons are an address": r"must be a URL",
}
"""Reasons for which the program refuses a file that fits the schema, and words of its messages."""

SYNC = jsonschema_rs.validator_for(sync_schema())
PROJECT = jsonschema_rs.validator_for(project_schema())

TRACK: dict[str, Any] = {
    "model": "users",
    "primary_key": ["id"],
    "track": {
        "user_id": "id",
        "added": {"event": "Signed Up", "timestamp": {"column": "at", "as": "timestamp", "unit": "ms"}},
        "changed": {"event": {"column": "name"}, "previous": True, "properties": {"plan": "plan"}},
        "removed": "Gone",
        "properties": {"email": "email", "address.city": {"column": "city", "nulls": "omit"}},
        "context": {"traits.email": {"value": [1, 2.5, None, True, {"a": "b"}]}},
        "integrations": {"All": True, "Braze": {"column": "on"}, "Insider": {"x": {"value": {"column": 1}}}},
        "timestamp": "at",
    },
    "initial": "skip",
    "guards": {"removed": "20%", "changed": 500, "added": "off", "min_rows": "${MIN:-1}"},
    "timezone": "Europe/Berlin",
    "allow_ids": ["0", 1],
    "keep": "30d",
    "receivers": {"insider": {"mode": "warn", "ignore": ["I9"], "language": "language"}, "miso": {}},
    "segment": {
        "endpoint": "http://127.0.0.1:8765/x",
        "name": "${NAME:-shop}",
        "events_per_second": "${EPS:-100}",
        "gzip": False,
        "oauth": {
            "client_id": "a",
            "key_id": "b",
            "private_key": "${KEY}",
            "auth_server": "https://a.example",
        },
    },
}
IDENTIFY: dict[str, Any] = {
    "sql": "SELECT 1 AS id, '${A:-b}' AS email",
    "primary_key": "id",
    "identify": {
        "anonymous_id": "id",
        "traits": "all",
        "except": ["x"],
        "removed": {"traits": {"gone": {"value": None}}},
    },
    "nulls": "clear",
    "on_new_column": "baseline",
    "compare": ["email"],
    "warehouse": "duckdb://",
}
AUDIENCE: dict[str, Any] = {
    "model": "a/b",
    "primary_key": "id",
    "audience": {
        "user_id": "id",
        "name": "VIP",
        "style": "engage",
        "key": "vip",
        "properties": {"tier": "tier"},
    },
    "on_rejected": "warn",
    "initial": "send",
}
GROUP: dict[str, Any] = {"model": "m", "primary_key": "id", "group": {"group_id": "id", "user_id": "owner"}}

PIECES: list[Any] = [
    *(
        None,
        True,
        False,
        0,
        1,
        -1,
        64,
        65,
        500.0,
        0.5,
        10**12,
        10**13,
        "",
        " ",
        "a",
        "all",
        "*",
        "off",
        "true",
        " 5 ",
    ),
    *(
        "20%",
        "20.5 %",
        "30d",
        "0d",
        "engage",
        "hightouch",
        "track",
        "UTC",
        "Mars",
        "json",
        "timestamp",
        "ms",
        "clear",
    ),
    *(
        "${EPS:-100}",
        "${A:-true}",
        "${A:-timestamp}",
        "${A:-all}",
        "$${A}",
        "${",
        "${1}",
        "$$${A:-b}",
        "a${B:-c}d",
    ),
    *(
        "http://a.b:80/x",
        "http://",
        "HTTPS://[::1]:8080",
        "http://a b",
        "http://u@a",
        "http://a?b",
        "file:x.ndjson",
    ),
    *(
        "file:",
        "file://x",
        "ftp://a",
        "http://a:0",
        "http://a:99999",
        "con",
        "a.b",
        "..",
        "a/b",
        "/a",
        "a//b",
        "ü",
    ),
    *("x" * 101, "a\\.b", "\\", "a\nb", "\u200b", "previous", "segment_name", "audience_key.x"),
    *(
        [],
        {},
        ["id"],
        ["id", "id"],
        [1],
        [None],
        {"column": "a"},
        {"value": 1},
        {"value": None},
        {"column": None},
    ),
    *(
        {"column": "a", "value": 1},
        {"column": "a", "as": "timestamp", "unit": "s"},
        {"column": "a", "unit": "s"},
    ),
    *(
        {"event": "E", "previous": True},
        {"event": "E", "previous": "false"},
        {"event": {"name": "a", "column": "b"}},
    ),
    *(
        {"a": "b"},
        {"a.b": "c"},
        {"a..b": "c"},
        {".": "c"},
        {"*": "c"},
        {"previous.x": "c"},
        {"a": {"value": "x"}},
    ),
    *(
        {"traits": {}},
        {"a": {"column": "c", "as": "json"}},
        {"a": {"b": {"column": 1}}},
        {"a": {"value": {"column": 1}}},
    ),
]
KEYS = [
    *(
        "model",
        "sql",
        "table",
        "track",
        "audience",
        "identify",
        "group",
        "initial",
        "name",
        "key",
        "style",
        "column",
        "value",
    ),
    *(
        "as",
        "unit",
        "nulls",
        "except",
        "removed",
        "added",
        "changed",
        "timestamp",
        "message_id",
        "properties",
        "traits",
    ),
    *(
        "user_id",
        "anonymous_id",
        "previous",
        "notify",
        "schedule",
        "x",
        "private_key_file",
        "mode",
        "ignore",
        "a.b",
    ),
]
DOCUMENTS = [TRACK, IDENTIFY, AUDIENCE, GROUP]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project without retl.yml."""
    folder = tmp_path_factory.mktemp("project")
    (folder / "syncs").mkdir()
    return folder


def refusal(folder: Path, text: str) -> str | None:
    """The program's words against a sync file; None where it takes it."""
    path = folder / "syncs/users.yml"
    path.write_text(text, encoding="utf-8")
    try:
        load_sync(path, find_project(path, {}))
    except ConfigError as error:
        return str(error)
    return None


def refusal_of_project(folder: Path, text: str) -> str | None:
    """The program's words against a retl.yml; None where it takes it."""
    path = folder / "retl.yml"
    path.write_text(text, encoding="utf-8")
    try:
        find_project(folder, {})
    except ConfigError as error:
        return str(error)
    finally:
        path.unlink()
    return None


def compare(document: Any, schema: Any, words: str | None) -> None:
    """See that the schema and the program agree, or that the reason is one that only the program can know."""
    said = next(schema.iter_errors(document), None)
    if words is None:
        assert said is None, f"the program takes {json.dumps(document)}, but: {said}"
    elif said is None and schema.is_valid(filled(document)):
        reasons = "|".join(ONLY_THE_PROGRAM_KNOWS.values())
        assert re.search(reasons, words), f"the schema takes {json.dumps(document)}, but: {words}"


def filled(value: Any) -> Any:
    """A document in which variables have their defaults, as the program reads it."""
    if isinstance(value, dict):
        return {key: filled(one) for key, one in value.items()}
    if isinstance(value, list):
        return [filled(one) for one in value]
    return re.sub(r"(?<!\$)\$\{\w+:-([^}]*)\}", r"\1", value) if isinstance(value, str) else value


def places(document: Any, outer: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """All places in a document."""
    yield outer
    inner = (
        document.items()
        if isinstance(document, dict)
        else enumerate(document)
        if isinstance(document, list)
        else []
    )
    for key, value in inner:
        yield from places(value, (*outer, key))


@st.composite
def edited(draw: st.DrawFn) -> Any:
    """A document in which something is put in place of something else, taken out, or added."""
    document = copy.deepcopy(draw(st.sampled_from(DOCUMENTS)))
    for _ in range(draw(st.integers(0, 3))):
        *outer, last = draw(st.sampled_from([place for place in places(document) if place]))
        around = document
        for key in outer:
            around = around[key]
        action = draw(st.sampled_from(["replace", "remove", "add"]))
        if action == "remove":
            del around[last]
        elif action == "add" and isinstance(around, dict):
            around[draw(st.sampled_from(KEYS))] = copy.deepcopy(draw(st.sampled_from(PIECES)))
        else:
            around[last] = copy.deepcopy(draw(st.sampled_from(PIECES)))
    return document


@pytest.mark.thorough
@given(document=edited())
@settings(max_examples=MANY, deadline=None)
def test_schema_and_program_agree_about_syncs(folder: Path, document: Any) -> None:
    """A sync file that the program takes fits the schema, and one that it refuses does not."""
    compare(document, SYNC, refusal(folder, json.dumps(document)))


@given(document=edited())
@settings(max_examples=MANY // 2, deadline=None)
def test_schema_and_program_agree_about_projects(folder: Path, document: Any) -> None:
    """The same of a retl.yml."""
    kept = ("warehouse", "segment", "guards", "timezone", "keep", "receivers", "x", "notify")
    document = {key: value for key, value in document.items() if key in kept} | {"timezone": "UTC"}
    compare(document, PROJECT, refusal_of_project(folder, json.dumps(document)))


@pytest.mark.slow
@pytest.mark.parametrize("nth", range(len(PIECES)), ids=lambda nth: repr(PIECES[nth]))
@pytest.mark.parametrize("number", range(len(DOCUMENTS)))
def test_each_value_in_places_all_over(folder: Path, number: int, nth: int) -> None:
    """Each of many values, in a third of all places, is taken by both or refused by both."""
    for place in list(places(DOCUMENTS[number]))[nth % 3 :: 3]:
        if place:
            document = copy.deepcopy(DOCUMENTS[number])
            around = document
            for key in place[:-1]:
                around = around[key]
            around[place[-1]] = PIECES[nth]
            compare(document, SYNC, refusal(folder, json.dumps(document)))


def documents_of(cases: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The sync files of a file of cases: its own, and that of each case and each run over it."""
    base = {"model": "rows", **cases.get("sync", {})}
    for case in cases["cases"]:
        own = case.get("sync", {})
        yield base | own
        for run in case.get("runs", []):
            yield base | own | run.get("sync", {})


@pytest.mark.parametrize("path", sorted((ROOT / "tests/cases").glob("*.yml")), ids=lambda path: path.stem)
def test_the_syncs_of_all_cases(folder: Path, path: Path) -> None:
    """The schema and the program agree about each sync that the cases run."""
    for document in documents_of(read_yaml(path)):
        compare(document, SYNC, refusal(folder, json.dumps(document, default=str)))


@pytest.mark.parametrize(
    "text", [*EXAMPLES, *(path.read_text("utf-8") for path in (ROOT / "syncs").glob("*.yml"))]
)
def test_examples_fit(text: str) -> None:
    """The examples of docs and of the repository fit the schema."""
    assert SYNC.is_valid(as_json(text))


@pytest.mark.parametrize(("text", "message"), BAD)
def test_what_the_program_refuses(folder: Path, text: str, message: str) -> None:
    """Files that are refused for what they say do not fit the schema, either."""
    try:
        document = as_json(text)
    except Exception:
        return  # no YAML, or not such as both read alike
    compare(document, SYNC, message)


def as_json(text: str) -> Any:
    """A YAML file as an editor reads it: dates are text."""
    return json.loads(json.dumps(YAML(typ="safe", pure=True).load(text), default=str))


@pytest.mark.parametrize(
    ("edit", "takes"),
    [
        ({"segment": {"events_per_second": "${EPS:-100}"}}, True),
        ({"guards": {"min_rows": "${MIN:-1}"}}, True),
        ({"model": None}, False),
        ({"sql": "SELECT 1"}, False),
        ({"table": "users"}, False),
        ({"model": None, "table": "analytics.users"}, True),
        ({"model": None, "table": 'analytics."Order Items"'}, True),
        ({"model": None, "table": "SELECT 1"}, False),
        ({"identify": {"traits": {"a": "a"}}}, False),
        ({"identify": None, "track": {"user_id": "id"}}, False),
        ({"identify": {"user_id": "id", "traits": {"a": {"column": "a", "value": 1}}}}, False),
        ({"initial": "send"}, False),
        ({"notify": [{"webhook": "${HOOK}", "on": ["failed"], "rejected": "1%"}]}, True),
        ({"notify": [{"webhook": "a", "apprise": "b"}]}, False),
        ({"notify": [{"on": ["failed"]}]}, False),
        ({"notify": [{"apprise": "a", "on": ["broken"]}]}, False),
        ({"notify": {"webhook": "a"}}, False),
        ({"track": {"user_id": "id", "added": "A"}}, False),
    ],
)
def test_what_a_schema_is_for(folder: Path, edit: dict[str, Any], takes: bool) -> None:
    """The mistakes that people make are found as they type, and variables may stand for numbers."""
    document = {"model": "m", "primary_key": "id", "identify": {"user_id": "id"}} | edit
    document = {key: value for key, value in document.items() if value is not None}

    assert takes is SYNC.is_valid(document)
    assert takes is (refusal(folder, json.dumps(document)) is None)


def test_patterns_are_those_of_editors() -> None:
    """Editors read patterns as JavaScript does with Unicode, which refuses an escape that is not needed."""
    text = json.dumps([sync_schema(), project_schema()])
    patterns = {json.loads(found) for found in re.findall(r'"pattern": ("(?:[^"\\]|\\.)*")', text)}

    assert len(patterns) > 10
    assert set() == {sign for one in patterns for sign in re.findall(r"\\(.)", one)} - set(".\\/$[]{}()|spSC")


def test_no_description_has_a_link() -> None:
    """An editor shows descriptions as they are, far from the pages that links lead to."""
    assert "](" not in json.dumps([sync_schema(), project_schema()])


def test_every_key_is_described() -> None:
    """Each key that a user may write has a sentence, which an editor shows."""
    found: dict[str, Any] = {}

    def collect(schema: Any) -> None:
        if isinstance(schema, dict):
            if schema.get("additionalProperties") is False:
                found.update(schema.get("properties", {}))
            for inner in schema.values():
                collect(inner)
        elif isinstance(schema, list):
            for inner in schema:
                collect(inner)

    for schema in (sync_schema(), project_schema()):
        collect(schema)
    assert {"as", "value", "write_key", "primary_key", "optins"} <= found.keys()
    receivers = {"insider", "miso", "suprsend", "datafly"}
    dull = [key for key, one in found.items() if not one.get("description", "").endswith((".", ".)"))]
    assert set() == set(dull) - receivers
