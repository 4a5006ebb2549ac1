"""The cases in tests/cases/receivers/*.yml: what receivers have against calls and syncs, and make of them.

A file has `about`; `receiver`, whose rules it shows; `settings`, what the customer set there; `calls`, good
calls by name; and `cases`. A case has a `name` that says what must hold, the `rules` of the receiver that it
shows, its own `receiver` and `settings` where they are others, and one of these:

    like      the name of a good call; each mapping in
    found     changes it, by path, to one to which the receiver objects by the rule, and each in
    fine      to one to which it does not; `effect` is the violation's

    like      the name of a good call, or
    call      a call; `with` changes it by path;
    user      and
    events    are what arrives of it, whole; what is not written is not looked at; and of
    requests  each has its url and its whole body; `headers` are those of all, and `nothing` says why nothing
              arrives

    stand_in  the path of a server in the receiver's place, where `headers` and the body that it
    posts     get the
    answer    whole; it knows the `key`, or any where there is none

    sync      a sync's file, less its model; of
    finds     all are found of it by the file alone: a rule and a piece of its sentence, and of
    lacks     no rule is; its calls are `names`, if they are written

    about     paths in the receiver's data file, each with what stands there

A null in a change takes the key away, {value: null} sets a null, and {513} is a text of so many letters.
A case that fixes one side of a contradiction of the documents has its number in `conflict`, and in `why` the
reason.
"""

import copy
import gzip
import json
import re
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from receivers_page import receivers_markdown
from ruamel.yaml import YAML

from retl.checks.static_check import check_file, outlines
from retl.config.project import find_project, load_sync
from retl.receivers.checker import ReceiverChecker
from retl.receivers.compiled_check import MOST_NAMES, CallKind, Violation
from retl.receivers.data_file import Effect, meaning, receiver
from retl.receivers.requests import Rehearsed, requests_of
from retl.receivers.settings import known_receivers, known_rules, known_settings, read_settings
from retl.receivers.translate import translate

FOLDER = Path(__file__).parent / "cases" / "receivers"

UPSERTS = Path(__file__).parent / "fixtures" / "insider_upserts.jsonl.gz"

CONFLICTS = range(1, 25)
"""The contradictions of the documents: with each other, with the code, and between receivers."""


@cache
def loaded() -> list[tuple[str, dict[str, Any], dict[str, Any]]]:
    """Each case with its file's name and head."""
    yaml = YAML(typ="safe", pure=True)
    files = {path.stem: yaml.load(path) for path in sorted(FOLDER.glob("*.yml"))}
    return [
        (stem, file, {"receiver": file.get("receiver"), **case})
        for stem, file in files.items()
        for case in file["cases"]
    ]


def cases(*kinds: str) -> list[Any]:
    """The cases that have one of these keys, named by their file and what must hold."""
    return [
        pytest.param(file, case, id=f"{stem}: {case['name']}")
        for stem, file, case in loaded()
        if any(kind in case for kind in kinds)
    ]


