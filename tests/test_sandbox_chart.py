"""The throughput of the sandbox, as bars of a chart."""

import pytest
from sandbox_calls import arrived, identify, store_of

from retl.sandbox.page.chart import LEAST, chart
from retl.sandbox.page.filter import Filter
from retl.sandbox.page.throughput import MOST_BARS, throughput
from retl.sandbox.received import CallOutcome


@pytest.mark.parametrize("seconds", [1, 89, 3_600, 86_400 * 400])
def test_a_chart_has_few_bars(seconds: int) -> None:
    """However long the calls took, no more bars than there is room for hold them all."""
    times = [0, seconds / 3, seconds - 0.5, seconds - 0.5]
    store = store_of([arrived(seq, identify("ada"), seconds=at) for seq, at in enumerate(times, 1)])
    flow = throughput(store, Filter())

    assert len(flow.bars) <= MOST_BARS
    assert 4 == sum(bar.calls for bar in flow.bars)
    assert flow.seconds * len(flow.bars) >= seconds
    assert 4 == max(bar.newest or 0 for bar in flow.bars)


def test_a_chart_shows_even_one_discarded_call() -> None:
    """One discarded call among a thousand is high enough to be seen, and the bar says its number."""
    good = [arrived(seq, identify("ada"), seconds=0) for seq in range(1, 1_001)]
    store = store_of([*good, arrived(1_001, {}, CallOutcome.DISCARDED, "missing_type", seconds=0)])
    (bar,) = chart(throughput(store, Filter())).bars

    assert {"accepted": 56, "discarded": LEAST} == {one.outcome: round(one.height) for one in bar.parts}
    assert "12:00:00, 1 second\n1,000 accepted\n1 discarded" == bar.says
    assert 1_002 == bar.before


def test_an_empty_store_has_no_bars() -> None:
    """Before the first call there is nothing to draw."""
    flow = throughput(store_of([]), Filter())

    assert ((), 0) == (chart(flow).bars, flow.highest)
