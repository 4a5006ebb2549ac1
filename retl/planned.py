"""Planned: what a saved plan holds of a sync, by which it is known whether anything has moved since.

A saved plan is one file of JSON for each `retl plan --save`. It has counts, hashes and the options of the
run, and no value of a row.
"""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import duckdb

from retl.config.sync import Sync
from retl.engine.diff import Diff
from retl.errors import ConfigError, MovedError
from retl.state import State
from retl.system import read_file, system_error, system_words
from retl.version import __version__

FORMAT = 1
"""The version of the file's form."""

LARGEST = 64 * 1024 * 1024
"""Bytes that a saved plan may have."""

MADE_WITH = f"retl {__version__} with DuckDB {duckdb.__version__}"
"""The programs whose versions decide how rows are hashed and calls are spelled."""


@dataclass(frozen=True)
class Work:
    """The work of a run, from the diff to the calls, in a few numbers that no order of rows changes.

    Attributes:
        rows: number of rows by what became of them, and of all that were read.
        rejected_by: rejected rows by reason.
        calls: number of calls by change and name.
        changes: a hash over all changes: kind, key, and the hash of what is compared.
        texts: a hash over the texts of all calls, which hold the message ids.
    """

    rows: Mapping[str, int]
    rejected_by: Mapping[str, int]
    calls: Mapping[str, int]
    changes: str
    texts: str


def work_of(db: duckdb.DuckDBPyConnection, diff: Diff) -> Work:
    """The work that a run is about to do.

    Args:
        db: the state's connection, after `retl.pipeline.make_calls`.
        diff: the counts, without the rows that are rejected.
    """
    calls = db.execute(
        """
        SELECT change || ' ' || coalesce(event, type) AS name, count(*)
        FROM leaving GROUP BY ALL ORDER BY name
        """
    ).fetchall()
    return Work(
        rows={
            name: getattr(diff, name) for name in ("rows_read", "unchanged", "added", "changed", "removed")
        },
        rejected_by=dict(diff.rejected_by),
        calls=dict(calls),
        changes=_hash_of(db, "struct_pack(change, key, hash)", "change"),
        texts=_hash_of(db, "body", "leaving"),
    )


def _hash_of(db: duckdb.DuckDBPyConnection, text: str, table: str) -> str:
    """A hash over a text of each row: the sum of DuckDB's own, which any order gives.

    Another DuckDB may hash otherwise; a plan that it made is refused.
    """
    ((rows, total),) = db.execute(f"SELECT count(*), sum(hash({text})) FROM {table}").fetchall()
    return f"{rows}:{int(total or 0):x}"


@dataclass(frozen=True)
class Planned:
    """A sync as it was planned.

    Attributes:
        sync: its name.
        path: of its file, from the project folder on.
        root: the project folder at that time.
        detected_at: the moment at which the changes were found, UTC; calls without a timestamp have it.
        files: a hash of each file that the plan depends on, by its path from the project folder on.
        destination_id: the random id of the state, a part of each message id.
        destination_hash: of write key and endpoint; None where no run has sent yet.
        generation: how many diffs the state had recorded.
        has_state: whether there was a state file.
        work: of the run.
        made_with: the versions of retl and DuckDB.
    """

    sync: str
    path: str
    root: str
    detected_at: datetime
    files: Mapping[str, str]
    destination_id: str
    destination_hash: str | None
    generation: int
    has_state: bool
    work: Work
    made_with: str = MADE_WITH

    def refuse_moved_files(self, root: Path, sync: Sync) -> None:
        """See that the files are those of the plan.

        Raises:
            MovedError: a file was edited, or another retl or DuckDB made the plan.
        """
        now = file_hashes(root, sync)
        edited = [path for path in {**self.files, **now} if self.files.get(path) != now.get(path)]
        if edited:
            were = "was" if len(edited) == 1 else "were"
            raise self._moved(f"{', '.join(sorted(edited))} {were} edited since the plan was made")
        if self.made_with != MADE_WITH:
            raise self._moved(f"the plan was made by {self.made_with}, and this is {MADE_WITH}")

    def refuse_missing_state(self, path: Path, exists: bool) -> None:
        """See that the state is there, if it was.

        Raises:
            MovedError: it is gone.
        """
        if self.has_state and not exists:
            raise self._moved(f"the state file that the plan was made with is not there: {path}")

    def begin(self, state: State) -> None:
        """See that the state is as it was; one that was made just now takes the id that the plan has.

        Raises:
            MovedError: a run has recorded changes since, or it is another state.
        """
        now = state.metadata
        if not self.has_state and now.generation == 0 and now.destination_hash is None:
            state.take_id(self.destination_id)
            return
        if now.destination_id != self.destination_id:
            raise self._moved("the state is not the one that the plan was made with")
        if now.generation != self.generation:
            raise self._moved(
                "a run has recorded changes since the plan was made",
                f"; if that run was of this plan, what is left of it leaves with: retl run {self.path}",
            )
        if now.destination_hash != self.destination_hash:
            raise self._moved("the write key or the endpoint is another than when the plan was made")

    def refuse_other_work(self, now: Work) -> None:
        """See that a run is about to do what was planned, and nothing else.

        Raises:
            MovedError: it is not; the message says what is otherwise.
        """
        found = list(self._otherwise(now))
        if found:
            raise self._moved(f"the model's result has moved since the plan was made ({', '.join(found)})")

    def _otherwise(self, now: Work) -> Iterator[str]:
        """The counts that are not as planned; where all are, the part of the work that is not."""
        then = self.work
        pairs = ((then.rows, now.rows), (then.rejected_by, now.rejected_by), (then.calls, now.calls))
        differ = False
        for planned, found in pairs:
            for name in {**planned, **found}:
                if planned.get(name, 0) != found.get(name, 0):
                    differ = True
                    yield f"{name}: {planned.get(name, 0):,} planned, {found.get(name, 0):,} now"
        if differ:
            return
        if then.changes != now.changes:
            yield "as many rows changed, but not the same ones"
        elif then.texts != now.texts:
            yield "the same rows changed, but what is not compared of them differs, and with it their calls"

    def _moved(self, sentence: str, more: str = "") -> MovedError:
        hint = f"to see what a run would send now: retl plan {self.path}{more}"
        return MovedError(f"{sentence}; nothing of it was sent", where=self.path, hint=hint)

    def as_json(self) -> dict[str, Any]:
        """The object that stands for it in the file."""
        return {**asdict(self), "detected_at": self.detected_at.isoformat()}