def call_of(file: Mapping[str, Any], case: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """The call of a case, with changes by path."""
    call: dict[str, Any] = copy.deepcopy(case["call"] if "call" in case else file["calls"][case["like"]])
    for path, value in {**case.get("with", {}), **changes}.items():
        *outer, last = (int(key) if key.isdigit() else key for key in path.split("."))
        node: Any = call
        for key in outer:
            node = node[key] if isinstance(node, list) else node.setdefault(key, {})
        if value is None:
            del node[last]
        else:
            node[last] = written(value)
    return call


def written(value: Any) -> Any:
    """The value of a change, with nulls and long texts written out."""
    if value == {"value": None}:
        return None
    if isinstance(value, dict):
        return {key: written(one) for key, one in value.items()}
    letters = re.fullmatch(r"\{(\d+)\}", value) if isinstance(value, str) else None
    return "x" * int(letters[1]) if letters else value


def settings_of(file: Mapping[str, Any], case: Mapping[str, Any]) -> Any:
    """What the customer set at the case's receiver."""
    return read_settings(case["receiver"], case.get("settings", file.get("settings", {})))


def broken(file: Mapping[str, Any], case: Mapping[str, Any], call: Mapping[str, Any]) -> Sequence[Violation]:
    """The rules of the receiver that a call breaks."""
    checker = ReceiverChecker({case["receiver"]: settings_of(file, case)})
    return checker.violations(CallKind(call["type"], call.get("event")), call, len(json.dumps(call)))


def violations(
    file: Mapping[str, Any], case: Mapping[str, Any], call: Mapping[str, Any]
) -> set[tuple[str, str]]:
    """The rules of the receiver that a call breaks, with their effects."""
    return {(one.rule, one.effect.value) for one in broken(file, case, call)}


def rehearsed(file: Mapping[str, Any], case: Mapping[str, Any]) -> Rehearsed:
    """What the call of a case comes to at its receiver."""
    call = call_of(file, case, {})
    about, settings = receiver(case["receiver"]), settings_of(file, case)
    return requests_of(about, settings, call, broken(file, case, call))


@pytest.mark.parametrize(("file", "case"), cases("found", "fine"))
def test_calls(file: dict[str, Any], case: dict[str, Any]) -> None:
    """A receiver objects to a call by the rule that it breaks, and to no other."""
    (rule,), effect = case["rules"], case.get("effect", "refused")
    for changes in case.get("found", ()):
        assert (rule, effect) in violations(file, case, call_of(file, case, changes)), changes
    for changes in case.get("fine", ()):
        assert (rule, effect) not in violations(file, case, call_of(file, case, changes)), changes


@pytest.mark.parametrize(("file", "case"), cases("user", "events"))
def test_arrivals(file: dict[str, Any], case: dict[str, Any]) -> None:
    """A receiver makes of a call what its case says."""
    view = translate(receiver(case["receiver"]), settings_of(file, case), call_of(file, case, {}))

    assert spelled(case.get("user", view.user)) == spelled(view.user)
    assert spelled(case.get("events", view.events)) == spelled(list(view.events))


@pytest.mark.rule("B15")
@pytest.mark.parametrize(("file", "case"), cases("requests"))
def test_requests(file: dict[str, Any], case: dict[str, Any]) -> None:
    """The requests that reach a receiver are those of its case, or there is a reason why nothing arrives."""
    found = rehearsed(file, case)

    sent = [{"url": one.url, "body": one.body} for one in found.requests]
    assert spelled(case["requests"]) == spelled(sent)
    assert case.get("nothing") == found.why_nothing
    if "headers" in case:
        assert case["headers"] == found.requests[0].headers


@pytest.mark.rule("B15")
def test_upserts_are_those_of_segments_code() -> None:
    """Of calls at random, with values of all types, Insider gets the upserts that Segment's own code makes.

    The file has the body for each call, or null where the code refuses it: action-destinations 3.497.0, with
    the mappings that it proposes.
    """
    settings = read_settings("insider", {})
    checker = ReceiverChecker({"insider": settings})
    with gzip.open(UPSERTS, "rt", encoding="utf-8") as lines:
        known = [json.loads(line) for line in lines]

    made = []
    for one in known:
        call = one["call"]
        found = checker.violations(CallKind(call["type"], call.get("event")), call, len(json.dumps(call)))
        sent = requests_of(receiver("insider"), settings, call, found).requests
        made.append({"call": call, "upsert": sent[0].body if sent else None})

    assert 500 == len(known)
    assert [spelled(one) for one in known] == [spelled(one) for one in made]


@pytest.mark.parametrize(("file", "case"), cases("posts"))
def test_answers(file: dict[str, Any], case: dict[str, Any]) -> None:
    """A server in a receiver's place answers as the receiver documents it."""
    (route,) = (one for one in receiver(case["receiver"]).stand_in if one.path == case["stand_in"])

    answer = route.answer(case["headers"], case["posts"], case.get("key"))

    assert spelled(case["answer"]) == spelled(answer._asdict())


def insiders_answer(file: Mapping[str, Any], case: Mapping[str, Any], changes: Mapping[str, Any]) -> Any:
    """The answer to the upsert of a case's call with changes; None where no request leaves."""
    call = call_of(file, case, changes)
    sent = requests_of(receiver("insider"), settings_of(file, case), call, broken(file, case, call)).requests
    (route,) = receiver("insider").stand_in
    headers = {"x-partner-name": "mybrand", "x-request-token": "key"}
    return route.answer(headers, sent[0].body).body["data"] if sent else None


REFUSED_BY_INSIDER = [
    one
    for one in cases("found")
    for case in [one.values[1]]
    if (case["receiver"], case.get("effect", "refused")) == ("insider", "refused")
    and "I6" not in case["rules"]
]
"""Calls that Insider refuses; of an empty list of products comes an upsert without events, which is taken."""


@pytest.mark.parametrize(("file", "case"), REFUSED_BY_INSIDER)
def test_refused_calls_are_turned_down(file: dict[str, Any], case: dict[str, Any]) -> None:
    """A call that a rule of Insider refuses makes no request, or its stand-in finds a fault."""
    for changes in case["found"]:
        answer = insiders_answer(file, case, changes)
        assert answer is None or answer["fail"], changes


@pytest.mark.parametrize("name", ["user", "order", "cart", "view", "plan"])
def test_good_calls_are_taken(name: str) -> None:
    """The upsert of a good call is taken by Insider's stand-in."""
    file = next(file for stem, file, _ in loaded() if stem == "insider")

    answer = insiders_answer(file, {"receiver": "insider", "like": name}, {})

    assert {"successful": {"count": 1}, "fail": {}} == answer


def spelled(value: Any) -> str:
    """A value as text, in which 1, 1.0 and true differ and the order of keys does not show."""
    return json.dumps(value, sort_keys=True, ensure_ascii=False)


@pytest.mark.parametrize(("file", "case"), cases("sync"))
def test_syncs(file: dict[str, Any], case: dict[str, Any], tmp_path: Path) -> None:
    """The file of a sync alone tells what its case says."""
    path = tmp_path / "sync.yml"
    path.write_text(json.dumps({"sql": "SELECT 1", "primary_key": "id", **case["sync"]}), encoding="utf-8")
    sync = load_sync(path, find_project(path, {}))

    found = [one.violation for one in check_file(sync, {case["receiver"]: settings_of(file, case)})]

    for rule, sentence in case.get("finds", {}).items():
        assert [one for one in found if one.rule == rule and sentence in one.says], (rule, found)
    assert set() == {one.rule for one in found}.intersection(case.get("lacks", ()))
    assert case.get("names", []) in ([], [outline.name for outline in outlines(sync)])


@pytest.mark.parametrize(("file", "case"), cases("about"))
def test_data(file: dict[str, Any], case: dict[str, Any]) -> None:
    """A receiver's data file says what its case says."""
    data = receiver(case["receiver"]).model_dump(by_alias=True)
    for path, expected in case["about"].items():
        found = data
        for key in path.split("/"):
            found = found[key]
        assert spelled(expected) == spelled(found), path


RULES = [pytest.param(name, rule, id=rule) for name in known_receivers() for rule in receiver(name).rules]


@pytest.mark.parametrize(("name", "rule"), RULES)
def test_every_rule_has_its_cases(name: str, rule: str) -> None:
    """Each rule has a case, and one that finds something has one where it does and one where it does not."""
    mine = [case for _, _, case in loaded() if case["receiver"] == name and rule in case["rules"]]
    found = [case for case in mine if case.get("found") or rule in case.get("finds", {})]
    fine = [case for case in mine if case.get("fine") or rule in case.get("lacks", ())]

    assert mine
    about = receiver(name)
    if rule in about.cited or any(check.effect is not Effect.NOTE for check in about.rules[rule].checks):
        assert found
        assert fine


def test_the_page_is_made_of_the_data_files() -> None:
    """docs/receivers.md is what `make docs` writes."""
    page = Path(__file__).parent.parent / "docs" / "receivers.md"

    assert receivers_markdown() == page.read_text(encoding="utf-8")


def test_no_case_names_a_rule_that_is_not_there() -> None:
    """The rules of all cases are rules of their receivers."""
    assert [] == [
        (case["receiver"], rule)
        for _, _, case in loaded()
        for rule in case["rules"]
        if rule not in receiver(case["receiver"]).rules
    ]


@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("insider_I14", "Insider: `email` is no email address; or `phone` is not in E.164"),
        ("insider_I16", "Insider: a value is neither true nor false"),
        ("insider_I99", "a receiver's rule that this version does not have"),
        ("another_X1", "a receiver's rule that this version does not have"),
    ],
)
def test_a_code_says_what_was_wrong(code: str, says: str) -> None:
    """The reason code of a rejected row stands for what its rule refuses, also where the rule is gone."""
    assert says == meaning(code)


