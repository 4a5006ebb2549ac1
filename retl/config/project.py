"""A project folder: where models, syncs, state and settings are."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from dotenv import dotenv_values

from retl.address import read_address
from retl.config.folder import ENDINGS, MARKS, absolute, files_in, name_in, root_of
from retl.config.settings import Channels, Notify, check_defaults
from retl.config.sync import Sync, parse
from retl.errors import ConfigError
from retl.forms.form import nearest
from retl.forms.nodes import LARGEST
from retl.forms.yaml_file import ANY, Document, interpolate, load
from retl.lazy import lazy_module
from retl.mask import note, note_url
from retl.model import Model, make_model, read_model
from retl.system import expanded, in_utf8, is_file, is_folder, is_there, read_file, system_words
from retl.table import plain_name, select_table

if TYPE_CHECKING:
    import ssl
else:
    ssl = lazy_module("ssl")

_SECRET = (
    ("segment", "write_key"),
    ("segment", "oauth", "private_key"),
    ("warehouse",),
    ("notify", ANY, "webhook"),
    ("notify", ANY, "apprise"),
)
"""Keys of the files whose variables are filled in when they are needed, so that checking needs no secret."""

_TOKEN = 16
"""Characters from which on a part of a channel's path may be a token, and no word."""


@dataclass(frozen=True)
class Project:
    """A project folder and its settings.

    Attributes:
        root: the folder; paths in files are relative to it.
        env: the environment over the folder's .env.
        defaults: retl.yml, checked; None where there is none.
    """

    root: Path
    env: Mapping[str, str] = field(repr=False)
    defaults: Document | None = None

    def state_dir(self, override: Path | None = None, written: str | None = None) -> Path:
        """The folder of the state files on this machine.

        Args:
            override: the folder that the command line gives.
            written: the folder that a file or RETL_STATE_DIR gives; None takes `state` in the project.
        """
        if override is not None:
            return in_utf8(override)
        return self.root / in_utf8(expanded(Path(written or self.env.get("RETL_STATE_DIR") or "state")))

    def shown(self, path: Path) -> str:
        """A path as error messages show it: relative to the project folder, where it is inside."""
        return path.relative_to(self.root).as_posix() if path.is_relative_to(self.root) else str(path)


def find_project(path: Path, environ: Mapping[str, str]) -> Project:
    """The project that a sync file (or a folder) belongs to.

    It is the nearest folder at or above it that holds retl.yml; without one, the nearest that holds `syncs/`,
    else `models/`; without that, the file's own folder.

    Raises:
        ConfigError: .env or retl.yml cannot be read, or retl.yml is wrong; the folder's path is not text.
    """
    root = in_utf8(root_of(path))
    env = {**_dotenv(root), **environ}
    settings = root / "retl.yml"
    if not is_file(settings):
        return Project(root, env)
    defaults = load(settings, env, root=root, as_written=_SECRET)
    check_defaults(defaults)
    return Project(root, env, defaults)


def find_syncs(arguments: Sequence[str], cwd: Path) -> list[Path]:
    """The sync files that the arguments mean, each once, in their order.

    An argument is a file, a folder (its *.yml and *.yaml, sorted; of a project folder those in its `syncs/`),
    or a name (`users`: syncs/users.yml in the project of `cwd`, or the file there that says `name: users`).
    Paths start from `cwd`, and where nothing is there, from its project folder.

    Raises:
        ConfigError: an argument means no file, or a folder without sync files.
    """
    found: dict[Path, None] = {}
    for argument in arguments:
        found.update(dict.fromkeys(_meant(argument, cwd)))
    return list(found)


def every_sync(cwd: Path) -> list[Path]:
    """The sync files in `syncs/` of the project around the working folder.

    Raises:
        ConfigError: there is no project, or no sync file in it.
    """
    root = root_of(cwd)
    if is_folder(root / "syncs"):
        return find_syncs([str(root / "syncs")], cwd)
    if any(is_there(root / name) for name in MARKS):
        raise ConfigError(f"there is no folder syncs/ in {root}", hint="make it, for a file of each sync")
    raise ConfigError(
        "there is no retl project here or above", hint="cd into one, or make one: retl init shop"
    )


