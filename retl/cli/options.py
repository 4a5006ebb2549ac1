"""Arguments and options that several commands share."""

import os
import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import click

from retl.config.project import every_sync, find_syncs
from retl.engine.guard import NAMES as GUARDS
from retl.errors import ConfigError
from retl.memory import VARIABLE, memory_limit


class Place(click.Path):
    """The path of a folder, or the address of one in a bucket.

    An empty one, of a script's unset variable, is not taken for the working folder.
    """

    def convert(
        self,
        value: str | os.PathLike[str],
        param: click.Parameter | None,
        ctx: click.Context | None,
    ) -> str | bytes | os.PathLike[str]:
        """See `click.ParamType.convert`."""
        if value == "":
            self.fail("it must not be empty", param, ctx)
        return super().convert(value, param, ctx)


MOST = 10**12
"""The largest number that an option takes."""


SOME_SYNCS = click.argument("syncs", nargs=-1, metavar="SYNC...")
ALL = click.option("--all", "every", is_flag=True, help="Take every sync in syncs/ of the project.")
ONE_SYNC = click.argument("sync", metavar="SYNC")
STATE_DIR = click.option(
    "--state-dir",
    type=Place(path_type=Path, file_okay=False),
    help="Folder of the state files, or s3://BUCKET/FOLDER/; default: RETL_STATE_DIR, else `state` of the "
    "sync, else state/ in the project.",
)
AS_JSON = click.option(
    "--json", "as_json", is_flag=True, help="Print JSON: one object for each sync, each on its own line."
)
REHEARSAL = click.option(
    "--sandbox", "rehearsal", is_flag=True, help="Use the state of rehearsals, `retl run --sandbox`."
)
RECEIVERS = click.option(
    "--receiver",
    "receivers",
    default="",
    help="Receivers to ask, such as insider,miso; `all` means every receiver.",
)
METRICS = click.option(
    "--metrics",
    type=click.Path(path_type=Path, dir_okay=False),
    envvar="RETL_METRICS",
    help="Write metrics for Prometheus to this file, unless with --sandbox; default: RETL_METRICS.",
)
BACKFILL = click.option(
    "--initial-backfill", "backfill", is_flag=True, help="Send the first pass of a track or audience sync."
)


def seconds(_context: click.Context, _option: click.Parameter, written: str) -> float:
    """Read `90`, `45s`, `30m` or `12h`."""
    match = re.fullmatch(r"([0-9]{1,9})([smh]?)", written)
    if match is None:
        raise click.BadParameter(f"{written!r} is not a duration; write 45s, 30m or 12h")
    return float(match[1]) * {"": 1, "s": 1, "m": 60, "h": 3600}[match[2]]


WAIT = click.option("--wait", is_flag=True, help="Wait for another run of the sync to end.")
DEADLINE = click.option(
    "--deadline", callback=seconds, default="12h", help="Stop after this long: 45s, 30m, 12h. [default: 12h]"
)
FORCE = click.option(
    "--force", "forced", multiple=True, type=click.Choice(GUARDS), help="Let this guard pass, once."
)


def _limit_memory(context: click.Context, _option: click.Parameter, written: str | None) -> None:
    """Let the size hold for all that the command opens."""
    if written is None:
        return
    memory_limit({VARIABLE: written})
    before = os.environ.get(VARIABLE)
    os.environ[VARIABLE] = written
    context.call_on_close(partial(_put_back, before))


def _put_back(before: str | None) -> None:
    if before is None:
        del os.environ[VARIABLE]
    else:
        os.environ[VARIABLE] = before


MEMORY_LIMIT = click.option(
    "--memory-limit",
    callback=_limit_memory,
    expose_value=False,
    metavar="SIZE",
    help="Memory that DuckDB may take: 512MB, 1GB; it goes on in a temporary folder beside the state. "
    "[default: RETL_MEMORY_LIMIT, else half of what there is, at most 1 GB]",
)


SKIP_IF_RUNNING = click.option(
    "--skip-if-running", is_flag=True, help="Do nothing where another run of the sync is under way."
)

QUIET = click.option("--quiet", is_flag=True, help="Print nothing but errors.")


def files_if_any(syncs: Sequence[str]) -> tuple[list[Path], ConfigError | None]:
    """The files as `sync_files` has them; where there are none without arguments, none and the error.

    Raises:
        ConfigError: an argument means nothing.
    """
    try:
        return sync_files(syncs), None
    except ConfigError as error:
        if syncs:
            raise
        return [], error


def sync_files(syncs: Sequence[str]) -> list[Path]:
    """The files that arguments mean; without arguments, all of the project around the working folder."""
    here = Path.cwd()
    return find_syncs(syncs, here) if syncs else every_sync(here)


def chosen_files(syncs: Sequence[str], every: bool) -> list[Path]:
    """The files that arguments mean, or with `--all` all of the project; one of the two must be given.

    Raises:
        UsageError: neither is given, or both are.
    """
    if bool(syncs) == every:
        said = "--all goes without names" if every else "Missing argument 'SYNC...'"
        raise click.UsageError(f"{said}: name syncs, files or folders, or take every sync with --all")
    return sync_files(syncs)
