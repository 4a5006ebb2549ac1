"""States that are encrypted with a key from the environment.

DuckDB writes encrypted files with its extension httpfs alone, which `make test-encryption` brings along.
"""

import importlib.util
import json
from pathlib import Path

import duckdb
import pytest
from harness import Retl, runner

from retl.encryption import StateKey, state_key
from retl.errors import ConfigError
from retl.mask import masked
from retl.sandbox.failures import Reply
from retl.sandbox.server import Sandbox
from retl.state import open_state, peek_state
from torture.bucket import BUCKET, Bucket

KEY = "0123456789abcdef-it's"
OTHER = "another key of the state".replace(" ", "_")
SECRET = "ada.lovelace@example.com"
PACKAGES = {"duckdb_extension_httpfs": "extensions", "duckdb_ext": "extensions"}


def extension() -> Path | None:
    """The file of DuckDB's extension httpfs for this version, of a package that is installed."""
    for package, folder in PACKAGES.items():
        spec = importlib.util.find_spec(package)
        for place in spec.submodule_search_locations or () if spec else ():
            found = Path(place, folder, f"v{duckdb.__version__}").rglob("httpfs.duckdb_extension")
            if path := next(found, None):
                return path
    return None


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home folder, where DuckDB looks for extensions, without one."""
    folder = tmp_path / "home"
    folder.mkdir()
    monkeypatch.setenv("HOME", str(folder))
    return folder


@pytest.fixture
def openssl(home: Path) -> None:
    """The extension, installed as the hint of the error says."""
    path = extension()
    if path is None:  # no package has it for this DuckDB; CI runs these tests with one that has
        pytest.skip("needs DuckDB's extension httpfs: make test-encryption")
    with duckdb.connect() as db:
        db.execute(f"INSTALL '{path}'")


@pytest.fixture
def retl(
    tmp_path: Path,
    sandbox: Sandbox,
    home: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Retl:
    """Runs a command in a project with one sync, whose rows are personal data, and with a key."""
    project = tmp_path / "project"
    (project / "syncs").mkdir(parents=True)
    monkeypatch.chdir(project)
    monkeypatch.setenv("SEGMENT_WRITE_KEY", "key")
    monkeypatch.setenv("RETL_STATE_KEY", KEY)
    monkeypatch.setenv("RETL_LOG_LEVEL", "debug")
    (project / "syncs/users.yml").write_text(
        f"sql: SELECT 'u' || i AS id, '{SECRET}' AS email FROM range(3) AS t (i)\n"
        "warehouse: 'duckdb://'\nprimary_key: id\n"
        "identify: {user_id: id, traits: {email: email}}\n"
        f"segment: {{endpoint: '{sandbox.url}', events_per_second: 0}}\n"
    )
    return runner(capsys)


def holding(folder: Path, *values: str) -> list[str]:
    """The files in a folder that hold one of these values."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    return [path.name for path in files if any(one.encode() in path.read_bytes() for one in values)]


@pytest.mark.parametrize("key", ["short", "0123456789 abcdef", "0123456789\\xabcdef", "schlüssel-schlüssel"])
def test_a_key_that_duckdb_would_read_in_its_own_way_is_refused(key: str) -> None:
    """The error names the variable, not the key, and says how to make one."""
    with pytest.raises(ConfigError, match="16 or more ASCII") as caught:
        state_key({"RETL_STATE_KEY": key})
    assert "openssl rand" in (caught.value.hint or "")
    assert key not in f"{caught.value} {caught.value.hint}"


def test_a_key_is_taken_out_of_tracebacks() -> None:
    """A bug's traceback may quote anything, but for the key of the state."""
    key = "0123456789abcdef-" * 2
    state_key({"RETL_STATE_KEY": key})
    assert "attach ***" == masked(f"attach {key}")


def test_a_key_does_not_show_itself() -> None:
    """The key is in no representation, as tracebacks of some tools print."""
    assert KEY not in repr(StateKey(KEY))


