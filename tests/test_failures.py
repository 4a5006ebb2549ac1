"""The world around a run fails: disk, memory, rights, paths, the reader of the output."""

import errno
import io
import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest
from harness import TWO_SYNCS as SYNC
from harness import Retl, runner, two_syncs
from ruamel.yaml import YAML

from retl.cli.errors import to_report
from retl.config.project import find_project, load_sync
from retl.errors import BugError, ConfigError, ExternalError, RetlError, StorageError
from retl.system import is_there, system_error


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with two syncs; the working folder of the test."""
    monkeypatch.chdir(tmp_path)
    return two_syncs(tmp_path)


@pytest.fixture
def retl(project: Path, capsys: pytest.CaptureFixture[str]) -> Retl:
    """Runs a command in the project; gives exit code, stdout and stderr."""
    return runner(capsys)


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "/state/a.duckdb"), StorageError),
        (OSError(errno.EROFS, "Read-only file system", "/state"), StorageError),
        (PermissionError(errno.EACCES, "Permission denied", b"/state"), StorageError),
        (OSError(errno.EIO, "Input/output error", "/state"), StorageError),
        (FileNotFoundError(errno.ENOENT, "No such file or directory", "/proc/x"), ConfigError),
        (OSError(errno.ENAMETOOLONG, "File name too long", "/" + "a" * 300), ConfigError),
        (NotADirectoryError(errno.ENOTDIR, "Not a directory", "/dev/null/x"), ConfigError),
        (OSError(errno.EMFILE, "Too many open files"), ExternalError),
        (ConnectionResetError(errno.ECONNRESET, "Connection reset by peer"), ExternalError),
        (OSError("without a number"), ExternalError),
        (MemoryError(), StorageError),
        (ImportError("libarrow.so: cannot allocate memory in static TLS block"), StorageError),
    ],
    ids=repr,
)
def test_an_error_of_the_system_is_never_a_bug(error: Exception, kind: type[RetlError]) -> None:
    """What the operating system refuses ends with 2 or 3, and names the file and a way on."""
    found = to_report(error)

    assert type(found) is kind
    assert found.hint
    assert ("/" in str(found)) == bool(getattr(error, "filename", None))


def test_an_error_of_the_system_can_be_traced(retl: Retl, monkeypatch: pytest.MonkeyPatch) -> None:
    """At the level `debug` the log shows where in the program the system refused."""
    monkeypatch.setenv("RETL_LOG_LEVEL", "debug")

    _, _, err = retl("run", "a", "--sandbox", "--state-dir", "/proc/x")

    assert "Traceback" in err
    assert "FileNotFoundError" in err


@pytest.mark.parametrize("error", [ValueError("odd"), ImportError("no module named x"), KeyboardInterrupt()])
def test_anything_else_is_a_bug_with_its_traceback(
    error: BaseException, capsys: pytest.CaptureFixture[str]
) -> None:
    """An error that neither retl nor the system knows has exit code 70, and its traceback is on stderr."""
    assert system_error(error) is None
    found = to_report(error)

    assert (BugError, 70) == (type(found), found.exit_code)
    assert type(error).__name__ in capsys.readouterr().err


def test_a_path_that_cannot_be_looked_up_is_not_taken_for_missing(tmp_path: Path) -> None:
    """Nothing there is an answer; a name too long, or a file in place of a folder, is an error."""
    assert not is_there(tmp_path / "x")
    assert is_there(tmp_path)
    for path in (tmp_path / ("x" * 300), Path("/dev/null/x")):
        with pytest.raises(ConfigError) as caught:
            is_there(path)
        assert caught.value.where == str(path)


@pytest.mark.parametrize(
    ("command", "folder"),
    [
        ("run --sandbox", "/proc/x"),
        *(
            (command, folder)
            for command in ("run --sandbox", "plan", "status", "rejected", "explain u1", "reset --yes")
            for folder in ("/dev/null/x", "/dev/full", "x" * 300, "syncs/a.yml")
        ),
    ],
)
def test_a_state_folder_that_cannot_be_is_an_error_with_its_place(
    retl: Retl, monkeypatch: pytest.MonkeyPatch, command: str, folder: str
) -> None:
    """A state folder that is a file, leads through one, or has too long a name is said so by each command."""
    monkeypatch.setenv("RETL_STATE_DIR", folder)

    name, *options = command.split()
    code, _, err = retl(name, "a", *options)

    assert code == 2
    assert err.startswith("error: ")
    assert folder in err.splitlines()[0]
    assert "→ correct the path" in err


def test_an_empty_state_folder_is_no_folder(retl: Retl) -> None:
    """`--state-dir ""`, as a script writes it whose variable is not set, is refused."""
    code, _, err = retl("plan", "a", "--state-dir", "")

    assert (2, True) == (code, "must not be empty" in err)


def test_a_bug_in_one_sync_does_not_stop_the_next(
    retl: Retl, monkeypatch: pytest.MonkeyPatch, project: Path
) -> None:
    """A sync that fails with a bug has its own JSON object with exit code 70; the next sync runs."""
    compose = YAML.compose

    # No file is known that leads to a bug, so a library makes one.
    def broken(yaml: YAML, stream: str) -> object:
        if "sql: broken" in stream:
            raise ZeroDivisionError
        return compose(yaml, stream)

    monkeypatch.setattr(YAML, "compose", broken)
    (project / "syncs/a.yml").write_text("sql: broken\nidentify: {}\n")

    code, out, err = retl("run", "syncs", "--sandbox", "--json")

    first, second = map(json.loads, out.splitlines())
    assert code == 70
    assert ("a", "failed", "bug", 70) == (
        first["sync"],
        first["status"],
        first["error"]["code"],
        first["exit_code"],
    )
    assert ("b", "succeeded", 1) == (second["sync"], second["status"], second["calls"]["delivered"])
    assert "ZeroDivisionError" in err


@pytest.mark.parametrize("command", ["run --sandbox", "plan", "check", "status"])
def test_each_sync_has_its_json_object_also_where_it_failed(retl: Retl, project: Path, command: str) -> None:
    """With --json each sync has one object on stdout, the ones that cannot be read as well."""
    (project / "syncs/a.yml").write_text("nonsense")

    code, out, _ = retl(*command.split(), "syncs", "--json")

    objects = {one["sync"]: one for one in map(json.loads, out.splitlines())}
    assert code == 2
    assert ["a", "b"] == sorted(objects)
    assert objects["a"]["error"]["code"] == "config"


@pytest.mark.parametrize("library", ["click", "duckdb", "rich"])
@pytest.mark.parametrize(
    ("raised", "code", "sentence"),
    [
        (
            "ImportError('duckdb.so: failed to map segment from shared object')",
            3,
            "there is not enough memory",
        ),
        ("MemoryError()", 3, "there is not enough memory"),
        ("OSError(24, 'Too many open files')", 3, "Too many open files"),
        ("ImportError('No module named x')", 2, "a library is missing or broken"),
    ],
)
def test_a_library_that_cannot_be_loaded_is_said_in_a_sentence(
    tmp_path: Path, library: str, raised: str, code: int, sentence: str
) -> None:
    """Where a library does not load, retl exits with 3 (no memory) or 2 (not there) and one sentence."""
    (tmp_path / f"{library}.py").write_text(f"raise {raised}\n")

    done = subprocess.run(
        [sys.executable, "-m", "retl", "status"],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )

    assert code == done.returncode
    assert f"error: retl cannot start: {sentence}" in done.stderr.replace("the system refuses: ", "")
    assert "Traceback" not in done.stderr


def test_a_signal_while_a_command_loads_is_said_as_one(tmp_path: Path) -> None:
    """Ctrl-C while libraries are loaded is no library that cannot be loaded."""
    (tmp_path / "dotenv.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGINT)\n")

    done = subprocess.run(
        [sys.executable, "-m", "retl", "status"],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )

    assert (130, "error: stopped by a signal") == (done.returncode, done.stderr.split(";")[0])


def test_a_working_folder_that_is_gone_is_said(
    retl: Retl, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a folder that was removed meanwhile, a command ends with exit code 2 and says so."""
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()

    code, _, err = retl("plan", "a")

    assert (2, "error: the working folder is gone\n  → change to one that exists\n") == (code, err)