def _meant(argument: str, cwd: Path) -> list[Path]:
    paths = [absolute(start / argument) for start in (cwd, root_of(cwd))]
    for path in paths:
        if is_file(path):
            return [path]
        if is_folder(path) and (inside := files_in(path / "syncs") or files_in(path)):
            return inside
    if paths[0].suffix in ENDINGS:
        near = [file.name for path in paths for file in files_in(path.parent)]
        raise ConfigError(f"there is no file {argument}{nearest(paths[0].name, list(dict.fromkeys(near)))}")
    named = _named(argument, cwd)
    if named is not None:
        return [named]
    if any(map(is_folder, paths)):
        raise ConfigError(f"there are no sync files in {argument}", hint="a sync file ends in .yml or .yaml")
    known = [path.stem for path in files_in(root_of(cwd) / "syncs")]
    raise ConfigError(
        f"there is no sync `{argument}`{nearest(argument, known)}",
        hint="name a file, a folder, or a file in syncs/",
    )


def load_sync(path: Path, project: Project) -> Sync:
    """Read a sync file.

    Raises:
        ConfigError: the file cannot be read, or is wrong.
    """
    document = load(in_utf8(absolute(path)), project.env, root=project.root, as_written=_SECRET)
    return parse(document, project.defaults)


def load_model(sync: Sync, project: Project) -> Model:
    """Read the sync's model, from its file in `models/` or from the sync itself; of a table, all columns.

    Raises:
        ConfigError: there is no such file.
        ModelError: the file cannot be read, or there is no SQL.
    """
    if sync.sql is not None:
        return make_model(sync.name, sync.sql, sync.path, sync.sql_line)
    if sync.table is not None:
        select = select_table(sync.table, _backend(sync, project))
        return make_model(plain_name(sync.table), select, sync.path, sync.table_line)
    assert sync.model is not None, "a sync has `model`, `sql` or `table`"
    folder = project.root / "models"
    if not folder.is_dir():
        raise ConfigError(
            f"there is no folder models/ in {project.root}",
            where=sync.where("model"),
            hint=f"create models/{sync.model}.sql, or write the query here as `sql`",
        )
    path = folder / f"{sync.model}.sql"
    if not is_file(path):
        known = sorted(file.relative_to(folder).with_suffix("").as_posix() for file in folder.rglob("*.sql"))
        raise ConfigError(
            f"there is no {project.shown(path)}{nearest(sync.model, known)}", where=sync.where("model")
        )
    return read_model(path, sync.model, project.shown(path))


def _backend(sync: Sync, project: Project) -> str:
    """The kind of the sync's warehouse; empty where its URL is not known, and so nothing can be read."""
    try:
        return read_address(warehouse_url(sync, project)).backend
    except (ConfigError, ValueError):
        return ""


def write_key(sync: Sync, project: Project) -> str:
    """The write key of the sync's Segment source. Keep it out of messages, logs and state.

    Raises:
        ConfigError: its variable is not set, or it is empty.
    """
    where = sync.where("segment", "write_key")
    return note(_filled(sync.segment.write_key.get_secret_value(), project, where, "the write key"))


def private_key(sync: Sync, project: Project) -> str | None:
    """The private key of the sync's OAuth application; None where it has none. Keep it out of messages.

    Raises:
        ConfigError: its variable is not set or empty, or its file cannot be read.
    """
    oauth = sync.segment.oauth
    if oauth is None:
        return None
    if oauth.private_key is not None:
        where = sync.where("segment", "oauth", "private_key")
        text = _filled(oauth.private_key.get_secret_value(), project, where, "the private key")
        return text.replace("\\n", "\n")  # in one line, as many vaults and .env files have it
    assert oauth.private_key_file is not None, "a key is a text or a file"
    try:
        return read_file(project.root / expanded(Path(oauth.private_key_file)), LARGEST).decode("ascii")
    except (OSError, ValueError) as error:
        words = system_words(error) if isinstance(error, OSError) else "it is not PEM"
        raise ConfigError(
            f"the private key cannot be read ({words})",
            where=sync.where("segment", "oauth", "private_key_file"),
        ) from None


def warehouse_url(sync: Sync, project: Project) -> str:
    """The URL of the sync's warehouse, which may hold a password.

    Raises:
        ConfigError: its variable is not set, or it is empty.
    """
    return note_url(_filled(sync.warehouse, project, sync.where("warehouse"), "the warehouse's URL"))


