"""State files that a disk, a copy or a person has damaged: what is said, and that the way out is right."""

import shutil
from collections.abc import Callable
from pathlib import Path

import duckdb
import pytest
from delivery import IDENTIFY, TRACK, Shop, Table
from harness import runner

from retl.clock import SystemClock
from retl.damage import storage_error
from retl.delivery.outbox import pending
from retl.delivery.rate_limit import RateLimiter
from retl.delivery.response import RetryPolicy
from retl.delivery.segment import Segment, Source
from retl.engine import snapshot
from retl.errors import RetlError, StateError, StorageError
from retl.job import Options
from retl.run import Run
from retl.sandbox.server import Sandbox
from retl.state import State, open_state, peek_state

BLOCK_BYTES = 262_144
"""Of DuckDB's files; three headers of 4,096 bytes come before the first block."""

ONCE = RetryPolicy(base=0.001, jitter=0.0, retries=0)

BASELINE = TRACK.replace("initial: send", "initial: skip")

NUMBERS = range(20_000)
BEFORE = Table({"id": [f"k{one}" for one in NUMBERS], "owner": ["u"] * 20_000, "value": [*NUMBERS]})
AFTER = Table({"id": [f"k{one}" for one in NUMBERS], "owner": ["u"] * 20_000, "value": [-1, *NUMBERS[1:]]})


def run(folder: Path, url: str, table: Table) -> Run:
    """A run of the shop's sync, from opening its state to closing it."""
    with open_state(folder / "shop.duckdb", "shop") as state:
        return run_with(state, url, table)


def run_with(state: State, url: str, table: Table, options: Options | None = None) -> Run:
    """A run with a state that is open; every address is the same source to it."""
    assert state.path is not None
    source = Source(url, "key", known_as="a source")
    with Segment(source, RateLimiter(0, SystemClock()), ONCE, connections=1) as to:
        return Shop(state.path.parent, url, BASELINE).run_with(state, table, to, options)


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the state of a run that was killed before it delivered: its call is in the log alone."""
    folder, kept = tmp_path_factory.mktemp("killed"), tmp_path_factory.mktemp("kept")
    with Sandbox() as sandbox:
        assert 0 == run(folder, sandbox.url, BEFORE).exit_code
    with open_state(folder / "shop.duckdb", "shop") as state:
        state.db.execute("CHECKPOINT state")
        unreached = run_with(state, "http://127.0.0.1:1", AFTER, Options(deadline_seconds=2))
        assert (3, 1) == (unreached.exit_code, unreached.calls.pending)
        for name in ("shop.duckdb", "shop.duckdb.wal"):
            shutil.copy(folder / name, kept)
        ((block,),) = state.db.execute(
            """
            SELECT block_id
            FROM pragma_storage_info('state.snapshot')
            WHERE segment_type = 'VARCHAR' AND block_id >= 0
            LIMIT 1
            """
        ).fetchall()
    (kept / "block").write_text(str(block))
    return kept


@pytest.fixture
def path(killed: Path, tmp_path: Path) -> Path:
    """That state file, to be damaged."""
    for name in ("shop.duckdb", "shop.duckdb.wal"):
        shutil.copy(killed / name, tmp_path)
    return tmp_path / "shop.duckdb"


def edited(change: Callable[[bytearray], bytes | None]) -> Callable[[Path], None]:
    """Damage to the bytes of a file."""

    def damage(path: Path) -> None:
        content = bytearray(path.read_bytes())
        path.write_bytes(change(content) or content)

    return damage


def zeros_from(place: Callable[[int], int], count: Callable[[int], int]) -> Callable[[Path], None]:
    """Damage that puts zeros in the place of bytes; both are functions of the file's size."""

    def change(content: bytearray) -> None:
        start, many = place(len(content)), count(len(content))
        content[start : start + many] = bytes(many)

    return edited(change)


def flipped(place: Callable[[int], int]) -> Callable[[Path], None]:
    """Damage to one bit, at a place that depends on the file's size."""

    def change(content: bytearray) -> None:
        content[place(len(content))] ^= 16

    return edited(change)


def a_folder(path: Path) -> None:
    """A folder in the place of the file."""
    path.unlink()
    path.mkdir()


