"""The lease of a state in a bucket: one runner at a time, and a dead one only for so long.

A runner writes the lease again and again while it works. One that is dead does not, and when its lease has
not been written for a while by the clock of the service, the next runner takes it over. No clock of a runner
is asked for the time of day. The lease alone does not keep two runners apart, as a runner can be stopped and
wake up: what it saves then is refused, since the pointer has moved (`retl.bucket.storage`).
"""

import json
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from datetime import timedelta
from secrets import token_hex

from retl.bucket.objects import ConflictError, Objects, Version
from retl.clock import Clock
from retl.errors import LockedError, RetlError, StorageError
from retl.lock import Holder

SECONDS = 120.0
"""How long a lease that is not written again keeps others out, by the clock of the service."""

SECONDS_SURE = 90.0
"""How long a runner counts on its lease after it began to write it: less, as an answer takes its time."""

SECONDS_BETWEEN = 20.0
"""The time between two writes of a lease."""

SECONDS_POLL = 1.0
"""The time between two looks at the lease of another."""


@dataclass(frozen=True)
class Content:
    """The content of a lease.

    Attributes:
        write: random, so that no two writes are alike.
        holder: who has it; None where nobody does.
        seconds: how long it keeps others out.
        progress: how far the holder has got, as text.
    """

    write: str
    holder: Holder | None
    seconds: float = SECONDS
    progress: str | None = None

    def as_bytes(self) -> bytes:
        """The object's content."""
        return json.dumps(asdict(self)).encode()


def read_content(content: bytes) -> Content:
    """Read a lease; what is none is nobody's."""
    with suppress(ValueError, TypeError, KeyError):
        known = json.loads(content)
        holder = Holder(**known["holder"]) if known["holder"] else None
        return Content(known["write"], holder, float(known["seconds"]), known.get("progress"))
    return Content("", None)


class Lease:
    """The lease of one state, as one runner has it or wants it."""

    def __init__(self, objects: Objects, name: str, clock: Clock) -> None:
        """Ask nobody yet.

        Args:
            objects: those of the bucket.
            name: of the lease's object.
            clock: for the time that passes.
        """
        self._objects = objects
        self._name = name
        self._clock = clock
        self._lock = threading.Lock()
        self._version: Version | None = None
        self._mine = Content("", None)
        self._sure_until = 0.0
        self._written_at = clock.now()
        self._taken_by: str | None = None
        self._seen: tuple[str, float] | None = None

    def take(self, holder: Holder, timeout: float, hint: str) -> bool:
        """Take the lease; gives whether it is that of a runner that did not give it back.

        Args:
            holder: who takes it.
            timeout: seconds to wait for another to give it back; -1 waits without end.
            hint: what to do where another has it.

        Raises:
            LockedError: another has it.
            ConfigError: the bucket makes writes that it should refuse.
        """
        until = self._clock.monotonic() + timeout
        while True:
            found = self._objects.read(self._name)
            known = read_content(found[0]) if found else Content("", None)
            if known.holder is None or (found and self._is_over(known, found[1])):
                if self._write(Content(token_hex(16), holder), found[1] if found else None):
                    self._refuse_unconditional_writes()
                    return known.holder is not None
            elif 0 <= timeout and until <= self._clock.monotonic():
                raise LockedError(
                    f"another run holds this sync ({known.holder})",
                    where=f"{self._objects.address}{self._name}",
                    hint=hint,
                )
            self._clock.wait(SECONDS_POLL, threading.Event())

    def current(self) -> Content | None:
        """The lease of whoever has it now, for words alone; None where nobody does.

        Whoever only looks may write nothing, so that this machine's clock must do.
        """
        found = self._objects.read(self._name)
        known = read_content(found[0]) if found else Content("", None)
        if found is None or known.holder is None or found[1].written_at is None:
            return None
        age = (self._clock.now() - found[1].written_at).total_seconds()
        return known if age <= known.seconds else None

    def renew(self, progress: str | None = None) -> None:
        """Write the lease again, where it is still this runner's."""
        with self._lock:
            if self._version is not None and self._taken_by is None:
                self._write(replace(self._mine, write=token_hex(16), progress=progress), self._version)

    def give_back(self) -> None:
        """Let the next one have it at once; whoever cannot be told waits until it is over."""
        with self._lock:
            if self._version is not None and self._taken_by is None:
                with suppress(RetlError):
                    self._write(Content(token_hex(16), None), self._version)
            self._version = None

    def lost(self) -> RetlError | None:
        """The error of a runner that must not go on, as another may have the lease; None where it is sure."""
        if self._taken_by is None and self._has_slept():
            with suppress(RetlError):
                self.renew()
        if self._taken_by is not None:
            return taken_over(self._taken_by, f"{self._objects.address}{self._name}")
        if self._clock.monotonic() < self._sure_until and not self._has_slept():
            return None
        return StorageError(
            f"the lease of the state could not be renewed for {SECONDS_SURE:.0f} s, so nothing more is sent",
            where=f"{self._objects.address}{self._name}",
            hint="run it again; nothing is lost",
        )

    def keep(self, stop: threading.Event, progress: Callable[[], str | None]) -> None:
        """Write the lease again and again until told to stop; for a thread of its own."""
        while not self._clock.wait(SECONDS_BETWEEN, stop):
            with suppress(RetlError):  # the next one may go through; see `lost`
                self.renew(progress())

    def _has_slept(self) -> bool:
        """Whether the time of day has gone on by more than the time that passed, as where a machine slept."""
        return self._clock.now() - self._written_at > timedelta(seconds=SECONDS_SURE)

    def _write(self, content: Content, before: Version | None) -> bool:
        """Write the lease where nobody else did; whether that was so."""
        began, began_at = self._clock.monotonic(), self._clock.now()
        try:
            if before is None:
                version = self._objects.create(self._name, content.as_bytes())
            else:
                version = self._objects.replace(self._name, content.as_bytes(), before)
        except ConflictError:
            if self._version is not None:
                found = self._objects.read(self._name)
                holder = read_content(found[0]).holder if found else None
                self._taken_by = str(holder or "a run that has ended")
            return False
        self._version, self._mine = version, content
        self._sure_until, self._written_at = began + SECONDS_SURE, began_at
        return True

    def _is_over(self, known: Content, version: Version) -> bool:
        """Whether a lease was not written for so long that its holder counts as dead."""
        assert version.written_at is not None, "what was read has a moment"
        now = self._clock.monotonic()
        if self._seen is None or self._seen[0] != known.write:
            age = self._objects.now(f"{self._name}.{token_hex(4)}") - version.written_at
            self._seen = (known.write, now - age.total_seconds())
        return now - self._seen[1] > known.seconds

    def _refuse_unconditional_writes(self) -> None:
        """See that the bucket refuses what would overwrite another's work, tried on the lease itself.

        Raises:
            ConfigError: it does not.
        """
        before = self._version
        assert before is not None, "the lease was just written"
        self.renew()
        self._objects.refuse_overwriting(self._name, before)


def taken_over(by: str, where: str) -> LockedError:
    """The error of a runner whose state another one has taken over."""
    return LockedError(
        f"another run has taken over this sync ({by}), as this one seemed dead",
        where=where,
        hint="that run goes on with the calls that wait; this one changed nothing since",
    )
