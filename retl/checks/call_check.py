"""The calls in the table `call`, heard by judges; the one place where retl looks at calls one by one."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import duckdb
import pyarrow as pa
from pydantic_core import from_json

from retl import sql
from retl.config.sync import Change
from retl.receivers.checker import Judge, Objection, ReceiverJudge
from retl.receivers.data_file import Settings

BATCH_ROWS = 10_000
"""So many calls are in memory at once."""


@dataclass(frozen=True)
class Heard:
    """A call to which judges object.

    Attributes:
        row: its place in the table `call`.
        change: the kind of change that it answers.
        key: of its row.
        call: its event, or its type where it has none.
        objections: what there is against it.
    """

    row: int
    change: str
    key: str
    call: str
    objections: Sequence[Objection]


def hear(db: duckdb.DuckDBPyConnection, judge: Judge) -> Iterator[Heard]:
    """The calls to which there are objections, of those that retl itself would send, in the table's order."""
    for batch in sql.stream(db, _CALLS, BATCH_ROWS):
        columns = (column.to_pylist() for column in batch.columns)
        for row, change, key, kind, event, size, body in zip(*columns, strict=True):
            call = parsed(body)
            objections = judge.objections((kind, event), call, size) if call else ()
            if objections:
                yield Heard(row, change, key, event or kind, objections)


_CALLS = "SELECT rowid, change, key, type, event, bytes, body FROM call WHERE reason IS NULL"


def parsed(body: str) -> dict[str, Any] | None:
    """A call from its JSON text; None where it is nested too deeply to be looked at."""
    try:
        call: dict[str, Any] = from_json(body)
    except ValueError:
        return None
    return call


def heed(db: duckdb.DuckDBPyConnection, settings: Mapping[str, Settings]) -> dict[str, int]:
    """Hold the calls against their receivers, and give those a `reason` that one of them is to reject.

    The call of a row that is gone has no second chance, so it is sent whatever receivers have against it.

    Args:
        db: the state's connection, with the table `call` filled.
        settings: the receivers by name, with what the customer set there.

    Returns:
        How many calls that are not rejected break each rule, by its code (`insider_I6`).
    """
    counts: Counter[str] = Counter()
    reasons: dict[int, str] = {}
    for heard in hear(db, ReceiverJudge(settings)) if settings else ():
        breaches = {one.code: one.receiver for one in heard.objections if one.effect.is_breach}
        rejecting = [code for code, name in breaches.items() if settings[name].rejects]
        if rejecting and heard.change != Change.REMOVED:
            reasons[heard.row] = rejecting[0]
        else:
            counts.update(breaches.keys())
    if reasons:
        db.register("objected", pa.table({"row": list(reasons), "reason": list(reasons.values())}))
        db.execute("UPDATE call SET reason = objected.reason FROM objected WHERE call.rowid = objected.row")
        db.unregister("objected")
    return dict(sorted(counts.items()))
