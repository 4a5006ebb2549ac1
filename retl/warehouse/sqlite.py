"""The dialect of SQLite, whose columns are of the types that their values have."""

import re
import sqlite3
from functools import partial
from pathlib import Path
from urllib.parse import quote

import sqlalchemy
from sqlalchemy.engine import URL, Engine
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import QueuePool

from retl.address import shown
from retl.errors import WarehouseError
from retl.warehouse.dialect import Dialect, engine_of_url
from retl.warehouse.query import Grammar

_MODEL_FAULTS = {
    sqlite3.SQLITE_ERROR,
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_TOOBIG,
    sqlite3.SQLITE_MISMATCH,
    sqlite3.SQLITE_AUTH,
}


_WRITING_FUNCTIONS = re.compile("load_extension|writefile|edit", re.IGNORECASE)


def _engine(url: URL, root: Path) -> Engine:
    """An engine that opens the URL's file for reading only.

    Raises:
        WarehouseError: there is no such file.
    """
    if url.database in (None, "", ":memory:"):
        return engine_of_url(url, root)
    path = root / str(url.database)
    if not path.is_file():
        raise WarehouseError(
            f"there is no SQLite file {path}",
            where=shown(url),
            hint="Three slashes begin a path relative to the project folder, four an absolute one.",
        )
    address = f"file:{quote(str(path.absolute()))}?mode=ro"

    def connect() -> sqlite3.Connection:
        connection = sqlite3.connect(address, uri=True, check_same_thread=False)
        # SQLite keeps any bytes as text. Bytes that are not UTF-8 become halves of surrogate pairs.
        connection.text_factory = partial(str, encoding="utf-8", errors="surrogateescape")
        return connection

    return sqlalchemy.create_engine("sqlite://", creator=connect, poolclass=QueuePool)


def _is_model_fault(error: DBAPIError) -> bool:
    # Python's own refusals, as of two statements or of an undecodable text, have no such code.
    code = getattr(error.orig, "sqlite_errorcode", sqlite3.SQLITE_ERROR)
    return code & 0xFF in _MODEL_FAULTS


DIALECT = Dialect(
    engine=_engine,
    # The schema version is read so that a file that is not a database is noticed now.
    session=("PRAGMA schema_version", "PRAGMA query_only = ON"),
    grammar=Grammar("sqlite", writing_functions=_WRITING_FUNCTIONS),
    cancel=lambda _engine, connection: connection.interrupt(),
    is_model_fault=_is_model_fault,
)
