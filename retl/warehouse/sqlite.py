"""The dialect of SQLite."""

from retl.warehouse.dialect import Dialect

DIALECT = Dialect(
    # The schema version is read so that a file that is not a database is noticed now.
    session=("PRAGMA schema_version", "PRAGMA query_only = ON"),
)
