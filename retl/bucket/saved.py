"""The saved state: the files of one state in a bucket, and the pointer that says which of them counts."""

from collections.abc import Callable
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from secrets import token_hex

from retl.bucket.lease import taken_over
from retl.bucket.objects import ConflictError, Objects, Version
from retl.bucket.pointer import NOTHING, Pointer, read_pointer
from retl.errors import LockedError, RetlError, StateError, StorageError
from retl.lock import Holder

POINTER = ".json"
"""Ending of the pointer, behind the state's name; its files are in a folder of that name."""

ENDING = ".duckdb"
"""Ending of a state file's name."""

TRIES = 5
"""How often a state is fetched or written that is replaced, or seems to be, meanwhile."""


class SavedState:
    """One state, as the bucket has it.

    Attributes:
        pointer: as it was read or written last.
        refused: the error of a runner whose write came after another's; None while there was none.
        at_hand: the file that was fetched or saved last; None where that is not known.
    """

    def __init__(self, objects: Objects, name: str, holder: Callable[[], Holder | None]) -> None:
        """Reach no server yet.

        Args:
            objects: those of the bucket.
            name: of the state, without `.duckdb`.
            holder: gives the runner that has the lease.
        """
        self.pointer = NOTHING
        self.refused: LockedError | None = None
        self.at_hand: str | None = None
        self._objects = objects
        self._name = name
        self._holder = holder
        self._version: Version | None = None
        self._tried: set[str] = set()
        self._is_tidy = False

    def __str__(self) -> str:
        return f"{self._objects.address}{self._name}"

    def begin(self) -> None:
        """Know nothing of what runners before did."""
        self.refused, self._is_tidy = None, False
        self._tried.clear()

    def read(self) -> Pointer:
        """Read the pointer; `NOTHING` where there is none."""
        found = self._objects.read(self._name + POINTER)
        self.pointer, self._version = (
            (read_pointer(found[0], f"{self}{POINTER}"), found[1]) if found else (NOTHING, None)
        )
        return self.pointer

    def fetch(self, path: Path) -> None:
        """Have at a path what the bucket has: the file that counts, or none.

        Raises:
            StateError: it is missing in the bucket, or is not what was saved.
        """
        for _ in range(TRIES):
            name = self.read().file
            if name is None:
                for one in (path, log_of(path)):
                    one.unlink(missing_ok=True)
                return
            if name == self.at_hand or self._download(name, path):
                self.at_hand = name
                return
        raise StorageError(
            "the state is replaced faster than it can be fetched", where=str(self), hint="run it again"
        )

    def put(self, file: Path, leaving: bool) -> None:
        """Upload a file, unless it is what the bucket has, and move the pointer to it.

        Raises:
            LockedError: another run has moved the pointer.
        """
        digest, before = digest_of(file), self.pointer
        if digest == before.sha256 and leaving == before.leaving:
            return
        name, unneeded = before.file, self._unneeded()
        if digest != before.sha256 or name is None:
            name = f"{self._name}/{token_hex(8)}{ENDING}"
            self._objects.upload(file, name)
        self._move(Pointer("", name, file.stat().st_size, digest, leaving))
        self.at_hand = name
        self._tidy(unneeded)

    def delete(self) -> None:
        """Have no state any more.

        Raises:
            LockedError: another run has moved the pointer.
        """
        self._is_tidy = False
        unneeded = self._unneeded()
        self._move(NOTHING)
        self._tidy(unneeded)

    def shut_out(self) -> None:
        """Move the pointer without a change, so that the run whose lease was taken over cannot save any more.

        Raises:
            LockedError: yet another run did.
        """
        for tries_left in reversed(range(TRIES)):
            try:
                self._move(self.read())
                return
            except LockedError:  # that run saved just now, as it is not dead
                if not tries_left:
                    raise
                self.refused = None

    def _move(self, pointer: Pointer) -> None:
        """Move the pointer, where no other run has moved it."""
        if self.refused is not None:
            raise self.refused
        pointer = pointer.anew()
        tried, self._tried = {*self._tried, self.pointer.write}, {*self._tried, pointer.write}
        for _ in range(TRIES):
            try:
                version = self._write(pointer)
            except ConflictError:
                if self.read().write not in tried:  # else a write of before, which seemed to fail, came late
                    raise self._refuse() from None
                continue
            self.pointer, self._version = pointer, version
            return
        raise StorageError(
            "the bucket refuses to write the state, though nobody else wrote it",
            where=str(self),
            hint="run it again; nothing is lost",
        )

    def _refuse(self) -> LockedError:
        """Save nothing from now on, and before anything else can fail; gives the error that says so."""
        self.refused = taken_over("it is not known by whom", str(self))
        with suppress(StorageError):
            self.refused = taken_over(str(self._holder() or "a run that has ended"), str(self))
        return self.refused

    def _write(self, pointer: Pointer) -> Version:
        name = self._name + POINTER
        if self._version is None:
            return self._objects.create(name, pointer.as_bytes())
        return self._objects.replace(name, pointer.as_bytes(), self._version)

    def _unneeded(self) -> list[str] | None:
        """The files that no pointer names once it has moved: the one before, and those that killed runs left.

        They are listed before. A file that comes after that may be of a run that took this one for dead.
        """
        if self._is_tidy:
            return [self.pointer.file] if self.pointer.file else []
        with suppress(RetlError):
            return self._objects.names(f"{self._name}/")
        return None

    def _tidy(self, names: list[str] | None) -> None:
        """Delete files, which no late write of another run can name now; None where they are not known."""
        with suppress(RetlError):
            for name in names or ():
                if name != self.pointer.file:
                    self._objects.delete(name)
            self._is_tidy = names is not None

    def _download(self, name: str, path: Path) -> bool:
        """Fetch a file; False where it is not there any more, as another one counts by now."""
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        unfinished = path.with_name(f"{path.name}.new")
        unfinished.unlink(missing_ok=True)
        expected = self.pointer.sha256
        digest = self._objects.download(name, unfinished)
        if digest is None:
            if self.read().file != name:
                return False
            raise StateError(
                f"the state's file is missing in the bucket: {name}",
                where=str(self),
                hint=f"bring it back from an older version; to start anew, delete {self}{POINTER}",
            )
        if digest != expected:
            raise StateError(
                f"the state's file in the bucket is not what was saved: {name}",
                where=str(self),
                hint="bring it back from a backup or an older version",
            )
        log_of(path).unlink(missing_ok=True)
        unfinished.replace(path)
        return True


def log_of(path: Path) -> Path:
    """DuckDB's log beside a file."""
    return path.with_name(f"{path.name}.wal")


def digest_of(path: Path) -> str:
    """The SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        digest = sha256()
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()
