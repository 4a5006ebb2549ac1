import threading
from concurrent.futures import ThreadPoolExecutor

from delivery import FakeClock
from hypothesis import given
from hypothesis import strategies as st

from retl.delivery.rate_limit import RateLimiter


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


def test_zero_is_without_limit() -> None:
    """A rate of 0 makes nobody wait."""
    assert [0.0, 0.0] == [RateLimiter(0, FakeClock()).reserve(1_000_000) for _ in range(2)]
