"""The entry of the command line: the commands, the log, and an exit code for each error."""

import os
import sys
from collections.abc import Sequence

import click

from retl import signals
from retl.cli import log, output
from retl.cli.check import check_command
from retl.cli.console import Printer
from retl.cli.discard import discard_command
from retl.cli.errors import to_report
from retl.cli.explain import explain_command
from retl.cli.plan import plan_command
from retl.cli.rejected import rejected_command
from retl.cli.rekey import rekey_command
from retl.cli.reset import reset_command
from retl.cli.retry import retry_command
from retl.cli.run import run_command
from retl.cli.sandbox import sandbox_command
from retl.cli.schema import schema_command
from retl.cli.status import status_command
from retl.errors import ConfigError
from retl.system import in_utf8
from retl.version import __version__


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="retl")
@click.option(
    "--log-format",
    type=click.Choice(["text", "json"]),
    default="text",
    help="Format of the log on stderr. [default: text]",
)
def cli(log_format: str) -> None:
    """Send what changed in a SQL model to Twilio Segment, and remember what was sent."""
    level = os.environ.get("RETL_LOG_LEVEL", "info").lower()
    if level not in {"debug", "info", "warning", "error"}:
        raise ConfigError(f"RETL_LOG_LEVEL is `{level}`", hint="it is one of debug, info, warning and error")
    log.set_up_logs(level, as_json=log_format == "json")


COMMANDS = (
    check_command,
    discard_command,
    explain_command,
    plan_command,
    rejected_command,
    rekey_command,
    reset_command,
    retry_command,
    run_command,
    sandbox_command,
    schema_command,
    status_command,
)
"""All commands; `retl NAME` is `NAME_command` in `retl/cli/NAME.py`, so its name is enough to find it."""

for command in COMMANDS:
    cli.add_command(command)


def main() -> None:
    """Run the command line and exit with its code."""
    os.umask(0o077)  # state and plans hold personal data
    output.set_up()
    signals.listen()
    code = output.close(execute())
    if code > 1:
        # All is closed. The rest of a query that DuckDB had to stop would print errors while Python ends.
        os._exit(code)
    sys.exit(code)


def execute(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns its exit code.

    Args:
        arguments: without the program's name; None takes those of the process.
    """
    try:
        for one in sys.argv[1:] if arguments is None else arguments:
            in_utf8(one, "this argument")
        code = cli.main(arguments, prog_name="retl", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except click.Abort:
        click.echo("nothing was done; answer with y, or give --yes", err=True)
        return 2
    except SystemExit:
        raise
    except BaseException as error:  # a library in Rust raises panics that are no Exception
        found = to_report(error)
        Printer().error(found)
        return found.exit_code
    return code if isinstance(code, int) else 0
