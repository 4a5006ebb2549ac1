"""`retl sandbox`: a local Segment."""

import gc
import os
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import click
from rich.text import Text

from retl.cli.console import as_json_line, console, count
from retl.cli.options import MOST
from retl.cli.rehearsed_receivers import project_receivers
from retl.cli.webhooks import WebhookOptions, read_webhooks, takes_webhooks, webhook_report
from retl.errors import ConfigError, Interrupted
from retl.sandbox.failures import Failures
from retl.sandbox.page.page_routes import page_routes
from retl.sandbox.receivers_api import receiver_routes
from retl.sandbox.routes import Route
from retl.sandbox.server import Sandbox
from retl.sandbox.stand_ins import StandIns
from retl.sandbox.standing import PORT_VARIABLE, USUAL_PORT, Announcement, find_standing
from retl.sandbox.store import KEPT_CALLS, Store
from retl.sandbox.webhooks import Webhooks

PORT = click.IntRange(0, 65535)

SECONDS = click.FloatRange(0, MOST)


@click.command("sandbox")
@click.option(
    "--port",
    type=PORT,
    default=USUAL_PORT,
    envvar=PORT_VARIABLE,
    help=f"0 takes a free one; default: {PORT_VARIABLE}, else {USUAL_PORT}.",
)
@click.option(
    "--failures",
    "--faults",
    "failures",
    default="",
    help="Failures to simulate, with commas between them: 429, 500, hang, lost_answer, each with its "
    "probability; latency=30ms; rate=1000, to answer 429 where more calls come in a second.",
)
@click.option("--seconds", type=SECONDS, help="End after so many seconds.")
@click.option("--idle", type=SECONDS, help="End after so many seconds without a request.")
@click.option(
    "--keep",
    type=click.IntRange(10, MOST),
    default=KEPT_CALLS,
    help=f"Calls that are kept to be looked at, the newest. [default: {KEPT_CALLS:,}]",
)
@click.option("--stop", is_flag=True, help="End the sandbox that was started for this port.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON: an object at the start, one at the end.")
@click.option("--any-port", is_flag=True, hidden=True, help="Take a free port where that one is taken.")
@takes_webhooks
def sandbox_command(
    port: int,
    failures: str,
    seconds: float | None,
    idle: float | None,
    keep: int,
    stop: bool,
    as_json: bool,
    any_port: bool,
    webhooks: WebhookOptions,
) -> int:
    """Run a local Segment until it is interrupted; its calls can be looked at, at its address.

    Example: retl sandbox --failures 429=0.05,lost_answer=0.02,latency=30ms
    """
    if stop:
        _stop(port, as_json)
        return 0
    gc.freeze()  # what is loaded stays
    announcement, forwarded = Announcement(), Webhooks()
    project, rehearsal = project_receivers()
    routes = (
        *announcement.routes,
        *page_routes(rehearsal, forwarded),
        *receiver_routes(rehearsal),
        *StandIns().routes,
        *forwarded.routes,
    )
    with _listening(port, any_port, routes, Failures.parse(failures), keep) as sandbox, forwarded:
        forwarded.start(read_webhooks(webhooks, project.env, sandbox.url), sandbox.store)
        asked_for = port if any_port else int(sandbox.url.rpartition(":")[2])
        with _announced(announcement, sandbox.url, asked_for):
            _print_start(sandbox.url, forwarded.summary(), as_json)
            reason = _wait(sandbox, announcement, seconds, idle)
        _print_end(reason, {**sandbox.summary(), "webhooks": forwarded.summary()}, as_json)
    return 0


@contextmanager
def _listening(
    port: int, any_port: bool, routes: Sequence[Route], failures: Failures, keep: int
) -> Iterator[Sandbox]:
    """A sandbox on the port; on any free one where that is taken, and `any_port` allows for it."""

    def sandbox(port: int) -> Sandbox:
        # What Python holds of the calls beside the tables is for tests.
        return Sandbox(port, routes, failures=failures, keep=0, store=Store(keep))

    started = sandbox(port)
    try:
        started.__enter__()
    except ConfigError as error:
        if not any_port:
            if find_standing(port) is not None:
                error.hint = "one of yours is up there already; retl sandbox --stop ends it"
            raise
        started = sandbox(0)
        started.__enter__()
    try:
        yield started
    finally:
        started.__exit__()


@contextmanager
def _announced(announcement: Announcement, url: str, port: int) -> Iterator[None]:
    """Let other commands find the sandbox, where that can be; it works without, too."""
    with ExitStack() as stack:
        try:
            stack.enter_context(announcement.of(url, port))
        except (ConfigError, OSError) as error:
            click.echo(f"other commands will not find it: {error}", err=True)
        yield


def _wait(sandbox: Sandbox, announcement: Announcement, seconds: float | None, idle: float | None) -> str:
    """Wait for the end of the sandbox; gives its reason in a word."""
    began = time.monotonic()
    try:
        while True:
            now = time.monotonic()
            left = {
                "seconds": began + seconds - now if seconds is not None else MOST,
                "idle": sandbox.asked_at + idle - now if idle is not None else MOST,
            }
            reason = min(left, key=lambda name: left[name])
            if left[reason] <= 0:
                return reason
            if announcement.stop_asked.wait(min(left[reason], threading.TIMEOUT_MAX)):
                return "stopped"
    except Interrupted:
        return "interrupted"


def _print_start(url: str, webhooks: Sequence[Mapping[str, Any]], as_json: bool) -> None:
    names = [one["webhook"] for one in webhooks]
    if as_json:
        told = {"event": "listening", "url": url, "calls": f"{url}/calls.json", "webhooks": names}
        print(as_json_line({**told, "pid": os.getpid()}), flush=True)
        return
    click.echo(f"a local Segment listens on {url}; open it in a browser to see its calls")
    click.echo(
        "a sync or retl.yml sends there by:\n"
        f"  segment: {{endpoint: {url}, write_key: sandbox, name: sandbox}}"
    )
    for name in names:
        click.echo(f"each accepted call goes on to {name}")


def _print_end(reason: str, summary: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print(as_json_line({"event": "ended", "reason": reason, **summary}))
        return
    discarded = sum(summary["discarded"].values())
    console().print(sandbox_report(summary["accepted"], discarded, summary["duplicates"]))
    for told in summary["webhooks"]:
        console().print(webhook_report(told))


def _stop(port: int, as_json: bool) -> None:
    standing = find_standing(port)
    if standing is not None:
        standing.stop()
    if as_json:
        print(as_json_line({"event": "stopped", "url": standing.url if standing is not None else None}))
    elif standing is not None:
        click.echo(f"the sandbox on {standing.url} has ended")
    else:
        click.echo(f"there is no sandbox of yours for port {port}")


def sandbox_report(accepted: int, discarded: int, duplicates: int) -> Text:
    """The number of calls that the sandbox accepted, discarded, and had before, in one line."""
    line = Text.assemble(("sandbox", "bold"), f": {count(accepted, 'call')} accepted")
    line.append(f", {discarded:,} discarded", "red" if discarded else "")
    line.append(f", {count(duplicates, 'duplicate')}")
    return line