@pytest.mark.thorough
def test_one_misspelt_event_does_not_stand_for_others() -> None:
    """However many names of events there are, what is said of a misspelt one is said of it alone."""
    checker = ReceiverChecker({"insider": read_settings("insider", {})})

    def rules(event: str) -> set[str]:
        call = {"type": "track", "userId": "u1", "event": event}
        return {one.rule for one in checker.violations(CallKind("track", event), call, 100)}

    for number in range(MOST_NAMES):
        assert {"I3"} == rules("Product Viewed" + "!" * (number + 1)) - {"I18"}
    rules("Product View")

    assert set() == rules("Something Else")


def test_every_conflict_is_decided() -> None:
    """Each contradiction of the documents has a case that says on which side retl is, and why."""
    decided = [case for _, _, case in loaded() if "conflict" in case]

    assert {case["conflict"] for case in decided} == set(CONFLICTS)
    assert [] == [case["name"] for case in decided if not re.search(r"\w+ \w+", case["why"])]


@pytest.mark.parametrize("name", known_receivers())
def test_the_lines_about_settings_say_what_the_whole_file_does(name: str) -> None:
    """Settings and rules that are read from a part of a data file are those of the whole file."""
    assert receiver(name).settings == known_settings(name)
    assert list(receiver(name).rules) == known_rules(name)


@pytest.mark.parametrize("name", known_receivers())
def test_ids_are_in_order(name: str) -> None:
    """The rules of a receiver are numbered without a gap, under a letter of its own."""
    rules = list(receiver(name).rules)
    letter = rules[0][0]

    assert [f"{letter}{number}" for number in range(1, len(rules) + 1)] == rules