@dataclass(frozen=True)
class SavedPlan:
    """A saved plan.

    Attributes:
        syncs: as they were planned, in the order in which they are sent.
        backfill: whether the first pass of a track or audience sync is sent.
        full: whether every current row is sent again.
        forced: names of the guards that were let pass.
        rehearsal: whether it is of a rehearsal.
    """

    syncs: tuple[Planned, ...]
    backfill: bool
    full: bool
    forced: tuple[str, ...]
    rehearsal: bool

    def as_json(self) -> dict[str, Any]:
        """The object that the file holds."""
        options = {name: value for name, value in self.__dict__.items() if name != "syncs"}
        return {"retl_plan": FORMAT, **options, "syncs": [one.as_json() for one in self.syncs]}


def file_hashes(root: Path, sync: Sync) -> dict[str, str]:
    """A hash of each file that a sync's calls depend on, by its path from the project folder on."""
    names = [sync.path, "retl.yml", *([f"models/{sync.model}.sql"] if sync.model else [])]
    found = {}
    for name in names:
        path = root / name
        if path.is_file():
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def save_plan(plan: SavedPlan, path: Path) -> None:
    """Write a plan to a file that only the owner may read, in place of what is there.

    Raises:
        RetlError: the file cannot be written.
    """
    unfinished = path.with_name(f"{path.name}.new")
    try:
        unfinished.unlink(missing_ok=True)
        with open(os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            json.dump(plan.as_json(), file, indent=1)
            file.write("\n")
        unfinished.replace(path)
    except OSError as error:
        raise system_error(error, str(path)) or error from error


def read_plan(path: Path) -> SavedPlan:
    """Read a saved plan.

    Raises:
        ConfigError: it cannot be read, is no plan, or was saved by a newer retl.
    """
    try:
        written = json.loads(read_file(path, LARGEST))
        version = written["retl_plan"]
        if version == FORMAT:
            return _plan_of(written)
    except OSError as error:
        raise ConfigError(f"cannot be read: {system_words(error)}", where=str(path)) from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(
            "this is not a saved plan", where=str(path), hint="make one: retl plan SYNC --save FILE"
        ) from error
    raise ConfigError(
        f"this plan has the form {version}, and retl {__version__} knows {FORMAT}", where=str(path)
    )


def _plan_of(written: Mapping[str, Any]) -> SavedPlan:
    syncs: Sequence[Mapping[str, Any]] = written["syncs"]
    return SavedPlan(
        syncs=tuple(
            Planned(
                **{
                    **one,
                    "detected_at": datetime.fromisoformat(one["detected_at"]),
                    "work": Work(**one["work"]),
                }
            )
            for one in syncs
        ),
        backfill=bool(written["backfill"]),
        full=bool(written["full"]),
        forced=tuple(written["forced"]),
        rehearsal=bool(written["rehearsal"]),
    )