def test_a_pipe_in_place_of_a_file_is_not_waited_for(retl: Retl, project: Path) -> None:
    """A pipe or a device in place of a tracking plan is refused; nothing waits for its end."""
    os.mkfifo(project / "plan.json")
    for path in ("plan.json", "/dev/zero"):
        code, _, err = retl("check", "a", "--tracking-plan", path)

        assert (2, f"error: {path}: cannot be read: it is not a file\n") == (code, err)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"A=\xff", ".env: is not UTF-8 text"),
        (b"A=a\0b", ".env: holds a character of code 0, which no value may have"),
        (b"#" * 1_000_001, ".env: cannot be read: it is larger than 1,000,000 bytes"),
    ],
    ids=["latin-1", "zero", "large"],
)
def test_an_env_file_that_is_none(retl: Retl, project: Path, text: bytes, message: str) -> None:
    """A .env that is not text, or larger than any, is an error that names it."""
    (project / ".env").write_bytes(text)

    code, _, err = retl("plan", "a")

    assert (2, f"error: {message}\n") == (code, err)


@pytest.mark.variants(1)
@pytest.mark.parametrize(
    "text", [b"", b"\xef\xbb\xbfA=1", b"A", b"=", b"A=\nB='\n", b"export A=1\n\n\r\nx y z\n#\n'\"=="]
)
def test_odd_lines_of_an_env_file_are_passed_over(retl: Retl, project: Path, text: bytes) -> None:
    """Lines of .env that say nothing do no harm."""
    (project / ".env").write_bytes(text)

    assert retl("plan", "a", "--sandbox")[0] == 0


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("gone.pem", None, "No such file or directory"),
        ("folder.pem", None, "Is a directory"),
        ("empty.pem", "", "no certificate"),
        ("wrong.pem", "-----BEGIN CERTIFICATE-----\nx\n-----END CERTIFICATE-----\n", ""),
    ],
)
def test_certificates_that_cannot_be_read_are_a_setting_to_fix(
    retl: Retl, project: Path, name: str, text: str | None, reason: str
) -> None:
    """An `ssl_cert` that is no file of certificates is an error of the sync file, also to `check`."""
    (project / "folder.pem").mkdir()
    if text is not None:
        (project / name).write_text(text)
    sync = project / "syncs/a.yml"
    sync.write_text(f"{SYNC}segment: {{ssl_cert: {name}, write_key: k}}\n", encoding="utf-8")

    for command in ("check", "run"):
        code, _, err = retl(command, "a")

        assert code == 2
        assert err.startswith(
            f"error: syncs/a.yml:5 segment.ssl_cert: no certificates can be read from {name}"
        )
        assert reason in err.lower() or reason in err


