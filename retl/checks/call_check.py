"""Checking the calls in the view `call`; the one place where retl looks at calls one by one."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import duckdb
import pyarrow as pa
from pydantic_core import from_json

from retl import sql
from retl.calls.template import RANK
from retl.config.sync import Change
from retl.receivers.checker import Checker, ReceiverChecker
from retl.receivers.compiled_check import CallKind, Violation
from retl.receivers.settings import Settings

BATCH_ROWS = 10_000
"""Calls in memory at a time."""


@dataclass(frozen=True)
class CheckedCall:
    """A call that breaks rules.

    Attributes:
        row: its number in the view `call`.
        leaves: whether it is the only call that tells that a row, or a row's former user, is gone.
        key: of its row.
        call: its event, or its type where it has none.
        violations: the rules that it breaks.
    """

    row: int
    leaves: bool
    key: str
    call: str
    violations: Sequence[Violation]


def find_violations(db: duckdb.DuckDBPyConnection, checker: Checker) -> Iterator[CheckedCall]:
    """The calls that break rules, in the table's order; calls that retl itself rejects are left out."""
    for batch in sql.stream(db, _CALLS, BATCH_ROWS):
        columns = (column.to_pylist() for column in batch.columns)
        for row, rank, key, type_, event, size, body in zip(*columns, strict=True):
            call = parsed(body)
            violations = checker.violations(CallKind(type_, event), call, size) if call else ()
            if violations:
                yield CheckedCall(row, rank == RANK[Change.REMOVED], key, event or type_, violations)


_CALLS = "SELECT number, rank, key, type, event, bytes, body FROM call WHERE reason IS NULL"


def parsed(body: str) -> dict[str, Any] | None:
    """A call from its JSON text; None where it is nested too deeply to be looked at."""
    try:
        call: dict[str, Any] = from_json(body)
    except ValueError:
        return None
    return call


def apply_receivers(db: duckdb.DuckDBPyConnection, settings: Mapping[str, Settings]) -> None:
    """Check the calls by the rules of their receivers; a call that one of them rejects gets a `reason`.

    The call that tells that a row, or a row's former user, is gone is made only once. No
    receiver rejects it.

    Args:
        db: the state's connection, with the table `rendered` filled.
        settings: the customer's settings of each receiver, by its name.

    The violations of calls that are not rejected here are in the TEMP table `violation` (call, code), a row
    for each call and rule; `call` is the call's number, and `code` such as `insider_I6`.
    """
    reasons: dict[int, str] = {}
    violations: list[tuple[int, str]] = []
    for checked in find_violations(db, ReceiverChecker(settings)) if settings else ():
        breaches = {one.code: one.receiver for one in checked.violations if one.effect.is_breach}
        rejecting = [code for code, name in breaches.items() if settings[name].rejects]
        if rejecting and not checked.leaves:
            reasons[checked.row] = rejecting[0]
        else:
            violations += ((checked.row, code) for code in breaches)
    _keep(db, "violation", [call for call, _ in violations], [code for _, code in violations])
    if reasons:
        _keep(db, "refused", list(reasons), list(reasons.values()))
        db.execute(
            "UPDATE rendered SET reason = refused.code FROM refused WHERE rendered.rowid = refused.call"
        )


def _keep(db: duckdb.DuckDBPyConnection, table: str, calls: list[int], codes: list[str]) -> None:
    """Fill a TEMP table with numbers of calls, and a code for each."""
    db.execute(f"CREATE OR REPLACE TEMP TABLE {sql.name(table)} (call BIGINT, code VARCHAR)")
    if calls:
        db.register("incoming", pa.table({"call": calls, "code": codes}))
        db.execute(f"INSERT INTO {sql.name(table)} SELECT call, code FROM incoming")
        db.unregister("incoming")
