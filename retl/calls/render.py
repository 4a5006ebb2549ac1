"""Calls: a change and a sync's mapping become a finished Segment call, in SQL.

A sync has a few **templates**, each answering one kind of change with one call. All of them compile to
one statement over the view `change`; it yields, for each call, its JSON text, its message id, the moment by
which it is ordered, and the reason if Segment would refuse or silently drop it.

A template becomes one SELECT (`select_parts`), the SELECTs become one UNION ALL, and what is selected of it
is the same for all calls (`_finished`, `_select_calls`).
"""

from collections.abc import Sequence

import duckdb

from retl import sql
from retl.calls.fault import SHOWN_VALUE, select_at_fault
from retl.calls.message_id import made_message_id
from retl.calls.parts import select_parts
from retl.calls.rendering import Rendering
from retl.calls.template import Template, answering
from retl.reason import Reason

MAX_CALL_BYTES = 32 * 1024
"""A call's size limit (Segment HTTP API docs, "Max request size"; the official clients' 32 << 10)."""


def render_calls(db: duckdb.DuckDBPyConnection, rendering: Rendering) -> str | None:
    """Turn the changes into calls, in the TEMP view `call`; a call without `reason` can be sent.

    The view shows the TEMP table `rendered`. But where each user has one call, and each row of the promoted
    snapshot makes one, their text need not be made yet: the view then makes it when it is asked for.

    Args:
        db: the state's connection.
        rendering: all that the calls depend on.

    Returns:
        The statement that yields the calls from these rows; None where `rendered` has them.
    """
    first_pass, promoted = rendering.old_mapping is None, rendering.promoted
    answered = answering(rendering.sync, rendering.full, first_pass, sends=not rendering.silent)
    if promoted is not None and len(answered) == 1 and answered[0].message_id is None:
        db.execute(f"CREATE OR REPLACE TEMP VIEW call AS {_select_unrendered(rendering, answered[0])}")
        if _users_have_one_call(db, rendering):
            return _select_later(rendering, answered[0], promoted)
    db.execute(_RENDERED)
    if answered and db.execute("SELECT 1 FROM change LIMIT 1").fetchone():
        db.execute(f"INSERT INTO rendered {_select_calls(rendering, answered)}")
    if any(template.message_id for template in answered):
        db.execute(_SHARED_MESSAGE_IDS)
    db.execute("CREATE OR REPLACE TEMP VIEW call AS SELECT *, rowid AS number, 0 AS most_bytes FROM rendered")
    return None


def find_values_at_fault(db: duckdb.DuckDBPyConnection, rendering: Rendering) -> None:
    """Put the values for which rows of `rejected` cannot be sent into the TEMP table `value_at_fault`.

    Of the rows without a key, which share one line, it is the beginning of one row.
    """
    keys = "SELECT key FROM rejected"
    first_pass = rendering.old_mapping is None
    found = "\nUNION ALL\n".join(
        select_at_fault(rendering, template, keys)
        for template in answering(rendering.sync, rendering.full, first_pass, sends=True)
    )
    if found:
        db.execute(
            f"""
            INSERT INTO value_at_fault
            SELECT DISTINCT ON (key) key, at_fault, value FROM ({found}) JOIN rejected USING (key, reason)
            ORDER BY key
            """
        )
    db.execute(
        f"""
        INSERT INTO value_at_fault
        SELECT NULL, NULL, left(row::VARCHAR, {SHOWN_VALUE}) FROM stage WHERE key IS NULL LIMIT 1
        """
    )


_RENDERED = """
CREATE OR REPLACE TEMP TABLE rendered (
    change     VARCHAR,
    key        VARCHAR,
    rank       INTEGER,    -- the order among calls of one user and moment: 0 removed, 1 added, 2 changed
    type       VARCHAR,
    event      VARCHAR,
    user_id    VARCHAR,    -- the user id, else the anonymous id
    message_id VARCHAR,
    moment     TIMESTAMP,  -- UTC; as it is sent
    ordered_by TIMESTAMP,  -- the moment by which it is ordered
    lane       INTEGER,
    body       VARCHAR,
    bytes      BIGINT,
    undated    BOOLEAN,    -- its timestamp column is null
    reason     VARCHAR     -- why it cannot be sent
)
"""