@pytest.mark.parametrize("proxy", ["http://[::1", "http://me:secret@[zz]:1", "http://host:port"])
def test_a_proxy_that_is_no_url_is_a_setting_to_fix(
    retl: Retl, project: Path, monkeypatch: pytest.MonkeyPatch, proxy: str
) -> None:
    """A proxy of the environment that is no URL ends a run with exit code 2, and is not shown."""
    sync = project / "syncs/a.yml"
    sync.write_text(
        f"{SYNC}segment: {{endpoint: 'http://segment.invalid', write_key: k}}\n", encoding="utf-8"
    )
    monkeypatch.setenv("http_proxy", proxy)

    code, _, err = retl("run", "a")

    assert code == 2
    assert "a proxy in the environment" in err
    assert "secret" not in err


@pytest.mark.parametrize("folder", ["~nobody-of-this-name/state", "~nobody-of-this-name"])
def test_a_home_folder_that_is_not_known_is_said(
    retl: Retl, monkeypatch: pytest.MonkeyPatch, folder: str
) -> None:
    """A `~name` of which the system knows no home folder is an error that shows it."""
    monkeypatch.setenv("RETL_STATE_DIR", folder)

    code, _, err = retl("plan", "a")

    assert code == 2
    assert err.startswith(f"error: {folder}: there is no home folder to put in place of `~`\n")


def test_a_path_that_is_not_text_is_said(project: Path) -> None:
    """A folder whose name is not UTF-8 can hold neither a project nor a state, and the error shows it."""
    odd = project / os.fsdecode(b"\xff")
    with pytest.raises(ConfigError, match="this path is not UTF-8 text"):
        find_project(odd / "syncs", {}).state_dir(odd)
    with pytest.raises(ConfigError, match="this path is not UTF-8 text"):
        load_sync(project / os.fsdecode(b"syncs/\xff.yml"), find_project(project, {}))
    (odd / "syncs").mkdir(parents=True)
    with pytest.raises(ConfigError, match="this path is not UTF-8 text"):
        find_project(odd, {})


def test_an_argument_that_is_not_text_is_refused(retl: Retl, monkeypatch: pytest.MonkeyPatch) -> None:
    """No command gets an argument that is not UTF-8: it could not look for it in a state."""
    # What pytest captures cannot print the byte; the stderr of a process can.
    monkeypatch.setattr(sys, "stderr", io.TextIOWrapper(io.BytesIO(), errors="backslashreplace"))

    assert retl("explain", "a", os.fsdecode(b"\xff"))[0] == 2


@pytest.mark.parametrize("argument", ["x" * 300, "a" * 5_000 + ".yml", "a\nb", "syncs/a.yml/b"])
def test_an_argument_that_names_nothing(retl: Retl, argument: str) -> None:
    """A sync that cannot exist is one that does not exist."""
    code, _, err = retl("plan", argument)

    assert code == 2
    assert err.startswith(("error: there is no sync", "error: there is no file"))


@pytest.mark.thorough
@pytest.mark.parametrize("room", [0, 200_000])
def test_a_disk_that_is_full_is_no_bug(project: Path, room: int) -> None:
    """Where files cannot grow any more, a run ends with exit code 3 and says what to do."""

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, room))

    command = [sys.executable, "-m", "retl", "run", "a", "--sandbox"]
    done = subprocess.run(command, cwd=project, preexec_fn=limit, capture_output=True, text=True, check=False)

    assert (3, "") == (done.returncode, done.stdout)
    assert "make room" in done.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        "run a --sandbox --limit 99999999999999999999",
        "run a --sandbox --deadline 99999999999999999999",
        "run a --sandbox --deadline \u0663s",
        "plan a --samples 99999999999999999999",
        "rejected a --limit 99999999999999999999",
        "check a --receiver insider --sample 99999999999999999999",
        "sandbox --failures latency=99999999999999999999s",
        "sandbox --failures 429=1e400",
    ],
)
def test_a_number_beyond_all_measure_is_refused(retl: Retl, arguments: str) -> None:
    """An option takes no number that no part of the program could count to."""
    assert retl(*arguments.split())[0] == 2
