"""The check of a sync's model: that its SQL can be read, and has the columns that the sync needs."""

from dataclasses import dataclass

from retl.address import read_address
from retl.clock import SystemClock
from retl.config.project import warehouse_url
from retl.engine.local import needed_columns, read_columns
from retl.errors import ConfigError, ExternalError
from retl.observer import SilentObserver
from retl.session import Session
from retl.warehouse import refuse_workspace
from retl.warehouse.watched import WatchedWarehouse
from retl.warehouse.workspace import lacking_grants

EMBEDDED_SECONDS = 10.0
"""The time that an embedded DuckDB has to describe a model; a file of another machine is not waited for."""


@dataclass(frozen=True)
class ModelCheck:
    """The result of a check of a model.

    Attributes:
        columns: how many columns the sync needs of it; None where no database was asked.
        doubt: why no database could be asked, or of Segment's answer about the write key; None where there is
            no doubt.
    """

    columns: int | None = None
    doubt: str | None = None


def check_model(session: Session) -> ModelCheck:
    """Read the files of a sync and its model, and ask an embedded DuckDB for the model's columns.

    No other machine is asked, and no row is read. Data that is not there is a doubt and no error, as files
    may be checked where only they are.

    Raises:
        ConfigError: the sync's certificates cannot be read, or its warehouse's URL cannot be used.
        ModelError: there is no such model, its SQL fails, or it lacks a column that the sync needs.
    """
    session.certificates()
    model = session.model.asking(sync=session.sync.name, command="check")
    try:
        url = warehouse_url(session.sync, session.project)
    except ConfigError:  # a secret that is not needed to check files
        return ModelCheck()
    if session.sync.engine == "warehouse":
        refuse_workspace(url, session.sync.where("engine"))
    if not _is_embedded(url) or "://" in model.sql:
        return ModelCheck()
    clock = SystemClock()
    deadline = clock.monotonic() + EMBEDDED_SECONDS
    warehouse = WatchedWarehouse(session.warehouse, SilentObserver(), clock, deadline)
    try:
        return ModelCheck(len(needed_columns(session.sync, model, warehouse)))
    except ExternalError as error:
        return ModelCheck(doubt=f"its columns are not known ({error.message})")


def check_connections(session: Session) -> ModelCheck:
    """Ask the warehouse for the model's columns, whatever it is, and Segment about the write key.

    Where the state is in a bucket, see that it can be kept there.

    Raises:
        RetlError: what would stop a run before its first call.
    """
    session.certificates()
    if session.sync.engine == "warehouse":
        refuse_workspace(warehouse_url(session.sync, session.project), session.sync.where("engine"))
    columns = 0
    clock = SystemClock()
    warehouse = WatchedWarehouse(session.warehouse, SilentObserver(), clock, float("inf"))
    model = session.model.asking(sync=session.sync.name, command="check")
    _, batches = read_columns(session.sync, model, warehouse)
    for batch in batches:
        columns = batch.num_columns
        break
    if session.sync.engine == "warehouse":
        _refuse_missing_grants(session)
    session.storage.check()
    with session.open_destination(None, {}, clock) as destination:
        return ModelCheck(columns, destination.check())


def _refuse_missing_grants(session: Session) -> None:
    """See that the warehouse's user may make tables in the schema of the engine.

    Nothing is made, but in Snowflake and BigQuery, where only trying tells.

    Raises:
        ConfigError: the user may not; the hint is the SQL that lets them.
    """
    with session.open_workspace() as workspace:
        missing = workspace.missing_grants()
    if missing:
        schema = session.sync.engine_schema
        raise lacking_grants(schema, missing, session.sync.where("engine"))


def _is_embedded(url: str) -> bool:
    """Whether the database of a URL is a DuckDB in this process."""
    try:
        return read_address(url).backend == "duckdb"
    except ValueError:
        return False
