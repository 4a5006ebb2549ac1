"""`retl sandbox`: a local Segment."""

import threading
from typing import Any

import click
from rich.text import Text

from retl.cli.console import console, count
from retl.errors import Interrupted
from retl.sandbox.failures import Failures
from retl.sandbox.server import Sandbox


@click.command("sandbox")
@click.option(
    "--port", type=click.IntRange(0, 65535), default=8765, help="0 takes a free one. [default: 8765]"
)
@click.option(
    "--failures",
    "--faults",
    "failures",
    default="",
    help="Failures to simulate, with commas between them: 429, 500, hang, lost_answer, each with its "
    "probability; latency=30ms; rate=1000, to answer 429 where more calls come in a second.",
)
def sandbox_command(port: int, failures: str) -> int:
    """Run a local Segment until it is interrupted; what it took is listed as JSON at its address.

    Example: retl sandbox --failures 429=0.05,lost_answer=0.02,latency=30ms
    """
    with Sandbox(port, failures=Failures.parse(failures)) as sandbox:
        click.echo(f"a local Segment listens on {sandbox.url}; its calls: {sandbox.url}/calls.json")
        click.echo("in the sync: segment: {endpoint: " + sandbox.url + ", write_key: sandbox}")
        try:
            threading.Event().wait()
        except Interrupted:
            console().print(sandbox_report(sandbox.summary()))
    return 0


def sandbox_report(summary: dict[str, Any]) -> Text:
    """The calls of a rehearsal that the sandbox accepted, discarded, and had before.

    Args:
        summary: as `Sandbox.summary` gives it.
    """
    discarded = sum(summary["discarded"].values())
    line = Text.assemble(("sandbox", "bold"), f": {count(summary['accepted'], 'call')} accepted")
    line.append(f", {discarded:,} discarded", "red" if discarded else "")
    line.append(f", {count(summary['duplicates'], 'duplicate')}")
    return line
