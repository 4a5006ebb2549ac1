"""The story of a run.

What lasts is handed in open: the state, the warehouse, the destination. Each step is one call into
the module that owns it.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import duckdb
import pyarrow as pa

from retl import signals
from retl.calls.render import Rendering, render_calls
from retl.checks.call_check import apply_receivers
from retl.checks.static_check import receivers_reached
from retl.clock import Clock
from retl.config.sync import Sync, with_columns
from retl.delivery import outbox, rejected
from retl.delivery.deliver import Terms, deliver
from retl.delivery.destination import Destination
from retl.engine import diff, guard, snapshot
from retl.engine.cast import refuse_casts
from retl.engine.mapping import Comparison, SyncMapping, comparisons, read_mapping, refuse_other_identity
from retl.errors import (
    ConfigError,
    DeadlineError,
    DestinationError,
    MissingColumnError,
    ModelError,
)
from retl.model import Model
from retl.observer import Observer, SilentObserver
from retl.run import Run, begin_run, keep_run
from retl.state import FirstPass, State, storage_error
from retl.warehouse import Warehouse


@dataclass(frozen=True)
class Options:
    """What the command line says of a run.

    Attributes:
        backfill: whether the first pass of a track or audience sync is sent.
        forced: names of the guards to let pass.
        limit: how many calls may leave; None is all.
        full: whether every current row is sent again.
        deadline_seconds: when to stop, counted from the start; as long as Segment's own clients try.
    """

    backfill: bool = False
    forced: frozenset[str] = frozenset()
    limit: int | None = None
    full: bool = False
    deadline_seconds: float = 12 * 3600.0


@dataclass(frozen=True)
class Job:
    """One sync and what its run works with."""

    sync: Sync
    model: Model
    state: State
    warehouse: Warehouse
    options: Options
    clock: Clock
    observer: Observer = field(default_factory=SilentObserver)


@dataclass(frozen=True)
class Changes:
    """What a model's rows became since the snapshot; the rows themselves are in the table `change`.

    Attributes:
        sync: the sync, in which `all` is spelled out as the model's columns.
        mapping: the sync's mapping, with the types of the model's columns.
        memory: the mapping with which the snapshot was built; None on a first pass.
        compared: what was compared.
        sends: whether the changes become calls; a first pass may be a silent baseline.
        diff: the counts.
        guards: what the guards say.
    """

    sync: Sync
    mapping: SyncMapping
    memory: SyncMapping | None
    compared: tuple[Comparison, ...]
    sends: bool
    diff: diff.Diff
    guards: tuple[guard.Guard, ...]


def run(job: Job, destination: Destination) -> Run:
    """Send what changed in a model since the last run, and remember it.

    Whatever goes wrong ends as the record's `error`; only a bug is raised.
    """
    sync, state, clock = job.sync, job.state, job.clock
    began = clock.monotonic()
    record = begin_run(sync.name, clock.now(), job.options.full)
    terms = Terms(record.run_id, began + job.options.deadline_seconds, job.options.limit)
    try:
        refuse_other_destination(job, destination)
        left_over = deliver(state, destination, terms, clock, job.observer)
        record = record.with_delivery(left_over)
        if left_over.error is None and outbox.pending(state.db) == 0:
            changes = find_changes(job, terms.deadline)
            record = record.with_diff(changes.diff, changes.guards, baseline=not changes.sends)
            guard.stop_if_tripped(sync, changes.diff, changes.guards)
            render(job, changes, destination.connections)
            violations = apply_receivers(state.db, receivers_reached(sync, sync.receivers))
            rejected.collect(state.db)
            tally = rejected.tally(state.db)
            record = record.with_diff(
                changes.diff.without(tally.by_change, tally.by_reason),
                changes.guards,
                baseline=not changes.sends,
            )
            record = record.evolve(violations=violations)
            with state.transaction():
                enqueued = outbox.enqueue(state.db, record.run_id)
                refused = rejected.record(state.db, record.run_id, clock.now())
                mapping = snapshot.promote(state.db, changes.mapping, changes.memory, changes.compared)
                remember(job, mapping, changes.sends, destination)
                keep_run(state.db, record.with_calls(enqueued, refused))
            record = record.with_calls(enqueued, refused)
            delivery = deliver(state, destination, terms.after(left_over), clock, job.observer)
            record = record.with_delivery(delivery)
    except Exception as error:
        record = record.evolve(error=storage_error(error) or signals.told(error))
    return finish(job, record, clock.monotonic() - began)


def finish(job: Job, record: Run, seconds: float) -> Run:
    """Keep the record of a run at its end; it is given back even where there is no room for it."""
    db = job.state.db
    try:
        waiting = outbox.pending(db)
        record = record.finished(seconds, waiting, rejected_fails=job.sync.on_rejected == "fail")
        with job.state.transaction():
            keep_run(db, record)
    except duckdb.Error as error:
        record = record.evolve(error=record.error or storage_error(error) or signals.told(error))
        record = record.finished(seconds, None, rejected_fails=True)
    return record


def find_changes(job: Job, deadline: float) -> Changes:
    """Read the model's rows and compare them with the snapshot; the state file stays as it is.

    Raises:
        ConfigError: the mapping is not one that can go on from the snapshot's.
        ModelError: the SQL fails, or lacks a column that the sync needs.
        WarehouseError: the warehouse cannot be reached, or the read broke off.
        DeadlineError: the time is up.
    """
    db, metadata = job.state.db, job.state.metadata
    memory = SyncMapping.from_json(metadata.mapping) if metadata.mapping else None
    if memory is not None:
        refuse_other_identity(job.sync, read_mapping(job.sync), memory)
    sends = will_send(job, metadata.first_pass)
    sync, batches = read_columns(job.sync, job.model, job.warehouse)
    mapping = snapshot.stage(db, sync, read_mapping(sync), _watched(batches, job, deadline))
    refuse_casts(sync, mapping)
    snapshot.recall(db, mapping, memory)
    compared = comparisons(sync, mapping, memory, send_new_fields=_sends_new_fields(sync))
    found = diff.diff(db, mapping, memory, compared, job.options.full)
    job.observer.diffed(found.added, found.changed, found.removed)
    guards = guard.check(sync, found, memory is None, sends, job.options.forced)
    return Changes(sync, mapping, memory, compared, sends, found, guards)


def render(job: Job, changes: Changes, connections: int) -> None:
    """Turn the changes into calls, in the table `call`; none in a silent baseline."""
    metadata = job.state.metadata
    found = changes.diff
    rendering = Rendering(
        sync=changes.sync,
        mapping=changes.mapping,
        memory=changes.memory,
        id_prefix=f"{metadata.destination_id}:{metadata.sync}:{metadata.generation + 1}:",
        detected_at=job.clock.now(),
        lanes=outbox.lane_count(found.added + found.changed + found.removed + found.resent, connections),
        full=job.options.full,
    )
    render_calls(job.state.db, rendering, silent=not changes.sends)


def remember(job: Job, mapping: SyncMapping, sends: bool, destination: Destination) -> None:
    """Note where the sync stands now; to be run in the run's transaction."""
    metadata = job.state.metadata
    job.state.note(
        replace(
            metadata,
            destination_hash=destination.id,
            generation=metadata.generation + 1,
            first_pass=_first_pass(job, sends),
            mapping=mapping.as_json(),
        )
    )


