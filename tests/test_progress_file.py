"""The file beside a state in which a run says how far it has got."""

from pathlib import Path

from harness import StillClock

from retl.observer import SilentObserver
from retl.progress_file import ProgressFile, read_progress
from retl.storage import FileOnDisk


def test_the_progress_file_is_written_now_and_then(tmp_path: Path) -> None:
    """A new phase is written at once, counts once a second, and each time as a whole file."""
    clock = StillClock()
    state = tmp_path / "users.duckdb"
    file = ProgressFile(state, SilentObserver(), clock)

    def seen() -> tuple[str, int, int]:
        told = read_progress(FileOnDisk(state).progress())
        assert told is not None
        return told.phase, told.rows_read, told.delivered

    assert ("starting", 0, 0) == seen()
    file.rows_read(10)
    assert ("reading", 10, 0) == seen()
    file.rows_read(10)
    assert ("reading", 10, 0) == seen()
    clock.move(1)
    file.rows_read(10)
    assert ("reading", 30, 0) == seen()
    file.delivering(7)
    assert ("delivering", 30, 0) == seen()
    file.waiting("HTTP 429", 5)
    assert ("waiting", 30, 0) == seen()
    file.delivered(4)
    assert ("delivering", 30, 4) == seen()
    assert ["users.duckdb.progress"] == [path.name for path in tmp_path.iterdir()]


def test_a_progress_file_that_cannot_be_written_stops_no_run(tmp_path: Path) -> None:
    """Where there is no place for the file the run goes on without it, and nothing is read of it."""
    state = tmp_path / "nowhere/users.duckdb"
    ProgressFile(state, SilentObserver(), StillClock()).delivering(3)

    assert read_progress(FileOnDisk(state).progress()) is None
