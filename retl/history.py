"""The history of a sync, to be asked: views of its state, and the one SELECT over them of `retl sql`."""

import json
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import duckdb

from retl.delivery import history, outbox, rejected
from retl.engine import snapshot
from retl.errors import ConfigError
from retl.records import select_runs
from retl.state import State

VIEWS = ("runs", "calls", "rejections", "rows")
"""The views by name; docs/state.md has their columns."""

TABLE_FUNCTIONS = {"range", "generate_series", "unnest"}
"""Functions that a query may take rows from: they reach nothing but their arguments."""


def show(state: State) -> None:
    """Make the TEMP views of a state that is opened for looking only."""
    db = state.db
    calls = _CALLS.format(
        delivered=history.delivered(db), waiting=outbox.waiting(db), rejected=rejected.CALLS
    )
    db.execute(f"CREATE OR REPLACE TEMP VIEW runs AS {_RUNS.format(runs=select_runs(db))}")
    db.execute(f"CREATE OR REPLACE TEMP VIEW calls AS {calls}")
    db.execute(f"CREATE OR REPLACE TEMP VIEW rejections AS {rejected.REJECTIONS}")
    db.execute(f"CREATE OR REPLACE TEMP VIEW rows AS {snapshot.ROWS}")


_RUNS = """
SELECT
    run_id, started_at,
    record ->> '$.status' AS status,
    (record ->> '$.exit_code')::INTEGER AS exit_code,
    (record ->> '$.seconds')::DOUBLE AS seconds,
    (record ->> '$.baseline')::BOOLEAN AS baseline,
    (record ->> '$.full')::BOOLEAN AS "full",
    (record ->> '$.rows_read')::BIGINT AS rows_read,
    (record ->> '$.unchanged')::BIGINT AS unchanged,
    (record ->> '$.added')::BIGINT AS added,
    (record ->> '$.changed')::BIGINT AS changed,
    (record ->> '$.removed')::BIGINT AS removed,
    (record ->> '$.rejected_rows')::BIGINT AS rejected_rows,
    (record ->> '$.calls.enqueued')::BIGINT AS enqueued,
    (record ->> '$.calls.delivered')::BIGINT AS delivered,
    (record ->> '$.calls.rejected')::BIGINT AS rejected_calls,
    (record ->> '$.calls.pending')::BIGINT AS pending,
    (record ->> '$.discarded.calls')::BIGINT AS discarded,
    (record ->> '$.calls.unsure')::BIGINT AS unsure,
    (record ->> '$.batches')::BIGINT AS batches,
    (record ->> '$.bytes')::BIGINT AS bytes,
    (record ->> '$.retries')::BIGINT AS retries,
    record ->> '$.error.code' AS error,
    record ->> '$.error.message' AS message,
    record ->> '$.error.hint' AS hint
FROM ({runs})
"""

_CALLS = """
SELECT
    message_id, key, change, user_id, event, moment, 'delivered' AS state, run_id,
    delivered_in AS answered_in, answered_at, status, NULL::VARCHAR AS reason, NULL::VARCHAR AS answer
FROM ({delivered})
UNION ALL BY NAME
SELECT message_id, key, change, user_id, event, moment, 'pending' AS state, run_id FROM ({waiting})
UNION ALL BY NAME
SELECT * FROM ({rejected})
"""


@dataclass(frozen=True)
class Answer:
    """The result of a query.

    Attributes:
        columns: their names.
        rows: the values by column; of the types that DuckDB gives to Python.
        elsewhere: the table in the warehouse with the rows that the view `rows` lacks; None where there is
            none, or the view was not asked.
    """

    columns: Sequence[str]
    rows: Sequence[tuple[Any, ...]]
    elsewhere: str | None = None

    def as_json(self) -> list[dict[str, Any]]:
        """The objects that `retl sql --json` prints, one for each row."""
        return [dict(zip(self.columns, row, strict=True)) for row in self.rows]


def query(state: State, text: str) -> Answer:
    """The result of one SELECT over the views; it reaches no table of the state, and no file.

    Raises:
        ConfigError: it is not one SELECT, it reaches for something else, or it fails.
    """
    db = state.db
    show(state)
    with suppress(duckdb.InvalidInputException):  # it is so already
        db.execute("SET GLOBAL enable_external_access = false; SET GLOBAL lock_configuration = true")
    asked, table = _views_of(db, text), state.metadata.snapshot_table
    elsewhere = f"{table['schema']}.{table['name']}" if table and "rows" in asked else None
    try:
        found = db.execute(text)
        return Answer([column[0] for column in found.description or ()], found.fetchall(), elsewhere)
    except duckdb.Error as error:
        raise ConfigError(f"the query fails: {_sentence(error)}", hint=_HINT) from error


_HINT = f"the views are {', '.join(VIEWS)}; docs/state.md has their columns"


def _views_of(db: duckdb.DuckDBPyConnection, text: str) -> set[str]:
    """The names of the views that a query asks; one that asks anything else is refused."""
    try:
        ((serialized,),) = db.execute("SELECT json_serialize_sql(?)", [text]).fetchall()
    except duckdb.Error as error:
        raise ConfigError(f"the query cannot be read: {_sentence(error)}", hint=_HINT) from error
    tree = json.loads(serialized)
    if tree["error"]:
        if tree["error_type"] == "parser":
            raise ConfigError(f"the query cannot be read: {tree['error_message']}", hint=_HINT)
        raise ConfigError("only one SELECT is taken, which reads and changes nothing", hint=_HINT)
    if len(tree["statements"]) != 1:
        raise ConfigError("only one SELECT is taken, and there are several statements", hint=_HINT)
    own = {entry["key"] for node in _nodes(tree) for entry in node.get("cte_map", {}).get("map", ())}
    asked = set()
    for node in _nodes(tree):
        match node.get("type"):
            case "BASE_TABLE":
                parts = [node["catalog_name"], node["schema_name"], node["table_name"]]
                named = ".".join(filter(None, parts))
                if named.lower() not in VIEWS and named not in own:
                    raise ConfigError(f"there is no view `{named}`", hint=_HINT)
                asked.add(named.lower())
            case "TABLE_FUNCTION":
                name = node["function"]["function_name"]
                if name.lower() not in TABLE_FUNCTIONS:
                    raise ConfigError(f"a query takes no rows from `{name}`", hint=_HINT)
            case "SHOW_REF" if node["table_name"].strip('"').lower() not in {"", *VIEWS}:
                raise ConfigError("only the views can be described", hint=_HINT)
    return asked


def _nodes(tree: Any) -> Iterator[dict[str, Any]]:
    """All objects of a JSON document."""
    if isinstance(tree, dict):
        yield tree
        tree = list(tree.values())
    if isinstance(tree, list):
        for inner in tree:
            yield from _nodes(inner)


def _sentence(error: duckdb.Error) -> str:
    """The first lines of DuckDB's message, without the kind of error."""
    return str(error).partition("\n\n")[0].partition(": ")[2] or str(error)