@pytest.mark.rule("P6")
def test_without_openssl_nothing_is_written(retl: Retl, home: Path, sandbox: Sandbox) -> None:
    """Where DuckDB cannot encrypt safely, the run stops before it makes a state, and says what to install."""
    code, out, err = retl("run", "users")
    assert 2 == code
    assert "INSTALL httpfs" in err
    assert KEY not in out + err
    assert [] == [path.name for path in Path("state").glob("*.duckdb*") if path.suffix == ".duckdb"]
    assert [] == sandbox.accepted


@pytest.mark.rule("P5")
def test_no_row_can_be_read_in_any_file(openssl: None, tmp_path: Path) -> None:
    """State, log and spilled rows hold neither a known value nor the key."""
    path, other = tmp_path / "state" / "users.duckdb", tmp_path / "plain" / "users.duckdb"
    found = []
    for file, key in ((path, StateKey(KEY)), (other, None)):
        open_state(file, "users", key=key).db.close()
        with open_state(file, "users", memory=100_000_000, key=key) as state:
            state.db.execute("SET threads = 1")
            insert = (
                "INSERT INTO state.rejected_row BY NAME SELECT '{}' || i AS key, 'r' AS reason, 1 AS rows, "
                "now() AS first_seen, now() AS last_seen, 1 AS times FROM range(9) t(i)"
            )
            state.db.execute(insert.format(SECRET))
            state.db.execute("CHECKPOINT state")
            state.db.execute(insert.format("in-the-log"))
            state.db.execute(
                """
                CREATE TEMP TABLE large AS
                SELECT 'spilled' || repeat('x', 60) || md5(i::VARCHAR) AS value FROM range(1_500_000) t(i)
                ORDER BY hash(i)
                """
            )
            names = {one.suffix for one in file.parent.rglob("*") if one.is_file()}
            assert {".duckdb", ".wal", ".tmp"} <= names
            found.append(holding(file.parent, SECRET, "in-the-log", "spilled", KEY))
    assert [] == found[0]
    assert {"users.duckdb", "users.duckdb.wal"} < set(found[1]), (
        "the same values are found where there is no key"
    )


@pytest.mark.rule("P5")
def test_a_run_goes_on_from_an_encrypted_state(openssl: None, retl: Retl, sandbox: Sandbox) -> None:
    """Runs, plans and other commands read what the run before wrote, and print no key."""
    printed = "".join(out + err for _, out, err in [retl("run", "users"), retl("run", "users", "--json")])
    for command in (("plan", "users"), ("status",), ("explain", "users", "u1"), ("rejected", "users")):
        code, out, err = retl(*command)
        assert 0 == code
        printed += out + err
    assert 3 == len(sandbox.accepted)
    assert KEY not in printed
    assert [] == holding(Path("state"), SECRET, KEY)


@pytest.mark.rule("P6")
@pytest.mark.parametrize("key", [None, OTHER], ids=["no key", "another key"])
def test_the_wrong_key_is_an_error(
    openssl: None, retl: Retl, monkeypatch: pytest.MonkeyPatch, key: str | None
) -> None:
    """Each command ends with exit code 2, says which variable is to be set, and leaves the file as it is."""
    retl("run", "users")
    before = Path("state/users.duckdb").read_bytes()
    monkeypatch.delenv("RETL_STATE_KEY")
    if key:
        monkeypatch.setenv("RETL_STATE_KEY", key)
    for command in (("run", "users"), ("plan", "users"), ("reset", "users", "--purge", "--yes")):
        code, out, err = retl(*command)
        assert (2, "") == (code, out)
        assert "RETL_STATE_KEY" in err
        assert "to start anew, move it away" in " ".join(err.split())
        assert KEY not in err
        assert OTHER not in err
    assert before == Path("state/users.duckdb").read_bytes()


