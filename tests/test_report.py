"""The view models of a report: what it says of past runs."""

import pytest
from report_records import NOON, OUTAGE, facts, guarded_run, past_run, section, stopped_run

from retl.engine.guard import Guard
from retl.report.condition import Tone
from retl.report.section import Section
from retl.report.trend import MOST_BARS, Trend


def trend(of: Section, title: str) -> Trend:
    """The chart whose title begins so."""
    (found,) = [one for one in of.trends if one.title.startswith(title)]
    return found


def values(of: Trend) -> dict[str, list[float | None]]:
    """The values of a chart by the names of its series."""
    return {one.name: list(one.values) for one in of.series}


def test_a_sync_without_runs_says_so() -> None:
    """A state that no run has used gives a section without charts."""
    empty = section(facts([]))

    assert ("has not run yet", ()) == (empty.condition.words, empty.trends)


def test_the_state_of_a_sync_is_that_of_its_last_run() -> None:
    """The header says how the last run ended, however the others did."""
    assert "stopped by a guard" == section(facts([past_run(0), guarded_run(1)])).condition.words
    assert Tone.WARN is section(facts([guarded_run(0), past_run(1)])).condition.tone


def test_a_failure_says_why_and_what_to_do() -> None:
    """The last failure is told with its sentence and its hint."""
    found = section(facts([past_run(0), stopped_run(1)])).failure

    assert found is not None
    assert (OUTAGE.message, OUTAGE.hint, False) == (found.message, found.hint, found.is_over)


def test_a_failure_that_is_over_asks_for_nothing() -> None:
    """Once a later run has finished, the failure is told without something to do."""
    found = section(facts([stopped_run(0), past_run(1)])).failure

    assert found is not None
    assert (True, None) == (found.is_over, found.hint)


def test_a_run_that_was_cut_off_is_told_as_such() -> None:
    """A run without an end is interrupted, and the way out is to run it again."""
    found = section(facts([past_run(0, exit_code=None)]))

    assert "interrupted" == found.condition.words
    assert found.failure is not None
    assert "Run it again" in (found.failure.hint or "")


def test_charts_have_a_bar_for_each_run_the_oldest_first() -> None:
    """Each run is one bar, in the order in which they ran."""
    found = section(
        facts([past_run(0, rows_read=10), past_run(1, rows_read=None), past_run(2, rows_read=30)])
    )

    assert {"rows read": [10, None, 30]} == values(trend(found, "Rows read"))
    assert "1 Mar 12:00" in trend(found, "Rows read").says[0]


def test_many_runs_share_bars_and_none_is_lost() -> None:
    """With 500 runs a bar stands for several of them, and the sums are those of all."""
    found = section(facts([past_run(number) for number in range(500)]))
    changes = trend(found, "Rows that changed")

    assert len(changes.labels) <= MOST_BARS
    assert 500 * 10 == sum(value or 0 for value in values(changes)["changed"])
    assert "5,000" == changes.series[1].summed


def test_a_first_pass_does_not_hide_the_changes_after_it() -> None:
    """The rows of a first pass, and those that a guard held back, are left out of the chart of changes."""
    first = past_run(0, added=1_000, unchanged=0, changed=0, removed=0)
    changes = trend(section(facts([first, guarded_run(1), past_run(2)])), "Rows that changed")

    assert [None, None, 5] == values(changes)["added"]
    assert "first pass 1,000" == changes.headline


def test_rejections_are_told_by_reason_and_rare_ones_together() -> None:
    """The most frequent reasons have a series of their own, and the others share one."""
    codes = [f"code_{number}" for number in range(7)]
    by = {code: 10 - number for number, code in enumerate(codes)}
    found = values(trend(section(facts([past_run(0, rejected_by=by)])), "Rejected"))

    assert [*codes[:5], "others"] == list(found)
    assert [by["code_5"] + by["code_6"]] == found["others"]


def test_a_single_reason_is_named() -> None:
    """A chart with one series has a legend where the title does not say what it is."""
    found = section(facts([past_run(0)]))

    assert trend(found, "Rejected").has_legend
    assert not trend(found, "Rows read").has_legend


def test_a_long_run_is_told_in_minutes() -> None:
    """The unit of the durations follows the longest one; failed runs have a series of their own."""
    durations = trend(section(facts([past_run(0, seconds=180), stopped_run(1, seconds=60)])), "Duration")

    assert "Duration (minutes)" == durations.title
    assert {"finished": [3, None], "failed or stopped": [None, 1]} == values(durations)


def test_the_send_rate_is_that_between_the_answers() -> None:
    """Calls after the first answer, for each second from the first answer to the last."""
    assert {"calls per second": [20]} == values(trend(section(facts([past_run(0)])), "Send rate"))


@pytest.mark.parametrize(
    ("guard", "share"),
    [
        (Guard("removed", "20%", 100, False, False), 100 / (0.2 * 995)),
        (Guard("added", "500", 250, False, False), 0.5),
        (Guard("added", "0", 0, False, False), 0.0),
        (Guard("changed", "off", 900, False, False), None),
        (Guard("min_rows", "1", 900, False, False), None),
        (Guard("rejected", "20%", 100, False, False), 0.5),
    ],
    ids=lambda one: f"{one.name} {one.limit}" if isinstance(one, Guard) else "",
)
def test_a_guard_tells_how_much_of_its_limit_is_used(guard: Guard, share: float | None) -> None:
    """The share is of the limit; a percentage is of the rows that the record tells."""
    (found,) = section(facts([past_run(0, guards=(guard,))])).guards

    assert share == found.now.share


def test_the_run_that_came_nearest_to_a_limit_is_named() -> None:
    """Beside the last run's value stands the highest one, with its run."""
    (found,) = section(
        facts([guarded_run(0), past_run(1, guards=(Guard("removed", "20%", 5, False, False),))])
    ).guards

    assert (5, 600) == (found.now.value, found.nearest.value)
    assert NOON == found.nearest_run.began
