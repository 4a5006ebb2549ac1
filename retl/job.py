"""The job of a run: one sync, and all that its run works with."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import TYPE_CHECKING

from retl.clock import Clock
from retl.config.sync import Sync
from retl.model import Model
from retl.observer import Observer, SilentObserver
from retl.planned import Planned
from retl.state import State

if TYPE_CHECKING:
    from retl.warehouse import Warehouse, Workspace


@dataclass(frozen=True)
class Options:
    """The options of a run, as the command line has them.

    Attributes:
        backfill: whether the first pass of a track or audience sync is sent.
        forced: names of the guards to let pass.
        limit: how many calls may leave; None is all.
        full: whether every current row is sent again.
        deadline_seconds: when to stop, counted from the start; as long as Segment's own clients try.
        detected_at: the moment at which changes count as found, UTC; None is the moment of the run.
        planned: the work that alone may be done, of a saved plan; None is whatever there is to do.
    """

    backfill: bool = False
    forced: frozenset[str] = frozenset()
    limit: int | None = None
    full: bool = False
    deadline_seconds: float = 12 * 3600.0
    detected_at: datetime | None = None
    planned: Planned | None = None


@dataclass(frozen=True)
class Job:
    """One sync and what its run works with.

    `address` is that of the destination as it is shown, for the state to remember. `workspace` opens a
    schema in the warehouse by its name, for retl to write in.
    """

    sync: Sync
    model: Model
    state: State
    warehouse: "Warehouse"
    options: Options
    clock: Clock
    observer: Observer = field(default_factory=SilentObserver)
    address: str | None = None
    workspace: "Callable[[str], Workspace] | None" = None

    @property
    def deadline(self) -> float:
        """When to stop, on the monotonic clock, if the work begins now."""
        return self.clock.monotonic() + self.options.deadline_seconds

    def asking(self, **parts: str) -> "Job":
        """The job with these words, and the sync's name, in each statement with which its model is read."""
        return replace(self, model=self.model.asking(sync=self.sync.name, **parts))
