"""Explaining one row or user: the calls of the next run, and the results of these at receivers."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import duckdb

from retl.calls.render import render_calls
from retl.checks.call_check import apply_receivers, parsed
from retl.checks.static_check import check_file, receivers_reached
from retl.config.sync import Change
from retl.delivery.rejected import REASONS
from retl.engine.base import Changes
from retl.engine.guard import Outcome
from retl.engine.landing import Purpose
from retl.errors import ConfigError
from retl.job import Job
from retl.past import as_texts, is_about
from retl.pipeline import find_changes, open_engine, rendering
from retl.planning import shown
from retl.reason import Reason
from retl.receivers.checker import ReceiverChecker, is_switched_off
from retl.receivers.compiled_check import CallKind, Violation
from retl.receivers.data_file import Effect, receiver
from retl.receivers.requests import ReceiverRequest, requests_of
from retl.receivers.settings import Settings
from retl.receivers.translate import Arrival, translate
from retl.what_if import fill_changes, render_what_if, telling_kinds


@dataclass(frozen=True)
class ReceiverResult:
    """The result of a call at a receiver.

    Attributes:
        receiver: its name.
        arrival: the user and events that arrive there.
        violations: the rules of the receiver that the call breaks.
        requests: that reach it.
        why_nothing: why nothing of the call arrives; None where something does.
    """

    receiver: str
    arrival: Arrival
    violations: Sequence[Violation]
    requests: Sequence[ReceiverRequest]
    why_nothing: str | None


@dataclass(frozen=True)
class Explained:
    """A call of a row, and its results at receivers.

    Attributes:
        key: of the row.
        change: the change of the row since the last run: "added", "changed", "removed" or "unchanged".
        what_if: the kind of change that would make the call; None where the next run makes it.
        reason: the code for which it would be rejected; None where it would be sent.
        body: its JSON text as it would be sent, less message id and retl's own context.
        results: at each receiver.
    """

    key: str
    change: str
    what_if: str | None
    reason: str | None
    body: str
    results: Sequence[ReceiverResult]

    def as_json(self) -> dict[str, Any]:
        """The object that `retl explain --json` prints; `call` is its text, which has all digits."""
        return {
            "key": self.key,
            "change": self.change,
            "what_if": self.what_if,
            "reason": self.reason,
            "call": self.body,
            "receivers": {
                one.receiver: {
                    "user": one.arrival.user,
                    "events": one.arrival.events,
                    "violations": [violation.as_json() for violation in one.violations],
                    "requests": [request.as_json() for request in one.requests],
                    "why_nothing": one.why_nothing,
                }
                for one in self.results
            },
        }


@dataclass(frozen=True)
class Ahead:
    """The rows of a key or a user as the model has them, and what the next run makes of them.

    Attributes:
        calls: the calls; of a row that the next run has none for, each that it could make.
        rows: the values by column, as text, by the keys of the rows; without those that are gone.
        known: the same as they were when the rows were last turned into calls; without those that are new.
        rejected: the reasons, by their keys, of rows that cannot be compared; None stands for the key of rows
            without one. They have no calls, and where several share a key no values.
        stopped_by: names of the guards that would stop the next run; none where it would go on.
    """

    calls: Sequence[Explained]
    rows: Mapping[str, Mapping[str, str | None]]
    known: Mapping[str, Mapping[str, str | None]]
    rejected: Mapping[str | None, str]
    stopped_by: Sequence[str]


def explain(job: Job, key: str, settings: Mapping[str, Settings]) -> Ahead:
    """The calls of a row, by its key, or of a user's rows, and their results at receivers.

    A row that the next run has a call for is explained by that; any other by each call that it could make.

    Args:
        job: what a run would work with; its state file stays as it is.
        key: a primary key as `retl plan` shows it, or a user id or an anonymous id.
        settings: the customer's settings of each receiver to ask, by its name.

    Raises:
        RetlError: whatever would stop a run before its guards.
    """
    db, job = job.state.db, job.asking(command="explain")
    proposal = find_changes(job, open_engine(job, job.deadline, Purpose.LOOK_UP))
    changes = proposal.changes
    found_rows = _find_rows(db, key, changes)
    rejected = _faults(db)
    alone = [one for one in found_rows if rejected.get(one) != Reason.DUPLICATE_KEY]
    rows = as_texts(db, "SELECT key, row FROM stage", alone, changes.mapping.columns)
    old = changes.old_mapping
    known = as_texts(db, "SELECT key, row FROM known", list(found_rows), old.columns) if old else {}
    db.execute("DELETE FROM differing WHERE key NOT IN (SELECT key FROM found)")
    render_calls(job.state.db, rendering(job, proposal))
    explained = _calls(job, changes, settings, found_rows, None)
    db.execute("DELETE FROM found WHERE key IN (SELECT key FROM call)")
    for kind in telling_kinds(changes.sync):
        fill_changes(job, changes, kind, "key IN (SELECT key FROM found)")
        render_what_if(job, changes)
        explained += _calls(job, changes, settings, found_rows, kind)
    stopped_by = [one.name for one in proposal.guards if one.outcome is Outcome.STOPS]
    return Ahead(explained, rows, known, rejected, stopped_by)


def _find_rows(db: duckdb.DuckDBPyConnection, key: str, changes: Changes) -> dict[str, str]:
    """The rows of a key or a user, in the TEMP table `found`; returns what happened to each."""
    condition = is_about(key, "row", changes.mapping)
    before = is_about(key, "before", changes.old_mapping) if changes.old_mapping else "false"
    db.execute(
        f"""
        CREATE OR REPLACE TEMP TABLE found AS
        SELECT key FROM stage WHERE {condition}
        UNION
        SELECT key FROM change WHERE {before}
        UNION
        SELECT key FROM (SELECT key, row AS before FROM known SEMI JOIN row_fault USING (key)) WHERE {before}
        """
    )
    query = """
        SELECT key, coalesce(change, 'unchanged')
        FROM found LEFT JOIN change USING (key)
        WHERE key IS NOT NULL
        """
    return dict(db.execute(query).fetchall())


def _faults(db: duckdb.DuckDBPyConnection) -> dict[str | None, str]:
    """The reasons for which rows of the TEMP table `found` cannot be compared, by their keys."""
    query = """
        SELECT row_fault.key, reason
        FROM row_fault JOIN found ON row_fault.key IS NOT DISTINCT FROM found.key
        """
    return dict(db.execute(query).fetchall())


def _calls(
    job: Job, changes: Changes, settings: Mapping[str, Settings], rows: Mapping[str, str], kind: Change | None
) -> list[Explained]:
    """The calls of the view `call`, with their results at receivers."""
    db, sync = job.state.db, changes.sync
    apply_receivers(db, receivers_reached(sync, sync.receivers))
    asked = receivers_reached(sync, settings)
    checker = ReceiverChecker(asked)
    of_file = check_file(sync, settings)
    explained = []
    for key, type_, event, size, reason, body in db.execute(_CALLS).fetchall():
        # The text of a call with a fault may be no JSON.
        call = None if reason in REASONS else parsed(body)
        violations = [*checker.violations(CallKind(type_, event), call, size)] if call else []
        violations += [one.violation for one in of_file if one.call == (event or type_)]
        results = _results(call, violations, settings, asked) if call else []
        what_if = kind.value if kind else None
        explained.append(Explained(key, rows[key], what_if, reason, shown(body or ""), results))
    return explained


def _results(
    call: Mapping[str, Any],
    violations: Sequence[Violation],
    settings: Mapping[str, Settings],
    asked: Collection[str],
) -> list[ReceiverResult]:
    """The result of a call at each receiver; nothing arrives where it is switched off. Notes are left out."""
    worth = dict.fromkeys(one for one in violations if one.effect is not Effect.NOTE)
    results = []
    for name, own in settings.items():
        mine = [one for one in worth if one.receiver == name]
        if name not in asked:
            why = "the sync's `integrations` switch it off"
            results.append(ReceiverResult(name, Arrival({}, ()), mine, (), why))
            continue
        found = requests_of(receiver(name), own, call, mine)
        # A column may switch it off for this row alone. Of a refused call it is shown what would arrive.
        off = is_switched_off(receiver(name), call.get("integrations") or {})
        arrival = found.arrival if off else translate(receiver(name), own, call)
        results.append(ReceiverResult(name, arrival, found.violations, found.requests, found.why_nothing))
    return results


_CALLS = "SELECT key, type, event, bytes, reason, body FROM call ORDER BY key, rank"


def nothing_found(job: Job, key: str) -> ConfigError:
    """The error where no row has a key, and no user an id."""
    hint = "keys are as `retl plan --json` shows them; rows that cannot be read are in `retl rejected`"
    if len(job.sync.primary_key) > 1:
        columns = ",".join(f'"<{column}>"' for column in job.sync.primary_key)
        hint = f"write the key as a list: '[{columns}]'"
    return ConfigError(f"no row has the key `{key}`, and no user this id", where=job.sync.path, hint=hint)