def a_foreign_log(path: Path) -> None:
    """The log of another state in the place of this one."""
    other = path.with_name("other.duckdb")
    with open_state(other, "other") as state:
        state.db.execute("UPDATE state.metadata SET generation = 1")
        shutil.copy(f"{other}.wal", path)


LOGS = {
    "zeros at the end": zeros_from(lambda size: size - 64, lambda _: 64),
    "a bit in the middle": flipped(lambda size: size // 2),
    "the log of another file": a_foreign_log,
    "a folder": a_folder,
}

FILES = {
    "no bytes": lambda path: path.write_bytes(b""),
    "no header": zeros_from(lambda _: 0, lambda _: 4096),
    "no second header": zeros_from(lambda _: 4096, lambda _: 8192),
    "a bit in the catalog": flipped(lambda _: 12_288 + 100),
    "a folder": a_folder,
}


@pytest.mark.thorough
@pytest.mark.rule("L8")
@pytest.mark.parametrize("damage", LOGS.values(), ids=LOGS)
def test_without_its_damaged_log_a_state_finds_the_changes_again(
    path: Path, damage: Callable[[Path], None]
) -> None:
    """A damaged log is told from a damaged file; once the log is away, the next run sends what it held."""
    log = path.with_name("shop.duckdb.wal")
    damage(log)
    for opened in (open_state, peek_state):
        with pytest.raises(StateError) as caught:
            opened(path, "shop")
        assert (str(log), 2) == (caught.value.where, caught.value.exit_code)
        assert f"mv {log} {log}.damaged" in (caught.value.hint or "")

    log.rename(f"{log}.damaged")
    with Sandbox() as sandbox:
        record = run(path.parent, sandbox.url, AFTER)
        assert (0, 1, [-1]) == (record.exit_code, record.changed, values(sandbox))


def values(sandbox: Sandbox) -> list[int]:
    """The values of the calls that arrived."""
    return [call["properties"]["value"] for call in sandbox.accepted]


@pytest.mark.rule("L8")
@pytest.mark.parametrize("damage", FILES.values(), ids=FILES)
def test_a_file_that_cannot_be_opened_is_to_be_restored(path: Path, damage: Callable[[Path], None]) -> None:
    """A damaged file is an error with exit code 2 that asks for a backup, and is left as it is."""
    damage(path)
    before = path.is_dir() or path.read_bytes()
    for opened in (open_state, peek_state):
        with pytest.raises(StateError) as caught:
            opened(path, "shop")
        assert (str(path), 2) == (caught.value.where, caught.value.exit_code)
        assert "restore it from a backup" in (caught.value.hint or "")
    assert before == (path.is_dir() or path.read_bytes())


@pytest.mark.thorough
@pytest.mark.rule("L8")
def test_damage_that_a_run_meets_later_is_no_bug(path: Path, killed: Path) -> None:
    """A damaged block of the snapshot stops the run that reads it, and says so again in the next one."""
    place = 12_288 + int((killed / "block").read_text()) * BLOCK_BYTES + BLOCK_BYTES // 4
    flipped(lambda _: place)(path)
    with Sandbox() as sandbox:
        for delivered in (1, 0):
            record = run(path.parent, sandbox.url, AFTER)
            assert isinstance(record.error, StateError)
            assert (str(path), delivered) == (record.error.where, record.calls.delivered)
            assert "damaged" in record.error.message
    with pytest.raises(StateError, match="damaged"), peek_state(path, "shop") as state:
        state.db.execute("SELECT max(hash(row)) FROM state.snapshot").fetchall()

    assert "retl reset" in (record.error.hint or "")
    with open_state(path, "shop") as state, state.transaction():
        snapshot.forget(state)
    with Sandbox() as sandbox:
        assert run(path.parent, sandbox.url, AFTER).baseline


@pytest.mark.thorough
@pytest.mark.rule("L8")
def test_a_reset_is_a_way_out_though_rows_tell_the_history(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the rows of a first pass are damaged, a reset says that their history is lost, and goes on."""
    monkeypatch.chdir(tmp_path)
    users = {"id": [f"u{one}" for one in NUMBERS], "name": ["x"] * 20_000, "plan": ["y"] * 20_000}
    with Sandbox(keep=1) as sandbox:
        shop = Shop(tmp_path, sandbox.url, IDENTIFY)
        assert 20_000 == shop.run(Table(users)).calls.delivered
        with duckdb.connect(str(shop.state_path)) as db:
            block = "FROM pragma_storage_info('snapshot') WHERE segment_type = 'VARCHAR' AND block_id >= 0"
            ((damaged,),) = db.execute(f"SELECT block_id {block} LIMIT 1").fetchall()
        flipped(lambda _: 12_288 + damaged * BLOCK_BYTES + BLOCK_BYTES // 4)(shop.state_path)

        code, out, _ = runner(capsys)("reset", "shop.yml", "--yes", "--state-dir", str(tmp_path))

        assert (0, True) == (code, "the history of their first calls is lost" in out)
        assert 20_000 == shop.run(Table(users)).calls.delivered


def test_a_cut_off_log_is_used_as_far_as_it_goes(path: Path) -> None:
    """The end of the log that a power cut took is no damage: its transaction was never finished."""
    edited(lambda content: content[: len(content) // 2])(path.with_name("shop.duckdb.wal"))
    with open_state(path, "shop") as state:
        assert (20_000, 0) == (snapshot.row_count(state.db), pending(state.db))


@pytest.mark.parametrize("opened", [open_state, peek_state])
def test_a_file_that_was_there_is_missed(path: Path, opened: Callable[[Path, str], object]) -> None:
    """A log without its file, or a link that leads nowhere, is an error, and no new state is begun."""
    elsewhere = path.with_name("elsewhere")
    path.rename(elsewhere)
    with pytest.raises(StateError, match="its log is there"):
        opened(path, "shop")
    path.symlink_to(path.with_name("not mounted"))
    with pytest.raises(StateError, match=r"a link to .*not mounted"):
        opened(path, "shop")
    assert not path.exists()


ERRORS: list[tuple[duckdb.Error, type[RetlError] | None]] = [
    (duckdb.IOException("IO Error: Could not write file: No space left on device"), StorageError),
    (duckdb.IOException("Checkpoint failed. Original error: No space left on device"), StorageError),
    (duckdb.FatalException("FATAL Error: invalidated. Original error: Disk quota exceeded"), StorageError),
    (duckdb.IOException("Failure while replaying WAL file: Permission denied"), StorageError),
    (duckdb.OutOfMemoryException("Out of Memory Error: failed to allocate"), StorageError),
    (duckdb.TransactionException("cannot write: read-only"), StorageError),
    (duckdb.Error("Corrupt database file: computed checksum 1 does not match"), StateError),
    (
        duckdb.FatalException("Failed to create checkpoint because of error: Corrupt database file"),
        StateError,
    ),
    (duckdb.SerializationException("Failed to deserialize: field id mismatch"), StateError),
    (duckdb.IOException("Could not read enough bytes from file"), StateError),
    (duckdb.BinderException("Referenced column not found"), None),
    (duckdb.ConversionException("Could not convert string"), None),
]


@pytest.mark.parametrize(("error", "kind"), ERRORS, ids=lambda one: str(one)[:40])
def test_duckdbs_sentence_tells_damage_from_a_full_disk(
    error: duckdb.Error, kind: type[RetlError] | None
) -> None:
    """Whatever class DuckDB raises: a full disk is a StorageError, damage is not, and the hints fit."""
    found = storage_error(error)
    assert kind is (type(found) if found else None)
    assert isinstance(found, StateError) != ("make room" in (found.hint or "") if found else True)
    out_of_memory = isinstance(error, duckdb.OutOfMemoryException)
    assert out_of_memory == ("RETL_MEMORY_LIMIT" in (found.hint or "") if found else False)


def test_an_error_of_a_query_is_no_damage(tmp_path: Path) -> None:
    """Words of a value or of a column, such as corrupt or checksum, are not taken for those of DuckDB."""
    with duckdb.connect() as db:
        for query in ("SELECT checksum FROM range(1)", "SELECT 'corrupt'::INTEGER"):
            with pytest.raises(duckdb.Error) as caught:
                db.execute(query)
            assert storage_error(caught.value, tmp_path) is None
