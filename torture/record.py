"""Record: what happened in the lives of a torture."""

from collections import Counter
from dataclasses import dataclass, field


@dataclass
class Record:
    """What happened in one life, or in many.

    Attributes:
        faults: by kind and place, as "killed: at COMMIT".
        counts: of lives, commands, requests, calls and repeats, of edits of a sync and switches of its
            engine, and of lives that begin with an older state, have a schema of retl's in the warehouse, or
            their state in a bucket; `unnoted` are repeats that retl did not count as unsure.
        broken: the seed of each life that broke a promise, with the kind and the words.
        seconds: that all took.
        stopped_by: the signal that ended it before its time; None where none did.
    """

    faults: Counter[str] = field(default_factory=Counter)
    counts: Counter[str] = field(default_factory=Counter)
    broken: list[tuple[int, str, str]] = field(default_factory=list)
    seconds: float = 0.0
    stopped_by: int | None = None

    def add(self, other: "Record") -> None:
        """Add what happened elsewhere."""
        self.faults += other.faults
        self.counts += other.counts
        self.broken += other.broken
