"""The what-if calls of a model's rows: as if all were new, had changed, or were gone."""

from retl import sql
from retl.calls.message_id import MessageIdScope
from retl.calls.render import render_calls
from retl.calls.rendering import Rendering
from retl.calls.template import templates
from retl.config.sync import Change, Sync
from retl.engine.base import Changes
from retl.engine.diff import show_changes
from retl.job import Job


def telling_kinds(sync: Sync) -> list[Change]:
    """The kinds of change whose calls differ from those of the other kinds."""
    kinds: dict[str, Change] = {}
    for template in templates(sync):
        if not template.moved:
            content = (
                f"{template.type} {template.event} {template.fields} {template.image} {template.previous}"
            )
            kinds.setdefault(content, template.change)
    return [kind for kind in Change if kind in kinds.values()]


def fill_changes(
    job: Job, changes: Changes, kind: Change, wanted: str = "true", sample: int | None = None
) -> int:
    """Fill the table `differing` with staged rows, as if all were of one kind.

    A changed row has all its values from before, but for its message id.

    Args:
        job: with the view `stage` made.
        changes: the sync and its mapping, as the rows were read.
        kind: added, changed or removed.
        wanted: SQL condition on `key` and `row`.
        sample: number of rows, picked by a hash of the key, so that they are the same each time; None is all.

    Returns:
        The number of rows in the table.
    """
    before, after = {
        Change.ADDED: (_nothing_like("row"), "row"),
        Change.CHANGED: (_with_another_message_id(changes), "row"),
        Change.REMOVED: ("row", _nothing_like("row")),
    }[kind]
    job.state.db.execute(_create_changes(before, after, wanted, sample), {"kind": kind.value})
    show_changes(job.state.db)
    return _count(job, "change")


def _with_another_message_id(changes: Changes) -> str:
    """SQL for a row as it is, less the message ids that its calls had."""
    own = {template.message_id for template in templates(changes.sync)}
    values = {column: f"row[{sql.text(column)}]" for column in changes.mapping.columns}
    members = (
        f"{sql.name(column)} := {_nothing_like(value) if column in own else value}"
        for column, value in values.items()
    )
    return f"struct_pack({', '.join(members)})"


def _nothing_like(value: str) -> str:
    """SQL for a NULL of a value's type."""
    return f"CASE WHEN false THEN {value} END"


def _create_changes(before: str, after: str, wanted: str, sample: int | None) -> str:
    """The statement that makes the table of changes, of staged rows, all of them of the kind `$kind`."""
    some = "" if sample is None else f"ORDER BY hash(key), key LIMIT {sample}"
    return f"""\
CREATE OR REPLACE TEMP TABLE differing AS
SELECT $kind AS change, key, {before} AS before, {after} AS after, false AS stale, hash
FROM stage
WHERE key IS NOT NULL AND key NOT IN (SELECT key FROM row_fault WHERE key IS NOT NULL) AND {wanted}
{some}"""


def render_what_if(job: Job, changes: Changes) -> int:
    """Turn the changes into the view `call`; returns the number of calls."""
    rendering = Rendering(
        sync=changes.sync,
        mapping=changes.mapping,
        old_mapping=changes.mapping,
        id_scope=MessageIdScope("what-if", changes.sync.name, 0, changes.mapping.digest),
        detected_at=job.clock.now(),
    )
    render_calls(job.state.db, rendering)
    return _count(job, "call")


def _count(job: Job, table: str) -> int:
    ((rows,),) = job.state.db.execute(f"SELECT count(*) FROM {table}").fetchall()
    return int(rows)
