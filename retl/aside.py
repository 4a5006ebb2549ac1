"""Work beside a run: what libraries send to others, who may be slow or gone; no run waits for them long."""

import threading
import time
from collections.abc import Callable
from queue import SimpleQueue


class Aside:
    """Does one piece of work after the other, in a thread that keeps no process from ending."""

    def __init__(self) -> None:
        self._work: SimpleQueue[Callable[[], object]] = SimpleQueue()
        self._done = threading.Semaphore(0)
        self._put = 0
        self._errors: list[Exception] = []

    def put(self, work: Callable[[], object]) -> None:
        """Have it do some work after all other."""
        self._put += 1
        self._work.put(work)
        if self._put == 1:
            threading.Thread(target=self._run, daemon=True).start()

    def finish(self, seconds: float) -> list[Exception]:
        """Wait so long for all work to be done; gives the errors, a TimeoutError among them if it is not."""
        until = time.monotonic() + seconds
        for _ in range(self._put):
            if not self._done.acquire(timeout=max(0.0, until - time.monotonic())):
                return [*self._errors, TimeoutError(f"no answer within {seconds:g} s")]
        return self._errors

    def _run(self) -> None:
        while True:
            work = self._work.get()
            try:
                work()
            except Exception as error:
                self._errors.append(error)
            self._done.release()
