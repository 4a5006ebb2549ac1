"""The folder of a project's states: of this machine, or of a bucket."""

from pathlib import Path
from typing import TYPE_CHECKING

from retl.address import is_bucket
from retl.config.project import Project
from retl.config.settings import check_defaults
from retl.config.sync import Sync
from retl.encryption import state_key
from retl.lazy import lazy_module
from retl.storage import Folder, FolderOnDisk

if TYPE_CHECKING:
    from retl.bucket import address as addresses
    from retl.bucket import storage as buckets
else:
    addresses = lazy_module("retl.bucket.address")
    buckets = lazy_module("retl.bucket.storage")

_VARIABLE = "RETL_STATE_DIR"


def state_folders(project: Project, override: Path | None, sync: Sync | None) -> tuple[Path, Folder | None]:
    """The folder of this machine for states, and that of a bucket where one has them in its place.

    It is the override, else RETL_STATE_DIR, else what the sync or retl.yml has as `state`, else `state` in
    the project.

    Args:
        project: the project.
        override: the folder that the command line gives; None where it gives none.
        sync: the sync; None takes what retl.yml has.

    Raises:
        ConfigError: it is meant as a bucket, and is none.
    """
    written, where = _written(project, override, sync)
    if written is None or not is_bucket(written):
        return project.state_dir(override, written).absolute(), None
    address = addresses.read_bucket(written, where)
    return project.root / "state", buckets.folder_in_bucket(address, project.env, state_key(project.env))


def state_folder(project: Project, override: Path | None) -> Folder:
    """The folder of the states of a project whose syncs say nothing else; see `state_folders`.

    Raises:
        ConfigError: it is meant as a bucket, and is none.
    """
    path, bucket = state_folders(project, override, None)
    return bucket or FolderOnDisk(path)


def _written(project: Project, override: Path | None, sync: Sync | None) -> tuple[str | None, str]:
    """The folder as somebody wrote it, and where."""
    if override is not None:
        return str(override), "--state-dir"
    if project.env.get(_VARIABLE):
        return project.env[_VARIABLE], _VARIABLE
    if sync is not None:
        return sync.state, sync.where("state")
    defaults = check_defaults(project.defaults) if project.defaults else None
    return (defaults.state if defaults else None), "retl.yml: state"
