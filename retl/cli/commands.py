"""The commands by name, each with its line in `retl --help`; a command's own module is loaded to run it."""

import click

from retl.errors import RetlError
from retl.lazy import lazy_module

COMMANDS = {
    "check": "Check sync files, their models and their settings; without SYNC, all in syncs/.",
    "discard": "Forget the rejected calls, or with --pending those that wait.",
    "encrypt": "Encrypt the state of a sync with the key in RETL_STATE_KEY, or give it another key.",
    "explain": "Show the calls of one row or user, and what receivers would make of them.",
    "init": "Make a new project in FOLDER, or here: a model, two syncs, and settings.",
    "plan": "Show what a run would send; nothing is sent, and nothing changes.",
    "rejected": "Show the rows and calls that could not be sent, and why.",
    "rekey": "Say that a new write key or endpoint is the same Segment source: state and pending calls go "
    "on.",
    "reset": "Forget what was sent: the next run is a first pass.",
    "retry": "Send the calls again that Segment refused, under the message ids that they had.",
    "run": "Send what changed since the last run, and remember it.",
    "sandbox": "Run a local Segment until it is interrupted; what it took is listed as JSON at its address.",
    "schema": "Print the JSON Schema of the sync file, for editors.",
    "status": "Show each sync's last run, and what is pending and rejected; without SYNC, of all in syncs/.",
}
"""All commands; `retl NAME` is `NAME_command` in `retl/cli/NAME.py`, so its name is enough to find it."""


class CannotStart(Exception):
    """A library of a command cannot be loaded, perhaps the very one that prints errors.

    Attributes:
        error: which one, and what to do.
    """

    def __init__(self, error: RetlError) -> None:
        super().__init__(f"retl cannot start: {error}\n  → {error.hint}")
        self.error = error


def command_of(name: str) -> click.Command:
    """A command, loaded.

    Raises:
        CannotStart: a library that it needs cannot be loaded.
    """
    try:
        loaded: click.Command = getattr(lazy_module(f"retl.cli.{name}"), f"{name}_command")
    except RetlError as error:
        raise CannotStart(error) from error
    return loaded


class LazyGroup(click.Group):
    """The command line, which lists its commands without loading them."""

    def __init__(self, *args: object, **kwargs: object) -> None:
        super().__init__(*args, **kwargs)  # type: ignore[arg-type]
        for name, line in COMMANDS.items():
            self.add_command(click.Command(name, help=line))

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The command that is called, loaded; see `click.Group.resolve_command`."""
        name, command, rest = super().resolve_command(ctx, args)
        return name, command and command_of(command.name or ""), rest