def _first_pass(job: Job, sends: bool) -> FirstPass:
    """What is known of the first pass after this run: a full run makes up for a silent one."""
    if job.options.full:
        return FirstPass.SENT
    return job.state.metadata.first_pass or (FirstPass.SENT if sends else FirstPass.SILENT)


def refuse_other_destination(job: Job, destination: Destination) -> None:
    """See that the state belongs to this destination, and on a first run that it takes calls.

    Raises:
        DestinationError: write key or endpoint are others than before, or Segment does not know the key.
    """
    known = job.state.metadata.destination_hash
    if known is None:
        doubt = destination.check()
        if doubt is not None:
            job.observer.notice(doubt)
    elif known != destination.id:
        raise DestinationError(
            "the write key or the endpoint is another than in the last run",
            where=job.sync.where("segment", "write_key"),
            hint=f"the same source with a new key: retl rekey {job.sync.path}; another source: give it a "
            "name of its own with `segment: {name: …}`, and it gets its own state",
        )


def will_send(job: Job, first_pass: FirstPass | None) -> bool:
    """Whether this run's changes become calls.

    Raises:
        ConfigError: a backfill is asked for where the first pass was a silent baseline.
    """
    sync = job.sync
    if job.options.full:
        return True
    first_is_sent = sync.kind in {"identify", "group"} or sync.initial == "send"
    if not job.options.backfill:
        return first_pass is not None or first_is_sent
    if first_pass is FirstPass.SILENT:
        raise ConfigError(
            "the first pass was a silent baseline, so there is no initial backfill left to send",
            where=sync.path,
            hint=f"to send every row as new: retl run {sync.path} --full",
        )
    if first_pass is FirstPass.SENT or first_is_sent:
        job.observer.notice("--initial-backfill changes nothing here: the first pass is sent anyway, or was")
    return True


def _sends_new_fields(sync: Sync) -> bool:
    """Whether a field that is new in the mapping makes rows changed."""
    default = "send" if sync.kind in {"identify", "group"} else "baseline"
    return (sync.on_new_column or default) == "send"


def read_columns(sync: Sync, model: Model, warehouse: Warehouse) -> tuple[Sync, Iterator[pa.RecordBatch]]:
    """The sync with `all` spelled out as the model's columns, and the rows of those that it needs.

    Raises:
        ModelError: the SQL fails, or its result lacks a column; it says where the sync names it.
        WarehouseError: the warehouse cannot be reached, or the read broke off.
    """
    if sync.block.sends_all:
        sync = with_columns(sync, [column.name for column in warehouse.columns(model)])
    return sync, _located(sync, warehouse.read(model, read_mapping(sync).columns))


def _located(sync: Sync, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    try:
        yield from batches
    except MissingColumnError as error:
        raise ModelError(error.message, where=sync.where_used(error.column), hint=error.hint) from error


def _watched(batches: Iterator[pa.RecordBatch], job: Job, deadline: float) -> Iterator[pa.RecordBatch]:
    for batch in batches:
        if job.clock.monotonic() > deadline:
            raise DeadlineError("the time for this run is up", hint="run it again with a later --deadline")
        job.observer.rows_read(batch.num_rows)
        yield batch
