"""The report as HTML: what is in it, and what is not."""

import re
from dataclasses import replace
from datetime import timedelta

import pytest
from report_records import (
    HOSTILE,
    NOON,
    OUTAGE,
    facts,
    guarded_run,
    past_run,
    rejected,
    report,
    section,
    stopped_run,
)

from retl.report.chart import trend_svg
from retl.report.page import render


def test_a_sync_without_runs_has_a_page() -> None:
    """A report of a state that no run has used says so."""
    assert "has not run yet" in render(report(section(facts([]))))


@pytest.mark.rule("P8")
def test_keys_and_values_are_hidden_unless_asked_for() -> None:
    """Neither keys nor user ids nor calls are in the page without --show-values, and all are with it."""
    known = facts([past_run(0)], **rejected("ada@example.com"))
    hidden = render(report(section(known)))
    shown = render(report(section(known, show_values=True), show_values=True))

    assert "ada@example.com" not in hidden
    assert "400 bad call" in hidden
    assert {"user ada@example.com", "{&#34;email&#34;: &#34;ada@example.com&#34;}"} <= set(
        re.findall(r"user ada@example.com|\{&#34;email[^}]*\}", shown)
    )


def test_html_in_names_keys_and_messages_is_text() -> None:
    """Nothing that comes from data or files becomes an element of the page."""
    error = type(OUTAGE)(HOSTILE, where=HOSTILE, hint=f"`{HOSTILE}` and `")
    known = facts([stopped_run(0, error, rejected_by={HOSTILE: 3})], **rejected(HOSTILE), destination=HOSTILE)
    page = render(report(section(known, HOSTILE, show_values=True), show_values=True))

    assert "<img" not in page
    assert "東京" in page


def test_the_page_allows_no_network_and_no_other_script() -> None:
    """The policy of the page forbids all but its own style and script, and no address is in it."""
    page = render(report(section(facts([past_run(0)]))))
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', page)

    assert policy is not None
    assert "default-src &#39;none&#39;" in policy[1]
    assert "unsafe" not in policy[1]
    assert [] == re.findall(r'(?:src|href)="(?!#)', page)
    assert "http" not in page.replace('http-equiv="Content-Security-Policy"', "")


@pytest.mark.thorough
def test_the_commands_that_are_named_are_about_the_same_state() -> None:
    """A report of rehearsals names commands with --sandbox, and none that rehearsals do not have."""
    known = facts([past_run(0)], **rejected("u1"))
    real = render(report(section(known)))
    rehearsed = render(replace(report(section(known)), rehearsal=True))

    assert {"retl rejected users", "retl retry users", "retl discard users"} <= commands(real)
    assert {"retl rejected users --sandbox", "retl discard users --sandbox"} <= commands(rehearsed)
    assert "retl retry users" not in commands(rehearsed)


def commands(page: str) -> set[str]:
    """The commands that a page names."""
    return set(re.findall(r"<code>(retl [^<]*)</code>", page))


def test_runs_that_a_guard_stopped_are_counted_by_a_fitting_name() -> None:
    """The figure that counts failed and guarded runs names both."""
    found = section(facts([past_run(0), guarded_run(1), stopped_run(2, OUTAGE)]))
    page = render(report(found, section(facts([]), "others")))

    assert "<dt>Runs failed or stopped</dt><dd>2</dd>" in page
    assert "Failed or stopped</th>" in page


@pytest.mark.parametrize("runs", [1, 2, 3])
def test_labels_of_a_chart_do_not_touch(runs: int) -> None:
    """Where bars are too few for two labels beside each other, only the newest has one."""
    (known, *_) = section(facts([past_run(number) for number in range(runs)])).trends

    assert [f"{11 + runs}:00"] == re.findall(r"<text[^>]*>(\d\d:\d\d)</text>", trend_svg(known))


@pytest.mark.parametrize("runs", [4, 60])
def test_no_label_of_a_chart_is_there_twice(runs: int) -> None:
    """Runs of one minute or day share a label below the chart, and the newest has it."""
    began = [NOON + timedelta(hours=12 * (runs > 4) * number, seconds=number) for number in range(runs)]
    found = section(facts([past_run(number, started_at=at) for number, at in enumerate(began)]))
    (known,) = [one for one in found.trends if one.title == "Rows read"]
    labels = re.findall(r"<text[^>]*>(\d+ \w{3}|\d\d:\d\d)</text>", trend_svg(known))

    assert known.labels[-1] in labels
    assert len(set(labels)) == len(labels)
