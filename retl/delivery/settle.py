"""Settle: what was delivered leaves the outbox, once it is known of which rejected calls it is newer."""

import duckdb

from retl.delivery import outbox, rejected


def settle(db: duckdb.DuckDBPyConnection) -> None:
    """Take what was delivered out of the outbox; to be run in a transaction."""
    rejected.note_overtaken(db)
    outbox.settle(db)


def doubt(db: duckdb.DuckDBPyConnection) -> None:
    """Note of all calls that wait that they may have gone out; to be run in a transaction.

    It is so where a state is older than the end of the run that had it.
    """
    rejected.note_overtaken(db)
    outbox.doubt(db)