def default_channels(project: Project) -> Channels:
    """The channels of retl.yml, for a sync whose file cannot be read."""
    return (check_defaults(project.defaults).notify if project.defaults else None) or ()


def channel_url(channel: Notify, project: Project) -> str:
    """The URL of a channel below `notify`. Keep it out of messages, logs and state.

    Raises:
        ConfigError: its variable is not set, or it is empty.
    """
    where = f"notify.{channel.kind}"
    url = note_url(note(_filled(channel.url, project, where, "the URL")))
    path = urlsplit(url).path
    for part in (path, *path.split("/")):
        if len(part) >= _TOKEN:
            note(part)
    return url


def certificates(sync: Sync, project: Project) -> str | None:
    """The path of the file of certificates that the sync trusts instead of the system's; None for these.

    Raises:
        ConfigError: there is no such file, or it holds no certificates.
    """
    written = sync.segment.ssl_cert
    if written is None:
        return None
    path = str(project.root / expanded(Path(written)))
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(path)
    except (OSError, ValueError) as error:  # ValueError: a character of code 0 in the path
        raise ConfigError(
            f"no certificates can be read from {written} ({getattr(error, 'strerror', None) or error})",
            where=sync.where("segment", "ssl_cert"),
            hint="name a file of certificates as PEM, `-----BEGIN CERTIFICATE-----`",
        ) from error
    return path


def check_names(syncs: Sequence[Sync]) -> None:
    """See that no two syncs have one name, which is the name of their state.

    Raises:
        ConfigError: two have; it says which.
    """
    first: dict[str, Sync] = {}
    for sync in syncs:
        other = first.setdefault(sync.name, sync)
        if other is not sync:
            raise _namesake(sync, other.path)


def refuse_namesake(sync: Sync, path: Path, project: Project) -> None:
    """See that no other file of a sync's folder gives its name, and with it its state, to another sync.

    Raises:
        ConfigError: one does; it says which.
    """
    for other in files_in(path.parent):
        if other.name != path.name and name_in(other) == sync.name:
            raise _namesake(sync, project.shown(other))


def sync_names(project: Project, folder: Path | None = None) -> set[str]:
    """The names of the syncs in the project's `syncs/` and below it, and in another folder."""
    syncs = project.root / "syncs"
    folders = {syncs, *(one for one in syncs.rglob("*") if one.is_dir()), *([folder] if folder else [])}
    return {name for one in folders for file in files_in(one) if (name := name_in(file))}


def _namesake(sync: Sync, other: str) -> ConfigError:
    return ConfigError(
        f"the name `{sync.name}` is that of {other} too",
        where=sync.where("name"),
        hint="give one of them another `name`; its state and message ids go by it",
    )


def _filled(text: str, project: Project, where: str, what: str) -> str:
    value = interpolate(text, project.env, where).strip()
    if not value:
        raise ConfigError(f"{what} is empty", where=where, hint="set it in the environment or in .env")
    return value


def _dotenv(root: Path) -> dict[str, str]:
    path = root / ".env"
    if not is_file(path):
        return {}
    try:
        text = read_file(path, LARGEST).decode("utf-8-sig")
    except OSError as error:
        raise ConfigError(f"cannot be read: {system_words(error)}", where=".env") from error
    except UnicodeDecodeError as error:
        raise ConfigError("is not UTF-8 text", where=".env") from error
    if "\0" in text:
        raise ConfigError("holds a character of code 0, which no value may have", where=".env")
    # Values stay as they are written: a key or a password may well hold a `$`.
    values = dotenv_values(stream=StringIO(text), interpolate=False)
    return {name: value for name, value in values.items() if value is not None}


def _named(name: str, cwd: Path) -> Path | None:
    folder = root_of(cwd) / "syncs"
    for ending in ENDINGS:
        path = folder / f"{name}{ending}"
        if is_file(path):
            return path
    says_so = re.compile(rf"""^name:[ \t]*(["']?){re.escape(name)}\1[ \t]*(#.*)?$""", re.MULTILINE)
    for path in files_in(folder):
        if says_so.search(path.read_text(encoding="utf-8", errors="replace")):
            return path
    return None
