"""The story of a run.

The state, the warehouse and the destination are handed in open. Each step is one call into the module that
owns it.
"""

import os
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

import duckdb

from retl import memory, signals
from retl.calls import rejection
from retl.calls.message_id import MessageIdScope
from retl.calls.render import find_values_at_fault, render_calls
from retl.calls.rendering import Rendering
from retl.damage import storage_error
from retl.delivery import history, outbox, rejected
from retl.delivery.address import is_local
from retl.delivery.deliver import deliver
from retl.delivery.destination import Destination
from retl.delivery.round import Terms
from retl.engine import guard, replaced, snapshot
from retl.engine.base import Changes, Engine
from retl.engine.diff import Diff
from retl.engine.edits import unsent, unsent_sentence
from retl.engine.landing import Purpose
from retl.engine.local import LocalEngine
from retl.engine.mapping import SyncMapping, read_mapping, refuse_other_identity
from retl.engine.warehouse.tables import makers
from retl.errors import ConfigError, DestinationError, RetlError
from retl.job import Job
from retl.lazy import lazy_module
from retl.planned import work_of
from retl.records import any_in_full, forget_before, keep_run, keeps_all_runs, open_run
from retl.run import Run, begin_run
from retl.state import FirstPass
from retl.warehouse.watched import WatchedWarehouse

if TYPE_CHECKING:
    from retl.checks import call_check, static_check
    from retl.engine.warehouse import engine as warehouse_engine
    from retl.engine.warehouse import taken_over
    from retl.warehouse import Workspace, watched_workspace
else:
    call_check = lazy_module("retl.checks.call_check")
    static_check = lazy_module("retl.checks.static_check")
    warehouse_engine = lazy_module("retl.engine.warehouse.engine")
    taken_over = lazy_module("retl.engine.warehouse.taken_over")
    watched_workspace = lazy_module("retl.warehouse.watched_workspace")


def run(job: Job, destination: Destination) -> Run:
    """Send what changed in a model since the last run, and remember it.

    Whatever goes wrong ends as the record's `error`; only a bug is raised.
    """
    sync, state, clock = job.sync, job.state, job.clock
    began = clock.monotonic()
    record = begin_run(sync.name, clock.now(), job.options.full, sync.segment.marks)
    terms = Terms(record.run_id, began + job.options.deadline_seconds, job.options.limit)
    job = job.asking(run=record.run_id)
    try:
        if resumes_full(job):
            job = resumed(job)
            record = record.evolve(full=False, resumed_full=True)
        with state.transaction():
            open_run(state.db, record)
        refuse_other_destination(job, destination)
        before_reading = replace(terms, until_undecided=True)
        left_over = deliver(state, destination, before_reading, clock, job.observer)
        record = record.with_delivery(left_over)
        if left_over.undecided or (left_over.error is None and outbox.pending(state.db) == 0):
            with closing(open_engine(job, terms.deadline, Purpose.PROMOTE)) as engine:
                proposal = find_changes(job, engine)
                record = record.with_diff(proposal.diff, proposal.guards, baseline=not proposal.sends)
                guard.stop_if_tripped(sync, proposal.changes, proposal.guards)
                job.observer.enqueuing()
                outgoing = make_calls(job, proposal, destination.connections, may_wait=True)
                record = record.with_diff(outgoing.diff, proposal.guards, baseline=not proposal.sends)
                record = record.evolve(violations=outgoing.violations)
                if (planned := job.options.planned) is not None:
                    planned.refuse_other_work(work_of(state.db, outgoing.diff))
                with state.transaction():
                    outbox.render_waiting(state.db)
                    if proposal.changes.old_mapping is not None:
                        history.keep_first_calls(state.db, engine.moving(proposal.changes))
                    engine.prepare(proposal.changes)
                    refused = rejected.record(state.db, record.run_id, clock.now())
                    replaced.keep(state.db, record.run_id)
                    mapping = engine.promote(proposal.changes)
                    enqueued = outbox.enqueue(state.db, record.run_id, outgoing.lanes, outgoing.unrendered)
                    remember(job, mapping, proposal.sends, destination)
                    enqueued_record = record.with_calls(enqueued, outgoing.undated, refused)
                    keep_run(state.db, enqueued_record)
                record = enqueued_record
            if enqueued:
                delivery = deliver(state, destination, terms.after(left_over), clock, job.observer)
                record = record.with_delivery(delivery)
    except Exception as error:
        record = record.evolve(error=storage_error(error, job.state.path) or signals.told(error))
    return finish(job, record, clock.monotonic() - began)