@pytest.mark.rule("P7")
def test_a_state_is_encrypted_with_all_that_it_holds(
    openssl: None, retl: Retl, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A plain state is refused with the way to encrypt it; calls that wait leave once, under their ids."""
    monkeypatch.delenv("RETL_STATE_KEY")
    sandbox.script([Reply(status=401)])
    assert 2 == retl("run", "users")[0]
    with peek_state(Path("state/users.duckdb"), "users") as state:
        ids = {one for (one,) in state.db.execute("SELECT destination_id FROM state.metadata").fetchall()}
        tables = state.db.execute("SELECT table_name, sql FROM duckdb_tables() ORDER BY ALL").fetchall()
    monkeypatch.setenv("RETL_STATE_KEY", KEY)
    code, _, err = retl("run", "users")
    assert 2 == code
    assert "retl encrypt SYNC" in err

    assert (0, "users: the state is encrypted\n") == retl("encrypt", "users")[:2]

    assert [] == holding(Path("state"), SECRET, KEY)
    assert 0o600 == Path("state/users.duckdb").stat().st_mode & 0o777
    with peek_state(Path("state/users.duckdb"), "users", key=StateKey(KEY)) as state:
        found = state.db.execute("SELECT table_name, sql FROM duckdb_tables() ORDER BY ALL").fetchall()
        assert ids == {
            one for (one,) in state.db.execute("SELECT destination_id FROM state.metadata").fetchall()
        }
    assert tables == found
    assert 0 == retl("run", "users")[0]
    assert 3 == len({call["messageId"] for call in sandbox.accepted}) == len(sandbox.accepted)


@pytest.mark.rule("P7")
def test_a_key_is_changed_and_given_up(
    openssl: None, retl: Retl, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the key of before in RETL_STATE_OLD_KEY a state gets another one, and with --decrypt none."""
    retl("run", "users")
    monkeypatch.setenv("RETL_STATE_KEY", OTHER)
    code, _, err = retl("encrypt", "users")
    assert 2 == code
    assert "RETL_STATE_OLD_KEY" in err
    monkeypatch.setenv("RETL_STATE_OLD_KEY", KEY)
    Path("state/users.duckdb.new").write_bytes(b"half of a file")
    assert 0 == retl("encrypt", "users")[0]
    assert "with this key already" in retl("encrypt", "users")[1]
    assert "no changes" in retl("run", "users")[1]

    assert 0 == retl("encrypt", "users", "--decrypt")[0]
    monkeypatch.delenv("RETL_STATE_KEY")
    assert "no changes" in retl("run", "users")[1]
    assert 3 == len(sandbox.accepted)


@pytest.mark.rule("P6")
def test_damage_to_an_encrypted_state_is_told_as_damage(openssl: None, retl: Retl) -> None:
    """Bytes that are not those which were written are damage, not a wrong key and not a bug."""
    retl("run", "users")
    path = Path("state/users.duckdb")
    written = bytearray(path.read_bytes())
    for at in range(12_288, len(written), 4_096):
        written[at] ^= 255
    path.write_bytes(written)
    code, _, err = retl("run", "users")
    assert 2 == code
    assert "damaged" in err


@pytest.mark.rule("P5")
def test_a_state_in_a_bucket_is_encrypted_too(
    openssl: None, retl: Retl, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is uploaded holds no value and no key; it can get another key there, and goes on with it."""
    with Bucket() as bucket:
        for name, value in bucket.settings.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("RETL_STATE_DIR", f"s3://{BUCKET}/retl/")

        def leaks() -> list[str]:
            return [key for key, content in bucket.objects.items() if SECRET.encode() in content]

        assert 0 == retl("run", "users")[0]
        assert [] == leaks()
        monkeypatch.setenv("RETL_STATE_OLD_KEY", KEY)
        monkeypatch.setenv("RETL_STATE_KEY", OTHER)
        assert 2 == retl("run", "users")[0]
        assert 0 == retl("encrypt", "users")[0]
        code, said, _ = retl("run", "users", "--json")
        assert (0, 3, []) == (code, json.loads(said)["unchanged"], leaks())
        assert 0 == retl("encrypt", "users", "--decrypt")[0]
        assert [] != leaks()
