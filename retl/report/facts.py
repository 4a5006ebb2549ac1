"""Facts: what the state of a sync says, as it was read for the report."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from retl.delivery.receipts import Answers
from retl.delivery.rejection_list import ReasonCount, RejectedCall, RejectedRow, RejectedText


@dataclass(frozen=True)
class Facts:
    """The state of a sync.

    Attributes:
        records: of its runs, the newest first.
        answers: of the batches of each run, by the run's id.
        rows: of the snapshot.
        pending: calls that wait.
        waiting: the ids of the runs whose calls wait.
        reasons: how much is rejected now, by reason.
        rejected_rows: some of the rejected rows, the newest first.
        rejected_calls: some of the rejected calls, the newest first.
        texts: the values of these calls; empty where they are not to be shown.
        destination: its address as it is shown; None where no run has sent.
    """

    records: Sequence[Mapping[str, Any]]
    answers: Mapping[str, Answers]
    rows: int
    pending: int
    waiting: Sequence[str] = ()
    reasons: Sequence[ReasonCount] = ()
    rejected_rows: Sequence[RejectedRow] = ()
    rejected_calls: Sequence[RejectedCall] = ()
    texts: Sequence[RejectedText] = ()
    destination: str | None = None