_SHARED_MESSAGE_IDS = f"""
UPDATE rendered SET reason = {sql.text(Reason.DUPLICATE_MESSAGE_ID)}
WHERE reason IS NULL
    AND message_id IN (SELECT message_id FROM rendered GROUP BY message_id HAVING count(*) > 1)
"""


def _users_have_one_call(db: duckdb.DuckDBPyConnection, rendering: Rendering) -> bool:
    """Whether no user has two of the calls in the view `call` that can be sent.

    Calls that cannot often share an id, as null: whether a call can is asked only where an id is shared.
    """
    mapping = rendering.mapping
    if mapping.primary_key == (mapping.ids.get("user_id"),):
        return True
    return not _has_user_with_two(db) or not _has_user_with_two(db, "reason IS NULL")


def _has_user_with_two(db: duckdb.DuckDBPyConnection, which: str = "true") -> bool:
    """Whether a user has two of the calls in the view `call` for which a condition holds."""
    users = f"SELECT 1 FROM call WHERE {which} GROUP BY hash(user_id) HAVING count(*) > 1 LIMIT 1"
    return db.execute(users).fetchone() is not None


def _select_unrendered(rendering: Rendering, template: Template) -> str:
    """The SELECT of calls whose text is made only where it is asked for.

    A call is `too_large` only if its `most_bytes` are too many, which is left to who looks for it.
    """
    calls = _finished(rendering, select_parts(rendering, template))
    return f"""\
SELECT
    change, key, rank, type, event, user_id, message_id, moment, {_ordered_by(rendering)} AS ordered_by,
    0 AS lane, body, strlen(body) AS bytes, undated, fault AS reason, NULL::BIGINT AS number, most_bytes
FROM ({calls})"""


def _select_later(rendering: Rendering, template: Template, promoted: str) -> str:
    """The SELECT of calls as the outbox takes them, from rows of the promoted snapshot."""
    parts = select_parts(rendering, template, f"({promoted})", more=", seq")
    columns = "seq, key, change, message_id, user_id, coalesce(event, type) AS event, moment, body"
    return f"SELECT {columns} FROM ({_finished(rendering, parts)})"


def _select_calls(rendering: Rendering, answered: Sequence[Template]) -> str:
    """The SELECT of finished calls, by which moment each is ordered, its lane, and the reason against it."""
    parts = "\n    UNION ALL\n".join(select_parts(rendering, template) for template in answered)
    return f"""\
SELECT
    change, key, rank, type, event, user_id, message_id, moment, {_ordered_by(rendering)} AS ordered_by,
    (hash(lane_of) % {rendering.lanes})::INTEGER AS lane, body, strlen(body) AS bytes, undated,
    CASE
        WHEN fault <> {sql.text(Reason.DUPLICATE_MESSAGE_ID)} THEN fault
        WHEN strlen(body) > {MAX_CALL_BYTES} THEN {sql.text(Reason.TOO_LARGE)}
        ELSE fault
    END AS reason
FROM ({_finished(rendering, parts)})"""


def _ordered_by(rendering: Rendering) -> str:
    """The moment by which a call is ordered."""
    # Who leaves an audience and comes to it again in one run is in it afterwards, whatever the timestamps.
    return _detected(rendering) if rendering.sync.kind == "audience" else "moment"


def _detected(rendering: Rendering) -> str:
    return f"make_timestamp_ms({int(rendering.detected_at.timestamp() * 1000)})"


def _finished(rendering: Rendering, parts: str) -> str:
    """The SELECT of calls with moment, message id and JSON text, from the SELECT of their parts."""
    return f"""\
SELECT
    *,
    -- No part is NULL, and a chain of || would copy the text with each.
    concat(
        '{{', head, ',"messageId":', to_json(message_id)::VARCHAR,
        ',"timestamp":"', strftime(moment, '%Y-%m-%dT%H:%M:%S.%gZ'), '"}}'
    ) AS body
FROM (
    -- Its moment, and its message id: the row's own, else a hash.
    SELECT
        *,
        coalesce(stamp, {_detected(rendering)}) AS moment,
        coalesce(own_id, {made_message_id(rendering.id_scope)}) AS message_id
    FROM (
{parts}
    )
)"""
