"""What `retl check` and `retl explain` tell of calls before they are sent."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from harness import Retl, runner

ROOT = Path(__file__).parent.parent

ORDERS = """\
model: orders
primary_key: order_id
track:
  user_id: user_id
  added: Order Completed
  changed: Order Updated
  removed: Order Cancelled!
  properties: {order_id: order_id, currency: currency, total: total, products: {column: products, as: json}}
"""

ORDERS_SQL = """\
SELECT * FROM (VALUES
    ('o-1', 'u1', 'EUR', 12.5, '[{"product_id": "p-1", "price": 12.5, "quantity": 1}]'),
    ('o-2', 'u2', 'eur', 20.0, '[{"product_id": 7, "price": "free", "quantity": 1}]'),
    ('o-3', 'u3', NULL, 7.0, '[]'),
    ('o-4', 'secret-user', 'EUR', 7.0, '[{"product_id": "secret-product", "price": "secret", "quantity": 1}]')
) AS orders(order_id, user_id, currency, total, products)
"""

PLAN = {
    "data": {
        "rules": [
            {
                "type": "TRACK",
                "key": "Order Completed",
                "version": version,
                "jsonSchema": {
                    "$schema": "http://json-schema.org/draft-07/schema#",
                    "type": "object",
                    "properties": {"properties": {"type": "object", "required": required}},
                },
            }
            for version, required in ((2, ["order_id", "coupon"]), (1, ["order_id", "currency"]))
        ]
    }
}


@pytest.fixture
def retl(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Retl:
    """Runs a command in a project with an orders sync; gives exit code, stdout and stderr."""
    for folder in ("models", "syncs"):
        (tmp_path / folder).mkdir()
    (tmp_path / "models/orders.sql").write_text(ORDERS_SQL)
    (tmp_path / "syncs/orders.yml").write_text(ORDERS)
    (tmp_path / "retl.yml").write_text('warehouse: "duckdb://"\n')
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")
    return runner(capsys)


def checked_sync(retl: Retl, *arguments: str) -> tuple[int, dict[str, Any]]:
    """The exit code and the JSON object of a check of the orders sync."""
    code, out, err = retl("check", "orders", "--json", *arguments)
    assert err == ""
    return code, json.loads(out)


def found(checked: dict[str, Any], *keys: str) -> set[tuple[Any, ...]]:
    """The findings of a check by some of their keys."""
    return {tuple(finding[key] for key in keys) for finding in checked["findings"]}


@pytest.mark.rule("B3", "B5")
def test_each_rule_that_calls_break_is_told_with_rows_and_example(retl: Retl) -> None:
    """A finding has receiver, rule, effect, the call, how many rows break it, and one of their keys."""
    code, checked = checked_sync(retl, "--receiver", "insider,miso")

    assert 1 == code
    assert (4, 12, False) == (checked["rows"], checked["calls"], checked["clean"])
    told = found(checked, "receiver", "rule", "effect", "call", "rows", "example")
    assert {
        ("insider", "I6", "refused", "Order Completed", 1, "o-3"),
        ("insider", "I7", "refused", "Order Completed", 2, "o-2"),
        ("insider", "I9", "doubtful", "Order Completed", 1, "o-3"),
        ("insider", "I20", "doubtful", "Order Completed", 1, "o-2"),
        ("miso", "M4", "doubtful", "Order Completed", 1, "o-2"),
    } <= told
    assert all(finding["do"] for finding in checked["findings"])


@pytest.mark.rule("B3")
def test_calls_of_changed_and_removed_rows_are_looked_at(retl: Retl) -> None:
    """Each row is also taken as changed and as gone, where the sync has an event for that."""
    _, checked = checked_sync(retl, "--receiver", "insider")

    told = found(checked, "rule", "call", "rows")
    assert ("I18", "Order Cancelled!", 4) in told
    assert ("I7", "Order Updated", 2) in told


@pytest.mark.rule("B3")
def test_a_row_counts_once_though_its_calls_are_named_alike(retl: Retl, tmp_path: Path) -> None:
    """Where one event stands for rows that are new, changed and gone, a row that breaks a rule is one row."""
    text = ORDERS.replace("Order Updated", "Order Completed").replace("Order Cancelled!", "Order Completed")
    (tmp_path / "syncs/orders.yml").write_text(text)

    _, checked = checked_sync(retl, "--receiver", "insider")

    assert ("I7", "Order Completed", 2) in found(checked, "rule", "call", "rows")


@pytest.mark.rule("B12")
def test_values_from_before_suit_a_tracking_plan(retl: Retl, tmp_path: Path) -> None:
    """With `previous: true` a row is taken to have had its values before, so that a plan of them holds."""
    fields = {"previous": {"properties": {"total": {"type": "number"}}}}
    rule = {"properties": {"properties": {"properties": fields}}}
    plan = [{"type": "TRACK", "key": name, "jsonSchema": rule} for name in ("A", "C")]
    (tmp_path / "plan.json").write_text(json.dumps(plan))
    (tmp_path / "syncs/orders.yml").write_text(
        "sql: SELECT 'o-1' AS id, 5 AS total\nprimary_key: id\n"
        "track:\n  user_id: id\n  added: A\n  changed: {event: C, previous: true, message_id: id}\n"
        "  properties: {total: total}\n"
    )

    code, checked = checked_sync(retl, "--tracking-plan", "plan.json")

    assert (0, 2, []) == (code, checked["calls"], checked["findings"])


@pytest.mark.rule("B2", "B4")
def test_the_file_alone_is_looked_at_without_a_model(retl: Retl, tmp_path: Path) -> None:
    """With --sample 0 no row is read: the model may be broken, and what the file tells is told."""
    (tmp_path / "models/orders.sql").write_text("SELECT nothing FROM nowhere")

    code, checked = checked_sync(retl, "--receiver", "all", "--sample", "0")

    assert 0 == code
    assert (None, 0) == (checked["rows"], checked["calls"])
    told = found(checked, "receiver", "rule", "call", "rows")
    assert ("miso", "M2", "Order Updated", None) in told
    assert ("insider", "I4", "Order Completed", None) in told
    assert ("insider", "I1", "Order Cancelled!", None) in told


@pytest.mark.thorough
@pytest.mark.rule("B4")
def test_a_sample_is_the_same_each_time(retl: Retl) -> None:
    """--sample N looks at N rows, and at the same ones when it is asked again."""
    first = checked_sync(retl, "--receiver", "insider", "--sample", "2")
    again = checked_sync(retl, "--receiver", "insider", "--sample", "2")

    assert first == again
    assert (2, 6) == (first[1]["rows"], first[1]["calls"])


@pytest.mark.rule("B5")
def test_what_retl_itself_would_reject_is_told_too(retl: Retl, tmp_path: Path) -> None:
    """A row without an id or with a key that others share is a finding, under the code of its rejection."""
    (tmp_path / "models/orders.sql").write_text(
        "SELECT * FROM (VALUES ('o-1', NULL), ('o-2', 'u2'), ('o-2', 'u3')) AS orders(order_id, user_id)"
    )
    (tmp_path / "syncs/orders.yml").write_text(
        "model: orders\nprimary_key: order_id\ntrack: {user_id: user_id, added: Order Viewed}\n"
    )

    code, checked = checked_sync(retl, "--receiver", "suprsend")

    assert 1 == code
    assert {("retl", "no_id", 1, "o-1"), ("retl", "duplicate_key", 2, "o-2")} == found(
        checked, "receiver", "rule", "rows", "example"
    )


@pytest.mark.rule("B1")
def test_nothing_is_sent_and_no_state_is_made(retl: Retl, tmp_path: Path) -> None:
    """After a check and an explanation no state is there, and no write key was asked for."""
    before = sorted(tmp_path.rglob("*"))

    retl("check", "orders", "--receiver", "all")
    assert 0 == retl("explain", "orders", "o-1", "--receiver", "all")[0]

    assert before == [path for path in sorted(tmp_path.rglob("*")) if path.name != "state"]


@pytest.mark.rule("B14")
def test_no_value_of_a_row_is_shown(retl: Retl, tmp_path: Path) -> None:
    """A check prints keys and names of fields, and no value: neither of receivers nor of a tracking plan."""
    fields = {"products": {"type": "string", "pattern": "^x"}}
    rule = {"properties": {"properties": {"properties": fields}}}
    plan = {"rules": [{"type": "TRACK", "key": "Order Completed", "jsonSchema": rule}]}
    (tmp_path / "plan.json").write_text(json.dumps(plan))

    for form in ((), ("--json",)):
        _, out, err = retl("check", "orders", "--receiver", "all", "--tracking-plan", "plan.json", *form)

        assert "o-1" in out
        assert "secret" not in out + err


def test_people_get_the_worst_first_and_what_to_do(retl: Retl) -> None:
    """The report begins with the outcome, then has what is refused, with a line that says what to change."""
    code, out, _ = retl("check", "orders", "--receiver", "insider")
    lines = [line.rstrip() for line in out.splitlines()]

    assert 1 == code
    assert [
        "syncs/orders.yml: track from models/orders.sql",
        "  4 rows, 12 calls, checked by the rules of insider: 10 calls refused",
        "  refused   insider I18  the event's name has a sign that Insider refuses  (`Order Cancelled!`: 4",
        "                         rows; such as o-1)",
        "                         → name it with letters, digits and spaces only",
    ] == lines[:5]


def test_an_unknown_receiver_is_named(retl: Retl) -> None:
    """A receiver that there is none of is an error with the nearest name."""
    code, _, err = retl("check", "orders", "--receiver", "insider,mso")

    assert (2, "error: there is no receiver `mso`; did you mean `miso`?\n") == (code, err)


@pytest.mark.thorough
def test_a_model_that_fails_is_an_error(retl: Retl, tmp_path: Path) -> None:
    """Where the model cannot be read, the check says so and ends with 2; other syncs are still checked."""
    (tmp_path / "syncs/bad.yml").write_text("sql: SELECT x FROM y\nprimary_key: x\nidentify: {user_id: x}\n")

    code, out, err = retl("check", "--receiver", "suprsend")

    assert 2 == code
    assert "error: syncs/bad.yml" in err
    assert "syncs/orders.yml: track" in out
    assert "checked by the rules of suprsend" in out

    _, out, _ = retl("check", "--receiver", "suprsend", "--json")

    assert ["bad", "orders"] == [json.loads(line)["sync"] for line in out.splitlines()]
    assert "model" == json.loads(out.splitlines()[0])["error"]["code"]


def test_a_sample_goes_with_what_looks_at_calls(retl: Retl) -> None:
    """--sample without --receiver and --tracking-plan would do nothing, so it is refused."""
    code, _, err = retl("check", "orders", "--sample", "5")

    assert 2 == code
    assert "--sample goes with --receiver or --tracking-plan" in err


@pytest.mark.rule("B12")
def test_calls_are_checked_by_a_tracking_plan(retl: Retl, tmp_path: Path) -> None:
    """What lacks a property of the plan is told by its place, an event that the plan lacks by its name."""
    (tmp_path / "plan.json").write_text(json.dumps(PLAN))

    code, checked = checked_sync(retl, "--tracking-plan", "plan.json")

    assert 1 == code
    told = found(checked, "receiver", "rule", "call", "rows", "example", "says")
    assert {
        (
            "tracking_plan",
            "properties.currency",
            "Order Completed",
            1,
            "o-3",
            "`properties.currency` is missing",
        ),
        ("tracking_plan", "event", "Order Updated", 4, "o-1", "the plan has no such event"),
        ("tracking_plan", "event", "Order Cancelled!", 4, "o-1", "the plan has no such event"),
    } == told


@pytest.mark.thorough
@pytest.mark.rule("B12")
def test_a_call_may_ask_for_a_version_of_the_plan(retl: Retl, tmp_path: Path) -> None:
    """context.protocols.event_version picks the version; one that the plan lacks is as none."""
    (tmp_path / "plan.json").write_text(json.dumps(PLAN))
    for version, missing in ((2, "coupon"), (7, "currency")):
        context = f"  context: {{protocols.event_version: {{value: {version}}}}}\n"
        (tmp_path / "syncs/orders.yml").write_text(ORDERS + context)

        _, checked = checked_sync(retl, "--tracking-plan", "plan.json")

        assert {("event",), (f"properties.{missing}",)} == found(checked, "rule")


@pytest.mark.rule("B12")
def test_the_older_form_of_a_tracking_plan(retl: Retl, tmp_path: Path) -> None:
    """A plan of the Config API is read as well, with its rules for all calls."""
    required = {"properties": {"properties": {"type": "object", "required": ["order_id"]}}}
    events = [{"name": name, "rules": required} for name in ("Order Completed", "Order Updated")]
    everywhere = {"type": "object", "required": ["anonymousId"]}
    (tmp_path / "plan.json").write_text(json.dumps({"rules": {"events": events, "global": everywhere}}))

    _, checked = checked_sync(retl, "--tracking-plan", "plan.json")

    assert {
        ("anonymousId", "Order Completed", 4),
        ("anonymousId", "Order Updated", 4),
        ("event", "Order Cancelled!", 4),
    } == found(checked, "rule", "call", "rows")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "is not JSON"),
        ("[]{}", "is not JSON"),
        ("[" * 100_000, "is not JSON"),
        ('{"rules": 5}', "this is not a tracking plan of Segment"),
        ('{"rules": [{"type": "TRACK"}]}', "this is not a tracking plan of Segment"),
        ('{"rules": [{"type": "FOO", "jsonSchema": {}}]}', "this is not a tracking plan of Segment"),
        ('{"rules": [{"type": "TRACK", "key": ["X"], "jsonSchema": {}}]}', "this is not a tracking plan of"),
        (
            '{"rules": [{"type": "COMMON", "version": "a", "jsonSchema": {}}]}',
            "this is not a tracking plan of",
        ),
        (
            '{"rules": [{"type": "COMMON", "version": 1e400, "jsonSchema": {}}]}',
            "this is not a tracking plan of",
        ),
        ('{"rules": {"events": ["X"]}}', "this is not a tracking plan of Segment"),
        ('{"rules": []}', "this tracking plan has no rules"),
        ('{"data": {"rules": [], "pagination": {"next": "abc"}}}', "this is one page of a tracking plan"),
        ('{"rules": [{"type": "COMMON", "jsonSchema": {"type": 5}}]}', "the rule of `common` is not a JSON"),
        ('{"rules": [{"type": "COMMON", "jsonSchema": {"$ref": "http://x.invalid/y"}}]}', "the rule of"),
    ],
)
def test_a_file_that_is_no_tracking_plan(retl: Retl, tmp_path: Path, text: str, message: str) -> None:
    """A file that is not a tracking plan is an error that names it."""
    (tmp_path / "plan.json").write_text(text)

    code, _, err = retl("check", "orders", "--tracking-plan", "plan.json")

    assert 2 == code
    assert f"error: plan.json: {message}" in err


def told(out: str) -> list[Any]:
    """The calls of the next run in the output of `retl explain --json`, row by row."""
    return [call for line in out.splitlines() for call in json.loads(line)["next"]]


@pytest.mark.rule("B11")
def test_a_row_is_explained_by_its_key(retl: Retl) -> None:
    """The call of a row is shown, with what arrives of it and what a receiver has against it."""
    code, out, _ = retl("explain", "orders", "o-2", "--receiver", "insider", "--json")
    explained = told(out)[0]

    assert 0 == code
    assert ("o-2", "added") == (explained["key"], explained["change"])
    assert "Order Completed" == json.loads(explained["call"])["event"]
    view = explained["receivers"]["insider"]
    assert {"identifiers": {"uuid": "u2"}} == view["user"]
    assert ["confirmation_page_view"] == [event["event_name"] for event in view["events"]]
    assert {"I4", "I7", "I20"} == {one["rule"] for one in view["violations"]}


@pytest.mark.thorough
@pytest.mark.rule("B15")
def test_the_requests_that_reach_a_receiver_are_told(retl: Retl) -> None:
    """With --requests the requests of a call are shown; with --json they always are, or why there is none."""
    _, text, _ = retl("explain", "orders", "o-1", "--receiver", "insider,miso", "--requests")
    _, without, _ = retl("explain", "orders", "o-1", "--receiver", "insider,miso")
    _, out, _ = retl("explain", "orders", "o-2", "--receiver", "insider", "--json")
    refused = told(out)[0]["receivers"]["insider"]

    assert "POST https://unification.useinsider.com/api/user/v1/upsert" in text
    assert "X-REQUEST-TOKEN: <API Key>" in text
    assert 'Insider answers 200 {"data": {"successful": {"count": 1}, "fail": {}}}' in text
    assert "POST <URL that Dojo generates>" in text
    assert "POST" not in without
    assert [] == refused["requests"]
    assert refused["why_nothing"].startswith("Segment's destination refuses the call: the price")


@pytest.mark.rule("B11")
def test_a_user_is_explained_by_an_id(retl: Retl) -> None:
    """A user id stands for the user's rows."""
    _, out, _ = retl("explain", "orders", "u3", "--receiver", "miso", "--json")

    assert {"o-3"} == {one["key"] for one in told(out)}
    assert ["user"] == [json.loads(line)["matched"] for line in out.splitlines()]


