"""The entry of the command line: the commands, the log, and an exit code for each error."""

import logging
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from retl import signals
from retl.cli import output
from retl.cli.commands import CannotStart, LazyGroup
from retl.errors import ConfigError
from retl.lazy import lazy_module
from retl.system import in_utf8
from retl.version import __version__

if TYPE_CHECKING:
    from retl.cli import console, errors, log
else:
    console = lazy_module("retl.cli.console")
    errors = lazy_module("retl.cli.errors")
    log = lazy_module("retl.cli.log")


@click.group(
    cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100}
)
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


def main() -> None:
    """Run the command line and exit with its code."""
    os.umask(0o077)  # state and plans hold personal data
    # Pydantic would look through all packages that are installed for one that wants to hear of each model.
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
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
        if log.json_logs():
            said, code = error.format_message(), error.exit_code
            log.say(
                logging.ERROR, log.LogAction.FAILED, said, code="usage", hint="see --help", exit_code=code
            )
        else:
            error.show()
        return error.exit_code
    except click.Abort:
        said = "nothing was done; answer with y, or give --yes"
        if log.json_logs():
            log.say(logging.ERROR, log.LogAction.FAILED, said, code="usage", hint=None, exit_code=2)
        else:
            click.echo(said, err=True)
        return 2
    except CannotStart as error:
        click.echo(f"error: {error}", err=True)
        return error.error.exit_code
    except SystemExit:
        raise
    except BaseException as error:  # a library in Rust raises panics that are no Exception
        found = errors.to_report(error)
        console.Printer().error(found)
        return found.exit_code
    return code if isinstance(code, int) else 0
