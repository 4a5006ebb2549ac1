"""Work beside a run: done in order, and not waited for long."""

import threading

from retl.aside import Aside


def test_work_is_done_in_order_and_its_errors_are_told() -> None:
    """Each piece of work is done after the one before, also after one that failed."""
    done: list[int] = []
    aside = Aside()
    aside.put(lambda: done.append(1))
    aside.put(lambda: 1 / 0)
    aside.put(lambda: done.append(2))
    (error,) = aside.finish(60)

    assert [1, 2] == done
    assert isinstance(error, ZeroDivisionError)


def test_nobody_waits_long_for_work_that_hangs() -> None:
    """Work that does not end is left to itself, and said so; where there is none, there is no wait."""
    free = threading.Event()
    aside = Aside()
    aside.put(free.wait)
    (error,) = aside.finish(0.01)
    free.set()

    assert "no answer within 0.01 s" == str(error)
    assert isinstance(error, TimeoutError)
    assert [] == Aside().finish(0)