@pytest.mark.thorough
@pytest.mark.rule("B11")
def test_a_row_is_explained_by_what_happened_to_it(retl: Retl, tmp_path: Path) -> None:
    """Of a changed or removed row the call is what would be sent now, of another each that it can make."""
    (tmp_path / "models/orders.sql").write_text(
        "SELECT * FROM (VALUES ('o-1', 'u1', 1), ('o-2', 'u2', 1), ('o-3', 'u3', 1)) "
        "AS orders(order_id, user_id, total)"
    )
    (tmp_path / "syncs/orders.yml").write_text(
        "model: orders\nprimary_key: order_id\nguards: {removed: off}\n"
        "track: {user_id: user_id, added: A, changed: C, removed: R, properties: {total: total}}\n"
    )
    assert 0 == retl("run", "orders", "--sandbox")[0]
    (tmp_path / "models/orders.sql").write_text(
        "SELECT * FROM (VALUES ('o-1', 'u1', 1), ('o-2', 'u2', 2)) AS orders(order_id, user_id, total)"
    )

    shown = set()
    for key in ("o-1", "o-2", "o-3", "u3"):
        _, out, _ = retl("explain", "orders", key, "--sandbox", "--json")
        shown |= {
            (one["key"], one["change"], one["what_if"], json.loads(one["call"])["event"]) for one in told(out)
        }

    assert {
        ("o-1", "unchanged", "added", "A"),
        ("o-1", "unchanged", "changed", "C"),
        ("o-1", "unchanged", "removed", "R"),
        ("o-2", "changed", None, "C"),
        ("o-3", "removed", None, "R"),
    } == shown


