"""Export: all calls of a plan as a file, or as a table."""

import os
from contextlib import suppress
from pathlib import Path

import duckdb

from retl import sql
from retl.errors import StorageError
from retl.system import system_error

_CALLS = """
SELECT
    change, call.key, type, event, user_id, {message_id} AS message_id, moment AS timestamp,
    -- A row is rejected as a whole, but for the call of one that is gone.
    coalesce(call.reason, CASE WHEN change <> 'removed' THEN rejected.reason END) AS reason,
    body AS call
FROM call LEFT JOIN rejected ON rejected.key = call.key
ORDER BY ordered_by, rank, call.key
"""

_MEMBERS = {
    "change": "to_json(change)",
    "key": "to_json(key)",
    "type": "to_json(type)",
    "event": "to_json(event)",
    "user_id": "to_json(user_id)",
    "message_id": "to_json(message_id)",
    "timestamp": "to_json(strftime(timestamp, '%Y-%m-%dT%H:%M:%S.%gZ'))",
    "reason": "to_json(reason)",
    # Spliced, as to parse it would cost digits; the call of a rejected row may be no JSON. White space of a
    # JSON column is the only place where a line can end.
    "call": "CASE WHEN reason IS NULL THEN translate(call, chr(10) || chr(13), '  ') ELSE to_json(call) END",
}

FORMATS = {
    ".parquet": "FORMAT parquet, COMPRESSION zstd",
    ".csv": "FORMAT csv, HEADER true",
    ".jsonl": "FORMAT csv, HEADER false, QUOTE '', ESCAPE '', DELIMITER '\x01'",
}
"""The options with which DuckDB writes a file, by its ending; a line of JSON is one unquoted column."""


def select_calls(own_ids_only: bool = False) -> str:
    """The SELECT of all calls, those of rejected rows as well, in the order in which they would leave.

    After `retl.pipeline.make_calls`; the columns are the first ones of `Plan.to_pandas`, and the last.

    Args:
        own_ids_only: whether ids that retl makes are left out, since the run will make others.
    """
    made = "regexp_full_match(message_id, 'retl-[0-9a-f]{32}')"
    return _CALLS.format(
        message_id=f"CASE WHEN NOT {made} THEN message_id END" if own_ids_only else "message_id"
    )


def export_calls(db: duckdb.DuckDBPyConnection, path: Path, own_ids_only: bool = False) -> None:
    """Write all calls to a file, in place of what is there; DuckDB streams them. Only the owner may read it.

    Args:
        db: the state's connection, after `retl.pipeline.make_calls`.
        path: absolute; its ending says in which of the `FORMATS`.
        own_ids_only: as for `select_calls`.

    Raises:
        StorageError: the file cannot be written; what was there before is there still.
    """
    calls = select_calls(own_ids_only)
    if path.suffix == ".jsonl":
        members = ", ',', ".join(
            f"'\"{name}\":', coalesce({value}::VARCHAR, 'null')" for name, value in _MEMBERS.items()
        )
        calls = f"SELECT concat('{{', {members}, '}}') AS line FROM ({calls})"
    unfinished = path.with_name(f"{path.name}.new")
    try:
        unfinished.unlink(missing_ok=True)
        os.close(os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
        options = f"{FORMATS[path.suffix]}, USE_TMP_FILE false"
        db.execute(f"COPY ({calls}) TO {sql.text(str(unfinished))} ({options})")
        unfinished.replace(path)
    except OSError as error:
        raise system_error(error, str(path)) or error from error
    except duckdb.IOException as error:
        sentence = str(error).splitlines()[0]
        raise StorageError(f"the calls cannot be written ({sentence})", where=str(path)) from error
    finally:
        with suppress(OSError):
            unfinished.unlink(missing_ok=True)