def resumes_full(job: Job) -> bool:
    """Whether --full is asked for while calls of an earlier one wait."""
    if not job.options.full or job.state.metadata.mapping is None:  # a reset has forgotten it
        return False
    return any_in_full(job.state.db, outbox.run_ids(job.state.db))


def resumed(job: Job) -> Job:
    """The job that completes an earlier --full: its calls go out, and then what has changed since."""
    job.observer.notice(
        f"the earlier --full goes on: {outbox.pending(job.state.db):,} of its calls were left; "
        "nothing is sent again that it sent"
    )
    return replace(job, options=replace(job.options, full=False))


def finish(job: Job, record: Run, seconds: float) -> Run:
    """Keep the record of a run at its end; it is given back even where there is no room for it."""
    db = job.state.db
    try:
        waiting = outbox.pending(db)
        record = record.finished(seconds, waiting, rejected_fails=job.sync.on_rejected == "fail")
        with job.state.transaction():
            keep_run(db, record)
            snapshot.drop_arriving(db)
            if waiting == 0:
                replaced.forget(db)
            forgotten = _forget_old(job, record.run_id)
        if forgotten:
            job.observer.notice(
                f"{forgotten:,} rejected calls were older than `keep` allows, and are forgotten"
            )
        job.state.save(leaving=False)
    except (duckdb.Error, RetlError) as error:
        record = record.evolve(
            error=record.error or storage_error(error, job.state.path) or signals.told(error)
        )
        record = record.finished(seconds, None, rejected_fails=True)
    return record


def _forget_old(job: Job, run_id: str) -> int:
    """Forget what is older than the sync keeps it; gives how many rejected calls are among it."""
    db, now, age = job.state.db, job.clock.now(), job.sync.keeps_history
    forget_before(db, now - age if age else None, run_id)
    return rejected.forget_before(db, now - job.sync.keep, run_id) if job.sync.keep else 0


def open_engine(job: Job, deadline: float, purpose: Purpose) -> Engine:
    """The engine that finds changes, and stops reading at a deadline on the monotonic clock.

    Args:
        job: the sync, its state and its warehouse.
        deadline: on the monotonic clock.
        purpose: of staging the model's rows; only a run may write to the state file.
    """
    state, place = job.state, outbox.next_place(job.state.db)
    warehouse = WatchedWarehouse(job.warehouse, job.observer, job.clock, deadline)
    is_elsewhere = state.metadata.snapshot_table is not None
    is_left = purpose is Purpose.PROMOTE and bool(makers(state))
    is_local = job.sync.engine == "local" or purpose is Purpose.LOOK_UP
    if is_local and not is_elsewhere and not is_left:
        return LocalEngine(state.db, warehouse, purpose, place)
    opening = partial(_watched_workspace, job, deadline)
    if is_local:
        return taken_over.TakenOverEngine(state, warehouse, opening, purpose, place)
    options, sync = job.options, job.sync
    sends = options.full or options.backfill or sync.sends_first_pass or bool(state.metadata.first_pass)
    schema, said = sync.engine_schema, memory.is_said(os.environ)
    return warehouse_engine.WarehouseEngine(state, warehouse, opening, schema, purpose, place, sends, said)


def _watched_workspace(job: Job, deadline: float, schema: str) -> "Workspace":
    assert job.workspace is not None, "who opens a state with a table elsewhere can open that, too"
    return watched_workspace.WatchedWorkspace(partial(job.workspace, schema), schema, job.clock, deadline)