@pytest.mark.thorough
@pytest.mark.rule("B11")
def test_all_rows_of_a_user_are_explained(retl: Retl, tmp_path: Path) -> None:
    """Of a user's rows the changed one is explained by its change, and the other ones too."""
    sync = (
        "sql: SELECT * FROM (VALUES ('o-1', 'u1', 1), ('o-2', 'u1', %d)) AS x(order_id, user_id, total)\n"
        "primary_key: order_id\ntrack: {user_id: user_id, added: A, changed: C, properties: {total: total}}\n"
    )
    (tmp_path / "syncs/orders.yml").write_text(sync % 1)
    assert 0 == retl("run", "orders", "--sandbox")[0]
    (tmp_path / "syncs/orders.yml").write_text(sync % 2)

    _, out, _ = retl("explain", "orders", "u1", "--sandbox", "--json")
    assert {("o-1", "unchanged"), ("o-2", "changed")} == {(one["key"], one["change"]) for one in told(out)}
    assert [None] == [one["what_if"] for one in told(out) if one["key"] == "o-2"]


@pytest.mark.thorough
@pytest.mark.rule("B11")
def test_a_row_that_would_be_rejected_is_explained(retl: Retl, tmp_path: Path) -> None:
    """The reason of a rejection is shown: retl's own, and that of a receiver in the sync's settings."""
    (tmp_path / "syncs/orders.yml").write_text(
        "sql: \"SELECT 1 AS id, 'oops' AS x, 'a@b.cd' AS email UNION ALL SELECT 2, '[]', 'none'\"\n"
        "primary_key: id\nidentify: {user_id: id, traits: {email: email, x: {column: x, as: json}}}\n"
        "receivers: {insider: {mode: reject}}\n"
    )

    shown = []
    for key in ("1", "2"):
        code, out, _ = retl("explain", "orders", key, "--json")
        (explained,) = told(out)
        shown.append((code, explained["reason"], list(explained["receivers"])))

    assert [(0, "bad_json", []), (0, "insider_I14", ["insider"])] == shown


