"""Calls: a change and a sync's mapping become a finished Segment call, in SQL.

A sync has a few **templates**, each answering one kind of change with one call. All of them compile to
one statement over the table `change`; it yields, for each call, its JSON text, its message id, its place in
the order, and the reason if Segment would refuse or silently drop it.

A template becomes one SELECT (`select_parts`), the SELECTs become one UNION ALL, and three stages over it are
the same for all calls (`_insert_calls`).
"""

from collections.abc import Sequence

import duckdb

from retl import sql
from retl.calls.message_id import MAX_MESSAGE_ID, made_message_id
from retl.calls.parts import Rendering, select_parts
from retl.calls.template import Template, templates
from retl.config.sync import Change
from retl.reason import Reason

MAX_CALL_BYTES = 32 * 1024
"""A call's size limit (Segment HTTP API docs, "Max request size"; the official clients' 32 << 10)."""


def render_calls(db: duckdb.DuckDBPyConnection, rendering: Rendering, silent: bool) -> None:
    """Turn the TEMP table `change` into the TEMP table `call`, in which a call without `reason` can be sent.

    Args:
        db: the state's connection.
        rendering: all that the calls depend on.
        silent: whether this is a silent baseline, which makes no calls.
    """
    db.execute(_CALL_TABLE)
    answered = [
        template
        for template in templates(rendering.sync, rendering.full)
        if not silent and (rendering.old_mapping is not None or template.change is Change.ADDED)
    ]
    if answered:
        db.execute(_insert_calls(rendering, answered))
    if any(template.message_id for template in answered):
        db.execute(_SHARED_MESSAGE_IDS)


_CALL_TABLE = """
CREATE OR REPLACE TEMP TABLE call (
    change     VARCHAR,
    key        VARCHAR,
    rank       INTEGER,    -- the order among calls of one user and moment: 0 removed, 1 added, 2 changed
    type       VARCHAR,
    event      VARCHAR,
    user_id    VARCHAR,    -- the user id, else the anonymous id
    message_id VARCHAR,
    moment     TIMESTAMP,  -- UTC; as it is sent
    place      TIMESTAMP,  -- by which it is ordered
    lane       INTEGER,
    body       VARCHAR,
    bytes      BIGINT,
    undated    BOOLEAN,    -- its timestamp column is null
    reason     VARCHAR     -- why it cannot be sent
)
"""

_SHARED_MESSAGE_IDS = f"""
UPDATE call SET reason = {sql.text(Reason.DUPLICATE_MESSAGE_ID)}
WHERE reason IS NULL
    AND message_id IN (SELECT message_id FROM call GROUP BY message_id HAVING count(*) > 1)
"""


def _insert_calls(rendering: Rendering, answered: Sequence[Template]) -> str:
    """The statement that fills the table `call` from the table `change`."""
    detected = f"make_timestamp_ms({int(rendering.detected_at.timestamp() * 1000)})"
    # Who leaves an audience and comes to it again in one run is in it afterwards, whatever the timestamps.
    place = detected if rendering.sync.kind == "audience" else "moment"
    fields = "\n    UNION ALL\n".join(select_parts(rendering, template) for template in answered)
    return f"""\
INSERT INTO call
-- The parts of each call that its row gives: one SELECT for each template.
WITH fields AS (
{fields}
),
-- Its moment, and its message id: the row's own, else a hash of the parts.
identified AS (
    SELECT
        *,
        coalesce(stamp, {detected}) AS moment,
        coalesce(own_id, {made_message_id(rendering.id_scope)}) AS message_id
    FROM fields
),
-- Its finished JSON text.
calls AS (
    SELECT
        *,
        '{{' || head || ',"messageId":' || to_json(message_id)::VARCHAR
            || ',"timestamp":"' || strftime(moment, '%Y-%m-%dT%H:%M:%S.%gZ') || '"}}' AS body
    FROM identified
)
-- Its place in the order, its lane and its size, and the reason if it cannot be sent.
SELECT
    change, key, rank, type, event, user_id, message_id, moment, {place} AS place,
    (hash(lane_of) % {rendering.lanes})::INTEGER AS lane, body, strlen(body) AS bytes, undated,
    CASE
        WHEN fault IS NOT NULL THEN fault
        WHEN length(message_id) > {MAX_MESSAGE_ID} THEN {sql.text(Reason.MESSAGE_ID_TOO_LONG)}
        WHEN strlen(body) > {MAX_CALL_BYTES} THEN {sql.text(Reason.TOO_LARGE)}
    END AS reason
FROM calls"""
