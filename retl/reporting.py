"""Reporting: the sections of a report, from the states of syncs."""

from collections.abc import Sequence
from datetime import datetime

from retl.clock import SystemClock
from retl.delivery import outbox, receipts, rejected
from retl.engine import snapshot
from retl.errors import LockedError, RetlError
from retl.orphans import Orphan
from retl.receivers.data_file import meaning
from retl.records import kept_records
from retl.report.condition import NEVER, ORPHANED, RUNNING, UNREADABLE
from retl.report.facts import Facts
from retl.report.section import Section, section_of
from retl.session import Session
from retl.state import State

SAMPLES = 20
"""Rejected rows and rejected calls that are shown, of each at most."""


def sync_section(session: Session, since: datetime, show_values: bool) -> Section:
    """The section of a sync; it is not an error where another process holds its state.

    Args:
        session: the sync.
        since: the moment from which on runs are shown, in UTC.
        show_values: whether keys, user ids and calls are shown.

    Raises:
        StateError: the state file is not one that this retl can read.
    """
    name = session.sync.name
    if not session.has_state:
        first = "There is no state yet. The first run makes one; retl plan shows what it would send."
        return Section(name, NEVER, notes=(first,), was_read=False)
    try:
        with session.peeked_state(SystemClock()) as state:
            return section_of(name, read_facts(state, since, show_values), meaning, show_values)
    except LockedError:
        return _running_section(session)


def read_facts(state: State, since: datetime, show_values: bool) -> Facts:
    """The facts of an open state."""
    db = state.db
    return Facts(
        records=kept_records(db, since),
        answers=receipts.answers(db),
        rows=snapshot.row_count(db),
        pending=outbox.pending(db),
        waiting=outbox.run_ids(db),
        reasons=rejected.counts_by_reason(db),
        rejected_rows=rejected.rejected_rows(db, SAMPLES),
        rejected_calls=rejected.rejected_calls(db, SAMPLES),
        texts=rejected.rejected_texts(db, SAMPLES) if show_values else (),
        destination=state.metadata.destination,
    )


def _running_section(session: Session) -> Section:
    by = session.storage.holder()
    who = f"A process holds the state: {by}." if by else "A process that is just starting holds the state."
    rest = "Its records can be read when it has ended; make the report again then."
    return Section(session.sync.name, RUNNING, notes=(f"{who} {rest}",), was_read=False)


def unreadable_section(name: str, error: RetlError) -> Section:
    """The section of a sync that could not be read, with the reason."""
    notes = [str(error), *([f"What to do: {error.hint}"] if error.hint else [])]
    return Section(name, UNREADABLE, notes=tuple(notes), was_read=False)


def orphan_sections(orphans: Sequence[Orphan]) -> list[Section]:
    """The sections of states that no sync file leads to."""
    return [
        Section(
            orphan.status.sync,
            ORPHANED,
            notes=_orphan_notes(orphan),
            pending=orphan.status.pending,
            was_read=False,
        )
        for orphan in orphans
    ]


def _orphan_notes(orphan: Orphan) -> tuple[str, ...]:
    name, pending = orphan.status.sync, orphan.pending
    waits = f"{pending:,} calls wait in it" if pending else "No call waits in it"
    last = f", and its last run began {orphan.status.last_run}" if orphan.status.last_run else ""
    if orphan.is_source:
        way = (
            "They are for a source that the sync does not name now, and leave with a run that has the "
            "`segment: {name: …}` of this file's name."
        )
    else:
        way = (
            f"To go on with it, bring the sync file back, or write `name: {name}` into the renamed one; "
            "to delete the state forgets what was sent."
        )
    return f"The state is {orphan.place}. {waits}{last}.", way
