"""The settings at receivers for the calls of a sandbox: those of the project around."""

import os
from pathlib import Path

from rich.text import Text

from retl.cli.console import console
from retl.config.folder import files_in
from retl.config.project import Project, find_project, load_sync
from retl.config.settings import check_defaults
from retl.errors import ConfigError
from retl.receivers.settings import Settings
from retl.sandbox.rehearsed import ReceiverRehearsal


def project_receivers() -> tuple[Project, ReceiverRehearsal]:
    """The project around the working folder, and receivers with the settings that it has.

    They are those of retl.yml, and of each sync for its calls. A sandbox does without them: of a file that is
    wrong it is told why its settings do not count.
    """
    try:
        project = find_project(Path.cwd(), os.environ)
    except ConfigError as error:
        _tell(error)
        return Project(Path.cwd(), os.environ), ReceiverRehearsal()
    of_syncs: dict[str, dict[str, Settings]] = {}
    for path in files_in(project.root / "syncs"):
        try:
            sync = load_sync(path, project)
        except ConfigError as error:
            _tell(error)
        else:
            of_syncs[sync.name] = dict(sync.receivers)
    defaults = check_defaults(project.defaults).receivers if project.defaults else None
    return project, ReceiverRehearsal(defaults, of_syncs)


def _tell(error: ConfigError) -> None:
    """Say why the settings of a file do not count."""
    console(stderr=True).print(
        Text(f"receivers have default settings where they are in a wrong file: {error}", "yellow")
    )
