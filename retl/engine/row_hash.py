"""The hash of a row, by which a row that arrives as it was is known without a look at its columns.

It is DuckDB's `hash` over the columns that are compared, 64 bits, and is kept with the snapshot. Two rows of
one key are taken for equal where their hashes are: of 2^64 changes, one is missed. Rows whose hashes differ
are compared column by column.

DuckDB does not promise that another version hashes alike. So a mapping keeps the `hash_check` of the DuckDB
that hashed its rows; where it is another than today's, the rows are hashed anew.
"""

import duckdb

from retl import sql
from retl.engine.mapping import SyncMapping

_SAMPLE = """
SELECT hash(
    true, 7::BIGINT, 7::HUGEINT, 1.25::DECIMAL(4, 2), 1.25::DECIMAL(18, 2), 1.25::DECIMAL(38, 2), 0.1::DOUBLE,
    'short', 'longer than twelve bytes', DATE '2026-03-01', TIMESTAMP '2026-03-01 12:00:00.125', NULL, ''
)::VARCHAR
"""


def hash_check(db: duckdb.DuckDBPyConnection) -> str:
    """The hash of a sample of all canonical types; another one means that rows are hashed otherwise."""
    row = db.execute(_SAMPLE).fetchone()
    assert row is not None
    return str(row[0])


def row_hash(mapping: SyncMapping, row: str) -> str:
    """The SQL of a row's hash.

    Args:
        mapping: tells which columns are compared.
        row: SQL that yields the row as a STRUCT of canonical values.
    """
    columns = dict.fromkeys(mapping.compared.values())
    return f"hash({', '.join(f'{row}[{sql.text(column)}]' for column in columns) or 'NULL'})"