@pytest.mark.rule("B11")
def test_nothing_arrives_where_the_receiver_is_switched_off(retl: Retl, tmp_path: Path) -> None:
    """Of a call that `integrations` keeps from a receiver nothing arrives, and only that is said of it."""
    off = '  integrations: {"Insider Cloud Mode (Actions)": false}\n'
    (tmp_path / "syncs/orders.yml").write_text(ORDERS + off)

    _, out, _ = retl("explain", "orders", "o-2", "--receiver", "insider", "--json")
    view = told(out)[0]["receivers"]["insider"]

    assert ({}, []) == (view["user"], view["events"])
    assert ["I22"] == [one["rule"] for one in view["violations"]]


@pytest.mark.rule("B8", "B11")
@pytest.mark.parametrize(("key", "arrives"), [("o-2", False), ("o-4", True)])
def test_a_row_may_switch_a_receiver_off(retl: Retl, tmp_path: Path, key: str, arrives: bool) -> None:
    """Where a column switches a receiver off, nothing of that row arrives, and no rule is broken by it."""
    sql = ORDERS_SQL.replace("SELECT *", "SELECT *, order_id = 'o-4' AS consent")
    (tmp_path / "models/orders.sql").write_text(sql)
    switch = '  integrations: {"Insider Cloud Mode (Actions)": {column: consent}}\n'
    (tmp_path / "syncs/orders.yml").write_text(ORDERS + switch)

    _, out, _ = retl("explain", "orders", key, "--receiver", "insider", "--json")
    view = told(out)[0]["receivers"]["insider"]

    assert (arrives, arrives) == (view["events"] != [], view["violations"] != [])


