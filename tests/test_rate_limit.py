import threading
from concurrent.futures import ThreadPoolExecutor

from delivery import FakeClock
from hypothesis import given
from hypothesis import strategies as st

from retl.delivery.rate_limit import RateLimiter, lowered


@given(
    st.integers(1, 50),
    st.lists(st.tuples(st.integers(1, 50), st.floats(0, 3)), min_size=1, max_size=40),
)
def test_any_stretch_of_time_keeps_the_rate(rate: int, plan: list[tuple[int, float]]) -> None:
    """In any stretch, no more calls leave than the rate allows for it, beside the batch that opens it."""
    clock = FakeClock()
    rate_limiter = RateLimiter(rate, clock)
    left = []
    for calls, idle in plan:
        if idle > 2:
            rate_limiter.slow_down(clock.seconds)
        clock.pass_to(clock.monotonic() + rate_limiter.reserve(calls))
        left.append((clock.monotonic(), calls))
        clock.pass_to(clock.monotonic() + idle)
    for first, (begins, _) in enumerate(left):
        for last in range(first + 1, len(left)):
            within = sum(calls for _, calls in left[first:last])
            assert within <= rate * (left[last][0] - begins) * (1 + 1e-9) + 1e-6


def test_full_batches_never_exceed_the_rate_in_any_second() -> None:
    """Batches of one second's allowance leave a second apart."""
    clock = FakeClock()
    rate_limiter = RateLimiter(500, clock)
    assert [0.0, 1.0, 2.0, 3.0] == [rate_limiter.reserve(500) for _ in range(4)]


def test_threads_share_one_rate() -> None:
    """However many threads reserve at the same moment, each gets a place of its own."""
    rate_limiter = RateLimiter(100, FakeClock())
    together = threading.Barrier(8)

    def reserve(_: int) -> list[float]:
        together.wait()
        return [rate_limiter.reserve(10) for _ in range(25)]

    with ThreadPoolExecutor(8) as threads:
        waits = sorted(wait for booked in threads.map(reserve, range(8)) for wait in booked)
    assert [round(place / 10, 6) for place in range(200)] == [round(wait, 6) for wait in waits]


def test_idle_time_is_not_saved_up() -> None:
    """After a pause calls leave at the same rate as ever, in no burst."""
    clock = FakeClock()
    rate_limiter = RateLimiter(10, clock)
    rate_limiter.reserve(10)
    clock.pass_to(1_000)
    assert [0.0, 1.0, 2.0] == [rate_limiter.reserve(10) for _ in range(3)]


def test_the_rate_is_halved_once_for_attempts_that_were_under_way_together() -> None:
    """Several lanes that are told the same at a time lower the rate once, and a later attempt does again."""
    clock = FakeClock()
    rate_limiter = RateLimiter(400, clock)
    clock.pass_to(1)
    for sent_at in (0.5, 0.6, 1.0):
        rate_limiter.slow_down(sent_at)
    assert 200 == rate_limiter.allowance
    clock.pass_to(2)
    rate_limiter.slow_down(1.5)
    assert 100 == rate_limiter.allowance


def test_a_lower_rate_is_raised_step_by_step() -> None:
    """Each second of sending adds the same, up to the full rate and no further; to wait adds nothing."""
    clock = FakeClock()
    rate_limiter = RateLimiter(4_000, clock)
    rate_limiter.slow_down(0.0)
    seen = []
    for _ in range(202):
        clock.pass_to(clock.seconds + 100)
        seen.append(rate_limiter.allowance)
        rate_limiter.reserve(seen[-1] or 0)
    assert [2_000, 2_010, 2_020, 2_030] == seen[:4]
    assert [3_990, 4_000, 4_000] == seen[-3:]


def test_the_rate_has_a_lowest_value() -> None:
    """A destination that wants fewer calls again and again still gets some."""
    assert 1.0 == lowered(lowered(1.5, 64), 64)


def test_zero_is_without_limit() -> None:
    """A rate of 0 makes nobody wait."""
    rate_limiter = RateLimiter(0, FakeClock())
    rate_limiter.slow_down(0.0)
    assert [0.0, 0.0, None] == [*(rate_limiter.reserve(1_000_000) for _ in range(2)), rate_limiter.allowance]