@dataclass(frozen=True)
class Proposal:
    """The work that a run is about to do.

    Attributes:
        changes: of the model's rows, as the engine found them.
        sends: whether the changes become calls; a first pass may be a silent baseline.
        guards: the guards and what they found.
        unsent: names of what an edit of the sync added or altered, and what no row is sent for.
    """

    changes: Changes
    sends: bool
    guards: tuple[guard.Guard, ...]
    unsent: tuple[str, ...]

    @property
    def diff(self) -> Diff:
        """The counts of changes."""
        return self.changes.diff


def find_changes(job: Job, engine: Engine) -> Proposal:
    """Read the model's rows and compare them with the snapshot; the state file stays as it is.

    Raises:
        ConfigError: the mapping is not one that can go on from the snapshot's.
        ModelError: the SQL fails, or lacks a column that the sync needs.
        WarehouseError: the warehouse cannot be reached, or the read broke off.
        DeadlineError: the time is up.
    """
    metadata = job.state.metadata
    old_mapping = SyncMapping.from_json(metadata.mapping) if metadata.mapping else None
    if old_mapping is not None:
        refuse_other_identity(job.sync, read_mapping(job.sync), old_mapping)
    sends = will_send(job, metadata.first_pass)
    changes = engine.find_changes(job.sync, job.model, old_mapping, job.options.full)
    job.observer.diffed(changes.diff.added, changes.diff.changed, changes.diff.removed)
    edited = [] if job.options.full else unsent(changes)
    if edited:
        job.observer.notice(unsent_sentence(edited))
    first_pass = old_mapping is None
    guards = guard.check(changes.sync, changes.diff, first_pass, sends, job.options.forced)
    return Proposal(changes, sends, guards, tuple(edited))


@dataclass(frozen=True)
class Outgoing:
    """The calls of a proposal, which are in the view `leaving`.

    Attributes:
        diff: the counts of changes, without the rows that are rejected.
        violations: how many calls break a rule of a receiver, by the rule's code.
        undated: calls that take the moment of detection, as the column of their timestamp is null.
        lanes: over how many lanes they are spread.
        unrendered: the statement that yields them once the snapshot is promoted; None where `leaving` does.
    """

    diff: Diff
    violations: dict[str, int]
    undated: int
    lanes: int
    unrendered: str | None


def make_calls(job: Job, proposal: Proposal, connections: int, may_wait: bool = False) -> Outgoing:
    """Turn the changes into calls that can be sent, in the view `leaving`; none in a silent baseline.

    Args:
        job: the sync and its state.
        proposal: the changes.
        connections: over which the calls are to leave.
        may_wait: whether the text of a call can be made when it leaves.
    """
    db, sync = job.state.db, proposal.changes.sync
    found = proposal.diff
    lanes = outbox.lane_count(_touched(found), connections)
    is_checked = bool(sync.receivers) and _touched(found) > 0
    receivers = static_check.receivers_reached(sync, sync.receivers) if is_checked else {}
    is_first = proposal.changes.old_mapping is None
    promoted = snapshot.PROMOTED if may_wait and is_first and not receivers else None
    how = replace(rendering(job, proposal), lanes=lanes, promoted=promoted)
    unrendered = render_calls(db, how)
    if receivers:
        call_check.apply_receivers(db, receivers)
    rejection.collect(db)
    violations = rejection.count_violations(db) if receivers else {}
    tally = rejection.tally(db)
    if tally.by_reason:
        find_values_at_fault(db, how)
    diff = found.without(tally.by_change, tally.by_reason)
    return Outgoing(diff, violations, tally.undated, lanes, unrendered)


def rendering(job: Job, proposal: Proposal) -> Rendering:
    """All that the calls of a proposal depend on."""
    metadata, changes = job.state.metadata, proposal.changes
    return Rendering(
        sync=changes.sync,
        mapping=changes.mapping,
        old_mapping=changes.old_mapping,
        id_scope=MessageIdScope(
            metadata.destination_id, metadata.sync, metadata.generation, changes.mapping.digest
        ),
        detected_at=job.options.detected_at or job.clock.now(),
        full=job.options.full,
        silent=not proposal.sends,
    )


