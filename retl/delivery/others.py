"""Others: calls of a lane that may go out before their turn, each the first one of its user that waits."""

import duckdb
import numpy as np

from retl.delivery import outbox
from retl.delivery.batch import Batch

LOOKED_UP = 200
"""Calls that are looked up at a time."""

LOOKED_AT = 100_000
"""Calls of a lane among which others are looked for; bounds the time and the memory that this takes."""


class Others:
    """The other calls of a lane, each given once, while one call of it does not get through.

    Attributes:
        done: places of those that were accepted.
        unsure: places of calls of any lane that went out by themselves, also in an earlier run, and no answer
            came.
    """

    def __init__(self, db: duckdb.DuckDBPyConnection, lane: int, unsure: set[int]) -> None:
        self.done: set[int] = set()
        self.unsure = unsure
        self._db = db
        self._lane = lane
        self._found: list[Batch] = []

    def behind(self, batch: Batch) -> Batch | None:
        """The next one behind a batch; None where there is none that was not given before."""
        if not self._found:
            self._found = _first_of_others(self._db, self._lane, batch.last_seq)
        while self._found:
            other = self._found.pop()
            if other.first_seq > batch.last_seq:
                return other
        return None

    def without_done(self, batch: Batch) -> Batch | None:
        """A batch without the calls that were accepted before their turn; None where none is left."""
        return batch.without(self.done) if self.done else batch

    def unsure_behind(self, batch: Batch, seq: int) -> int:
        """How many calls of a batch, behind a place, went out before their turn without an answer."""
        if not self.unsure:
            return 0
        return sum(place > seq for place in self.unsure.intersection(batch.seqs.tolist()))


def _first_of_others(db: duckdb.DuckDBPyConnection, lane: int, seq: int) -> list[Batch]:
    """Calls behind a place in a lane that may go out before it, each as a batch.

    Last the newest run's, as an older one's were tried before.
    """
    waiting = outbox.waiting(db)
    values = {"lane": lane, "seq": seq, "most": LOOKED_UP, "looked_at": LOOKED_AT}
    found = [first for (first,) in db.execute(_FIRST_OF_OTHERS.format(waiting=waiting), values).fetchall()]
    if not found:
        return []
    wanted = ", ".join(map(str, found))
    bodies = dict(db.execute(_BODIES.format(waiting=waiting, wanted=wanted), {"lane": lane}).fetchall())
    return [_alone(lane, first, bodies[first]) for first in reversed(found)]


# Without the texts: those of unrendered calls would be made, and only a few are wanted.
_FIRST_OF_OTHERS = """
WITH waiting AS (
    SELECT seq, run_id, user_id FROM ({waiting}) WHERE lane = $lane AND seq <= $seq + $looked_at
),
first_of_user AS (
    SELECT min(seq) AS seq FROM waiting GROUP BY user_id
)
SELECT seq
FROM waiting JOIN first_of_user USING (seq)
WHERE seq > $seq
ORDER BY run_id DESC, hash(seq)
LIMIT $most
"""

_BODIES = "SELECT seq, body FROM ({waiting}) WHERE lane = $lane AND seq IN ({wanted})"


def _alone(lane: int, seq: int, body: str) -> Batch:
    text = body.encode()
    return Batch(lane, np.array([seq]), np.array([len(text)]), memoryview(text))