def test_people_get_what_arrives_line_by_line(retl: Retl) -> None:
    """An explanation has the call, then each field that arrives at a receiver."""
    _, out, _ = retl("explain", "orders", "o-1", "--receiver", "miso")
    lines = [line.rstrip() for line in out.splitlines()]

    assert "o-1  found as a key" == lines[0]
    assert "  next + added; the next run has no call for it, but if it were new this one:" == lines[2]
    assert lines[3].startswith('  {"type":"track","userId":"u1","event":"Order Completed"')
    assert [
        "Miso",
        "  event  type         checkout",
        "         user_id      u1",
    ] == lines[4:7]
    assert '         product_ids  ["p-1"]' in lines


def test_who_is_unknown_cannot_be_explained(retl: Retl) -> None:
    """A key that no row has, and no user as an id, is an error."""
    code, _, err = retl("explain", "orders", "nobody")

    assert 2 == code
    assert "error: syncs/orders.yml: no row has the key `nobody`, and no user this id\n" in err


@pytest.mark.parametrize("name", ["users", "orders"])
def test_the_example_suits_all_receivers(
    retl: Retl, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Of the example's users and orders nothing is refused, doubtful or unread; Miso reads no identify."""
    for part in ("models", "syncs", "data"):
        shutil.copytree(ROOT / part, tmp_path / "example" / part)
    shutil.copy(ROOT / "retl.yml", tmp_path / "example")
    monkeypatch.chdir(tmp_path / "example")

    code, out, _ = retl("check", name, "--receiver", "all", "--json")
    told = found(json.loads(out), "receiver", "rule", "effect")

    unread = {("miso", "M2", "ignored")} if name == "users" else set()
    assert (0, unread) == (code, {one for one in told if one[2] != "note"})
