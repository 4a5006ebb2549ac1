"""Migrations: the steps that bring an older state file to this version's schema.

A step belongs to the version that it starts from, and is never changed afterwards: it knows nothing of
today's code, so that a file of any age takes the same way.
"""

import json
from collections.abc import Callable
from typing import Any

import duckdb


def _add_stale(db: duckdb.DuckDBPyConnection) -> None:
    db.execute("ALTER TABLE state.snapshot ADD COLUMN stale BOOLEAN DEFAULT false")


def _name_metadata(db: duckdb.DuckDBPyConnection) -> None:
    """Rename `about`, and write out what a mapping's columns are used for."""
    db.execute("ALTER TABLE state.about RENAME TO metadata")
    db.execute("CREATE VIEW state.about AS SELECT schema_version, sync FROM state.metadata")
    for (mapping,) in db.execute("SELECT mapping FROM state.metadata WHERE mapping IS NOT NULL").fetchall():
        written = json.loads(mapping)
        for group in ("fields", "compared", "carried"):
            uses = written.get(group, {})
            if isinstance(uses, list):
                continue  # the last files of schema 2 are written out already
            written[group] = [{**_use(name), "column": column} for name, column in uses.items()]
        db.execute("UPDATE state.metadata SET mapping = ?", [json.dumps(written)])


def _use(name: str) -> dict[str, Any]:
    """The use of a column from its name in schema 2, such as `email`, `.id user_id` or `.removed .event`."""
    change = None
    first, _, rest = name.partition(" ")
    if first in (".added", ".changed", ".removed"):
        change, name = first[1:], rest
    if name == ".event":
        return {"part": "event", "name": "", "change": change}
    first, _, rest = name.partition(" ")
    if first in (".id", ".column", ".context"):
        return {"part": first[1:], "name": rest, "change": change}
    return {"part": "field", "name": name, "change": change}


def _keep_what_discard_needs(db: duckdb.DuckDBPyConnection) -> None:
    """Add the rows before changes, repeats of each run, and the users of rejected calls."""
    db.execute(
        """
        CREATE TABLE state.replaced AS
        SELECT NULL::VARCHAR AS run_id, key, row, stale, 0::BIGINT AS calls FROM state.snapshot LIMIT 0
        """
    )
    db.execute("ALTER TABLE state.receipt ADD COLUMN repeated INTEGER DEFAULT 0")
    db.execute("ALTER TABLE state.rejected_call ADD COLUMN rejected_in VARCHAR")
    db.execute("ALTER TABLE state.rejected_call ADD COLUMN user_id VARCHAR")
    db.execute("ALTER TABLE state.rejected_call ADD COLUMN overtaken BOOLEAN DEFAULT false")
    db.execute(
        """
        UPDATE state.rejected_call
        SET rejected_in = run_id, user_id = coalesce(body ->> '$.userId', body ->> '$.anonymousId')
        """
    )


def _add_origin(db: duckdb.DuckDBPyConnection) -> None:
    """Make room for the destination as it is shown, and for the sync file."""
    db.execute("ALTER TABLE state.metadata ADD COLUMN destination VARCHAR")
    db.execute("ALTER TABLE state.metadata ADD COLUMN sync_file VARCHAR")


def _to_schema_4(db: duckdb.DuckDBPyConnection) -> None:
    _keep_what_discard_needs(db)
    _add_origin(db)


def _render_later(db: duckdb.DuckDBPyConnection) -> None:
    """Add the hashes of rows, which the next run fills in, and room for calls that are rendered later."""
    db.execute("ALTER TABLE state.snapshot ADD COLUMN hash UBIGINT")
    db.execute("ALTER TABLE state.snapshot ADD COLUMN seq BIGINT")
    db.execute(
        """
        CREATE TABLE state.unrendered (
            lane INTEGER NOT NULL, run_id VARCHAR NOT NULL, first_seq BIGINT NOT NULL,
            last_seq BIGINT NOT NULL, statement VARCHAR NOT NULL
        )
        """
    )


def _as_new(db: duckdb.DuckDBPyConnection) -> None:
    """Give the tables that grew by a step the form of new ones: order of columns, NOT NULL, no defaults."""
    db.execute(
        """
        CREATE TABLE state.receipt_as_new (
            run_id VARCHAR NOT NULL, lane INTEGER NOT NULL, first_seq BIGINT NOT NULL,
            last_seq BIGINT NOT NULL, calls INTEGER NOT NULL, bytes BIGINT NOT NULL,
            repeated INTEGER NOT NULL, attempts INTEGER NOT NULL, status INTEGER NOT NULL,
            answered_at TIMESTAMP NOT NULL
        );
        INSERT INTO state.receipt_as_new BY NAME
        SELECT * REPLACE (coalesce(repeated, 0) AS repeated) FROM state.receipt ORDER BY rowid;
        DROP TABLE state.receipt;
        ALTER TABLE state.receipt_as_new RENAME TO receipt;

        CREATE TABLE state.rejected_call_as_new (
            run_id VARCHAR NOT NULL, key VARCHAR NOT NULL, change VARCHAR NOT NULL, message_id VARCHAR,
            body VARCHAR, reason VARCHAR NOT NULL, answer VARCHAR, rejected_at TIMESTAMP NOT NULL,
            rejected_in VARCHAR NOT NULL, user_id VARCHAR, overtaken BOOLEAN NOT NULL
        );
        INSERT INTO state.rejected_call_as_new BY NAME
        SELECT
            * REPLACE (coalesce(rejected_in, run_id) AS rejected_in, coalesce(overtaken, false) AS overtaken)
        FROM state.rejected_call
        ORDER BY rowid;
        DROP TABLE state.rejected_call;
        ALTER TABLE state.rejected_call_as_new RENAME TO rejected_call;

        ALTER TABLE state.snapshot ALTER COLUMN stale DROP DEFAULT
        """
    )


