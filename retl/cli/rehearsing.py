"""The sandbox of a rehearsal: one for the command alone, or one that stays up for whoever looks at it."""

import os
import subprocess
import sys
import webbrowser
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from filelock import FileLock, Timeout
from rich.text import Text

from retl.cli.console import Printer, console
from retl.cli.sandbox import sandbox_report
from retl.errors import ExternalError
from retl.sandbox.counts import NAMES
from retl.sandbox.server import Sandbox
from retl.sandbox.standing import StandingSandbox, announcement_file, find_standing, usual_port
from retl.version import __version__

IDLE_SECONDS = 1800
"""A sandbox that stays up ends after so long without a request."""

START_SECONDS = 60.0
"""How long another command is waited for that starts one just now."""

PACKAGE = Path(__file__).parent.parent


@dataclass(frozen=True)
class RehearsalSandbox:
    """The sandbox of a rehearsal.

    Attributes:
        url: its address.
        run_ids: of the runs that were sent to it, to be added by whoever sends.
    """

    url: str
    run_ids: list[str] = field(default_factory=list)


@contextmanager
def own_sandbox(printer: Printer) -> Iterator[RehearsalSandbox]:
    """A sandbox for as long as the context lasts; at its end the counts are printed."""
    with Sandbox() as own:
        yield RehearsalSandbox(own.url)
        summary = own.summary()
        if summary["requests"]:
            _print(printer, summary["accepted"], sum(summary["discarded"].values()), summary["duplicates"])


@contextmanager
def standing_sandbox(printer: Printer) -> Iterator[RehearsalSandbox]:
    """A sandbox that stays up, and its page in the browser; at the end the counts of the runs are printed.

    Raises:
        ConfigError: the folder by which it is found is not this user's alone.
        ExternalError: it cannot be started.
    """
    standing = _found_or_started(usual_port())
    _open(standing.url)
    rehearsal = RehearsalSandbox(standing.url)
    yield rehearsal
    summary = standing.summary() or {"runs": []}
    runs = [run for run in summary["runs"] if run["run_id"] in rehearsal.run_ids]
    if runs:
        accepted, discarded, duplicates = (sum(run[name] for run in runs) for name in NAMES.values())
        _print(printer, accepted, discarded, duplicates)
    if not printer.quiet:
        told = console(stderr=printer.as_json)
        told.print(Text.assemble("look at the calls: ", (standing.url, "bold")))
        minutes = IDLE_SECONDS // 60
        ending = f"it ends after {minutes} minutes without a request, or by retl sandbox --stop"
        told.print(ending, style="dim")


def _print(printer: Printer, accepted: int, discarded: int, duplicates: int) -> None:
    if not printer.as_json and not printer.quiet:
        console().print(sandbox_report(accepted, discarded, duplicates))


def _open(url: str) -> None:
    """Open a page in the browser, where there is one that has a window of its own."""
    windows = sys.platform in {"darwin", "win32"} or any(
        os.environ.get(name) for name in ("BROWSER", "DISPLAY", "WAYLAND_DISPLAY")
    )
    if windows:  # else Python would take a browser of the terminal, and the terminal with it
        with suppress(webbrowser.Error):
            webbrowser.open(url)


def _found_or_started(port: int) -> StandingSandbox:
    """The sandbox of this user for a port; one that another version of retl started is ended before."""
    try:
        with FileLock(announcement_file(port).with_suffix(".lock"), timeout=START_SECONDS):
            found = find_standing(port)
            if found is not None and found.version != __version__:
                found.stop()
                found = None
            return found or _started(port)
    except Timeout as error:
        raise ExternalError(
            "another command has been starting a sandbox for a minute", hint="run it again"
        ) from error


def _started(port: int) -> StandingSandbox:
    """A sandbox in a process of its own, which goes on when this one has ended."""
    options = ["--port", str(port), "--any-port", "--idle", str(IDLE_SECONDS), "--json"]
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "retl", "sandbox", *options],  # whatever a project's folders are named
        env=_environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,  # so that Ctrl-C in this terminal is not for it
    )
    assert process.stdout is not None and process.stderr is not None
    with process.stdout, process.stderr:
        started = process.stdout.readline()
        found = find_standing(port) if started else None
        if found is None:
            process.kill()
            process.wait()
            said = process.stderr.read().strip()
            raise ExternalError(f"the sandbox did not start: {said}", hint="try retl sandbox")
    process.returncode = 0  # nobody waits for it
    return found


def _environment() -> dict[str, str]:
    """The environment of a process that outlives the command: without its settings and secrets."""
    kept = {name: text for name, text in os.environ.items() if not name.startswith(("RETL_", "SEGMENT_"))}
    paths = (str(PACKAGE.parent), kept.get("PYTHONPATH", ""))
    return {**kept, "PYTHONPATH": os.pathsep.join(filter(None, paths))}