def _touched(diff: Diff) -> int:
    """Rows that may make a call."""
    return diff.added + diff.changed + diff.removed + diff.resent


def remember(job: Job, mapping: SyncMapping, sends: bool, destination: Destination) -> None:
    """Note where the sync stands now; to be run in the run's transaction."""
    metadata = job.state.metadata
    job.state.note(
        replace(
            metadata,
            destination_hash=destination.id,
            destination=job.address,
            generation=metadata.generation + 1,
            first_pass=_first_pass(job, sends),
            mapping=mapping.as_json(),
        )
    )


def _first_pass(job: Job, sends: bool) -> FirstPass:
    """The first pass as it stands after this run: a full run makes up for a silent one."""
    if job.options.full:
        return FirstPass.SENT
    return job.state.metadata.first_pass or (FirstPass.SENT if sends else FirstPass.SILENT)


def refuse_other_destination(job: Job, destination: Destination) -> None:
    """See that the state belongs to this destination, and on a first run that it takes calls.

    Where calls wait and none was ever accepted, that destination was wrong, and the next one takes its place.

    Raises:
        DestinationError: write key or endpoint are others than before, or Segment does not know the key.
    """
    state = job.state
    metadata = state.metadata
    if metadata.destination_hash == destination.id:
        return
    is_new = metadata.destination_hash is None
    if not is_new and not _never_worked(state.db):
        raise DestinationError(
            "the write key or the endpoint differs from that of the last run"
            + (f" (before: {metadata.destination}; now: {job.address})" if metadata.destination else ""),
            where=job.sync.where("segment", "write_key" if job.sync.segment.file is None else "endpoint"),
            hint=_way_on(job, metadata.destination),
        )
    doubt = destination.check()
    if doubt is not None:
        job.observer.notice(doubt)
    if not is_new:
        with state.transaction():
            state.rekey(destination.id, job.address)
        job.observer.notice("the first write key or endpoint never took a call; this one takes its place")


def _never_worked(db: duckdb.DuckDBPyConnection) -> bool:
    """Whether calls wait, and no call of this state ever arrived anywhere."""
    return outbox.pending(db) > 0 and not outbox.may_have_arrived(db) and keeps_all_runs(db)


def _way_on(job: Job, before: str | None) -> str:
    """The ways on where the destination is another than before."""
    sync = job.sync
    # A reset keeps the destination of calls that wait.
    reset = f"retl reset {sync.path}" if outbox.is_empty(job.state.db) else None
    if sync.segment.file is not None:
        new_file = f"; a new file: {reset}" if reset else ""
        return f"the same file in another place: retl rekey {sync.path}{new_file}"
    own_state = "give it a name of its own with `segment: {name: …}`, and it gets its own state"
    if is_local(before or "") and not is_local(job.address or ""):
        return (
            "the calls so far went to this machine alone, and nothing was ever sent to the new place: "
            + own_state
            + (f"; or forget what was sent: {reset}" if reset else "")
        )
    return f"the same source with a new key: retl rekey {sync.path}; another source: {own_state}"


def will_send(job: Job, first_pass: FirstPass | None) -> bool:
    """Whether this run's changes become calls.

    Raises:
        ConfigError: a backfill is asked for where the first pass was a silent baseline.
    """
    sync = job.sync
    if job.options.full:
        return True
    if not job.options.backfill:
        return first_pass is not None or sync.sends_first_pass
    if first_pass is FirstPass.SILENT:
        raise ConfigError(
            "the first pass was a silent baseline, so there is no initial backfill left to send",
            where=sync.path,
            hint=f"to send every row as new: retl run {sync.path} --full",
        )
    if first_pass is FirstPass.SENT or sync.sends_first_pass:
        job.observer.notice("--initial-backfill changes nothing here: the first pass is sent anyway, or was")
    return True
