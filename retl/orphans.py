"""Orphans: state files of syncs that were renamed or deleted, perhaps with calls that never left."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import duckdb

from retl.clock import SystemClock
from retl.config.folder import name_in
from retl.config.project import Project, sync_names
from retl.encryption import state_key
from retl.engine.mapping import SyncMapping, read_mapping, refuse_other_identity
from retl.errors import ConfigError, LockedError, StateError, StorageError
from retl.session import Session
from retl.state import peek_state
from retl.status import SyncStatus, status_of
from retl.storage import FileOnDisk, Folder, Storage

ORPHANED = "orphaned"
"""The status of a sync whose state file is an orphan."""

MOST = 5
"""State files that a run looks into, since each takes a part of a second."""


@dataclass(frozen=True)
class Orphan:
    """A state file that no sync file leads to.

    Attributes:
        path: the file.
        place: the same as messages show it.
        status: of the sync that it was of; without counts where the file cannot be read.
        mapping: the mapping of its snapshot; None where there is none.
        is_source: whether its sync is there and has another source now, so that its calls stay, too.
    """

    path: Path
    place: str
    status: SyncStatus
    mapping: SyncMapping | None = None
    is_source: bool = False

    @property
    def pending(self) -> int:
        """The calls that wait in it, as far as is known."""
        return self.status.pending or 0


def find_orphans(
    project: Project,
    states: Folder,
    folder: Path | None = None,
    own: Mapping[str, Path] | None = None,
    thorough: bool = True,
) -> list[Orphan]:
    """Find the orphans in a folder of states.

    The state of a sync of another project is none while the sync file that it remembers is there. A file
    without a lock beside it was never used by retl, and is not opened.

    Args:
        project: whose syncs are known.
        states: the folder of the states.
        folder: of more sync files, besides the project's `syncs/`.
        own: the states that syncs have now, by the names of the syncs.
        thorough: whether to look into all files whose name is not that of a sync; else only into a few, and
            `users.eu` is taken for a source of the sync `users`.
    """
    files = states.used()
    if not files:
        return []
    own = own or {}
    known = sync_names(project, folder) | own.keys()
    if thorough:
        others = known - own.keys()
        strangers = [one for one in files if one.path not in own.values() and one.path.stem not in others]
    else:
        strangers = [one for one in files if not _begins_with(one.path.stem, known)][:MOST]
    return list(_orphans(strangers, known, own, project))


def _begins_with(stem: str, names: Collection[str]) -> bool:
    parts = stem.split(".")
    return any(".".join(parts[:end]) in names for end in range(1, len(parts) + 1))


def _orphans(
    files: Sequence[Storage], known: Collection[str], own: Collection[str], project: Project
) -> Iterator[Orphan]:
    key = state_key(project.env)
    for one in files:
        path = one.path
        base = project.root if one.is_remote else path.parent
        try:
            with one.look(SystemClock().now(), timeout=0), peek_state(path, None, key=key) as state:
                metadata = state.metadata
                status = replace(status_of(state, metadata.sync), status=ORPHANED)
                if metadata.sync in known:
                    if status.pending and metadata.sync in own:
                        yield Orphan(path, str(one), replace(status, sync=path.stem), is_source=True)
                elif not _has_file(base, metadata.sync, metadata.sync_file):
                    mapping = SyncMapping.from_json(metadata.mapping) if metadata.mapping else None
                    yield Orphan(path, str(one), status, mapping)
        except (LockedError, StorageError, OSError):
            continue  # in use, or not ours to read
        except (StateError, duckdb.Error):
            yield Orphan(path, str(one), SyncStatus(path.stem, ORPHANED))


def _has_file(base: Path, sync: str, sync_file: str | None) -> bool:
    """Whether the sync file that a state remembers is there, and may give that name still."""
    if sync_file is None:
        return False
    file = base.resolve() / sync_file
    return file.is_file() and name_in(file) in {sync, None}


def orphans_sentence(orphans: Sequence[Orphan], flags: str = "") -> str:
    """The sentence about orphans that other commands than `retl status` print.

    Args:
        orphans: one or more.
        flags: options of `retl status` by which it finds the same folder.
    """
    named = ", ".join(
        f"{orphan.path.name} ({orphan.pending:,} calls pending)" if orphan.pending else orphan.path.name
        for orphan in orphans[:MOST]
    )
    files = "1 state file" if len(orphans) == 1 else f"{len(orphans):,} state files"
    return f"no sync file leads to {files}: {named}; retl status{flags} says more"


def refuse_former_name(session: Session) -> str | None:
    """See that a sync without a state does not begin anew beside calls of its own that never left.

    Gives a sentence where there is a state that the sync could go on with, but no call waits in it.

    Raises:
        StateError: calls wait in a state that the sync could go on with, and which no sync file has; or the
            sync has its states in a bucket now, and had one on this machine.
    """
    if session.rehearsal or session.has_state:
        return None
    _refuse_left_state(session)
    orphans = find_orphans(session.project, session.folder, session.path.parent)
    former = [orphan for orphan in orphans if _fits(session, orphan)]
    waiting = [orphan for orphan in former if orphan.pending]
    if waiting:
        name = waiting[0].status.sync
        raise StateError(
            f"this sync would begin anew, though {waiting[0].pending:,} calls wait in the state of `{name}`, "
            "which no sync file has any more",
            where=waiting[0].place,
            hint=f"if that was this sync's name, write `name: {name}` into {session.sync.path}; else bring "
            "the file of that sync back and run it once, or move its state away",
        )
    if not former:
        return None
    name = former[0].status.sync
    return f"begins anew; if it was `{name}` before, `name: {name}` goes on with the state of that"


def _refuse_left_state(session: Session) -> None:
    """See that a sync whose states are in a bucket now does not begin anew beside the state that it had.

    Raises:
        StateError: the bucket has none, and the project's own folder does.
    """
    left = FileOnDisk(session.state_dir / session.state_path.name)
    if session.bucket is None or not left.exists():
        return
    raise StateError(
        f"this sync would begin anew, though it has a state: {left}",
        where=str(session.storage),
        hint=f"bring it along: retl move {session.sync.path} --from {session.state_dir}; "
        "or move that file away",
    )


def _fits(session: Session, orphan: Orphan) -> bool:
    """Whether a sync could go on with an orphan's snapshot."""
    if orphan.mapping is None:
        return False
    try:
        refuse_other_identity(session.sync, read_mapping(session.sync), orphan.mapping)
    except ConfigError:
        return False
    return True