def _keep_history(db: duckdb.DuckDBPyConnection) -> None:
    """Make room for the history of calls and of rejections."""
    db.execute(
        """
        ALTER TABLE state.outbox ADD COLUMN user_id VARCHAR;
        ALTER TABLE state.outbox ADD COLUMN event VARCHAR;
        ALTER TABLE state.outbox ADD COLUMN moment TIMESTAMP;
        ALTER TABLE state.rejected_row ADD COLUMN user_id VARCHAR;
        ALTER TABLE state.rejected_row ADD COLUMN at_fault VARCHAR;
        ALTER TABLE state.rejected_row ADD COLUMN value VARCHAR;
        ALTER TABLE state.rejected_call ADD COLUMN event VARCHAR;
        ALTER TABLE state.rejected_call ADD COLUMN moment TIMESTAMP;
        ALTER TABLE state.rejected_call ADD COLUMN unsure BOOLEAN;
        ALTER TABLE state.snapshot ALTER COLUMN stale DROP DEFAULT;  -- a first pass gave it one

        CREATE TABLE state.first_pass (
            lane INTEGER NOT NULL, run_id VARCHAR NOT NULL, first_seq BIGINT NOT NULL,
            last_seq BIGINT NOT NULL, statement VARCHAR NOT NULL
        );
        CREATE TABLE state.delivered_call (
            message_id VARCHAR, id UUID, key VARCHAR NOT NULL, change VARCHAR NOT NULL, user_id VARCHAR,
            event VARCHAR, moment TIMESTAMP, run_id VARCHAR NOT NULL, delivered_in VARCHAR NOT NULL,
            status INTEGER NOT NULL, answered_at TIMESTAMP NOT NULL
        );
        CREATE TABLE state.ended_rejection (
            key VARCHAR, change VARCHAR, message_id VARCHAR, user_id VARCHAR, event VARCHAR,
            moment TIMESTAMP, reason VARCHAR NOT NULL, answer VARCHAR, at_fault VARCHAR, value VARCHAR,
            run_id VARCHAR, first_seen TIMESTAMP NOT NULL, last_seen TIMESTAMP NOT NULL,
            times BIGINT NOT NULL, ended_at TIMESTAMP NOT NULL, ended_in VARCHAR, how VARCHAR NOT NULL
        )
        """
    )
    for table in ("outbox", "rejected_call"):
        db.execute(
            f"""
            UPDATE state.{table}
            SET
                user_id = coalesce(body ->> '$.userId', body ->> '$.anonymousId'),
                event = coalesce(body ->> '$.event', body ->> '$.type'),
                moment = try_cast(body ->> '$.timestamp' AS TIMESTAMP)
            """
        )
    _tell_places_apart(db)
    # The calls were all that the statement had to yield.
    columns = "seq, key, change, message_id, user_id, "
    db.execute(
        """
        UPDATE state.unrendered
        SET statement = $after || statement[length($before) + 1:]
        WHERE starts_with(statement, $before)
        """,
        {
            "before": f"SELECT {columns}body FROM (",
            "after": f"SELECT {columns}coalesce(event, type) AS event, moment, body FROM (",
        },
    )
    db.execute(
        """
        INSERT INTO state.first_pass
        SELECT lane, run_id, first_seq, last_seq, statement FROM state.unrendered
        """
    )


def _keep_snapshot_elsewhere(db: duckdb.DuckDBPyConnection) -> None:
    """Make room for a snapshot that is in the warehouse."""
    db.execute(
        """
        ALTER TABLE state.metadata ADD COLUMN snapshot_table JSON;
        CREATE TABLE state.overridden (key VARCHAR NOT NULL, stale BOOLEAN NOT NULL);
        CREATE TABLE state.table_maker (place VARCHAR NOT NULL, token VARCHAR NOT NULL);
        ALTER TABLE state.snapshot ALTER COLUMN stale DROP DEFAULT  -- a first pass gave it one
        """
    )


def _tell_places_apart(db: duckdb.DuckDBPyConnection) -> None:
    """Where calls wait, take the places from receipts of former outboxes, in which places began anew."""
    db.execute(
        """
        UPDATE state.receipt SET first_seq = 0, last_seq = 0
        WHERE run_id <> (SELECT arg_max(run_id, rowid) FROM state.receipt)
            AND (SELECT count(*) FROM state.outbox) + (SELECT count(*) FROM state.unrendered) > 0
        """
    )


MIGRATIONS: dict[int, Callable[[duckdb.DuckDBPyConnection], None]] = {
    1: _add_stale,
    2: _name_metadata,
    3: _to_schema_4,
    4: _render_later,
    5: _as_new,
    6: _keep_history,
    7: _keep_snapshot_elsewhere,
}
"""The step from each older schema version to the next."""
