"""The commands by name, each with its line in `retl --help`; a command's own module is loaded to run it."""

from pathlib import Path

import click
from click.shell_completion import CompletionItem

from retl.config.folder import files_in, name_in, root_of
from retl.errors import Interrupted, RetlError
from retl.lazy import lazy_module

COMMANDS = {
    "apply": "Send exactly what a saved plan says, or nothing where anything has moved since.",
    "check": "Check sync files, their models and their settings; without SYNC, all in syncs/.",
    "discard": "Forget the rejected calls, or with --pending those that wait.",
    "encrypt": "Encrypt the state of a sync with the key in RETL_STATE_KEY, or give it another key.",
    "explain": "Show what became of one row or user, and what the next run makes of it.",
    "history": "Show the past runs of a sync: what each did, how long it took, and why it failed.",
    "init": "Make a new project in FOLDER, or here: a model, two syncs, and settings.",
    "move": "Bring the state of a sync along to another folder or bucket.",
    "plan": "Show what a run would send; nothing is sent, and nothing changes.",
    "rejected": "Show the rows and calls that could not be sent, by reason, and what to do about them.",
    "rekey": "Say that a new write key or endpoint is the same Segment source: state and pending calls go "
    "on.",
    "report": "Write past runs, trends, guards and rejections as one HTML file; without SYNC, of all in "
    "syncs/.",
    "reset": "Forget what was sent: the next run is a first pass.",
    "retry": "Send the calls again that Segment refused, under the message ids that they had.",
    "run": "Send what changed since the last run, and remember it.",
    "sandbox": "Run a local Segment until it is interrupted; its calls can be looked at, at its address.",
    "schema": "Print the JSON Schema of the sync file, for editors.",
    "sql": "Ask the history of a sync by one SELECT.",
    "status": "Show each sync's last run, and what is pending and rejected; without SYNC, of all in syncs/.",
    "verify": "Compare what a run sent with what Segment says that it received.",
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
        Interrupted: a signal came meanwhile.
    """
    try:
        loaded: click.Command = getattr(lazy_module(f"retl.cli.{name}"), f"{name}_command")
    except Interrupted:
        raise
    except RetlError as error:
        raise CannotStart(error) from error
    return loaded


WITH_SYNCS = set(COMMANDS) - {"init", "sandbox", "schema"}
"""Commands whose arguments are syncs, or begin with one."""


class WithSyncs(click.Command):
    """A command in whose place a shell completes the names of syncs; it is loaded for its options alone."""

    def __init__(self, name: str) -> None:
        everything = {"ignore_unknown_options": True, "allow_extra_args": True}
        super().__init__(name, context_settings=everything, add_help_option=False)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """The names of syncs that begin so; where an option is typed, what the command itself completes."""
        typed = list(ctx.args)
        last = typed[-1] if typed else ""
        if incomplete.startswith("-") or last.startswith("-"):
            command = command_of(self.name or "")
            context = command.make_context(self.name, list(typed), parent=ctx.parent, resilient_parsing=True)
            if incomplete.startswith("-"):
                return command.shell_complete(context, incomplete)
            for option in command.params:
                if isinstance(option, click.Option) and last in option.opts and not option.is_flag:
                    return option.shell_complete(context, incomplete)
        return [one for one in sync_names(incomplete) if one.value not in typed]


def sync_names(incomplete: str) -> list[CompletionItem]:
    """The names of the project's syncs that begin so, each with its file; files where a path is typed."""
    if "/" in incomplete or incomplete.startswith("."):
        return [CompletionItem(incomplete, type="file")]
    root = root_of(Path.cwd())
    found = {name: file for file in files_in(root / "syncs") if (name := name_in(file))}
    return [
        CompletionItem(name, help=f"syncs/{file.name}")
        for name, file in sorted(found.items())
        if name.startswith(incomplete)
    ]


EACH_DAY = {
    "retl check": "Are the files right?",
    "retl plan users": "What would be sent? Nothing is.",
    "retl run users": "Send it; --sandbox rehearses, --all takes every sync.",
}
"""The commands of a day, before the list of all."""

NEW_HERE = {"retl init shop": "Make a project that runs at once."}


class LazyGroup(click.Group):
    """The command line, which lists its commands without loading them."""

    def __init__(self, *args: object, **kwargs: object) -> None:
        super().__init__(*args, **kwargs)  # type: ignore[arg-type]
        for name, line in COMMANDS.items():
            self.add_command(click.Command(name, help=line))

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the commands of a day, then all, each with its whole line; see `click.Group`."""
        with formatter.section("Each day"):
            formatter.write_dl(list(EACH_DAY.items()))
        with formatter.section("New here"):
            formatter.write_dl(list(NEW_HERE.items()))
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The command that is called, loaded; see `click.Group.resolve_command`."""
        name, command, rest = super().resolve_command(ctx, args)
        if command is None:
            return name, command, rest
        if ctx.resilient_parsing and command.name in WITH_SYNCS:  # a shell completes what is typed
            return name, WithSyncs(command.name), rest
        return name, command_of(command.name or ""), rest
